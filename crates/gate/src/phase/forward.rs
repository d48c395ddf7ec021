//! To the upstream and back: clean headers, a pooled connection, streamed bodies.
//!
//! What goes wrong is told apart: the caller's fault (400, 408, 413), no connection to be had
//! here (503), an upstream that fails (502) or is late (504).

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Version};
use keepgate_client::pool::{PoolError, PooledBody};

use super::Exchange;
use crate::body::{BodyBounds, BodyFault, CallerBody, GateBody};
use crate::config::UpstreamHost;
use crate::headers::{
    self, KEEPGATE_PRINCIPAL, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::identify::issuers::chain;
use crate::problem::{Kind, Problem};
use crate::tunnel;

pub(crate) async fn run(x: &mut Exchange) -> Result<Response<GateBody>, Box<Problem>> {
    let incoming = x.body.take();
    let bounds = &x.worker.settings.bounds;
    let bounds =
        BodyBounds { bytes: bounds.body_bytes, rate: bounds.body_rate, grace: bounds.body_grace };
    let (body, fate) = match incoming {
        Some(incoming) => CallerBody::new(incoming, bounds),
        None => (CallerBody::default(), None),
    };
    let caller_side = x.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    prepare(x, fate.is_some());
    let mut request = Request::new(body);
    *request.method_mut() = x.parts.method.clone();
    *request.uri_mut() = x.parts.uri.clone();
    x.user_agent = x.parts.headers.get(USER_AGENT).cloned();
    *request.headers_mut() = std::mem::take(&mut x.parts.headers);
    let mut response = match x.worker.upstream.send(request).await {
        Ok(response) => response,
        Err(error) => {
            let fault = fate.and_then(|fate| fate.fault());
            return Err(Box::new(problem(x, fault, &error)));
        }
    };
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::clean_response(response.headers_mut(), upgraded);
    response.headers_mut().insert(X_REQUEST_ID, x.request_id.clone());
    *response.version_mut() = Version::HTTP_11;
    if upgraded {
        match caller_side {
            Some(caller_side) if x.websocket => {
                let upstream_side = hyper::upgrade::on(&mut response);
                x.peer.shared.become_tunnel();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                let permits = x.take_permits();
                tunnel::spawn(&x.worker, caller_side, upstream_side, permits);
            }
            _ => {
                let detail = "the upstream switched protocols without being asked";
                return Err(Box::new(Problem::new(Kind::BadUpstream, detail)));
            }
        }
    }
    Ok(answer(response))
}

fn answer(response: Response<PooledBody<CallerBody>>) -> Response<GateBody> {
    response.map(GateBody::upstream)
}

/// The request's headers as the upstream gets them.
fn prepare(x: &mut Exchange, has_body: bool) {
    let trailers = headers::takes_trailers(&x.parts.headers);
    let authority = x.parts.uri.authority().map(|a| a.as_str().to_owned());
    let map = &mut x.parts.headers;
    headers::clean_request(map, x.asked, x.trusted, trailers);
    map.remove(EXPECT);
    if has_body
        && matches!(x.parts.method, Method::GET | Method::HEAD)
        && !map.contains_key(CONTENT_LENGTH)
    {
        // hyper sends no body with these unless it is told to.
        map.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let host = match (map.get(HOST), &authority) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(authority)) => HeaderValue::try_from(authority.as_str()).ok(),
        (None, None) => None,
    };
    if let Some(peer) = &x.peer.forwarded_for {
        let value = match map.get(X_FORWARDED_FOR) {
            Some(before) if x.trusted => joined(map.get_all(X_FORWARDED_FOR).iter(), before, peer),
            _ => peer.clone(),
        };
        map.insert(X_FORWARDED_FOR, value);
    }
    if !(x.trusted && map.contains_key(X_FORWARDED_PROTO)) {
        let scheme = if x.peer.is_tls { "https" } else { "http" };
        map.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if let Some(host) = &host
        && !(x.trusted && map.contains_key(X_FORWARDED_HOST))
    {
        map.insert(X_FORWARDED_HOST, host.clone());
    }
    match (x.worker.settings.upstream_host, host) {
        (UpstreamHost::Caller, Some(host)) => {
            map.insert(HOST, host);
        }
        // The pool puts in the upstream's own.
        _ => {
            map.remove(HOST);
        }
    }
    map.insert(X_REQUEST_ID, x.request_id.clone());
    if let Some(principal) = &x.principal_header {
        map.insert(KEEPGATE_PRINCIPAL, principal.clone());
    }
    if x.websocket {
        map.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        map.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if authority.is_some() {
        let path = x.parts.uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = path;
        if let Ok(uri) = http::Uri::from_parts(parts) {
            x.parts.uri = uri;
        }
    }
}

/// All lines of `X-Forwarded-For`, and the peer.
fn joined<'a>(
    lines: impl Iterator<Item = &'a HeaderValue>,
    first: &HeaderValue,
    peer: &HeaderValue,
) -> HeaderValue {
    let mut text = Vec::with_capacity(first.len() + peer.len() + 2);
    for line in lines {
        text.extend_from_slice(line.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| peer.clone())
}

fn problem(x: &Exchange, fault: Option<BodyFault>, error: &PoolError) -> Problem {
    if let Some(fault) = fault {
        let kind = match fault {
            BodyFault::Broken => Kind::BadBody,
            BodyFault::TooLarge => Kind::BodyTooLarge,
            BodyFault::TooSlow => Kind::TooSlow,
        };
        return Problem::new(kind, fault.to_string()).close();
    }
    let (kind, detail) = match error {
        error if error.is_no_capacity() => {
            (Kind::NoConnection, "no connection to the upstream became free in time")
        }
        PoolError::ResponseTimeout { .. } => {
            (Kind::UpstreamTimeout, "the upstream did not begin its answer in time")
        }
        PoolError::ConnectTimeout { .. } => {
            (Kind::UpstreamTimeout, "the upstream did not take the connection in time")
        }
        PoolError::Connect { .. } => {
            (Kind::BadUpstream, "no connection to the upstream can be made")
        }
        PoolError::RequestBody { .. } => (Kind::BadBody, "the request body could not be read"),
        PoolError::Unsendable(_) => (Kind::BadRequest, "the request cannot be passed on"),
        _ => (Kind::BadUpstream, "the upstream broke off"),
    };
    if !error.is_request() {
        x.worker.warn_upstream(&chain(error), &x.request_id);
    }
    Problem::new(kind, detail).reason(error.label())
}
