//! Which headers of a request the proxy is to take away before it passes the request on.

use http::{HeaderName, HeaderValue};

use crate::message::headers::KEEPGATE_PRINCIPAL;
use crate::phase::checked::Grant;

/// The headers of a request that the upstream must not see. Those that the proxy writes itself are its
/// business, as are those between neighbors.
pub(super) fn removed(came: &[HeaderName], grant: &Grant) -> Vec<HeaderName> {
    let is_said = |name: &HeaderName| grant.says.iter().any(|(said, _)| said == name);
    let is_set = |name: &HeaderName| {
        (*name == KEEPGATE_PRINCIPAL && grant.principal.is_some()) || is_said(name)
    };
    let ends = |name: &&HeaderName| {
        !grant.headers.contains_key(*name) && !is_proxys(name.as_str()) && !is_set(name)
    };
    came.iter().filter(ends).cloned().collect()
}

fn is_proxys(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "x-request-id"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-forwarded-client-cert"
            // They are in the answer, and so in place of the caller's.
            | "keepgate-revision"
            | "keepgate-age"
    ) || name.starts_with("x-envoy-")
}

/// As the value of a header; none: there are none.
pub(super) fn listed(names: &[HeaderName]) -> Option<HeaderValue> {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    (!names.is_empty()).then(|| HeaderValue::try_from(names.join(",")).ok()).flatten()
}
