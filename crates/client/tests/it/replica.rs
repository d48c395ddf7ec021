//! The replica against a center that drops, gaps, corrupts and stalls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keepgate_client::replica::{FollowConfig, NoDecision, Replica, StartError};
use keepgate_policy::{Change, Query, Revision, Uid};
use proptest::prelude::*;

use crate::center::{FAULTS, FakeCenter, Fault, entity, service};

pub const LONG: Duration = Duration::from_secs(30);
pub const HOUR: Duration = Duration::from_secs(3600);

pub fn config(center: &FakeCenter) -> FollowConfig {
    config_of(&center.url())
}

pub fn config_of(url: &str) -> FollowConfig {
    let mut config = FollowConfig::new(url, "test-token");
    config.silence = Duration::from_millis(300);
    config.backoff = (Duration::from_millis(2), Duration::from_millis(40));
    config.pulse = Duration::from_millis(10);
    config
}

pub fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG * 4, future).await.unwrap() });
}

/// Waits for a state, with a bound.
pub async fn until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !state() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A replica that has what the center has and knows how old that is: it decides. (The state comes
/// before the first echo, and until that its age is unknown.)
pub async fn following(center: &FakeCenter, config: FollowConfig) -> Replica {
    let replica = Replica::follow(config).unwrap();
    replica.wait_for(center.head(), LONG).await.unwrap();
    until("current", || replica.age().is_some()).await;
    replica
}

pub fn decide(
    replica: &Replica,
    service: &str,
    principal: &str,
    max_age: Duration,
) -> Result<bool, NoDecision> {
    let (principal, read) = (Uid::new("user", principal), Uid::action("read"));
    let record = Uid::new("record", "r1");
    let query = Query::new(&principal, &read, &record).service(service);
    replica.decide(&query, max_age).map(|answer| answer.decision.is_allowed())
}

/// A directory of this test, removed with it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("keepgate-client-{name}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Watches a replica from another thread: every world it ever shows must be the center's at
/// that revision.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Witness {
    fn of(replica: &Replica, center: &Arc<FakeCenter>) -> Witness {
        let stop = Arc::new(AtomicBool::new(false));
        let (replica, center, stopped) = (replica.clone(), center.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut reader = replica.reader();
            let (mut last, mut seen) = (Revision(0), 0);
            while !stopped.load(Ordering::SeqCst) {
                let world = reader.world();
                let revision = world.revision();
                if revision != last {
                    assert_eq!(Some(world.digest()), center.digest_at(revision), "at {revision}");
                    assert!(revision > last, "went back from {last} to {revision}");
                    last = revision;
                    seen += 1;
                }
                std::thread::yield_now();
            }
            seen
        });
        Witness { stop, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn follows_and_decides() {
    let center = FakeCenter::start();
    run(async {
        center.set_mute(true);
        let replica = Replica::follow(config(&center)).unwrap();
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Err(NoDecision::NoReplica));
        assert_eq!(replica.age(), None);
        center.set_mute(false);
        let head = center.orders();
        assert_eq!(replica.wait_for(head, LONG).await, Ok(head));
        until("current", || replica.age().is_some()).await;
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        assert_eq!(decide(&replica, "orders", "bob", HOUR), Ok(false));
        let unknown = NoDecision::UnknownService("other".to_owned());
        assert_eq!(decide(&replica, "other", "alice", HOUR), Err(unknown));
        let wanted = Revision(head.0 + 1);
        let too_old = NoDecision::TooOld { held: head, wanted };
        assert_eq!(replica.view(HOUR, Some(wanted)).err(), Some(too_old.clone()));
        assert_eq!(replica.wait_for(wanted, Duration::from_millis(5)).await, Err(too_old));
        assert!(replica.view(HOUR, Some(head)).is_ok());

        // A revoked right is gone as soon as the revision is here, on the same connection.
        let connections = center.connections();
        let key = service("orders")[1].key.clone();
        let head = center.commit(vec![Change::Delete(key)]);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(false));
        for n in 0..100 {
            center.put("u", n);
        }
        replica.wait_for(center.head(), LONG).await.unwrap();
        assert_eq!(center.connections(), connections);
        let last = (center.head(), replica.current().digest());
        until("acknowledged", || center.applied().last() == Some(&last)).await;
        assert_eq!(replica.metrics().gaps, 0, "{:?}", replica.metrics());
    });
}

