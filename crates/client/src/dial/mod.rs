//! The one door for outgoing connections: TCP, Unix sockets, TLS.
//!
//! A [`Dialer`] turns a [`Target`] into a connected [`Stream`] within one deadline that covers
//! name resolution, every address tried and the TLS handshake. It deliberately does not know
//! HTTP, does not retry (beyond the addresses and sources of one target) and keeps no
//! connection: that is the pool's business.
//!
//! INVARIANT: an errno is classified where the system call returned it ([`error`]), and the
//! name it gets there is the one in the metric label.
//!
//! TCP sockets get `IP_LOCAL_PORT_RANGE` over the whole namespace range, which removes the
//! cliff at half a bucket (Linux 6.8+, `inet_hash_connect` then scans every port in one pass
//! and not the odd half after the even one), and a source address is bound with
//! `IP_BIND_ADDRESS_NO_PORT`, so that it costs no port toward other destinations.

mod aside;
mod counters;
pub mod error;
mod pinned;
mod rooms;
mod socket;
mod stream;
mod target;
mod tls;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::aside::Aside;
use self::rooms::Rooms;
pub use counters::{DialCounters, DialOutcome};
pub use error::{DialError, Peer};
pub use rooms::Room;
pub use stream::Stream;
pub use target::{Endpoint, Target, TargetError};
pub use tls::{Identity, Roots, TlsError, TlsSettings};

/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 8;
/// Name resolutions that may run at the same time; each holds a blocking thread.
const MAX_RESOLUTIONS: usize = 8;

/// Bounds of a [`Dialer`].
#[derive(Clone, Debug)]
pub struct DialConfig {
    /// The deadline of one dial: resolution, connect, TLS handshake together.
    pub connect_timeout: Duration,
    /// How long an address may stay silent before the next one is tried beside it (RFC 8305
    /// recommends 250 ms).
    pub fallback_delay: Duration,
}

impl Default for DialConfig {
    fn default() -> DialConfig {
        DialConfig {
            connect_timeout: Duration::from_secs(5),
            fallback_delay: Duration::from_millis(250),
        }
    }
}

/// A new connection and where it leads.
#[derive(Debug)]
pub struct Dialed {
    /// The bytes.
    pub stream: Stream,
    /// What ALPN agreed on, such as `h2`; none without TLS or without agreement.
    pub alpn: Option<Vec<u8>>,
    /// It is on a port that was set aside.
    pub aside: bool,
    /// Our end; none for a Unix socket.
    pub local: Option<SocketAddr>,
    /// The other end; none for a Unix socket.
    pub remote: Option<SocketAddr>,
}

/// Is told of a dial that found no free port, from this source address (none: not known) toward this
/// destination, on the thread where that happened. Must not block.
pub type OnExhausted = Arc<dyn Fn(Option<IpAddr>, SocketAddr) + Send + Sync>;

/// Opens connections and counts how that went. A clone shares the counters.
#[derive(Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
    counters: Arc<DialCounters>,
    aside: Option<Arc<Aside>>,
}

struct Inner {
    config: DialConfig,
    resolutions: Arc<Semaphore>,
    next_source: AtomicUsize,
    rooms: Rooms,
    on_exhausted: Option<OnExhausted>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("config", &self.inner.config)
            .field("counters", &self.counters)
            .field("aside", &self.aside)
            .finish_non_exhaustive()
    }
}

impl Default for Dialer {
    fn default() -> Dialer {
        Dialer::new(DialConfig::default())
    }
}

impl Dialer {
    /// A dialer with these bounds.
    pub fn new(config: DialConfig) -> Dialer {
        Dialer::made(config, None)
    }

    /// The same; `on_exhausted` is told of each dial that found no free port.
    pub fn telling(config: DialConfig, on_exhausted: OnExhausted) -> Dialer {
        Dialer::made(config, Some(on_exhausted))
    }

    fn made(config: DialConfig, on_exhausted: Option<OnExhausted>) -> Dialer {
        let inner = Inner {
            config,
            resolutions: Arc::new(Semaphore::new(MAX_RESOLUTIONS)),
            next_source: AtomicUsize::new(0),
            rooms: Rooms::default(),
            on_exhausted,
        };
        Dialer { inner: Arc::new(inner), counters: Arc::default(), aside: None }
    }

    /// The same dialer for another purpose: it has counters of its own.
    #[must_use]
    pub fn apart(&self) -> Dialer {
        Dialer { inner: Arc::clone(&self.inner), counters: Arc::default(), aside: None }
    }

