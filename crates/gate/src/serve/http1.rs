//! HTTP/1.1 toward callers, for plain requests: those without a body, which are most.
//!
//! The guard's look at a head is then the only one, and an answer's head goes out with the first part of
//! its body. A connection that waits for a request holds no buffer. At the first request that is not
//! plain the connection is given back, for hyper, which goes on with that request.
//!
//! It frames answers as hyper does: a length where it is known, else chunks. What is left out is what
//! only other requests can ask for: trailers, 100, 101 and HTTP/1.0.
//!
//! INVARIANT: an answer that broke off ends the connection without the bytes that would make it look
//! whole.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;
use hyper::rt::Write as _;

use crate::message::body::GateBody;
use crate::wire::guard::{Guard, Next};

/// A part of a body up to this size is copied behind the head; a larger one is written from where it is.
const COPIED: usize = 4 * 1024;
/// Bytes that are gathered before they are written.
const GATHERED: usize = 16 * 1024;

/// A connection. It ends with the guard where the connection has a request that is for hyper.
pub(super) struct Http1<S, F> {
    /// None: it was given back.
    guard: Option<Guard>,
    ask: S,
    state: State<F>,
    /// The answer under way is the last one.
    closing: bool,
}

#[expect(clippy::large_enum_variant, reason = "a connection has one, and an allocation costs more")]
enum State<F> {
    Waiting,
    Asked(Pin<Box<F>>, Asked),
    Answering(Answering),
    Closing,
}

/// What matters of a request for its answer.
#[derive(Clone, Copy)]
struct Asked {
    is_head: bool,
    closes: bool,
}

/// An answer on its way.
struct Answering {
    /// None: there is nothing more of it.
    body: Option<GateBody>,
    left: Left,
    /// The connection goes on after it.
    stays: bool,
    out: BytesMut,
    /// A part of the body, to be written after `out`.
    part: Bytes,
    /// What is written after `part`.
    after: &'static [u8],
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// So many bytes more.
    Sized(u64),
    Chunked,
}

impl<S, F> Http1<S, F>
where
    S: FnMut(Parts) -> F,
    F: Future<Output = Result<Response<GateBody>, Infallible>>,
{
    pub(super) fn new(guard: Guard, ask: S) -> Http1<S, F> {
        Http1 { guard: Some(guard), ask, state: State::Waiting, closing: false }
    }

    /// It ends after the exchange that it has, or at once.
    pub(super) fn graceful_shutdown(&mut self) {
        self.closing = true;
    }
}

impl<S, F> Future for Http1<S, F>
where
    S: FnMut(Parts) -> F + Unpin,
    F: Future<Output = Result<Response<GateBody>, Infallible>>,
{
    type Output = io::Result<Option<Guard>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(guard) = &mut this.guard else { return Poll::Ready(Ok(None)) };
        loop {
            match &mut this.state {
                State::Waiting => match guard.poll_plain(cx) {
                    Poll::Ready(Ok(Next::Plain(parts))) => {
                        let asked = Asked::of(&parts);
                        this.state = State::Asked(Box::pin((this.ask)(*parts)), asked);
                    }
                    Poll::Ready(Ok(Next::Other)) => return Poll::Ready(Ok(this.guard.take())),
                    Poll::Ready(Ok(Next::End)) => this.state = State::Closing,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if this.closing => this.state = State::Closing,
                    Poll::Pending => return Poll::Pending,
                },
                State::Asked(answer, asked) => match answer.as_mut().poll(cx) {
                    Poll::Ready(Ok(response)) => {
                        let closes = asked.closes || this.closing;
                        let answering = Answering::begin(response, asked.is_head, closes);
                        this.state = State::Answering(answering);
                    }
                    Poll::Pending => {
                        ready!(guard.poll_gone(cx));
                        return Poll::Ready(Ok(None));
                    }
                },
                State::Answering(answering) => {
                    ready!(answering.poll(guard, cx))?;
                    let stays = answering.stays && !this.closing;
                    this.state = if stays { State::Waiting } else { State::Closing };
                }
                State::Closing => {
                    return Pin::new(guard).poll_shutdown(cx).map_ok(|()| None);
                }
            }
        }
    }
}

impl Asked {
    fn of(parts: &Parts) -> Asked {
        let is_head = parts.method == Method::HEAD;
        Asked { is_head, closes: closes(&parts.headers) }
    }
}

/// Whether `Connection` says that it closes.
fn closes(headers: &HeaderMap) -> bool {
    let said = |value: &HeaderValue| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    headers.get_all(CONNECTION).iter().any(said)
}

