//! Why a dial failed, named at the system call.
//!
//! The kernel says `EADDRNOTAVAIL` for several reasons, see [`DialError`]. They are distinguished by
//! the call that failed, by whether the namespace has IPv6 at all, and by a UDP `connect()` to the
//! same destination. That call looks up route and source address in the same way, sends nothing and
//! takes no TCP port. If it succeeds, only the ports are missing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::counters::DialOutcome;
use super::tls::TlsError;

/// The other end of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A dial that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// `EADDRNOTAVAIL` at `connect()`, or `EADDRINUSE` at an address-only `bind()`, with a good
    /// source address: every local port toward this destination is taken.
    #[error("no free local port from {} to {dst}; see `keepgate doctor --to {dst}`", Source(src))]
    PortsExhausted {
        /// The source address, where known.
        src: Option<IpAddr>,
        /// The destination.
        dst: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `EADDRNOTAVAIL` at `bind()`.
    #[error("source address {src} is not configured on this host")]
    SourceNotLocal {
        /// The address asked for.
        src: IpAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The target's sources are all of the other address family.
    #[error("source address {src} cannot reach {dst}: one is IPv4, the other IPv6")]
    SourceFamily {
        /// One of the sources.
        src: IpAddr,
        /// The destination.
        dst: SocketAddr,
    },
    /// An IPv6 destination in a namespace without any IPv6 address.
    #[error("{dst} is IPv6 and this network namespace has no IPv6 address")]
    NoIpv6 {
        /// The destination.
        dst: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// There is a route, but no address of this host may be used with it.
    #[error("no local address can be used toward {dst}")]
    NoSourceAddress {
        /// The destination.
        dst: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `ECONNREFUSED`.
    #[error("{peer} refused the connection: nothing listens there")]
    Refused {
        /// The other end.
        peer: Peer,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `ENETUNREACH`, `EHOSTUNREACH`.
    #[error("{dst} is unreachable")]
    Unreachable {
        /// The destination.
        dst: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// Our deadline, or the kernel's `ETIMEDOUT`.
    #[error("{peer} did not answer in time{}", Within(after))]
    Timeout {
        /// The target.
        peer: String,
        /// The deadline, where it was ours.
        after: Option<Duration>,
    },
    /// `ECONNRESET`, `ECONNABORTED`, `EPIPE` while connecting.
    #[error("{peer} reset the connection while it was opened")]
    Reset {
        /// The other end.
        peer: Peer,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `EMFILE`, `ENFILE`.
    #[error("no file descriptor left for a connection to {peer}; raise `LimitNOFILE`")]
    FdLimit {
        /// The other end.
        peer: Peer,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `EACCES`, `EPERM`: a firewall, a full conntrack table, or the socket file's mode.
    #[error("a local rule forbids the connection to {peer}")]
    Forbidden {
        /// The other end.
        peer: Peer,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// `ENOENT`, `ENOTDIR`.
    #[error("there is no socket `{}`", path.display())]
    SocketMissing {
        /// The path.
        path: PathBuf,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The name did not resolve.
    #[error("`{host}` does not resolve")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with `{server_name}` failed")]
    Tls {
        /// The name that was asked for and verified.
        server_name: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The TLS settings cannot be used.
    #[error("TLS cannot be set up")]
    TlsSettings(#[source] TlsError),
    /// Anything else.
    #[error("connecting to {peer} failed at `{call}`")]
    Io {
        /// The other end.
        peer: Peer,
        /// The system call.
        call: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

/// Shows a source address that may be unknown.
struct Source<'a>(&'a Option<IpAddr>);

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("any local address"),
        }
    }
}

/// Shows a deadline that may be the kernel's.
struct Within<'a>(&'a Option<Duration>);

impl std::fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(after) => write!(f, " ({after:?})"),
            None => Ok(()),
        }
    }
}

impl DialError {
    /// The outcome this counts as.
    pub fn outcome(&self) -> DialOutcome {
        match self {
            DialError::PortsExhausted { .. } => DialOutcome::PortsExhausted,
            DialError::SourceNotLocal { .. } => DialOutcome::SourceNotLocal,
            DialError::SourceFamily { .. } => DialOutcome::SourceFamily,
            DialError::NoIpv6 { .. } => DialOutcome::NoIpv6,
            DialError::NoSourceAddress { .. } => DialOutcome::NoSourceAddress,
            DialError::Refused { .. } => DialOutcome::Refused,
            DialError::Unreachable { .. } => DialOutcome::Unreachable,
            DialError::Timeout { .. } => DialOutcome::Timeout,
            DialError::Reset { .. } => DialOutcome::Reset,
            DialError::FdLimit { .. } => DialOutcome::FdLimit,
            DialError::Forbidden { .. } => DialOutcome::Forbidden,
            DialError::SocketMissing { .. } => DialOutcome::SocketMissing,
            DialError::Resolve { .. } => DialOutcome::Resolve,
            DialError::Tls { .. } | DialError::TlsSettings(_) => DialOutcome::Tls,
            DialError::Io { .. } => DialOutcome::Io,
        }
    }

    /// The metric label of [`DialError::outcome`].
    pub fn label(&self) -> &'static str {
        self.outcome().label()
    }

    /// Whether this host ran out of something (ports, file descriptors) that comes back when
    /// another connection ends: the caller waits rather than gives up.
    pub fn is_local_shortage(&self) -> bool {
        matches!(self, DialError::PortsExhausted { .. } | DialError::FdLimit { .. })
    }

    /// This shortage once more, for another who waits for the same; none for other errors.
    pub(crate) fn shortage(&self) -> Option<DialError> {
        let again = |source: &io::Error| match source.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::from(source.kind()),
        };
        match self {
            DialError::PortsExhausted { src, dst, source } => {
                Some(DialError::PortsExhausted { src: *src, dst: *dst, source: again(source) })
            }
            DialError::FdLimit { peer, source } => {
                Some(DialError::FdLimit { peer: peer.clone(), source: again(source) })
            }
            _ => None,
        }
    }

    /// Of the failures of several addresses, the one that explains most: a shortage of our own
    /// before the peer's answer, and both before an address that could never have worked.
    pub(super) fn more_telling(held: Option<DialError>, new: DialError) -> DialError {
        let weight = |error: &DialError| match error {
            DialError::PortsExhausted { .. } | DialError::FdLimit { .. } => 3,
            DialError::NoIpv6 { .. }
            | DialError::NoSourceAddress { .. }
            | DialError::SourceFamily { .. } => 0,
            DialError::Unreachable { .. } => 1,
            _ => 2,
        };
        match held {
            Some(held) if weight(&held) >= weight(&new) => held,
            _ => new,
        }
    }
}

/// The system call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Socket,
    Bind,
    Connect,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Socket => "socket",
            Call::Bind => "bind",
            Call::Connect => "connect",
        }
    }
}

