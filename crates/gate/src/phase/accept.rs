//! Is this a request at all? Bounds, unambiguous framing, and who is at the other end.
//!
//! On HTTP/1 the head was judged on its raw bytes before ([`crate::wire::head`]), on HTTP/2 what
//! the HTTP library hides was ([`crate::wire::h2`]); what holds for both versions of HTTP is
//! judged here.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Version};

use super::stage::{Accepted, Arrived, Carrier, Ended, Refused};
use super::wanted::Wanted;
use super::worker::Entry;
use crate::message::forwarding;
use crate::message::headers::{self, Asked};
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;
use crate::wire::h2::FRAGMENT;

pub(crate) fn run(arrived: Box<Arrived>) -> Result<Accepted, Box<Refused>> {
    let Judged { host, entry, asked, websocket, min_revision } = match judge(&arrived) {
        Ok(judged) => judged,
        Err(problem) => return Err(refused(problem, arrived, None)),
    };
    match find_caller(&arrived) {
        Ok(Caller { client, trusted }) => match entry {
            Ok(entry) => Ok(Accepted {
                arrived,
                entry,
                host,
                client,
                trusted,
                asked,
                websocket,
                min_revision,
                paid: None,
            }),
            Err(problem) => {
                Err(Refused::new(Phase::Route, problem, Ended::Arrived(arrived, client)))
            }
        },
        Err(problem) => {
            let client = arrived.peer.address();
            Err(refused(problem, arrived, client))
        }
    }
}

fn refused(problem: Problem, arrived: Box<Arrived>, client: Option<IpAddr>) -> Box<Refused> {
    Refused::new(Phase::Accept, problem, Ended::Arrived(arrived, client))
}

/// What the head says.
struct Judged {
    host: Box<str>,
    /// The site; else why there is none.
    entry: Result<Arc<Entry>, Problem>,
    asked: Asked,
    websocket: bool,
    min_revision: Option<Wanted>,
}

fn judge(arrived: &Arrived) -> Result<Judged, Problem> {
    let bounds = &arrived.worker.common.settings.bounds;
    let parts = &arrived.parts;
    let is_h2 = parts.version == Version::HTTP_2;
    // What follows a CONNECT need not be HTTP.
    if parts.method == Method::CONNECT {
        return Err(not_implemented("CONNECT is not served here").close());
    }
    check_method(parts.method.as_str())?;
    if parts.headers.len() > bounds.header_count {
        return Err(Problem::new(Kind::HeadersTooLarge, "more header fields than the gate takes"));
    }
    let was_judged = !is_h2 && arrived.carrier == Carrier::Gate;
    if !was_judged
        && parts.uri.path_and_query().is_some_and(|p| p.as_str().len() > bounds.uri_bytes)
    {
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
    let host = headers::check_host(&parts.headers, authority, is_h2)?;
    let asked = headers::check_connection(&parts.headers)?;
    let websocket = !is_h2
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && headers::is_websocket(&parts.headers, asked);
    let entry = arrived.worker.entry(&host, parts.uri.path());
    Ok(Judged { host, entry, asked, websocket, min_revision: min_revision(arrived)? })
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

/// From whom the request comes.
struct Caller {
    client: Option<IpAddr>,
    trusted: bool,
}

/// The caller's address: the peer's, or what a trusted proxy says.
fn find_caller(arrived: &Arrived) -> Result<Caller, Problem> {
    let settings = &arrived.worker.common.settings;
    let proxies = &settings.trusted_proxies;
    let peer = arrived.peer.address();
    let trusted = !arrived.peer.is_unnamed && proxies.contains(peer);
    if trusted {
        let lines = arrived.parts.headers.get_all(&settings.forwarding_header);
        let lines = lines.iter().map(http::HeaderValue::as_bytes);
        let syntax = forwarding::Syntax::of(&settings.forwarding_header);
        return match forwarding::caller(lines, syntax, |ip| proxies.contains(Some(ip))) {
            Ok(named) => Ok(Caller { client: named.or(peer), trusted }),
            Err(error) => Err(Problem::new(Kind::BadRequest, error.to_string())),
        };
    }
    if headers::names_a_caller(&arrived.parts.headers, &settings.forwarding_header) {
        arrived.worker.forwarding_was_dropped(peer);
    }
    Ok(Caller { client: peer, trusted })
}

fn min_revision(arrived: &Arrived) -> Result<Option<Wanted>, Problem> {
    let Some(value) = arrived.parts.headers.get(headers::KEEPGATE_MIN_REVISION) else {
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
