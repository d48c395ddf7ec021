//! May it? Asked of the replica, in process, without I/O.
//!
//! 403 means that the policies deny it. Where they cannot be asked (no replica, too old, not the
//! revision that was asked for) the answer is 503.

use std::collections::BTreeMap;
use std::time::Instant;

use keepgate_policy::decision::{DenyReason, Effect, QueryError};
use keepgate_policy::{Decision, Query};
use serde_json::Value;

use super::stage::{Accepted, Admitted, Allowed, Arrived, Ended, Refused};
use super::undecided::{fresh, no_decision};
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;
use crate::observe::timings::OutcomeLabel;

pub(crate) fn run(admitted: Admitted) -> Result<Allowed, Box<Refused>> {
    match decided(&admitted) {
        Ok(context) => Ok(Allowed { admitted, context }),
        Err(problem) => Err(Refused::new(Phase::Decide, problem, Ended::Admitted(admitted))),
    }
}

/// The context that it was permitted on.
fn decided(admitted: &Admitted) -> Result<BTreeMap<String, Value>, Problem> {
    let (found, identity) = (admitted.found(), &admitted.identified.identity);
    let Accepted { arrived, entry, host, client, .. } = &admitted.identified.routed.accepted;
    let worker = &arrived.worker;
    fresh(found)?;
    let started = Instant::now();
    let now = if found.table.depends_on_time { keepgate_observe::unix_s() } else { 0 };
    let (decision, context) = worker.with_context(|context| {
        let path = found.path.as_deref().unwrap_or(arrived.parts.uri.path());
        context.fill(arrived.parts.method.as_str(), path, host, *client);
        let decision = found.table.world.decide_prepared(
            &Query::new(&identity.principal, &found.action, &found.resource)
                .service(&entry.served.tables.service)
                .context(&context.map)
                .principal_parents(identity.roles())
                .at(now),
            identity.prepared(),
        );
        (decision, context.map.clone())
    });
    let took = started.elapsed();
    let judged = match decision {
        Ok(decision) => judge(arrived, &decision).map(|()| context),
        Err(QueryError::UnknownService(_)) => {
            Err(no_decision("no_service", "the gate does not know its service yet"))
        }
        Err(error) if error.is_undecided() => {
            worker.metrics.policy_errors.add(1);
            tracing::debug!(
                target: "keepgate::decision",
                request_id = arrived.request_id.to_str().unwrap_or_default(),
                %error,
                "nothing was decided"
            );
            Err(no_decision("undecided", "a policy cannot be evaluated"))
        }
        // The caller's token is none of its making, and the schema none of its token's issuer.
        Err(QueryError::Value { path, reason }) if is_of_token(&path) => {
            let detail = format!("`{path}` does not fit the service's schema: {reason}");
            Err(Problem::new(Kind::NoDecision, detail).reason("claims"))
        }
        Err(error) => Err(Problem::new(Kind::BadRequest, error.to_string())),
    };
    let outcome = match &judged {
        Ok(_) => OutcomeLabel::Allowed,
        Err(problem) => OutcomeLabel::of(Phase::Decide, problem.kind),
    };
    entry.timings.decision(outcome, took, arrived.trace.exemplar());
    judged
}

/// Whether a value of a question is a claim, or an attribute that a claim gives.
fn is_of_token(path: &str) -> bool {
    path == "context.claims"
        || path.starts_with("context.claims.")
        || path.starts_with("principal.properties")
}

fn judge(arrived: &Arrived, decision: &Decision) -> Result<(), Problem> {
    if !decision.errors.is_empty() {
        arrived.worker.metrics.policy_errors.add(decision.errors.len() as u64);
        tracing::debug!(
            target: "keepgate::decision",
            request_id = arrived.request_id.to_str().unwrap_or_default(),
            policies = ?decision.errors.iter().map(|e| &e.policy).collect::<Vec<_>>(),
            "policies failed to evaluate and were skipped"
        );
    }
    let (reason, detail) = match decision.effect {
        Effect::Allow => return Ok(()),
        Effect::Deny(DenyReason::Forbid) => ("forbid", "a policy forbids it"),
        Effect::Deny(DenyReason::NoPermit) => ("no_permit", "no policy permits it"),
    };
    Err(Problem::new(Kind::Denied, detail).reason(reason))
}
