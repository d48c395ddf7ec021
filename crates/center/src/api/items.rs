//! Items one by one: get, list, put, delete; of services and of the directory.
//!
//! A PUT's body is what a GET answers. An item's revision is its ETag; `If-Match` and
//! `If-None-Match: *` make a write conditional.

use axum::Json as Out;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use keepgate_policy::{Change, Item, ItemKey, Kind};
use serde_json::{Value, json};

use super::input::{Condition, Page, etag};
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::{Edit, Outcome, Plan, Problem as Located, Refusal};
use crate::store::Row;

/// The kinds that have a path of their own under a service.
pub(crate) const OF_SERVICE: [(&str, Kind); 8] = [
    ("policies", Kind::Policy),
    ("templates", Kind::Template),
    ("links", Kind::Link),
    ("grants", Kind::Grant),
    ("entities", Kind::Entity),
    ("routes", Kind::Route),
    ("limits", Kind::Limit),
    ("plans", Kind::Plan),
];

/// The key that a path names; entities are brought to their canonical text.
pub(crate) fn key(service: &str, kind: Kind, id: &str) -> Answer<ItemKey> {
    let id = match kind {
        Kind::Entity | Kind::Role => super::input::path_uid(id)?.to_string(),
        _ => id.to_owned(),
    };
    Ok(ItemKey::new(service, kind, id))
}

