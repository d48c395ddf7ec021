//! A replica that knows several centers: one connection, which goes to the next one by itself.

use std::time::{Duration, Instant};

use keepgate_client::replica::{FollowConfig, FollowError, Replica, Standing, StartError};
use keepgate_policy::{Change, HistoryId, Item, Revision, proto};

use crate::center::{FakeCenter, Fault, entity, service};
use crate::group::Hosts;
use crate::netns;
use crate::replica::{HOUR, LONG, Scratch, config_of, decide, reopened, run, until};

/// What a restart of a center may cost, as promised, and what a loaded machine adds.
const AGE: Duration = Duration::from_secs(9);

/// Centers of one store: what one of them commits, all do.
struct Fleet(Vec<FakeCenter>);

impl Fleet {
    fn new(count: usize) -> Fleet {
        Fleet((0..count).map(|_| FakeCenter::with_orders()).collect())
    }

    fn commit(&self, change: &Change) -> Revision {
        self.0.iter().map(|center| center.commit(vec![change.clone()])).max().unwrap()
    }

    fn put(&self, id: &str, value: i64) -> Revision {
        self.commit(&Change::Put(entity(id, value)))
    }

    fn urls(&self) -> Vec<String> {
        self.0.iter().map(FakeCenter::url).collect()
    }

    /// Where time counts: as a gate is configured.
    fn real(&self) -> FollowConfig {
        let mut config = FollowConfig::new("", "test-token");
        config.centers = self.urls();
        config
    }

    /// Where it does not.
    fn quick(&self) -> FollowConfig {
        let mut config = config_of("");
        config.centers = self.urls();
        config
    }

    fn open(&self) -> usize {
        self.0.iter().map(FakeCenter::open).sum()
    }

    /// The one that is followed, and the others.
    fn followed(&self, replica: &Replica) -> Option<(&FakeCenter, Vec<&FakeCenter>)> {
        let place = replica.place()?;
        let (mut is, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|center| center.url() == place.center);
        Some((is.pop()?, others))
    }
}

async fn following(fleet: &Fleet, config: FollowConfig) -> Replica {
    let replica = Replica::follow(config).unwrap();
    replica.wait_for(fleet.0[0].head(), LONG).await.unwrap();
    until("current", || replica.age().is_some() && replica.place().is_some()).await;
    replica
}

/// Until the state; meanwhile it decides, and is not old.
async fn decides_until(replica: &Replica, what: &str, mut state: impl FnMut() -> bool) {
    until(what, || {
        assert_eq!(decide(replica, "orders", "alice", AGE), Ok(true), "{:?}", replica.age());
        state()
    })
    .await;
}

/// It is current again, and not only connected.
async fn current_again(replica: &Replica) {
    let before = replica.metrics().heartbeats;
    decides_until(replica, "heartbeats", || replica.metrics().heartbeats >= before + 5).await;
}

#[test]
fn centers_that_are_killed_in_turn_cost_a_moment_and_no_decision() {
    let fleet = Fleet::new(3);
    run(async {
        let replica = following(&fleet, fleet.real()).await;
        assert!(replica.report("orders", b"{}".to_vec()));
        for turn in 0..4 {
            let (was, others) = fleet.followed(&replica).unwrap();
            until("told", || !was.reports().is_empty()).await;
            was.set_down(true);
            decides_until(&replica, "another one", || {
                fleet.followed(&replica).is_some_and(|(is, _)| is.url() != was.url())
            })
            .await;
            let metrics = replica.metrics();
            assert_eq!((metrics.moves, metrics.snapshots), (turn + 1, 1), "{metrics:?}");
            // It goes on from what is held, and on one connection.
            let head = fleet.put("a", i64::try_from(turn).unwrap());
            decides_until(&replica, "an edit", || replica.revision() == head).await;
            until("one connection", || fleet.open() == 1).await;
            assert!(others.iter().any(|other| other.open() == 1));
            current_again(&replica).await;
            was.set_down(false);
        }
        assert_eq!(*replica.standing(), Standing::Following);
    });
}

