//! Is this a request at all? Bounds, unambiguous framing, and who is at the other end.
//!
//! On HTTP/1 the head was judged on its raw bytes before ([`crate::wire::head`]), on HTTP/2 what
//! the HTTP library hides was ([`crate::wire::h2`]); what holds for both versions of HTTP is
//! judged here.

use std::net::IpAddr;

use http::{Method, Version};

use super::revision::Wanted;
use super::{Exchange, PhaseVerdict};
use crate::forwarding;
use crate::headers;
use crate::problem::{Kind, Problem};
use crate::wire::h2::FRAGMENT;

pub(crate) fn run(x: &mut Exchange) -> PhaseVerdict {
    match judge(x) {
        Ok(()) => PhaseVerdict::Continue,
        Err(problem) => problem.into(),
    }
}

fn judge(x: &mut Exchange) -> Result<(), Problem> {
    let bounds = &x.worker.settings.bounds;
    let parts = &x.parts;
    let is_h2 = parts.version == Version::HTTP_2;
    // First: also what is refused here is refused in the caller's words.
    x.grpc = is_h2 && headers::is_grpc(&parts.headers);
    // What follows a CONNECT need not be HTTP.
    if parts.method == Method::CONNECT {
        return Err(not_implemented("CONNECT is not served here").close());
    }
    check_method(parts.method.as_str())?;
    if parts.headers.len() > bounds.header_count {
        return Err(Problem::new(Kind::HeadersTooLarge, "more header fields than the gate takes"));
    }
    if is_h2 && parts.uri.path_and_query().is_some_and(|p| p.as_str().len() > bounds.uri_bytes) {
        return Err(Problem::new(Kind::UriTooLong, "the target is over the gate's bound"));
    }
    if is_h2 && parts.headers.contains_key(FRAGMENT) {
        return Err(Problem::new(Kind::BadRequest, "the target has a fragment"));
    }
    let scheme = parts.uri.scheme_str();
    if !is_h2 && scheme.is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Problem::new(Kind::BadRequest, "the target's scheme is not http or https"));
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    x.host = headers::check_host(&parts.headers, authority, is_h2)?;
    x.asked = headers::check_connection(&parts.headers)?;
    x.websocket = !is_h2
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && headers::is_websocket(&parts.headers, x.asked);
    let declared = x.body.as_ref().and_then(|body| hyper::body::Body::size_hint(body).exact());
    if declared.is_some_and(|bytes| bytes > bounds.body_bytes) {
        let detail = "the request body is over the gate's bound";
        return Err(Problem::new(Kind::BodyTooLarge, detail).close());
    }
    x.min_revision = min_revision(x)?;
    find_caller(x)
}

/// TRACE never, and nothing that an upstream might read as another method: some take `delete` for
/// `DELETE`. Which of the others the service takes is known once there is a route.
fn check_method(method: &str) -> Result<(), Problem> {
    let capital = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if method == "TRACE" {
        return Err(not_implemented("TRACE is not served here"));
    }
    if !method.bytes().all(capital) {
        return Err(not_implemented("methods are in capitals"));
    }
    Ok(())
}

fn not_implemented(detail: &'static str) -> Problem {
    Problem::new(Kind::NotImplemented, detail)
}

/// The caller's address: the peer's, or what a trusted proxy says.
fn find_caller(x: &mut Exchange) -> Result<(), Problem> {
    let settings = &x.worker.settings;
    let proxies = &settings.trusted_proxies;
    let peer: Option<IpAddr> = x.peer.client.map(|addr| addr.ip().to_canonical());
    x.trusted = !x.peer.is_unnamed && proxies.contains(peer);
    x.client = peer;
    if x.trusted {
        let lines = x.parts.headers.get_all(&settings.forwarding_header);
        let lines = lines.iter().map(http::HeaderValue::as_bytes);
        let syntax = forwarding::Syntax::of(&settings.forwarding_header);
        let named = forwarding::caller(lines, syntax, |ip| proxies.contains(Some(ip)));
        match named {
            Ok(named) => x.client = named.or(peer),
            Err(error) => return Err(Problem::new(Kind::BadRequest, error.to_string())),
        }
    } else if headers::names_a_caller(&x.parts.headers, &settings.forwarding_header) {
        x.worker.forwarding_was_dropped(peer);
    }
    Ok(())
}

fn min_revision(x: &Exchange) -> Result<Option<Wanted>, Problem> {
    let Some(value) = x.parts.headers.get(headers::KEEPGATE_MIN_REVISION) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(Wanted::parse) {
        Some(wanted) => Ok(Some(wanted)),
        None => {
            let detail = "expected REVISION or REVISION@HISTORY (8 to 32 hexadecimal digits) in \
                          Keepgate-Min-Revision";
            Err(Problem::new(Kind::BadRequest, detail))
        }
    }
}
