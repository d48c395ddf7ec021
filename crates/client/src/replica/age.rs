//! How old a world is.
//!
//! The follower sends numbered pulses and remembers when it queued each one ([`Ring`]). A center
//! reads the newest pulse, *then* its head, sends everything up to that head, and echoes the pulse.
//! So a world that has reached the head holds every edit that was acknowledged before the pulse was
//! queued, and its age counts from there. Whatever delays a message on its way, at either end or
//! between them, makes the age larger.
//!
//! Time is the *elapsed* time of a [`Clock`]: `CLOCK_BOOTTIME`, which counts suspends, plus what
//! the wall clock has jumped forward against it. A paused virtual machine notices only the latter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keepgate_policy::Revision;

use super::time::{Boot, TimeSource};

/// Pulses remembered; an echo of an older one says nothing.
pub(super) const RING: usize = 64;
/// Heartbeats remembered while behind; the oldest are the first to be reached.
const MAX_PENDING: usize = 16;
/// The wall clock moves this much against the other one without being set: rounding and slewing.
const SLACK_NS: i64 = 10_000_000;
const MS: i64 = 1_000_000;
/// Attempts to read both clocks within a millisecond.
const MAX_LOOKS: usize = 3;

/// A point on a [`Clock`], in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

/// See the module. Shared by all readers.
#[derive(Debug)]
pub(super) struct Clock {
    source: Arc<dyn TimeSource>,
    drift: Drift,
}

/// How far the wall clock has run ahead of the other one, in all its forward jumps.
#[derive(Debug)]
struct Drift {
    /// (REALTIME - BOOTTIME) at the last jump.
    reference: AtomicI64,
    /// All forward jumps so far; only grows.
    jumped: AtomicI64,
    /// `jumped` at the last change of the reference; the lock is for that change.
    settled: Mutex<i64>,
}

impl Clock {
    pub(super) fn new(source: Arc<dyn TimeSource>) -> Clock {
        let reference = source.realtime_ns().saturating_sub(source.boottime_ns());
        let drift = Drift {
            reference: AtomicI64::new(reference),
            jumped: AtomicI64::new(0),
            settled: Mutex::new(0),
        };
        Clock { source, drift }
    }

    pub(super) fn now(&self) -> Moment {
        let mut before = self.source.boottime_ns();
        for _ in 0..MAX_LOOKS {
            let real = self.source.realtime_ns();
            let after = self.source.boottime_ns();
            // A thread that is held up between the reads sees a jump that was none.
            if after.saturating_sub(before) <= MS {
                let jumped = self.drift.look(real.saturating_sub(after));
                return Moment(after.saturating_add(jumped));
            }
            before = after;
        }
        // Held up each time: the next look finds the same jump.
        Moment(before.saturating_add(self.drift.jumped.load(Ordering::Acquire)))
    }

    /// Time since `then`, never negative.
    pub(super) fn since(&self, then: Moment) -> Duration {
        let ns = self.now().0.saturating_sub(then.0);
        Duration::from_nanos(u64::try_from(ns).unwrap_or_default())
    }

    /// A point that was so long ago.
    pub(super) fn ago(&self, age: Duration) -> Moment {
        let ns = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Moment(self.now().0.saturating_sub(ns).max(NEVER + 1))
    }

    /// `then` as a later process may read it.
    pub(super) fn note(&self, then: Moment) -> Note {
        let age = i64::try_from(self.since(then).as_nanos()).unwrap_or(i64::MAX);
        Note {
            boot: self.source.boot(),
            boottime_ns: self.source.boottime_ns().saturating_sub(age),
            unix_ns: self.source.realtime_ns().saturating_sub(age),
        }
    }