/// It accepts connections, and says nothing: as a process that is stopped, or a center whose
/// database does not answer.
#[test]
fn a_center_that_is_frozen_is_left() {
    let fleet = Fleet::new(2);
    run(async {
        let replica = following(&fleet, fleet.real()).await;
        for _ in 0..2 {
            let (was, others) = fleet.followed(&replica).unwrap();
            was.set_mute(true);
            decides_until(&replica, "the other one", || {
                fleet.followed(&replica).is_some_and(|(is, _)| is.url() == others[0].url())
            })
            .await;
            let head = fleet.put("a", 1);
            decides_until(&replica, "an edit", || replica.revision() == head).await;
            until("one connection", || fleet.open() == 1).await;
            current_again(&replica).await;
            was.set_mute(false);
        }
        // Heartbeats that are not current are none.
        let (was, _) = fleet.followed(&replica).unwrap();
        was.set_echo(false);
        decides_until(&replica, "the other one", || {
            fleet.followed(&replica).is_some_and(|(is, _)| is.url() != was.url())
        })
        .await;
        assert!(replica.metrics().silences >= 3);
    });
}

/// A center that stops says so, and nobody waits for its silence.
#[test]
fn a_center_that_says_goodbye_is_left_at_once() {
    let fleet = Fleet::new(2);
    run(async {
        let mut config = fleet.real();
        (config.silence, config.move_after) = (HOUR, HOUR);
        let replica = following(&fleet, config).await;
        for fault in [Fault::Status, Fault::End, Fault::Disconnect] {
            let (was, others) = fleet.followed(&replica).unwrap();
            was.misbehave(fault);
            decides_until(&replica, "the other one", || {
                fleet.followed(&replica).is_some_and(|(is, _)| is.url() == others[0].url())
            })
            .await;
            current_again(&replica).await;
        }
        let metrics = replica.metrics();
        assert_eq!((metrics.moves, metrics.silences), (3, 0), "{metrics:?}");
    });
}

/// What it sends is broken each time; the other one may have what is whole.
#[test]
fn a_center_that_sends_nothing_of_use_is_left() {
    let fleet = Fleet::new(2);
    run(async {
        let mut config = fleet.quick();
        (config.silence, config.move_after) = (HOUR, HOUR);
        let replica = following(&fleet, config).await;
        let (was, others) = fleet.followed(&replica).unwrap();
        was.misbehave(Fault::MisdigestDelta);
        (0..20).for_each(|_| was.misbehave(Fault::MisdigestSnapshot));
        let head = fleet.put("a", 1);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(replica.place().unwrap().center, others[0].url());
        assert_eq!(replica.metrics().snapshots, 1, "from what is held");
        assert!(was.faults_left() >= 10);
    });
}

/// With one center there is nowhere to go: what is slow is waited for as before.
#[test]
fn one_center_alone_is_given_more_time() {
    let fleet = Fleet::new(1);
    run(async {
        let mut config = fleet.real();
        config.move_after = Duration::from_millis(1);
        config.silence = LONG;
        let replica = following(&fleet, config).await;
        fleet.0[0].set_mute(true);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(replica.is_connected());
        fleet.0[0].set_mute(false);
        let head = fleet.put("a", 1);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(fleet.0[0].connections(), 1);
    });
}

#[test]
fn a_center_that_is_behind_is_followed_once_it_has_caught_up() {
    let fleet = Fleet::new(2);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        let (ahead, others) = fleet.followed(&replica).unwrap();
        let behind = others[0];
        ahead.put("a", 1);
        let held = ahead.put("a", 2);
        replica.wait_for(held, LONG).await.unwrap();
        ahead.set_down(true);
        until("asked", || replica.metrics().regressions >= 3).await;
        assert_eq!(replica.revision(), held, "nothing is taken from it");
        assert!(!replica.is_connected());
        // The other one may be about to come back: no alarm yet.
        assert!(!replica.standing().needs_a_person());
        behind.put("a", 1);
        let asked = replica.metrics().regressions;
        until("asked again", || replica.metrics().regressions >= asked + 2).await;
        behind.put("a", 2);
        until("followed", || replica.place().is_some_and(|at| at.center == behind.url())).await;
        assert_eq!((replica.revision(), replica.metrics().snapshots), (held, 1));
        let head = behind.put("a", 3);
        replica.wait_for(head, LONG).await.unwrap();
    });
}

