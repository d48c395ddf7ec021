//! The evidence that closes the holes sockets alone leave: were a port's sockets bound
//! explicitly, did a TIME_WAIT negotiate timestamps?
//!
//! As much is looked into as the answer depends on, within a stated number of ports and a stated
//! time. Nothing here sends a packet or touches a four-tuple that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::budget::{Model, Standing, reuse_allowed};
use crate::diag::{self, Filter, Socket, TcpState};
use crate::ranges::PortSet;
use crate::snapshot::{Counts, HostSnapshot, TimestampUse, Unknown};
use crate::sys::{BoundProbe, Netlink};
use crate::table::{Bucket, BucketKey};

use super::sockets;

/// Up to so many sockets, listing the idle bound ones along with all others costs next to nothing.
/// Among more they are looked for where they could be more than a hundredth of the ports, or where
/// ports are scarce: the listing walks all of the kernel's tables once more (25 ms for 28,000
/// established, 40 ms for 200,000 TIME_WAITs).
const CHEAP_TO_LIST: u64 = 20_000;
const FEW_IDLE: u32 = 100;
/// Where at most so many ports carry no socket, probing those finds idle bound sockets for less.
const PROBE_UNUSED: u32 = 2048;
/// Up to so many ports in doubt are all probed (about 4 to 7 us each).
const PROBE_ALL: u32 = 4096;
/// Of more, so many are probed first, chosen at random; the larger sample only where some answer
/// still depends on how many of the others are bound.
const SAMPLES: [u32; 2] = [256, 1024];
/// Where none of n sampled ports is bound, at most this divided by n of all are: -ln(0.001), for a
/// certainty of 99.9 %.
const CERTAINTY: f64 = 6.908;
/// How long one look probes at most: 65,536 ports take about 0.5 s.
const PROBE_TIME: Duration = Duration::from_secs(3);
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

/// The buckets whose answer should be exact: those asked for, and those short of ports, or that may
/// be.
fn buckets_in_question(snapshot: &HostSnapshot, model: &Model<'_>) -> Vec<BucketKey> {
    let mut keys: Vec<BucketKey> = snapshot.asked_keys();
    for bucket in largest(snapshot) {
        let budget = model.budget(bucket.key);
        let matters = budget.at_best() != Standing::Ample || !budget.is_decided();
        if matters && !keys.contains(&bucket.key) {
            keys.push(bucket.key);
        }
    }
    keys
}

/// Lists idle bound sockets and probes ports in doubt, as far as an answer depends on it.
///
/// Few ports in doubt are all probed. Of many, a random sample is probed first: where none of it is
/// bound, the rest is probed only for the buckets whose answer could still change; where one is, all
/// are. `limit` bounds the number of ports, [`PROBE_TIME`] the time.
///
/// `listed` says that idle bound sockets are among the sockets already.
pub(crate) fn gather(snapshot: &mut HostSnapshot, netlink: &Netlink, limit: usize, listed: bool) {
    let idle = idle_at_most(snapshot);
    snapshot.evidence.idle_at_most = idle.unwrap_or(u32::MAX);
    let few = idle.is_some_and(|idle| idle <= snapshot.pool().len() / FEW_IDLE);
    if listed {
        bound_is_listed(snapshot, true);
    } else if (!few || !buckets_in_question(snapshot, &Model::new(snapshot)).is_empty())
        && !probe_unused(snapshot, limit)
    {
        list_bound(snapshot, netlink);
    }
    let doubtful = Model::new(snapshot).in_doubt();
    if doubtful.is_empty() {
        return;
    }
    let total = doubtful.len();
    match Prober::open(snapshot, limit).and_then(|prober| prober.decide(snapshot, &doubtful)) {
        Ok(0) => {}
        Ok(left) => snapshot.unknown.push(Unknown {
            what: format!("whether {left} of {total} ports were bound explicitly"),
            why: format!(
                "{} were probed, in {} ms (`--probe N` sets how many may be)",
                snapshot.evidence.probed,
                snapshot.evidence.probe_us / 1000
            ),
        }),
        Err(error) => snapshot.unknown.push(Unknown {
            what: format!("whether {total} ports were bound explicitly"),
            why: why_no_probe(&error),
        }),
    }
}

/// Whether the kernel's sums say that listing idle bound sockets costs next to nothing.
pub(crate) fn cheap_to_list(counts: &Counts) -> bool {
    counts.in_use.is_some_and(|in_use| in_use <= CHEAP_TO_LIST)
}

/// Finds idle bound sockets by probing the ports that carry no socket at all, where those are few;
/// the others are in doubt anyway. Says whether it did.
fn probe_unused(snapshot: &mut HostSnapshot, limit: usize) -> bool {
    let mut unused = snapshot.pool();
    unused.subtract(&snapshot.sockets.carried);
    unused.subtract(&snapshot.sockets.bound_ports);
    let few = unused.len() <= PROBE_UNUSED && (unused.len() as usize) < limit;
    let Some(probe) = BoundProbe::open().ok().filter(|_| few) else { return false };
    let started = Instant::now();
    let (mut bound, mut free) = (PortSet::new(), PortSet::new());
    for port in unused.iter() {
        let Ok(taken) = probe.is_bound(port) else { return false };
        if taken { &mut bound } else { &mut free }.insert(port);
    }
    // Where all of them seem bound, the probe may not work here: the list decides.
    if free.is_empty() && !unused.is_empty() {
        return false;
    }
    let evidence = &mut snapshot.evidence;
    evidence.probed += unused.len();
    evidence.probe_us += u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    evidence.bound.union_with(&bound);
    evidence.free.union_with(&free);
    evidence.bound_listed = true;
    true
}

