//! How old a replica is.
//!
//! A heartbeat says which revision is the newest at the center; when it arrives, a replica that
//! holds that revision is current. A replica that is behind remembers the heartbeat, and once
//! it has caught up with it, it knows to have been current then (and not: now).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keepgate_policy::Revision;

/// Heartbeats remembered while behind; the oldest are the first to be reached.
const MAX_PENDING: usize = 16;

/// Milliseconds since boot, counting suspends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BootMs(pub(super) i64);

impl BootMs {
    /// Now, by `CLOCK_BOOTTIME`.
    pub(super) fn now() -> BootMs {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for one timespec for the whole call.
        #[expect(unsafe_code, reason = "std's Instant stops while the host is suspended")]
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        debug_assert_eq!(result, 0, "every kernel since 2.6.39 has CLOCK_BOOTTIME");
        BootMs(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When the replica was last known to be current; shared with all readers.
#[derive(Debug)]
pub(super) struct Clock {
    current_at: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl Default for Clock {
    fn default() -> Clock {
        Clock { current_at: AtomicI64::new(NEVER) }
    }
}

impl Clock {
    pub(super) fn age(&self) -> Option<Duration> {
        let at = self.current_at.load(Ordering::Acquire);
        if at == NEVER {
            return None;
        }
        let ms = BootMs::now().0.saturating_sub(at);
        // Both times are this boot's, so this is never negative; if it were, zero would flatter.
        u64::try_from(ms).ok().map(Duration::from_millis)
    }

    pub(super) fn set_current_at(&self, at: BootMs) {
        self.current_at.fetch_max(at.0, Ordering::AcqRel);
    }

    /// From a note of an earlier process. A note from the future says nothing.
    pub(super) fn set_current_at_wall_clock(&self, noted_unix_ms: u64) {
        if let Some(elapsed) = unix_ms().checked_sub(noted_unix_ms) {
            let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX);
            self.set_current_at(BootMs(BootMs::now().0.saturating_sub(elapsed).max(NEVER + 1)));
        }
    }

    /// The state is another one now, about which nothing is known yet.
    pub(super) fn forget(&self) {
        self.current_at.store(NEVER, Ordering::Release);
    }

    /// When it was last current, by the wall clock of now.
    pub(super) fn current_unix_ms(&self) -> Option<u64> {
        let age = u64::try_from(self.age()?.as_millis()).ok()?;
        unix_ms().checked_sub(age)
    }
}

/// Heartbeats of one stream that are not reached yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    heartbeats: VecDeque<(Revision, BootMs)>,
}

impl Pending {
    /// A heartbeat arrived.
    pub(super) fn heard(&mut self, head: Revision, at: BootMs) {
        // Heads only grow; one that was ahead of this one is not true any more.
        while self.heartbeats.back().is_some_and(|(earlier, _)| *earlier > head) {
            self.heartbeats.pop_back();
        }
        if self.heartbeats.len() == MAX_PENDING {
            self.heartbeats.pop_back();
        }
        self.heartbeats.push_back((head, at));
    }

    /// The replica holds this revision: since when it is known to have been current, if it
    /// has caught up with a heartbeat.
    pub(super) fn reached(&mut self, held: Revision) -> Option<BootMs> {
        let mut latest = None;
        while let Some((head, at)) = self.heartbeats.front().copied() {
            if head > held {
                break;
            }
            self.heartbeats.pop_front();
            latest = Some(at);
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currency_dates_from_the_heartbeat() {
        let mut pending = Pending::default();
        pending.heard(Revision(5), BootMs(100));
        assert_eq!(pending.reached(Revision(5)), Some(BootMs(100)));
        assert_eq!(pending.reached(Revision(5)), None);
        // Behind: two heartbeats wait, and count from when they came.
        pending.heard(Revision(6), BootMs(200));
        pending.heard(Revision(8), BootMs(300));
        assert_eq!(pending.reached(Revision(5)), None);
        assert_eq!(pending.reached(Revision(7)), Some(BootMs(200)));
        assert_eq!(pending.reached(Revision(9)), Some(BootMs(300)));
    }

    #[test]
    fn a_replica_that_is_always_behind_keeps_the_oldest() {
        let mut pending = Pending::default();
        for n in 1..=100 {
            pending.heard(Revision(n), BootMs(n as i64));
        }
        assert_eq!(pending.reached(Revision(1)), Some(BootMs(1)));
        assert_eq!(pending.reached(Revision(100)), Some(BootMs(100)));
        assert!(pending.heartbeats.is_empty());
        // A head that was never true does not block those that are.
        pending.heard(Revision(1 << 40), BootMs(1));
        pending.heard(Revision(101), BootMs(2));
        assert_eq!(pending.reached(Revision(101)), Some(BootMs(2)));
    }

    #[test]
    fn ages() {
        let clock = Clock::default();
        assert_eq!(clock.age(), None);
        clock.set_current_at_wall_clock(unix_ms() + 3_600_000);
        assert_eq!(clock.age(), None, "a note from the future says nothing");
        clock.set_current_at_wall_clock(unix_ms() - 3_600_000);
        let age = clock.age().unwrap();
        assert!(age >= Duration::from_secs(3599) && age < Duration::from_secs(3700), "{age:?}");
        clock.set_current_at(BootMs::now());
        assert!(clock.age().unwrap() < Duration::from_secs(60));
        clock.set_current_at_wall_clock(0);
        assert!(clock.age().unwrap() < Duration::from_secs(60), "never goes back");
        clock.forget();
        assert_eq!(clock.age(), None);
    }
}