/// Names the failure of a TCP dial; see the module.
pub(super) fn classify_tcp(
    call: Call,
    src: Option<IpAddr>,
    dst: SocketAddr,
    source: io::Error,
) -> DialError {
    let errno = source.raw_os_error().unwrap_or(0);
    match (call, errno) {
        (Call::Bind, libc::EADDRNOTAVAIL) => match src {
            Some(src) if src.is_ipv6() && !has_ipv6() => DialError::NoIpv6 { dst, source },
            Some(src) => DialError::SourceNotLocal { src, source },
            None => other(Peer::Tcp(dst), call, source),
        },
        (Call::Bind, libc::EADDRINUSE) => DialError::PortsExhausted { src, dst, source },
        (Call::Connect, libc::EADDRNOTAVAIL) => match route(src, dst) {
            Ok(local) => DialError::PortsExhausted { src: local.or(src), dst, source },
            Err(_) if dst.is_ipv6() && !has_ipv6() => DialError::NoIpv6 { dst, source },
            Err(_) => DialError::NoSourceAddress { dst, source },
        },
        (Call::Socket, libc::EAFNOSUPPORT) if dst.is_ipv6() => DialError::NoIpv6 { dst, source },
        (Call::Connect, libc::ENETUNREACH) if dst.is_ipv6() && !has_ipv6() => {
            DialError::NoIpv6 { dst, source }
        }
        (Call::Connect, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => {
            DialError::Unreachable { dst, source }
        }
        _ => other(Peer::Tcp(dst), call, source),
    }
}

/// Names the failure of a Unix dial.
pub(super) fn classify_unix(path: &std::path::Path, call: Call, source: io::Error) -> DialError {
    match source.raw_os_error().unwrap_or(0) {
        libc::ENOENT | libc::ENOTDIR => DialError::SocketMissing { path: path.to_owned(), source },
        _ => other(Peer::Unix(path.to_owned()), call, source),
    }
}

fn other(peer: Peer, call: Call, source: io::Error) -> DialError {
    match source.raw_os_error().unwrap_or(0) {
        libc::EMFILE | libc::ENFILE => DialError::FdLimit { peer, source },
        libc::ECONNREFUSED => DialError::Refused { peer, source },
        libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => DialError::Reset { peer, source },
        libc::EACCES | libc::EPERM => DialError::Forbidden { peer, source },
        libc::ETIMEDOUT => DialError::Timeout { peer: peer.to_string(), after: None },
        _ => DialError::Io { peer, call: call.name(), source },
    }
}

/// The source address the kernel would use toward `dst`, found without a packet and without a
/// TCP port.
pub(super) fn route(src: Option<IpAddr>, dst: SocketAddr) -> io::Result<Option<IpAddr>> {
    let domain = socket2::Domain::for_address(dst);
    let probe = match socket2::Socket::new(domain, socket2::Type::DGRAM, None) {
        Ok(probe) => probe,
        // Without a descriptor there is nothing to find out; the source was good enough for the
        // TCP socket that just failed.
        Err(_) => return Ok(None),
    };
    match probe.connect(&dst.into()) {
        Ok(()) => Ok(probe.local_addr()?.as_socket().map(|local| local.ip())),
        // No UDP port is left: the route and the address were found before that.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(src),
        Err(error) => Err(error),
    }
}

/// Whether this thread's network namespace has any IPv6 address.
fn has_ipv6() -> bool {
    std::fs::read("/proc/thread-self/net/if_inet6").is_ok_and(|text| !text.is_empty())
}
