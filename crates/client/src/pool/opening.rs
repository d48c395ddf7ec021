//! From the right to open a connection to a connection in use.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::config::Protocol;
use super::idle::{Driver, H1};
use super::look::Look;
use super::outgoing::RequestBody;
use super::plain::{Plain, RESPONSE_HEAD_BYTES, Wire};
use super::slots::{Lease, Opening, Permit, Slots};
use super::streams::{H2, PeerMax};
use super::sweeper::start_sweeper;
use crate::dial::{DialError, Stream};

/// Flow-control windows toward us; the defaults (64 KiB) stall a gateway on any real distance.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// How long a ping may stay unanswered.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer's settings may take before its one stream is believed to be all.
const GREETING: Duration = Duration::from_secs(1);
/// When they are looked for first; then after twice as long, each time.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// How long a peer that ends a connection (`Connection: close`) may take to close it.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);

/// Why there is no connection.
pub(super) enum OpenError {
    Dial(DialError),
    Handshake(hyper::Error),
}

/// Opens a connection and lends it out.
pub(super) async fn open<B: RequestBody>(
    slots: &Arc<Slots<B>>,
    mut opening: Opening<B>,
) -> Result<Lease<B>, OpenError> {
    let result = establish(slots, &mut opening).await;
    match &result {
        Ok(_) => start_sweeper(slots),
        Err(error) => {
            slots.shared.counters.open_failures.add(1);
            if let OpenError::Dial(error) = error
                && error.is_local_shortage()
            {
                // Before `opening` is dropped, or the next in the queue would run into it too.
                slots.ran_short(error);
            }
        }
    }
    drop(opening);
    result
}

async fn establish<B: RequestBody>(
    slots: &Arc<Slots<B>>,
    opening: &mut Opening<B>,
) -> Result<Lease<B>, OpenError> {
    let dialed = slots.dialer.dial(&slots.id.target).await.map_err(OpenError::Dial)?;
    let h2 = match slots.id.protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Auto => dialed.alpn.as_deref() == Some(b"h2"),
    };
    let look = Arc::new(Look::at(&dialed.stream));
    let mut permit = opening.permit();
    if let Some(permit) = &mut permit {
        permit.port_is_free = dialed.local.is_none();
    }
    let socket = Socket {
        look: Arc::clone(&look),
        stream: dialed.stream,
        is_first_to_close: None,
        patience: None,
        permit,
    };
    if h2 {
        start_h2(slots, TokioIo::new(socket), look).await
    } else {
        start_h1(slots, socket, look).await
    }
}

async fn start_h1<B: RequestBody>(
    slots: &Arc<Slots<B>>,
    socket: Socket<B>,
    look: Arc<Look>,
) -> Result<Lease<B>, OpenError> {
    let wire: Box<dyn Wire> = Box::new(socket);
    let driver = if slots.id.target.tls.is_some() {
        // What TLS reads while nobody asks, such as a session ticket, is no end of the connection.
        Driver::hyper(wire).await.map_err(OpenError::Handshake)?
    } else {
        let weak = Arc::downgrade(slots);
        // It rings where the runtime hears of its sockets, or ends: never under a lock of the pool.
        let tell = move || {
            if let Some(slots) = weak.upgrade() {
                slots.sweep();
            }
        };
        Driver::Plain(Plain::new(wire, Box::new(tell)))
    };
    let ends = ends(slots.config.max_age);
    Ok(slots.opened_h1(H1::new(driver, look, slots.config.idle_timeout, ends)))
}

async fn start_h2<B: RequestBody>(
    slots: &Arc<Slots<B>>,
    io: TokioIo<Socket<B>>,
    look: Arc<Look>,
) -> Result<Lease<B>, OpenError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .initial_max_send_streams(1)
        .max_header_list_size(u32::try_from(RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(slots.config.h2_ping)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .handshake(io)
        .await
        .map_err(OpenError::Handshake)?;
    let peer_max = Arc::new(PeerMax::awaited());
    let (seen, weak) = (peer_max.clone(), Arc::downgrade(slots));
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        // Nothing wakes this task when the peer's settings come, so at first it looks for them.
        let greeted = Instant::now() + GREETING;
        let mut look = Box::pin(tokio::time::sleep(FIRST_LOOK));
        let mut pause = FIRST_LOOK;
        let _ = std::future::poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() {
                let max = connection.current_max_send_streams();
                let news = seen.learn(max);
                let mut settled = news;
                while seen.is_awaited() && !settled && look.as_mut().poll(cx).is_ready() {
                    settled = Instant::now() >= greeted;
                    pause *= 2;
                    look.as_mut().reset(tokio::time::Instant::now() + pause);
                }
                if settled {
                    seen.settle();
                    if let Some(slots) = weak.upgrade() {
                        slots.admit();
                    }
                }
            }
            polled
        })
        .await;
        seen.settle();
    });
    Ok(slots.opened_h2(H2::new(sender, look, peer_max, ends(slots.config.max_age))))
}

/// When a connection that is made now is too old: up to a tenth before its age, so that those made
/// together do not end together.
fn ends(max_age: Option<Duration>) -> Option<Instant> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let age = max_age?;
    let tenths_of_a_tenth = MADE.fetch_add(1, Ordering::Relaxed) % 10;
    Instant::now().checked_add(age - age / 100 * tenths_of_a_tenth)
}

/// A stream and the right to have it.
///
/// Who closes first is left with a TIME_WAIT. A peer that ends the connection (`Connection: close`, RFC
/// 9112, section 9.6) gets a moment to close it, so that the port is free here at once.
///
/// INVARIANT: the stream is declared, and so dropped, before the permit.
struct Socket<B: RequestBody> {
    look: Arc<Look>,
    stream: Stream,
    /// Whether our side was the first to close; none: it has not closed yet.
    is_first_to_close: Option<bool>,
    /// How long the peer may still take.
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
    permit: Option<Permit<B>>,
}

impl<B: RequestBody> Drop for Socket<B> {
    fn drop(&mut self) {
        // Where the peer has closed, or reset, the connection before us, there is no TIME_WAIT.
        let is_first = self.is_first_to_close.unwrap_or_else(|| !self.look.is_closed());
        if let Some(permit) = &mut self.permit {
            permit.port_is_free |= !is_first;
        }
        self.look.gone();
    }
}

impl<B: RequestBody> Socket<B> {
    /// Ready once the peer has closed its side, or has had its time.
    fn poll_peer_closes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience =
            self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_PATIENCE)));
        if patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut rest = [0; 256];
        let mut rest = ReadBuf::new(&mut rest);
        // What comes instead of the end belongs to no response.
        Pin::new(&mut self.stream).poll_read(cx, &mut rest).map(|_| ())
    }
}

impl<B: RequestBody> AsyncRead for Socket<B> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<B: RequestBody> AsyncWrite for Socket<B> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.is_first_to_close.is_none() {
            // Once it waits it goes on to, whatever becomes of those who would have used it.
            let waits = socket.patience.is_some() || socket.look.is_peers_to_close();
            if waits && !socket.look.is_closed() {
                std::task::ready!(socket.poll_peer_closes(cx));
            }
            socket.is_first_to_close = Some(!socket.look.is_closed());
        }
        Pin::new(&mut socket.stream).poll_shutdown(cx)
    }
}
