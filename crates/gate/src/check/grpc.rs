//! Unary gRPC over HTTP/2: one message in, one message or a failure out
//! (grpc/doc/PROTOCOL-HTTP2.md).

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;

use crate::message::body::GateBody;
use crate::message::headers::{GRPC_MESSAGE, GRPC_STATUS, is_grpc};

/// Bytes of a message. Requests with their bodies in them are over it soon; the gate reads none.
pub(crate) const MESSAGE_BYTES: usize = 1 << 20;
/// A flag and a length.
const PREFIX: usize = 5;
/// For a call whose caller names no time.
const WITHIN: Duration = Duration::from_secs(10);

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    message: Cow<'static, str>,
}

/// Codes of gRPC (grpc/doc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure { code, message: message.into() }
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

/// Whether a request can be a call at all.
pub(crate) fn is_call(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2 && parts.method == Method::POST && is_grpc(&parts.headers)
}

/// Answers a call within its time.
pub(crate) async fn call<Q, A>(
    parts: &Parts,
    body: Option<Incoming>,
    answer: impl AsyncFnOnce(Q) -> Result<A, Failure>,
) -> Response<GateBody>
where
    Q: Message + Default,
    A: Message,
{
    let within = timeout(&parts.headers).unwrap_or(WITHIN).min(WITHIN);
    let answered = tokio::time::timeout(within, async { answer(read::<Q>(body).await?).await });
    match answered.await {
        Ok(Ok(message)) => whole(&message),
        Ok(Err(failure)) => failed(&failure),
        Err(_) => {
            failed(&Failure::new(Code::DeadlineExceeded, "the call was not over in its time"))
        }
    }
}

async fn read<Q: Message + Default>(mut body: Option<Incoming>) -> Result<Q, Failure> {
    let mut all = BytesMut::new();
    while let Some(body) = &mut body
        && let Some(frame) = body.frame().await
    {
        let Ok(frame) = frame else {
            return Err(Failure::new(Code::InvalidArgument, "the call broke off"));
        };
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > PREFIX + MESSAGE_BYTES {
            let message = format!(
                "a message has at most {MESSAGE_BYTES} bytes; do not send request bodies \
                 (`with_request_body`): the gate does not read them"
            );
            return Err(Failure::new(Code::ResourceExhausted, message));
        }
        all.extend_from_slice(&data);
    }
    Q::decode(unframed(&all)?)
        .map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))
}

/// The one message of a call.
fn unframed(all: &[u8]) -> Result<&[u8], Failure> {
    let Some((prefix, message)) = all.split_first_chunk::<PREFIX>() else {
        return Err(Failure::new(Code::InvalidArgument, "the call has no message"));
    };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Failure::new(Code::Unimplemented, "compressed messages are not read"));
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(Failure::new(Code::InvalidArgument, "expected exactly one message"));
    }
    Ok(message)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3_600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

fn whole(message: &impl Message) -> Response<GateBody> {
    let bytes = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + bytes.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&bytes);
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let mut response = Response::new(GateBody::trailed(framed.freeze(), trailers));
    tell(response.headers_mut());
    response
}

/// A response of headers alone.
pub(crate) fn failed(failure: &Failure) -> Response<GateBody> {
    let mut response = Response::new(GateBody::full(Bytes::new()));
    let headers = response.headers_mut();
    tell(headers);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(failure.code as u8)));
    headers.insert(GRPC_MESSAGE, crate::message::answer::grpc_message(&failure.message));
    response
}

fn tell(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(of("200m"), Some(Duration::from_millis(200)));
        assert_eq!(of("1S"), Some(Duration::from_secs(1)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "200", "123456789m", "-1m", "1x", "1.5S"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn frames() {
        assert_eq!(unframed(&[0, 0, 0, 0, 0]), Ok(&[][..]));
        assert_eq!(unframed(&[0, 0, 0, 0, 2, 7, 8]), Ok(&[7, 8][..]));
        for (bytes, code) in [
            (&[][..], Code::InvalidArgument),
            (&[0, 0, 0, 0], Code::InvalidArgument),
            (&[1, 0, 0, 0, 0], Code::Unimplemented),
            (&[0, 0, 0, 0, 2, 7], Code::InvalidArgument),
            (&[0, 0, 0, 0, 1, 7, 8], Code::InvalidArgument),
            (&[0, 255, 255, 255, 255, 7], Code::InvalidArgument),
        ] {
            assert_eq!(unframed(bytes).map_err(|failure| failure.code), Err(code), "{bytes:?}");
        }
    }
}
