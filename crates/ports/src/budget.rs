//! How many more connections can a bucket open?
//!
//! The model of Linux's port selection (`__inet_hash_connect`), pure:
//!
//! ```text
//! remaining(src, dst, dport) =
//!     |{ p in range : not reserved(p) and not bound(p) and not taken(p) }|
//! ```
//!
//! *bound*: any TCP socket of the namespace has port p by other means than `connect()`: it costs
//! every destination that port. *taken*: this very four-tuple exists, and is not a TIME_WAIT that
//! may be reused. Where the evidence is not complete the answer is an interval with its reasons,
//! never a guess.
//!
//! What it does not know: UDP, conntrack, routes; `rules` look at those.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::diag::TcpState;
use crate::ranges::{PortRange, PortSet};
use crate::snapshot::{HostSnapshot, Settings, TimestampUse};
use crate::table::{Bucket, BucketKey, Entry};

/// How long Linux keeps a TIME_WAIT (`TCP_TIMEWAIT_LEN`), in milliseconds. No setting changes it.
pub const TIME_WAIT_MS: u32 = 60_000;

/// At least `min`, at most `max`; equal when the answer is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interval {
    /// At least so many.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

impl Interval {
    /// True when `value` lies in it.
    pub fn contains(self, value: u32) -> bool {
        self.min <= value && value <= self.max
    }

    /// True when there is only one value.
    pub fn is_exact(self) -> bool {
        self.min == self.max
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_exact() {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// Why an answer is an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The kernel's scan of an odd-sized range leaves one port out, depending on where it starts.
    OddRange,
    /// So many TIME_WAITs are reusable only if they negotiated timestamps, and no live connection
    /// shows whether they did.
    Timestamps(u32),
    /// So many ports carry sockets of which nobody knows whether they were bound explicitly.
    Binding(u32),
    /// At most so many ports are bound explicitly: a random sample of those in doubt was probed, and
    /// none of it was (99.9 % certain).
    Sampled(u32),
    /// At most so many sockets are bound and idle; listing them costs more than they matter here.
    Idle(u32),
}

/// How a bucket stands, for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// No connection will succeed.
    Exhausted,
    /// At least half of the ports are taken.
    Scarce,
    /// More than half are left.
    Ample,
}

/// A bucket with this part of its ports taken is scarce: each `connect()` then searches for
/// milliseconds.
pub const CLIFF: f64 = 0.5;

/// What a bucket can still do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Which bucket.
    pub key: BucketKey,
    /// Ports that exist for it: in the range, not reserved, not known to be bound.
    pub usable: u32,
    /// Those taken for certain; `usable - used` is `remaining.max`.
    pub used: u32,
    /// How many more connections will succeed.
    pub remaining: Interval,
    /// Why `remaining` is not exact.
    pub doubts: Vec<Doubt>,
    /// The only port left is one that the kernel's scan of an odd-sized range hardly ever reaches.
    #[serde(default)]
    pub hardly_reached: bool,
}

/// The scan of an odd-sized range reaches its lowest port only if it begins there: once in half as
/// many times as there are ports. From so many on that is no port to count on.
const HARDLY: u32 = 65;

impl Budget {
    /// The part that is used, 0 to 1; 1 when nothing is usable.
    pub fn pressure(&self) -> f64 {
        if self.usable == 0 { 1.0 } else { f64::from(self.used) / f64::from(self.usable) }
    }

    /// No connection will succeed, or only one on the port that the kernel's scan of an odd-sized
    /// range hardly ever reaches.
    pub fn is_used_up(&self) -> bool {
        self.remaining.max == 0 || (self.hardly_reached && self.doubts == [Doubt::OddRange])
    }

    /// How it stands if everything in doubt is as good as it can be.
    pub fn at_best(&self) -> Standing {
        if self.is_used_up() {
            Standing::Exhausted
        } else if self.pressure() >= CLIFF {
            Standing::Scarce
        } else {
            Standing::Ample
        }
    }

    /// How it stands if everything in doubt is as bad as it can be. The one port that the scan of an
    /// odd-sized range leaves to chance does not count.
    pub fn at_worst(&self) -> Standing {
        let odd = u32::from(self.doubts.contains(&Doubt::OddRange));
        let left = (self.remaining.min + odd).min(self.remaining.max);
        if left == 0 || self.is_used_up() {
            Standing::Exhausted
        } else if f64::from(self.usable.saturating_sub(left)) >= f64::from(self.usable) * CLIFF {
            Standing::Scarce
        } else {
            Standing::Ample
        }
    }

    /// True when the verdict on it does not depend on what is in doubt. A bucket that is scarce for
    /// certain is decided, also where it may be exhausted.
    pub fn is_decided(&self) -> bool {
        self.at_best() != Standing::Ample || self.at_worst() == Standing::Ample
    }
}

