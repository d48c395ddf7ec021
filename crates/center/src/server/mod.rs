//! The listener: accepts, bounds slow and many clients, serves HTTP/1.1 and HTTP/2 on one port.
//!
//! It knows no routes. Connections have places ([`keepgate_serve::places`]): one address cannot take
//! all, idle ones give way, and a reserve is left for health checks and followers. On shutdown it stops accepting, asks every connection to finish what it
//! is doing, and gives up those that have not after a grace period.

mod linger;
mod rest;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use keepgate_serve::descriptors::{self, TooFew};
use keepgate_serve::places::{Busy, Place, Places, PlacesConfig, Refused, Seat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use self::linger::Linger;
use self::rest::Held;
use crate::api::Port;
use crate::metrics::Metrics;
use crate::tls::Certificate;
use crate::token::PeerCertificate;

/// Bounds on clients; the defaults suit ten thousand followers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections open at the same time, as far as the limit of descriptors has room for them. For
    /// one more an idle one is closed; where none is idle, it is refused.
    pub connections: usize,
    /// Of these, connections of one address (IPv6: of its /64); none: a quarter.
    pub connections_of_an_address: Option<usize>,
    /// TLS handshake, and the first request of a connection.
    pub handshake: Duration,
    /// The header of a request, and the idle time of an HTTP/1 connection.
    pub header: Duration,
    /// The body of a request.
    pub body: Duration,
    /// Answers under way at shutdown.
    pub grace: Duration,
    /// Bytes of the body of an `apply`.
    pub apply_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 16_384,
            connections_of_an_address: None,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            body: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            apply_bytes: APPLY_BYTES,
        }
    }
}

/// Bytes of an `apply` unless told otherwise: two million entities of usual size.
pub const APPLY_BYTES: u64 = 512 << 20;

/// The address a request's connection comes from; in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Concurrent streams of one HTTP/2 connection.
const H2_STREAMS: u32 = 256;

/// Header bytes of a request, names and values together.
const HEADER_BYTES: usize = 32 << 10;

/// HTTP/2 connections are pinged this often, and closed when the answer does not come.
const PING: Duration = Duration::from_secs(20);

/// Connections beside the bound that only health checks and followers may use.
const RESERVE: usize = 64;

/// Of these, connections of one address.
const RESERVE_OF_AN_ADDRESS: usize = 8;

/// Descriptors kept back: the store's files and those of its readers, sockets of the runtime.
const FILES: usize = 256;
const OWN: usize = 64;

/// Connections that wait for the place of one that is closing, and how long and how often they ask.
const WAITING: usize = 128;
const WAIT: Duration = Duration::from_millis(20);
const ASKS: usize = 25;

/// How long a connection that was told to close may take to do so.
const CLOSING: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Certificate>,
    pub(crate) port: Port,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seats: Seats,
    /// Set to true: stop accepting and let connections finish.
    pub(crate) closing: watch::Receiver<bool>,
}

/// The places for connections: those of everybody, and the reserve.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    all: Places,
    reserve: Places,
    began: Instant,
}

impl Seats {
    /// As many as the bounds say and the limit of descriptors, raised here, has room for.
    pub(crate) fn new(bounds: &Bounds) -> Result<Seats, TooFew> {
        let limit = match descriptors::raise_limit() {
            Ok(limit) => limit.now,
            Err(e) => {
                tracing::warn!(error = %e, "the limit of open descriptors is not known");
                1024
            }
        };
        let needs = descriptors::Needs {
            connections: bounds.connections,
            health_checks: RESERVE + keepgate_serve::places::slack(RESERVE),
            files: FILES,
            own: OWN + WAITING,
            ..descriptors::Needs::default()
        };
        let connections = needs.within(limit)?.connections;
        if connections < bounds.connections {
            tracing::info!(
                connections,
                wanted = bounds.connections,
                descriptors = limit,
                "fewer connections than wanted: raise the limit of open descriptors"
            );
        }
        let per_peer = bounds.connections_of_an_address;
        let all = PlacesConfig { per_peer, ..PlacesConfig::new(connections) };
        let reserve =
            PlacesConfig { per_peer: Some(RESERVE_OF_AN_ADDRESS), ..PlacesConfig::new(RESERVE) };
        let (all, reserve) = (Places::new(all), Places::new(reserve));
        Ok(Seats { all, reserve, began: Instant::now() })
    }

