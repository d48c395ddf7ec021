//! To the upstream and back: clean headers, a pooled connection, streamed bodies.
//!
//! What goes wrong is told apart: the caller's fault (400, 408, 413), no connection to be had
//! here (503), an upstream that fails (502) or is late (504).

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderValue, REFERER, USER_AGENT, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use keepgate_client::dial::DialOutcome;
use keepgate_client::pool::{Held, PoolError, PooledBody, Terms};
use keepgate_limit::Permit;
use keepgate_observe::chain;
use keepgate_record::Outcome;

use super::asserted;
use super::stage::{
    Accepted, Admitted, Allowed, Arrived, Ended, Identified, Refused, Routed, Sent, Via,
};
use super::undecided::{fresh, no_decision};
use super::upstream_headers;
use super::worker::Backend;
use crate::exchange::cut::Cut;
use crate::exchange::ongoing::{Circumstances, Ending, Inputs, Listed};
use crate::identify::assertion;
use crate::message::body::{BodyBounds, CallerBody, GateBody};
use crate::message::fate::{BodyFate, BodyFault};
use crate::message::headers::{self, X_REQUEST_ID};
use crate::message::problem::{Kind, Problem};
use crate::observe::metrics::WorkerMetrics;
use crate::observe::phase::Phase;

/// One address has at most one part in so many of the upstream's connections with bodies in progress.
const BODY_SHARE: usize = 4;

/// A request that the upstream has answered.
pub(crate) struct Forwarded {
    pub(crate) sent: Sent,
    pub(crate) response: Response<GateBody>,
    /// Where both sides switch protocols, which is rare. Boxed for that.
    pub(crate) upgrade: Option<Box<Upgrade>>,
}

/// Both sides of an exchange that becomes a tunnel, and what it holds until that ends.
pub(crate) struct Upgrade {
    pub(crate) caller: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    /// The tunnel counts as under way at its address.
    pub(crate) held: Option<Held>,
    /// How long nothing may move.
    pub(crate) idle: Duration,
    pub(crate) listed: Listed,
    /// The caller's places among the requests under way.
    pub(crate) permits: Vec<Permit>,
    /// Those of its worker.
    pub(crate) metrics: Arc<WorkerMetrics>,
}

#[expect(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
pub(crate) fn run(
    mut allowed: Allowed,
    incoming: Option<Incoming>,
) -> impl Future<Output = Result<Forwarded, Box<Refused>>> + Send {
    async move {
        let admitted = &mut allowed.admitted;
        let entry = Arc::clone(admitted.entry());
        let Some(backend) = entry.site.backend.as_deref() else {
            // A gate without upstreams has no listener for callers.
            let problem =
                Problem::new(Kind::NoConnection, "the gate has no upstream for this site");
            return Err(Refused::new(Phase::Forward, problem, Ended::Admitted(allowed.admitted)));
        };
        let listed = listed(admitted);
        // A preflight has nothing to say beyond its headers.
        let is_empty = |body: &Incoming| body.is_end_stream() || admitted.found().cross.preflight;
        let (body, fate) = match incoming.filter(|incoming| !is_empty(incoming)) {
            None => (CallerBody::default(), None),
            // Boxed: most requests have none.
            Some(incoming) => match Box::pin(caller_body(admitted, backend, incoming)).await {
                Ok((body, fate)) => (body, Some(fate)),
                Err(problem) => {
                    let ended = Ended::Admitted(allowed.admitted);
                    return Err(Refused::new(Phase::Forward, problem, ended));
                }
            },
        };
        let assertion = match asserted::by(admitted) {
            Ok(assertion) => assertion,
            Err(problem) => {
                let ended = Ended::Admitted(allowed.admitted);
                return Err(Refused::new(Phase::Forward, problem, ended));
            }
        };
        let mut via =
            admitted.arrived().worker.recorder.is_some().then(|| via(admitted, fate.clone()));
        let caller_side = admitted.arrived_mut().parts.extensions.remove::<OnUpgrade>();
        let (request, user_agent) = give_away(admitted, backend, body, fate.is_some(), assertion);
        let begun = Instant::now();
        let by = OnceLock::new();
        let answered = tokio::select! {
            biased;
            answered = send(admitted, backend, request, via.as_ref().map(|_| &by)) => answered.map_err(|error| {
                let fault = fate.as_ref().and_then(|fate| fate.fault());
                problem(admitted.arrived(), fault, &error)
            }),
            ending = listed.ended() => {
                listed.cut(ending.cut());
                Err(ended_problem(admitted, ending))
            }
        };
        let took = begun.elapsed();
        let outcome = match &answered {
            Ok(_) => Outcome::Allowed,
            Err(problem) => problem.kind.outcome(),
        };
        let trace = &mut admitted.arrived_mut().trace;
        trace.asked(begun, took);
        entry.timings.upstream(outcome, took, trace.exemplar());
        if let (Ok(_), Some(fate)) = (&answered, &fate) {
            fate.answered();
        }
        let answer = match answered {
            Ok(response) => answer(admitted, response, caller_side, listed),
            Err(problem) => Err(problem),
        };
        if let Some(via) = &mut via {
            via.upstream_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            via.answered = by.into_inner();
        }
        let sent = Sent { admitted: allowed.admitted, user_agent, via };
        match answer {
            Ok((response, upgrade)) => Ok(Forwarded { sent, response, upgrade }),
            Err(problem) => Err(Refused::new(Phase::Forward, problem, Ended::Sent(sent))),
        }
    }
}

