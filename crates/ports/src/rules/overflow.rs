//! `time_wait_overflow`: more TIME_WAITs than `tcp_max_tw_buckets` allows.
//!
//! The kernel then closes connections without one. Ports come back sooner, so this hides churn;
//! but late packets of the old connection may disturb a new one.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let counts = &facts.snapshot.counts;
    if counts.time_wait_overflow == 0 {
        return;
    }
    let now = counts.time_wait_overflow_grew > 0;
    let limit = facts.snapshot.settings.max_tw_buckets.unwrap_or(0);
    out.push(Finding {
        id: "time_wait_overflow".to_owned(),
        severity: if now { Severity::Warning } else { Severity::Info },
        cause: Cause::TimeWaitChurn,
        bucket: None,
        evidence: format!(
            "{} connections ended without TIME_WAIT because tcp_max_tw_buckets is {limit}{}",
            counts.time_wait_overflow,
            if now { ", and it goes on" } else { " (not at the moment)" }
        ),
        remedies: if now {
            vec![Remedy::then(
                "reuse connections; raising tcp_max_tw_buckets costs memory and gives nothing else",
            )]
        } else {
            Vec::new()
        },
    });
}
