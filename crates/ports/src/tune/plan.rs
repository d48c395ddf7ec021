//! Which settings help this host, and what each buys. Pure: a snapshot in, a plan out.
//!
//! A plan widens the range to 10240-65535 (even, clear of most services' ports), reserves what
//! listens or usually listens inside it, and turns TIME_WAIT reuse on, each only where a bucket
//! gains by it. The gain is computed by the model on the same snapshot with the settings changed.
//!
//! INVARIANT: the order of the steps is the order of application. Reservations come before the
//! range, so that no moment exists in which a listener's port is given away.

use std::net::IpAddr;

use serde::Serialize;

use super::keys::{NODE_PORTS, SERVICE_PORTS};
use super::lint::FEWEST_PORTS;
use super::values::{self, parse_range};
use crate::budget::{Interval, Model, reuse_allowed, sustainable_per_s};
use crate::ranges::{PortRange, PortSet};
use crate::report::{BucketReport, Cause, Report};
use crate::rules::judge;
use crate::snapshot::{HostSnapshot, Settings, TimestampUse};
use crate::table::BucketKey;

/// The range a plan widens to: 55,296 ports.
pub const WIDE: PortRange = PortRange { low: 10_240, high: 65_535 };

/// The key of the range.
pub const RANGE_KEY: &str = "net.ipv4.ip_local_port_range";
/// The key of the reservations.
pub const RESERVED_KEY: &str = "net.ipv4.ip_local_reserved_ports";
/// The key of TIME_WAIT reuse.
pub const REUSE_KEY: &str = "net.ipv4.tcp_tw_reuse";
/// The key of TCP timestamps.
pub const TIMESTAMPS_KEY: &str = "net.ipv4.tcp_timestamps";

/// What the planner is told besides the snapshot.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Widen the range even where no bucket is short of ports.
    pub widen: bool,
    /// Ports of services that this host knows of (`/etc/services`), beyond the well-known ones.
    pub services: PortSet,
    /// A kubelet runs here: its NodePort range stays free.
    pub kubernetes: bool,
}

/// One setting to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The sysctl, with dots.
    pub key: String,
    /// What it is.
    pub from: String,
    /// What it should be.
    pub to: String,
    /// Why.
    pub why: String,
    /// What it risks.
    pub risk: String,
}

/// What the steps do for one bucket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gain {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
    /// Ports that exist for it, before and after.
    pub usable: (u32, u32),
    /// How many more connections succeed at once, before.
    pub remaining_before: Interval,
    /// And after.
    pub remaining_after: Interval,
    /// Connections a second it can open for ever, before and after.
    pub sustainable_per_s: (f64, f64),
}

/// What to change, and why; no steps when nothing helps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TunePlan {
    /// The namespace.
    pub netns: String,
    /// In the order of application.
    pub steps: Vec<Step>,
    /// For the fullest buckets, or those that were asked for.
    pub gains: Vec<Gain>,
    /// What no setting helps with, and what does.
    pub beyond_settings: Vec<String>,
}

/// Plans for a snapshot.
pub fn plan(snapshot: &HostSnapshot, ask: &Ask) -> TunePlan {
    let report = judge(snapshot);
    let wants = Wants::of(snapshot, &report, ask);
    let after = wants.settings(snapshot, ask);
    let steps = steps(snapshot, &after, &wants);
    let mut changed = snapshot.clone();
    changed.settings = after;
    let gains = report.buckets.iter().map(|bucket| gain(snapshot, &changed, bucket)).collect();
    TunePlan {
        netns: snapshot.netns.clone(),
        steps,
        gains,
        beyond_settings: beyond_settings(&report),
    }
}

/// Which kinds of change some bucket gains by.
#[derive(Debug, Default)]
struct Wants {
    range: bool,
    reserve: bool,
    reuse: bool,
    timestamps: bool,
}