/// The caller's answer, from the upstream's; and both sides, where they switch protocols.
fn answer(
    admitted: &mut Admitted,
    mut response: Response<PooledBody<CallerBody>>,
    caller_side: Option<OnUpgrade>,
    listed: Listed,
) -> Result<(Response<GateBody>, Option<Box<Upgrade>>), Problem> {
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let Accepted { arrived, entry, websocket, .. } = &admitted.identified.routed.accepted;
    headers::clean_response(response.headers_mut(), upgraded);
    response.headers_mut().insert(X_REQUEST_ID, arrived.request_id.clone());
    *response.version_mut() = Version::HTTP_11;
    if !upgraded {
        let grpc = arrived.grpc;
        return Ok((response.map(|body| GateBody::upstream(body, Some(listed), grpc)), None));
    }
    let Some(caller) = caller_side.filter(|_| *websocket) else {
        let detail = "the upstream switched protocols without being asked";
        return Err(Problem::new(Kind::BadUpstream, detail));
    };
    let upstream = hyper::upgrade::on(&mut response);
    let held = response.extensions_mut().remove::<Held>();
    arrived.peer.shared.become_tunnel();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let bounds = &entry.site.bounds;
    let idle = admitted.found().answer_idle.unwrap_or(bounds.answer_idle);
    let metrics = Arc::clone(&arrived.worker.metrics);
    let permits = admitted.take_permits();
    let upgrade = Box::new(Upgrade { caller, upstream, held, idle, listed, permits, metrics });
    Ok((response.map(|body| GateBody::upstream(body, None, false)), Some(upgrade)))
}

/// The request as the upstream gets it, with its headers; and what is reported of those.
fn give_away(
    admitted: &mut Admitted,
    backend: &Backend,
    body: CallerBody,
    has_body: bool,
    assertion: Option<HeaderValue>,
) -> (Request<CallerBody>, Option<HeaderValue>) {
    upstream_headers::prepare(&mut admitted.identified, backend, has_body);
    if let Some(assertion) = assertion {
        admitted.arrived_mut().parts.headers.insert(assertion::HEADER, assertion);
    }
    let parts = &mut admitted.arrived_mut().parts;
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    let user_agent = parts.headers.get(USER_AGENT).cloned();
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    (request, user_agent)
}

