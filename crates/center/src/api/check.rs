//! `/v1/check`: one question, answered with the reasons.

use std::sync::Arc;

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api::{self as api, Question, UidInput};
use keepgate_policy::world::{self, Explanation, NearMiss, PolicyText, Seen};
use keepgate_policy::{DenyReason, Effect, Query, Uid};

use super::fair::Crowded;
use super::input::{StrictJson, uid};
use super::past::{self, Then};
use super::problem::Problem;
use super::who::step_told;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::{Head, Refusal, Work};
use crate::metrics::Metrics;
use crate::token::Role;

/// The services that answer this caller: the one named, else the one that decides what names none
/// (in a store of an earlier release, there may be several).
pub(crate) fn asked<'a>(
    head: &'a Head,
    caller: &Caller,
    named: Option<&'a str>,
) -> Answer<Vec<&'a str>> {
    let services = match named {
        Some(name) => Ok(vec![name]),
        None => head.unnamed().map_err(|e| Problem::conflict(e.to_string())),
    };
    // A token of one service learns nothing of others.
    if caller.role() == Role::Pep
        && let Some(own) = caller.service()
        && services.as_ref().is_ok_and(|names| names.iter().any(|name| *name != own))
    {
        return Err(Problem::forbidden(format!("this token may ask service `{own}` and no other")));
    }
    match named {
        Some(name) if !head.services.contains_key(name) => Err(Refusal::no_service(name).into()),
        _ => services,
    }
}

/// Counts a decision.
pub(crate) fn count(metrics: &Metrics, effect: Effect) {
    match effect {
        Effect::Allow => metrics.allowed.add(1),
        Effect::Deny(_) => metrics.denied.add(1),
    }
}

/// Any forbid denies, else any permit allows.
pub(crate) fn rank(effect: Effect) -> u8 {
    match effect {
        Effect::Deny(DenyReason::NoPermit) => 0,
        Effect::Allow => 1,
        Effect::Deny(DenyReason::Forbid) => 2,
    }
}

/// Runs what takes a while on a thread of its own, when it is this token's turn; it is told when
/// nobody waits for it any more.
pub(crate) async fn beside<T: Send + 'static>(
    app: &App,
    caller: &Caller,
    work: impl FnOnce(&Work) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let watched = Arc::new(Work::default());
    let _watch = watched.watch();
    let seat = app.fair.seat(caller.token_id()).await.map_err(|Crowded| {
        Problem::too_many("too many requests of this token wait for a decision; try again")
    })?;
    let done = tokio::task::spawn_blocking(move || {
        // The seat is given back when the work has ended, not when its caller has gone.
        let _seat = seat;
        work(&watched)
    });
    done.await.map_err(|_| Problem::internal())?
}

/// Parents that a question gives its principal.
const MOST_PARENTS: usize = 1_000;

pub(crate) async fn check(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    StrictJson(question): StrictJson<Question>,
) -> Answer<Out<api::Answer>> {
    let head = app.desk.head();
    let then = match &question.as_of {
        Some(as_of) => Some(past::state(&app, &caller, as_of).await?),
        None => {
            asked(&head, &caller, question.service.as_deref())?;
            None
        }
    };
    let metrics = Arc::clone(&app.metrics);
    // Saying why walks all policies: not on the runtime's threads.
    let by = caller.clone();
    let work = move |work: &Work| explained((&head, then.as_ref()), &by, question, &metrics, work);
    beside(&app, &caller, work).await.map(Out)
}