    /// A place for a connection.
    fn take(&self, peer: SocketAddr) -> Result<Place, Refused> {
        self.all.take(Some(peer.ip()), self.now_ms())
    }

    /// A place for a connection that found none, and whether it is one of the reserve: that of one
    /// that is closing, in a moment, else one for health checks and followers.
    async fn wait(&self, peer: SocketAddr) -> Option<(Place, bool)> {
        for _ in 0..ASKS {
            if self.all.counts().closing == 0 {
                break;
            }
            tokio::time::sleep(WAIT).await;
            if let Ok(place) = self.take(peer) {
                return Some((place, false));
            }
        }
        let place = self.reserve.take(Some(peer.ip()), self.now_ms()).ok()?;
        Some((place, true))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The most connections there ever are at once.
    fn most(&self) -> usize {
        let with_slack =
            |places: &Places| places.bound() + keepgate_serve::places::slack(places.bound());
        with_slack(&self.all) + with_slack(&self.reserve) + WAITING
    }
}

impl Server {
    /// Serves until `closing`, then until the connections have finished or the grace is over.
    pub(crate) async fn run(self) {
        let Server { listener, tls, port, bounds, metrics, seats, mut closing } = self;
        let open = Arc::new(Semaphore::new(seats.most()));
        let waiting = Arc::new(Semaphore::new(WAITING));
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        // Out of descriptors, or the peer has gone already: neither ends the
                        // center, but the first must not spin.
                        tracing::warn!(error = %e, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = closed(&mut closing) => break,
            };
            let Ok(held) = Arc::clone(&open).try_acquire_owned() else {
                metrics.connections_refused.add(1);
                continue;
            };
            let taken = seats.take(peer).ok();
            let waiting = match &taken {
                Some(_) => None,
                None => Arc::clone(&waiting).try_acquire_owned().ok(),
            };
            if taken.is_none() && waiting.is_none() {
                metrics.connections_refused.add(1);
                continue;
            }
            let (port, tls, seats) = (port.clone(), tls.clone(), seats.clone());
            let (metrics, closing) = (Arc::clone(&metrics), closing.clone());
            tokio::spawn(async move {
                let _held = held;
                let taken = match taken {
                    Some(place) => Some((place, false)),
                    None => seats.wait(peer).await,
                };
                drop(waiting);
                let Some((place, is_reserve)) = taken else {
                    metrics.connections_refused.add(1);
                    return;
                };
                let counted = Arc::clone(&metrics);
                let _open = counted.connections.hold();
                let seat = Arc::clone(place.seat());
                let connection =
                    Connection { port, tls, bounds, metrics, closing, peer, seat, is_reserve };
                connection.serve(stream).await;
                drop(place);
            });
        }
        drop(listener);
        let all = u32::try_from(seats.most()).unwrap_or(u32::MAX);
        // Every connection holds a permit: having all of them means that none is left.
        if tokio::time::timeout(bounds.grace, open.acquire_many(all)).await.is_err() {
            tracing::warn!(open = metrics.connections.value(), "connections outlived the grace");
        }
    }
}

/// Waits until the center closes, or is gone.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    // The guard that this yields must not be held any longer.
    let _ = closing.wait_for(|closing| *closing).await;
}

