//! What a gate is told when it starts. Values only; whoever reads flags and files is elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use keepgate_client::pool::{PoolConfig, Protocol};
use keepgate_client::replica::RestartAge;
use keepgate_policy::identify::AddressRange;
use keepgate_serve::TlsFiles;

use crate::identify::access::KeyAccess;
use crate::identify::issuers::KeyRefresh;

/// Where the gate listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix socket; an old socket file there is replaced.
    Unix(PathBuf),
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Listen {
        Listen::Tcp(addr)
    }
}

/// What the upstream sees as `Host`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHost {
    /// What the caller sent; `X-Forwarded-Host` says the same.
    #[default]
    Caller,
    /// The upstream's own, as in its URL.
    Upstream,
}

/// Those who connect, by their addresses or over a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// By address.
    pub ranges: Vec<AddressRange>,
    /// Whoever connects to a Unix listener; the permissions of its directory say who may.
    pub unix: bool,
}

impl Peers {
    /// Whether a peer is among them; no address: it came over a Unix socket.
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        match address {
            Some(address) => self.ranges.iter().any(|range| range.contains(address)),
            None => self.unix,
        }
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.unix
    }
}

impl From<Vec<AddressRange>> for Peers {
    fn from(ranges: Vec<AddressRange>) -> Peers {
        Peers { ranges, unix: false }
    }
}

/// The gate's bounds. Every one of them ends in an answer, a closed connection, or both.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections of callers, over all workers; fewer where descriptors do not suffice. At the
    /// bound an idle one makes room for the next; where none is idle, more are closed at once.
    pub max_connections: usize,
    /// Of these, one address's (IPv6: one /64's); none: a quarter. Trusted proxies, senders of the
    /// PROXY protocol and Unix sockets have no such bound.
    pub max_connections_per_address: Option<usize>,
    /// Exchanges at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Header fields; at most 100.
    pub header_count: usize,
    /// Bytes of the header section.
    pub header_bytes: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
    /// Bytes of a request body.
    pub body_bytes: u64,
    /// From accept to the first byte.
    pub first_byte: Duration,
    /// A TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a head to its last.
    pub header: Duration,
    /// A connection without an exchange.
    pub idle: Duration,
    /// A request body of which nothing arrives. This and the next bound count time spent waiting for
    /// the caller alone; they hold neither for gRPC nor once the answer has begun.
    pub body_idle: Duration,
    /// A request body of which less than `body_least` bytes arrive in each such time.
    pub body_window: Duration,
    /// See `body_window`.
    pub body_least: u64,
    /// While requests wait for a connection, the slowest request body below so many bytes a second
    /// is ended for each of them now and then.
    pub pressure_rate: u64,
    /// From the last byte of a request that was forwarded to the first of its answer; a service
    /// and a route may say otherwise.
    pub answer_timeout: Duration,
    /// An exchange or a WebSocket in which nothing moves in either direction, once its answer has
    /// begun; a service and a route may say otherwise.
    pub answer_idle: Duration,
    /// A caller that takes no byte of an answer.
    pub write_stall: Duration,
    /// How long exchanges may go on when the gate is told to stop.
    pub drain: Duration,
    /// How long a request waits for a revision it asks for (`Keepgate-Min-Revision`).
    pub revision_wait: Duration,
    /// How many requests may wait so at once.
    pub revision_waiters: usize,
    /// An exchange younger than this is not decided again when permissions change.
    pub revoke_after: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            max_connections: 10_000,
            max_connections_per_address: None,
            max_streams: 128,
            header_count: 100,
            header_bytes: 32 * 1024,
            uri_bytes: 8 * 1024,
            body_bytes: 64 * 1024 * 1024,
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(60),
            body_window: Duration::from_secs(60),
            body_least: 1024,
            pressure_rate: 16 * 1024,
            answer_timeout: Duration::from_secs(60),
            answer_idle: Duration::from_secs(300),
            write_stall: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            revision_wait: Duration::from_secs(2),
            revision_waiters: 256,
            revoke_after: Duration::from_secs(5),
        }
    }
}

