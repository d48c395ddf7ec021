//! `no_route`: there is no way to the destination asked for.

use crate::report::{Cause, Finding, Remedy, Severity};
use crate::snapshot::SourceAnswer;

use super::Facts;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let no_ipv6 = facts.snapshot.ipv6_addresses.is_empty();
    for asked in &facts.snapshot.asked {
        let dst = asked.destination;
        // IPv6 without an address has a rule of its own.
        let (errno, remedy) = match &asked.source {
            SourceAnswer::NoRoute(errno) if !(no_ipv6 && dst.is_ipv6()) => {
                (errno.clone(), format!("add a route to {}", dst.ip()))
            }
            SourceAnswer::NoSource if dst.is_ipv4() => (
                "EADDRNOTAVAIL".to_owned(),
                format!("give the device that leads to {} an IPv4 address", dst.ip()),
            ),
            _ => continue,
        };
        out.push(Finding {
            id: "no_route".to_owned(),
            severity: Severity::Critical,
            cause: Cause::None,
            bucket: None,
            evidence: format!("there is no way to `{}`: connect() fails with {errno}", asked.name),
            remedies: vec![Remedy::now(
                remedy,
                facts.command(&format!("ip route get {}", dst.ip())),
            )],
        });
    }
}