impl Wants {
    fn of(snapshot: &HostSnapshot, report: &Report, ask: &Ask) -> Wants {
        let settings = &snapshot.settings;
        let mut wants = Wants { range: ask.widen, ..Wants::default() };
        // Where programs bind their ports before connect(), a wider range fills in the same way: no
        // finding beside that is a reason for one.
        let bound = report.buckets.iter().any(|bucket| bucket.cause == Cause::ExplicitBind);
        let findings = report.findings.iter().filter(|_| !bound);
        let causes = report
            .buckets
            .iter()
            .map(|bucket| (bucket.cause, Some(bucket)))
            .chain(findings.map(|finding| (finding.cause, None)));
        for (cause, bucket) in causes {
            match cause {
                Cause::TimeWaitChurn => {
                    wants.range = true;
                    wants.reuse |= bucket.is_none_or(|b| !reuse_allowed(settings, key_of(b)));
                }
                Cause::NarrowRange => wants.range = true,
                Cause::ListenersInRange => wants.reserve = true,
                _ => {}
            }
        }
        wants.reuse &= settings.tw_reuse != 1;
        wants.timestamps = wants.reuse && settings.timestamps == 0;
        wants.range &= settings.range.len() < WIDE.len();
        wants
    }

    fn settings(&self, snapshot: &HostSnapshot, ask: &Ask) -> Settings {
        let mut after = snapshot.settings.clone();
        if self.range {
            let low = WIDE.low.max(after.unprivileged_port_start);
            // Of even size, whatever the lowest port is.
            let low = if low.is_multiple_of(2) { low } else { low.saturating_add(1) };
            let wide = PortRange { low: low.min(after.range.low), high: WIDE.high };
            let odd = wide.len() % 2 == 1;
            after.range = if odd { PortRange { low: wide.low + 1, ..wide } } else { wide };
        }
        if self.range || self.reserve {
            let mut keep = snapshot.sockets.bound_ports.clone();
            keep.union_with(&SERVICE_PORTS.parse().unwrap_or_default());
            keep.union_with(&ask.services);
            if ask.kubernetes {
                keep.union_with(&NODE_PORTS.parse().unwrap_or_default());
            }
            keep.intersect_with(&PortSet::of(after.range));
            // Idle sockets bound by `bind(addr, 0)` come and go; listeners stay.
            for socket in &snapshot.sockets.bound {
                if socket.state != crate::diag::TcpState::Listen {
                    keep.remove(socket.local.port());
                }
            }
            after.reserved.union_with(&keep);
        }
        if self.reuse {
            after.tw_reuse = 1;
        }
        if self.timestamps {
            after.timestamps = 1;
        }
        after
    }
}

fn steps(snapshot: &HostSnapshot, after: &Settings, wants: &Wants) -> Vec<Step> {
    let before = &snapshot.settings;
    let mut steps = Vec::new();
    let mut step = |key: &str, from: String, to: String, why: String, risk: &str| {
        if from != to {
            steps.push(Step { key: key.to_owned(), from, to, why, risk: risk.to_owned() });
        }
    };
    let count = {
        let mut added = after.reserved.clone();
        added.subtract(&before.reserved);
        added.len()
    };
    step(
        RESERVED_KEY,
        before.reserved.to_string(),
        after.reserved.to_string(),
        format!(
            "{count} ports in the range belong to listeners or well-known services; reserved, \
             they are never taken by an outgoing connection"
        ),
        "none: a reserved port can still be bound explicitly",
    );
    step(
        RANGE_KEY,
        format!("{} {}", before.range.low, before.range.high),
        format!("{} {}", after.range.low, after.range.high),
        format!("{} ports instead of {}", after.range.len(), before.range.len()),
        "a service that is not reserved and starts later may find its port taken; reserve it",
    );
    if wants.timestamps {
        step(
            TIMESTAMPS_KEY,
            before.timestamps.to_string(),
            after.timestamps.to_string(),
            "TIME_WAIT reuse needs timestamps".to_owned(),
            "none: it is the kernel's default",
        );
    }
    step(
        REUSE_KEY,
        before.tw_reuse.to_string(),
        after.tw_reuse.to_string(),
        format!(
            "a port in TIME_WAIT may serve a new connection to the same destination after {} ms \
             instead of 60 s",
            before.tw_reuse_delay_ms
        ),
        "none for destinations with TCP timestamps; without them nothing changes",
    );
    steps
}

