//! `no_route`: there is no way to the destination asked for, and the remedy that opens one.

use std::net::IpAddr;

use crate::report::{Cause, Finding, Remedy, Severity};
use crate::snapshot::{Asked, SourceAnswer};

use super::Facts;

/// Devices that modules put into every namespace, and that are down unless somebody uses them: not
/// the way that is missing.
const BY_MODULES: &[&str] = &[
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
    "dummy0", "ifb0", "ifb1", "bond0", "teql0",
];

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let no_ipv6 = facts.snapshot.ipv6_addresses.is_empty();
    for asked in &facts.snapshot.asked {
        let dst = asked.destination;
        if let Some(finding) = loopback_down(facts, asked) {
            out.push(finding);
            continue;
        }
        let (errno, remedy) = match &asked.source {
            _ if lacks_device(asked) => ("EINVAL".to_owned(), scope(facts, asked)),
            // IPv6 without an address has a rule of its own.
            SourceAnswer::NoRoute(errno) if !(no_ipv6 && dst.is_ipv6()) => {
                (errno.clone(), way(facts, dst.ip()))
            }
            SourceAnswer::NoSource if dst.is_ipv4() => ("EADDRNOTAVAIL".to_owned(), own(dst.ip())),
            _ => continue,
        };
        out.push(finding(
            format!("there is no way to `{}`: connect() fails with {errno}", asked.name),
            vec![
                remedy,
                Remedy::now(
                    "shows which route and device are meant for it",
                    facts.command(&format!("ip route get {}", dst.ip())),
                ),
            ],
        ));
    }
}

/// A link-local address says nothing without the device it is on.
fn lacks_device(asked: &Asked) -> bool {
    match asked.destination {
        std::net::SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
        std::net::SocketAddr::V4(_) => false,
    }
}

fn scope(facts: &Facts<'_>, asked: &Asked) -> Remedy {
    let mut devices = facts.snapshot.devices.iter().filter(|d| !d.loopback && d.up);
    let device = devices.next().map_or("DEVICE", |device| device.name.as_str());
    let (ip, port) = (asked.destination.ip(), asked.destination.port());
    Remedy::now_by_hand(format!(
        "a link-local address needs its device: write `[{ip}%{device}]:{port}`, in the program's \
         configuration as well"
    ))
}

/// Everything a host sends to itself goes through `lo`.
fn loopback_down(facts: &Facts<'_>, asked: &Asked) -> Option<Finding> {
    let lo = facts.snapshot.devices.iter().find(|device| device.loopback && !device.up)?;
    let dst = asked.destination.ip();
    let itself =
        dst.is_loopback() || matches!(asked.source, SourceAnswer::Local(src) if src == dst);
    itself.then(|| {
        finding(
            format!(
                "the loopback device `{}` is down: `{}` is this host itself, and cannot be reached",
                lo.name, asked.name
            ),
            vec![Remedy::now(
                "brings it up, with 127.0.0.1 and ::1",
                facts.command(&format!("ip link set {} up", lo.name)),
            )],
        )
    })
}

/// What leads to a destination outside.
fn way(facts: &Facts<'_>, dst: IpAddr) -> Remedy {
    let mut outside = facts
        .snapshot
        .devices
        .iter()
        .filter(|device| !device.loopback && !BY_MODULES.contains(&device.name.as_str()));
    let family = if dst.is_ipv4() { "" } else { "-6 " };
    if let Some(down) = outside.clone().find(|device| !device.up) {
        return Remedy::now(
            format!("`{}` is down; its routes come with it, or are set after it", down.name),
            facts.command(&format!("ip link set {} up", down.name)),
        );
    }
    match outside.next() {
        Some(device) => Remedy::now(
            "put the gateway's address for GATEWAY (`ip route` shows the networks that are attached)",
            facts.command(&format!("ip {family}route add {dst} via GATEWAY dev {}", device.name)),
        ),
        None => Remedy::now_by_hand(
            "this network namespace has no device but loopback: connect it (a veth pair, or the \
             container's network setup), then give it an address and a route",
        ),
    }
}

fn own(dst: IpAddr) -> Remedy {
    Remedy::now_by_hand(format!("give the device that leads to {dst} an IPv4 address"))
}

fn finding(evidence: String, remedies: Vec<Remedy>) -> Finding {
    Finding {
        id: "no_route".to_owned(),
        severity: Severity::Critical,
        cause: Cause::None,
        bucket: None,
        evidence,
        remedies,
    }
}
