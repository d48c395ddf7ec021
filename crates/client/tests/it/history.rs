//! Which center a replica follows: one that goes on from what is held, or declares to.

use std::time::Duration;

use keepgate_client::replica::{NoDecision, Replica, Standing};
use keepgate_policy::{Change, HistoryId, Item, ItemKey, Revision};

use crate::center::{FakeCenter, entity, service};
use crate::replica::{
    HOUR, LONG, Scratch, config, config_of, decide, following, on_disk, reopened, run, until,
};

#[test]
fn a_center_that_was_set_back_is_not_followed() {
    let center = FakeCenter::with_orders();
    for n in 0..9 {
        center.put("a", n);
    }
    run(async {
        let replica = following(&center, config(&center)).await;
        let (held, digest) = (replica.revision(), replica.current().digest());
        center.set_back(Revision(4));
        until("foreign", || matches!(*replica.standing(), Standing::Foreign(_))).await;
        let Standing::Foreign(foreign) = (*replica.standing()).clone() else { panic!() };
        assert_eq!((foreign.head, foreign.revision), (Revision(4), held));
        assert!(foreign.to_string().contains("accept-loss"), "{foreign}");
        assert!(replica.metrics().foreign && replica.metrics().regressions >= 1);
        // It keeps deciding on what it has, and that grows old.
        let age = replica.age().unwrap();
        until("older", || replica.age().unwrap() > age + Duration::from_millis(300)).await;
        assert_eq!((replica.revision(), replica.current().digest()), (held, digest));
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        // It goes on telling what it holds: a witness.
        let mark = center.hellos().last().unwrap().mark.clone().unwrap();
        assert_eq!(mark.revision, held.0);
        // The center says so, and declares a successor.
        let head = center.successor(2);
        replica.wait_for(head, LONG).await.unwrap();
        until("following", || *replica.standing() == Standing::Following).await;
        assert_eq!(Some(replica.current().digest()), center.digest_at(head));
        until("current", || replica.age().is_some()).await;
        assert_eq!(replica.history(), Some(HistoryId([2; 16])));
        assert!(replica.is_lost_history("01010101") && !replica.is_lost_history("02020202"));
    });
}

/// A successor's world has no age before an echo of the new history.
#[test]
fn a_successor_is_undated_until_its_echo() {
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, config(&center)).await;
        center.set_echo(false);
        let head = center.successor(2);
        replica.wait_for(head, LONG).await.unwrap();
        for _ in 0..20 {
            assert_eq!(replica.age(), None);
            assert_eq!(decide(&replica, "orders", "alice", HOUR), Err(NoDecision::AgeUnknown));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        center.set_echo(true);
        until("current", || decide(&replica, "orders", "alice", HOUR) == Ok(true)).await;
    });
}

#[test]
fn a_foreign_center_is_not_followed_and_the_right_one_again() {
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, config(&center)).await;
        let held = replica.revision();
        center.become_foreign(7);
        for n in 0..50 {
            center.put("a", n);
        }
        until("foreign", || matches!(*replica.standing(), Standing::Foreign(_))).await;
        until("asked again", || replica.metrics().regressions >= 3).await;
        assert_eq!(replica.revision(), held, "a higher number of another history is nothing");
        assert_eq!(replica.metrics().snapshots, 1);
        // The right one is there again.
        center.become_foreign(1);
        replica.wait_for(center.head(), LONG).await.unwrap();
        assert_eq!(*replica.standing(), Standing::Following);
    });
}

/// Release 0.1 sends no Welcome: nothing is taken, what is kept grows old, and it heals.
#[test]
fn a_center_of_release_0_1_is_not_followed() {
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, config(&center)).await;
        let held = replica.revision();
        center.set_old(true);
        until("noticed", || *replica.standing() == Standing::OldCenter).await;
        center.put("a", 1);
        until("asked again", || replica.metrics().old_centers >= 3).await;
        assert_eq!(replica.revision(), held);
        let age = replica.age().unwrap();
        until("older", || replica.age().unwrap() > age).await;
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        center.set_old(false);
        replica.wait_for(center.head(), LONG).await.unwrap();
        until("following", || *replica.standing() == Standing::Following).await;
    });
    // Nothing held, and nothing taken.
    let old = FakeCenter::with_orders();
    old.set_old(true);
    run(async {
        let replica = Replica::follow(config(&old)).unwrap();
        until("asked", || replica.metrics().old_centers >= 2).await;
        assert!(!replica.is_ready());
    });
}

