//! `/v1/check`: one question, answered with the reasons.

use std::collections::BTreeMap;

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_policy::decision::QueryError;
use keepgate_policy::model::{GrantBody, LinkBody, PolicyBody};
use keepgate_policy::{
    Decision, DenyReason, Effect, EvaluationError, ItemKey, Kind, Query, World,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{Json, UidInput};
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::{Head, Refusal};
use crate::metrics::Metrics;
use crate::store::{Reading, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    #[serde(default)]
    service: Option<String>,
    principal: UidInput,
    action: UidInput,
    resource: UidInput,
    #[serde(default)]
    context: BTreeMap<String, Value>,
}

/// What several services say to one question.
pub(crate) struct Verdict {
    pub(crate) effect: Effect,
    /// By service, those whose policies determined it.
    pub(crate) determining: Vec<(String, String)>,
    /// By service, policies that failed.
    pub(crate) errors: Vec<(String, EvaluationError)>,
}

/// Any forbid denies, else any permit allows.
pub(crate) fn union<'a>(
    world: &World,
    services: impl IntoIterator<Item = &'a str>,
    query: &Query<'_>,
) -> Result<Verdict, QueryError> {
    let mut decisions: Vec<(&str, Decision)> = Vec::new();
    for service in services {
        decisions.push((service, world.decide(&Query { service, ..query.clone() })?));
    }
    let rank = |effect: Effect| match effect {
        Effect::Deny(DenyReason::Forbid) => 2,
        Effect::Allow => 1,
        Effect::Deny(DenyReason::NoPermit) => 0,
    };
    let effect = decisions
        .iter()
        .map(|(_, decision)| decision.effect)
        .max_by_key(|effect| rank(*effect))
        .unwrap_or(Effect::Deny(DenyReason::NoPermit));
    let mut verdict = Verdict { effect, determining: Vec::new(), errors: Vec::new() };
    for (service, decision) in decisions {
        if decision.effect == effect {
            let names = decision.determining.iter();
            verdict.determining.extend(names.map(|name| (service.to_owned(), name.to_string())));
        }
        verdict.errors.extend(decision.errors.into_iter().map(|e| (service.to_owned(), e)));
    }
    Ok(verdict)
}

/// The services that decide where none is named.
pub(crate) fn deciding(head: &Head) -> impl Iterator<Item = &str> {
    head.services.iter().filter(|(_, settings)| settings.authzen).map(|(name, _)| name.as_str())
}

/// The services that answer this caller: the one named, or all that take part.
pub(crate) fn asked<'a>(
    head: &'a Head,
    caller: &Caller,
    named: Option<&'a str>,
) -> Answer<Vec<&'a str>> {
    if let Some(own) = caller.service()
        && named != Some(own)
    {
        return Err(Problem::forbidden(format!("this token may ask service `{own}` and no other")));
    }
    match named {
        None => Ok(deciding(head).collect()),
        Some(name) if head.services.contains_key(name) => Ok(vec![name]),
        Some(name) => Err(Refusal::no_service(name).into()),
    }
}

/// Counts a decision.
pub(crate) fn count(metrics: &Metrics, effect: Effect) {
    match effect {
        Effect::Allow => metrics.allowed.add(1),
        Effect::Deny(_) => metrics.denied.add(1),
    }
}

pub(crate) async fn check(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(question): Json<Question>,
) -> Answer<Out<Value>> {
    let head = app.desk.head();
    let services = asked(&head, &caller, question.service.as_deref())?;
    let principal = question.principal.uid("principal")?;
    let action = match question.action {
        // `read` is short for `Action::"read"`.
        UidInput::Text(text) => keepgate_policy::Uid::action(&text),
        parts => parts.uid("action")?,
    };
    let resource = question.resource.uid("resource")?;
    let none = BTreeMap::new();
    let query = Query {
        service: "",
        principal: &principal,
        action: &action,
        resource: &resource,
        context: &question.context,
        principal_properties: &none,
        action_properties: &none,
        resource_properties: &none,
    };
    let verdict = union(&head.world, services, &query)
        .map_err(|e| Problem::bad_request(e.to_string()))?;
    count(&app.metrics, verdict.effect);
    let Verdict { effect, determining, errors } = verdict;
    let texts = app
        .desk
        .read(move |store| {
            let mut lines = Vec::new();
            for (service, id) in determining {
                let text = text(store, &service, &id)?;
                lines.push(json!({ "service": service, "id": id, "text": text }));
            }
            Ok(lines)
        })
        .await?;
    let (name, reason) = match effect {
        Effect::Allow => ("allow", "permit"),
        Effect::Deny(DenyReason::Forbid) => ("deny", "forbid"),
        Effect::Deny(DenyReason::NoPermit) => ("deny", "no_permit"),
    };
    let errors: Vec<Value> = errors
        .iter()
        .map(|(service, e)| {
            json!({ "service": service, "policy": e.policy.as_ref(), "message": e.message })
        })
        .collect();
    Ok(Out(json!({
        "decision": effect == Effect::Allow,
        "effect": name,
        "reason": reason,
        "determining": texts,
        "errors": errors,
        "revision": head.revision,
    })))
}

/// A policy, link or grant in Cedar's syntax; none: it has gone meanwhile.
fn text(store: &dyn Reading, service: &str, id: &str) -> Result<Option<String>, Refusal> {
    for kind in [Kind::Policy, Kind::Grant, Kind::Link] {
        let Some(row) = store.item(&ItemKey::new(service, kind, id))? else { continue };
        let corrupt = |e: serde_json::Error| StoreError::Corrupt { what: e.to_string() };
        return match kind {
            Kind::Grant => {
                let grant: GrantBody = serde_json::from_slice(&row.body).map_err(corrupt)?;
                Ok(Some(grant_text(&grant)))
            }
            Kind::Link => {
                let link: LinkBody = serde_json::from_slice(&row.body).map_err(corrupt)?;
                let template = ItemKey::new(service, Kind::Template, &link.template);
                let Some(row) = store.item(&template)? else { return Ok(None) };
                let body: PolicyBody = serde_json::from_slice(&row.body).map_err(corrupt)?;
                let slot = |name: &str, uid: Option<&keepgate_policy::Uid>| {
                    uid.map(|uid| format!("// {name} = {uid}\n")).unwrap_or_default()
                };
                let principal = slot("?principal", link.principal.as_ref());
                let resource = slot("?resource", link.resource.as_ref());
                Ok(Some(format!("{principal}{resource}{}", body.text)))
            }
            _ => {
                let body: PolicyBody = serde_json::from_slice(&row.body).map_err(corrupt)?;
                Ok(Some(body.text))
            }
        };
    }
    Ok(None)
}

fn grant_text(grant: &GrantBody) -> String {
    let action = match grant.actions.as_slice() {
        [] => "action".to_owned(),
        actions => {
            let names: Vec<String> = actions.iter().map(ToString::to_string).collect();
            format!("action in [{}]", names.join(", "))
        }
    };
    let resource = match &grant.resource {
        None => "resource".to_owned(),
        Some(uid) => format!("resource in {uid}"),
    };
    format!("permit (principal in {}, {action}, {resource});", grant.principal)
}