fn key_of(bucket: &BucketReport) -> BucketKey {
    BucketKey { src: bucket.src, dst: bucket.dst, dport: bucket.dport, interface: bucket.interface }
}

fn gain(before: &HostSnapshot, after: &HostSnapshot, bucket: &BucketReport) -> Gain {
    let key = key_of(bucket);
    let (old, new) = (Model::new(before).budget(key), Model::new(after).budget(key));
    // Without a live connection nobody knows; the kernel negotiates timestamps unless told not to.
    let timestamps = !matches!(before.evidence.timestamps.get(&key.dst), Some(TimestampUse::Off));
    let rate = |s: &HostSnapshot, usable| {
        sustainable_per_s(&s.settings, usable, key, timestamps && s.settings.timestamps != 0)
    };
    Gain {
        src: bucket.src,
        dst: bucket.dst,
        dport: bucket.dport,
        usable: (old.usable, new.usable),
        remaining_before: old.remaining,
        remaining_after: new.remaining,
        sustainable_per_s: (rate(before, old.usable), rate(after, new.usable)),
    }
}

/// What a person has to change elsewhere.
fn beyond_settings(report: &Report) -> Vec<String> {
    let mut said = Vec::new();
    for bucket in &report.buckets {
        let who = bucket.owners.first().map_or_else(
            || "the program".to_owned(),
            |owner| format!("`{}` (pid {})", owner.command, owner.pid),
        );
        let to = std::net::SocketAddr::new(bucket.dst, bucket.dport);
        let text = match bucket.cause {
            Cause::EstablishedLeak => format!(
                "{who} keeps its connections to {to} open; no setting fixes this: bound its pool"
            ),
            Cause::CloseWaitLeak => format!(
                "{who} does not close connections that {to} has closed; no setting fixes this: \
                 close them"
            ),
            Cause::FinWait2 => format!(
                "{to} does not close connections that {who} has closed; the fix is at the other end"
            ),
            Cause::SynSent => format!(
                "{to} does not answer; no setting fixes this: give {who} a connect timeout, and \
                 find out why"
            ),
            Cause::ExplicitBind => format!(
                "{who} binds its ports explicitly, which no setting makes reusable: set \
                 IP_BIND_ADDRESS_NO_PORT, or do not bind"
            ),
            Cause::TimeWaitChurn => format!(
                "{who} opens a connection to {to} per request; reusing connections ends this for \
                 good"
            ),
            _ => continue,
        };
        if !said.contains(&text) {
            said.push(text);
        }
    }
    said
}

/// A change that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Which setting; empty when it is the namespace.
    pub key: String,
    /// Why, and the way out.
    pub why: String,
}

fn keys_known(key: &str) -> bool {
    super::keys::known(key).is_some()
}

/// Why these settings would create the outage that tune is there to end: less is left than what is
/// in use and a fifth more, or hardly anything at all. What does not take ports away is no cause.
fn too_few(
    snapshot: &HostSnapshot,
    range: Option<PortRange>,
    reserved: &PortSet,
) -> Option<String> {
    let mut changed = snapshot.clone();
    changed.settings.range = range.unwrap_or(changed.settings.range);
    changed.settings.reserved = reserved.clone();
    let (before, after) = (snapshot.pool().len(), changed.pool().len());
    if after >= before {
        return None;
    }
    if after < FEWEST_PORTS {
        return Some(format!(
            "{after} ports would be left for outgoing connections, instead of {before}; at least \
             {FEWEST_PORTS} are needed"
        ));
    }
    let (old, new) = (Model::new(snapshot), Model::new(&changed));
    snapshot.sockets.buckets.iter().find_map(|bucket| {
        let (used, usable) = (old.budget(bucket.key).used, new.budget(bucket.key).usable);
        let needed = used + used.div_ceil(5);
        (usable < needed).then(|| {
            format!(
                "{} -> {} uses {used} ports, and {usable} would exist for it; {needed} are needed \
                 (a fifth more than are in use)",
                bucket.key.src,
                bucket.key.destination()
            )
        })
    })
}