    /// As [`Dialer::apart`], with another deadline for one dial.
    #[must_use]
    pub fn apart_within(&self, connect_timeout: Duration) -> Dialer {
        let config = DialConfig { connect_timeout, ..self.inner.config.clone() };
        Dialer::made(config, self.inner.on_exhausted.clone())
    }

    /// Sets two ports aside from the first dial on, for dials that find no other one free. Connections
    /// on these are closed with a reset, so that no TIME_WAIT stands in the way of the next one.
    #[must_use]
    pub fn setting_ports_aside(mut self) -> Dialer {
        self.aside = Some(Arc::default());
        self
    }

    /// How its dials went so far.
    pub fn counters(&self) -> &DialCounters {
        &self.counters
    }

    /// How many ports the sources of these buckets have left: the next dials go from the one with most.
    pub(crate) fn note_rooms(&self, rooms: &[Room]) {
        self.inner.rooms.note(rooms);
    }

    /// Opens one connection.
    pub async fn dial(&self, target: &Target) -> Result<Dialed, DialError> {
        self.dial_some(target, |found| found).await
    }

    /// Opens one connection. `choose` gets the addresses that the host leads to, and gives those to
    /// try, in this order. It is not asked for a Unix socket, nor where the target has its address.
    pub async fn dial_some(
        &self,
        target: &Target,
        choose: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr> + Send,
    ) -> Result<Dialed, DialError> {
        let mut attempt = Attempt { counters: &self.counters, done: false };
        let result = self.within_deadline(target, choose).await;
        attempt.finish(match &result {
            Ok(dialed) if dialed.aside => DialOutcome::ConnectedAside,
            Ok(_) => DialOutcome::Connected,
            Err(error) => error.outcome(),
        });
        result
    }