/// What is left of a request's own head for its record.
fn via(admitted: &Admitted, body: Option<Arc<BodyFate>>) -> Box<Via> {
    let Arrived { parts, .. } = admitted.arrived();
    Box::new(Via {
        upstream_us: 0,
        answered: None,
        referer: parts.headers.get(REFERER).cloned(),
        path: parts.uri.path().into(),
        body,
    })
}

/// Sends it on the route's own terms.
async fn send(
    admitted: &Admitted,
    backend: &Backend,
    request: Request<CallerBody>,
    by: Option<&OnceLock<(String, bool)>>,
) -> Result<Response<PooledBody<CallerBody>>, PoolError> {
    let (arrived, found) = (admitted.arrived(), admitted.found());
    let bounds = &admitted.entry().site.bounds;
    let still_wanted = || found.cross.preflight || fresh(found).is_ok();
    let caller = || caller(admitted);
    let waiting = |_: Duration| {
        backend.uploads.cut_slowest(bounds.pressure_rate, Instant::now());
    };
    let note = |address: &str, reused: bool| {
        if let Some(by) = by {
            let _ = by.set((address.to_owned(), reused));
        }
    };
    let terms = Terms {
        answered: by.is_some().then_some(&note as &(dyn Fn(&str, bool) + Send + Sync)),
        answer_timeout: found.answer_timeout.or(Some(bounds.answer_timeout)),
        answer_idle: found.answer_idle.or(Some(bounds.answer_idle)),
        bidirectional: arrived.grpc,
        still_wanted: Some(&still_wanted),
        caller: Some(&caller),
        waiting: Some(&waiting),
    };
    backend.upstream.send_on(request, &terms).await
}

/// The caller's body. On HTTP/1.1 it waits until its address may have one more in progress.
async fn caller_body(
    admitted: &Admitted,
    backend: &Backend,
    incoming: Incoming,
) -> Result<(CallerBody, Arc<BodyFate>), Problem> {
    let Accepted { arrived, entry, client, .. } = &admitted.identified.routed.accepted;
    let bounds = &entry.site.bounds;
    let uploads = &backend.uploads;
    let slot = match (*client, backend.upstream.unshared()) {
        (Some(address), Some(connections)) if !arrived.grpc => {
            let within = backend.queue_timeout;
            let share = connections / BODY_SHARE;
            let Some(slot) = uploads.enter(address, share, within).await else {
                arrived.worker.metrics.cuts.note(Cut::BodyShare, &arrived.request_id);
                let detail = "the address has too many request bodies in progress";
                let problem = Problem::new(Kind::NoConnection, detail);
                return Err(problem.reason(Cut::BodyShare.name()).close());
            };
            Some(slot)
        }
        _ => None,
    };
    let bounds = BodyBounds {
        bytes: admitted.found().body_bytes,
        idle: bounds.body_idle,
        window: bounds.body_window,
        least: bounds.body_least,
    };
    let regard = Arc::clone(&admitted.found().service.regard);
    Ok(CallerBody::new(incoming, bounds, regard, arrived.grpc, uploads.begin(), slot))
}

/// Puts the exchange among those that are decided again, with all that it was decided on.
fn listed(admitted: &Admitted) -> Listed {
    let Identified { routed: Routed { accepted, found, .. }, identity } = &admitted.identified;
    let Arrived { worker, peer, request_id, started, .. } = &*accepted.arrived;
    let inputs = Inputs {
        service: accepted.entry.served.number,
        principal: Arc::clone(&identity.principal),
        action: found.action.clone(),
        resource: found.resource.clone(),
        circumstances: Circumstances {
            method: accepted.arrived.parts.method.clone(),
            uri: accepted.arrived.parts.uri.clone(),
            path: found.path.clone(),
            host: accepted.host.clone(),
            ip: accepted.client,
        },
        said: identity.said.clone(),
        max_age: Duration::from_millis(found.max_age_ms),
        api_key: identity.key.as_ref().map(|key| key.prefix.clone()),
        until_unix_s: identity.until_unix_s.filter(|_| found.service.closes_on_expiry),
        // Not after the decision, whatever was waited for since.
        decided_unix_s: keepgate_observe::unix_s().saturating_sub(started.elapsed().as_secs() + 1),
        undecided: found.cross.preflight,
        request_id: request_id.clone(),
    };
    let connection = (!peer.is_h2).then(|| Arc::clone(&peer.shared));
    Listed::new(&worker.ongoing, inputs, found.table.world.revision(), connection)
}

