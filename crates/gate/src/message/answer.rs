//! A [`Problem`] written down: as `application/problem+json`, for gRPC, or as the last bytes of a
//! connection.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::body::GateBody;
use super::headers::{GRPC_MESSAGE, GRPC_STATUS, X_REQUEST_ID};
use super::problem::Problem;

/// The answer as a response.
pub(crate) fn response(problem: Problem, request_id: &HeaderValue) -> Response<GateBody> {
    written(problem, request_id).map(GateBody::full)
}

/// The same, with its bytes in hand.
pub(crate) fn written(problem: Problem, request_id: &HeaderValue) -> Response<Bytes> {
    let json = problem.json(request_id.to_str().unwrap_or_default());
    let mut response = Response::new(Bytes::from(json));
    *response.status_mut() = problem.kind.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if let Some(s) = problem.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(s));
    }
    if problem.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    extend(headers, problem.headers);
    response
}

/// The answer to a gRPC caller: a response of headers alone (grpc/doc/PROTOCOL-HTTP2.md), whose
/// status and message every gRPC library shows.
pub(crate) fn grpc(problem: Problem, request_id: &HeaderValue) -> Response<GateBody> {
    let message = grpc_message(&line(&problem));
    let mut response = Response::new(GateBody::full(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(problem.kind.grpc())));
    headers.insert(GRPC_MESSAGE, message);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if let Some(s) = problem.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(s));
    }
    extend(headers, problem.headers);
    response
}

/// The answer in one line.
pub(crate) fn line(problem: &Problem) -> String {
    let mut line = problem.kind.title().to_owned();
    for part in [Some(&*problem.detail), problem.reason].into_iter().flatten() {
        if !part.is_empty() {
            line.push_str(": ");
            line.push_str(part);
        }
    }
    line
}

/// A text as a `grpc-message`.
pub(crate) fn grpc_message(text: &str) -> HeaderValue {
    HeaderValue::try_from(percent_encoded(text))
        .unwrap_or_else(|_| HeaderValue::from_static("refused by the gateway"))
}

/// The answer as HTTP/1.1 bytes, for requests that never become one: it ends the connection.
pub(crate) fn raw(problem: &Problem, request_id: &str) -> Bytes {
    let json = problem.json(request_id);
    let status = problem.kind.status();
    let mut out = String::with_capacity(json.len() + 256);
    out.push_str("HTTP/1.1 ");
    out.push_str(status.as_str());
    out.push(' ');
    out.push_str(status.canonical_reason().unwrap_or("Error"));
    out.push_str("\r\n");
    for (name, value) in [
        (CONTENT_TYPE.as_str(), "application/problem+json"),
        (CACHE_CONTROL.as_str(), "no-store"),
        (CONNECTION.as_str(), "close"),
        (CONTENT_LENGTH.as_str(), json.len().to_string().as_str()),
        (X_REQUEST_ID.as_str(), request_id),
        ("date", &httpdate::fmt_http_date(std::time::SystemTime::now())),
    ] {
        out.push_str(name);
        out.push_str(": ");
        out.push_str(value);
        out.push_str("\r\n");
    }
    out.push_str("\r\n");
    out.push_str(&json);
    Bytes::from(out)
}

/// As a `grpc-message` is written: printable ASCII but `%` as it is, all other bytes escaped.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn extend(headers: &mut HeaderMap, more: Vec<(HeaderName, HeaderValue)>) {
    for (name, value) in more {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::Kind;
    use super::*;

    #[test]
    fn grpc_messages_are_escaped() {
        assert_eq!(percent_encoded("50 % of \u{e9}\n"), "50 %25 of %C3%A9%0A");
        let problem = Problem::new(Kind::Denied, "a policy forbids it").reason("forbid");
        let response = grpc(problem, &HeaderValue::from_static("id"));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[GRPC_STATUS], "7");
        let message = "The service's policies deny this request: a policy forbids it: forbid";
        assert_eq!(response.headers()[GRPC_MESSAGE], message);
    }
}