/// What must not be applied to this host, whoever asks for it.
pub fn refusals(snapshot: &HostSnapshot, changes: &[(String, String)]) -> Vec<Refusal> {
    let mut refused = Vec::new();
    let mut refuse = |key: &str, why: String| refused.push(Refusal { key: key.to_owned(), why });
    let hidden = ["the settings of", "sockets through netlink", "timestamps, idle bound"];
    for unknown in &snapshot.unknown {
        if hidden.iter().any(|start| unknown.what.starts_with(start)) {
            refuse("", format!("{} cannot be seen: {}", unknown.what, unknown.why));
        }
    }
    if snapshot.sockets.unlisted > 0 {
        let n = snapshot.sockets.unlisted;
        refuse("", format!("{n} sockets did not fit into the snapshot of this namespace"));
    }
    let value = |wanted: &str| {
        changes.iter().rev().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
    };
    for (key, value) in changes {
        let known = keys_known(key);
        if known && values::reading(key, value.trim()) == values::Reading::Refused {
            refuse(key, format!("the kernel refuses `{}`", value.trim()));
        }
    }
    for (key, value) in changes {
        match (key.as_str(), value.trim()) {
            (TIMESTAMPS_KEY, text) if values::same(TIMESTAMPS_KEY, text, "0") => {
                refuse(key, "without timestamps no TIME_WAIT can be reused".to_owned());
            }
            ("net.ipv4.tcp_tw_recycle", _) => {
                refuse(key, "it breaks clients behind NAT, and Linux 4.12 removed it".to_owned());
            }
            (key, text)
                if key.starts_with("net.ipv6.conf.")
                    && key.ends_with(".disable_ipv6")
                    && !values::same(key, text, "0") =>
            {
                let why = "it takes the IPv6 addresses away, and setting it back does not bring \
                           them back";
                refuse(key, why.to_owned());
            }
            _ => {}
        }
    }
    let reserved = match value(RESERVED_KEY).map(|text| values::ports(text.trim())) {
        Some(Some(reserved)) => reserved,
        // Refused above, by name.
        Some(None) => return refused,
        None => snapshot.settings.reserved.clone(),
    };
    if let Some(why) = too_few(snapshot, value(RANGE_KEY).and_then(parse_range), &reserved) {
        let key = if value(RANGE_KEY).is_some() { RANGE_KEY } else { RESERVED_KEY };
        refuse(key, why);
    }
    if let Some(text) = value(RANGE_KEY) {
        match parse_range(text) {
            None => refuse(RANGE_KEY, format!("`{text}` is not two ports with a space between")),
            Some(range) => {
                let taken: Vec<u16> = snapshot
                    .sockets
                    .bound
                    .iter()
                    .filter(|socket| socket.state == crate::diag::TcpState::Listen)
                    .map(|socket| socket.local.port())
                    .filter(|port| range.contains(*port) && !reserved.contains(*port))
                    .collect::<std::collections::BTreeSet<u16>>()
                    .into_iter()
                    .collect();
                if !taken.is_empty() {
                    let list: PortSet = taken.into_iter().collect();
                    refuse(
                        RANGE_KEY,
                        format!(
                            "it takes the ports of listeners ({list}): a restart of these would \
                             fail; put them into {RESERVED_KEY}"
                        ),
                    );
                }
            }
        }
    }
    refused
}
