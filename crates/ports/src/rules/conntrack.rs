//! `conntrack_full`: the connection-tracking table is full, or nearly. New connections then time
//! out or fail with EPERM, however many ports there are.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

const NEARLY: f64 = 0.9;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let Some((count, max)) = facts.snapshot.counts.conntrack else { return };
    if max == 0 || (count as f64) < max as f64 * NEARLY {
        return;
    }
    let full = count >= max;
    out.push(Finding {
        id: "conntrack_full".to_owned(),
        severity: if full { Severity::Critical } else { Severity::Warning },
        cause: Cause::ConntrackFull,
        bucket: None,
        evidence: format!(
            "connection tracking holds {count} of {max} entries: new connections {} dropped, seen \
             as timeouts",
            if full { "are" } else { "will soon be" }
        ),
        remedies: vec![
            Remedy::now(
                "a larger table (about 300 bytes an entry)",
                format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)),
            ),
            Remedy::then(
                "shorten nf_conntrack_tcp_timeout_time_wait, or exempt this traffic from tracking",
            ),
        ],
    });
}
