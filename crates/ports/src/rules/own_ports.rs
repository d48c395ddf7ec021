//! `own_ports`: a program takes its ports from a small range of its own.
//!
//! HAProxy's `source ADDR:20000-20003` binds each port itself, the socket option
//! `IP_LOCAL_PORT_RANGE` narrows the kernel's choice. Neither can be asked for from outside, and
//! both end in "no free ports" while the namespace has plenty. What shows them is the pattern: ports
//! outside the range are never chosen by the kernel; within it the kernel steps by two, so an
//! unbroken row of ports in an otherwise empty range is no accident.

use crate::ranges::{PortRange, PortSet};
use crate::report::{Cause, Finding, Remedy, Severity};

use super::{BucketFacts, Facts};

/// Fewer connections show no pattern.
const ENOUGH: u32 = 4;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let Some((row, ports, outside)) = pattern(facts, bucket) else { continue };
        let full = ports == row.len();
        let program = facts.program(&bucket.key);
        let used = if full {
            format!("all of {row}: if that is its limit, its next connect() finds no free port")
        } else {
            format!("{ports} ports between {} and {}", row.low, row.high)
        };
        let why = if outside {
            format!("which lie outside ip_local_port_range {}", facts.snapshot.settings.range)
        } else {
            "while the rest of ip_local_port_range is free".to_owned()
        };
        out.push(Finding {
            id: "own_ports".to_owned(),
            severity: if full { Severity::Warning } else { Severity::Info },
            cause: Cause::ExplicitBind,
            bucket: Some(index),
            evidence: format!("{}: {program} uses {used}; {why}", bucket.name()),
            remedies: vec![Remedy::then(
                "the program chooses these ports itself: give it a wider range there (HAProxy: \
                 `source ADDR:LOW-HIGH`; socket option IP_LOCAL_PORT_RANGE), or none; \
                 ip_local_port_range does not change it",
            )],
        });
    }
}

/// The row of ports a bucket keeps to, how many of them it has, and whether they lie outside the
/// namespace's range.
fn pattern(facts: &Facts<'_>, bucket: &BucketFacts<'_>) -> Option<(PortRange, u32, bool)> {
    let range = facts.snapshot.settings.range;
    let ports: PortSet = bucket.bucket?.sockets.iter().map(|entry| entry.port).collect();
    let row = PortRange { low: ports.iter().next()?, high: ports.iter().last()? };
    if ports.len() < ENOUGH {
        return None;
    }
    if row.high < range.low || row.low > range.high {
        return Some((row, ports.len(), true));
    }
    let inside = row.low > range.low && row.high < range.high;
    let unbroken = row.len() == ports.len() && row.len() <= range.len() / 4;
    // Where all is bound, or everything is full, a row says nothing.
    let alone = facts.bound.len() <= facts.pool.len() / 4;
    (inside && unbroken && alone).then_some((row, ports.len(), false))
}
