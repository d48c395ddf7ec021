//! The evidence that closes the holes sockets alone leave: were a port's sockets bound
//! explicitly, did a TIME_WAIT negotiate timestamps?
//!
//! Only buckets that matter are looked into (asked for, or well filled), and never more than a
//! stated number of ports. Nothing here sends a packet or touches a four-tuple that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::budget::{Model, reuse_allowed};
use crate::diag::{self, Filter, Socket, TcpState};
use crate::ranges::PortSet;
use crate::snapshot::{HostSnapshot, TimestampUse, Unknown};
use crate::sys::{BoundProbe, Netlink};
use crate::table::{Bucket, BucketKey};

use super::sockets;

/// How many buckets beyond those asked for are looked into.
const MAX_BUCKETS: usize = 16;
/// A bucket with less than this part left (at best) is looked into.
const MUCH_LEFT: f64 = 0.5;
/// Idle bound sockets are listed where they could be more than this part of the ports, or where
/// ports are scarce: the listing walks all TIME_WAITs once more (70 ms for 200,000).
const FEW_IDLE: u32 = 100;
/// How many live connections per destination are asked for their options.
const PER_DESTINATION: u32 = 4;
/// How many destinations are asked about.
const MAX_DESTINATIONS: usize = 64;

/// What live connections showed about timestamps, while looking.
#[derive(Debug, Default)]
pub(crate) struct TimestampEvidence {
    seen: BTreeMap<IpAddr, (u32, u32)>,
}

impl TimestampEvidence {
    /// Asks for the options of one live connection, unless enough is known about its destination.
    pub(crate) fn learn(&mut self, netlink: &Netlink, live: &Socket) -> io::Result<()> {
        let dst = live.remote.ip();
        let room = self.seen.len() < MAX_DESTINATIONS;
        let (on, off) = self.seen.get(&dst).copied().unwrap_or_default();
        if on + off >= PER_DESTINATION || (on + off == 0 && !room) {
            return Ok(());
        }
        // A connection that is still being opened has not negotiated anything yet.
        let found = sockets::exact(netlink, live)?.filter(|s| s.state != TcpState::SynSent);
        match found.and_then(|s| s.timestamps) {
            Some(true) => self.seen.entry(dst).or_default().0 += 1,
            Some(false) => self.seen.entry(dst).or_default().1 += 1,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> BTreeMap<IpAddr, TimestampUse> {
        self.seen
            .into_iter()
            .map(|(dst, counts)| {
                let kind = match counts {
                    (_, 0) => TimestampUse::On,
                    (0, _) => TimestampUse::Off,
                    _ => TimestampUse::Mixed,
                };
                (dst, kind)
            })
            .collect()
    }
}

/// Destinations whose TIME_WAITs may be reusable, if they had timestamps.
pub(crate) fn destinations_in_question(snapshot: &HostSnapshot) -> BTreeSet<IpAddr> {
    largest(snapshot)
        .filter(|bucket| reuse_allowed(&snapshot.settings, bucket.key))
        .filter(|bucket| bucket.sockets.iter().any(|e| e.state == TcpState::TimeWait))
        .map(|bucket| bucket.key.dst)
        .take(MAX_DESTINATIONS)
        .collect()
}

fn largest(snapshot: &HostSnapshot) -> impl Iterator<Item = &Bucket> {
    let mut buckets: Vec<&Bucket> = snapshot.sockets.buckets.iter().collect();
    buckets.sort_by_key(|b| (std::cmp::Reverse(b.sockets.len()), b.key));
    buckets.into_iter().take(MAX_DESTINATIONS)
}

/// The buckets worth the effort: those asked for, then the fullest.
fn buckets_in_question(snapshot: &HostSnapshot) -> Vec<BucketKey> {
    let model = Model::new(snapshot);
    let mut keys: Vec<BucketKey> = snapshot.asked_keys();
    for bucket in largest(snapshot).take(MAX_BUCKETS) {
        let budget = model.budget(bucket.key);
        let left = f64::from(budget.remaining.max);
        if left <= f64::from(budget.usable) * MUCH_LEFT && !keys.contains(&bucket.key) {
            keys.push(bucket.key);
        }
    }
    keys
}

/// Lists idle bound sockets and probes doubtful ports, where that can change an answer.
pub(crate) fn gather(snapshot: &mut HostSnapshot, netlink: &Netlink, probe_limit: usize) {
    let keys = buckets_in_question(snapshot);
    let idle = idle_at_most(snapshot);
    let few = idle.is_some_and(|idle| idle <= snapshot.pool().len() / FEW_IDLE);
    snapshot.evidence.idle_at_most = idle.unwrap_or(0);
    if keys.is_empty() && few {
        return;
    }
    list_bound(snapshot, netlink);
    if keys.is_empty() {
        return;
    }
    let mut doubtful = Vec::new();
    let mut known = PortSet::new();
    let model = Model::new(snapshot);
    for key in &keys {
        for port in model.doubtful_ports(*key).iter() {
            if known.insert(port) {
                doubtful.push(port);
            }
        }
    }
    if doubtful.is_empty() {
        return;
    }
    let total = doubtful.len();
    doubtful.truncate(probe_limit);
    match probe(&doubtful, snapshot) {
        Ok(()) if total > probe_limit => snapshot.unknown.push(Unknown {
            what: format!("whether {} of {total} ports were bound explicitly", total - probe_limit),
            why: format!("only {probe_limit} are probed (`--probe N` probes more)"),
        }),
        Ok(()) => {}
        Err(error) => snapshot.unknown.push(Unknown {
            what: format!("whether {total} ports were bound explicitly"),
            why: why_no_probe(&error),
        }),
    }
}

fn probe(ports: &[u16], snapshot: &mut HostSnapshot) -> io::Result<()> {
    let probe = BoundProbe::open()?;
    // A control: where even a port without any socket seems bound, the probe proves nothing.
    let unused = (1024..=u16::MAX).rev().find(|port| {
        let sockets = &snapshot.sockets;
        !sockets.carried.contains(*port)
            && !sockets.bound_ports.contains(*port)
            && !snapshot.settings.reserved.contains(*port)
            && snapshot.settings.range.contains(*port)
    });
    if let Some(unused) = unused
        && probe.is_bound(unused)?
    {
        return Err(io::Error::other("it calls an unused port bound"));
    }
    for port in ports {
        if probe.is_bound(*port)? {
            snapshot.evidence.bound.insert(*port);
        } else {
            snapshot.evidence.free.insert(*port);
        }
    }
    Ok(())
}

fn why_no_probe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "the probe needs the client side of TCP Fast Open (tcp_fastopen bit 1), which is off"
                .to_owned()
        }
        Some(libc::ENOPROTOOPT) => "the probe needs Linux 6.3 or later".to_owned(),
        Some(libc::ENETUNREACH) => "the probe needs the loopback device, which is down".to_owned(),
        _ => format!("the probe failed: {error}"),
    }
}

