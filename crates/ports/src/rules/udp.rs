//! `udp`: UDP sockets draw from the same range, and fail with EAGAIN when it is used up. They do
//! not take ports from TCP.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::{CLIFF, Facts};

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let (udp, pool) = (facts.snapshot.counts.udp, u64::from(facts.pool.len()));
    if pool == 0 || (udp as f64) < pool as f64 * CLIFF {
        return;
    }
    out.push(Finding {
        id: "udp".to_owned(),
        severity: Severity::Warning,
        cause: Cause::None,
        bucket: None,
        evidence: format!(
            "{udp} UDP sockets for {pool} ports: when they are used up, UDP programs (name \
             resolution among them) fail with \"Resource temporarily unavailable\""
        ),
        remedies: vec![Remedy::then("find who leaks UDP sockets: `ss -uap`")],
    });
}
