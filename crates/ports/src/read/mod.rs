//! Reading a live host, or a recorded directory tree, into a [`HostSnapshot`].
//!
//! Two looks at the sockets, one second apart by default, give rates; in between, the live ones
//! are looked at a few more times, so that short-lived connections can be attributed. Reading
//! opens no connection, needs no rights (what it may not see is reported as unknown) and changes
//! nothing.

mod evidence;
mod files;
mod owners;
mod sockets;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::diag::{self, Filter, Socket, TcpState, unmapped};
use crate::netns::{self, EnterError, Namespace};
use crate::ranges::PortSet;
use crate::snapshot::{
    Asked, Confidence, Counts, Holder, HostSnapshot, Owner, Rate, SNAPSHOT_VERSION, SourceAnswer,
    Unknown,
};
use crate::sys::{self, Netlink};
use crate::table::{BucketKey, MAX_BOUND, MAX_INODES, Placed, SocketTable, changes};

use self::evidence::TimestampEvidence;
use self::files::Files;
pub use self::files::setting;
use self::owners::{Inodes, Owners};

/// How many owners of one bucket are named.
const MAX_OWNERS: usize = 8;
/// How often live sockets are looked at within the interval.
const LIVE_LOOKS: u32 = 4;
/// How often processes are watched between two such looks.
const WATCHES: u32 = 8;
/// So many TIME_WAITs toward one destination make it worth catching who opens them.
const MANY_TIME_WAITS: usize = 100;
/// With fewer live sockets a look at them costs about a millisecond.
const MANY_LIVE: usize = 2_000;
/// How many listeners are named.
const MAX_LISTENERS: usize = 256;
/// How many connections on a port that could not be bound are named.
const MAX_HOLDERS: usize = 8;

/// What to read, and how thoroughly.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Where the file system starts; anything but `/` is a recorded tree, of which only files are
    /// read.
    pub root: PathBuf,
    /// Which namespace.
    pub namespace: Namespace,
    /// Time between two looks; nothing means one look and no rates.
    pub interval: Option<Duration>,
    /// Destinations to answer for, with the name they were given by.
    pub to: Vec<(String, SocketAddr)>,
    /// The source address to answer for.
    pub from: Option<IpAddr>,
    /// How many ports may be probed for explicit binding (about 4 to 7 us each), where an answer
    /// depends on it.
    pub probe_limit: usize,
    /// Gather evidence as if `tcp_tw_reuse` were 1, for a plan that may set it: with it off the
    /// answers depend on less, and less is looked at.
    pub assume_reuse: bool,
    /// Whether to find the owners of sockets.
    pub owners: bool,
    /// For how many buckets owners are found: as many as will be shown.
    pub shown: usize,
    /// The local port that an error message says could not be bound.
    pub bind: Option<u16>,
    /// Whether the error in question is about open files: then the processes with sockets here are
    /// looked at for their limits.
    pub about_files: bool,
    /// Whether to take a single, cheap look where `sockstat` counts no socket: the kernel walks
    /// the table of all namespaces for each of them.
    pub skip_empty: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            namespace: Namespace::Current,
            interval: Some(Duration::from_secs(1)),
            to: Vec::new(),
            from: None,
            probe_limit: 65_536,
            assume_reuse: false,
            owners: true,
            shown: crate::rules::MAX_REPORTED,
            bind: None,
            about_files: false,
            skip_empty: false,
        }
    }
}

/// Why a host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Neither netlink nor `/proc/net/tcp` shows any socket.
    #[error("cannot list TCP sockets: neither netlink nor {path} can be read")]
    Sockets {
        /// The directory tried last.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] EnterError),
}