/// The model over one snapshot.
#[derive(Debug)]
pub struct Model<'a> {
    snapshot: &'a HostSnapshot,
    /// Bound for certain.
    bound: PortSet,
    /// Carries a socket, and nothing says how that socket came by the port.
    doubtful: PortSet,
    /// All buckets in the order of their four-tuple without the port: those of one lie together.
    order: Vec<&'a Bucket>,
}

impl<'a> Model<'a> {
    /// Prepares the sets that all buckets share.
    pub fn new(snapshot: &'a HostSnapshot) -> Self {
        let mut bound = snapshot.sockets.bound_ports.clone();
        bound.union_with(&snapshot.evidence.bound);
        let mut doubtful = snapshot.sockets.carried.clone();
        doubtful.subtract(&bound);
        doubtful.subtract(&snapshot.evidence.free);
        let mut order: Vec<&Bucket> = snapshot.sockets.buckets.iter().collect();
        order.sort_unstable_by_key(|bucket| tuple(&bucket.key));
        Self { snapshot, bound, doubtful, order }
    }

    /// The same, where sockets toward other destinations are not listed, or are taken for what they
    /// nearly always are: opened by `connect()`.
    pub(crate) fn of_connects(snapshot: &'a HostSnapshot) -> Self {
        Self { doubtful: PortSet::new(), ..Self::new(snapshot) }
    }

    /// Ports in the range and not reserved.
    pub fn pool(&self) -> PortSet {
        self.pool_in(self.snapshot.settings.range)
    }

    fn pool_in(&self, range: PortRange) -> PortSet {
        let mut pool = PortSet::of(range);
        pool.subtract(&self.snapshot.settings.reserved);
        pool
    }

    /// Ports that are bound by other means than `connect()`, in the range and not reserved.
    pub fn bound_in_pool(&self) -> PortSet {
        let mut bound = self.pool();
        bound.intersect_with(&self.bound);
        bound
    }

    /// The budget of a destination that nothing is connected to yet.
    pub fn fresh(&self) -> Budget {
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        self.budget(BucketKey { src: nowhere, dst: nowhere, dport: 0, interface: 0 })
    }

    /// Ports in the range of which nothing says how their sockets came by them.
    pub fn in_doubt(&self) -> PortSet {
        let mut doubtful = self.pool();
        doubtful.intersect_with(&self.doubtful);
        doubtful
    }

    /// The budget of a bucket, whether or not it holds anything yet.
    pub fn budget(&self, key: BucketKey) -> Budget {
        self.compute(key, None).0
    }

    /// The same for a socket that sets `IP_LOCAL_PORT_RANGE`. An option wholly outside the
    /// namespace's range is ignored, as the kernel does.
    pub fn budget_with_range(&self, key: BucketKey, option: PortRange) -> Budget {
        self.compute(key, Some(option)).0
    }

    /// Ports whose binding would have to be known to make this bucket's answer exact.
    pub fn doubtful_ports(&self, key: BucketKey) -> PortSet {
        self.compute(key, None).1
    }

    fn compute(&self, key: BucketKey, option: Option<PortRange>) -> (Budget, PortSet) {
        let settings = &self.snapshot.settings;
        let option = option.and_then(|o| o.intersect(settings.range));
        let range = option.unwrap_or(settings.range);
        let mut usable = self.pool_in(range);
        usable.subtract(&self.bound);
        // The kernel steps by two from a random even offset; with a range of three the last port
        // is never reached. A socket with its own range is scanned one by one.
        let odd = option.is_none() && range.len() % 2 == 1 && range.len() > 1;
        if odd && range.len() == 3 {
            usable.remove(range.high);
        }
        let mut free = usable.clone();
        let mut unsure = PortSet::new();
        for entry in self.entries(key) {
            match reuse(settings, &self.snapshot.evidence.timestamps, key, entry) {
                Reuse::Yes => {}
                Reuse::Unsure => {
                    unsure.insert(entry.port);
                }
                Reuse::No => free.remove(entry.port),
            }
        }
        let most = free.len();
        let hardly_reached = odd && range.len() >= HARDLY && most == 1 && free.contains(range.low);
        let mut doubts = Vec::new();
        let mut to_probe = self.doubtful.clone();
        to_probe.intersect_with(&free);
        unsure.intersect_with(&free);
        free.subtract(&unsure);
        let ends = free.contains(range.low) || free.contains(range.high);
        // What is unsure for its timestamps counts there already.
        let mut doubtful = to_probe.clone();
        doubtful.intersect_with(&free);
        free.subtract(&doubtful);
        let mut least = free.len();
        // Of a sample none was bound: then only so many of the others can be.
        let sampled = self.snapshot.evidence.bound_at_most.filter(|most| *most < doubtful.len());
        if let Some(bound) = sampled {
            least += doubtful.len() - bound;
        }
        if odd && range.len() > 3 && ends {
            least = least.saturating_sub(1);
            doubts.push(Doubt::OddRange);
        }
        if !unsure.is_empty() {
            doubts.push(Doubt::Timestamps(unsure.len()));
        }
        match sampled {
            Some(bound) => doubts.push(Doubt::Sampled(bound)),
            None if !doubtful.is_empty() => doubts.push(Doubt::Binding(doubtful.len())),
            None => {}
        }
        if !self.snapshot.evidence.bound_listed && self.snapshot.evidence.idle_at_most > 0 {
            least = least.saturating_sub(self.snapshot.evidence.idle_at_most);
            doubts.push(Doubt::Idle(self.snapshot.evidence.idle_at_most));
        }
        let usable = usable.len();
        let remaining = Interval { min: least, max: most };
        let used = usable.saturating_sub(most);
        (Budget { key, usable, used, remaining, doubts, hardly_reached }, to_probe)
    }

