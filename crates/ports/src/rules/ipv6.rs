//! `ipv6_unavailable`: an IPv6 destination, and no IPv6 address to reach it from.
//!
//! Without any address even `::1` fails, at once and every time, with the words of exhaustion:
//! the usual case is `localhost` in a container that has no IPv6.

use std::net::{IpAddr, Ipv6Addr};

use crate::report::{Cause, Finding, Remedy, Severity};
use crate::snapshot::{Asked, SourceAnswer};

use super::Facts;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let snapshot = facts.snapshot;
    let none = snapshot.ipv6_addresses.is_empty();
    // Then `route` says so: with the device come its addresses.
    let lo_down = snapshot.devices.iter().any(|device| device.loopback && !device.up);
    let refused = |asked: &&Asked| {
        asked.destination.is_ipv6()
            && !(lo_down && asked.destination.ip().is_loopback())
            && match asked.source {
                SourceAnswer::NoSource => true,
                SourceAnswer::NoRoute(_) => none,
                _ => false,
            }
    };
    if let Some(asked) = snapshot.asked.iter().find(refused) {
        let numeric = asked.name.contains(&asked.destination.ip().to_string());
        let means = if numeric { String::new() } else { format!(" ({})", asked.destination.ip()) };
        let why = if none {
            "this network namespace has no IPv6 address at all"
        } else {
            "there is a route, but no IPv6 address to send from"
        };
        out.push(finding(
            facts,
            Severity::Critical,
            format!(
                "`{}`{means} is an IPv6 destination, and {why}: each connect() fails at once with \
                 \"Cannot assign requested address\"",
                asked.name
            ),
        ));
        return;
    }
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if none && snapshot.localhost.contains(&loopback) {
        let first = snapshot.localhost.first() == Some(&loopback)
            || !snapshot.localhost.iter().any(IpAddr::is_ipv4);
        out.push(finding(
            facts,
            // Nobody asked: only a hosts file that leads everyone to ::1 is worth a warning.
            if first { Severity::Warning } else { Severity::Info },
            "`localhost` means ::1 in /etc/hosts, and this network namespace has no IPv6 address: \
             connect() to it fails at once with \"Cannot assign requested address\""
                .to_owned(),
        ));
    }
}

fn finding(facts: &Facts<'_>, severity: Severity, evidence: String) -> Finding {
    let mut remedies = Vec::new();
    if facts.snapshot.settings.disable_ipv6 == Some(true) {
        remedies.push(Remedy::now(
            "switch IPv6 on, at least for the loopback device",
            facts.command("sysctl -w net.ipv6.conf.lo.disable_ipv6=0"),
        ));
    } else {
        remedies.push(Remedy::now_by_hand(
            "let the program connect to 127.0.0.1 (or another IPv4 address) instead of a name",
        ));
    }
    remedies.push(Remedy::then(
        "remove the `::1 localhost` line from /etc/hosts where IPv6 is off, or give the container \
         IPv6",
    ));
    Finding {
        id: "ipv6_unavailable".to_owned(),
        severity,
        cause: Cause::Ipv6Unavailable,
        bucket: None,
        evidence,
        remedies,
    }
}
