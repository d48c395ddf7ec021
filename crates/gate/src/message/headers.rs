//! Which headers pass, in both directions, and which requests are refused for theirs.
//!
//! Hop-by-hop headers (RFC 9110 section 7.6.1) end here. Headers that say who a caller is come
//! from the gate or a trusted proxy, never from outside, also not in a spelling that an upstream
//! reads as the same name (`_`, `.`, `~` and so on for `-`). Headers that override a method, path
//! or host end here too: what is decided must be what the upstream reads.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FORWARDED,
    HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use keepgate_policy::service::OVERRIDE_HEADERS;

use super::problem::{Kind, Problem};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const KEEPGATE_PRINCIPAL: HeaderName = HeaderName::from_static("keepgate-principal");
pub(crate) const KEEPGATE_MIN_REVISION: HeaderName =
    HeaderName::from_static("keepgate-min-revision");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
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

/// Headers that `Connection` may not declare to be between neighbors.
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

/// Refuses what no two readers would read alike, and says which host is meant, as
/// [`keepgate_policy::host`] writes it. `authority`: of the target, where it has one.
pub(crate) fn check_host(
    headers: &HeaderMap,
    authority: Option<&str>,
    is_h2: bool,
) -> Result<Box<str>, Problem> {
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
    match host.or(authority).map(keepgate_policy::host::normal) {
        Some(Ok((name, _))) => Ok(name.as_ref().into()),
        _ => Err(bad("Host is malformed")),
    }
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
    name.starts_with("keepgate-") || name.starts_with("x-forwarded-") || names_address(name)
}

/// Headers by which proxies and networks name the caller's address; one of them may be read (the
/// setting `forwarding_header`), from trusted proxies.
fn names_address(name: &str) -> bool {
    matches!(
        name,
        "x-forwarded-for"
            | "forwarded"
            | "forwarded-for"
            | "x-forwarded"
            | "x-original-forwarded-for"
            | "x-vercel-forwarded-for"
            | "x-real-ip"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-remote-ip"
            | "x-remote-addr"
            | "x-originating-ip"
            | "x-proxyuser-ip"
            | "x-appengine-user-ip"
            | "x-azure-clientip"
            | "x-azure-socketip"
            | "x-envoy-external-address"
            | "x-nf-client-connection-ip"
            | "x-sucuri-clientip"
            | "x-coming-from"
            | "true-client-ip"
            | "client-ip"
            | "http-client-ip"
            | "proxy-client-ip"
            | "wl-proxy-client-ip"
            | "cf-connecting-ip"
            | "cf-connecting-ipv6"
            | "cf-pseudo-ipv4"
            | "cloudfront-viewer-address"
            | "fastly-client-ip"
            | "fly-client-ip"
            | "do-connecting-ip"
            | "incap-client-ip"
            | "ali-cdn-real-ip"
            | "cdn-real-ip"
            | "cdn-src-ip"
            | "remote-addr"
            | "remote-host"
    )
}

/// Whether two names are one to an upstream that, as CGI and WSGI have it, reads all punctuation
/// in a header's name alike.
fn alike(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| plain(a) == plain(b))
}

fn plain(b: u8) -> u8 {
    if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' }
}

/// What a service believes and keeps of a request's headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regard {
    /// Headers that identify callers: no look-alike of them passes.
    pub(crate) believed: Vec<HeaderName>,
    /// Headers that override a method, path or host, and pass.
    pub(crate) kept: Vec<String>,
    /// Headers in which the gate sends claims: neither they nor look-alikes pass.
    pub(crate) claimed: Vec<HeaderName>,
}

/// Who sends a request, as far as its headers are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// It may set `X-Forwarded-*` and the header below.
    pub(crate) trusted: bool,
    /// The header that names callers' addresses.
    pub(crate) forwarding: &'a HeaderName,
}

/// Whether a sender names a caller's address or way, which counts only from trusted proxies.
pub(crate) fn names_a_caller(headers: &HeaderMap, forwarding: &HeaderName) -> bool {
    [forwarding, &X_FORWARDED_FOR, &FORWARDED, &X_REAL_IP]
        .into_iter()
        .any(|name| headers.contains_key(name))
}

/// Whether a header ends here.
fn ends_here(name: &str, sender: Sender<'_>, regard: &Regard) -> bool {
    let is_odd = name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-');
    let dashed: std::borrow::Cow<'_, str> = if is_odd {
        name.bytes().map(|b| char::from(plain(b))).collect::<String>().into()
    } else {
        name.into()
    };
    let looks_believed = |believed: &HeaderName| believed != name && alike(believed.as_str(), name);
    if dashed.starts_with("keepgate-")
        || regard.believed.iter().any(looks_believed)
        || regard.claimed.iter().any(|claimed| alike(claimed.as_str(), name))
    {
        return true;
    }
    if regard.believed.iter().any(|believed| believed == name) {
        return false;
    }
    if is_odd && (is_protected(&dashed) || HOP_BY_HOP.iter().any(|n| *n == *dashed)) {
        // The one header that is read may be of such a name itself.
        return !(sender.trusted && sender.forwarding == name);
    }
    if names_address(&dashed) || alike(sender.forwarding.as_str(), name) {
        return !(sender.trusted && sender.forwarding == name);
    }
    if dashed.starts_with("x-forwarded-") {
        return !sender.trusted;
    }
    OVERRIDE_HEADERS.contains(&dashed.as_ref()) && !regard.kept.iter().any(|kept| kept == name)
}

