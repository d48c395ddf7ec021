//! The head of an HTTP/1 request, judged on its raw bytes.
//!
//! hyper reads framing strictly, but some things it resolves silently (`Content-Length` beside
//! `Transfer-Encoding`, a `#` in the target, equal lengths repeated) and its own refusals carry
//! no body. So each head is judged here first; hyper only sees heads that pass.
//!
//! Pure. Strictness follows RFC 9112; where it leaves a choice, the head is refused.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::message::problem::{Kind, Problem};

/// Bounds of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBounds {
    /// Header fields.
    pub(crate) count: usize,
    /// Bytes of the header section, request line excluded.
    pub(crate) bytes: usize,
    /// Bytes of the request target.
    pub(crate) uri: usize,
}

/// The most header fields that can be configured; the parser's table is on the stack.
pub(crate) const MAX_HEADER_COUNT: usize = 100;

/// How the body after a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`, or none: zero.
    Sized(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A judged head.
#[derive(Debug)]
pub(crate) enum Scan {
    /// More bytes are needed.
    Partial,
    /// It is here, and taken.
    Complete(Head),
    /// It is refused, and the connection ends.
    Refused(Box<Problem>),
}

/// A head that is one.
#[derive(Debug)]
pub(crate) struct Head {
    /// As it came.
    pub(crate) bytes: Bytes,
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// The request itself, where it is plain and was asked for.
    pub(crate) plain: Option<Box<Parts>>,
}

/// Judges the head at the beginning of `buf`, of which `seen` bytes were judged partial before, and
/// takes it away. `plain`: a plain request is wanted in its parts (see [`plain`]).
pub(crate) fn take(buf: &mut BytesMut, seen: usize, bounds: &HeadBounds, plain: bool) -> Scan {
    let Some(end) = end_of_head(buf, seen) else {
        return match too_long(buf, bounds) {
            Some(problem) => Scan::Refused(Box::new(problem.close())),
            None => Scan::Partial,
        };
    };
    match judge(buf.split_to(end).freeze(), bounds, plain) {
        Ok(head) => Scan::Complete(head),
        Err(problem) => Scan::Refused(Box::new(problem.close())),
    }
}

fn judge(bytes: Bytes, bounds: &HeadBounds, wants_plain: bool) -> Result<Head, Problem> {
    let head = &*bytes;
    if memchr::memchr_iter(b'\n', head).any(|i| i == 0 || head.get(i - 1) != Some(&b'\r')) {
        return Err(bad("a line does not end with CR LF"));
    }
    let mut table = [const { MaybeUninit::uninit() }; MAX_HEADER_COUNT];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut table) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(bad("the head is not framed as one")),
        Err(e) => return Err(parse_problem(e, head, bounds)),
    }
    let target = request.path.unwrap_or_default().as_bytes();
    if target.len() > bounds.uri {
        return Err(uri_too_long());
    }
    if request.headers.len() > bounds.count {
        return Err(too_many());
    }
    let line = memchr::memchr(b'\n', head).map_or(0, |i| i + 1);
    if head.len() - line > bounds.bytes {
        return Err(too_large());
    }
    check_target(target)?;
    let framing = framing(request.headers, request.version == Some(1))?;
    let is_candidate = wants_plain && framing == Framing::Sized(0) && request.version == Some(1);
    let plain = if is_candidate { plain(&request, &bytes).map(Box::new) } else { None };
    Ok(Head { bytes, framing, plain })
}

/// Fields that the gate adds to a request, about: room for them is made at once.
const ADDED_FIELDS: usize = 8;

/// A request of HTTP/1.1 without a body, if it is plain: it asks for nothing of the connection but
/// that it stays or closes. What is not, hyper reads.
fn plain(request: &httparse::Request<'_, '_>, bytes: &Bytes) -> Option<Parts> {
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    if method == Method::CONNECT {
        return None;
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(request.path?.as_bytes())).ok()?;
    let mut headers = HeaderMap::with_capacity(request.headers.len() + ADDED_FIELDS);
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        if [UPGRADE, EXPECT, TE, TRANSFER_ENCODING].contains(&name) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value)).ok()?;
        headers.append(name, value);
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    parts.headers = headers;
    Some(parts)
}

/// One past the empty line that ends a head, if it is there.
fn end_of_head(buf: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let fresh = buf.get(from..)?;
    for i in memchr::memchr_iter(b'\n', fresh) {
        match fresh.get(i + 1..) {
            Some([b'\n', ..]) => return Some(from + i + 2),
            Some([b'\r', b'\n', ..]) => return Some(from + i + 3),
            _ => {}
        }
    }
    None
}

/// Whether a partial head is already over a bound.
fn too_long(buf: &[u8], bounds: &HeadBounds) -> Option<Problem> {
    match memchr::memchr(b'\n', buf) {
        // A method is at most a few bytes; 64 leave room for it and the version.
        None => (buf.len() > bounds.uri + 64).then(uri_too_long),
        Some(line) => (buf.len() - line > bounds.bytes + 2).then(too_large),
    }
}

fn parse_problem(e: httparse::Error, head: &[u8], bounds: &HeadBounds) -> Problem {
    match e {
        httparse::Error::TooManyHeaders => too_many(),
        httparse::Error::HeaderName => bad("a header name is malformed"),
        httparse::Error::HeaderValue => bad("a header value is malformed"),
        httparse::Error::NewLine => bad("a line does not end with CR LF"),
        httparse::Error::Version => bad("the version is not HTTP/1.0 or HTTP/1.1"),
        _ if memchr::memchr(b'\n', head).is_some_and(|i| i > bounds.uri + 64) => uri_too_long(),
        _ => bad("the request line is malformed"),
    }
}