    async fn within_deadline(
        &self,
        target: &Target,
        choose: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr> + Send,
    ) -> Result<Dialed, DialError> {
        let timeout = self.inner.config.connect_timeout;
        match tokio::time::timeout(timeout, self.open(target, choose)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { peer: target.to_string(), after: Some(timeout) }),
        }
    }

    async fn open(
        &self,
        target: &Target,
        choose: impl FnOnce(Vec<SocketAddr>) -> Vec<SocketAddr> + Send,
    ) -> Result<Dialed, DialError> {
        let (stream, aside, local, remote) = match &target.place {
            Endpoint::Unix(path) => {
                (Stream::Unix(socket::connect_unix(path).await?), false, None, None)
            }
            Endpoint::Tcp { host, port } => {
                let addresses = match target.address {
                    Some(address) => vec![address],
                    None => choose(self.resolve(host, *port).await?),
                };
                let Connected { tcp, aside } = self.first_of(&addresses, &target.sources).await?;
                let (local, remote) = (tcp.local_addr().ok(), tcp.peer_addr().ok());
                let stream = if aside { Stream::Aside(tcp) } else { Stream::Tcp(tcp) };
                (stream, aside, local, remote)
            }
        };
        let Some(tls) = &target.tls else {
            return Ok(Dialed { stream, alpn: None, aside, local, remote });
        };
        let (stream, alpn) = tls.handshake(target.server_name(), stream).await?;
        Ok(Dialed { stream, alpn, aside, local, remote })
    }

    /// The addresses of a host, at most eight, in the order in which they should be tried; for
    /// whoever must see an address before it is connected to.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        self.resolve_all(host, port, MAX_ADDRESSES).await
    }

    /// As [`Dialer::resolve`], with at most `most` addresses. Runs on a thread for blocking work.
    pub async fn resolve_all(
        &self,
        host: &str,
        port: u16,
        most: usize,
    ) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |source| DialError::Resolve { host: host.to_owned(), source };
        let permit = Arc::clone(&self.inner.resolutions).acquire_owned().await;
        let name = (host.to_owned(), port);
        // Who waits for it may go away; the thread, and so the permit, stays until it is over.
        let looked_up = crate::blocking::run(move || {
            let found = name.to_socket_addrs();
            drop(permit);
            found
        });
        let found = match looked_up.await {
            Ok(found) => found.map_err(failed)?,
            Err(_) => return Err(failed(std::io::Error::other("the look-up was given up"))),
        };
        let addresses = interleaved(found.take(4 * most), most);
        if addresses.is_empty() {
            return Err(failed(std::io::Error::other("the name has no address")));
        }
        Ok(addresses)
    }

    /// Whether this host has a route, and an address of its own, toward `address` from the sources.
    pub fn has_route(&self, address: SocketAddr, sources: &[IpAddr]) -> bool {
        if sources.is_empty() {
            return error::route(None, address).is_ok();
        }
        sources.iter().any(|source| source.is_ipv4() == address.is_ipv4())
    }

    /// The first address that answers. Each has `fallback_delay` to itself, then the next joins.
    async fn first_of(
        &self,
        addresses: &[SocketAddr],
        sources: &[IpAddr],
    ) -> Result<Connected, DialError> {
        if let [only] = addresses {
            return self.dial_from(sources, *only).await;
        }
        let mut waiting = addresses.iter();
        let mut running = FuturesUnordered::new();
        let mut worst: Option<DialError> = None;
        loop {
            if let Some(next) = waiting.next() {
                running.push(self.dial_from(sources, *next));
            }
            let patience = Instant::now() + self.inner.config.fallback_delay;
            let ended = if waiting.len() == 0 {
                running.next().await
            } else {
                match tokio::time::timeout_at(patience, running.next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            };
            match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => worst = Some(DialError::more_telling(worst, error)),
                None if waiting.len() == 0 => {
                    return Err(worst.unwrap_or_else(|| DialError::Resolve {
                        host: String::new(),
                        source: std::io::Error::other("no address to try"),
                    }));
                }
                None => {}
            }
        }
    }

    /// On a port that the kernel chooses; where none is free, on one that was set aside.
    async fn dial_from(&self, sources: &[IpAddr], to: SocketAddr) -> Result<Connected, DialError> {
        if let Some(aside) = &self.aside {
            aside.fill(to.is_ipv4());
        }
        let error = match self.dial_automatic(sources, to).await {
            Ok(tcp) => return Ok(Connected { tcp, aside: false }),
            Err(error) => error,
        };
        if let (DialError::PortsExhausted { src, dst, .. }, Some(tell)) =
            (&error, &self.inner.on_exhausted)
        {
            tell(*src, *dst);
        }
        match (&self.aside, &error) {
            (Some(aside), DialError::PortsExhausted { .. }) => {
                let source = sources.iter().find(|source| source.is_ipv4() == to.is_ipv4());
                match aside.connect(source.copied(), to).await {
                    Some(connected) => connected.map(|tcp| Connected { tcp, aside: true }),
                    None => Err(error),
                }
            }
            _ => Err(error),
        }
    }

    /// From the source with most room, where that is known, else from the sources in turn: another
    /// source is another bucket, so a full one is no failure as long as there is a next.
    async fn dial_automatic(
        &self,
        sources: &[IpAddr],
        to: SocketAddr,
    ) -> Result<tokio::net::TcpStream, DialError> {
        let mut fitting: Vec<IpAddr> =
            sources.iter().filter(|source| source.is_ipv4() == to.is_ipv4()).copied().collect();
        if fitting.is_empty() {
            return match sources.first() {
                Some(source) => Err(DialError::SourceFamily { src: *source, dst: to }),
                None => socket::connect_tcp(None, to).await,
            };
        }
        if fitting.len() > 1 {
            let start = self.inner.next_source.fetch_add(1, Ordering::Relaxed) % fitting.len();
            fitting.rotate_left(start);
            self.inner.rooms.order(&mut fitting, to);
        }
        let mut full = None;
        for source in fitting {
            match socket::connect_tcp(Some(source), to).await {
                Err(error @ DialError::PortsExhausted { .. }) => full = Some(error),
                other => return other,
            }
        }
        match full {
            Some(error) => Err(error),
            None => socket::connect_tcp(None, to).await,
        }
    }
}

/// A TCP connection.
struct Connected {
    tcp: tokio::net::TcpStream,
    /// It is on a port that was set aside.
    aside: bool,
}

/// Counts a dial that was abandoned (its future dropped) as such.
struct Attempt<'a> {
    counters: &'a DialCounters,
    done: bool,
}

impl Attempt<'_> {
    fn finish(&mut self, outcome: DialOutcome) {
        self.done = true;
        self.counters.add(outcome);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.counters.add(DialOutcome::Abandoned);
        }
    }
}

/// IPv6 and IPv4 in turn, beginning with the family of the first (RFC 8305, section 4).
fn interleaved(found: impl Iterator<Item = SocketAddr>, most: usize) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    let first_is_v4 = all.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let mut result = Vec::with_capacity(first.len() + second.len());
    first.reverse();
    second.reverse();
    while result.len() < most {
        let (a, b) = (first.pop(), second.pop());
        if a.is_none() && b.is_none() {
            break;
        }
        result.extend(a);
        result.extend(b);
    }
    result.truncate(most);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = ["[::1]:1", "[::2]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"];
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"];
        assert_eq!(interleaved(found.map(parse).into_iter(), 8), expected.map(parse).to_vec());
        assert_eq!(interleaved(found.map(parse).into_iter(), 3), expected.map(parse)[..3]);
        assert!(interleaved(std::iter::empty(), 8).is_empty());
    }
}
