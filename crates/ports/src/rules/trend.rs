//! When will a bucket be used up, if it goes on like this?
//!
//! A TIME_WAIT is known to the millisecond: it lets go of its port when its timer fires (or, where
//! reuse is allowed, `tcp_tw_reuse_delay` after it began). So the next minute is computed, not
//! extrapolated; only the rate of new connections is assumed to stay.

use crate::budget::{TIME_WAIT_MS, reuse_allowed};
use crate::diag::TcpState;
use crate::snapshot::HostSnapshot;

use super::BucketFacts;

/// Beyond this nobody cares.
const HORIZON_S: f64 = 86_400.0;

/// Seconds until no port is left; 0 when none is; nothing when it will not come to that.
pub(super) fn exhausted_in_s(
    snapshot: &HostSnapshot,
    facts: &BucketFacts<'_>,
    timestamps: bool,
) -> Option<u64> {
    let budget = &facts.budget;
    if budget.is_used_up() {
        return Some(0);
    }
    let opens = facts.opens_per_s?;
    if opens <= 0.0 {
        return None;
    }
    let hold_ms = if reuse_allowed(&snapshot.settings, facts.key) && timestamps {
        snapshot.settings.tw_reuse_delay_ms.min(TIME_WAIT_MS)
    } else {
        TIME_WAIT_MS
    };
    let sockets = facts.bucket.map_or(&[][..], |b| &b.sockets);
    // When each present TIME_WAIT lets go, in milliseconds from now.
    let mut releases: Vec<u32> = sockets
        .iter()
        .filter(|e| e.state == TcpState::TimeWait)
        .map(|e| e.expires_ms.saturating_sub(TIME_WAIT_MS - hold_ms))
        .filter(|left| *left > 0)
        .collect();
    releases.sort_unstable();
    let fresh = sockets
        .iter()
        .filter(|e| e.state == TcpState::TimeWait)
        .filter(|e| TIME_WAIT_MS.saturating_sub(e.expires_ms) <= snapshot.interval_ms)
        .count();
    let interval_s = f64::from(snapshot.interval_ms.max(1)) / 1000.0;
    // The part of new connections that ends in a TIME_WAIT on this side.
    let leaving = (fresh as f64 / interval_s / opens).clamp(0.0, 1.0);
    let growth = (opens - facts.closes_per_s.unwrap_or(0.0)).max(0.0);
    let used = f64::from(budget.used);
    let usable = f64::from(budget.usable);
    let hold_s = f64::from(hold_ms) / 1000.0;
    let at = |t: f64| {
        let released = releases.partition_point(|left| f64::from(*left) / 1000.0 <= t);
        used - released as f64 + opens * leaving * t.min(hold_s) + growth * t
    };
    for t in 1..=60u32 {
        if at(f64::from(t)) >= usable {
            return Some(u64::from(t));
        }
    }
    // After a minute only growth is left. A growth within the noise of one interval is none.
    if growth * interval_s < 2.0 {
        return None;
    }
    let seconds = 60.0 + (usable - at(60.0)) / growth;
    (seconds <= HORIZON_S).then_some(seconds as u64)
}