/// The newest report goes out, also one from before the connection, and again to a center that comes
/// back; one that is too large does not.
#[test]
fn reports_reach_the_center_on_the_same_connection() {
    run(async {
        let center = FakeCenter::start();
        center.set_down(true);
        let replica = Replica::follow(config(&center)).unwrap();
        for n in 0..10 {
            assert!(replica.report("orders", vec![n]));
        }
        assert!(!replica.report("orders", vec![0; (64 << 10) + 1]), "above the bound");
        center.set_down(false);
        until("a report", || !center.reports().is_empty()).await;
        let reports = center.reports();
        assert_eq!((reports.len(), reports[0].service.as_str()), (1, "orders"));
        assert_eq!(reports[0].report, [9], "the newest, and no other");
        let connections = center.connections();
        replica.report("orders", vec![10; 64 << 10]);
        until("the next", || center.reports().len() == 2).await;
        assert_eq!(center.connections(), connections);
        // Acknowledgements go on beside them.
        center.put("u", 1);
        replica.wait_for(center.head(), LONG).await.unwrap();
        let last = (center.head(), replica.current().digest());
        until("acknowledged", || center.applied().last() == Some(&last)).await;
        center.misbehave(Fault::Disconnect);
        center.put("u", 2);
        until("told again", || center.reports().len() == 3).await;
        assert_eq!(center.reports()[2].report.len(), 64 << 10);
    });
}

#[test]
fn the_connection_ends_with_the_last_handle() {
    let center = FakeCenter::start();
    run(async {
        let replica = Replica::follow(config(&center)).unwrap();
        let other = replica.clone();
        replica.wait_for(center.put("a", 1), LONG).await.unwrap();
        drop(replica);
        other.wait_for(center.put("a", 2), LONG).await.unwrap();
        let revisions = other.revisions();
        drop(other);
        let ended = async {
            let mut revisions = revisions;
            while revisions.changed().await.is_ok() {}
        };
        tokio::time::timeout(LONG, ended).await.unwrap();
    });
}

#[test]
fn each_fault_alone_heals() {
    for fault in FAULTS {
        let center = Arc::new(FakeCenter::start());
        let big = (0..20).map(|n| Change::Put(entity(&format!("e{n}"), n))).collect();
        center.commit(big);
        run(async {
            // Now the snapshot faults bite; the others at the next delta.
            center.misbehave(*fault);
            let replica = Replica::follow(config(&center)).unwrap();
            let witness = Witness::of(&replica, &center);
            for n in 0.. {
                center.put("changing", n);
                // The delta that was lost may be the last: only the next one shows it.
                if center.faults_left() == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(n < 2000, "{fault:?} never fitted");
            }
            let head = center.put("changing", -1);
            replica.wait_for(head, LONG).await.unwrap();
            until("current again", || decide(&replica, "", "", LONG) != Err(NoDecision::NoReplica))
                .await;
            assert_eq!(Some(replica.current().digest()), center.digest_at(head), "{fault:?}");
            let metrics = replica.metrics();
            let count = match fault {
                Fault::Disconnect | Fault::Status | Fault::End => metrics.disconnects,
                Fault::Stall => metrics.silences,
                Fault::LoseDelta | Fault::RepeatDelta => metrics.gaps,
                Fault::AlterDelta | Fault::MisdigestDelta | Fault::BreakDelta => {
                    metrics.deltas_rejected
                }
                Fault::CorruptChunk
                | Fault::LoseChunk
                | Fault::RepeatChunk
                | Fault::MisdigestSnapshot
                | Fault::EndEarly => metrics.snapshots_rejected,
                Fault::ForeignDelta => metrics.deltas_rejected,
                Fault::UnmarkedSnapshot => metrics.snapshots_rejected,
                Fault::BeginTwice | Fault::ForeignHeartbeat => metrics.resyncs,
                Fault::HeadAhead => u64::from(metrics.heartbeats > 0),
            };
            assert!(count >= 1, "{fault:?} is not counted: {metrics:?}");
            witness.end();
        });
    }
}