    /// When the noted moment was. None: that cannot be said.
    pub(super) fn noted(&self, note: &Note, restart: RestartAge) -> Option<Moment> {
        let boottime = self.source.boottime_ns();
        let by_wall = self.source.realtime_ns().saturating_sub(note.unix_ns);
        let age = if note.boot.same(&self.source.boot()) {
            // As while running: what the wall clock jumped forward meanwhile counts.
            let by_boot = boottime.saturating_sub(note.boottime_ns);
            if by_boot < 0 {
                return None;
            }
            by_boot.max(by_wall)
        } else {
            if restart == RestartAge::Unknown || by_wall < 0 {
                return None;
            }
            // It was in an earlier boot, so at least this one lies between.
            by_wall.max(boottime)
        };
        Some(self.ago(Duration::from_nanos(u64::try_from(age).ok()?)))
    }

    /// When it was `unix_ms`, as release 0.1 noted it.
    pub(super) fn noted_wall(&self, unix_ms: u64) -> Option<Moment> {
        let then = i64::try_from(unix_ms).ok()?.checked_mul(MS)?;
        let age = self.source.realtime_ns().checked_sub(then)?;
        Some(self.ago(Duration::from_nanos(u64::try_from(age).ok()?)))
    }
}

impl Drift {
    /// The jumps so far, with what this difference of the clocks adds.
    fn look(&self, difference: i64) -> i64 {
        let ahead = difference.saturating_sub(self.reference.load(Ordering::Acquire));
        if ahead.abs() < SLACK_NS {
            return self.jumped.load(Ordering::Acquire);
        }
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // Another reader may have seen the same jump.
        let ahead = difference.saturating_sub(self.reference.load(Ordering::Acquire));
        if ahead.abs() >= SLACK_NS {
            *settled = settled.saturating_add(ahead.max(0));
            self.jumped.store(*settled, Ordering::Release);
            self.reference.store(difference, Ordering::Release);
        }
        *settled
    }
}

/// A moment in terms that outlive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) boot: Boot,
    pub(super) boottime_ns: i64,
    pub(super) unix_ns: i64,
}

/// What a replica that starts with a kept state takes its age from when the host was rebooted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartAge {
    /// The wall clock, and at least the time since the boot.
    #[default]
    WallClock,
    /// Nothing: it is unknown until the center is heard.
    Unknown,
}

const NEVER: i64 = i64::MIN;

/// When a world was last known to be current. Each published world has one of its own; that of a
/// world that was replaced stands still.
#[derive(Debug)]
pub(super) struct Currency(AtomicI64);

impl Currency {
    pub(super) fn new(at: Option<Moment>) -> Currency {
        Currency(AtomicI64::new(at.map_or(NEVER, |at| at.0)))
    }

    pub(super) fn at(&self) -> Option<Moment> {
        Some(self.0.load(Ordering::Acquire)).filter(|at| *at != NEVER).map(Moment)
    }

    /// It was current then, too.
    pub(super) fn confirm(&self, at: Moment) {
        self.0.fetch_max(at.0, Ordering::AcqRel);
    }

    pub(super) fn age(&self, clock: &Clock) -> Option<Duration> {
        Some(clock.since(self.at()?))
    }
}

impl Default for Currency {
    fn default() -> Currency {
        Currency::new(None)
    }
}

/// The pulses of one stream, and when each was queued.
#[derive(Debug, Default)]
pub(super) struct Ring {
    queued: VecDeque<(u64, Moment)>,
    last: u64,
}

impl Ring {
    /// The nonce of the next pulse, which is queued after `at`.
    pub(super) fn next(&mut self, at: Moment) -> u64 {
        self.last += 1;
        if self.queued.len() == RING {
            self.queued.pop_front();
        }
        self.queued.push_back((self.last, at));
        self.last
    }

    /// When this one was queued; none: it was never, or too long ago.
    pub(super) fn of(&self, nonce: u64) -> Option<Moment> {
        self.queued.iter().find(|(of, _)| *of == nonce).map(|(_, at)| *at)
    }
}

/// Heartbeats of one stream that are not reached yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    heartbeats: VecDeque<(Revision, Moment)>,
}