/// Takes away what ends here.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    asked: Asked,
    sender: Sender<'_>,
    regard: &Regard,
    trailers: bool,
) {
    if asked.others {
        remove_named(headers, regard);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let ending: Vec<HeaderName> =
        headers.keys().filter(|name| ends_here(name.as_str(), sender, regard)).cloned().collect();
    for name in ending {
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
        remove_named(headers, &Regard::default());
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

/// Takes away what no trailer may carry: an upstream may read it as a header.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, regard: &Regard) {
    let not_a_trailer = |name: &str| {
        let dashed: String = name.bytes().map(|b| char::from(plain(b))).collect();
        let looks = |header: &HeaderName| alike(header.as_str(), name);
        is_protected(&dashed)
            || regard.believed.iter().chain(&regard.claimed).any(looks)
            || OVERRIDE_HEADERS.contains(&dashed.as_str())
            || HOP_BY_HOP.iter().any(|n| *n == *dashed)
            || dashed == TRAILER.as_str()
    };
    let names: Vec<HeaderName> =
        trailers.keys().filter(|name| not_a_trailer(name.as_str())).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Removes the headers that `Connection` names, but for those that a service believes.
fn remove_named(headers: &mut HeaderMap, regard: &Regard) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| name != UPGRADE && !is_protected(name.as_str()))
        .filter(|name| !regard.believed.contains(name))
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
        let sender = Sender { trusted: false, forwarding: &X_FORWARDED_FOR };
        clean_request(&mut headers, asked, sender, &Regard::default(), true);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "te", "x_custom"]);
    }

    #[test]
    fn trailers_carry_nothing_that_is_believed() {
        let regard = Regard {
            believed: vec![HeaderName::from_static("x-remote-user")],
            kept: Vec::new(),
            claimed: vec![HeaderName::from_static("x-user-email")],
        };
        let mut trailers = map(&[
            ("x-checksum", "1"),
            ("x-remote-user", "root"),
            ("x_remote_user", "root"),
            ("x-user-email", "root"),
            ("x_user_email", "root"),
            ("keepgate-principal", "root"),
            ("x-forwarded-for", "::1"),
        ]);
        clean_trailers(&mut trailers, &regard);
        let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-checksum"]);
    }

    fn passes_of(regard: &Regard, name: &str, trusted: bool) -> bool {
        !ends_here(name, Sender { trusted, forwarding: &X_FORWARDED_FOR }, regard)
    }

    #[test]
    fn no_spelling_of_what_is_believed_passes() {
        let regard = Regard {
            believed: vec![
                HeaderName::from_static("x-remote-user"),
                HeaderName::from_static("x_api_key"),
                AUTHORIZATION,
            ],
            kept: vec!["x-http-method-override".to_owned()],
            claimed: vec![HeaderName::from_static("x-user-email")],
        };
        for trusted in [false, true] {
            assert!(!passes_of(&regard, "x-user-email", trusted), "it is the gate's alone");
        }
        let passes = |name: &str, trusted: bool, forwarding: &HeaderName| {
            !ends_here(name, Sender { trusted, forwarding }, &regard)
        };
        // Every punctuation that a header's name may have.
        for mark in "!#$%&'*+.^_`|~".chars() {
            for believed in [
                "x-remote-user",
                "x-user-email",
                "keepgate-principal",
                "x-forwarded-for",
                "x-forwarded-prefix",
                "x-real-ip",
                "true-client-ip",
                "x-original-url",
                "x-http-method-override",
                "content-length",
                "transfer-encoding",
                "x-request-id",
            ] {
                let name = believed.replacen('-', &mark.to_string(), 1);
                for trusted in [false, true] {
                    assert!(!passes(&name, trusted, &X_FORWARDED_FOR), "{name}");
                }
            }
        }
        for (name, untrusted, trusted) in [
            ("x-remote-user", true, true),
            ("x_api_key", true, true),
            ("x-api-key", false, false),
            ("authorization", true, true),
            ("x-http-method-override", true, true),
            ("x-http-method", false, false),
            ("x-original-url", false, false),
            ("x-rewrite-url", false, false),
            ("x-forwarded-for", false, true),
            ("x-forwarded-proto", false, true),
            ("x-forwarded-prefix", false, true),
            ("forwarded", false, false),
            ("x-real-ip", false, false),
            ("cf-connecting-ip", false, false),
            ("keepgate-principal", false, false),
            ("accept", true, true),
            ("x.fine", true, true),
        ] {
            assert_eq!(passes(name, false, &X_FORWARDED_FOR), untrusted, "{name}");
            assert_eq!(passes(name, true, &X_FORWARDED_FOR), trusted, "{name}");
        }
        let own = HeaderName::from_static("x_edge_ip");
        assert!(passes("x_edge_ip", true, &own) && !passes("x_edge_ip", false, &own));
        for name in ["x-edge-ip", "x.edge_ip", "x-forwarded-for"] {
            assert!(!passes(name, true, &own), "{name}");
        }
    }
}
