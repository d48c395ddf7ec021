//! One connection of a caller, from accept to close: who is it, which protocol, then requests.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::front::{Door, Front};
use super::http1::Http1;
use super::life::Life;
use super::tunnel;
use crate::check;
use crate::config::Bounds;
use crate::exchange::cut::{Cut, Cuts};
use crate::exchange::shared::{OpenExchange, Shared};
use crate::message::body::GateBody;
use crate::phase::live;
use crate::phase::stage::Arrived;
use crate::phase::worker::Worker;
use crate::wire::guard::{Deadlines, Guard};
use crate::wire::head::{HeadBounds, MAX_HEADER_COUNT};
use crate::wire::peer::{CallerPlace, NO_REQUEST, Peer, ShownCertificate};
use crate::wire::proxy_protocol;
use crate::wire::stream::{Rewound, Socket, Stream};

/// Room for the first bytes of a connection; most requests fit.
const FIRST_ROOM: usize = 1024;
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Flow-control windows toward callers: what one of them can make the gate hold.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const H2_SEND_BUFFER: usize = 256 * 1024;
const H2_PING: Duration = Duration::from_secs(20);

/// Why a connection ended before its first request.
enum Early {
    /// Its end, or an error of its socket; the rule, not the exception.
    Gone,
    /// The first byte was late.
    FirstByte,
    /// TLS or the PROXY protocol.
    Handshake(String),
}