#[test]
fn data_faults_keep_the_connection() {
    let center = FakeCenter::start();
    center.put("a", 0);
    run(async {
        let replica = Replica::follow(config(&center)).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        for fault in [Fault::LoseDelta, Fault::AlterDelta, Fault::MisdigestDelta, Fault::BreakDelta]
        {
            // A stream that is about to end may take the fault along: then it is done again.
            for turn in 0.. {
                assert!(turn < 100, "{fault:?} is never the first of its stream");
                if center.faults_left() == 0 {
                    center.misbehave(fault);
                }
                center.put("a", 1);
                let head = center.put("a", 2);
                replica.wait_for(head, LONG).await.unwrap();
                let first = center.first_faults();
                if center.faults_left() == 0 && first.values().any(|done| *done == fault) {
                    break;
                }
            }
        }
        let first = center.first_faults();
        until("all are noticed", || replica.metrics().resyncs >= first.len() as u64).await;
        let gaps = first.values().filter(|fault| **fault == Fault::LoseDelta).count() as u64;
        let metrics = replica.metrics();
        assert_eq!(metrics.gaps, gaps, "{first:?}");
        assert_eq!(metrics.deltas_rejected, first.len() as u64 - gaps, "{first:?}");
        assert_eq!(metrics.resyncs, first.len() as u64, "{first:?}");
        assert_eq!(center.connections(), 1);
    });
}

#[test]
fn a_rejected_snapshot_changes_nothing() {
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, config(&center)).await;
        let held = replica.revision();
        // A delta that cannot be used makes it ask for a snapshot, and that is corrupt, often.
        for _ in 0..20 {
            center.misbehave(Fault::CorruptChunk);
        }
        center.misbehave(Fault::MisdigestDelta);
        // Faults are done in order, so the delta's comes first.
        center.behave();
        center.misbehave(Fault::MisdigestDelta);
        for _ in 0..20 {
            center.misbehave(Fault::CorruptChunk);
        }
        let head = center.put("x", 1);
        until("some rejected", || replica.metrics().snapshots_rejected >= 5).await;
        if center.faults_left() > 0 {
            assert_eq!(replica.revision(), held);
            assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        }
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(replica.metrics().snapshots_rejected, 20);
        assert_eq!(center.connections(), 1);
    });
}

#[test]
fn a_dead_center_makes_it_stale_and_nothing_else() {
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, config(&center)).await;
        center.set_down(true);
        let max_age = Duration::from_millis(400);
        until("stale", || {
            let decided = decide(&replica, "orders", "alice", max_age);
            assert!(
                matches!(decided, Ok(true) | Err(NoDecision::Stale { .. })),
                "a dead center denied: {decided:?}"
            );
            decided.is_err()
        })
        .await;
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        assert!(!replica.is_connected());
        let before = replica.age().unwrap();
        until("older", || replica.age().unwrap() > before).await;
        center.set_down(false);
        until("fresh", || decide(&replica, "orders", "alice", max_age) == Ok(true)).await;
        // What was held is asked to go on from, not sent again.
        assert_eq!(replica.metrics().snapshots, 1);
    });
}

#[test]
fn a_silent_center_is_given_up() {
    let center = FakeCenter::start();
    center.put("a", 1);
    run(async {
        let replica = Replica::follow(config(&center)).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        center.set_mute(true);
        until("given up", || replica.metrics().silences >= 2).await;
        center.set_mute(false);
        replica.wait_for(center.put("a", 2), LONG).await.unwrap();
    });
}

