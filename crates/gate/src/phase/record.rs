//! What happened, for those who were not there: metrics and the decision log.

use http::Response;

use super::{Exchange, Routed};
use crate::body::GateBody;
use crate::problem::Problem;

/// Counts the outcome, logs it at debug, and makes the answer.
pub(crate) fn run(
    x: &Exchange,
    outcome: Result<Response<GateBody>, Box<Problem>>,
) -> Response<GateBody> {
    let (response, kind) = match outcome {
        Ok(response) => {
            x.worker.metrics.forwarded(response.status());
            (response, "forwarded")
        }
        Err(problem) => {
            let kind = problem.kind;
            x.worker.metrics.answered(x.phase, kind);
            (problem.into_response(&x.request_id), kind.suffix())
        }
    };
    if tracing::enabled!(target: "keepgate::decision", tracing::Level::DEBUG) {
        log(x, &response, kind);
    }
    response
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
