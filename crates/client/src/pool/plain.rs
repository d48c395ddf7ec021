//! Requests without a body, on HTTP/1.1 connections without TLS.
//!
//! hyper drives a connection by a task of its own; for a small exchange the way to that task and back is
//! half of the cost. Here, whoever sends the request writes its head and reads its response, and
//! between two requests nobody drives the connection: an alarm tells when it becomes readable, which
//! means that the peer has closed it, or sends what nobody has asked for. A connection that has to carry
//! more, a body or an upgrade, is given to hyper for good.
//!
//! It knows neither the pool nor why a request is sent. Responses are framed as RFC 9112, section 6.3
//! has it. INVARIANT: a connection is used again only after a whole response, and with nothing unread.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::error::WireError;

/// The most fields of a response's head.
pub(super) const RESPONSE_FIELDS: usize = 2048;
/// The most bytes of a response's head.
pub(super) const RESPONSE_HEAD_BYTES: usize = 128 * 1024;
/// Of these, so many are looked at without a table on the heap.
const USUAL_FIELDS: usize = 100;
/// The most bytes of the line before a chunk, and of the trailers after the last one.
const CHUNK_LINE: usize = 4 * 1024;
const TRAILER_BYTES: usize = 32 * 1024;
const TRAILER_FIELDS: usize = 100;
/// Bytes that are read at once: by way of the stack, and of a large body.
const READ_ROOM: usize = 8 * 1024;
const LARGE_ROOM: usize = 64 * 1024;

/// The bytes of a connection.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<W: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for W {}

/// A connection, between two requests or lent to one.
pub(super) struct Plain {
    wire: Box<dyn Wire>,
    buf: BytesMut,
    alarm: Arc<Alarm>,
    /// The last response was whole, and the peer keeps the connection.
    clean: bool,
    keeps: bool,
}

/// Rings when an idle connection becomes readable.
struct Alarm {
    state: AtomicU8,
    tell: Box<dyn Fn() + Send + Sync>,
}

const OFF: u8 = 0;
const ARMED: u8 = 1;
const RUNG: u8 = 2;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let rings =
            self.state.compare_exchange(ARMED, RUNG, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if rings {
            (self.tell)();
        }
    }
}

/// What is left of a response's body.
#[derive(Debug)]
pub(super) struct Rest {
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Sized(u64),
    Chunked(Chunk),
    UntilClosed,
    Done,
}

/// Where a chunked body is.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Size,
    Data(u64),
    /// After a chunk's data.
    End,
    Trailers,
}

/// A request that failed on its connection.
pub(super) struct Failed {
    pub(super) error: WireError,
    /// None of it was sent.
    pub(super) unsent: bool,
}

impl Plain {
    /// A connection that was just made. `tell`: it was idle and is not to be used any more.
    pub(super) fn new(wire: Box<dyn Wire>, tell: Box<dyn Fn() + Send + Sync>) -> Plain {
        let alarm = Arc::new(Alarm { state: AtomicU8::new(OFF), tell });
        Plain { wire, buf: BytesMut::new(), alarm, clean: true, keeps: true }
    }

    /// The same connection for somebody else to drive.
    pub(super) fn into_wire(self) -> Box<dyn Wire> {
        self.wire
    }

    /// Whether another request may be sent on it, as far as that was heard.
    pub(super) fn is_ready(&self) -> bool {
        self.clean && self.keeps && self.buf.is_empty() && !self.is_closed()
    }

