//! The hooks over HTTP: which request an asking request means. Pure.
//!
//! Proxies send their callers' headers along, so a header that describes the request counts only where
//! the proxy's contract says that the proxy always writes it.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::described::{Described, bad};
use crate::message::forwarding::{self, Syntax};
use crate::message::headers::X_FORWARDED_FOR;
use crate::message::problem::{Kind, Problem};

const ORIGINAL_METHOD: &str = "x-original-method";
const ORIGINAL_URI: &str = "x-original-uri";
const REAL_IP: &str = "x-real-ip";
const FORWARDED_METHOD: &str = "x-forwarded-method";
const FORWARDED_URI: &str = "x-forwarded-uri";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// nginx: the method, target and peer in three headers, the host as `Host`.
pub(crate) fn auth(parts: Parts) -> Result<Described, Problem> {
    let mut headers = parts.headers;
    let hint = |directive: &'static str| move || bad(directive);
    let method = taken(
        &mut headers,
        ORIGINAL_METHOD,
        hint(
            "expected X-Original-Method once; set `proxy_set_header X-Original-Method \
             $request_method;` where nginx asks the gate",
        ),
    )?;
    let target = taken(
        &mut headers,
        ORIGINAL_URI,
        hint(
            "expected X-Original-URI once; set `proxy_set_header X-Original-URI $request_uri;` \
             where nginx asks the gate",
        ),
    )?;
    let address = taken(
        &mut headers,
        REAL_IP,
        hint(
            "expected X-Real-IP once; set `proxy_set_header X-Real-IP $remote_addr;` where nginx \
             asks the gate",
        ),
    )?;
    let peer = real_ip(&address).ok_or_else(|| {
        bad("expected an address in X-Real-IP; set `proxy_set_header X-Real-IP $remote_addr;`")
    })?;
    let host = own_host(&headers, parts.uri.authority())?;
    leave_connection(&mut headers);
    Described::new(method.as_bytes(), target.as_bytes(), host, headers, Some(peer))
}

/// Caddy and Traefik: the method, target, host and way in `X-Forwarded-*`.
pub(crate) fn forward_auth(parts: Parts) -> Result<Described, Problem> {
    let mut headers = parts.headers;
    let missing = |name: &'static str| {
        move || {
            let detail = format!(
                "expected {name} once; ask the gate by Caddy's `forward_auth` or Traefik's \
                 ForwardAuth, which send it"
            );
            Problem::new(Kind::BadRequest, detail)
        }
    };
    let method = taken(&mut headers, FORWARDED_METHOD, missing("X-Forwarded-Method"))?;
    let target = taken(&mut headers, FORWARDED_URI, missing("X-Forwarded-Uri"))?;
    let host = taken(&mut headers, FORWARDED_HOST, missing("X-Forwarded-Host"))?;
    let peer = last_hop(&mut headers)?.ok_or_else(missing("X-Forwarded-For"))?;
    // The rest of what the proxy says of itself.
    for name in ["x-forwarded-proto", "x-forwarded-port", "x-forwarded-server"] {
        headers.remove(name);
    }
    leave_connection(&mut headers);
    Described::new(method.as_bytes(), target.as_bytes(), Some(host), headers, Some(Some(peer)))
}

/// Envoy: the request itself, its path below a prefix; the way in `X-Forwarded-For`, if Envoy was told
/// to send that.
pub(crate) fn ext_authz(parts: Parts, prefix: &str) -> Result<Described, Problem> {
    let whole = parts.uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
    let target = whole.strip_prefix(prefix).unwrap_or_default();
    if target.is_empty() {
        return Err(bad("the path that is asked about is missing after the prefix"));
    }
    let mut headers = parts.headers;
    let peer = last_hop(&mut headers)?;
    let host = own_host(&headers, parts.uri.authority())?;
    leave_connection(&mut headers);
    let method = parts.method.as_str().as_bytes();
    Described::new(method, target.as_bytes(), host, headers, peer.map(Some))
}

/// Takes the one value of a header away.
fn taken(
    headers: &mut HeaderMap,
    name: &'static str,
    wrong: impl FnOnce() -> Problem,
) -> Result<HeaderValue, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next().cloned(), values.next()) {
        (Some(value), None) => {
            headers.remove(name);
            Ok(value)
        }
        _ => Err(wrong()),
    }
}

/// `$remote_addr`; none: the caller came over a Unix socket.
fn real_ip(value: &HeaderValue) -> Option<Option<IpAddr>> {
    match value.to_str().ok()?.trim() {
        "unix:" => Some(None),
        text => text.parse().ok().map(|ip: IpAddr| Some(ip.to_canonical())),
    }
}

/// Takes the last address of `X-Forwarded-For` away: that of who connected to the proxy, which the
/// proxy has added. What stands before it came with the request.
pub(super) fn last_hop(headers: &mut HeaderMap) -> Result<Option<IpAddr>, Problem> {
    let lines: Vec<HeaderValue> = headers.get_all(X_FORWARDED_FOR).iter().cloned().collect();
    let bytes = lines.iter().map(HeaderValue::as_bytes);
    let Some(last) = forwarding::caller(bytes, Syntax::List, |_| false)
        .map_err(|error| Problem::new(Kind::BadRequest, error.to_string()))?
    else {
        return Ok(None);
    };
    headers.remove(X_FORWARDED_FOR);
    let (last_line, before) = lines.split_last().map_or((None, &[][..]), |(l, b)| (Some(l), b));
    for line in before {
        headers.append(X_FORWARDED_FOR, line.clone());
    }
    let rest = last_line.and_then(|line| {
        let comma = line.as_bytes().iter().rposition(|byte| *byte == b',')?;
        HeaderValue::from_bytes(line.as_bytes().get(..comma)?).ok()
    });
    if let Some(rest) = rest {
        headers.append(X_FORWARDED_FOR, rest);
    }
    Ok(Some(last))
}

/// The host of the asking request itself, where HTTP/2 has it; none: `Host` says it.
fn own_host(
    headers: &HeaderMap,
    authority: Option<&http::uri::Authority>,
) -> Result<Option<HeaderValue>, Problem> {
    let authority = authority.map(http::uri::Authority::as_str);
    match (headers.get(HOST), authority) {
        (Some(host), Some(authority))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            Err(bad("Host is not the target's authority"))
        }
        (Some(_), _) | (None, None) => Ok(None),
        (None, Some(authority)) => Ok(HeaderValue::try_from(authority).ok()),
    }
}

/// Takes away what is between the proxy and the gate: it describes the question, not the request that
/// is asked about.
fn leave_connection(headers: &mut HeaderMap) {
    // A `Connection` stays, and is judged as a request's own is.
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TE, UPGRADE] {
        headers.remove(name);
    }
}
