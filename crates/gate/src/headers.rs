//! Which headers pass, in both directions, and which requests are refused for theirs.
//!
//! Hop-by-hop headers (RFC 9110 section 7.6.1) end here. Headers that say who a caller is come
//! from the gate or a trusted proxy, never from outside, also not in the disguise of `_` for `-`.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FORWARDED,
    HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::problem::{Kind, Problem};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const KEEPGATE_PRINCIPAL: HeaderName = HeaderName::from_static("keepgate-principal");
pub(crate) const KEEPGATE_MIN_REVISION: HeaderName =
    HeaderName::from_static("keepgate-min-revision");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Hop-by-hop headers that the client or server library does not deal with itself.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Headers that `Connection` may not declare to be between neighbours.
const NEVER_HOP_BY_HOP: [HeaderName; 8] = [
    HOST,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    FORWARDED,
    X_REQUEST_ID,
];

/// Refuses what no two readers would read alike. `authority`: of the target, where it has one.
pub(crate) fn check_host(
    headers: &HeaderMap,
    authority: Option<&str>,
    is_h2: bool,
) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one Host"));
    }
    let host = match host {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| bad("Host is malformed"))?),
    };
    match (host, authority) {
        (None, None) => return Err(bad("no Host")),
        (None, Some(_)) if !is_h2 => return Err(bad("no Host")),
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            return Err(bad("Host is not the target's authority"));
        }
        _ => {}
    }
    match host.or(authority) {
        Some(name) if is_host(name) => Ok(()),
        _ => Err(bad("Host is malformed")),
    }
}

/// `host[:port]`: a name, an IPv4 address or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, "")) if v6.parse::<std::net::Ipv6Addr>().is_ok() => return true,
            Some((v6, rest)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
                match rest.strip_prefix(':') {
                    Some(port) => ("v6", port),
                    None => return false,
                }
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, port),
            None => return is_name(text),
        },
    };
    is_name(name) && port.len() <= 5 && port.parse::<u16>().is_ok() && !port.starts_with('+')
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// What `Connection` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `upgrade` is among its tokens.
    pub(crate) upgrade: bool,
    /// Tokens that name other headers, which end here.
    others: bool,
}

/// Reads `Connection`, refusing it where it names a header that must arrive.
pub(crate) fn check_connection(headers: &HeaderMap) -> Result<Asked, Problem> {
    let mut asked = Asked::default();
    for value in headers.get_all(CONNECTION) {
        let value = value.to_str().map_err(|_| bad("Connection is malformed"))?;
        for token in value.split(',').map(str::trim) {
            match token {
                "" => {}
                _ if token.eq_ignore_ascii_case("close")
                    || token.eq_ignore_ascii_case("keep-alive") => {}
                _ if token.eq_ignore_ascii_case("upgrade") => asked.upgrade = true,
                _ if is_protected(&token.to_ascii_lowercase()) => {
                    return Err(bad("Connection names a header that must arrive"));
                }
                _ => asked.others = true,
            }
        }
    }
    Ok(asked)
}

fn is_protected(name: &str) -> bool {
    NEVER_HOP_BY_HOP.iter().any(|n| n == name) || is_identity(name)
}

/// Headers that say who a caller is or where it comes from.
fn is_identity(name: &str) -> bool {
    name.starts_with("keepgate-")
        || name.starts_with("x-forwarded-")
        || name == "forwarded"
        || name == "x-real-ip"
}

/// Whether a header's name is `Keepgate-*` or reads like an identity header to an upstream that
/// takes `_` for `-` (CGI, WSGI and others).
fn is_false_identity(name: &str) -> bool {
    if !name.contains('_') {
        return name.starts_with("keepgate-");
    }
    let dashed = name.replace('_', "-");
    is_protected(&dashed)
}

/// Takes away what ends here. `trusted`: the peer may set `X-Forwarded-*` and `Forwarded`.
pub(crate) fn clean_request(headers: &mut HeaderMap, asked: Asked, trusted: bool, trailers: bool) {
    if asked.others {
        remove_named(headers);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut false_names = Vec::new();
    for name in headers.keys() {
        let text = name.as_str();
        let first = text.as_bytes().first().copied().unwrap_or(0);
        // Few names begin like this; the others cost one comparison.
        if (matches!(first, b'k' | b'x' | b'f') || text.contains('_'))
            && (is_false_identity(text) || (!trusted && is_identity(text)))
        {
            false_names.push(name.clone());
        }
    }
    for name in false_names {
        headers.remove(name);
    }
}

/// Whether the caller takes trailers (`TE: trailers`).
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("trailers"))
}

/// Whether the request is a gRPC call. gRPC-Web is not: it has its statuses in its bodies.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}

/// Takes away from an upstream's answer what ends here. `upgraded`: it is a 101.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgraded: bool) {
    if headers.contains_key(CONNECTION) {
        remove_named(headers);
    }
    for name in &HOP_BY_HOP {
        if upgraded && name == UPGRADE {
            continue;
        }
        if *name != PROXY_AUTHENTICATE {
            headers.remove(name);
        }
    }
}

/// Takes away what no trailer may carry.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let not_a_trailer = |name: &str| {
        is_protected(name)
            || is_false_identity(name)
            || HOP_BY_HOP.iter().any(|n| n == name)
            || name == TRAILER.as_str()
    };
    let names: Vec<HeaderName> =
        trailers.keys().filter(|name| not_a_trailer(name.as_str())).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Removes the headers that `Connection` names.
fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| name != UPGRADE && !is_protected(name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether the request asks for a WebSocket (RFC 6455 section 4.1) and nothing else.
pub(crate) fn is_websocket(headers: &HeaderMap, asked: Asked) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    asked.upgrade
        && upgrades.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none()
}

fn bad(detail: &'static str) -> Problem {
    // What is ambiguous once may be ambiguous in what follows on the connection.
    Problem::new(Kind::BadRequest, detail).close()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn hosts() {
        for (host, fine) in [
            ("a.example", true),
            ("a.example:8080", true),
            ("127.0.0.1:80", true),
            ("[::1]", true),
            ("[::1]:80", true),
            ("", false),
            ("a b", false),
            ("a@b", false),
            ("a/b", false),
            ("a,b", false),
            ("a:", false),
            ("a:80:80", false),
            ("a:99999", false),
            ("a:+80", false),
            ("[::1", false),
            ("[x]", false),
            ("::1", false),
        ] {
            assert_eq!(is_host(host), fine, "{host:?}");
        }
    }

    #[test]
    fn connection_names() {
        let asked = check_connection(&map(&[("connection", "Keep-Alive, Upgrade")]));
        assert_eq!(asked.unwrap(), Asked { upgrade: true, others: false });
        for protected in ["host", "Authorization", "x-forwarded-for", "Keepgate-Principal"] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_str(protected).unwrap());
            assert!(check_connection(&headers).is_err(), "{protected}");
        }
    }

    #[test]
    fn requests_are_cleaned() {
        let mut headers = map(&[
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("keepgate-principal", "a"),
            ("keepgate_principal", "a"),
            ("x_forwarded_for", "a"),
            ("x-forwarded-for", "a"),
            ("forwarded", "a"),
            ("x_custom", "kept"),
            ("accept", "kept"),
            ("upgrade", "h2c"),
        ]);
        let asked = check_connection(&headers).unwrap();
        clean_request(&mut headers, asked, false, true);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "te", "x_custom"]);
    }
}
