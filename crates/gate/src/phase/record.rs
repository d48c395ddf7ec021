//! What happened, for those who were not there: metrics, heavy hitters and the decision log; and
//! for the caller, what is left of its limits.

use http::header::USER_AGENT;
use http::{HeaderMap, Response};
use keepgate_limit::rules::Dialect;
use keepgate_limit::top::Observation;

use super::{Exchange, Routed, limit_address};
use crate::body::GateBody;
use crate::problem::Problem;

/// Counts the outcome, logs it at debug, and makes the answer.
pub(crate) fn run(
    x: &mut Exchange,
    outcome: Result<Response<GateBody>, Box<Problem>>,
) -> Response<GateBody> {
    let (mut response, kind, refused) = match outcome {
        Ok(response) => {
            x.worker.metrics.forwarded(response.status());
            (response, "forwarded", false)
        }
        Err(problem) => {
            let kind = problem.kind;
            x.worker.metrics.answered(x.phase, kind);
            let refused = kind.status().is_client_error();
            let response = if x.grpc {
                problem.into_grpc(&x.request_id)
            } else {
                problem.into_response(&x.request_id)
            };
            (response, kind.suffix(), refused)
        }
    };
    tell_limits(x, response.headers_mut());
    observe(x, refused);
    if tracing::enabled!(target: "keepgate::decision", tracing::Level::DEBUG) {
        log(x, &response, kind);
    }
    let permits = x.take_permits();
    response.map(|body| body.keeping(permits))
}

/// What is left of its limits. The upstream may have limits of its own: the fields of draft 11 are
/// lists, to which the gate's are added; where both speak `x-ratelimit`, the upstream's stay.
fn tell_limits(x: &Exchange, headers: &mut HeaderMap) {
    let Some(service) = &x.service else { return };
    let is_list = service.limits.limiter.headers() == Dialect::Draft11;
    for (name, value) in x.limited.fields(service) {
        if is_list || !headers.contains_key(&name) {
            headers.append(name, value);
        }
    }
}

/// Heavy hitters. A walk through a route shows in its paths, where it has parameters.
fn observe(x: &Exchange, refused: bool) {
    let route = x.routed.as_ref().and_then(Routed::template);
    let limiting = &x.worker.common.limiting;
    let user_agent = x.user_agent.as_ref().or_else(|| x.parts.headers.get(USER_AGENT));
    let observation = Observation {
        address: limit_address::address(x),
        principal: x.known_principal(),
        user_agent: user_agent.and_then(|value| value.to_str().ok()),
        method: x.parts.method.as_str(),
        route,
        path: route.filter(|route| route.contains('{')).map(|_| x.parts.uri.path()),
        refused,
        now: limiting.now(),
    };
    limiting.top.record(x.worker.number, &observation);
}

/// One line a request: who, what, how it ended. No header, query or body.
fn log(x: &Exchange, response: &Response<GateBody>, outcome: &str) {
    let text = |value: Option<String>| value.unwrap_or_default();
    tracing::debug!(
        target: "keepgate::decision",
        request_id = x.request_id.to_str().unwrap_or_default(),
        outcome,
        phase = x.phase.name(),
        status = response.status().as_u16(),
        client = text(x.client.map(|ip| ip.to_string())),
        principal = text(x.principal.as_ref().map(|p| p.to_string())),
        route = x.routed.as_ref().and_then(Routed::template).unwrap_or_default(),
        action = text(x.routed.as_ref().map(|r| r.action.to_string())),
        resource = text(x.routed.as_ref().map(|r| r.resource.to_string())),
        revision = x.table.as_ref().map_or(0, |table| table.version.0.0),
        took_us = u64::try_from(x.started.elapsed().as_micros()).unwrap_or(u64::MAX),
    );
}
