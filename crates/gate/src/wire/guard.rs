//! Between a caller's socket and hyper: every deadline, and a look at each head.
//!
//! A plain request of HTTP/1 is taken from a [`Guard`] as one ([`Guard::poll_plain`]). Of all else hyper
//! gets the bytes, and only through the guard: on HTTP/1 it gives hyper one judged head at a
//! time, and the next one only when the exchange before it is over; on HTTP/2 and in a tunnel
//! bytes pass as they are. Deadlines are lazy: a timer is looked at when it fires, not moved
//! with each request, so a busy connection pays one clock reading a request.
//!
//! INVARIANT: no read or write waits without a deadline, except a read while the gate itself
//! owes the caller an answer.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::chunk::{ChunkTracker, Step};
use super::h2::Watch;
use super::head::{Framing, Head, HeadBounds, Scan, take};
use super::stream::Stream;
use crate::exchange::cut::Cut;
use crate::exchange::shared::Shared;
use crate::message::answer;
use crate::message::problem::{Kind, Problem};
use crate::message::request_id::RequestIds;

/// The deadlines a guard keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// From the first byte of a head to its last.
    pub(crate) header: Duration,
    /// Without an exchange.
    pub(crate) idle: Duration,
    /// Without a byte taken by the caller that the gate wants to send.
    pub(crate) write_stall: Duration,
}

/// What the next bytes from the caller are.
#[derive(Debug)]
enum Inbound {
    /// The beginning of a head, or part of one.
    Head,
    /// What is left of a judged head, then its body.
    Judged(Bytes, Framing),
    /// Body bytes of a known length.
    Sized(u64),
    /// A chunked body.
    Chunked(ChunkTracker),
    /// As they are: HTTP/2, or a tunnel.
    Through,
    /// Nothing more is taken; hyper sees the end.
    Stopped,
}

/// What a connection of HTTP/1 brings next.
pub(crate) enum Next {
    /// A request without a body, whose exchange has begun.
    Plain(Box<Parts>),
    /// A request that is for hyper to read; the guard gives it the bytes.
    Other,
    /// Nothing more: the connection is to be shut down.
    End,
}

/// How the end of the connection went on.
#[derive(Debug)]
enum Closing {
    Farewell,
    Shutdown,
    /// Reading what the caller still sends, so that the last answer is not lost to a reset.
    Linger {
        left: usize,
    },
    Done,
}

/// See the module.
pub(crate) struct Guard {
    stream: Stream,
    shared: Arc<Shared>,
    bounds: HeadBounds,
    deadlines: Deadlines,
    inbound: Inbound,
    /// On HTTP/2: reads along, and what it has passed on.
    watch: Option<Box<Watch>>,
    watched: BytesMut,
    buf: BytesMut,
    /// Bytes of `buf` that were judged partial.
    seen: usize,
    at_end: bool,
    /// When the present wait to read ends, and for what.
    read_by: Option<Instant>,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_by: Option<Instant>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// The last bytes to send before closing.
    farewell: Bytes,
    closing: Closing,
    request_ids: Arc<RequestIds>,
}

/// Room that is made before a read, and the least there must be.
const READ_ROOM: usize = 4 * 1024;
const LEAST_ROOM: usize = 1024;
/// The most that is read and thrown away at the end of a connection.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(2);

impl Guard {
    /// A guard over a stream of which `prefix` was read already. `through`: it is HTTP/2.
    pub(crate) fn new(
        stream: Stream,
        prefix: BytesMut,
        through: bool,
        shared: Arc<Shared>,
        bounds: HeadBounds,
        deadlines: Deadlines,
        request_ids: Arc<RequestIds>,
    ) -> Guard {
        Guard {
            stream,
            shared,
            bounds,
            deadlines,
            inbound: if through { Inbound::Through } else { Inbound::Head },
            watch: through.then(Box::default),
            watched: BytesMut::new(),
            buf: prefix,
            seen: 0,
            at_end: false,
            read_by: None,
            read_timer: None,
            write_by: None,
            write_timer: None,
            farewell: Bytes::new(),
            closing: Closing::Farewell,
            request_ids,
        }
    }