#[test]
fn when_all_centers_are_behind_a_person_must_look() {
    let fleet = Fleet::new(2);
    let head = fleet.put("a", 1);
    let older = Revision(head.0 - 1);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        fleet.0.iter().for_each(|center| center.set_back(older));
        until("said", || matches!(*replica.standing(), Standing::Foreign(_))).await;
        let asked = replica.metrics().regressions;
        until("asked again", || replica.metrics().regressions >= asked + 4).await;
        assert_eq!(replica.revision(), head);
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        // One of them has it again.
        fleet.0[1].put("a", 1);
        until("followed", || *replica.standing() == Standing::Following).await;
        assert_eq!(replica.place().unwrap().center, fleet.0[1].url());
    });
}

/// The same with one that is away: it is said later, since that one may be about to come back.
#[test]
fn a_center_that_stays_behind_while_the_other_one_is_away_is_said() {
    let fleet = Fleet::new(2);
    let head = fleet.put("a", 1);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        let (was, others) = fleet.followed(&replica).unwrap();
        others[0].set_back(Revision(head.0 - 1));
        was.set_down(true);
        until("said", || matches!(*replica.standing(), Standing::Foreign(_))).await;
        was.set_down(false);
        until("followed", || *replica.standing() == Standing::Following).await;
        assert_eq!(replica.revision(), head);
    });
}

#[test]
fn a_center_of_another_history_in_the_list_is_never_followed() {
    let fleet = Fleet::new(2);
    fleet.0[1].become_foreign(7);
    run(async {
        let mut config = fleet.quick();
        // Whoever is followed first, with nothing in hand, is the right one.
        fleet.0[1].set_down(true);
        let replica = following(&fleet, config.clone()).await;
        fleet.0[1].set_down(false);
        for n in 0..20 {
            fleet.0[1].put("b", n);
        }
        let held = replica.revision();
        fleet.0[0].set_down(true);
        until("asked", || replica.metrics().regressions >= 3).await;
        assert_eq!((replica.revision(), replica.metrics().snapshots), (held, 1));
        assert_eq!(replica.history(), Some(HistoryId([1; 16])));
        let error = replica.last_error().unwrap();
        assert!(
            matches!(&*error, FollowError::NotFollowed(_) | FollowError::Unreachable(_)),
            "{error}"
        );
        fleet.0[0].set_down(false);
        until("followed", || replica.place().is_some_and(|at| at.center == fleet.0[0].url())).await;
        let head = fleet.0[0].put("a", 1);
        replica.wait_for(head, LONG).await.unwrap();
        // Alone it is reported as it always was.
        drop(replica);
        config.centers.pop();
        let alone = following(&fleet, config).await;
        fleet.0[0].become_foreign(9);
        until("said", || matches!(*alone.standing(), Standing::Foreign(_))).await;
    });
}

#[test]
fn without_any_center_it_decides_on_what_it_has() {
    let scratch = Scratch::new("centers");
    let fleet = Fleet::new(3);
    run(async {
        let mut config = fleet.quick();
        config.data_dir = Some(scratch.0.clone());
        let replica = following(&fleet, config.clone()).await;
        let kept = scratch.0.join("replica.seen");
        until("kept", || std::fs::metadata(&kept).is_ok_and(|kept| kept.len() > 0)).await;
        fleet.0.iter().for_each(|center| center.set_down(true));
        until("none", || replica.metrics().disconnects >= 9).await;
        assert_eq!((replica.place(), replica.is_connected()), (None, false));
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        assert!(matches!(*replica.last_error().unwrap(), FollowError::Unreachable(_)));
        // So does one that starts now, however its list is written.
        replica.close().await;
        config.centers.reverse();
        let replica = reopened(&config).await;
        assert!(replica.is_ready());
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        fleet.0[1].set_down(false);
        let head = fleet.put("a", 1);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(replica.place().unwrap().center, fleet.0[1].url());
    });
}

