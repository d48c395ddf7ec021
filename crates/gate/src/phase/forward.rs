//! To the upstream and back: clean headers, a pooled connection, streamed bodies.
//!
//! What goes wrong is told apart: the caller's fault (400, 408, 413), no connection to be had
//! here (503), an upstream that fails (502) or is late (504).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use keepgate_client::pool::{PoolError, PooledBody, Terms};
use keepgate_observe::chain;

use super::Exchange;
use crate::body::{BodyBounds, BodyFate, BodyFault, CallerBody, GateBody};
use crate::config::UpstreamHost;
use crate::cut::Cut;
use crate::headers::{
    self, KEEPGATE_PRINCIPAL, Regard, Sender, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT,
    X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::ongoing::{Ending, Inputs, Listed};
use crate::problem::{Kind, Problem};
use crate::tunnel;
use crate::worker::Peer;

/// One address has at most one part in so many of the upstream's connections with bodies in progress.
const BODY_SHARE: usize = 4;

pub(crate) async fn run(x: &mut Exchange) -> Result<Response<GateBody>, Box<Problem>> {
    let listed = listed(x);
    let incoming = x.body.take().filter(|body| !body.is_end_stream());
    let (body, fate) = match incoming {
        Some(incoming) => {
            let (body, fate) = caller_body(x, incoming).await?;
            (body, Some(fate))
        }
        None => (CallerBody::default(), None),
    };
    let caller_side = x.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    prepare(x, fate.is_some());
    let mut request = Request::new(body);
    *request.method_mut() = x.parts.method.clone();
    *request.uri_mut() = x.parts.uri.clone();
    x.user_agent = x.parts.headers.get(USER_AGENT).cloned();
    *request.headers_mut() = std::mem::take(&mut x.parts.headers);
    let sent = tokio::select! {
        biased;
        sent = send(x, request) => sent,
        ending = ended(listed.as_ref()) => {
            if let Some(listed) = &listed {
                listed.cut(ending.cut());
            }
            return Err(Box::new(ended_problem(x, ending)));
        }
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            let fault = fate.and_then(|fate| fate.fault());
            return Err(Box::new(problem(x, fault, &error)));
        }
    };
    if let Some(fate) = &fate {
        fate.answered();
    }
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::clean_response(response.headers_mut(), upgraded);
    response.headers_mut().insert(X_REQUEST_ID, x.request_id.clone());
    *response.version_mut() = Version::HTTP_11;
    if upgraded {
        let Some(caller_side) = caller_side.filter(|_| x.websocket) else {
            let detail = "the upstream switched protocols without being asked";
            return Err(Box::new(Problem::new(Kind::BadUpstream, detail)));
        };
        let upstream_side = hyper::upgrade::on(&mut response);
        x.peer.shared.become_tunnel();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let idle = x.routed.as_ref().and_then(|routed| routed.answer_idle);
        let idle = idle.unwrap_or(x.worker.settings.bounds.answer_idle);
        let permits = x.take_permits();
        let held = tunnel::Held { peer: Arc::clone(&x.peer), listed, permits };
        tunnel::spawn(&x.worker, caller_side, upstream_side, idle, held);
        return Ok(response.map(|body| GateBody::upstream(body, None, false)));
    }
    let grpc = x.grpc;
    Ok(response.map(|body| GateBody::upstream(body, listed, grpc)))
}

/// Sends it on the route's own terms.
async fn send(
    x: &Exchange,
    request: Request<CallerBody>,
) -> Result<Response<PooledBody<CallerBody>>, PoolError> {
    let (worker, routed) = (&x.worker, x.routed.as_ref());
    let bounds = &worker.settings.bounds;
    let still_wanted = || super::decide::is_fresh(x);
    let waiting = |_: Duration| {
        worker.common.uploads.cut_slowest(bounds.pressure_rate, Instant::now());
    };
    let terms = Terms {
        answer_timeout: routed.and_then(|r| r.answer_timeout).or(Some(bounds.answer_timeout)),
        answer_idle: routed.and_then(|r| r.answer_idle).or(Some(bounds.answer_idle)),
        bidirectional: x.grpc,
        still_wanted: Some(&still_wanted),
        waiting: Some(&waiting),
    };
    worker.upstream.send_on(request, &terms).await
}

/// The caller's body. On HTTP/1.1 it waits until its address may have one more in progress.
async fn caller_body(
    x: &Exchange,
    incoming: Incoming,
) -> Result<(CallerBody, Arc<BodyFate>), Box<Problem>> {
    let (worker, bounds) = (&x.worker, &x.worker.settings.bounds);
    let uploads = &worker.common.uploads;
    let slot = match (x.client, worker.upstream.unshared()) {
        (Some(address), Some(connections)) if !x.grpc => {
            let within = worker.settings.pool.queue_timeout;
            let share = connections / BODY_SHARE;
            let Some(slot) = uploads.enter(address, share, within).await else {
                worker.cut(Cut::BodyShare, &x.request_id);
                let detail = "the address has too many request bodies in progress";
                let problem = Problem::new(Kind::NoConnection, detail);
                return Err(Box::new(problem.reason(Cut::BodyShare.name()).close()));
            };
            Some(slot)
        }
        _ => None,
    };
    let bounds = BodyBounds {
        bytes: bounds.body_bytes,
        idle: bounds.body_idle,
        window: bounds.body_window,
        least: bounds.body_least,
    };
    Ok(CallerBody::new(incoming, bounds, x.grpc, uploads.begin(), slot))
}