    /// Reads more into `buf`. Zero bytes: the caller has ended.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.at_end {
            return Poll::Ready(Ok(0));
        }
        if self.buf.is_empty() && matches!(self.inbound, Inbound::Head) {
            return self.fill_empty(cx);
        }
        if self.buf.capacity() - self.buf.len() < LEAST_ROOM {
            self.buf.reserve(READ_ROOM);
        }
        // Dropping the future loses nothing: it holds no bytes of its own.
        let n = ready!(pin!(self.stream.read_buf(&mut self.buf)).poll(cx))?;
        self.at_end = n == 0;
        Poll::Ready(Ok(n))
    }

    /// The same where there are none, by way of the stack: a connection that waits for a request has no
    /// buffer.
    fn fill_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; READ_ROOM];
        let mut read = ReadBuf::uninit(&mut room);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        self.buf = BytesMut::from(read.filled());
        ready!(polled)?;
        let n = self.buf.len();
        self.at_end = n == 0;
        Poll::Ready(Ok(n))
    }

    /// The next request. It is not to be asked for again before that one's exchange is over.
    pub(crate) fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        if self.shared.needs_to_go() {
            // Another connection gets its place, at once.
            return Poll::Ready(Ok(Next::End));
        }
        Poll::Ready(Ok(match ready!(self.poll_head(cx, true))? {
            None => Next::End,
            Some(Head { plain: Some(parts), .. }) => Next::Plain(parts),
            Some(Head { bytes, framing, plain: None }) => {
                self.inbound = Inbound::Judged(bytes, framing);
                Next::Other
            }
        }))
    }

    /// While the answer to a plain request is owed: ready when the caller has gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_end_while_open(cx).map(|_| ())
    }

    /// Waits, but not beyond `limit` from the beginning of this wait. `Ready`: too long.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let by = *self.read_by.get_or_insert_with(|| Instant::now() + limit);
        poll_deadline(&mut self.read_timer, by, cx)
    }

    /// `Ready`: the connection was idle for too long.
    fn poll_idle_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let by = self.shared.idle_since() + self.deadlines.idle;
        poll_deadline(&mut self.read_timer, by, cx)
    }

    /// hyper does not read again when an answer is over, so no deadline would start then. While
    /// an answer is owed the idle timer ticks, and wakes the connection to look.
    fn tick(&mut self, cx: &mut Context<'_>) {
        let idle = self.deadlines.idle;
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(Instant::now() + idle);
        }
    }

    fn stop(&mut self, problem: Option<Problem>) {
        if let Some(problem) = problem {
            let id = self.request_ids.next();
            self.farewell = answer::raw(&problem, &id);
        }
        self.inbound = Inbound::Stopped;
    }

    /// Takes the next head out of `buf`, or waits for it; with it an exchange begins. None: there is
    /// none. `plain`: a plain request is wanted in its parts.
    fn poll_head(&mut self, cx: &mut Context<'_>, plain: bool) -> Poll<io::Result<Option<Head>>> {
        loop {
            if self.shared.needs_to_go() {
                // Another connection gets its place.
                self.stop(None);
                return Poll::Ready(Ok(None));
            }
            if self.seen == 0 && self.buf.starts_with(b"\r\n") {
                // RFC 9112 section 2.2: one empty line before a request is ignored.
                self.buf.advance(2);
            }
            match take(&mut self.buf, self.seen, &self.bounds, plain) {
                Scan::Complete(head) => {
                    self.seen = 0;
                    self.read_by = None;
                    self.shared.begin();
                    return Poll::Ready(Ok(Some(head)));
                }
                Scan::Refused(problem) => {
                    self.stop(Some(*problem));
                    return Poll::Ready(Ok(None));
                }
                Scan::Partial => {
                    let was_idle = self.buf.is_empty();
                    self.seen = self.buf.len();
                    match self.fill(cx) {
                        Poll::Ready(Ok(0)) => {
                            self.inbound = Inbound::Stopped;
                            return Poll::Ready(Ok(None));
                        }
                        Poll::Ready(Ok(_)) => {
                            if was_idle {
                                self.read_by = None;
                            }
                        }
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Pending => {
                            ready!(if was_idle {
                                self.poll_idle_deadline(cx)
                            } else {
                                self.poll_read_deadline(cx, self.deadlines.header)
                            });
                            if !was_idle {
                                self.shared.cut_by(Cut::Header);
                            }
                            self.stop((!was_idle).then(too_slow));
                            return Poll::Ready(Ok(None));
                        }
                    }
                }
            }
        }
    }

    /// While an answer is owed, reading is only to learn that the caller went away. Ready: it did.
    fn poll_end_while_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_by = None;
        if self.buf.is_empty() {
            match self.fill(cx) {
                Poll::Pending => {
                    self.tick(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            }
        }
        // The next exchange is here already: wait for the end of this one.
        self.shared.park(cx);
        Poll::Pending
    }

    /// Moves up to `limit` bytes of `buf` to `out`.
    fn give(&mut self, out: &mut hyper::rt::ReadBufCursor<'_>, limit: usize) -> usize {
        let n = self.buf.len().min(limit).min(out.remaining());
        out.put_slice(self.buf.get(..n).unwrap_or_default());
        self.buf.advance(n);
        n
    }

    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_through() {
            match self.fill(cx) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(_)) => self.read_by = None,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    if self.shared.is_open() || self.shared.is_tunnel() {
                        self.tick(cx);
                        return Poll::Pending;
                    }
                    if !self.shared.needs_to_go() {
                        ready!(self.poll_idle_deadline(cx));
                    }
                    self.inbound = Inbound::Stopped;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        if self.watch.is_some() {
            let n = self.watched.len().min(out.remaining());
            out.put_slice(self.watched.get(..n).unwrap_or_default());
            self.watched.advance(n);
        } else {
            self.give(out, usize::MAX);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there are bytes that may pass as they are.
    fn is_through(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return !self.buf.is_empty() };
        if self.watched.is_empty() {
            watch.pass(&mut self.buf, &mut self.watched);
        }
        !self.watched.is_empty()
    }

    fn poll_body_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.buf.is_empty() {
            // How slowly a body may come is judged where it is read, in `crate::message::body`.
            return Poll::Ready(Ok(ready!(self.fill(cx))? > 0));
        }
        Poll::Ready(Ok(true))
    }

    fn poll_write_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stall = self.deadlines.write_stall;
        let by = *self.write_by.get_or_insert_with(|| Instant::now() + stall);
        ready!(poll_deadline(&mut self.write_timer, by, cx));
        self.shared.cut_by(Cut::WriteStall);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the caller takes no bytes"))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>, mut left: usize) -> Poll<()> {
        while left > 0 {
            match self.fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    left = left.saturating_sub(n);
                    self.buf.clear();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.closing = Closing::Linger { left };
                    return self.poll_read_deadline(cx, LINGER);
                }
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.resets() {
            self.stream.reset_on_close();
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(Kind::TooSlow, "the header section took too long to arrive").close()
}

