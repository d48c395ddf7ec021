//! A browser asks whether a page of another origin may make a request (Fetch standard, section 3.2.2).
//!
//! A preflight is an OPTIONS with `Origin` and `Access-Control-Request-Method`, whose requested method
//! has a route; any other OPTIONS is an ordinary request. It has no credentials, so nobody is
//! identified and nothing is decided. By then it is counted by its address, as any request is.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, HeaderMap, HeaderValue, ORIGIN, PROXY_AUTHORIZATION,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use keepgate_limit::LimitVerdict;
use keepgate_policy::router::Matched;

use super::stage::{Admitted, Allowed, By, Carrier, Cross, Ended, Found, Identity, Routed};
use crate::message::body::GateBody;
use crate::message::headers::X_REQUEST_ID;
use crate::service::table::{Service, Ways};

/// A preflight that the gate answers.
pub(crate) struct Preflight {
    pub(crate) ended: Ended,
    pub(crate) response: Response<GateBody>,
}

/// How a request with a route goes on.
#[expect(clippy::large_enum_variant, reason = "the common case is taken apart at once")]
pub(crate) enum Turn {
    Ordinary(Routed),
    /// The gate answers.
    Answered(Box<Preflight>),
    /// The upstream answers. Boxed: it is the rare case.
    Undecided(Box<Allowed>),
}

/// What routing has to know: the method whose route counts, and what the request has to do with other
/// origins. `method` is the request's, `path` its normal form. A `carrier` that cannot give an answer
/// of the gate's to a browser has no preflights: each OPTIONS is an ordinary request.
pub(super) fn of<'p>(
    service: &Service,
    carrier: Carrier,
    parts: &'p Parts,
    method: &'p str,
    path: &str,
) -> (&'p str, Cross) {
    if service.cors.is_none() || !carrier.answers() {
        return (method, Cross::default());
    }
    let origin = parts.headers.get(ORIGIN).cloned();
    let asked = (parts.method == Method::OPTIONS && origin.is_some()).then_some(parts);
    let asked = asked.and_then(|parts| only(&parts.headers, ACCESS_CONTROL_REQUEST_METHOD));
    let asked = asked.filter(|asked| {
        service.methods.contains(asked)
            && matches!(service.router.matched(asked, path), Matched::Found(_))
    });
    (asked.unwrap_or(method), Cross { preflight: asked.is_some(), origin })
}

/// The one value of a header.
fn only(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

pub(crate) fn run(routed: Routed) -> Turn {
    let Found { service, cross, .. } = &routed.found;
    let Some(rules) = service.cors.as_ref().filter(|_| cross.preflight) else {
        return Turn::Ordinary(routed);
    };
    if rules.forward {
        return Turn::Undecided(Box::new(undecided(routed)));
    }
    let arrived = &routed.accepted.arrived;
    let asked = &arrived.parts.headers;
    let mut response = Response::new(GateBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, arrived.request_id.clone());
    let method = asked.get(ACCESS_CONTROL_REQUEST_METHOD);
    rules.answer(asked, cross.origin.as_ref(), method, headers);
    Turn::Answered(Box::new(Preflight { ended: Ended::Routed(routed), response }))
}

/// The request as it goes to an upstream that answers preflights: from nobody.
fn undecided(mut routed: Routed) -> Allowed {
    let ways = Arc::clone(&routed.found.service.ways);
    take_away(&mut routed.accepted.arrived.parts.headers, &ways);
    let identity = Identity {
        principal: Arc::clone(&ways.anonymous),
        header: None,
        is_anonymous: true,
        by: By::Nothing,
        key: None,
        until_unix_s: None,
        said: None,
    };
    let identified = routed.identified(identity);
    let admitted = Admitted { identified, by_principal: LimitVerdict::unasked(), evidence: None };
    Allowed { admitted }
}

/// Takes away what says who sends it, and what describes a body.
fn take_away(headers: &mut HeaderMap<HeaderValue>, ways: &Ways) {
    for name in
        [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING]
    {
        headers.remove(name);
    }
    for name in ways.believed() {
        headers.remove(name);
    }
}
