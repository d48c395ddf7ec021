//! What operators see of a program: why something failed, how often and how fast things happen, and
//! when.
//!
//! - [`chain`]: an error and its causes, for one line of a log.
//! - [`Counter`], [`Gauge`], [`Histogram`]: numbers that any thread may change. A server with many
//!   workers gives each its own, and adds them up when somebody asks.
//! - [`Timing`]: a histogram that names the traces of some of its requests.
//! - [`Page`]: those numbers in the Prometheus text format, or in OpenMetrics.
//! - [`trace`]: which trace a request belongs to (W3C Trace Context); [`span`]: what is recorded of it.
//! - [`unix_now`], [`unix_s`], [`unix_ms`]: the time of day.
//!
//! It names no other crate of Keepgate, and knows no metric's name.

mod count;
mod page;
pub mod span;
mod timing;
pub mod trace;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use count::{Counter, Gauge, Held, Histogram};
pub use page::{Dialect, Page, Series, Sort, TimingSeries};
pub use timing::{Exemplar, Timing};

/// An error and its causes on one line, outermost first, with `: ` between them.
///
/// Relies on messages that do not repeat their source.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Time since 1970-01-01 00:00 UTC by the host's clock, which may jump; zero if it says earlier.
/// A check of validity fails closed on zero: nothing is valid yet.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// [`unix_now`] in whole seconds.
pub fn unix_s() -> u64 {
    unix_now().as_secs()
}

/// [`unix_now`] in whole milliseconds.
pub fn unix_ms() -> u64 {
    u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX)
}

/// A moment as people write it, in UTC: `2026-11-22 20:35 UTC`.
pub fn date(unix_s: u64) -> String {
    let (days, hour, minute) = (unix_s / 86_400, unix_s / 3_600 % 24, unix_s / 60 % 60);
    // Whole years from 1970 on, then whole months.
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // 400 years have 146,097 days, so that no loop is long.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02} UTC", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the store cannot be opened")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_each_cause_once() {
        let error = Outer(std::io::Error::other("no space left"));
        assert_eq!(chain(&error), "the store cannot be opened: no space left");
        assert_eq!(chain(&std::fmt::Error), std::fmt::Error.to_string());
    }

    #[test]
    fn now_is_after_this_was_written() {
        assert!(unix_now() > Duration::from_secs(1_750_000_000));
    }
}
