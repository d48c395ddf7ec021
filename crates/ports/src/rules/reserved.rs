//! `reserved`: reserved ports take a good part of the range.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let range = facts.snapshot.settings.range;
    let reserved = range.len().saturating_sub(facts.pool.len());
    // A few reserved ports are what the setting is for.
    if reserved * 4 < range.len() || reserved == 0 {
        return;
    }
    let most = reserved * 2 >= range.len();
    out.push(Finding {
        id: "reserved".to_owned(),
        severity: if most { Severity::Warning } else { Severity::Info },
        cause: Cause::ReservedPorts,
        bucket: None,
        evidence: format!("{reserved} of {} ports in {range} are reserved", range.len()),
        remedies: vec![remedy(facts)],
    });
}

pub(super) fn remedy(facts: &Facts<'_>) -> Remedy {
    let range = facts.snapshot.settings.range;
    let mut outside = facts.snapshot.settings.reserved.clone();
    outside.subtract(&crate::ranges::PortSet::of(range));
    let mut listening: crate::ranges::PortSet =
        facts.snapshot.sockets.bound.iter().map(|b| b.local.port()).collect();
    listening.intersect_with(&facts.snapshot.settings.reserved);
    outside.union_with(&listening);
    Remedy::now(
        "reserve only what services listen on (look first who relies on the others)",
        facts.command(&format!("sysctl -w net.ipv4.ip_local_reserved_ports=\"{outside}\"")),
    )
}