/// What is told to a caller whose answer has not begun.
fn ended_problem(admitted: &Admitted, ending: Ending) -> Problem {
    let problem = match ending {
        Ending::Denied => Problem::new(Kind::Denied, "access was revoked").reason("revoked"),
        Ending::Expired => {
            let detail = "the credential has expired while the request was under way";
            let challenge = admitted.found().service.ways.challenge.clone();
            Problem::new(Kind::Unauthenticated, detail)
                .reason("token_expiry")
                .header(WWW_AUTHENTICATE, challenge)
        }
        Ending::Undecided => no_decision("stale", "the gate's permissions have become too old"),
        Ending::Stopping | Ending::Idle => Problem::new(Kind::Overloaded, "the gate stops"),
    };
    // What the caller still sends of the request is read by nobody.
    problem.close()
}

fn problem(arrived: &Arrived, fault: Option<BodyFault>, error: &PoolError) -> Problem {
    let Arrived { worker, request_id, .. } = arrived;
    if let Some(fault) = fault {
        let kind = match fault {
            BodyFault::Broken => Kind::BadBody,
            BodyFault::TooLarge => Kind::BodyTooLarge,
            BodyFault::Idle | BodyFault::TooSlow | BodyFault::Pressure => Kind::TooSlow,
        };
        let problem = Problem::new(kind, fault.to_string()).close();
        let Some(cut) = fault.cut() else { return problem };
        worker.metrics.cuts.note(cut, request_id);
        return problem.reason(cut.name());
    }
    let (kind, detail) = match error {
        PoolError::PortsExhausted { source, .. } => match source.outcome() {
            DialOutcome::PortsExhausted => {
                (Kind::PortsExhausted, "no port is free, and no connection became free in time")
            }
            _ => (Kind::NoConnection, "no connection to the upstream became free in time"),
        },
        PoolError::QueueFull { .. } => {
            (Kind::UpstreamSaturated, "too many requests wait for a connection to the upstream")
        }
        error if error.is_no_capacity() => {
            (Kind::UpstreamSaturated, "no connection to the upstream became free in time")
        }
        PoolError::Withdrawn => {
            // It waited for a connection, and meanwhile the permissions have become too old.
            return no_decision("stale", "the gate's permissions are too old");
        }
        PoolError::NotTaken { .. } => {
            let detail = "the upstream closed the connection before it took the request, which is \
                          too large to be kept; send it again";
            (Kind::NoConnection, detail)
        }
        PoolError::Idle { .. } => {
            worker.metrics.cuts.note(Cut::AnswerIdle, request_id);
            (Kind::UpstreamTimeout, "nothing moved in the exchange for too long")
        }
        PoolError::ResponseTimeout { .. } => {
            worker.metrics.cuts.note(Cut::AnswerTimeout, request_id);
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
        worker.warnings.warn(&chain(error), request_id);
    }
    let problem = Problem::new(kind, detail).reason(error.label());
    match error.retry_after_s() {
        Some(seconds) => problem.retry_after_s(seconds),
        None => problem,
    }
}

/// A hash of who makes the request: the principal, and without one the address.
fn caller(admitted: &Admitted) -> u64 {
    // Nobody outside can tell whose hash is whose.
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let Identified { routed, identity } = &admitted.identified;
    match (identity.known(), routed.accepted.client) {
        (Some(principal), _) => KEYS.hash_one(principal),
        // One caller has a whole /64.
        (None, Some(IpAddr::V6(v6))) => KEYS.hash_one(v6.to_bits() >> 64),
        (None, address) => KEYS.hash_one(address),
    }
}