pub(crate) async fn fetch(app: &App, key: ItemKey) -> Answer<Response> {
    let row = app
        .desk
        .read(move |store| match store.item(&key)? {
            Some(row) => Ok(row),
            None if !key.service.is_empty() => {
                service_must_be(store, &key.service)?;
                Err(Refusal::missing(&key))
            }
            None => Err(Refusal::missing(&key)),
        })
        .await?;
    let mut response = Out(body(&row)?).into_response();
    if let Ok(tag) = HeaderValue::from_str(&etag(row.revision)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

pub(crate) async fn list(app: &App, service: String, kind: Kind, page: Page) -> Answer<Out<Value>> {
    let limit = page.limit();
    let (revision, mut rows) = app
        .desk
        .read(move |store| {
            if !service.is_empty() {
                service_must_be(store, &service)?;
            }
            let rows = store.list(&service, kind, &page.after, limit + 1)?;
            Ok((store.head()?, rows))
        })
        .await?;
    let next = (rows.len() > limit).then(|| {
        rows.truncate(limit);
        rows.last().map(|row| row.key.id.clone()).unwrap_or_default()
    });
    let items = rows.iter().map(listed).collect::<Answer<Vec<_>>>()?;
    let mut answer = json!({ "revision": revision, "items": items });
    if let (Some(next), Some(answer)) = (next, answer.as_object_mut()) {
        answer.insert("next".to_owned(), json!(next));
    }
    Ok(Out(answer))
}

pub(crate) async fn put(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
    body: Value,
) -> Answer<Out<Value>> {
    let item = decode(key.clone(), body)?;
    let outcome = edit(app, caller, action(key.kind, "put"), move |store, _| {
        condition.check(store, &key)?;
        if !key.service.is_empty() && key.kind != Kind::Service {
            service_must_be(store, &key.service)?;
        }
        Ok(Plan { changes: vec![Change::Put(item)], ..Plan::default() })
    })
    .await?;
    Ok(Out(changed(&outcome)))
}

pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
) -> Answer<Out<Value>> {
    let outcome = edit(app, caller, action(key.kind, "delete"), move |store, _| {
        condition.check(store, &key)?;
        if store.item(&key)?.is_none() {
            return Err(Refusal::missing(&key));
        }
        Ok(Plan { changes: vec![Change::Delete(key)], ..Plan::default() })
    })
    .await?;
    Ok(Out(changed(&outcome)))
}

/// Lands an edit in the caller's name.
pub(crate) async fn edit<F>(
    app: &App,
    caller: &Caller,
    action: &'static str,
    plan: F,
) -> Answer<Outcome>
where
    F: FnOnce(&dyn crate::store::Reading, &crate::desk::Head) -> Result<Plan, Refusal>
        + Send
        + 'static,
{
    Ok(try_land(app, caller, action, false, plan).await?)
}

/// The same, or a dry run of it, for those who have more to say about a refusal.
pub(crate) async fn try_land<F>(
    app: &App,
    caller: &Caller,
    action: &'static str,
    dry_run: bool,
    plan: F,
) -> Result<Outcome, Refusal>
where
    F: FnOnce(&dyn crate::store::Reading, &crate::desk::Head) -> Result<Plan, Refusal>
        + Send
        + 'static,
{
    let actor = caller.token_id().to_owned();
    let landed = app.desk.edit(Edit { actor, action, dry_run, plan: Box::new(plan) }).await;
    match landed {
        Ok(outcome) => {
            app.metrics.edits_landed.add(u64::from(!dry_run));
            Ok(outcome)
        }
        Err(refusal) => {
            app.metrics.edits_refused.add(1);
            Err(refusal)
        }
    }
}

/// The answer to a write.
pub(crate) fn changed(outcome: &Outcome) -> Value {
    json!({ "revision": outcome.revision, "changes": changes(outcome) })
}

pub(crate) fn changes(outcome: &Outcome) -> Vec<Value> {
    let line = |change: &crate::desk::Landing| {
        json!({
            "op": change.op.name(),
            "kind": change.key.kind.as_str(),
            "id": if change.key.id.is_empty() { &change.key.service } else { &change.key.id },
        })
    };
    outcome.changes.iter().map(line).collect()
}

/// An item from a body; what the path says already may be left out of it.
pub(crate) fn decode(key: ItemKey, mut body: Value) -> Answer<Item> {
    if let Some(fields) = body.as_object_mut() {
        let mut fill = |name: &str, value: Value| {
            fields.entry(name.to_owned()).or_insert(value);
        };
        match key.kind {
            Kind::Service => fill("name", json!(key.service)),
            Kind::Limit | Kind::Plan => fill("name", json!(key.id)),
            Kind::Entity | Kind::Role => {
                if let Ok(uid) = key.id.parse::<keepgate_policy::Uid>() {
                    fill("uid", json!(uid));
                }
            }
            Kind::Route => {
                if let Some((method, path)) = key.id.split_once(' ') {
                    fill("method", json!(method));
                    fill("path", json!(path));
                }
            }
            _ => {}
        }
    }
    Item::decode(key.clone(), body.to_string().as_bytes()).map_err(|e| {
        let text = crate::chain(&e);
        // The text names the item, and so does the problem.
        let why = text.strip_prefix(&format!("{key}: ")).unwrap_or(&text);
        Problem::invalid(vec![Located::of(&key, why)])
    })
}

pub(crate) fn body(row: &Row) -> Answer<Value> {
    let mut body = serde_json::from_slice(&row.body).map_err(|e| {
        tracing::error!(error = %e, kind = %row.key.kind, "a stored body does not parse");
        Problem::internal()
    })?;
    // A key's hash is of no use to readers of the API.
    if let (Kind::Key, Value::Object(fields)) = (row.key.kind, &mut body) {
        fields.remove("sha256");
    }
    Ok(body)
}

fn listed(row: &Row) -> Answer<Value> {
    Ok(json!({ "id": row.key.id, "revision": row.revision, "body": body(row)? }))
}

/// Refuses with the service's name if there is none.
pub(crate) fn service_must_be(
    store: &dyn crate::store::Reading,
    service: &str,
) -> Result<(), Refusal> {
    match store.item(&ItemKey::service(service))? {
        Some(_) => Ok(()),
        None => Err(Refusal::no_service(service)),
    }
}

fn action(kind: Kind, verb: &'static str) -> &'static str {
    match (kind, verb) {
        (Kind::Service, "put") => "service.put",
        (Kind::Schema, "put") => "schema.put",
        (Kind::Schema, _) => "schema.delete",
        (Kind::Entity, "put") => "entity.put",
        (Kind::Entity, _) => "entity.delete",
        (Kind::Role, "put") => "role.put",
        (Kind::Role, _) => "role.delete",
        (Kind::Policy, "put") => "policy.put",
        (Kind::Policy, _) => "policy.delete",
        (Kind::Template, "put") => "template.put",
        (Kind::Template, _) => "template.delete",
        (Kind::Link, "put") => "link.put",
        (Kind::Link, _) => "link.delete",
        (Kind::Grant, "put") => "grant.put",
        (Kind::Grant, _) => "grant.delete",
        (Kind::Route, "put") => "route.put",
        (Kind::Route, _) => "route.delete",
        (Kind::Limit, "put") => "limit.put",
        (Kind::Limit, _) => "limit.delete",
        (Kind::Plan, "put") => "plan.put",
        (Kind::Plan, _) => "plan.delete",
        (Kind::Key, _) => "key.delete",
        (_, verb) => verb,
    }
}