/// Whether a target can be that of a request; also where it did not come in a head.
pub(crate) fn check_target(target: &[u8]) -> Result<(), Problem> {
    if target.contains(&b'#') {
        return Err(bad("the target has a fragment"));
    }
    // What `http::Uri` does not take would become hyper's answer instead of ours.
    let plain = |b: &u8| {
        matches!(b, b'/' | b'?' | b'=' | b'&' | b'-' | b'_' | b'.' | b'%' | b'~')
            || b.is_ascii_alphanumeric()
    };
    let origin = target.first() == Some(&b'/');
    if origin && target.iter().all(plain) {
        return Ok(());
    }
    match Uri::try_from(target) {
        Ok(_) => Ok(()),
        Err(_) => Err(bad("the target is malformed")),
    }
}

fn framing(headers: &[httparse::Header<'_>], is_http_11: bool) -> Result<Framing, Problem> {
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return Err(bad("more than one Content-Length"));
                }
                length = Some(
                    content_length(header.value)
                        .ok_or_else(|| bad("Content-Length is not a decimal number"))?,
                );
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if !is_http_11 {
                    return Err(bad("Transfer-Encoding in an HTTP/1.0 request"));
                }
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("a Transfer-Encoding other than chunked, once"));
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(bad("both Content-Length and Transfer-Encoding")),
        (_, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Sized(length.unwrap_or(0))),
    }
}

/// Digits only: no sign, no space, no list.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

fn uri_too_long() -> Problem {
    Problem::new(Kind::UriTooLong, "the target is over the gate's bound")
}

fn too_many() -> Problem {
    Problem::new(Kind::HeadersTooLarge, "more header fields than the gate takes")
}

fn too_large() -> Problem {
    Problem::new(Kind::HeadersTooLarge, "more header bytes than the gate takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HeadBounds = HeadBounds { count: 100, bytes: 32 * 1024, uri: 8 * 1024 };

    fn check(head: &str) -> String {
        match take(&mut BytesMut::from(head), 0, &BOUNDS, true) {
            Scan::Partial => "partial".to_owned(),
            Scan::Complete(Head { bytes, framing, .. }) => format!("{} {framing:?}", bytes.len()),
            Scan::Refused(p) => format!("{} {}", p.kind.status().as_str(), p.detail),
        }
    }

    #[test]
    fn heads() {
        for (head, verdict) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "27 Sized(0)"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", "27 Sized(0)"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "partial"),
            ("", "partial"),
            ("POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n", "38 Sized(7)"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", "47 Chunked"),
            ("POST / HTTP/1.1\nHost: a\n\n", "400 a line does not end with CR LF"),
            ("POST / HTTP/1.1\r\nHost: a\n\r\n", "400 a line does not end with CR LF"),
            (
                "POST / HTTP/1.1\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
                "400 both Content-Length and Transfer-Encoding",
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 7\r\nContent-Length: 7\r\n\r\n",
                "400 more than one Content-Length",
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: +7\r\n\r\n",
                "400 Content-Length is not a decimal number",
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "400 Content-Length is not a decimal number",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "400 a Transfer-Encoding other than chunked, once",
            ),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                "400 Transfer-Encoding in an HTTP/1.0 request",
            ),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", "400 a header name is malformed"),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "400 a header name is malformed"),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", "400 a header value is malformed"),
            ("GET / HTTP/2.0\r\n\r\n", "400 the version is not HTTP/1.0 or HTTP/1.1"),
            ("GET /#x HTTP/1.1\r\n\r\n", "400 the target has a fragment"),
            ("GE T / HTTP/1.1\r\n\r\n", "400 the version is not HTTP/1.0 or HTTP/1.1"),
            ("\x16\x03\x01\r\n\r\n", "400 the request line is malformed"),
        ] {
            assert_eq!(check(head), verdict, "{head:?}");
        }
    }

    #[test]
    fn bounds() {
        let uri = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000));
        assert!(check(&uri).starts_with("414"), "{}", check(&uri));
        assert!(check(&"a".repeat(9000)).starts_with("414"));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert!(check(&many).starts_with("431"), "{}", check(&many));
        let large = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(33000));
        assert!(check(&large).starts_with("431"), "{}", check(&large));
        assert!(check(large.trim_end()).starts_with("431"));
    }

    #[test]
    fn a_head_in_pieces_is_the_same_head() {
        let head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let mut seen = 0;
        for n in 1..head.len() {
            match take(&mut BytesMut::from(&head[..n]), seen, &BOUNDS, true) {
                Scan::Partial => seen = n,
                Scan::Complete(Head { bytes, framing, plain }) => {
                    assert_eq!((bytes.len(), framing), (head.len() - 3, Framing::Sized(3)));
                    assert!(plain.is_none());
                    return;
                }
                Scan::Refused(p) => panic!("{p:?}"),
            }
        }
        panic!("never complete");
    }

    #[test]
    fn a_plain_request_is_read_as_hyper_reads_it() {
        let plain = |head: &str| match take(&mut BytesMut::from(head), 0, &BOUNDS, true) {
            Scan::Complete(head) => head.plain,
            other => panic!("{other:?}"),
        };
        let head = "GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nX-One:  1 \r\nx-one: 2\r\nEmpty:\r\n\r\n";
        let parts = plain(head).unwrap();
        assert_eq!((parts.method, parts.uri.to_string()), (Method::GET, "/a?b=%20".to_owned()));
        let fields: Vec<_> =
            parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        let expected: [(&str, &[u8]); 4] =
            [("host", b"a"), ("x-one", b"1"), ("x-one", b"2"), ("empty", b"")];
        assert_eq!(fields, expected);
        assert!(plain("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").is_some());
        for other in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nTE: trailers\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(plain(other).is_none(), "{other:?}");
        }
    }
}
