//! The listener: accepts, bounds slow and many clients, serves HTTP/1.1 and HTTP/2 on one port.
//!
//! It knows no routes. On shutdown it stops accepting, asks every connection to finish what it
//! is doing, and gives up those that have not after a grace period.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use crate::metrics::Metrics;

/// Bounds on clients; the defaults suit ten thousand followers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections open at the same time; one more is closed at once.
    pub connections: usize,
    /// TLS handshake, and the first request of a connection.
    pub handshake: Duration,
    /// The header of a request, and the idle time of an HTTP/1 connection.
    pub header: Duration,
    /// The body of a request.
    pub body: Duration,
    /// Answers under way at shutdown.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 16_384,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            body: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// The address a request's connection comes from; in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Concurrent streams of one HTTP/2 connection.
const H2_STREAMS: u32 = 256;

/// Header bytes of a request, names and values together.
const HEADER_BYTES: usize = 32 << 10;

/// HTTP/2 connections are pinged this often, and closed when the answer does not come.
const PING: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Arc<Metrics>,
    /// Set to true: stop accepting and let connections finish.
    pub(crate) closing: watch::Receiver<bool>,
}

impl Server {
    /// Serves until `closing`, then until the connections have finished or the grace is over.
    pub(crate) async fn run(self) {
        let Server { listener, tls, router, bounds, metrics, mut closing } = self;
        let places = Arc::new(Semaphore::new(bounds.connections));
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
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                metrics.connections_refused.add(1);
                continue;
            };
            let connection = Connection {
                router: router.clone(),
                tls: tls.clone(),
                bounds,
                metrics: Arc::clone(&metrics),
                closing: closing.clone(),
                peer,
            };
            tokio::spawn(async move {
                let metrics = Arc::clone(&connection.metrics);
                let _held = metrics.connections.hold();
                connection.serve(stream).await;
                drop(place);
            });
        }
        drop(listener);
        let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
        // Every connection holds a place: having all places means that none is left.
        if tokio::time::timeout(bounds.grace, places.acquire_many(all)).await.is_err() {
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
    router: Router,
    tls: Option<TlsAcceptor>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    closing: watch::Receiver<bool>,
    peer: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Heartbeats and deltas are small and must not wait for more.
        let _ = stream.set_nodelay(true);
        match self.tls.clone() {
            None => self.http(stream).await,
            Some(tls) => {
                match tokio::time::timeout(self.bounds.handshake, tls.accept(stream)).await {
                    Ok(Ok(stream)) => self.http(stream).await,
                    Ok(Err(e)) => {
                        tracing::debug!(error = %e, peer = %self.peer, "no TLS handshake")
                    }
                    Err(_) => self.metrics.connections_timed_out.add(1),
                }
            }
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Connection { router, bounds, metrics, mut closing, peer, .. } = self;
        let begun = Arc::new(Begun::default());
        let service = {
            let begun = Arc::clone(&begun);
            hyper::service::service_fn(move |mut request: Request<Incoming>| {
                begun.set();
                request.extensions_mut().insert(Peer(peer));
                let mut router = router.clone();
                async move {
                    let answer: Result<Response<Body>, Infallible> =
                        router.call(request.map(Body::new)).await;
                    answer
                }
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
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let late = tokio::time::sleep(bounds.handshake);
        tokio::pin!(late);
        let mut first = true;
        loop {
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
                () = closed(&mut closing) => break,
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(bounds.grace, connection).await;
    }
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