    /// The sockets that stand in the way of this bucket. A socket bound to another device does
    /// not; one bound to no device stands in everybody's.
    fn entries(&self, key: BucketKey) -> impl Iterator<Item = &Entry> {
        let first = self.order.partition_point(|bucket| tuple(&bucket.key) < tuple(&key));
        self.order
            .iter()
            .skip(first)
            .take_while(move |bucket| tuple(&bucket.key) == tuple(&key))
            .filter(move |b| b.key.interface == 0 || b.key.interface == key.interface)
            .flat_map(|b| &b.sockets)
    }
}

fn tuple(key: &BucketKey) -> (IpAddr, u16, IpAddr) {
    (key.dst, key.dport, key.src)
}

/// May the kernel reuse this TIME_WAIT for a new connection of the same four-tuple?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Yes,
    No,
    Unsure,
}

fn reuse(
    settings: &Settings,
    timestamps: &std::collections::BTreeMap<IpAddr, TimestampUse>,
    key: BucketKey,
    entry: &Entry,
) -> Reuse {
    let old_enough = TIME_WAIT_MS.saturating_sub(entry.expires_ms) > settings.tw_reuse_delay_ms;
    if entry.state != TcpState::TimeWait || !reuse_allowed(settings, key) || !old_enough {
        return Reuse::No;
    }
    match timestamps.get(&key.dst) {
        Some(TimestampUse::On) => Reuse::Yes,
        Some(TimestampUse::Off) => Reuse::No,
        Some(TimestampUse::Mixed) | None => Reuse::Unsure,
    }
}

/// Whether `tcp_tw_reuse` covers this bucket at all.
pub fn reuse_allowed(settings: &Settings, key: BucketKey) -> bool {
    match settings.tw_reuse {
        0 => false,
        1 => true,
        _ => key.src.is_loopback() || key.dst.is_loopback(),
    }
}

/// How many connections a second a bucket can open for ever, when each is closed at once by this
/// side and leaves a TIME_WAIT.
pub fn sustainable_per_s(
    settings: &Settings,
    usable: u32,
    key: BucketKey,
    timestamps: bool,
) -> f64 {
    let hold_ms = if reuse_allowed(settings, key) && timestamps {
        settings.tw_reuse_delay_ms.clamp(1, TIME_WAIT_MS)
    } else {
        TIME_WAIT_MS
    };
    f64::from(usable) * 1000.0 / f64::from(hold_ms)
}

/// The answer to [`usable_ports_toward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCount {
    /// Ports that exist for this bucket.
    pub usable: u32,
    /// Those taken.
    pub used: u32,
    /// How many more connections will succeed.
    pub remaining: Interval,
}

/// Why the ports toward a destination could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The sockets cannot be read.
    #[error("cannot list the sockets toward {dst}")]
    Sockets {
        /// The destination.
        dst: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no way there, or no source address.
    #[error("cannot tell which source address leads to {dst}")]
    Source {
        /// The destination.
        dst: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Counts the ports toward one destination in the calling thread's namespace.
///
/// The kernel does the filtering, so the cost is one walk of its table (about 12 ms of CPU where
/// the table is large) however many sockets there are. Sockets toward other destinations are taken
/// for what they nearly always are, opened by `connect()`; [`crate::read::host`] proves it.
/// `src` is asked of the routing table when it is not given.
pub fn usable_ports_toward(dst: SocketAddr, src: Option<IpAddr>) -> Result<PortCount, CountError> {
    let dst = SocketAddr::new(crate::diag::unmapped(dst.ip()), dst.port());
    let src = match src {
        Some(src) => crate::diag::unmapped(src),
        None => {
            crate::read::source_toward(dst).map_err(|source| CountError::Source { dst, source })?
        }
    };
    let snapshot =
        crate::read::toward(dst).map_err(|source| CountError::Sockets { dst, source })?;
    let key = BucketKey { src, dst: dst.ip(), dport: dst.port(), interface: 0 };
    let model = Model::of_connects(&snapshot);
    let budget = model.budget(key);
    Ok(PortCount { usable: budget.usable, used: budget.used, remaining: budget.remaining })
}