/// What is used before a Welcome: only what came from centers that are all named now.
#[test]
fn kept_state_belongs_to_the_centers_it_came_from() {
    let fleet = Fleet::new(3);
    let urls = fleet.urls();
    let served = |kept: &[usize], now: &[usize]| {
        let scratch = Scratch::new("lists");
        let pick = |of: &[usize]| of.iter().map(|n| urls[*n].clone()).collect::<Vec<_>>();
        let (kept, now) = (pick(kept), pick(now));
        let mut is_served = false;
        run(async {
            let mut config = fleet.quick();
            config.data_dir = Some(scratch.0.clone());
            config.centers = kept;
            let replica = following(&fleet, config.clone()).await;
            let seen = scratch.0.join("replica.seen");
            until("kept", || std::fs::metadata(&seen).is_ok_and(|kept| kept.len() > 0)).await;
            replica.close().await;
            fleet.0.iter().for_each(|center| center.set_down(true));
            config.centers = now;
            let replica = reopened(&config).await;
            is_served = replica.is_ready();
            let snapshots: usize = fleet.0.iter().map(FakeCenter::snapshots).sum();
            fleet.0.iter().for_each(|center| center.set_down(false));
            until("followed", || replica.is_ready() && replica.is_connected()).await;
            let after: usize = fleet.0.iter().map(FakeCenter::snapshots).sum();
            assert_eq!(after, snapshots, "what was kept is gone on from");
        });
        is_served
    };
    assert!(served(&[0, 1], &[1, 0]), "the order says nothing");
    assert!(served(&[0], &[1, 0, 2]), "it came from a center that is named");
    assert!(!served(&[0, 1], &[0]), "it may have come from the other one");
    assert!(!served(&[0, 1], &[0, 1, 2]));
    assert!(!served(&[0], &[1, 2]));
}

/// 64 replicas that all begin with the same one are a 1 in 2^63.
#[test]
fn replicas_are_spread_over_their_centers() {
    let fleet = Fleet::new(2);
    run(async {
        let mut config = fleet.quick();
        // A slow machine is no reason to go on to the other one here.
        (config.silence, config.move_after) = (LONG, LONG);
        let replicas: Vec<_> = (0..64).map(|_| Replica::follow(config.clone()).unwrap()).collect();
        until("all follow", || replicas.iter().all(|replica| replica.place().is_some())).await;
        let counts: Vec<usize> = fleet.0.iter().map(FakeCenter::open).collect();
        assert_eq!(counts.iter().sum::<usize>(), 64, "one connection each");
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        // All of one center go to the other one, and stay.
        fleet.0[0].set_down(true);
        until("moved", || fleet.0[1].open() == 64).await;
        fleet.0[0].set_down(false);
        let head = fleet.put("a", 1);
        until("an edit", || replicas.iter().all(|replica| replica.revision() == head)).await;
        assert_eq!((fleet.0[0].open(), fleet.0[1].open()), (0, 64));
    });
}

/// One that says when to come again is left alone until then.
#[test]
fn a_center_that_asks_for_time_gets_it() {
    let fleet = Fleet::new(2);
    run(async {
        fleet.0[0].set_busy(3600);
        let began = Instant::now();
        let replica = following(&fleet, fleet.quick()).await;
        assert_eq!(replica.place().unwrap().center, fleet.0[1].url());
        drop(replica);
        // Both: each is asked once, and again when the time is over.
        fleet.0[1].set_busy(2);
        let asked = |center: &FakeCenter| center.connections();
        let before = (asked(&fleet.0[0]), asked(&fleet.0[1]));
        let began_both = Instant::now();
        let replica = Replica::follow(fleet.quick()).unwrap();
        until("the one that asked for less, again", || asked(&fleet.0[1]) >= before.1 + 2).await;
        assert!(began_both.elapsed() >= Duration::from_secs(2));
        if began.elapsed() < Duration::from_secs(50) {
            assert!(asked(&fleet.0[0]) <= before.0 + 1, "a minute is not over");
        }
        fleet.0[1].set_busy(0);
        until("followed", || replica.place().is_some()).await;
        assert_eq!(replica.place().unwrap().center, fleet.0[1].url());
    });
}

