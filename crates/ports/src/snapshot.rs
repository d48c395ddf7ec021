//! A [`HostSnapshot`]: everything the model and the rules look at, as one value.
//!
//! It is plain data and serializes to JSON, so a host can be recorded (`doctor --record`) and
//! judged elsewhere (`doctor --from-snapshot`). It knows nothing of how it was read. What could
//! not be read is not left out silently: it is in [`HostSnapshot::unknown`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::diag::TcpState;
use crate::proc::Ipv6Address;
use crate::ranges::{PortRange, PortSet};
use crate::table::{BucketKey, SocketTable};

/// The version of the JSON form.
pub const SNAPSHOT_VERSION: u32 = 1;

/// A network namespace at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// Unix time in milliseconds.
    pub taken_at_ms: u64,
    /// The namespace, as a person would call it.
    pub netns: String,
    /// What to put before a command so that it runs in this namespace; empty for the own one.
    #[serde(default)]
    pub enter: String,
    /// Kernel release, such as `6.18.44`.
    pub kernel: String,
    /// Settings of the namespace.
    pub settings: Settings,
    /// Its TCP sockets.
    pub sockets: SocketTable,
    /// What is known about ports bound by other means than `connect()`.
    pub evidence: Evidence,
    /// Opened and closed per second, by bucket; only where two looks were taken.
    #[serde(default, with = "by_bucket")]
    pub rates: BTreeMap<BucketKey, Rate>,
    /// Time between the two looks, in milliseconds; 0 when there was one.
    #[serde(default)]
    pub interval_ms: u32,
    /// Who has, or probably has, the sockets of a bucket.
    #[serde(default, with = "by_bucket")]
    pub owners: BTreeMap<BucketKey, Vec<Owner>>,
    /// Who has a listening or idle bound port, by port.
    #[serde(default)]
    pub listeners: BTreeMap<u16, Owner>,
    /// IPv6 addresses; empty means that no IPv6 connect can work.
    pub ipv6_addresses: Vec<Ipv6Address>,
    /// What `/etc/hosts` says `localhost` is, in its order.
    #[serde(default)]
    pub localhost: Vec<IpAddr>,
    /// Sums over the namespace.
    pub counts: Counts,
    /// Processes close to their limit of open files, where the error in question is about files.
    #[serde(default)]
    pub short_of_files: Vec<FileUse>,
    /// The same for owners of the sockets shown, where nobody asked about files.
    #[serde(default)]
    pub near_file_limit: Vec<FileUse>,
    /// Network devices, those that are down included.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The local port that somebody could not bind, as an error message has it.
    #[serde(default)]
    pub bind_asked: Option<u16>,
    /// Outgoing connections that sit on [`HostSnapshot::bind_asked`].
    #[serde(default)]
    pub holders: Vec<Holder>,
    /// The destination that was asked for.
    #[serde(default)]
    pub asked: Vec<Asked>,
    /// What could not be seen.
    #[serde(default)]
    pub unknown: Vec<Unknown>,
}

/// Sysctls under `net`; a missing one is one the kernel (or the reader's rights) did not show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `ip_local_port_range`.
    pub range: PortRange,
    /// `ip_local_reserved_ports`.
    pub reserved: PortSet,
    /// `tcp_tw_reuse`: 0 off, 1 on, 2 loopback only.
    pub tw_reuse: u8,
    /// `tcp_tw_reuse_delay` in milliseconds (1000 before Linux 6.14).
    pub tw_reuse_delay_ms: u32,
    /// `tcp_timestamps`.
    pub timestamps: u8,
    /// `tcp_fin_timeout` in seconds.
    pub fin_timeout_s: u32,
    /// `tcp_max_tw_buckets`.
    pub max_tw_buckets: Option<u64>,
    /// `tcp_fastopen`.
    pub fastopen: Option<u32>,
    /// `ipv4/ip_nonlocal_bind`.
    pub nonlocal_bind: bool,
    /// `ip_unprivileged_port_start`.
    pub unprivileged_port_start: u16,
    /// `ipv6/conf/all/disable_ipv6`; nothing when there is no IPv6 at all.
    pub disable_ipv6: Option<bool>,
    /// True where the removed `tcp_tw_recycle` still exists (before 4.12) and is on.
    #[serde(default)]
    pub tw_recycle: bool,
    /// Keys that could not be read although answers rest on them; the kernel's default stands in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
}

impl Default for Settings {
    /// The kernel's defaults.
    fn default() -> Self {
        Self {
            range: PortRange { low: 32768, high: 60999 },
            reserved: PortSet::new(),
            tw_reuse: 2,
            tw_reuse_delay_ms: 1000,
            timestamps: 1,
            fin_timeout_s: 60,
            max_tw_buckets: None,
            fastopen: None,
            nonlocal_bind: false,
            unprivileged_port_start: 1024,
            disable_ipv6: Some(false),
            tw_recycle: false,
            assumed: Vec::new(),
        }
    }
}

