//! What a gate is told when it starts. Values, and the one file that is no list of flags:
//! [`mod@file`] reads the text of a `gate.toml`. Whoever opens files and reads flags is elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepgate_client::pool::{PoolConfig, Protocol, Sticky};
use keepgate_client::replica::RestartAge;
use keepgate_observe::span::{Lost, Tracing};
use keepgate_policy::identify::AddressRange;
use keepgate_serve::TlsFiles;

use self::acme::AcmeConfig;
use self::records::{RecordBounds, RecordConfig};
use self::sites::{SiteConfig, UpstreamConfig};
use crate::identify::access::KeyAccess;
use crate::identify::issuers::KeyRefresh;

pub mod acme;
pub mod file;
pub mod records;
pub mod setting;
pub mod sites;

pub use self::sites::UpstreamHost;

/// Where the gate listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A port on this host alone: 127.0.0.1 and, where there is IPv6, `::1`.
    Localhost(u16),
    /// A port on all addresses, IPv4 and, where there is IPv6, that too.
    Any(u16),
    /// A Unix socket; an old socket file there is replaced.
    Unix(PathBuf),
    /// The gate takes no requests; it only answers other proxies.
    Nowhere,
}

impl Listen {
    /// The kernel chooses a port each time.
    pub(crate) fn is_any_port(&self) -> bool {
        match self {
            Listen::Tcp(addr) => addr.port() == 0,
            Listen::Localhost(port) | Listen::Any(port) => *port == 0,
            Listen::Unix(_) | Listen::Nowhere => false,
        }
    }
}

impl std::fmt::Display for Listen {
    /// As [`Listen`] is read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(addr) => write!(f, "{addr}"),
            Listen::Localhost(port) => write!(f, "localhost:{port}"),
            Listen::Any(port) => write!(f, ":{port}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Nowhere => write!(f, "none"),
        }
    }
}

impl std::str::FromStr for Listen {
    type Err = ListenTextError;

    /// `ADDR:PORT`, `localhost:PORT`, `:PORT` or `unix:/path`.
    fn from_str(text: &str) -> Result<Listen, ListenTextError> {
        let error = || ListenTextError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Listen::Unix(path.into()))
            } else {
                Err(error())
            };
        }
        let port = |port: &str| {
            let is_plain = port.bytes().all(|b| b.is_ascii_digit());
            port.parse().ok().filter(|_| is_plain).ok_or_else(error)
        };
        match text.rsplit_once(':') {
            Some(("", digits)) => port(digits).map(Listen::Any),
            Some((name, digits)) if name.eq_ignore_ascii_case("localhost") => {
                port(digits).map(Listen::Localhost)
            }
            _ => text.parse().map(Listen::Tcp).map_err(|_| error()),
        }
    }
}

/// A text that says no place to listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected ADDR:PORT, localhost:PORT, :PORT or unix:/path, got `{0}`")]
pub struct ListenTextError(String);

/// Who may connect to the gate's Unix sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixAccess {
    /// The permissions of the socket's file, such as 0o660; none: what the umask leaves.
    pub mode: Option<u32>,
    /// The id of its group; none: the gate's own.
    pub group: Option<u32>,
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Listen {
        Listen::Tcp(addr)
    }
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

    /// This host.
    pub fn loopback() -> Peers {
        let range = |network: IpAddr, prefix| AddressRange { network, prefix };
        Peers::from(vec![
            range(IpAddr::from([127, 0, 0, 0]), 8),
            range(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 128),
        ])
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
    /// Connections of other proxies to the check listener, over all workers.
    pub check_connections: usize,
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
    /// How long listeners stay open when the gate is told to stop: load balancers see meanwhile that
    /// `/readyz` is 503, and callers are asked to go.
    pub drain_delay: Duration,
    /// How long exchanges may go on after that. What is open then is ended: a WebSocket with 1001, a
    /// gRPC call with `UNAVAILABLE`.
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
            check_connections: 1_024,
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
            drain_delay: Duration::ZERO,
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
    /// The centers' URLs, from 1 to 16: one of them is followed, and the next one when that fails.
    pub centers: Vec<String>,
    /// The token shown to the center; never logged.
    pub token: String,
    /// A PEM file with the CA of the center's certificate; none: the host's store.
    pub center_ca: Option<PathBuf>,
    /// The gate's own certificate toward the center, which may take the token's place; none: it shows
    /// none.
    pub center_client: Option<TlsFiles>,
    /// Which hosts and paths lead to which service and upstream. Empty: everything leads to
    /// `service` and `upstream`, and else these two say nothing.
    pub sites: Vec<SiteConfig>,
    /// The upstreams of `sites`.
    pub upstreams: Vec<UpstreamConfig>,
    /// The service whose gate this is.
    pub service: String,
    /// The upstream: `http://host:port`, `https://host`, `unix:/path`; several with commas between
    /// them, which are addresses of one upstream.
    pub upstream: String,
    /// How to speak to the upstream.
    pub upstream_protocol: Protocol,
    /// What the upstream sees as `Host`.
    pub upstream_host: UpstreamHost,
    /// Local addresses from which connections to upstreams are opened, each with ports of its own; empty:
    /// the kernel chooses.
    pub upstream_sources: Vec<IpAddr>,
    /// What keeps a caller at one of several addresses.
    pub upstream_sticky: Option<Sticky>,
    /// The path that addresses are asked for to see whether they are healthy; none: they are not.
    pub upstream_check: Option<String>,
    /// A PEM file with the CA of the upstream's certificate; none: the host's store.
    pub upstream_ca: Option<PathBuf>,
    /// The gate's own certificate toward the upstream; none: it shows none.
    pub upstream_client: Option<TlsFiles>,
    /// Where callers connect.
    pub listen: Listen,
    /// Where else they do.
    pub more_listen: Vec<Listen>,
    /// Where other proxies ask about requests that they forward themselves.
    pub check_listen: Vec<Listen>,
    /// Who may ask there, beside whoever the gate runs as, over a Unix socket. `unix`: whoever the
    /// permissions of the socket let connect.
    pub check_peers: Peers,
    /// Who may connect to those that are Unix sockets.
    pub unix_access: UnixAccess,
    /// TLS toward callers; none: plain.
    pub tls: Option<TlsFiles>,
    /// A PEM file with the authorities whose certificates identify callers; none: callers are not
    /// asked for one, but for sites that say otherwise.
    pub client_ca: Option<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are; none: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names by which the admin listener may be asked for, besides IP addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Where the last good replica is kept; none: only in memory.
    pub data_dir: Option<PathBuf>,
    /// What the age of a kept replica counts from after a reboot of the host.
    pub restart_age: RestartAge,
    /// The Unix socket at which this gate takes the place of another one, and another one its; none: it
    /// closes its listeners when it stops.
    pub takeover: Option<PathBuf>,
    /// Where certificates toward callers are obtained; none: nowhere.
    pub acme: Option<AcmeConfig>,
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
    /// Which requests are recorded in traces, and who takes what is recorded; none: none are.
    pub tracing: Option<Tracing>,
    /// Counts what of traces, metrics and logs was dropped.
    pub lost: Arc<Lost>,
    /// Requests are recorded because their callers say so, up to
    /// [`HONORED_PER_SECOND`](keepgate_observe::span::HONORED_PER_SECOND) at each worker.
    pub honors_sampled: bool,
    /// Where the page for callers is, below a site's path; empty: nowhere. A site may say otherwise.
    pub help_page: String,
    /// Bounds and deadlines.
    pub bounds: Bounds,
    /// The upstream's pool.
    pub pool: PoolConfig,
    /// The key sets of JWT issuers.
    pub keys: KeyRefresh,
    /// The decision and access log; none: there is none.
    pub records: Option<RecordConfig>,
    /// Its bounds.
    pub record_bounds: RecordBounds,
}