impl Answering {
    /// The answer with its head written down. `is_head`: the request's method was HEAD.
    fn begin(response: Response<GateBody>, is_head: bool, closes: bool) -> Answering {
        let (parts, body) = response.into_parts();
        let has_body = !is_head
            && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            && !parts.status.is_informational();
        let declared = parts.headers.get(CONTENT_LENGTH).and_then(length);
        let left = match body.size_hint().exact() {
            _ if !has_body || body.is_end_stream() => Left::Sized(0),
            Some(length) => Left::Sized(length),
            None => declared.map_or(Left::Chunked, Left::Sized),
        };
        let stays = !closes && !self::closes(&parts.headers);
        let room = match left {
            Left::Sized(bytes) => usize::try_from(bytes).unwrap_or(COPIED).min(COPIED),
            Left::Chunked => COPIED,
        };
        let mut out = BytesMut::with_capacity(256 + 48 * parts.headers.len() + room);
        put_status(&mut out, parts.status, parts.extensions.get::<ReasonPhrase>());
        for (name, value) in &parts.headers {
            // Framing is this connection's own.
            if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
                put_field(&mut out, name.as_str(), value.as_bytes());
            }
        }
        match (left, parts.headers.get(CONTENT_LENGTH)) {
            // What a GET would have had.
            (_, Some(value)) if is_head => put_field(&mut out, "content-length", value.as_bytes()),
            (Left::Sized(length), _) if has_body => {
                let _ = write!(out, "content-length: {length}\r\n");
            }
            (Left::Chunked, _) => put_field(&mut out, "transfer-encoding", b"chunked"),
            (Left::Sized(_), _) => {}
        }
        if !stays && !self::closes(&parts.headers) {
            put_field(&mut out, "connection", b"close");
        }
        if !parts.headers.contains_key(DATE) {
            put_date(&mut out);
        }
        out.extend_from_slice(b"\r\n");
        let body = (left != Left::Sized(0)).then_some(body);
        Answering { body, left, stays, out, part: Bytes::new(), after: b"" }
    }

    /// Ready when all of it is written. An error: it broke off, or the caller has gone.
    fn poll(&mut self, guard: &mut Guard, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let starved = self.gather(cx)?;
            if self.is_written() {
                if self.body.is_none() {
                    return Pin::new(&mut *guard).poll_flush(cx);
                }
                // Bytes that TLS still holds go out while the upstream is waited for.
                let _ = Pin::new(&mut *guard).poll_flush(cx)?;
                if starved {
                    return self.poll_gone(guard, cx);
                }
            } else if self.poll_write(guard, cx)?.is_pending() {
                return self.poll_gone(guard, cx);
            }
        }
    }

    /// Pending, unless the caller has gone. Once the exchange is over, writing alone tells that.
    fn poll_gone(&self, guard: &mut Guard, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.body.is_some() {
            ready!(guard.poll_gone(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Pending
    }

    /// Takes what there is of the body, up to a bound. True: more is to be waited for.
    fn gather(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        while self.part.is_empty() && self.after.is_empty() && self.out.len() < GATHERED {
            let Some(body) = &mut self.body else { return Ok(false) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers were not asked for.
                    if let Ok(data) = frame.into_data() {
                        self.put(data);
                    }
                    if self.body.as_ref().is_some_and(GateBody::is_end_stream) {
                        self.end()?;
                    }
                }
                Poll::Ready(None) => self.end()?,
            }
        }
        Ok(false)
    }

    fn put(&mut self, mut data: Bytes) {
        if data.is_empty() {
            return;
        }
        match &mut self.left {
            Left::Sized(left) => {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            Left::Chunked => {
                let _ = write!(self.out, "{:X}\r\n", data.len());
                self.after = b"\r\n";
            }
        }
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.after));
        } else {
            self.part = data;
        }
    }

    /// There is no more of the body.
    fn end(&mut self) -> io::Result<()> {
        match self.left {
            Left::Sized(0) => {}
            Left::Sized(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Left::Chunked if self.after.is_empty() => self.out.extend_from_slice(b"0\r\n\r\n"),
            Left::Chunked => self.after = b"\r\n0\r\n\r\n",
        }
        self.body = None;
        Ok(())
    }

    fn is_written(&self) -> bool {
        self.out.is_empty() && self.part.is_empty() && self.after.is_empty()
    }

    fn poll_write(&mut self, guard: &mut Guard, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let guard = Pin::new(guard);
        let written = if self.part.is_empty() && self.after.is_empty() {
            guard.poll_write(cx, &self.out)?
        } else {
            let parts = [&self.out, &*self.part, self.after].map(IoSlice::new);
            guard.poll_write_vectored(cx, &parts)?
        };
        let Poll::Ready(mut n) = written else { return Ok(Poll::Pending) };
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_out = n.min(self.out.len());
        self.out.advance(of_out);
        n -= of_out;
        let of_part = n.min(self.part.len());
        self.part.advance(of_part);
        n -= of_part;
        self.after = self.after.get(n..).unwrap_or_default();
        Ok(Poll::Ready(()))
    }
}

/// The length that a header says.
fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn put_status(out: &mut BytesMut, status: StatusCode, reason: Option<&ReasonPhrase>) {
    if status == StatusCode::OK && reason.is_none() {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let known = || status.canonical_reason().unwrap_or("Unknown").as_bytes();
    out.extend_from_slice(reason.map_or_else(known, ReasonPhrase::as_bytes));
    out.extend_from_slice(b"\r\n");
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The date of now, written once a second on each thread.
fn put_date(out: &mut BytesMut) {
    thread_local!(static DATE: std::cell::RefCell<(u64, String)> = const {
        std::cell::RefCell::new((0, String::new()))
    });
    let now = SystemTime::now();
    let unix_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(at, text)| {
        if *at != unix_s || text.is_empty() {
            *at = unix_s;
            *text = httpdate::fmt_http_date(now);
        }
        put_field(out, "date", text.as_bytes());
    });
}