/// What closes the holes that sockets alone leave (see `budget`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Ports proven to be bound by other means than `connect()`, beyond the listed bound sockets.
    pub bound: PortSet,
    /// Ports proven not to be.
    pub free: PortSet,
    /// Whether TCP timestamps are negotiated with a destination address, as its live connections
    /// show. A destination without a live connection is missing.
    pub timestamps: BTreeMap<IpAddr, TimestampUse>,
    /// Whether idle bound sockets were listed (Linux 6.8 and later show them).
    pub bound_listed: bool,
    /// Where they were not: there are at most so many.
    #[serde(default)]
    pub idle_at_most: u32,
    /// Of the ports in doubt only a random sample was probed, and none of it was bound: then at most
    /// so many of the others are, with a certainty of 99.9 %.
    #[serde(default)]
    pub bound_at_most: Option<u32>,
    /// How many ports were probed.
    #[serde(default)]
    pub probed: u32,
    /// How long that took, in microseconds.
    #[serde(default)]
    pub probe_us: u64,
}

/// What live connections to one destination negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampUse {
    /// All that were looked at have timestamps.
    On,
    /// None has.
    Off,
    /// Some have.
    Mixed,
}

/// Connections per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Opened.
    pub opens_per_s: f64,
    /// Closed.
    pub closes_per_s: f64,
}

/// How sure we are of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The process had this very socket open when we looked.
    Seen,
    /// It has other sockets to the same destination; the ones in question are closed already.
    Likely,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub command: String,
    /// How sure.
    pub confidence: Confidence,
    /// How many sockets of the bucket.
    pub sockets: u32,
}

/// Sums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// UDP sockets of both families.
    pub udp: u64,
    /// `TCPTimeWaitOverflow`: connections that got no TIME_WAIT because there were too many.
    pub time_wait_overflow: u64,
    /// The same, how much it grew between the two looks.
    #[serde(default)]
    pub time_wait_overflow_grew: u64,
    /// `ActiveOpens`: connections opened since the namespace exists.
    pub active_opens: u64,
    /// Connection-tracking entries and their limit, where there is connection tracking.
    pub conntrack: Option<(u64, u64)>,
    /// Connections dropped by a full connection-tracking table, if the file shows it.
    #[serde(default)]
    pub conntrack_drops: u64,
    /// The same, how much it grew between the two looks.
    #[serde(default)]
    pub conntrack_drops_grew: u64,
    /// Connections dropped because another one has the same translated addresses and ports
    /// (`insert_failed`): the source ports of an address translation are used up.
    #[serde(default)]
    pub insert_failed: u64,
    /// The same, how much it grew between the two looks.
    #[serde(default)]
    pub insert_failed_grew: u64,
    /// TCP sockets of the namespace, of both families, TIME_WAITs included; those that are bound and
    /// idle are not among them.
    #[serde(default)]
    pub in_use: Option<u64>,
    /// TCP sockets allocated in all namespaces together, TIME_WAITs apart.
    #[serde(default)]
    pub allocated: Option<u64>,
    /// Files open on the whole host, and allowed.
    pub files: Option<(u64, u64)>,
}

/// A process and its open files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileUse {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Open files.
    pub open: u64,
    /// Its soft limit.
    pub limit: u64,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
}

/// A connected socket that has a port somebody else wants to bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its own end.
    pub local: SocketAddr,
    /// Where it leads.
    pub remote: SocketAddr,
    /// Its state.
    pub state: TcpState,
    /// Whose it is, where that could be seen.
    #[serde(default)]
    pub owner: Option<Owner>,
}

/// A destination somebody asked for, and what the routing table and the addresses say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// As it was written.
    pub name: String,
    /// One address it stands for; port 0 where only a source was asked for.
    pub destination: SocketAddr,
    /// The source: asked for, or chosen by the routing table.
    pub source: SourceAnswer,
    /// True when the source was asked for by the user.
    pub from_given: bool,
}

/// Which source address leads to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceAnswer {
    /// This one, and it is usable.
    Local(IpAddr),
    /// This one was asked for, but the host does not have it.
    NotLocal(IpAddr),
    /// There is no way to the destination; the errno's name, such as `ENETUNREACH`.
    NoRoute(String),
    /// There is a way, but no source address for it (`EADDRNOTAVAIL`).
    NoSource,
}

/// Something that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// What.
    pub what: String,
    /// Why, and what would help.
    pub why: String,
}

/// Maps keyed by a bucket, written as a list of pairs (JSON keys must be strings).
mod by_bucket {
    use super::{BTreeMap, BucketKey};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<BucketKey, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<BucketKey, V>, D::Error> {
        Ok(Vec::<(BucketKey, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