/// Probes ports, within bounds of number and time.
struct Prober {
    probe: BoundProbe,
    started: Instant,
    left: usize,
    random: u64,
}

impl Prober {
    fn open(snapshot: &HostSnapshot, limit: usize) -> io::Result<Self> {
        let probe = BoundProbe::open()?;
        // A control: where even a port without any socket seems bound, the probe proves nothing.
        let sockets = &snapshot.sockets;
        let unused = snapshot.pool().iter().collect::<Vec<u16>>().into_iter().rev().find(|port| {
            !sockets.carried.contains(*port)
                && !sockets.bound_ports.contains(*port)
                && !snapshot.evidence.bound.contains(*port)
        });
        if let Some(unused) = unused
            && snapshot.evidence.bound_listed
            && probe.is_bound(unused)?
            // A socket may have been bound there since the dump; two in a row are not.
            && probe.is_bound(unused)?
        {
            return Err(io::Error::other("it calls an unused port bound"));
        }
        let left = limit.saturating_sub(snapshot.evidence.probed as usize);
        Ok(Self { probe, started: Instant::now(), left, random: snapshot.taken_at_ms })
    }

    /// Returns how many of the ports an answer depends on could not be probed.
    fn decide(mut self, snapshot: &mut HostSnapshot, doubtful: &PortSet) -> io::Result<u32> {
        let mut left = 0;
        if let Some(port) = snapshot.bind_asked.filter(|port| doubtful.contains(*port)) {
            left += self.probe(snapshot, &PortSet::from_iter([port]))?;
        }
        if doubtful.len() <= PROBE_ALL {
            left += self.probe(snapshot, doubtful)?;
        } else {
            left += self.by_sample(snapshot, doubtful)?;
        }
        snapshot.evidence.probe_us +=
            u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(left)
    }

    /// Probes a sample of these ports, and the others as far as an answer depends on them. Returns
    /// how many were left out because a bound was reached.
    fn by_sample(&mut self, snapshot: &mut HostSnapshot, doubtful: &PortSet) -> io::Result<u32> {
        let (mut sampled, mut rest) = (PortSet::new(), doubtful.clone());
        for size in SAMPLES {
            let more = self.sample(&rest, size.saturating_sub(sampled.len()));
            rest.subtract(&more);
            sampled.union_with(&more);
            let unseen = self.probe(snapshot, &more)?;
            let mut found = snapshot.evidence.bound.clone();
            found.intersect_with(&sampled);
            if unseen > 0 || !found.is_empty() {
                return Ok(unseen + self.probe(snapshot, &rest)?);
            }
            let most = f64::from(rest.len()) * CERTAINTY / f64::from(sampled.len().max(1));
            snapshot.evidence.bound_at_most = Some(most.ceil() as u32);
            if buckets_in_question(snapshot, &Model::new(snapshot)).is_empty() {
                return Ok(0);
            }
        }
        let mut needed = PortSet::new();
        let model = Model::new(snapshot);
        for key in buckets_in_question(snapshot, &model) {
            needed.union_with(&model.doubtful_ports(key));
        }
        needed.intersect_with(&rest);
        let mut left = self.probe(snapshot, &needed)?;
        needed.intersect_with(&snapshot.evidence.bound);
        if !needed.is_empty() {
            // The sample missed them: it does not speak for the others.
            snapshot.evidence.bound_at_most = None;
            rest.subtract(&snapshot.evidence.bound);
            rest.subtract(&snapshot.evidence.free);
            left += self.probe(snapshot, &rest)?;
        }
        Ok(left)
    }

    /// About so many ports of a set, chosen at random.
    fn sample(&mut self, set: &PortSet, size: u32) -> PortSet {
        let ports: Vec<u16> = set.iter().collect();
        let mut sample = PortSet::new();
        for _ in 0..size {
            // SplitMix64: what matters is that nobody arranges their ports by it.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.random;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let at = (word ^ (word >> 31)) % (ports.len().max(1) as u64);
            if let Some(port) = usize::try_from(at).ok().and_then(|at| ports.get(at)) {
                sample.insert(*port);
            }
        }
        sample
    }

    /// Probes these ports; returns how many were left out because a bound was reached.
    fn probe(&mut self, snapshot: &mut HostSnapshot, ports: &PortSet) -> io::Result<u32> {
        let mut unseen = 0;
        for port in ports.iter() {
            if self.left == 0 || self.started.elapsed() > PROBE_TIME {
                unseen += 1;
                continue;
            }
            self.left -= 1;
            snapshot.evidence.probed += 1;
            if self.probe.is_bound(port)? {
                snapshot.evidence.bound.insert(port);
            } else {
                snapshot.evidence.free.insert(port);
            }
        }
        Ok(unseen)
    }
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
pub(crate) fn idle_at_most(snapshot: &HostSnapshot) -> Option<u32> {
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
    bound_is_listed(snapshot, listed.is_ok());
}

/// Whether an answer to a question for idle bound sockets is one: older kernels show none.
fn bound_is_listed(snapshot: &mut HostSnapshot, answered: bool) {
    let version = crate::proc::kernel_version(&snapshot.kernel);
    if answered && version.is_none_or(|v| v >= (6, 8)) {
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