/// Ready when `by` has passed. The timer is moved only when it fires early or is set too late.
fn poll_deadline(
    timer: &mut Option<Pin<Box<Sleep>>>,
    by: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
    loop {
        if timer.deadline() > by {
            timer.as_mut().reset(by);
        }
        ready!(timer.as_mut().poll(cx));
        if Instant::now() >= by {
            return Poll::Ready(());
        }
        timer.as_mut().reset(by);
    }
}

impl hyper::rt::Read for Guard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.inbound {
                Inbound::Head if this.shared.is_tunnel() => this.inbound = Inbound::Through,
                Inbound::Head if this.shared.is_open() => return this.poll_end_while_open(cx),
                Inbound::Head => match ready!(this.poll_head(cx, false))? {
                    Some(Head { bytes, framing, .. }) => {
                        this.inbound = Inbound::Judged(bytes, framing);
                    }
                    None => return Poll::Ready(Ok(())),
                },
                Inbound::Judged(left, framing) => {
                    let n = left.len().min(out.remaining());
                    out.put_slice(&left.split_to(n));
                    if left.is_empty() {
                        this.inbound = match *framing {
                            Framing::Sized(0) => Inbound::Head,
                            Framing::Sized(n) => Inbound::Sized(n),
                            Framing::Chunked => Inbound::Chunked(ChunkTracker::default()),
                        };
                    }
                    return Poll::Ready(Ok(()));
                }
                Inbound::Sized(left) => {
                    let left = *left;
                    if ready!(this.poll_body_bytes(cx))? {
                        let n = this.give(&mut out, usize::try_from(left).unwrap_or(usize::MAX));
                        let left = left - n as u64;
                        this.inbound = if left == 0 { Inbound::Head } else { Inbound::Sized(left) };
                    }
                    return Poll::Ready(Ok(()));
                }
                Inbound::Chunked(tracker) => {
                    let mut tracker = *tracker;
                    if ready!(this.poll_body_bytes(cx))? {
                        let n = this.buf.len().min(out.remaining());
                        match tracker.advance(this.buf.get(..n).unwrap_or_default()) {
                            Step::All => {
                                this.give(&mut out, n);
                                this.inbound = Inbound::Chunked(tracker);
                            }
                            Step::Ends(n) => {
                                this.give(&mut out, n);
                                this.inbound = Inbound::Head;
                            }
                            // hyper sees the body end early and says so.
                            Step::Broken(n) => {
                                this.give(&mut out, n);
                                this.inbound = Inbound::Stopped;
                            }
                        }
                    }
                    return Poll::Ready(Ok(()));
                }
                Inbound::Through => return this.poll_through(cx, &mut out),
                Inbound::Stopped => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl hyper::rt::Write for Guard {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(result) => {
                this.write_by = None;
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_write_deadline(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) {
            Poll::Ready(result) => {
                this.write_by = None;
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_write_deadline(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_flush(cx) {
            Poll::Ready(result) => {
                this.write_by = None;
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_write_deadline(cx).map(Err),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.closing {
                Closing::Farewell => {
                    while !this.farewell.is_empty() {
                        let bytes = this.farewell.clone();
                        let n = ready!(Pin::new(&mut *this).poll_write(cx, &bytes))?;
                        if n == 0 {
                            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                        }
                        this.farewell.advance(n);
                    }
                    ready!(Pin::new(&mut *this).poll_flush(cx))?;
                    this.closing = Closing::Shutdown;
                }
                Closing::Shutdown => {
                    match Pin::new(&mut this.stream).poll_shutdown(cx) {
                        Poll::Ready(result) => result?,
                        Poll::Pending => return this.poll_write_deadline(cx).map(Err),
                    }
                    this.read_by = None;
                    // Only where bytes of the caller may be unread does closing lose an answer.
                    let unread = !this.at_end && !matches!(this.inbound, Inbound::Head);
                    this.closing =
                        if unread { Closing::Linger { left: LINGER_BYTES } } else { Closing::Done };
                }
                Closing::Linger { left } => {
                    ready!(this.poll_linger(cx, left));
                    this.closing = Closing::Done;
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keepgate_serve::places::{Places, PlacesConfig};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::super::stream::Socket;
    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_buffer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let place = Places::new(PlacesConfig::new(1)).take(None, 0).unwrap();
        let shared = Arc::new(Shared::new(Arc::clone(place.seat()), std::time::Instant::now()));
        let second = Duration::from_secs(60);
        let mut guard = Guard::new(
            Stream::Plain(Socket::Unix(ours)),
            BytesMut::with_capacity(1024),
            false,
            Arc::clone(&shared),
            HeadBounds { count: 100, bytes: 32 * 1024, uri: 8 * 1024 },
            Deadlines { header: second, idle: second, write_stall: second },
            Arc::new(RequestIds::new()),
        );
        for _ in 0..3 {
            theirs.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let next = std::future::poll_fn(|cx| guard.poll_plain(cx)).await.unwrap();
            assert!(matches!(next, Next::Plain(_)));
            drop(next);
            shared.end();
            let idle = std::future::poll_fn(|cx| Poll::Ready(guard.poll_plain(cx).is_pending()));
            assert!(idle.await);
            assert_eq!(guard.buf.capacity(), 0);
        }
    }
}
