//! What a gate says of its own ports and connections: the body of `/ports` at its admin listener.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortsAnswer {
    /// When, in milliseconds of Unix time.
    pub now_unix_ms: u64,
    /// How long the last look at the buckets took, in microseconds; null: there was none.
    pub look_us: Option<u64>,
    /// Dials that found no free port, since the start.
    pub exhausted: u64,
    /// Each upstream.
    pub upstreams: Vec<UpstreamPorts>,
    /// Each purpose for which the gate opens connections.
    pub dials: Vec<DialsOf>,
}

/// An upstream's connections and ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamPorts {
    /// Its name; empty: the only one.
    pub upstream: String,
    /// Requests put on a connection, since the start.
    pub requests: u64,
    /// Of these, on a connection that had carried a request before.
    pub reused: u64,
    /// Connections opened, since the start.
    pub opened: u64,
    /// Connections opened per second, between the last two looks; null: there were none.
    pub opens_per_s: Option<f64>,
    /// Sockets now, with those being opened.
    pub open: u64,
    /// Of these, idle (HTTP/1.1).
    pub idle: u64,
    /// The bound for `open`.
    pub limit: u64,
    /// Requests that wait for a connection.
    pub waiting: u64,
    /// The buckets of its addresses; a Unix socket has none, nor has a name that was not looked up.
    pub buckets: Vec<BucketSeen>,
}

/// A bucket: a source address toward a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSeen {
    /// The source address.
    pub src: IpAddr,
    /// The destination.
    pub dst: SocketAddr,
    /// Ports that exist for it.
    pub usable: u32,
    /// Those that are free.
    pub free: u32,
    /// How many of these the gate leaves alone.
    pub reserve: u32,
}

/// How the dials of one purpose went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialsOf {
    /// For what: `upstream`, `center`, `keys`, `introspection`, `certificates`.
    pub purpose: String,
    /// Those that made a connection.
    pub connected: u64,
    /// Of these, on a port that was set aside.
    pub aside: u64,
    /// Those that found no free port.
    pub ports_exhausted: u64,
    /// Those that failed, for any reason.
    pub failed: u64,
}