/// Starts a replica on a directory, as soon as the one before has let go of it.
pub async fn reopened(config: &FollowConfig) -> Replica {
    let deadline = std::time::Instant::now() + LONG;
    loop {
        match Replica::follow(config.clone()) {
            Ok(replica) => return replica,
            Err(StartError::Locked { .. }) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn on_disk(center: &FakeCenter, scratch: &Scratch) -> FollowConfig {
    let mut config = config(center);
    config.data_dir = Some(scratch.0.clone());
    config
}

#[test]
fn the_last_good_state_survives_a_restart() {
    let scratch = Scratch::new("restart");
    let center = FakeCenter::with_orders();
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = Replica::follow(config.clone()).unwrap();
        assert!(matches!(Replica::follow(config.clone()), Err(StartError::Locked { .. })));
        replica.wait_for(center.head(), LONG).await.unwrap();
        for n in 0..50 {
            let head = center.put(&format!("u{}", n % 7), n);
            replica.wait_for(head, LONG).await.unwrap();
        }
        let head = center.head();
        until("seen", || replica.age().is_some()).await;
        drop(replica);

        center.set_down(true);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), head);
        assert_eq!(Some(replica.current().digest()), center.digest_at(head));
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        let age = replica.age().unwrap();
        until("aging", || replica.age().unwrap() > age).await;

        // With the center back it goes on from there: no second snapshot.
        let snapshots = center.snapshots();
        center.set_down(false);
        let head = center.put("after", 1);
        replica.wait_for(head, LONG).await.unwrap();
        assert_eq!(center.snapshots(), snapshots);
        drop(replica);

        // The state of other services is not ours.
        center.set_down(true);
        let mut other = config.clone();
        other.services = vec!["orders".to_owned()];
        let replica = reopened(&other).await;
        assert!(!replica.is_ready());
    });
}

#[test]
fn damaged_files_are_ignored_and_fetched_again() {
    let scratch = Scratch::new("damage");
    let center = FakeCenter::start();
    let big = (0..30).map(|n| Change::Put(entity(&format!("e{n}"), n))).collect();
    center.commit(big);
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = Replica::follow(config.clone()).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        let base_head = center.head();
        for n in 0..5 {
            replica.wait_for(center.put("x", n), LONG).await.unwrap();
        }
        drop(replica);
        center.set_down(true);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), center.head());
        drop(replica);
        drop(reopened(&config).await);

        let base = std::fs::read(scratch.0.join("replica.snapshot")).unwrap();
        let log = std::fs::read(scratch.0.join("replica.log")).unwrap();
        assert!(!log.is_empty());
        let check = async |base: &[u8], log: &[u8], expected: Option<Revision>| {
            std::fs::write(scratch.0.join("replica.snapshot"), base).unwrap();
            std::fs::write(scratch.0.join("replica.log"), log).unwrap();
            let replica = reopened(&config).await;
            if let Some(expected) = expected {
                assert_eq!(replica.is_ready().then(|| replica.revision()), Some(expected));
            } else {
                assert!(!replica.is_ready());
            }
            let shown = replica.revision();
            assert_eq!(Some(replica.current().digest()), center.digest_at(shown));
            let rejected = replica.metrics().disk_rejected;
            drop(replica);
            rejected
        };
        assert_eq!(check(&base, &log, Some(center.head())).await, 0);
        for at in (0..base.len()).step_by(base.len() / 37 + 1) {
            let mut damaged = base.clone();
            damaged[at] ^= 0x20;
            assert_eq!(check(&damaged, &log, None).await, 1, "byte {at} of the snapshot");
        }
        assert_eq!(check(&base[..base.len() - 1], &log, None).await, 1);
        assert_eq!(check(b"", &log, None).await, 1);
        let mut longer = base.clone();
        longer.push(0);
        assert_eq!(check(&longer, &log, None).await, 1);
        for at in (0..log.len()).step_by(log.len() / 23 + 1) {
            let mut damaged = log.clone();
            damaged[at] ^= 0x20;
            std::fs::write(scratch.0.join("replica.snapshot"), &base).unwrap();
            std::fs::write(scratch.0.join("replica.log"), &damaged).unwrap();
            let replica = reopened(&config).await;
            let shown = replica.revision();
            assert!(shown >= base_head && shown < center.head(), "byte {at} of the log: {shown}");
            assert_eq!(Some(replica.current().digest()), center.digest_at(shown));
            assert_eq!(replica.metrics().disk_rejected, 1);
        }
        // A torn tail loses the last record, and what comes next is appended after the good ones.
        let torn = &log[..log.len() - 3];
        assert_eq!(check(&base, torn, Some(Revision(center.head().0 - 1))).await, 1);
        center.set_down(false);
        let replica = reopened(&config).await;
        replica.wait_for(center.put("x", 100), LONG).await.unwrap();
        drop(replica);
        center.set_down(true);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), center.head());
        assert_eq!(replica.metrics().disk_rejected, 0);
    });
}