#[test]
fn a_token_that_all_refuse_is_refused() {
    let fleet = Fleet::new(2);
    run(async {
        let mut config = fleet.quick();
        config.token = "another".to_owned();
        let replica = Replica::follow(config).unwrap();
        until("asked both", || replica.metrics().refusals == 2).await;
        assert!(matches!(*replica.last_error().unwrap(), FollowError::TokenRefused(_)));
        let round = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if round.elapsed() < Duration::from_secs(4) {
            assert_eq!(replica.metrics().refusals, 2, "and leaves them alone for a while");
        }
        let taken = fleet.0.iter().map(FakeCenter::connections).collect::<Vec<_>>();
        assert_eq!(taken, [1, 1]);
        // Other credentials are tried at once, wherever it was.
        replica.renew(&fleet.quick()).unwrap();
        until("followed", || replica.place().is_some()).await;
    });
}

/// A successor is followed from whichever center declares it; those that do not know it yet are
/// behind.
#[test]
fn a_successor_is_followed_and_never_left_for_what_it_continues() {
    let fleet = Fleet::new(2);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        let (was, others) = fleet.followed(&replica).unwrap();
        let head = others[0].successor(2);
        was.set_down(true);
        replica.wait_for(head, LONG).await.unwrap();
        was.set_down(false);
        others[0].set_down(true);
        until("asked", || replica.metrics().regressions >= 2).await;
        assert_eq!((replica.revision(), replica.history()), (head, Some(HistoryId([2; 16]))));
        was.successor(2);
        until("followed", || replica.place().is_some_and(|at| at.center == was.url())).await;
        assert_eq!(replica.revision(), head);
    });
}

/// A name with several addresses is as a list: each one is tried.
#[test]
fn each_address_of_a_name_is_tried() {
    netns::isolated(|| {
        let hosts = Hosts::new();
        run(async {
            let first = FakeCenter::with_orders();
            let port = first.addr.port();
            let second = FakeCenter::start_at(&format!("127.0.0.2:{port}"));
            second.orders();
            // Nobody listens at the third, and nobody is at the fourth.
            netns::run("ip", &["link", "add", "d0", "type", "veth", "peer", "name", "d1"]);
            netns::run("ip", &["address", "add", "10.7.0.1/24", "dev", "d0"]);
            netns::run("ip", &["link", "set", "d0", "up"]);
            netns::run("ip", &["link", "set", "d1", "up"]);
            let all = ["127.0.0.3", "10.7.0.9", "127.0.0.1", "127.0.0.2"];
            hosts.set(&all.map(|ip| (ip, "center.test")));
            let mut config = FollowConfig::new(format!("http://center.test:{port}"), "test-token");
            config.allow_plain = true;
            let fleet = Fleet(vec![first, second]);
            let replica = following(&fleet, config).await;
            let at = |center: &FakeCenter| {
                replica.place().is_some_and(|place| place.address == Some(center.addr))
            };
            for frozen in [false, true, false, true] {
                let (was, is) = match at(&fleet.0[0]) {
                    true => (&fleet.0[0], &fleet.0[1]),
                    false => (&fleet.0[1], &fleet.0[0]),
                };
                match frozen {
                    true => was.set_mute(true),
                    false => was.set_down(true),
                }
                decides_until(&replica, "the other address", || at(is)).await;
                assert_eq!(
                    replica.place().unwrap().to_string(),
                    format!("http://center.test:{port} at {}", is.addr)
                );
                let head = fleet.put("a", 1);
                decides_until(&replica, "an edit", || replica.revision() == head).await;
                was.set_mute(false);
                was.set_down(false);
                until("one connection", || fleet.open() == 1).await;
                current_again(&replica).await;
            }
        });
    });
}