/// Centers serve snapshots of some revisions ago; a replica that asks for one shows nothing older
/// than it showed before.
#[test]
fn an_older_snapshot_is_shown_once_deltas_have_caught_up() {
    use crate::center::Fault;
    let center = std::sync::Arc::new(FakeCenter::with_orders());
    for n in 0..20 {
        center.put("a", n);
    }
    let scratch = Scratch::new("staged");
    run(async {
        let replica = following(&center, on_disk(&center, &scratch)).await;
        center.set_snapshots_lag(10);
        for _ in 0..5 {
            let held = replica.revision();
            center.misbehave(Fault::MisdigestDelta);
            center.put("a", 100);
            until("a snapshot", || {
                assert!(replica.revision() >= held, "went back to {}", replica.revision());
                replica.revision() == center.head()
            })
            .await;
        }
        assert_eq!(Some(replica.current().digest()), center.digest_at(center.head()));
        drop(replica);
        // And on disk.
        center.set_down(true);
        let replica = reopened(&on_disk(&center, &scratch)).await;
        assert_eq!(replica.revision(), center.head());
    });
}

#[test]
fn state_kept_from_another_url_waits_for_a_welcome() {
    let scratch = Scratch::new("url");
    let center = FakeCenter::with_orders();
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = following(&center, config.clone()).await;
        drop(replica);
        center.set_down(true);
        let mut other = config.clone();
        other.centers = vec![format!("http://localhost:{}", center.addr.port())];
        let replica = reopened(&other).await;
        assert!(!replica.is_ready(), "before a Welcome it may be anybody's");
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Err(NoDecision::NoReplica));
        let snapshots = center.snapshots();
        center.set_down(false);
        until("accepted", || replica.is_ready()).await;
        until("current", || decide(&replica, "orders", "alice", HOUR) == Ok(true)).await;
        assert_eq!(center.snapshots(), snapshots, "what was kept is gone on from");
        drop(replica);
        // A center that does not continue it does not make it usable.
        center.become_foreign(9);
        let replica = reopened(&other).await;
        until("foreign", || matches!(*replica.standing(), Standing::Foreign(_))).await;
        assert!(!replica.is_ready());
    });
}

fn put(item: Item) -> Change {
    Change::Put(item)
}

/// A format that this release does not understand.
const NEWER: u32 = keepgate_policy::mark::FORMAT + 1;

/// What needs a newer release stops its service and no other one.
#[test]
fn a_service_of_a_newer_format_is_held_back_alone() {
    let center = FakeCenter::with_orders();
    center.commit(service("stock").into_iter().map(put).collect());
    run(async {
        let replica = following(&center, config(&center)).await;
        let policy = service("stock")[1].key.clone();
        center.set_needs("stock", NEWER);
        // In a delta: another setting, and then the permission goes.
        center.commit(vec![put(service("stock")[0].clone())]);
        center.commit(vec![Change::Delete(policy.clone())]);
        let head = center.commit(vec![Change::Delete(service("orders")[1].key.clone())]);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(false), "the other one goes on");
        assert_eq!(decide(&replica, "stock", "alice", HOUR), Ok(true), "the last understood state");
        let stale = Duration::from_millis(300);
        until("old", || {
            matches!(decide(&replica, "stock", "alice", stale), Err(NoDecision::Stale { .. }))
        })
        .await;
        assert!(matches!(decide(&replica, "orders", "alice", LONG), Ok(false)));
        let standing = (*replica.standing()).clone();
        assert_eq!(standing, Standing::NeedsUpgrade { service: "stock".to_owned(), needs: NEWER });
        assert_eq!(replica.metrics().held_back, 1);
        // The same in a snapshot.
        let fresh = following(&center, config(&center)).await;
        assert_eq!(decide(&fresh, "orders", "alice", HOUR), Ok(false));
        assert!(decide(&fresh, "stock", "alice", HOUR).is_err());
        // The setting is taken back: all is understood again.
        center.set_needs("stock", 1);
        center.commit(vec![put(service("stock")[0].clone())]);
        until("all again", || decide(&replica, "stock", "alice", HOUR) == Ok(false)).await;
        until("following", || *replica.standing() == Standing::Following).await;
        assert_eq!(replica.metrics().held_back, 0);
    });
}

/// A gate of that service alone keeps what it has, over a restart too.
#[test]
fn the_only_service_of_a_newer_format_stops_the_replica() {
    let scratch = Scratch::new("needs");
    let center = FakeCenter::with_orders();
    run(async {
        let mut config = on_disk(&center, &scratch);
        config.services = vec!["orders".to_owned()];
        let replica = following(&center, config.clone()).await;
        let held = replica.revision();
        center.set_needs("orders", NEWER);
        center.commit(vec![put(service("orders")[0].clone())]);
        center.commit(vec![put(entity("x", 1))]);
        until("noticed", || replica.standing().needs_a_person()).await;
        let age = replica.age().unwrap();
        until("older", || replica.age().unwrap() > age + Duration::from_millis(300)).await;
        assert_eq!(replica.revision(), held);
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        assert!(replica.is_connected(), "it goes on listening");
        drop(replica);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), held);
        until("noticed again", || replica.standing().needs_a_person()).await;
        center.set_needs("orders", 1);
        center.commit(vec![put(service("orders")[0].clone())]);
        replica.wait_for(center.head(), LONG).await.unwrap();
        let key = ItemKey::service("orders");
        assert!(replica.current().service(&key.service).is_some());
    });
}