#[test]
fn a_long_log_is_merged_into_the_snapshot() {
    let scratch = Scratch::new("compact");
    let center = FakeCenter::start();
    let big = (0..200).map(|n| Change::Put(entity(&format!("e{n}"), n))).collect();
    center.commit(big);
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = Replica::follow(config.clone()).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        let base = scratch.0.join("replica.snapshot");
        until("kept", || base.exists()).await;
        let before = std::fs::read(&base).unwrap();
        let log = scratch.0.join("replica.log");
        // 60 revisions of 60 KiB, of one item each; deletions too.
        let long = "x".repeat(60_000);
        for n in 0..60 {
            let changes = vec![
                Change::Put(entity(&format!("{long}{}", n % 3), n)),
                Change::Delete(entity(&format!("e{n}"), n).key),
            ];
            replica.wait_for(center.commit(changes), LONG).await.unwrap();
        }
        until("merged", || std::fs::read(&base).unwrap() != before).await;
        until("short", || std::fs::metadata(&log).unwrap().len() < 2 << 20).await;
        assert_eq!(replica.metrics().disk_failures, 0);
        assert_eq!(replica.metrics().snapshots, 1, "merged here, not fetched");
        drop(replica);
        center.set_down(true);
        let replica = reopened(&config).await;
        assert_eq!(replica.revision(), center.head());
        assert_eq!(Some(replica.current().digest()), center.digest_at(center.head()));
        assert_eq!(replica.metrics().disk_rejected, 0);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, i8),
    Delete(u8),
    Fault(Fault),
    HangUp,
    Restart,
    Pause,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<u8>(), any::<i8>()).prop_map(|(id, value)| Step::Put(id % 40, value)),
        2 => any::<u8>().prop_map(|id| Step::Delete(id % 40)),
        3 => proptest::sample::select(FAULTS).prop_map(Step::Fault),
        1 => Just(Step::HangUp),
        1 => Just(Step::Restart),
        3 => Just(Step::Pause),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the interleaving: no wrong world is ever shown or acknowledged, and in the end
    /// the replica is where the center is.
    #[test]
    fn no_interleaving_shows_a_wrong_world(steps in steps()) {
        let scratch = Scratch::new("any");
        let center = Arc::new(FakeCenter::start());
        run(async {
            let mut config = on_disk(&center, &scratch);
            config.silence = Duration::from_millis(150);
            let mut replica = Replica::follow(config.clone()).unwrap();
            let mut witness = Witness::of(&replica, &center);
            for step in &steps {
                match step {
                    Step::Put(id, value) => {
                        center.put(&format!("p{id}"), i64::from(*value));
                    }
                    Step::Delete(id) => {
                        let key = entity(&format!("p{id}"), 0).key;
                        center.commit(vec![Change::Delete(key)]);
                    }
                    Step::Fault(fault) => center.misbehave(*fault),
                    Step::HangUp => center.hang_up(),
                    Step::Restart => {
                        witness.end();
                        drop(replica);
                        replica = reopened(&config).await;
                        witness = Witness::of(&replica, &center);
                    }
                    Step::Pause => tokio::time::sleep(Duration::from_millis(3)).await,
                }
            }
            center.behave();
            let head = center.put("last", 1);
            replica.wait_for(head, LONG).await.unwrap();
            assert_eq!(Some(replica.current().digest()), center.digest_at(head));
            until("current", || replica.age().is_some()).await;
            witness.end();
            for (revision, digest) in center.applied() {
                assert_eq!(Some(digest), center.digest_at(revision));
            }
        });
    }
}
