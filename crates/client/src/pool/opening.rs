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
    let socket =
        Socket { look: Arc::clone(&look), stream: dialed.stream, permit: opening.permit() };
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
/// INVARIANT: the stream is declared, and so dropped, before the permit.
struct Socket<B: RequestBody> {
    look: Arc<Look>,
    stream: Stream,
    #[expect(dead_code, reason = "held for its Drop")]
    permit: Option<Permit<B>>,
}

impl<B: RequestBody> Drop for Socket<B> {
    fn drop(&mut self) {
        self.look.gone();
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
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