/// Reads the host.
pub fn host(options: &ReadOptions) -> Result<HostSnapshot, ReadError> {
    let entered = netns::enter(&options.namespace, || {
        let files = Files::here(&options.root);
        let files = match options.namespace {
            Namespace::Pid(pid) => files.for_process(pid),
            _ => files,
        };
        read(options, files, options.root.as_os_str() == "/")
    });
    match (entered, &options.namespace) {
        (Ok(result), _) => result,
        // Without the right to enter, a process still shows its namespace's sockets.
        (Err(EnterError::Refused { .. }), Namespace::Pid(pid))
            if options.root.join(format!("proc/{pid}/net/tcp")).exists() =>
        {
            read(options, Files::of_process(&options.root, *pid), false)
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Sockets toward one destination, own bound ports and settings: what a budget needs.
pub(crate) fn toward(dst: SocketAddr) -> io::Result<HostSnapshot> {
    let mut snapshot = HostSnapshot::default();
    Files::here(std::path::Path::new("/")).read_into(&mut snapshot);
    let netlink = Netlink::open()?;
    let range = snapshot.settings.range;
    let own = Filter { remote: None, local_ports: Some((range.low, range.high)) };
    let table = &mut snapshot.sockets;
    sockets::dump(&netlink, diag::LISTENERS | diag::BOUND_INACTIVE, own, |socket| {
        table.add(socket);
    })?;
    let states = diag::LIVE | TcpState::TimeWait.bit();
    let mut live = Vec::new();
    let filter = Filter { remote: Some(dst), local_ports: Some((range.low, range.high)) };
    sockets::dump(&netlink, states, filter, |socket| {
        if socket.state == TcpState::Established && live.len() < 4 {
            live.push(*socket);
        }
        table.add(socket);
    })?;
    let mut timestamps = TimestampEvidence::default();
    for socket in &live {
        timestamps.learn(&netlink, socket)?;
    }
    snapshot.evidence.timestamps = timestamps.finish();
    Ok(snapshot)
}

/// A live socket of a bucket, remembered for its owner.
struct Live {
    bucket: usize,
    port: u16,
    inode: u32,
    cookie: u64,
}

/// One look at all sockets.
#[derive(Default)]
struct Look {
    table: SocketTable,
    live: Vec<Live>,
    /// TIME_WAITs recognized by their cookie: bucket -> process -> how many.
    recognized: HashMap<usize, BTreeMap<u32, u32>>,
    /// Whether idle bound sockets were asked for as well.
    with_bound: bool,
}

impl Look {
    fn take(
        netlink: Option<&Netlink>,
        files: &Files,
        owners: &Owners,
        with_bound: bool,
    ) -> io::Result<Self> {
        let mut look = Self { with_bound: with_bound && netlink.is_some(), ..Self::default() };
        let recognize = owners.knows_cookies();
        // They come before connected sockets, which would then only be counted.
        let mut idle: Vec<Socket> = Vec::new();
        let mut each = |socket: &Socket| {
            if socket.state == TcpState::BoundInactive {
                if idle.len() <= MAX_BOUND {
                    idle.push(*socket);
                } else {
                    look.table.add(socket);
                }
                return;
            }
            let Placed::Bucket(bucket) = look.table.add(socket) else { return };
            if socket.state != TcpState::TimeWait {
                if socket.inode != 0 && look.live.len() < MAX_INODES {
                    let (port, inode, cookie) = (socket.local.port(), socket.inode, socket.cookie);
                    look.live.push(Live { bucket, port, inode, cookie });
                }
            } else if recognize && let Some(pid) = owners.of_cookie(socket.cookie) {
                *look.recognized.entry(bucket).or_default().entry(pid).or_insert(0) += 1;
            }
        };
        match netlink {
            Some(netlink) => {
                let states = if with_bound { diag::ALL } else { diag::ALL_BUT_BOUND };
                sockets::dump(netlink, states, Filter::default(), &mut each)?;
            }
            None => sockets::from_files(&files.net, &mut each)?,
        }
        for socket in &idle {
            look.table.add(socket);
        }
        Ok(look)
    }

    /// True when one of these buckets has closed connections behind it, or nothing is connected much:
    /// then the looks in between cost next to nothing.
    fn churns(&self, shown: &Shown) -> bool {
        self.live.len() < MANY_LIVE
            || self.table.buckets.iter().any(|bucket| {
                shown.buckets.contains(&bucket.key)
                    && bucket.sockets.iter().any(|entry| entry.state == TcpState::TimeWait)
            })
    }

    /// True when one of these buckets is full of TIME_WAITs and has hardly a live socket: its
    /// connections are too short-lived to be found by looking at sockets.
    fn has_orphans(&self, table: &SocketTable, shown: &Shown) -> bool {
        let mut live: HashMap<usize, usize> = HashMap::new();
        for socket in &self.live {
            *live.entry(socket.bucket).or_default() += 1;
        }
        table.buckets.iter().enumerate().any(|(index, bucket)| {
            let live = live.get(&index).copied().unwrap_or(0);
            bucket.sockets.len() >= MANY_TIME_WAITS
                && live * 20 < bucket.sockets.len()
                && shown.buckets.contains(&bucket.key)
        })
    }

    /// The live sockets of these buckets.
    fn live_of(&self, table: &SocketTable, shown: &Shown) -> impl Iterator<Item = &Live> {
        let wanted: Vec<bool> =
            table.buckets.iter().map(|b| shown.buckets.contains(&b.key)).collect();
        self.live.iter().filter(move |live| wanted.get(live.bucket) == Some(&true))
    }

    /// The inodes whose owner is wanted: live sockets of these buckets, and listeners that have one
    /// of these ports.
    fn inodes(&self, table: &SocketTable, shown: &Shown) -> Inodes {
        let bound = table
            .bound
            .iter()
            .filter(|bound| shown.listeners.contains(bound.local.port()))
            .take(MAX_LISTENERS)
            .map(|bound| bound.inode);
        let live = self.live_of(table, shown).map(|live| live.inode);
        live.chain(bound).filter(|inode| *inode != 0).collect()
    }
}

/// What the report will show, and owners are therefore wanted of.
struct Shown {
    buckets: HashSet<BucketKey>,
    listeners: PortSet,
}

impl Shown {
    fn of(snapshot: &HostSnapshot, count: usize) -> Self {
        let buckets = crate::rules::shown(snapshot, count).into_iter().collect();
        let mut listeners = snapshot.pool();
        if let Some(port) = snapshot.bind_asked {
            listeners.insert(port);
        }
        Self { buckets, listeners }
    }
}

fn read(options: &ReadOptions, files: Files, live_host: bool) -> Result<HostSnapshot, ReadError> {
    let mut snapshot = HostSnapshot {
        version: SNAPSHOT_VERSION,
        taken_at_ms: now_ms(),
        netns: label(options, live_host),
        enter: options.namespace.command_prefix(),
        ..HostSnapshot::default()
    };
    files.read_into(&mut snapshot);
    if options.skip_empty && options.to.is_empty() && files.is_empty() {
        return Ok(snapshot);
    }
    let mut netlink = None;
    if live_host {
        match Netlink::open() {
            Ok(opened) => netlink = Some(opened),
            Err(error) => snapshot.unknown.push(no_netlink(&error)),
        }
    }
    let mut owners = match options.interval {
        Some(_) => Owners::new(&options.root),
        None => Owners::new(&options.root).quickly(),
    };
    let two_looks = options.interval.is_some();
    let list = |counts: &Counts| evidence::cheap_to_list(counts);
    let with_bound = !two_looks && list(&snapshot.counts);
    let first = match Look::take(netlink.as_ref(), &files, &owners, with_bound) {
        Err(error) if netlink.is_some() => {
            snapshot.unknown.push(no_netlink(&error));
            netlink = None;
            Look::take(None, &files, &owners, false)
        }
        other => other,
    };
    let sockets_error = |source| ReadError::Sockets { path: files.net.join("tcp"), source };
    let mut look = first.map_err(sockets_error)?;
    snapshot.bind_asked = options.bind;
    if live_host {
        snapshot.devices = sys::devices().unwrap_or_default();
        snapshot.asked = options.to.iter().map(|to| ask(to, options.from)).collect();
        if let Some(from) = options.from.filter(|_| options.to.is_empty()) {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            snapshot.asked.push(ask(&(from.to_string(), nowhere), options.from));
        }
    }
    let mut timestamps = TimestampEvidence::default();
    let mut openers = BTreeMap::new();
    if let Some(interval) = options.interval {
        let started = Instant::now();
        // The table is lent to the snapshot, for the rules to say what they would show of it.
        std::mem::swap(&mut snapshot.sockets, &mut look.table);
        let shown = Shown::of(&snapshot, options.shown);
        std::mem::swap(&mut snapshot.sockets, &mut look.table);
        let watch = Watch { netlink: netlink.as_ref(), interval, options, shown };
        openers = watch.live_sockets(&look, &mut owners, &mut timestamps);
        let mut before = std::mem::take(&mut look).table;
        before.sort();
        let counts_before = snapshot.counts.clone();
        std::thread::sleep(interval.saturating_sub(started.elapsed()));
        let counts = files.counts();
        look =
            Look::take(netlink.as_ref(), &files, &owners, list(&counts)).map_err(sockets_error)?;
        look.table.sort();
        snapshot.interval_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        snapshot.rates = rates(&before, &look.table, snapshot.interval_ms);
        snapshot.counts = grown(counts, &counts_before);
        snapshot.taken_at_ms = now_ms();
    }
    if !options.about_files {
        snapshot.counts.files = None;
    }
    snapshot.sockets = std::mem::take(&mut look.table);
    if let Some(netlink) = &netlink {
        let reuse = snapshot.settings.tw_reuse;
        if options.assume_reuse {
            snapshot.settings.tw_reuse = 1;
        }
        learn_timestamps(&mut snapshot, netlink, &look, timestamps);
        evidence::gather(&mut snapshot, netlink, options.probe_limit, look.with_bound);
        snapshot.settings.tw_reuse = reuse;
    } else {
        snapshot.evidence.idle_at_most = evidence::idle_at_most(&snapshot).unwrap_or(u32::MAX);
        snapshot.unknown.push(Unknown {
            what: "timestamps, idle bound sockets and explicitly bound ports".to_owned(),
            why: "only netlink and probing from inside the namespace show them".to_owned(),
        });
    }
    if options.owners {
        attribute(&mut snapshot, &look, &mut owners, &openers, options);
    }
    Ok(snapshot)
}

/// How much the counters grew since.
fn grown(mut now: Counts, before: &Counts) -> Counts {
    now.time_wait_overflow_grew = now.time_wait_overflow.saturating_sub(before.time_wait_overflow);
    now.conntrack_drops_grew = now.conntrack_drops.saturating_sub(before.conntrack_drops);
    now.insert_failed_grew = now.insert_failed.saturating_sub(before.insert_failed);
    now
}

/// What is done within the interval: finding owners, and catching short-lived connections.
struct Watch<'a> {
    netlink: Option<&'a Netlink>,
    interval: Duration,
    options: &'a ReadOptions,
    shown: Shown,
}

impl Watch<'_> {
    /// Returns the processes that opened sockets meanwhile, with how many, where that was watched.
    fn live_sockets(
        &self,
        first: &Look,
        owners: &mut Owners,
        timestamps: &mut TimestampEvidence,
    ) -> BTreeMap<u32, u32> {
        let started = Instant::now();
        let mut openers = BTreeMap::new();
        if self.options.owners {
            owners.find(&first.inodes(&first.table, &self.shown));
            for live in first.live_of(&first.table, &self.shown) {
                owners.remember(live.cookie, live.inode);
            }
            if first.has_orphans(&first.table, &self.shown) {
                owners.start_watching();
            }
        }
        let Some(netlink) = self.netlink else { return BTreeMap::new() };
        // Live sockets are looked at in between for whoever closes them soon. Where none of the
        // buckets has TIME_WAITs, nobody does, and a dump of many sockets is not free.
        if !first.churns(&self.shown) {
            return BTreeMap::new();
        }
        for step in 1..LIVE_LOOKS {
            for watch in 1..=WATCHES {
                let at = self.interval * ((step - 1) * WATCHES + watch) / (LIVE_LOOKS * WATCHES);
                std::thread::sleep(at.saturating_sub(started.elapsed()));
                owners.keep_watching(&mut openers);
            }
            let mut live: Vec<Socket> = Vec::new();
            let dumped = sockets::dump(netlink, diag::LIVE, Filter::default(), |socket| {
                let client_side = !first.table.bound_ports.contains(socket.local.port());
                if socket.inode != 0 && client_side && live.len() < MAX_INODES {
                    live.push(*socket);
                }
            });
            if dumped.is_err() {
                break;
            }
            for socket in &live {
                if timestamps.learn(netlink, socket).is_err() {
                    break;
                }
            }
            if self.options.owners {
                live.retain(|socket| self.shown.buckets.contains(&BucketKey::of(socket)));
                owners.find_again(&live.iter().map(|s| s.inode).collect());
                live.iter().for_each(|socket| owners.remember(socket.cookie, socket.inode));
            }
        }
        owners::caught(&openers)
    }
}

fn learn_timestamps(
    snapshot: &mut HostSnapshot,
    netlink: &Netlink,
    look: &Look,
    mut timestamps: TimestampEvidence,
) {
    let wanted = evidence::destinations_in_question(snapshot);
    for live in &look.live {
        let Some(bucket) = snapshot.sockets.buckets.get(live.bucket) else { continue };
        if wanted.contains(&bucket.key.dst)
            && timestamps.learn(netlink, &evidence::as_socket(&bucket.key, live.port)).is_err()
        {
            break;
        }
    }
    snapshot.evidence.timestamps = timestamps.finish();
}

fn rates(before: &SocketTable, now: &SocketTable, interval_ms: u32) -> BTreeMap<BucketKey, Rate> {
    let earlier: HashMap<BucketKey, usize> =
        before.buckets.iter().enumerate().map(|(index, b)| (b.key, index)).collect();
    let per_s = |n: u32| f64::from(n) * 1000.0 / f64::from(interval_ms.max(1));
    now.buckets
        .iter()
        .filter_map(|bucket| {
            let old = earlier.get(&bucket.key).and_then(|index| before.buckets.get(*index));
            let old = old.map_or(&[][..], |b| &b.sockets);
            let changes = changes(old, &bucket.sockets, interval_ms);
            (changes.opened > 0 || changes.closed > 0).then(|| {
                let rate = Rate {
                    opens_per_s: per_s(changes.opened),
                    closes_per_s: per_s(changes.closed),
                };
                (bucket.key, rate)
            })
        })
        .collect()
}

/// Says who has the sockets of each bucket that will be shown, and the bound ports.
fn attribute(
    snapshot: &mut HostSnapshot,
    look: &Look,
    owners: &mut Owners,
    openers: &BTreeMap<u32, u32>,
    options: &ReadOptions,
) {
    let shown = Shown::of(snapshot, options.shown);
    let mut wanted = look.inodes(&snapshot.sockets, &shown);
    let holding = holding(snapshot, look);
    wanted.extend(holding.iter().map(|(_, inode)| *inode).filter(|inode| *inode != 0));
    owners.find(&wanted);
    let mut by_bucket: HashMap<usize, BTreeMap<u32, u32>> = look.recognized.clone();
    for live in look.live_of(&snapshot.sockets, &shown) {
        if let Some(pid) = owners.of_inode(live.inode) {
            *by_bucket.entry(live.bucket).or_default().entry(pid).or_insert(0) += 1;
        }
    }
    let mut by_destination: HashMap<SocketAddr, BTreeMap<u32, u32>> = HashMap::new();
    for (index, pids) in &by_bucket {
        let Some(bucket) = snapshot.sockets.buckets.get(*index) else { continue };
        let all = by_destination.entry(bucket.key.destination()).or_default();
        for (pid, sockets) in pids {
            *all.entry(*pid).or_insert(0) += sockets;
        }
    }
    let mut unseen = false;
    for (index, bucket) in snapshot.sockets.buckets.iter().enumerate() {
        if !shown.buckets.contains(&bucket.key) {
            continue;
        }
        let own = by_bucket.get(&index);
        let known: usize = own.map_or(0, |pids| pids.values().map(|n| *n as usize).sum());
        unseen |= known < bucket.sockets.len();
        let churns = bucket.sockets.len() >= MANY_TIME_WAITS;
        let Some(pids) = own
            .or_else(|| by_destination.get(&bucket.key.destination()))
            .or_else(|| (churns && !openers.is_empty()).then_some(openers))
        else {
            continue;
        };
        // Where most of a bucket's sockets have no known owner, the known ones only hint.
        let most = known * 2 >= bucket.sockets.len();
        let confidence = if most { Confidence::Seen } else { Confidence::Likely };
        let mut list: Vec<Owner> =
            pids.iter().map(|(pid, n)| owners.owner(*pid, confidence, *n)).collect();
        list.sort_by_key(|owner| (std::cmp::Reverse(owner.sockets), owner.pid));
        list.truncate(MAX_OWNERS);
        snapshot.owners.insert(bucket.key, list);
    }
    for bound in &snapshot.sockets.bound {
        if let Some(pid) = owners.of_inode(bound.inode) {
            let owner = owners.owner(pid, Confidence::Seen, 1);
            snapshot.listeners.entry(bound.local.port()).or_insert(owner);
        }
    }
    snapshot.holders = holding
        .into_iter()
        .map(|(mut holder, inode)| {
            let pid = owners.of_inode(inode);
            holder.owner = pid.map(|pid| owners.owner(pid, Confidence::Seen, 1));
            holder
        })
        .collect();
    if options.about_files {
        // Whoever has a socket here may be short of files; nobody else concerns this namespace.
        let live = look.live.iter().map(|live| live.inode);
        let bound = snapshot.sockets.bound.iter().map(|bound| bound.inode);
        let all: Inodes = live.chain(bound).filter(|inode| *inode != 0).collect();
        owners.find(&all);
        snapshot.short_of_files = owners.short_of_files(owners.processes_with(&all));
    } else {
        let pids: BTreeSet<u32> =
            snapshot.owners.values().flatten().map(|owner| owner.pid).collect();
        snapshot.near_file_limit = owners.short_of_files(pids);
    }
    let hidden = if unseen || options.about_files { owners.hidden() } else { 0 };
    if hidden > 0 {
        snapshot.unknown.push(Unknown {
            what: format!("the sockets of {hidden} processes of other users"),
            why: "run as root to see whose connections these are".to_owned(),
        });
    }
}

/// The outgoing connections on the local port that could not be bound, with their inodes.
fn holding(snapshot: &HostSnapshot, look: &Look) -> Vec<(Holder, u32)> {
    let Some(port) = snapshot.bind_asked else { return Vec::new() };
    let mut found = Vec::new();
    for (index, bucket) in snapshot.sockets.buckets.iter().enumerate() {
        for entry in bucket.sockets.iter().filter(|entry| entry.port == port) {
            let inode = look
                .live
                .iter()
                .find(|live| live.bucket == index && live.port == port)
                .map_or(0, |live| live.inode);
            let holder = Holder {
                local: SocketAddr::new(bucket.key.src, port),
                remote: bucket.key.destination(),
                state: entry.state,
                owner: None,
            };
            found.push((holder, inode));
            if found.len() >= MAX_HOLDERS {
                return found;
            }
        }
    }
    found
}

fn ask((name, destination): &(String, SocketAddr), from: Option<IpAddr>) -> Asked {
    let destination = match (unmapped(destination.ip()), destination) {
        // A link-local address keeps its device.
        (IpAddr::V6(_), scoped) => *scoped,
        (v4, mapped) => SocketAddr::new(v4, mapped.port()),
    };
    let errno = |error: &io::Error| match error.raw_os_error() {
        Some(libc::ENETUNREACH) => "ENETUNREACH".to_owned(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".to_owned(),
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::EINVAL) => "EINVAL".to_owned(),
        Some(libc::ENODEV) => "ENODEV".to_owned(),
        Some(libc::EPERM) => "EPERM".to_owned(),
        _ => error.to_string(),
    };
    let source = match from {
        Some(from) => match sys::can_bind(unmapped(from)) {
            Ok(()) => SourceAnswer::Local(unmapped(from)),
            Err(_) => SourceAnswer::NotLocal(unmapped(from)),
        },
        None => match source_toward(destination) {
            Ok(source) => SourceAnswer::Local(source),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                SourceAnswer::NoSource
            }
            Err(error) => SourceAnswer::NoRoute(errno(&error)),
        },
    };
    Asked { name: name.clone(), destination, source, from_given: from.is_some() }
}

