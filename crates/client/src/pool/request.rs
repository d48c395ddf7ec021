//! A request in the shape its connection's protocol wants.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use super::error::PoolError;

/// Headers that name a connection and mean nothing, or are forbidden, on HTTP/2 (RFC 9113,
/// section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Whether a request with this method may be sent a second time (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || method.as_str() == "QUERY"
}

/// Everything but the body. Extensions stay behind: they are the caller's.
pub(super) fn copy_of_head<A, B>(request: &Request<A>, body: B) -> Request<B> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whether it says which host it is for.
pub(super) fn names_host<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::HOST) || request.uri().authority().is_some()
}

/// Takes away the host that an attempt at another address put in.
pub(super) fn forget_host<B>(request: &mut Request<B>) {
    request.headers_mut().remove(header::HOST);
    to_origin_form(request);
}

/// Origin-form target, a `Host`, version 1.1.
pub(super) fn for_http1<B>(request: &mut Request<B>, default_host: &HeaderValue) {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(header::HOST) {
        let host = request
            .uri()
            .authority()
            .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
            .unwrap_or_else(|| default_host.clone());
        request.headers_mut().insert(header::HOST, host);
    }
    to_origin_form(request);
}

fn to_origin_form<B>(request: &mut Request<B>) {
    if request.uri().authority().is_some() {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = None;
        parts.authority = None;
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// Absolute target whose authority is `Host`'s, no `Host`, none of HTTP/1's connection headers.
pub(super) fn for_http2<B>(
    request: &mut Request<B>,
    default_host: &HeaderValue,
    tls: bool,
) -> Result<(), PoolError> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    for name in &CONNECTION_HEADERS {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove("proxy-connection");
    let trailers = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    if request.headers().get(header::TE).is_some_and(|te| !trailers(te)) {
        request.headers_mut().remove(header::TE);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let authority = match (host, parts.authority.take()) {
        (Some(host), _) => Authority::try_from(host.as_bytes()),
        (None, Some(authority)) => Ok(authority),
        (None, None) => Authority::try_from(default_host.as_bytes()),
    };
    parts.authority =
        Some(authority.map_err(|_| PoolError::Unsendable("expected HOST or HOST:PORT in `Host`"))?);
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts)
        .map_err(|_| PoolError::Unsendable("expected a path as the target"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn shapes() {
        let default = HeaderValue::from_static("up.example:8080");
        let mut one = request("/a?b", &[]);
        for_http1(&mut one, &default);
        assert_eq!((one.uri().to_string(), &one.headers()["host"]), ("/a?b".to_owned(), &default));
        let mut one = request("http://o.example/a", &[]);
        for_http1(&mut one, &default);
        assert_eq!(one.uri(), "/a");
        assert_eq!(one.headers()["host"], "o.example");
        let mut two = request("/a?b", &[("host", "h.example"), ("te", "gzip"), ("upgrade", "x")]);
        for_http2(&mut two, &default, true).unwrap();
        assert_eq!(two.uri(), "https://h.example/a?b");
        assert!(two.headers().is_empty());
        let mut two = request("/", &[("te", "trailers")]);
        for_http2(&mut two, &default, false).unwrap();
        assert_eq!(two.uri(), "http://up.example:8080/");
        assert_eq!(two.headers()["te"], "trailers");
        for shape in [1, 2] {
            let mut again = request("/a?b", &[]);
            assert!(!names_host(&again));
            match shape {
                1 => for_http1(&mut again, &default),
                _ => for_http2(&mut again, &default, false).unwrap(),
            }
            assert!(names_host(&again));
            forget_host(&mut again);
            assert_eq!((again.uri().to_string(), again.headers().len()), ("/a?b".to_owned(), 0));
        }
        let mut bad = request("/", &[("host", "a b")]);
        assert!(for_http2(&mut bad, &default, false).is_err());
    }
}
