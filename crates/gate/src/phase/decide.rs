//! May it? Asked of the replica, in process, without I/O.
//!
//! 403 means that the policies deny it. Where they cannot be asked (no replica, too old, not the
//! revision that was asked for) the answer is 503.

use std::collections::BTreeMap;
use std::time::Instant;

use keepgate_policy::decision::{DenyReason, Effect, QueryError};
use keepgate_policy::{Decision, Query, Uid, Verdict};
use keepgate_record::{MAX_INPUTS, Outcome};
use serde_json::Value;

use super::stage::{
    Accepted, Admitted, Allowed, Arrived, Ended, Evidence, Found, Identity, Refused,
};
use super::undecided::{fresh, no_decision};
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;

pub(crate) fn run(mut admitted: Admitted) -> Result<Allowed, Box<Refused>> {
    match decided(&mut admitted) {
        Ok(()) => Ok(Allowed { admitted }),
        Err(problem) => Err(Refused::new(Phase::Decide, problem, Ended::Admitted(admitted))),
    }
}

/// Nothing, where it is permitted.
fn decided(admitted: &mut Admitted) -> Result<(), Problem> {
    let (found, identity) = (admitted.found(), &admitted.identified.identity);
    let Accepted { arrived, entry, host, client, .. } = &admitted.identified.routed.accepted;
    let worker = &arrived.worker;
    fresh(found)?;
    let started = Instant::now();
    let now = if found.table.depends_on_time { keepgate_observe::unix_s() } else { 0 };
    let principal = found.table.principal(&identity.principal, identity.roles());
    let sides = found.index.and_then(|index| found.table.route(index));
    let (decision, evidence) = worker.with_context(|context| {
        let path = found.path.as_deref().unwrap_or(arrived.parts.uri.path());
        context.fill(arrived.parts.method.as_str(), path, host, *client);
        let service = &entry.served.tables.service;
        let mut query = Query::new(&identity.principal, &found.action, &found.resource)
            .service(service)
            .context(&context.map)
            .principal_parents(identity.roles())
            .at(now);
        if let Some(principal) = &principal {
            query = query.resolved_principal(principal);
        }
        if let Some(action) = sides.and_then(|sides| sides.action.as_ref()) {
            query = query.resolved_action(action);
        }
        if let Some(resource) = sides.and_then(|sides| sides.resource.as_ref()) {
            query = query.resolved_resource(resource);
        }
        let (world, prepared) = (&found.table.world, identity.prepared());
        // Only a record names the policies, and what they read.
        if worker.recorder.is_none() {
            return (world.judge(&query, prepared), None);
        }
        let (decision, policies) = match world.decide_prepared(&query, prepared) {
            Ok(Decision { effect, determining, errors, revision }) => {
                (Ok(Verdict { effect, errors, revision }), determining)
            }
            Err(error) => (Err(error), Vec::new()),
        };
        let inputs = inputs(found, service, identity, &context.map);
        (decision, Some(Box::new(Evidence { decide_ns: 0, policies, inputs })))
    });
    let took = started.elapsed();
    admitted.evidence = evidence.map(|mut evidence| {
        evidence.decide_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        evidence
    });
    let arrived = admitted.arrived();
    let judged = match decision {
        Ok(decision) => judge(arrived, &decision),
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
        Ok(_) => Outcome::Allowed,
        Err(problem) => problem.kind.outcome(),
    };
    entry.timings.decision(outcome, took, arrived.trace.exemplar());
    judged
}

/// What the policies read of a request, as members of a JSON object; none: more than a record may hold.
fn inputs(
    found: &Found,
    service: &str,
    identity: &Identity,
    context: &BTreeMap<String, Value>,
) -> Option<String> {
    let reads = found.table.reads(service);
    let mut text = String::new();
    let mut put = |name: &str, json: Result<String, serde_json::Error>| {
        if let Ok(json) = json {
            let comma = if text.is_empty() { "" } else { "," };
            text = format!("{text}{comma}\"{name}\":{json}");
        }
        text.len() + 2 <= MAX_INPUTS
    };
    let read: BTreeMap<&str, &Value> = context
        .iter()
        .filter(|(name, _)| reads.context.has(name))
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let mut fits = read.is_empty() || put("context", serde_json::to_string(&read));
    if let Some(said) = &identity.said {
        let (claims, properties) = said.prepared.read_by(&reads);
        fits = fits && (claims.is_empty() || put("claims", serde_json::to_string(&claims)));
        fits = fits
            && (properties.is_empty() || put("properties", serde_json::to_string(&properties)));
        let parents: Vec<String> = said.roles.iter().map(Uid::to_string).collect();
        fits = fits && (parents.is_empty() || put("parents", serde_json::to_string(&parents)));
    }
    fits.then_some(text)
}

/// Whether a value of a question is a claim, or an attribute that a claim gives.
fn is_of_token(path: &str) -> bool {
    path == "context.claims"
        || path.starts_with("context.claims.")
        || path.starts_with("principal.properties")
}

fn judge(arrived: &Arrived, decision: &Verdict) -> Result<(), Problem> {
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