impl Pending {
    /// The center had this head after a pulse that was queued at `at`.
    pub(super) fn heard(&mut self, head: Revision, at: Moment) {
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
    pub(super) fn reached(&mut self, held: Revision) -> Option<Moment> {
        let mut latest = None;
        while let Some((head, at)) = self.heartbeats.front().copied() {
            if head > held {
                break;
            }
            self.heartbeats.pop_front();
            latest = latest.max(Some(at));
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[derive(Debug)]
    struct Hands {
        boot: AtomicI64,
        real: AtomicI64,
        which: Mutex<Boot>,
    }

    impl Hands {
        fn new() -> Arc<Hands> {
            Arc::new(Hands {
                boot: AtomicI64::new(1000 * SECOND),
                real: AtomicI64::new(1_000_000 * SECOND),
                which: Mutex::new(Boot { id: [1; 16], namespace: 7 }),
            })
        }

        /// Both clocks go on; negative: only the wall clock can be set back.
        fn pass(&self, seconds: i64) {
            self.boot.fetch_add(seconds * SECOND, Ordering::SeqCst);
            self.real.fetch_add(seconds * SECOND, Ordering::SeqCst);
        }

        fn set_wall(&self, by_ns: i64) {
            self.real.fetch_add(by_ns, Ordering::SeqCst);
        }
    }

    impl TimeSource for Hands {
        fn boottime_ns(&self) -> i64 {
            self.boot.load(Ordering::SeqCst)
        }
        fn realtime_ns(&self) -> i64 {
            self.real.load(Ordering::SeqCst)
        }
        fn boot(&self) -> Boot {
            *self.which.lock().unwrap()
        }
    }

    fn clock(hands: &Arc<Hands>) -> Clock {
        Clock::new(Arc::clone(hands) as Arc<dyn TimeSource>)
    }

    #[test]
    fn forward_jumps_of_the_wall_clock_count_and_others_do_not() {
        let hands = Hands::new();
        let clock = clock(&hands);
        let then = clock.now();
        hands.pass(2);
        assert_eq!(clock.since(then), Duration::from_secs(2));
        // A virtual machine was paused for a minute: the wall clock is put right afterwards.
        hands.set_wall(60 * SECOND);
        assert_eq!(clock.since(then), Duration::from_secs(62));
        // Set back: the jump before it stays counted.
        hands.set_wall(-3600 * SECOND);
        assert_eq!(clock.since(then), Duration::from_secs(62));
        hands.pass(1);
        assert_eq!(clock.since(then), Duration::from_secs(63));
        hands.set_wall(3600 * SECOND);
        assert_eq!(clock.since(then), Duration::from_secs(3663));
        // What is noted after a jump does not count it again.
        let now = clock.now();
        hands.pass(1);
        assert_eq!(clock.since(now), Duration::from_secs(1));
    }

    #[test]
    fn jitter_does_not_add_up_and_slow_drift_does() {
        let hands = Hands::new();
        let clock = clock(&hands);
        let then = clock.now();
        for n in 0..10_000 {
            hands.set_wall(if n % 2 == 0 { SLACK_NS - 1 } else { 1 - SLACK_NS });
            assert_eq!(clock.since(then), Duration::ZERO, "{n}");
        }
        // 500 ppm for an hour.
        for _ in 0..3600 {
            hands.pass(1);
            hands.set_wall(500_000);
            clock.now();
        }
        let age = clock.since(then);
        assert!(age > Duration::from_millis(3_601_780) && age < Duration::from_millis(3_601_820));
    }

    #[test]
    fn notes_over_restarts() {
        let hands = Hands::new();
        let before = clock(&hands);
        let then = before.now();
        hands.pass(2);
        let note = before.note(then);
        let age = |restart| {
            let clock = clock(&hands);
            clock.noted(&note, restart).map(|at| clock.since(at).as_secs())
        };
        hands.pass(5);
        assert_eq!(age(RestartAge::WallClock), Some(7), "the same boot");
        assert_eq!(age(RestartAge::Unknown), Some(7), "the same boot is no question");
        hands.set_wall(-100 * SECOND);
        assert_eq!(age(RestartAge::WallClock), Some(7), "boottime counts");
        hands.set_wall(160 * SECOND);
        assert_eq!(age(RestartAge::WallClock), Some(67), "a jump forward counts");
        // Another time namespace, then another boot.
        hands.which.lock().unwrap().namespace = 8;
        assert_eq!(age(RestartAge::WallClock), Some(1007), "at least the uptime");
        *hands.which.lock().unwrap() = Boot { id: [2; 16], namespace: 7 };
        hands.boot.store(3 * SECOND, Ordering::SeqCst);
        assert_eq!(age(RestartAge::WallClock), Some(67));
        hands.boot.store(300 * SECOND, Ordering::SeqCst);
        assert_eq!(age(RestartAge::WallClock), Some(300), "at least the uptime");
        assert_eq!(age(RestartAge::Unknown), None);
        hands.set_wall(-1000 * SECOND);
        assert_eq!(age(RestartAge::WallClock), None, "a note from the future says nothing");
        *hands.which.lock().unwrap() = Boot::default();
        assert_eq!(age(RestartAge::Unknown), None, "an unknown boot is another one");
    }

    #[test]
    fn a_ring_knows_the_last_64() {
        let mut ring = Ring::default();
        for n in 1..=100 {
            assert_eq!(ring.next(Moment(n)), u64::try_from(n).unwrap());
        }
        assert_eq!(ring.of(0), None);
        assert_eq!(ring.of(36), None);
        assert_eq!(ring.of(37), Some(Moment(37)));
        assert_eq!(ring.of(100), Some(Moment(100)));
        assert_eq!(ring.of(101), None, "never sent");
    }

    #[test]
    fn currency_dates_from_the_pulse() {
        let mut pending = Pending::default();
        pending.heard(Revision(5), Moment(100));
        assert_eq!(pending.reached(Revision(5)), Some(Moment(100)));
        assert_eq!(pending.reached(Revision(5)), None);
        // Behind: two heartbeats wait, and count from when their pulses were queued.
        pending.heard(Revision(6), Moment(200));
        pending.heard(Revision(8), Moment(300));
        assert_eq!(pending.reached(Revision(5)), None);
        assert_eq!(pending.reached(Revision(7)), Some(Moment(200)));
        assert_eq!(pending.reached(Revision(9)), Some(Moment(300)));
    }

    #[test]
    fn a_replica_that_is_always_behind_keeps_the_oldest() {
        let mut pending = Pending::default();
        for n in 1..=100 {
            pending.heard(Revision(n), Moment(n as i64));
        }
        assert_eq!(pending.reached(Revision(1)), Some(Moment(1)));
        assert_eq!(pending.reached(Revision(100)), Some(Moment(100)));
        assert!(pending.heartbeats.is_empty());
        // A head that was never true does not block those that are.
        pending.heard(Revision(1 << 40), Moment(1));
        pending.heard(Revision(101), Moment(2));
        assert_eq!(pending.reached(Revision(101)), Some(Moment(2)));
    }

    #[test]
    fn what_is_confirmed_never_goes_back() {
        let hands = Hands::new();
        let clock = clock(&hands);
        let currency = Currency::default();
        assert_eq!(currency.age(&clock), None);
        let at = clock.now();
        hands.pass(3);
        currency.confirm(at);
        assert_eq!(currency.age(&clock), Some(Duration::from_secs(3)));
        currency.confirm(Moment(at.0 - 5));
        assert_eq!(currency.age(&clock), Some(Duration::from_secs(3)));
        assert_eq!(clock.noted_wall(u64::MAX), None);
        let unix_ms = u64::try_from(hands.realtime_ns() / MS).unwrap();
        assert_eq!(clock.noted_wall(unix_ms + 1000), None, "a note from the future says nothing");
        assert_eq!(clock.noted_wall(unix_ms - 1000).map(|at| clock.since(at).as_secs()), Some(1));
    }
}
