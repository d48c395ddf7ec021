//! May it? Asked of the replica, in process, without I/O.
//!
//! 403 means that the policies deny it. Where they cannot be asked (no replica, too old, not the
//! revision that was asked for) the answer is 503.

use std::time::{Duration, Instant};

use keepgate_policy::decision::{DenyReason, Effect, QueryError};
use keepgate_policy::{Decision, Query};
use serde_json::Value;

use super::{Exchange, PhaseVerdict};
use crate::problem::{Kind, Problem};
use std::collections::BTreeMap;

pub(crate) fn run(x: &mut Exchange) -> PhaseVerdict {
    let (Some(routed), Some(table), Some(principal)) = (&x.routed, &x.table, &x.principal) else {
        return no_decision("no_replica", "the request was not prepared for a decision").into();
    };
    if let Err(problem) = fresh(x) {
        return problem.into();
    }
    let started = Instant::now();
    let (decision, context) = x.worker.with_context(|context| {
        context.fill(x);
        let decision = table.world.decide(
            &Query::new(principal, &routed.action, &routed.resource)
                .service(&x.worker.settings.service)
                .context(&context.map),
        );
        (decision, context.map.clone())
    });
    x.worker.metrics.decided(started.elapsed());
    x.decided_on = context;
    match decision {
        Ok(decision) => judge(x, &decision),
        Err(QueryError::UnknownService(_)) => {
            no_decision("no_service", "the gate does not know its service yet").into()
        }
        Err(error @ QueryError::Undecided { .. }) => {
            x.worker.metrics.policy_errors.add(1);
            tracing::debug!(
                target: "keepgate::decision",
                request_id = x.request_id.to_str().unwrap_or_default(),
                %error,
                "nothing was decided"
            );
            no_decision("undecided", "a policy cannot be evaluated").into()
        }
        Err(error) => Problem::new(Kind::BadRequest, error.to_string()).into(),
    }
}

/// Whether the world that this request took is young enough for its route. Asked when the request
/// is decided on, and again when it leaves the upstream's queue. It is the request's own world that
/// is asked: a younger one that came meanwhile may say no.
pub(crate) fn fresh(x: &Exchange) -> Result<(), Problem> {
    let (Some(routed), Some(table)) = (&x.routed, &x.table) else {
        return Err(no_decision("no_replica", "the request was not prepared for a decision"));
    };
    match table.age() {
        None => {
            let detail = "how old the gate's permissions are is not known";
            Err(no_decision("age_unknown", detail))
        }
        Some(age) if age > Duration::from_millis(routed.max_age_ms) => {
            Err(no_decision("stale", "the gate's permissions are too old"))
        }
        Some(_) => Ok(()),
    }
}

fn judge(x: &Exchange, decision: &Decision) -> PhaseVerdict {
    if !decision.errors.is_empty() {
        x.worker.metrics.policy_errors.add(decision.errors.len() as u64);
        tracing::debug!(
            target: "keepgate::decision",
            request_id = x.request_id.to_str().unwrap_or_default(),
            policies = ?decision.errors.iter().map(|e| &e.policy).collect::<Vec<_>>(),
            "policies failed to evaluate and were skipped"
        );
    }
    let (reason, detail) = match decision.effect {
        Effect::Allow => return PhaseVerdict::Continue,
        Effect::Deny(DenyReason::Forbid) => ("forbid", "a policy forbids it"),
        Effect::Deny(DenyReason::NoPermit) => ("no_permit", "no policy permits it"),
    };
    Problem::new(Kind::Denied, detail).reason(reason).into()
}

/// Whether the permissions that the request was decided on are still young enough for it.
pub(crate) fn is_fresh(x: &Exchange) -> bool {
    fresh(x).is_ok()
}

/// 503: nobody is denied, the question cannot be put.
pub(crate) fn no_decision(reason: &'static str, detail: &'static str) -> Problem {
    Problem::new(Kind::NoDecision, detail).reason(reason)
}

/// The context of a request, filled anew each time into the same memory.
#[derive(Debug, Default)]
pub(crate) struct Context {
    map: BTreeMap<String, Value>,
}

impl Context {
    /// `context.method`, `context.path`, `context.host` and, where there is one, `context.ip`; all
    /// strings.
    fn fill(&mut self, x: &Exchange) {
        self.put("method", |text| text.push_str(x.parts.method.as_str()));
        let decided = x.routed.as_ref().and_then(|routed| routed.path.as_deref());
        self.put("path", |text| text.push_str(decided.unwrap_or(x.parts.uri.path())));
        self.put("host", |text| text.push_str(&x.host));
        match x.client {
            Some(ip) => self.put("ip", |text| {
                use std::fmt::Write as _;
                // Writing to a String cannot fail.
                let _ = write!(text, "{ip}");
            }),
            None => {
                self.map.remove("ip");
            }
        }
    }

    fn put(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        if let Some(Value::String(text)) = self.map.get_mut(name) {
            text.clear();
            write(text);
        } else {
            let mut text = String::new();
            write(&mut text);
            self.map.insert(name.to_owned(), Value::String(text));
        }
    }
}