    /// Whether it was heard that the peer has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.alarm.state.load(Ordering::Acquire) == RUNG
    }

    /// From now on it is idle. False: it is not to be used any more.
    pub(super) fn arm(&mut self) -> bool {
        self.alarm.state.store(ARMED, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.alarm));
        let mut byte = [MaybeUninit::uninit()];
        let mut read = ReadBuf::uninit(&mut byte);
        let reads = poll_fn(|cx| Pin::new(&mut *self.wire).poll_read(cx, &mut read));
        // Outside of tokio's budget: that a task has used it up says nothing of the connection.
        let reads = pin!(tokio::task::unconstrained(reads));
        reads.poll(&mut Context::from_waker(&waker)).is_pending()
    }

    /// It is idle no more. False: it is not to be used any more.
    pub(super) fn disarm(&self) -> bool {
        self.alarm.state.swap(OFF, Ordering::AcqRel) != RUNG
    }

    /// Closes it. Where the peer ends it after a whole response, it is left to the peer for a moment.
    pub(super) async fn end(&mut self) {
        if self.clean {
            // It is closed either way.
            let _ = poll_fn(|cx| Pin::new(&mut *self.wire).poll_shutdown(cx)).await;
        }
    }

    /// Writes the head, and reads the head of the response.
    pub(super) async fn exchange<B>(
        &mut self,
        request: &Request<B>,
    ) -> Result<Response<Rest>, Failed> {
        self.clean = false;
        let head = written(request);
        let mut left: &[u8] = &head;
        while !left.is_empty() {
            let unsent = left.len() == head.len();
            let failed = |error| Failed { error: WireError::Io(error), unsent };
            let n = poll_fn(|cx| Pin::new(&mut *self.wire).poll_write(cx, left));
            match n.await.map_err(failed)? {
                0 => return Err(failed(io::ErrorKind::WriteZero.into())),
                n => left = left.get(n..).unwrap_or_default(),
            }
        }
        drop(head);
        let is_head = request.method() == Method::HEAD;
        let response = self.response(is_head).await;
        response.map_err(|error| Failed { error, unsent: false })
    }

    async fn response(&mut self, is_head: bool) -> Result<Response<Rest>, WireError> {
        let mut seen = 0;
        loop {
            if let Some(end) = end_of_head(&self.buf, seen) {
                let head = self.buf.split_to(end).freeze();
                let (response, keeps) = read(&head, is_head)?;
                seen = 0;
                match response.status() {
                    StatusCode::SWITCHING_PROTOCOLS => {
                        return Err(WireError::Invalid("an upgrade that nobody asked for"));
                    }
                    status if status.is_informational() => continue,
                    _ => {}
                }
                self.keeps = keeps;
                self.clean = matches!(response.body().framing, Framing::Done);
                return Ok(response);
            }
            if self.buf.len() > RESPONSE_HEAD_BYTES {
                return Err(WireError::Invalid("more bytes of a head than are read"));
            }
            seen = self.buf.len();
            let n = poll_fn(|cx| self.poll_fill(cx, READ_ROOM)).await?;
            if n == 0 {
                return Err(WireError::Incomplete);
            }
        }
    }

    /// Reads more into `buf`. Zero bytes: the peer has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<usize, WireError>> {
        if room > READ_ROOM || !self.buf.is_empty() {
            self.buf.reserve(room);
            // Dropping the future loses nothing: it holds no bytes of its own.
            let read = ready!(pin!(self.wire.read_buf(&mut self.buf)).poll(cx));
            return Poll::Ready(read.map_err(WireError::Io));
        }
        // By way of the stack: what comes is mostly small, and idle connections hold no buffer.
        let mut room = [const { MaybeUninit::uninit() }; READ_ROOM];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *self.wire).poll_read(cx, &mut read)).map_err(WireError::Io)?;
        self.buf = BytesMut::from(read.filled());
        Poll::Ready(Ok(self.buf.len()))
    }

    /// The next part of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        rest: &mut Rest,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let polled = ready!(self.poll_part(rest, cx));
        match &polled {
            Ok(Some(_)) => {}
            Ok(None) => rest.framing = Framing::Done,
            // Nothing more of it is read.
            Err(_) => {
                rest.framing = Framing::Done;
                return Poll::Ready(polled.transpose());
            }
        }
        if rest.is_over() {
            self.clean = true;
        }
        Poll::Ready(polled.transpose())
    }

    fn poll_part(
        &mut self,
        rest: &mut Rest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, WireError>> {
        loop {
            match &mut rest.framing {
                Framing::Done => return Poll::Ready(Ok(None)),
                Framing::Sized(left) => {
                    let data = ready!(self.poll_data(cx, *left))?;
                    *left -= data.len() as u64;
                    if *left == 0 {
                        rest.framing = Framing::Done;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Framing::UntilClosed => {
                    if self.buf.is_empty() && ready!(self.poll_fill(cx, READ_ROOM))? == 0 {
                        return Poll::Ready(Ok(None));
                    }
                    return Poll::Ready(Ok(Some(Frame::data(self.buf.split().freeze()))));
                }
                Framing::Chunked(Chunk::Data(left)) => {
                    let data = ready!(self.poll_data(cx, *left))?;
                    *left -= data.len() as u64;
                    if *left == 0 {
                        rest.framing = Framing::Chunked(Chunk::End);
                        // What is here already tells whether that was the last chunk.
                        self.pass_end(rest)?;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Framing::Chunked(Chunk::Trailers) => {
                    let trailers = ready!(self.poll_trailers(cx))?;
                    rest.framing = Framing::Done;
                    return Poll::Ready(Ok(trailers.map(Frame::trailers)));
                }
                Framing::Chunked(_) => {
                    if !self.pass_line(rest)? && ready!(self.poll_fill(cx, READ_ROOM))? == 0 {
                        return Poll::Ready(Err(WireError::Incomplete));
                    }
                }
            }
        }
    }

    /// At least one byte of the `left` that are to come.
    fn poll_data(&mut self, cx: &mut Context<'_>, left: u64) -> Poll<Result<Bytes, WireError>> {
        if self.buf.is_empty() {
            let room = usize::try_from(left).unwrap_or(LARGE_ROOM).clamp(READ_ROOM, LARGE_ROOM);
            if ready!(self.poll_fill(cx, room))? == 0 {
                return Poll::Ready(Err(WireError::Incomplete));
            }
        }
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(self.buf.len());
        Poll::Ready(Ok(self.buf.split_to(n).freeze()))
    }

    /// Goes over the lines after a chunk that are here, up to the next chunk or the end of the body.
    fn pass_end(&mut self, rest: &mut Rest) -> Result<(), WireError> {
        while let Framing::Chunked(Chunk::End | Chunk::Size) = rest.framing {
            if !self.pass_line(rest)? {
                return Ok(());
            }
        }
        if let Framing::Chunked(Chunk::Trailers) = rest.framing
            && self.buf.starts_with(b"\r\n")
        {
            self.buf.advance(2);
            rest.framing = Framing::Done;
        }
        Ok(())
    }

    /// Goes over a line of the framing. False: it is not whole yet.
    fn pass_line(&mut self, rest: &mut Rest) -> Result<bool, WireError> {
        let Framing::Chunked(chunk) = &mut rest.framing else { return Ok(true) };
        let Some(end) = memchr::memchr(b'\n', &self.buf) else {
            if self.buf.len() > CHUNK_LINE {
                return Err(WireError::Invalid("a chunk's size with too many bytes"));
            }
            return Ok(false);
        };
        let line = self.buf.split_to(end + 1);
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(WireError::Invalid("a line between chunks that does not end as lines do"));
        };
        *chunk = match chunk {
            Chunk::End if line.is_empty() => Chunk::Size,
            Chunk::Size => match size(line) {
                Some(0) => Chunk::Trailers,
                Some(size) => Chunk::Data(size),
                None => return Err(WireError::Invalid("a chunk's size that is none")),
            },
            _ => return Err(WireError::Invalid("a chunk without its end")),
        };
        Ok(true)
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, WireError>> {
        loop {
            if self.buf.starts_with(b"\r\n") {
                self.buf.advance(2);
                return Poll::Ready(Ok(None));
            }
            if let Some(end) = end_of_head(&self.buf, 0) {
                let bytes = self.buf.split_to(end).freeze();
                let mut table = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
                let Ok(httparse::Status::Complete((_, fields))) =
                    httparse::parse_headers(&bytes, &mut table)
                else {
                    return Poll::Ready(Err(WireError::Invalid("malformed trailers")));
                };
                return Poll::Ready(map(fields, &bytes).map(Some));
            }
            if self.buf.len() > TRAILER_BYTES {
                return Poll::Ready(Err(WireError::Invalid(
                    "more bytes of trailers than are read",
                )));
            }
            if ready!(self.poll_fill(cx, READ_ROOM))? == 0 {
                return Poll::Ready(Err(WireError::Incomplete));
            }
        }
    }
}

impl Rest {
    /// Whether there is no more of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Done)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Sized(left) => SizeHint::with_exact(left),
            Framing::Done => SizeHint::with_exact(0),
            Framing::Chunked(_) | Framing::UntilClosed => SizeHint::default(),
        }
    }
}

/// Whether a request, whose body is empty, asks for nothing of its connection.
pub(super) fn is_plain<B>(request: &Request<B>) -> bool {
    request.method() != Method::CONNECT && !request.headers().contains_key(UPGRADE)
}

/// A request's head as it is sent.
fn written<B>(request: &Request<B>) -> Vec<u8> {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut out = Vec::with_capacity(64 + target.len() + 64 * headers.len());
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        // It has no body.
        if name != TRANSFER_ENCODING {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// One past the empty line that ends a head, if it is there.
fn end_of_head(buf: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let fresh = buf.get(from..)?;
    memchr::memchr_iter(b'\n', fresh).find_map(|i| match fresh.get(i + 1..) {
        Some([b'\n', ..]) => Some(from + i + 2),
        Some([b'\r', b'\n', ..]) => Some(from + i + 3),
        _ => None,
    })
}

/// A response's head, and whether the peer keeps the connection.
fn read(head: &Bytes, is_head: bool) -> Result<(Response<Rest>, bool), WireError> {
    let mut table = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut table) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => of(&parsed, head, is_head),
        Err(httparse::Error::TooManyHeaders) => {
            let mut table = vec![httparse::EMPTY_HEADER; RESPONSE_FIELDS];
            let mut parsed = httparse::Response::new(&mut table);
            match parsed.parse(head) {
                Ok(httparse::Status::Complete(len)) if len == head.len() => {
                    of(&parsed, head, is_head)
                }
                Err(httparse::Error::TooManyHeaders) => {
                    Err(WireError::Invalid("more fields of a head than are read"))
                }
                _ => Err(WireError::Invalid("a malformed head")),
            }
        }
        _ => Err(WireError::Invalid("a malformed head")),
    }
}

fn of(
    parsed: &httparse::Response<'_, '_>,
    head: &Bytes,
    is_head: bool,
) -> Result<(Response<Rest>, bool), WireError> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(WireError::Invalid("a status that is none"))?;
    let mut headers = map(parsed.headers, head)?;
    // Whoever sends both may mean either: nothing is read after it.
    let is_odd = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    let is_11 = parsed.version == Some(1);
    if !is_11 && headers.contains_key(TRANSFER_ENCODING) {
        return Err(WireError::Invalid("a Transfer-Encoding that HTTP/1.0 does not have"));
    }
    let framing = framing(&mut headers, status, is_head)?;
    let says = |wanted: &[u8]| {
        let values = headers.get_all(CONNECTION).iter();
        let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    let keeps = !is_odd
        && !says(b"close")
        && (is_11 || says(b"keep-alive"))
        && !matches!(framing, Framing::UntilClosed);
    let mut response = Response::new(Rest { framing });
    *response.status_mut() = status;
    *response.version_mut() = if is_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    *response.headers_mut() = headers;
    let reason = parsed.reason.unwrap_or_default();
    if !reason.is_empty()
        && Some(reason) != status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    Ok((response, keeps))
}

fn map(fields: &[httparse::Header<'_>], head: &Bytes) -> Result<HeaderMap, WireError> {
    // The gate adds some.
    let mut headers = HeaderMap::with_capacity(fields.len() + 4);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(WireError::Invalid("a malformed field"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn framing(
    headers: &mut HeaderMap,
    status: StatusCode,
    is_head: bool,
) -> Result<Framing, WireError> {
    if is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok(Framing::Done);
    }
    if let Some(coding) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        let coding = coding.to_str();
        let coding = coding.map_err(|_| WireError::Invalid("a Transfer-Encoding that is none"))?;
        let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        let is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        // It overrides a length (RFC 9112, section 6.3).
        headers.remove(CONTENT_LENGTH);
        return Ok(if is_chunked { Framing::Chunked(Chunk::Size) } else { Framing::UntilClosed });
    }
    let mut length = None;
    let mut listed = 0;
    for value in headers.get_all(CONTENT_LENGTH) {
        // The same number several times is that number (RFC 9112, section 6.3).
        for said in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            listed += 1;
            match (number(said), length) {
                (Some(said), None) => length = Some(said),
                (Some(said), Some(before)) if said == before => {}
                _ => return Err(WireError::Invalid("a Content-Length that is none")),
            }
        }
    }
    if let Some(length) = length.filter(|_| listed > 1) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(match length {
        Some(0) => Framing::Done,
        Some(length) => Framing::Sized(length),
        None => Framing::UntilClosed,
    })
}

/// A decimal number of digits alone.
fn number(digits: &[u8]) -> Option<u64> {
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_plain)?.parse().ok()
}

/// The size of a chunk, before what may follow it on its line.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests;