/// Digests are over the bytes that came: what another release writes in another way is taken.
#[test]
fn items_that_another_release_writes_otherwise_are_taken() {
    let scratch = Scratch::new("odd");
    let center = FakeCenter::with_orders();
    center.commit(vec![put(entity("odd1", 1)), put(entity("even", 1))]);
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = following(&center, config.clone()).await;
        for change in [
            put(entity("odd2", 2)),
            put(entity("odd1", 3)),
            put(entity("even", 4)),
            Change::Delete(entity("odd2", 0).key),
            Change::Delete(entity("odd1", 0).key),
            put(entity("odd3", 5)),
        ] {
            let head = center.commit(vec![change]);
            replica.wait_for(head, LONG).await.unwrap();
        }
        let metrics = replica.metrics();
        assert_eq!((metrics.snapshots, metrics.deltas_rejected), (1, 0), "{metrics:?}");
        let last = center.hellos().len();
        center.hang_up();
        until("asked again", || center.hellos().len() > last).await;
        replica.wait_for(center.put("even", 6), LONG).await.unwrap();
        assert_eq!(replica.metrics().snapshots, 1, "what it holds has the center's digest");
        drop(replica);
        center.set_down(true);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), center.head(), "kept, and read back");
        assert_eq!(replica.metrics().disk_rejected, 0);
    });
}

/// What `scripts/record-old-release` has recorded of release 0.1.0.
fn recorded(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/release-0.1").join(name)
}

/// What a center of release 0.1.0 has sent, byte for byte: a heartbeat, a snapshot, deltas.
#[test]
fn the_recorded_stream_of_release_0_1_is_not_taken() {
    let stream = std::fs::read(recorded("center")).unwrap();
    let old = crate::server::recorded_center(stream);
    run(async {
        let replica = Replica::follow(config_of(&format!("http://{old}"))).unwrap();
        until("noticed", || *replica.standing() == Standing::OldCenter).await;
        until("asked again", || replica.metrics().old_centers >= 3).await;
        assert!(!replica.is_ready(), "nothing is taken from it");
        assert_eq!(replica.age(), None);
        assert!(replica.standing().to_string().contains("upgrade the center first"));
    });
    // What is held stays and grows old.
    let center = FakeCenter::with_orders();
    let scratch = Scratch::new("recorded");
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = following(&center, config.clone()).await;
        let held = replica.revision();
        let kept = scratch.0.join("replica.snapshot");
        until("kept", || kept.exists()).await;
        drop(replica);
        let mut downgraded = config.clone();
        downgraded.centers = vec![format!("http://{old}")];
        let replica = reopened(&downgraded).await;
        until("noticed", || *replica.standing() == Standing::OldCenter).await;
        assert!(!replica.is_ready(), "of another URL, and no Welcome accepts it");
        drop(replica);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), held, "it was not overwritten");
        until("following", || *replica.standing() == Standing::Following).await;
        assert_eq!(replica.metrics().snapshots, 0, "it went on from there");
    });
}

/// What a gate of release 0.1.0 has kept is used after an upgrade in place, as long as no center
/// says anything else; a center of this release brings a snapshot with a mark.
#[test]
fn the_recorded_replica_of_release_0_1_is_used() {
    let scratch = Scratch::new("upgraded");
    std::fs::create_dir_all(&scratch.0).unwrap();
    for file in std::fs::read_dir(recorded("replica")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), scratch.0.join(file.file_name())).unwrap();
    }
    run(async {
        let mut old = config_of("http://127.0.0.1:18391");
        old.services = vec!["orders".to_owned()];
        old.data_dir = Some(scratch.0.clone());
        let old = crate::age::with(&crate::age::Moved::in_2033(), old);
        // Nobody listens there: it was the recording's relay.
        let replica = reopened(&old).await;
        assert!(replica.is_ready());
        assert_eq!(replica.revision(), Revision(14));
        assert_eq!(replica.history(), None, "release 0.1 knows no histories");
        let age = replica.age().expect("release 0.1 noted when it was current");
        assert!(age > Duration::from_secs(60), "by the wall clock since: {age:?}");
        assert_eq!(replica.metrics().disk_rejected, 0);
        assert_eq!(decide(&replica, "orders", "alice", Duration::MAX), Ok(true));
        assert_eq!(decide(&replica, "orders", "bob", Duration::MAX), Ok(false));
    });
}