/// Which source address leads to a destination. The routing table is asked twice where UDP has no
/// port left to ask with.
pub(crate) fn source_toward(dst: SocketAddr) -> io::Result<IpAddr> {
    match sys::source_toward(dst) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
            let netlink = Netlink::open_route()?;
            netlink.send(&diag::route_request(dst.ip()))?;
            let mut buffer = vec![0u8; 4096];
            let length = netlink.receive(&mut buffer)?;
            match diag::route_source(buffer.get(..length).unwrap_or(&[])) {
                Ok(Some(source)) => Ok(source),
                Ok(None) => Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
                Err(errno) => Err(io::Error::from_raw_os_error(errno)),
            }
        }
        answer => answer,
    }
}

fn no_netlink(error: &io::Error) -> Unknown {
    Unknown {
        what: "sockets through netlink".to_owned(),
        why: format!("the kernel refused ({error}); /proc/net/tcp is read instead"),
    }
}

fn label(options: &ReadOptions, live_host: bool) -> String {
    let name = options.namespace.label();
    match Namespace::Current.inode() {
        Ok(inode) if live_host && options.namespace == Namespace::Current => {
            format!("net:[{inode}]")
        }
        _ => name,
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

impl HostSnapshot {
    /// The buckets that were asked for, where the source is known.
    pub fn asked_keys(&self) -> Vec<BucketKey> {
        let mut keys: Vec<BucketKey> = Vec::new();
        for asked in &self.asked {
            if let SourceAnswer::Local(src) = asked.source
                && asked.destination.port() != 0
            {
                let (dst, dport) = (asked.destination.ip(), asked.destination.port());
                // The kernel binds a socket to the device that a link-local destination names.
                let interface = match asked.destination {
                    SocketAddr::V6(scoped) => scoped.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let key = BucketKey { src, dst, dport, interface };
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// All ports in the range that may be chosen automatically.
    pub fn pool(&self) -> PortSet {
        let mut pool = PortSet::of(self.settings.range);
        pool.subtract(&self.settings.reserved);
        pool
    }
}
