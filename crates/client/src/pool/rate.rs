//! How fast places come free, and so how long somebody who got none should wait.
//!
//! Pure: it reads no clock, `now` is an argument.

use std::time::{Duration, Instant};

/// The rate is that of this window and the one before it.
const WINDOW: Duration = Duration::from_secs(5);
/// The shortest and the longest wait, in seconds.
pub(super) const WAIT_S: std::ops::RangeInclusive<u32> = 1..=60;

/// See the module.
pub(super) struct Rate {
    began: Instant,
    last: Instant,
    current: u32,
    /// Those of the window before, if it was noted in full.
    before: Option<u32>,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Rate {
        Rate { began: now, last: now, current: 0, before: None }
    }

    /// A place came free.
    pub(super) fn note(&mut self, now: Instant) {
        self.turn(now);
        self.last = self.last.max(now);
        self.current = self.current.saturating_add(1);
    }

    /// After how many seconds a place comes free for somebody who has so many ahead. Where none came
    /// free for two windows, as long again as that has lasted.
    pub(super) fn wait_s(&mut self, now: Instant, ahead: usize) -> u32 {
        self.turn(now);
        let within = now.saturating_duration_since(self.began);
        let (free, over) = match self.before {
            None => (f64::from(self.current), within.max(Duration::from_secs(1))),
            Some(before) => {
                let left = WINDOW.saturating_sub(within).as_secs_f64() / WINDOW.as_secs_f64();
                (f64::from(before) * left + f64::from(self.current), WINDOW)
            }
        };
        let (least, most) = (*WAIT_S.start(), *WAIT_S.end());
        if free <= 0.0 {
            let quiet = now.saturating_duration_since(self.last).as_secs();
            return u32::try_from(quiet).unwrap_or(most).clamp(least, most);
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = (ahead as f64 + 1.0) * over.as_secs_f64() / free;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is within the bounds"
        )]
        let seconds = seconds.ceil().clamp(f64::from(least), f64::from(most)) as u32;
        seconds
    }

    fn turn(&mut self, now: Instant) {
        let within = now.saturating_duration_since(self.began);
        if within < WINDOW {
            return;
        }
        self.before = Some(if within < 2 * WINDOW { self.current } else { 0 });
        self.current = 0;
        self.began = if within < 2 * WINDOW { self.began + WINDOW } else { now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against simulated queues: who comes back after the wait finds as many places come free as were
    /// ahead, give or take a window.
    #[test]
    fn the_wait_is_what_the_rate_says() {
        let began = Instant::now();
        for per_s in [1_u32, 7, 200] {
            let mut rate = Rate::new(began);
            let step = Duration::from_secs(1) / per_s;
            let mut now = began;
            while now < began + Duration::from_secs(23) {
                rate.note(now);
                now += step;
            }
            for ahead in [0_usize, 10, 100] {
                let exact = (ahead as f64 + 1.0) / f64::from(per_s);
                let told = f64::from(rate.wait_s(now, ahead));
                let (low, high) = (exact * 0.8, exact * 1.25 + 1.0);
                let expected = low.clamp(1.0, 60.0)..=high.clamp(1.0, 60.0);
                assert!(expected.contains(&told), "{per_s} a second, {ahead} ahead: {told}");
            }
        }
    }

    #[test]
    fn the_wait_has_bounds_and_grows_where_nothing_comes_free() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut rate = Rate::new(began);
        assert_eq!(rate.wait_s(began, 0), 1, "nothing is known yet");
        assert_eq!(rate.wait_s(at(4), 1_000_000), 4);
        rate.note(at(4));
        assert_eq!(rate.wait_s(at(4), 1_000_000), 60, "never more");
        assert_eq!(rate.wait_s(at(34), 0), 30, "nothing came free for half a minute");
        assert_eq!(rate.wait_s(at(900), 0), 60);
        // A clock that is read out of order does no harm.
        rate.note(began);
        assert!(WAIT_S.contains(&rate.wait_s(began, 0)));
    }
}