/// The sockets the host has allocated, less those of this namespace that are seen not to be idle.
fn idle_at_most(snapshot: &HostSnapshot) -> Option<u32> {
    let seen: u64 = [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
    ]
    .into_iter()
    .map(|state| snapshot.sockets.in_state(state))
    .sum();
    let idle = snapshot.counts.allocated?.saturating_sub(seen);
    Some(u32::try_from(idle).unwrap_or(u32::MAX))
}

fn list_bound(snapshot: &mut HostSnapshot, netlink: &Netlink) {
    let table = &mut snapshot.sockets;
    let listed = sockets::dump(netlink, diag::BOUND_INACTIVE, Filter::default(), |socket| {
        table.add(socket);
    });
    let version = crate::proc::kernel_version(&snapshot.kernel);
    if listed.is_ok() && version.is_none_or(|v| v >= (6, 8)) {
        snapshot.evidence.bound_listed = true;
    } else {
        snapshot.unknown.push(Unknown {
            what: "sockets that are bound to a port and idle".to_owned(),
            why: "the kernel shows them since Linux 6.8".to_owned(),
        });
    }
}

/// A live socket as an address pair, for asking about it again.
pub(crate) fn as_socket(key: &BucketKey, port: u16) -> Socket {
    Socket {
        state: TcpState::Established,
        local: SocketAddr::new(key.src, port),
        remote: key.destination(),
        interface: key.interface,
        cookie: 0,
        expires_ms: 0,
        uid: 0,
        inode: 0,
        timestamps: None,
    }
}
