//! `nonlocal_source`: the source address asked for is not configured here, so bind() fails with
//! the very words that exhaustion has.

use std::net::IpAddr;

use crate::report::{Cause, Finding, Remedy, Severity};
use crate::snapshot::SourceAnswer;

use super::Facts;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let mut said: Vec<IpAddr> = Vec::new();
    for asked in &facts.snapshot.asked {
        let SourceAnswer::NotLocal(source) = asked.source else { continue };
        if said.contains(&source) {
            continue;
        }
        said.push(source);
        let tentative = facts
            .snapshot
            .ipv6_addresses
            .iter()
            .any(|a| IpAddr::V6(a.address) == source && a.tentative);
        let (evidence, remedy) = if tentative {
            (
                format!(
                    "{source} is still being checked for duplicates: bind() fails with \"Cannot \
                     assign requested address\" until that is over, in a second or two"
                ),
                Remedy::then("wait for the address, or add it with `nodad`"),
            )
        } else {
            let family = if source.is_ipv4() { "ipv4" } else { "ipv6" };
            (
                format!(
                    "{source} is not an address of this host: bind() to it fails with \"Cannot \
                     assign requested address\""
                ),
                Remedy::then(format!(
                    "configure the address, or correct the program's source address; \
                     net.{family}.ip_nonlocal_bind=1 allows the bind but not the answers"
                )),
            )
        };
        out.push(Finding {
            id: "nonlocal_source".to_owned(),
            severity: Severity::Critical,
            cause: Cause::NonlocalBind,
            bucket: None,
            evidence,
            remedies: vec![remedy],
        });
    }
}
