//! Age under a clock in the test's hand: freezes, delays, jumps, restarts.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepgate_client::replica::time::{Boot, HostTime, TimeSource};
use keepgate_client::replica::{FollowConfig, NoDecision, Replica, RestartAge};
use keepgate_policy::Change;

use crate::center::{FakeCenter, service};
use crate::replica::{
    HOUR, LONG, Scratch, config, decide, following, on_disk, reopened, run, until,
};

const SECOND: i64 = 1_000_000_000;

/// The host's clocks, moved.
#[derive(Debug)]
pub struct Moved {
    boot: AtomicI64,
    real: AtomicI64,
    which: Mutex<Boot>,
}

impl Moved {
    pub fn new() -> Arc<Moved> {
        let which = Mutex::new(Boot { id: [1; 16], namespace: 1 });
        Arc::new(Moved { boot: AtomicI64::new(0), real: AtomicI64::new(0), which })
    }

    /// Another boot, in May 2033: later than whatever was recorded.
    pub fn in_2033() -> Arc<Moved> {
        let time = Moved::new();
        time.set_wall(2_000_000_000 - HostTime.realtime_ns() / SECOND);
        time
    }

    /// As if the process had been frozen for so long.
    fn freeze(&self, seconds: i64) {
        self.boot.fetch_add(seconds * SECOND, Ordering::SeqCst);
        self.real.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    fn set_wall(&self, seconds: i64) {
        self.real.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }
}

impl TimeSource for Moved {
    fn boottime_ns(&self) -> i64 {
        HostTime.boottime_ns() + self.boot.load(Ordering::SeqCst)
    }

    fn realtime_ns(&self) -> i64 {
        HostTime.realtime_ns() + self.real.load(Ordering::SeqCst)
    }

    fn boot(&self) -> Boot {
        *self.which.lock().unwrap()
    }
}

pub fn with(time: &Arc<Moved>, mut config: FollowConfig) -> FollowConfig {
    config.time = Arc::clone(time) as Arc<dyn TimeSource>;
    config
}

/// What was sent before the freeze and read after it does not make the replica young.
#[test]
fn a_freeze_makes_it_old() {
    let center = FakeCenter::with_orders();
    run(async {
        let time = Moved::new();
        let replica = following(&center, with(&time, config(&center))).await;
        center.set_echo(false);
        // Echoes that are under way are read.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let heartbeats = replica.metrics().heartbeats;
        time.freeze(4);
        until("heartbeats", || replica.metrics().heartbeats > heartbeats + 5).await;
        let age = replica.age().unwrap();
        assert!(age >= Duration::from_secs(4), "a heartbeat without an echo flatters: {age:?}");
        let three = Duration::from_secs(3);
        assert!(matches!(
            decide(&replica, "orders", "alice", three),
            Err(NoDecision::Stale { .. })
        ));
        center.set_echo(true);
        until("young", || decide(&replica, "orders", "alice", three) == Ok(true)).await;
    });
}

/// The paused virtual machine: only the wall clock shows it.
#[test]
fn a_jump_of_the_wall_clock_makes_it_old_and_never_young() {
    let center = FakeCenter::with_orders();
    run(async {
        let time = Moved::new();
        let replica = following(&center, with(&time, config(&center))).await;
        center.set_echo(false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        time.set_wall(60);
        assert!(replica.age().unwrap() >= Duration::from_secs(60));
        time.set_wall(-7200);
        assert!(replica.age().unwrap() >= Duration::from_secs(60), "set back: no younger");
        center.set_echo(true);
        until("young", || replica.age().unwrap() < Duration::from_secs(5)).await;
    });
}

/// A world that was replaced does not get younger with the one that replaced it.
#[test]
fn a_replaced_world_stands_still() {
    let center = FakeCenter::with_orders();
    run(async {
        let time = Moved::new();
        let replica = following(&center, with(&time, config(&center))).await;
        let pinned = replica.pin();
        center.commit(vec![Change::Delete(service("orders")[1].key.clone())]);
        replica.wait_for(center.head(), LONG).await.unwrap();
        time.freeze(6);
        until("young", || replica.age().unwrap() < Duration::from_secs(3)).await;
        assert!(pinned.age().unwrap() >= Duration::from_secs(6), "{:?}", pinned.age());
        assert!(pinned.world().revision() < replica.revision());
        assert_eq!(pinned.mark().unwrap().revision, pinned.world().revision());
    });
}

#[test]
fn the_age_counts_over_a_restart() {
    let scratch = Scratch::new("age");
    let center = FakeCenter::with_orders();
    run(async {
        let time = Moved::new();
        let config = with(&time, on_disk(&center, &scratch));
        let replica = Replica::follow(config.clone()).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        let note = scratch.0.join("replica.seen");
        until("noted", || std::fs::metadata(&note).is_ok_and(|note| note.len() > 0)).await;
        drop(replica);
        center.set_down(true);

        let age = async |config: &FollowConfig| {
            let replica = reopened(config).await;
            assert!(replica.is_ready());
            replica.age().map(|age| age.as_secs())
        };
        time.freeze(1200);
        assert!((1200..1400).contains(&age(&config).await.unwrap()));
        // The same boot needs no wall clock.
        time.set_wall(-86_400);
        assert!((1200..1400).contains(&age(&config).await.unwrap()));
        time.set_wall(86_400);
        // Another boot: the wall clock, and at least its uptime.
        time.which.lock().unwrap().id = [2; 16];
        let uptime = u64::try_from(time.boottime_ns() / SECOND).unwrap();
        let after_reboot = age(&config).await.unwrap();
        assert!(after_reboot >= 1200.max(uptime), "{after_reboot} {uptime}");
        let mut unknown = config.clone();
        unknown.restart_age = RestartAge::Unknown;
        assert_eq!(age(&unknown).await, None);
        // A note from the future, after a reboot.
        time.set_wall(-86_400);
        assert_eq!(age(&config).await, None);
        let replica = reopened(&config).await;
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Err(NoDecision::AgeUnknown));
        // A damaged note says nothing, and harms nothing.
        drop(replica);
        let mut bytes = std::fs::read(&note).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&note, bytes).unwrap();
        assert_eq!(age(&config).await, None);
    });
}