impl From<io::Error> for Early {
    fn from(_: io::Error) -> Early {
        Early::Gone
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    front: Arc<Front>,
    worker: Arc<Worker>,
    socket: Socket,
    remote: Option<SocketAddr>,
    place: CallerPlace,
    door: Door,
) {
    let seat = Arc::clone(place.seat());
    let opened = tokio::select! {
        // Boxed: a handshake takes room that a connection in use does not need.
        opened = Box::pin(open(&front, socket, remote, place, door)) => opened,
        // It was accepted, so its first request may be on its way.
        () = front.life.reached(Life::Closing) => Err(Early::Gone),
        // Nothing was asked yet, and another connection needs the place.
        () = seat.told() => Err(Early::Gone),
    };
    match opened {
        Ok(opened) => opened.serve(front, worker).await,
        Err(Early::Gone) => {}
        Err(Early::FirstByte) => worker.metrics.first_byte_late.add(1),
        Err(Early::Handshake(error)) => {
            worker.metrics.handshake_failed.add(1);
            tracing::debug!(?remote, error, "a connection was refused");
        }
    }
}

/// A connection whose protocol is known.
struct Opened {
    stream: Stream,
    prefix: BytesMut,
    is_h2: bool,
    peer: Arc<Peer>,
    door: Door,
}

async fn open(
    front: &Front,
    mut socket: Socket,
    remote: Option<SocketAddr>,
    place: CallerPlace,
    door: Door,
) -> Result<Opened, Early> {
    let settings = &front.common.settings;
    let bounds = &settings.bounds;
    let mut prefix = BytesMut::new();
    let mut client = remote;
    let mut is_unnamed = false;
    let is_check = door == Door::Check;
    if !is_check && settings.proxy_senders.contains(remote.map(|addr| addr.ip())) {
        let source = read_proxy_header(&mut socket, &mut prefix, bounds.first_byte).await?;
        is_unnamed = source.is_none();
        client = source.or(client);
    }
    let mut is_h2 = false;
    let mut certificate = None;
    let mut stream = match front.tls.as_ref().filter(|_| !is_check) {
        None => Stream::Plain(socket),
        Some(config) => {
            let loaded = config.load_full();
            let acceptor = TlsAcceptor::from(Arc::clone(&loaded.config));
            let socket = Rewound { prefix: prefix.split().to_vec(), socket };
            let handshake = acceptor.accept(socket);
            let tls = match tokio::time::timeout(bounds.handshake, handshake).await {
                Err(_) => return Err(Early::Handshake("the TLS handshake was late".to_owned())),
                Ok(Err(e)) => return Err(Early::Handshake(e.to_string())),
                Ok(Ok(tls)) => tls,
            };
            let protocol = tls.get_ref().1.alpn_protocol();
            // Who wanted a proof has it.
            if protocol == Some(keepgate_serve::ACME_TLS) {
                return Err(Early::Gone);
            }
            is_h2 = protocol == Some(b"h2");
            let chain = tls.get_ref().1.peer_certificates();
            certificate = chain
                .and_then(|chain| ShownCertificate::new(chain, Arc::clone(&loaded.client_cas)));
            Stream::Tls(Box::new(tls))
        }
    };
    if !is_h2 {
        is_h2 = begins_with_preface(&mut stream, &mut prefix, bounds).await?;
    }
    let forwarded_for =
        client.and_then(|addr| HeaderValue::try_from(addr.ip().to_canonical().to_string()).ok());
    let is_tls = matches!(stream, Stream::Tls(_));
    let seat = Arc::clone(place.seat());
    let shared = Arc::new(Shared::new(Arc::clone(&seat), front.began));
    let peer = Arc::new(Peer {
        client,
        is_unnamed,
        forwarded_for,
        is_tls,
        is_h2,
        certificate,
        shared,
        seat,
        place: Arc::new(place),
    });
    Ok(Opened { stream, prefix, is_h2, peer, door })
}

async fn read_proxy_header(
    socket: &mut Socket,
    prefix: &mut BytesMut,
    within: Duration,
) -> Result<Option<SocketAddr>, Early> {
    let deadline = Instant::now() + within;
    loop {
        match proxy_protocol::parse(prefix) {
            Ok(proxy_protocol::Parsed::Complete { len, source }) => {
                let _ = prefix.split_to(len);
                return Ok(source);
            }
            Ok(proxy_protocol::Parsed::Partial) => {}
            Err(e) => return Err(Early::Handshake(e.to_string())),
        }
        read_more(socket, prefix, deadline).await?;
    }
}

/// Whether the caller speaks HTTP/2 by prior knowledge.
async fn begins_with_preface(
    stream: &mut Stream,
    prefix: &mut BytesMut,
    bounds: &Bounds,
) -> Result<bool, Early> {
    let mut deadline = Instant::now() + bounds.first_byte;
    loop {
        let n = prefix.len().min(H2_PREFACE.len());
        if prefix.get(..n) != H2_PREFACE.get(..n) {
            return Ok(false);
        }
        if n == H2_PREFACE.len() {
            return Ok(true);
        }
        let was_empty = prefix.is_empty();
        prefix.reserve(FIRST_ROOM);
        read_more(stream, prefix, deadline).await?;
        if was_empty {
            deadline = Instant::now() + bounds.header;
        }
    }
}

async fn read_more(
    from: &mut (impl AsyncRead + Unpin),
    into: &mut BytesMut,
    deadline: Instant,
) -> Result<(), Early> {
    match timeout_at(deadline, from.read_buf(into)).await {
        Err(_) => Err(Early::FirstByte),
        Ok(Ok(n)) if n > 0 => Ok(()),
        Ok(_) => Err(Early::Gone),
    }
}

impl Opened {
    async fn serve(self, front: Arc<Front>, worker: Arc<Worker>) {
        let bounds = &front.common.settings.bounds;
        let head = HeadBounds {
            count: bounds.header_count.min(MAX_HEADER_COUNT),
            bytes: bounds.header_bytes,
            uri: bounds.uri_bytes,
        };
        let deadlines =
            Deadlines { header: bounds.header, idle: bounds.idle, write_stall: bounds.write_stall };
        let shared = Arc::clone(&self.peer.shared);
        let ids = Arc::clone(&worker.request_ids);
        let guard = Guard::new(
            self.stream,
            self.prefix,
            self.is_h2,
            Arc::clone(&shared),
            head,
            deadlines,
            ids,
        );
        if self.is_h2 {
            Box::pin(serve_h2(&front, worker, guard, self.peer, self.door)).await;
        } else {
            serve_h1(&front, worker, guard, self.peer, self.door).await;
        }
    }
}

/// One exchange. `open`: its connection has it, until its answer is over.
async fn exchange(
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    open: OpenExchange,
    front: Arc<Front>,
    door: Door,
    parts: Parts,
    body: Option<Incoming>,
) -> Result<Response<GateBody>, Infallible> {
    let is_h2 = peer.is_h2;
    let (mut response, upgrade) = match door {
        Door::Callers => live(Arrived::new(parts, worker, Arc::clone(&peer)), body).await,
        // Boxed: it must not make every exchange larger.
        Door::Check => {
            (Box::pin(check::answer(worker, Arc::clone(&peer), parts, body)).await, None)
        }
    };
    match upgrade {
        Some(upgrade) => tunnel::spawn(peer, *upgrade),
        None if !is_h2 && front.life.is(Life::Leaving) => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        None => {}
    }
    Ok(response.map(|body| body.holding(open)))
}

/// Plain requests one after the other, and from the first that is not plain, all of them by hyper.
async fn serve_h1(
    front: &Arc<Front>,
    worker: Arc<Worker>,
    guard: Guard,
    peer: Arc<Peer>,
    door: Door,
) {
    let shared = Arc::clone(&peer.shared);
    let ask = |parts| {
        let open = OpenExchange::begun(Arc::clone(&peer.shared));
        let (worker, peer) = (Arc::clone(&worker), Arc::clone(&peer));
        exchange(worker, peer, open, Arc::clone(front), door, parts, None)
    };
    let connection = pin!(Http1::new(guard, ask));
    let stop = pin!(front.life.reached(Life::Closing));
    let is_due = || front.life.is(Life::Closing);
    let graceful =
        Graceful::new(connection, stop, is_due, &shared, |c| c.get_mut().graceful_shutdown());
    // How a caller's connection ends is the caller's business; requests are recorded.
    if let Some(Ok(Some(guard))) = graceful.await {
        // Boxed: most connections do not need it.
        let (worker, peer) = (Arc::clone(&worker), Arc::clone(&peer));
        Box::pin(serve_by_hyper(front, worker, guard, peer, door)).await;
    }
    tell_cut(&worker.metrics.cuts, &shared);
}

async fn serve_by_hyper(
    front: &Arc<Front>,
    worker: Arc<Worker>,
    guard: Guard,
    peer: Arc<Peer>,
    door: Door,
) {
    let shared = Arc::clone(&peer.shared);
    let at_end = Arc::clone(front);
    let service = service_fn(move |request: Request<Incoming>| {
        let open = OpenExchange::begun(Arc::clone(&peer.shared));
        let (worker, peer) = (Arc::clone(&worker), Arc::clone(&peer));
        let (parts, body) = request.into_parts();
        exchange(worker, peer, open, Arc::clone(&at_end), door, parts, Some(body))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The guard keeps all deadlines.
    builder.header_read_timeout(None);
    let connection = pin!(builder.serve_connection(guard, service).with_upgrades());
    // Until then each answer says that the connection closes.
    let stop = pin!(front.life.reached(Life::Closing));
    let is_due = || front.life.is(Life::Closing);
    let graceful = Graceful::new(connection, stop, is_due, &shared, |c| c.graceful_shutdown());
    let _ = graceful.await;
}

async fn serve_h2(
    front: &Arc<Front>,
    worker: Arc<Worker>,
    guard: Guard,
    peer: Arc<Peer>,
    door: Door,
) {
    let shared = Arc::clone(&peer.shared);
    let metrics = Arc::clone(&worker.metrics);
    let bounds = &front.common.settings.bounds;
    let at_end = Arc::clone(front);
    let service = service_fn(move |request: Request<Incoming>| {
        let open = OpenExchange::begin(Arc::clone(&peer.shared));
        let (worker, peer) = (Arc::clone(&worker), Arc::clone(&peer));
        let (parts, body) = request.into_parts();
        exchange(worker, peer, open, Arc::clone(&at_end), door, parts, Some(body))
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_streams)
        .max_header_list_size(u32::try_from(bounds.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(bounds.write_stall)
        .serve_connection(guard, service);
    let connection = pin!(connection);
    // A connection that comes while the gate is leaving is not sent away before its first request.
    let end = if front.life.is(Life::Leaving) { Life::Draining } else { Life::Leaving };
    let stop = pin!(front.life.reached(end));
    let is_due = || front.life.is(end);
    let graceful = Graceful::new(connection, stop, is_due, &shared, |c| c.graceful_shutdown());
    tokio::select! {
        _ = graceful => tell_cut(&metrics.cuts, &shared),
        // Ends the connection: a caller that takes nothing holds an upstream connection.
        () = stall(&shared, bounds.write_stall) => metrics.cuts.note(Cut::WriteStall, &NO_REQUEST),
    }
}

/// Counts and logs what the guard has cut short.
fn tell_cut(cuts: &Cuts, shared: &Shared) {
    if let Some(cut) = shared.was_cut() {
        cuts.note(cut, &NO_REQUEST);
    }
}

/// Ends when parts of answers have waited for the caller for that long.
async fn stall(shared: &Shared, limit: Duration) {
    let step = (limit / 4).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(step).await;
        if shared.has_stalled(limit) {
            return;
        }
    }
}

/// A connection that is told once to end after its exchanges: when the gate stops, or when another
/// needs its place. Both are waited for once; after that each poll costs a few loads.
struct Graceful<'c, C, S, D, F> {
    connection: Pin<&'c mut C>,
    stop: Pin<&'c mut S>,
    waiting: bool,
    told: bool,
    is_due: D,
    shared: &'c Shared,
    graceful: F,
}

impl<'c, C, S, D: Fn() -> bool, F: FnMut(Pin<&mut C>)> Graceful<'c, C, S, D, F> {
    fn new(
        connection: Pin<&'c mut C>,
        stop: Pin<&'c mut S>,
        is_due: D,
        shared: &'c Shared,
        graceful: F,
    ) -> Graceful<'c, C, S, D, F> {
        Graceful { connection, stop, waiting: false, told: false, is_due, shared, graceful }
    }
}

impl<C, S, D, F> Future for Graceful<'_, C, S, D, F>
where
    C: Future,
    S: Future<Output = ()>,
    D: Fn() -> bool + Unpin,
    F: FnMut(Pin<&mut C>) + Unpin,
{
    /// None: it was ended with its exchanges.
    type Output = Option<C::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if !this.waiting {
            this.waiting = true;
            let _ = this.stop.as_mut().poll(cx);
            let _ = this.shared.poll_told(cx);
        }
        let told = this.shared.told();
        if told == Some(true) {
            return Poll::Ready(None);
        }
        if !this.told && (told.is_some() || (this.is_due)()) {
            this.told = true;
            (this.graceful)(this.connection.as_mut());
        }
        this.connection.as_mut().poll(cx).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_answer<A, B, C, D, E, F, R>(_: impl FnOnce(A, B, C, D, E, F) -> R) -> usize {
        size_of::<R>()
    }

    /// All connections of callers are such a task, also while they are idle.
    #[test]
    fn a_connection_is_a_small_task() {
        let bytes = size_of_answer(serve);
        assert!(
            bytes <= 4096,
            "{bytes}: box what a connection that waits for a request does not need"
        );
    }
}
