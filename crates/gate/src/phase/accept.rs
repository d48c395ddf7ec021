//! Is this a request at all? Bounds, unambiguous framing, and who is at the other end.
//!
//! On HTTP/1 the head was judged on its raw bytes before ([`crate::wire::head`]); what holds for
//! both versions of HTTP is judged here.

use std::net::IpAddr;

use http::{Method, Version};
use keepgate_policy::identify::AddressRange;

use super::revision::Wanted;
use super::{Exchange, Verdict};
use crate::headers::{self, X_FORWARDED_FOR};
use crate::problem::{Kind, Problem};

/// The most addresses of `X-Forwarded-For` that are looked at.
const MAX_HOPS: usize = 32;

pub(crate) fn run(x: &mut Exchange) -> Verdict {
    match judge(x) {
        Ok(()) => Verdict::Continue,
        Err(problem) => problem.into(),
    }
}

fn judge(x: &mut Exchange) -> Result<(), Problem> {
    let bounds = &x.worker.settings.bounds;
    let parts = &x.parts;
    let is_h2 = parts.version == Version::HTTP_2;
    if parts.method == Method::CONNECT {
        return Err(Problem::new(Kind::BadRequest, "CONNECT is not served here").close());
    }
    if parts.headers.len() > bounds.header_count {
        return Err(Problem::new(Kind::HeadersTooLarge, "more header fields than the gate takes"));
    }
    if is_h2 && parts.uri.path_and_query().is_some_and(|p| p.as_str().len() > bounds.uri_bytes) {
        return Err(Problem::new(Kind::UriTooLong, "the target is over the gate's bound"));
    }
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    headers::check_host(&parts.headers, authority, is_h2)?;
    x.asked = headers::check_connection(&parts.headers)?;
    x.websocket = !is_h2
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && headers::is_websocket(&parts.headers, x.asked);
    x.grpc = is_h2 && headers::is_grpc(&parts.headers);
    let declared = x.body.as_ref().and_then(|body| hyper::body::Body::size_hint(body).exact());
    if declared.is_some_and(|bytes| bytes > bounds.body_bytes) {
        let detail = "the request body is over the gate's bound";
        return Err(Problem::new(Kind::BodyTooLarge, detail).close());
    }
    x.min_revision = min_revision(x)?;
    let trusted_proxies = &x.worker.settings.trusted_proxies;
    let peer = x.peer.client.map(|addr| addr.ip().to_canonical());
    x.trusted = match peer {
        Some(ip) => is_trusted(trusted_proxies, ip),
        // Who may connect to a Unix socket is for its directory's permissions to say.
        None => false,
    };
    x.client = match peer {
        Some(ip) if x.trusted => Some(behind_proxies(x, trusted_proxies, ip)),
        peer => peer,
    };
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

fn is_trusted(proxies: &[AddressRange], ip: IpAddr) -> bool {
    proxies.iter().any(|range| range.contains(ip))
}

/// The last address in `X-Forwarded-For` that no trusted proxy has; each proxy appends the
/// address it was connected from, so everything left of that one is the caller's own word.
fn behind_proxies(x: &Exchange, proxies: &[AddressRange], peer: IpAddr) -> IpAddr {
    let mut client = peer;
    let lines = x.parts.headers.get_all(X_FORWARDED_FOR);
    let lines: Vec<_> = lines.iter().filter_map(|value| value.to_str().ok()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS);
    for hop in hops {
        let Some(ip) = parse_hop(hop.trim()) else { break };
        client = ip.to_canonical();
        if !is_trusted(proxies, client) {
            break;
        }
    }
    client
}

/// An address, perhaps with a port, as proxies write it.
fn parse_hop(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(addr) = text.parse::<std::net::SocketAddr>() {
        return Some(addr.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}