impl GateConfig {
    /// Whether callers are spoken to in clear text.
    pub(crate) fn speaks_plain(&self) -> bool {
        self.tls.is_none()
            && self.acme.is_none()
            && self.sites.iter().all(|site| site.tls.is_none())
    }

    /// The files of authorities whose certificates callers may show, each once.
    pub(crate) fn client_cas(&self) -> Vec<PathBuf> {
        let of_sites = self.sites.iter().filter_map(|site| site.client_ca.as_ref());
        let mut all: Vec<PathBuf> = self.client_ca.iter().chain(of_sites).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether any site of a service asks callers for certificates.
    pub(crate) fn asks_for_certificates(&self, service: &str) -> bool {
        let mut sites = self.sites.iter().filter(|site| site.service == service);
        self.client_ca.is_some() || sites.any(|site| site.client_ca.is_some())
    }

    /// The gate forwards nothing: it only answers other proxies.
    pub fn has_no_upstream(&self) -> bool {
        self.upstream.is_empty() && self.upstreams.is_empty() && self.listen == Listen::Nowhere
    }

    /// The upstream of this name in `[upstream.NAME]`.
    pub(crate) fn upstream_named(&self, name: &str) -> Option<&UpstreamConfig> {
        self.upstreams.iter().find(|upstream| upstream.name == name)
    }
}

impl Default for GateConfig {
    fn default() -> GateConfig {
        GateConfig {
            centers: vec!["http://127.0.0.1:7480".to_owned()],
            token: String::new(),
            center_ca: None,
            center_client: None,
            sites: Vec::new(),
            upstreams: Vec::new(),
            service: String::new(),
            upstream: String::new(),
            upstream_protocol: Protocol::Auto,
            upstream_host: UpstreamHost::Auto,
            upstream_sticky: None,
            upstream_check: None,
            upstream_sources: Vec::new(),
            upstream_ca: None,
            upstream_client: None,
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080))),
            more_listen: Vec::new(),
            check_listen: Vec::new(),
            check_peers: Peers::loopback(),
            unix_access: UnixAccess::default(),
            tls: None,
            client_ca: None,
            admin_listen: None,
            admin_hosts: Vec::new(),
            data_dir: None,
            restart_age: RestartAge::default(),
            takeover: None,
            acme: None,
            workers: 0,
            trusted_proxies: Peers::default(),
            forwarding_header: crate::message::headers::X_FORWARDED_FOR,
            proxy_senders: Peers::default(),
            trust_everybody: false,
            keep_encoded_slash: false,
            insecure_center: false,
            key_access: KeyAccess::default(),
            tracing: None,
            lost: Arc::default(),
            honors_sampled: false,
            help_page: sites::HELP_PAGE.to_owned(),
            bounds: Bounds::default(),
            pool: PoolConfig::default(),
            keys: KeyRefresh::default(),
            records: None,
            record_bounds: RecordBounds::default(),
        }
    }
}

impl std::fmt::Debug for GateConfig {
    /// Never shows the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GateConfig")
            .field("centers", &self.centers)
            .field("service", &self.service)
            .field("upstream", &self.upstream)
            .field("sites", &self.sites.len())
            .field("listen", &self.listen)
            .field("admin_listen", &self.admin_listen)
            .field("workers", &self.workers)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