fn explained(
    (head, then): (&Head, Option<&Then>),
    caller: &Caller,
    question: Question,
    metrics: &Metrics,
    work: &Work,
) -> Answer<api::Answer> {
    let services = match (&question.service, then) {
        // It need not be there any more.
        (Some(name), Some(_)) => vec![name.as_str()],
        (named, _) => asked(head, caller, named.as_deref())?,
    };
    let principal = uid(question.principal, "principal")?;
    let action = match question.action {
        // `read` is short for `Action::"read"`.
        UidInput::Text(text) => Uid::action(&text),
        parts => uid(parts, "action")?,
    };
    let resource = uid(question.resource, "resource")?;
    if question.principal_parents.len() > MOST_PARENTS {
        let detail = format!("`principal_parents`: expected at most {MOST_PARENTS}");
        return Err(Problem::unprocessable(detail));
    }
    let parents = question.principal_parents.into_iter();
    let parents = parents.map(|parent| uid(parent, "principal_parents"));
    let parents = parents.collect::<Answer<Vec<Uid>>>()?;
    let world = then.map_or(&head.world, |then| &then.world);
    let now = question
        .at_unix_s
        .or(then.map(|then| then.at_unix_s))
        .unwrap_or_else(keepgate_observe::unix_s);
    let mut answers: Vec<(&str, Explanation)> = Vec::new();
    for service in services {
        if work.is_given_up() {
            return Err(Refusal::Gone.into());
        }
        let query = Query::new(&principal, &action, &resource)
            .service(service)
            .context(&question.context)
            .principal_parents(&parents)
            .principal_properties(&question.principal_properties)
            .action_properties(&question.action_properties)
            .resource_properties(&question.resource_properties)
            .at(now);
        // Who may ask this may name any entity, so the context may too.
        let query = query.cedar_json();
        let answer = world.explain(&query).map_err(|e| Problem::of_query(&e))?;
        answers.push((service, answer));
    }
    let effect = answers
        .iter()
        .map(|(_, answer)| answer.decision.effect)
        .max_by_key(|effect| rank(*effect))
        .unwrap_or(Effect::Deny(DenyReason::NoPermit));
    if then.is_none() {
        count(metrics, effect);
    }
    let (shown, reason) = match effect {
        Effect::Allow => (api::Effect::Allow, api::Reason::Permit),
        Effect::Deny(DenyReason::Forbid) => (api::Effect::Deny, api::Reason::Forbid),
        Effect::Deny(DenyReason::NoPermit) => (api::Effect::Deny, api::Reason::NoPermit),
    };
    let mut told = api::Answer {
        decision: effect == Effect::Allow,
        effect: shown,
        reason,
        determining: Vec::new(),
        near: Vec::new(),
        others: Vec::new(),
        errors: Vec::new(),
        notes: Vec::new(),
        revision: world.revision().0,
        landed_unix_ms: then.map(|then| then.landed_unix_ms),
        at_unix_s: now,
    };
    for (service, answer) in answers {
        let errors = answer.decision.errors.iter().map(|e| api::PolicyFailure {
            service: service.to_owned(),
            policy: e.policy.to_string(),
            message: e.message.clone(),
        });
        told.errors.extend(errors);
        if answer.decision.effect == effect {
            told.determining.extend(answer.determining.into_iter().map(|by| by_told(service, by)));
            told.near.extend(answer.near.into_iter().map(|miss| miss_told(service, miss)));
            told.others.extend(answer.others.into_iter().map(|miss| miss_told(service, miss)));
        }
        for note in answer.notes {
            if !told.notes.contains(&note) {
                told.notes.push(note);
            }
        }
    }
    Ok(told)
}

fn policy_told(service: &str, policy: PolicyText, seen: Vec<Seen>) -> api::Determining {
    let saw = seen.into_iter().map(|seen| api::Saw { part: seen.part, value: seen.value });
    api::Determining {
        service: service.to_owned(),
        id: policy.id.to_string(),
        text: policy.text,
        principal_path: Vec::new(),
        resource_path: Vec::new(),
        saw: saw.collect(),
    }
}

fn by_told(service: &str, by: world::Determining) -> api::Determining {
    api::Determining {
        principal_path: by.principal.into_iter().map(step_told).collect(),
        resource_path: by.resource.into_iter().map(step_told).collect(),
        ..policy_told(service, by.policy, by.seen)
    }
}

fn miss_told(service: &str, miss: NearMiss) -> api::Miss {
    api::Miss {
        policy: policy_told(service, miss.policy, miss.seen),
        why: miss.why,
        forbids: miss.forbid,
    }
}
