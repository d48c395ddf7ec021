//! One's own buckets, looked at again and again for little.
//!
//! A look lists the sockets toward the watched destinations alone; the kernel does the filtering, in
//! one walk of its table. Settings and the ports that are bound by other means than `connect()` are
//! read again every ten seconds, or when somebody asks for it: the list of idle bound sockets takes a
//! walk of its own. A watch stays in the network namespace that it was opened in; the settings are
//! those of the calling thread's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::{Interval, Model, reuse_allowed};
use crate::diag::{self, Filter, Socket, TcpState, unmapped};
use crate::netns::Namespace;
use crate::snapshot::{HostSnapshot, Settings};
use crate::sys::Netlink;
use crate::table::BucketKey;

use super::evidence::TimestampEvidence;
use super::files::Files;
use super::{sockets, source_toward};

/// How often settings and bound ports are read again.
const REREAD: Duration = Duration::from_secs(10);
/// How long the answer of [`supply`] is good for.
const RECENT: Duration = Duration::from_secs(1);
/// Live connections to one destination that are asked whether they have timestamps.
const ASKED: usize = 4;

/// A bucket to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The source address; none: the one that the routing table chooses.
    pub src: Option<IpAddr>,
    /// The destination.
    pub dst: SocketAddr,
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The source address.
    pub src: IpAddr,
    /// Ports that exist for it: in the range, not reserved, not bound.
    pub usable: u32,
    /// Those taken for certain.
    pub used: u32,
    /// How many more connections will succeed.
    pub remaining: Interval,
}

/// See the module.
pub struct Watch {
    netlink: Netlink,
    /// Settings and bound ports, as last read.
    base: HostSnapshot,
    read: Option<Instant>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Watch {
    /// A watch on the calling thread's namespace. Needs no rights.
    ///
    /// # Errors
    /// The kernel's, where it gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, base: HostSnapshot::default(), read: None })
    }

    /// Has the next look read settings and bound ports again.
    pub fn forget(&mut self) {
        self.read = None;
    }

    /// Looks at these buckets, in this order. None: there is no way to that destination.
    ///
    /// # Errors
    /// The kernel's, where it does not list its sockets.
    pub fn look(&mut self, wanted: &[Wanted]) -> io::Result<Vec<Option<Seen>>> {
        if self.read.is_none_or(|read| read.elapsed() >= REREAD) {
            self.base = settings();
            add_bound(&self.netlink, &mut self.base)?;
            self.read = Some(Instant::now());
        }
        let mut snapshot = self.base.clone();
        let mut remotes: Vec<SocketAddr> = Vec::new();
        let mut keys: Vec<Option<BucketKey>> = Vec::with_capacity(wanted.len());
        for Wanted { src, dst } in wanted {
            let (dst, dport) = (unmapped(dst.ip()), dst.port());
            let remote = SocketAddr::new(dst, dport);
            let src = src.map(unmapped).or_else(|| source_toward(remote).ok());
            keys.push(src.map(|src| BucketKey { src, dst, dport, interface: 0 }));
            if !remotes.contains(&remote) {
                remotes.push(remote);
            }
        }
        if remotes.is_empty() {
            return Ok(Vec::new());
        }
        let range = snapshot.settings.range;
        let mut live: BTreeMap<IpAddr, Vec<Socket>> = BTreeMap::new();
        let states = diag::LIVE | TcpState::TimeWait.bit();
        let ports = (range.low, range.high);
        sockets::dump_toward(&self.netlink, states, &remotes, ports, |socket| {
            if socket.state == TcpState::Established {
                let of_destination = live.entry(socket.remote.ip()).or_default();
                if of_destination.len() < ASKED {
                    of_destination.push(*socket);
                }
            }
            snapshot.sockets.add(socket);
        })?;
        let mut timestamps = TimestampEvidence::default();
        let may_be_reused = |src: IpAddr, dst: IpAddr| {
            reuse_allowed(&snapshot.settings, BucketKey { src, dst, dport: 0, interface: 0 })
        };
        for socket in live.values().flatten() {
            if may_be_reused(socket.local.ip(), socket.remote.ip()) {
                timestamps.learn(&self.netlink, socket)?;
            }
        }
        snapshot.evidence.timestamps = timestamps.finish();
        let model = Model::of_connects(&snapshot);
        let seen = keys.into_iter().map(|key| {
            let budget = model.budget(key?);
            let (usable, used, remaining) = (budget.usable, budget.used, budget.remaining);
            Some(Seen { src: budget.key.src, usable, used, remaining })
        });
        Ok(seen.collect())
    }
}

/// How many ports automatic selection may use toward a destination that nothing is connected to: in
/// the range, not reserved, not bound by other means than `connect()`. Of the calling thread's
/// namespace.
///
/// # Errors
/// The kernel's, where it does not list its sockets.
///
/// A caller that asks again within a second, in the same namespace and with the same settings, is told the
/// same: an upstream with many addresses asks for each.
pub fn supply() -> io::Result<u32> {
    static LAST: Mutex<Option<Supply>> = Mutex::new(None);
    let namespace = Namespace::Current.inode().ok();
    let mut snapshot = settings();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &*last
        && last.namespace == namespace
        && namespace.is_some()
        && last.settings == snapshot.settings
        && last.when.elapsed() < RECENT
    {
        return Ok(last.usable);
    }
    add_bound(&Netlink::open()?, &mut snapshot)?;
    let usable = Model::of_connects(&snapshot).fresh().usable;
    let settings = snapshot.settings;
    *last = Some(Supply { namespace, settings, when: Instant::now(), usable });
    Ok(usable)
}

/// The last answer of [`supply`].
struct Supply {
    namespace: Option<u64>,
    settings: Settings,
    when: Instant,
    usable: u32,
}

fn settings() -> HostSnapshot {
    let mut snapshot = HostSnapshot::default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let files = Files::here(Path::new("/"));
    snapshot.settings = files.settings(release.trim(), &mut snapshot.unknown);
    snapshot
}

/// Listeners and idle bound sockets.
fn add_bound(netlink: &Netlink, snapshot: &mut HostSnapshot) -> io::Result<()> {
    let range = snapshot.settings.range;
    let own = Filter { remote: None, local_ports: Some((range.low, range.high)) };
    let table = &mut snapshot.sockets;
    sockets::dump(netlink, diag::LISTENERS | diag::BOUND_INACTIVE, own, |socket| {
        table.add(socket);
    })?;
    // Older kernels do not list idle bound sockets; then they are not known of.
    snapshot.evidence.bound_listed = true;
    Ok(())
}