/// A gate's configuration.
#[derive(Clone)]
pub struct GateConfig {
    /// The center's URL.
    pub center: String,
    /// The token shown to the center; never logged.
    pub token: String,
    /// A PEM file with the CA of the center's certificate; none: the host's store.
    pub center_ca: Option<PathBuf>,
    /// The service whose gate this is.
    pub service: String,
    /// The upstream: `http://host:port`, `https://host`, `unix:/path`.
    pub upstream: String,
    /// How to speak to the upstream.
    pub upstream_protocol: Protocol,
    /// What the upstream sees as `Host`.
    pub upstream_host: UpstreamHost,
    /// A PEM file with the CA of the upstream's certificate; none: the host's store.
    pub upstream_ca: Option<PathBuf>,
    /// Where callers connect.
    pub listen: Listen,
    /// TLS toward callers; none: plain.
    pub tls: Option<TlsFiles>,
    /// Where `/metrics`, `/healthz` and `/readyz` are; none: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names by which the admin listener may be asked for, besides IP addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Where the last good replica is kept; none: only in memory.
    pub data_dir: Option<PathBuf>,
    /// What the age of a kept replica counts from after a reboot of the host.
    pub restart_age: RestartAge,
    /// Worker threads, each with its own listener and runtime; 0: one a core.
    pub workers: usize,
    /// Proxies in front whose `X-Forwarded-*` headers are believed. Where a connection begins with
    /// a PROXY protocol header, the source that it names is meant.
    pub trusted_proxies: Peers,
    /// The header in which trusted proxies name callers' addresses, each appending the one it was
    /// connected from. Other headers of that sort are removed.
    pub forwarding_header: http::HeaderName,
    /// From whom each connection begins with a PROXY protocol header.
    pub proxy_senders: Peers,
    /// Takes trusted proxies and PROXY protocol senders that are everybody.
    pub trust_everybody: bool,
    /// Whether a path may contain `%2F`, whatever the service says (release 0.1's setting).
    pub keep_encoded_slash: bool,
    /// Speaks to a center over plain HTTP that is not on this host. For tests.
    pub insecure_center: bool,
    /// Where the keys of JWT issuers may be read from.
    pub key_access: KeyAccess,
    /// Bounds and deadlines.
    pub bounds: Bounds,
    /// The upstream's pool.
    pub pool: PoolConfig,
    /// The key sets of JWT issuers.
    pub keys: KeyRefresh,
}

impl Default for GateConfig {
    fn default() -> GateConfig {
        GateConfig {
            center: "http://127.0.0.1:7480".to_owned(),
            token: String::new(),
            center_ca: None,
            service: String::new(),
            upstream: String::new(),
            upstream_protocol: Protocol::Auto,
            upstream_host: UpstreamHost::Caller,
            upstream_ca: None,
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080))),
            tls: None,
            admin_listen: None,
            admin_hosts: Vec::new(),
            data_dir: None,
            restart_age: RestartAge::default(),
            workers: 0,
            trusted_proxies: Peers::default(),
            forwarding_header: crate::message::headers::X_FORWARDED_FOR,
            proxy_senders: Peers::default(),
            trust_everybody: false,
            keep_encoded_slash: false,
            insecure_center: false,
            key_access: KeyAccess::default(),
            bounds: Bounds::default(),
            pool: PoolConfig::default(),
            keys: KeyRefresh::default(),
        }
    }
}

impl std::fmt::Debug for GateConfig {
    /// Never shows the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GateConfig")
            .field("center", &self.center)
            .field("service", &self.service)
            .field("upstream", &self.upstream)
            .field("listen", &self.listen)
            .field("admin_listen", &self.admin_listen)
            .field("workers", &self.workers)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
