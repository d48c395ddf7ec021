//! `narrow_range`: fewer ports than a default host has, where it matters; and the remedy of a
//! wider range.

use crate::ranges::{PortRange, PortSet};
use crate::report::{Cause, Finding, Remedy, Severity};

use super::{CLIFF, Facts, cause::NARROW};

/// The widest range suggested: even-sized, above the well-known service ports.
const WIDE: PortRange = PortRange { low: 10_240, high: 65_535 };
/// A wider range is suggested only if it brings this many ports more.
const WORTHWHILE: u32 = 4096;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let range = facts.snapshot.settings.range;
    let scarce = facts.buckets.iter().any(|b| b.budget.pressure() >= CLIFF);
    if range.len() >= NARROW {
        return;
    }
    out.push(Finding {
        id: "narrow_range".to_owned(),
        severity: if scarce { Severity::Warning } else { Severity::Info },
        cause: Cause::NarrowRange,
        bucket: None,
        evidence: format!(
            "ip_local_port_range is {range}: only {} connections to one destination at a time",
            range.len()
        ),
        remedies: remedy(facts).into_iter().collect(),
    });
}

/// A wider range, with the listeners in it reserved; nothing when it is wide already.
pub(super) fn remedy(facts: &Facts<'_>) -> Option<Remedy> {
    let settings = &facts.snapshot.settings;
    if WIDE.len() < settings.range.len() + WORTHWHILE {
        return None;
    }
    // A write replaces the whole list of reserved ports, so the present ones stay in it.
    let mut reserved = PortSet::of(WIDE);
    let mut keep = settings.reserved.clone();
    keep.union_with(
        &facts
            .snapshot
            .sockets
            .bound
            .iter()
            .filter(|b| b.state == crate::diag::TcpState::Listen)
            .map(|b| b.local.port())
            .collect(),
    );
    reserved.intersect_with(&keep);
    let gain = WIDE.len() - settings.range.len();
    let mut command = String::new();
    if !reserved.is_empty() {
        let mut all = reserved;
        all.union_with(&settings.reserved);
        command = format!(
            "{} && ",
            facts.command(&format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}"))
        );
    }
    command.push_str(&facts.command(&format!(
        "sysctl -w net.ipv4.ip_local_port_range=\"{} {}\"",
        WIDE.low, WIDE.high
    )));
    let listeners = if command.contains("reserved") { ", present listeners reserved" } else { "" };
    Some(Remedy::now(format!("{gain} more ports for every destination{listeners}"), command))
}
