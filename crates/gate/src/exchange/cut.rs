//! What the gate cuts short, and by which of its bounds.
//!
//! Each cut is counted under its bound and logged with it, at most so many lines a second and
//! worker: a flood of slow callers must not become a flood of lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use keepgate_observe::Counter;

/// Lines a second.
const LINES: u64 = 20;

/// Declares the bounds once: variant, name.
macro_rules! cuts {
    ($($(#[$doc:meta])* $name:ident, $text:literal;)*) => {
        /// A bound by which an exchange or a connection ended before its own end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Cut { $($(#[$doc])* $name,)* }

        impl Cut {
            /// In the order of the table in `docs/gate.md`.
            pub(crate) const ALL: &'static [Cut] = &[$(Cut::$name,)*];

            /// The metric label, and the name in the log.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Cut::$name => $text,)* }
            }
        }
    };
}

cuts! {
    /// A head did not arrive in time.
    Header, "header";
    /// Nothing of a request body arrived for too long.
    BodyIdle, "body_idle";
    /// Too little of a request body arrived.
    BodyRate, "body_rate";
    /// Requests waited for a connection, and this body was the slowest that held one.
    BodyPressure, "body_pressure";
    /// One address has as many bodies in progress as it may.
    BodyShare, "body_share";
    /// The upstream did not begin its answer.
    AnswerTimeout, "answer_timeout";
    /// Nothing moved within an answer.
    AnswerIdle, "answer_idle";
    /// The caller took nothing of an answer.
    WriteStall, "write_stall";
    /// An idle connection that made room for another.
    Places, "places";
    /// The caller may not do any more what it is doing.
    Revoked, "revoked";
    /// Whether it may is not known any more.
    Undecided, "undecided";
    /// The credential has expired, and the service closes then.
    Expired, "token_expiry";
    /// The gate stops.
    Stopping, "stopping";
}

/// What one worker has cut short.
#[derive(Debug)]
pub(crate) struct Cuts {
    counts: [Counter; Cut::ALL.len()],
    lines: Lines,
    /// Where the seconds of `lines` count from.
    began: Instant,
}

impl Default for Cuts {
    fn default() -> Cuts {
        Cuts { counts: Default::default(), lines: Lines::default(), began: Instant::now() }
    }
}

impl Cuts {
    /// Counts what was cut short, and logs it.
    pub(crate) fn note(&self, cut: Cut, request_id: &HeaderValue) {
        if let Some(counter) = self.counts.get(cut as usize) {
            counter.add(1);
        }
        if let Some(left_out) = self.lines.take(self.began.elapsed()) {
            let request_id = request_id.to_str().unwrap_or_default();
            tracing::info!(
                target: "keepgate::cut",
                bound = cut.name(),
                request_id,
                left_out,
                "cut short"
            );
        }
    }

    /// How often this bound has cut something short.
    pub(crate) fn count(&self, cut: Cut) -> u64 {
        self.counts.get(cut as usize).map_or(0, Counter::value)
    }
}

/// Which lines are due. The others are counted, and told with the next.
#[derive(Debug, Default)]
struct Lines {
    /// The second, and how many lines it had, in the lower half.
    second: AtomicU64,
    left_out: AtomicU64,
}

impl Lines {
    /// Whether a line may be written `since_start`; how many were not before it.
    fn take(&self, since_start: Duration) -> Option<u64> {
        let second = since_start.as_secs() << 32;
        let next = |held: u64| {
            let count = if held & !0xffff_ffff == second { held & 0xffff_ffff } else { 0 };
            (count < LINES).then_some(second | (count + 1))
        };
        match self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_documented_once() {
        let docs = include_str!("../../../../docs/gate.md");
        let mut seen = std::collections::BTreeSet::new();
        for cut in Cut::ALL {
            assert!(seen.insert(cut.name()), "{cut:?} shares its name");
            assert!(docs.contains(&format!("| `{}` |", cut.name())), "docs/gate.md: {cut:?}");
        }
    }

    #[test]
    fn a_flood_is_so_many_lines_a_second() {
        let lines = Lines::default();
        let at = |ms| lines.take(Duration::from_millis(ms));
        assert_eq!((0..100).filter(|ms| at(*ms).is_some()).count() as u64, LINES);
        assert_eq!(at(1_000), Some(100 - LINES));
        assert_eq!(at(1_001), Some(0));
    }
}