struct Connection {
    port: Port,
    tls: Option<Certificate>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    closing: watch::Receiver<bool>,
    peer: SocketAddr,
    seat: Arc<Seat>,
    /// For health checks and followers only.
    is_reserve: bool,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Heartbeats and deltas are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        match self.tls.clone() {
            None => self.http(stream, None).await,
            Some(tls) => {
                let tls = tls.acceptor();
                let handshake = tokio::time::timeout(self.bounds.handshake, tls.accept(stream));
                // Until its first request a connection is idle, and may have to give way.
                let accepted = tokio::select! {
                    accepted = handshake => accepted,
                    () = self.seat.told() => return,
                };
                match accepted {
                    Ok(Ok(stream)) => {
                        let certificate =
                            PeerCertificate::of(stream.get_ref().1.peer_certificates());
                        self.http(stream, certificate).await;
                    }
                    Ok(Err(e)) => {
                        tracing::debug!(error = %e, peer = %self.peer, "no TLS handshake")
                    }
                    Err(_) => self.metrics.connections_timed_out.add(1),
                }
            }
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self,
        stream: S,
        certificate: Option<Arc<PeerCertificate>>,
    ) {
        let Connection { port, bounds, metrics, mut closing, peer, seat, is_reserve, .. } = self;
        let begun = Arc::new(Begun::default());
        let unread = Arc::new(AtomicBool::new(false));
        let service = {
            let (begun, unread, seat) =
                (Arc::clone(&begun), Arc::clone(&unread), Arc::clone(&seat));
            hyper::service::service_fn(move |request: Request<Incoming>| {
                begun.set();
                let answer = Exchange {
                    port: port.clone(),
                    unread: Arc::clone(&unread),
                    busy: seat.busy(),
                    peer,
                    certificate: certificate.clone(),
                    is_reserve,
                };
                answer.answer(request)
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.header)
            .max_buf_size(HEADER_BYTES)
            .half_close(false);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let stream = Linger::new(stream, unread);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let late = tokio::time::sleep(bounds.handshake);
        tokio::pin!(late);
        let mut first = true;
        let grace = loop {
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(e) = done {
                        tracing::debug!(error = %e, %peer, "a connection ended early");
                    }
                    return;
                }
                () = begun.wait(), if first => first = false,
                () = late.as_mut(), if first => {
                    metrics.connections_timed_out.add(1);
                    return;
                }
                () = seat.told() => {
                    if first {
                        return;
                    }
                    break CLOSING;
                }
                () = closed(&mut closing) => break bounds.grace,
            }
        };
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(grace, connection).await;
    }
}

/// A request and its answer.
struct Exchange {
    port: Port,
    unread: Arc<AtomicBool>,
    busy: Busy,
    peer: SocketAddr,
    certificate: Option<Arc<PeerCertificate>>,
    is_reserve: bool,
}

impl Exchange {
    async fn answer(
        mut self,
        request: Request<Incoming>,
    ) -> Result<Response<Held<Body>>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let is_http1 = parts.version < Version::HTTP_2;
        let waits = parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let may_stay = !self.is_reserve || is_for_the_reserve(parts.uri.path());
        let (body, rest) = rest::track(body, waits);
        parts.extensions.insert(Peer(self.peer));
        if let Some(certificate) = self.certificate {
            parts.extensions.insert(certificate);
        }
        let body = if may_stay {
            Body::new(body)
        } else {
            parts.extensions.insert(crate::api::guard::Crowded);
            Body::empty()
        };
        let mut response = self.port.answer(Request::from_parts(parts, body)).await;
        // On HTTP/2 the rest has a stream of its own, and a follower's never ends.
        if is_http1 && (!rest.read().await || !may_stay) {
            self.unread.store(true, Ordering::Relaxed);
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(response.map(|body| Held::new(body, Some(self.busy))))
    }
}

/// Health checks and followers: what a crowd must not shut out.
fn is_for_the_reserve(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | crate::api::FOLLOW)
}

/// Whether a connection's first request has come.
#[derive(Default)]
struct Begun {
    yes: AtomicBool,
    wake: Notify,
}

impl Begun {
    fn set(&self) {
        if !self.yes.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    async fn wait(&self) {
        self.wake.notified().await;
    }
}