/// IPv4 and IPv6 of one center: as with one address, and the family that fails holds nothing up.
#[test]
fn two_families_are_one_center() {
    netns::isolated(|| {
        let hosts = Hosts::new();
        run(async {
            let center = FakeCenter::with_orders();
            hosts.set(&[("::1", "center.test"), ("127.0.0.1", "center.test")]);
            let url = format!("http://center.test:{}", center.addr.port());
            let mut config = FollowConfig::new(url, "test-token");
            config.allow_plain = true;
            config.move_after = Duration::from_millis(1);
            config.silence = LONG;
            let fleet = Fleet(vec![center]);
            let replica = following(&fleet, config).await;
            fleet.0[0].set_mute(true);
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(replica.is_connected());
            fleet.0[0].set_mute(false);
            assert_eq!(fleet.0[0].connections(), 1);
            fleet.0[0].hang_up();
            until("again", || fleet.0[0].connections() == 2 && replica.is_connected()).await;
            assert_eq!(replica.metrics().moves, 0);
        });
    });
}

#[test]
fn lists_that_make_no_sense_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let refused = |centers: &[String]| {
        let mut config = FollowConfig::new("", "test-token");
        config.centers = centers.to_vec();
        let checked = config.check().err().map(|error| error.to_string());
        let started = Replica::follow(config).err();
        assert_eq!(started.as_ref().map(ToString::to_string), checked);
        started
    };
    let url = |n: usize| format!("http://127.0.0.1:{}", 7000 + n);
    let many = |count: usize| (0..count).map(url).collect::<Vec<_>>();
    assert!(matches!(refused(&[]), Some(StartError::NoCenter)));
    assert!(refused(&many(16)).is_none());
    let error = refused(&many(17)).unwrap();
    assert!(error.to_string().contains("17 centers, at most 16"), "{error}");
    let twice = refused(&[url(1), url(2), url(1)]).unwrap().to_string();
    assert_eq!(twice, "the center `http://127.0.0.1:7001` is named twice; leave one");
    let twice = refused(&["http://127.0.0.1:80".to_owned(), "http://127.0.0.1/".to_owned()]);
    let twice = twice.unwrap().to_string();
    assert!(twice.contains("`http://127.0.0.1/`") && twice.contains("`http://127.0.0.1:80`"));
    // Each one keeps the rules that hold for one.
    let plain = refused(&[url(1), "http://center.example:7480".to_owned()]).unwrap().to_string();
    assert!(plain.contains("center.example") && plain.contains("in the clear"), "{plain}");
    assert!(refused(&[url(1), "unix:/run/center.sock".to_owned()]).is_none());
}

/// What one follower of a list says to each center that it comes to.
#[test]
fn each_center_is_told_what_the_one_before_knew() {
    let fleet = Fleet::new(2);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        let key: Vec<Item> = service("stock");
        let head = key.into_iter().map(|item| fleet.commit(&Change::Put(item))).max().unwrap();
        replica.wait_for(head, LONG).await.unwrap();
        replica.report("orders", b"1".to_vec());
        let (was, others) = fleet.followed(&replica).unwrap();
        until("told", || !was.reports().is_empty()).await;
        was.set_down(true);
        until("told again", || others[0].reports().iter().any(|told| told.report == b"1")).await;
        let hello = others[0].hellos().pop().unwrap();
        assert_eq!((hello.revision, hello.mark.unwrap().revision), (head.0, head.0));
    });
}

/// What was done is told once: the next center hears of what was done since.
#[test]
fn figures_are_told_to_one_center() {
    let fleet = Fleet::new(2);
    run(async {
        let replica = following(&fleet, fleet.quick()).await;
        let figures = |requests| proto::Figures {
            service: "orders".to_owned(),
            requests,
            ..proto::Figures::default()
        };
        assert!(replica.tell_figures(figures(3)) && replica.tell_figures(figures(4)));
        let (was, others) = fleet.followed(&replica).unwrap();
        until("told", || was.counted() == 7).await;
        was.set_down(true);
        until("moved", || !others[0].hellos().is_empty()).await;
        assert!(replica.tell_figures(figures(5)));
        until("told the rest", || others[0].counted() > 0).await;
        assert_eq!((was.counted(), others[0].counted()), (7, 5));
    });
}