/// Puts the exchange among those that are decided again.
fn listed(x: &mut Exchange) -> Option<Listed> {
    let (routed, table) = (x.routed.as_ref()?, x.table.as_ref()?);
    let inputs = Inputs {
        principal: Arc::clone(x.principal.as_ref()?),
        action: routed.action.clone(),
        resource: routed.resource.clone(),
        context: std::mem::take(&mut x.decided_on),
        max_age: Duration::from_millis(routed.max_age_ms),
        api_key: x.api_key.clone(),
        until_unix_s: x.until_unix_s.filter(|_| routed.service.closes_on_expiry),
        request_id: x.request_id.clone(),
    };
    let connection = (!x.peer.is_h2).then(|| Arc::clone(&x.peer.shared));
    Some(Listed::new(&x.worker, inputs, table.world.revision(), connection))
}

async fn ended(listed: Option<&Listed>) -> Ending {
    match listed {
        Some(listed) => listed.ended().await,
        None => std::future::pending().await,
    }
}

/// What is told to a caller whose answer has not begun.
fn ended_problem(x: &Exchange, ending: Ending) -> Problem {
    let problem = match ending {
        Ending::Denied => Problem::new(Kind::Denied, "access was revoked").reason("revoked"),
        Ending::Expired => {
            let detail = "the credential has expired while the request was under way";
            let problem = Problem::new(Kind::Unauthenticated, detail).reason("token_expiry");
            match &x.routed {
                Some(r) => problem.header(WWW_AUTHENTICATE, r.service.ways.challenge.clone()),
                None => problem,
            }
        }
        Ending::Undecided => {
            super::decide::no_decision("stale", "the gate's permissions have become too old")
        }
        Ending::Stopping | Ending::Idle => Problem::new(Kind::Overloaded, "the gate stops"),
    };
    // What the caller still sends of the request is read by nobody.
    problem.close()
}

/// The request's headers as the upstream gets them.
fn prepare(x: &mut Exchange, has_body: bool) {
    let trailers = headers::takes_trailers(&x.parts.headers);
    let authority = x.parts.uri.authority().map(|a| a.as_str().to_owned());
    let map = &mut x.parts.headers;
    let settings = &x.worker.settings;
    let sender = Sender { trusted: x.trusted, forwarding: &settings.forwarding_header };
    let nothing = Regard::default();
    let regard = x.service.as_ref().map_or(&nothing, |service| &service.regard);
    headers::clean_request(map, x.asked, sender, regard, trailers);
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
    name_caller(map, x.trusted, x.client, &x.peer);
    let scheme = if x.peer.is_tls { "https" } else { "http" };
    if !(x.trusted && map.contains_key(X_FORWARDED_PROTO)) {
        map.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !(x.trusted && map.contains_key(X_FORWARDED_PORT)) {
        let asked = host
            .as_ref()
            .and_then(|host| keepgate_policy::host::normal(host.to_str().ok()?).ok()?.1);
        let port = asked.unwrap_or(if x.peer.is_tls { 443 } else { 80 });
        map.insert(X_FORWARDED_PORT, HeaderValue::from(port));
    }
    if let Some(host) = &host
        && !(x.trusted && map.contains_key(X_FORWARDED_HOST))
    {
        map.insert(X_FORWARDED_HOST, host.clone());
    }
    match (settings.upstream_host, host) {
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

/// `X-Forwarded-For`: what came of it from a trusted proxy, else the caller that another header
/// named, and the peer.
fn name_caller(map: &mut HeaderMap, trusted: bool, client: Option<IpAddr>, peer: &Peer) {
    let Some(peer_value) = &peer.forwarded_for else {
        // Over a Unix socket there is no address to add.
        if let (false, Some(client)) = (map.contains_key(X_FORWARDED_FOR), client)
            && let Ok(value) = HeaderValue::try_from(client.to_string())
        {
            map.insert(X_FORWARDED_FOR, value);
        }
        return;
    };
    let is_other = client != peer.client.map(|addr| addr.ip().to_canonical());
    let named = client.filter(|_| is_other).map(|client| client.to_string());
    let named = named.and_then(|text| HeaderValue::try_from(text).ok());
    let value = match (map.get(X_FORWARDED_FOR), &named) {
        (Some(before), _) if trusted => {
            joined(map.get_all(X_FORWARDED_FOR).iter(), before, peer_value)
        }
        (None, Some(named)) if trusted => joined([named].into_iter(), named, peer_value),
        _ => peer_value.clone(),
    };
    map.insert(X_FORWARDED_FOR, value);
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
            BodyFault::Idle | BodyFault::TooSlow | BodyFault::Pressure => Kind::TooSlow,
        };
        let problem = Problem::new(kind, fault.to_string()).close();
        let Some(cut) = fault.cut() else { return problem };
        x.worker.cut(cut, &x.request_id);
        return problem.reason(cut.name());
    }
    let (kind, detail) = match error {
        error if error.is_no_capacity() => {
            (Kind::NoConnection, "no connection to the upstream became free in time")
        }
        PoolError::Withdrawn => {
            // It waited for a connection, and meanwhile the permissions have become too old.
            return super::decide::no_decision("stale", "the gate's permissions are too old");
        }
        PoolError::NotTaken { .. } => {
            let detail = "the upstream closed the connection before it took the request, which is \
                          too large to be kept; send it again";
            (Kind::NoConnection, detail)
        }
        PoolError::Idle { .. } => {
            x.worker.cut(Cut::AnswerIdle, &x.request_id);
            (Kind::UpstreamTimeout, "nothing moved in the exchange for too long")
        }
        PoolError::ResponseTimeout { .. } => {
            x.worker.cut(Cut::AnswerTimeout, &x.request_id);
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
