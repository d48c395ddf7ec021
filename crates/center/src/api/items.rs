//! Items one by one: get, list, put, delete; of services and of the directory.
//!
//! A PUT's body is what a GET answers. An item's revision is its ETag; `If-Match` and
//! `If-None-Match: *` make a write conditional.

use std::sync::Arc;

use axum::Json as Out;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use keepgate_api::{self as api, Changed, ItemList, Listed};
use keepgate_policy::{Change, Encoded, Item, ItemBody, ItemKey, Kind, Uid};
use serde_json::{Value, json};

use super::fair::Seat;
use super::input::{Condition, Page, etag};
use super::problem::Problem;
use super::{Answer, App, twice};
use crate::access::{self, Caller, Write};
use crate::desk::{
    Anew, Bulk, BulkPlanner, Counts, Edit, EditPlan, EditProblem as Located, Outcome, Planned,
    Planner, Refusal, Step, Work, shown_id,
};
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
        Kind::Entity => super::input::path_uid(id)?.to_string(),
        // As in `roles.toml`: a name will do.
        Kind::Role => Uid::role(id).to_string(),
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

pub(crate) async fn list(
    app: &App,
    service: String,
    kind: Kind,
    page: Page,
) -> Answer<Out<ItemList<Value>>> {
    let limit = page.limit();
    let (revision, mut rows) = app
        .desk
        .read(move |store| {
            if !service.is_empty() {
                service_must_be(store, &service)?;
            }
            let rows = page_of(limit, &page.after, |after, count| {
                store.list(&service, kind, after, count)
            })?;
            Ok((store.head()?, rows))
        })
        .await?;
    let is_cut = rows.iter().map(|row| row.body.len()).sum::<usize>() > PAGE_BYTES;
    let next = (rows.len() > limit || (is_cut && rows.len() > 1)).then(|| {
        rows.pop();
        rows.last().map(|row| row.key.id.clone()).unwrap_or_default()
    });
    let items = rows.iter().map(listed).collect::<Answer<Vec<_>>>()?;
    Ok(Out(ItemList { revision: revision.0, items, next }))
}

/// Rows read at once for a page.
const STRIDE: usize = 64;

/// Bytes of bodies in one page; a page that is full of them ends early.
pub(crate) const PAGE_BYTES: usize = 4 << 20;

/// At most one row more than a page has, so that it is known whether there are more.
pub(crate) fn page_of(
    limit: usize,
    after: &str,
    mut read: impl FnMut(&str, usize) -> Result<Vec<Row>, crate::store::StoreError>,
) -> Result<Vec<Row>, Refusal> {
    let mut rows: Vec<Row> = Vec::new();
    let mut bytes = 0;
    while rows.len() <= limit {
        let wanted = STRIDE.min(limit + 1 - rows.len());
        let after = rows.last().map_or(after, |row| &row.key.id).to_owned();
        let more = read(&after, wanted)?;
        let is_last = more.len() < wanted;
        for row in more {
            bytes += row.body.len();
            rows.push(row);
            if bytes > PAGE_BYTES && rows.len() > 1 {
                return Ok(rows);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(rows)
}

pub(crate) async fn put(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
    body: Value,
) -> Answer<Out<Changed>> {
    let mut item = decode(key.clone(), body)?;
    if !matches!(key.kind, Kind::Entity | Kind::Grant | Kind::Role | Kind::Member | Kind::Key) {
        let after = Arc::new(Encoded::of(&item));
        return put_bulk(app, caller, key, condition, Some(after)).await;
    }
    let source = access::source(caller);
    let put = key.clone();
    let outcome = edit(app, caller, action(key.kind, "put"), move |store, _| {
        condition.check(store, &key)?;
        if !key.service.is_empty() && key.kind != Kind::Service {
            service_must_be(store, &key.service)?;
        }
        // Whose files brought it is not for a caller to say. What a bound editor brings is of its
        // service.
        if let ItemBody::Role(role) = &mut item.body {
            role.source = store.item(&key)?.map_or(source, |row| row.source);
        }
        Ok(EditPlan { changes: vec![Change::Put(item)], ..EditPlan::default() })
    })
    .await?;
    let mut changed = changed(&outcome);
    if put.kind == Kind::Entity {
        let look = move |store: &dyn crate::store::Reading| {
            Ok(twice::warnings(store, std::iter::once(&put))?)
        };
        changed.warnings = app.desk.read(look).await?;
    }
    Ok(Out(changed))
}

pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
) -> Answer<Out<Changed>> {
    if reaches_far(key.kind) {
        return put_bulk(app, caller, key, condition, None).await;
    }
    let outcome = edit(app, caller, action(key.kind, "delete"), move |store, _| {
        condition.check(store, &key)?;
        if store.item(&key)?.is_none() {
            return Err(Refusal::missing(&key));
        }
        Ok(EditPlan { changes: vec![Change::Delete(key)], ..EditPlan::default() })
    })
    .await?;
    Ok(Out(changed(&outcome)))
}

/// Kinds whose deletion is checked against others of the service, however many there are.
fn reaches_far(kind: Kind) -> bool {
    matches!(kind, Kind::Schema | Kind::Template | Kind::Route | Kind::Limit | Kind::Plan)
}

/// Puts or deletes one item whose check may take a while, checked beside the writer.
async fn put_bulk(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
    after: Option<Arc<Encoded>>,
) -> Answer<Out<Changed>> {
    let action = action(key.kind, if after.is_some() { "put" } else { "delete" });
    let plan = move |store: &dyn crate::store::Reading| {
        condition.check(store, &key)?;
        if key.kind != Kind::Service {
            service_must_be(store, &key.service)?;
        }
        let row = store.item(&key)?;
        if row.is_none() && after.is_none() {
            return Err(Refusal::missing(&key));
        }
        let steps: Vec<Step> = Step::new(&key, row.as_ref(), after.as_ref()).into_iter().collect();
        Ok(steps.into())
    };
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let place = Some(app.bulk.enter(caller, true).await?);
    let way = Way { anew: Anew::Own, place, ..Way::default() };
    let outcome = land_bulk(app, caller, action, way, work, plan).await?;
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
    F: FnOnce(&dyn crate::store::Reading, &crate::desk::Head) -> Result<EditPlan, Refusal>
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
    F: FnOnce(&dyn crate::store::Reading, &crate::desk::Head) -> Result<EditPlan, Refusal>
        + Send
        + 'static,
{
    let actor = caller.token_id().to_owned();
    let by = caller.clone();
    let plan: Planner = Box::new(move |store, head| {
        let wanted = plan(store, head)?;
        let writes = wanted.changes.iter().map(|change| Ok(Write::of_change(change)));
        access::check_writes(&by, store, &head.world, writes)?;
        // Who decides about a request makes a key of its service.
        for request in &wanted.requests {
            let key = ItemKey::new(&request.service, Kind::Key, &request.id);
            let write = std::iter::once(Ok(Write::deletion(&key)));
            access::check_writes(&by, store, &head.world, write)?;
        }
        Ok(wanted)
    });
    let write_id = caller.write().map(|write| write.id());
    let landed = app.desk.edit(Edit { actor, action, dry_run, write_id, plan }).await;
    match landed {
        Ok(outcome) => {
            caller.note(&outcome);
            app.metrics.edits_landed.add(u64::from(!dry_run));
            Ok(outcome)
        }
        Err(refusal) => {
            app.metrics.edits_refused.add(1);
            Err(refusal)
        }
    }
}

/// How an edit is landed that is worked out beside the writer.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Everything is checked and reported, nothing kept.
    pub(crate) dry_run: bool,
    /// See [`Bulk::anew`].
    pub(crate) anew: Anew,
    /// See [`Bulk::place`].
    pub(crate) place: Option<Seat>,
}

/// Lands an edit of many items in the caller's name, or a dry run of it.
pub(crate) async fn land_bulk<F>(
    app: &App,
    caller: &Caller,
    action: &'static str,
    Way { dry_run, anew, place }: Way,
    work: Arc<Work>,
    mut plan: F,
) -> Result<Outcome, Refusal>
where
    F: FnMut(&dyn crate::store::Reading) -> Result<Planned, Refusal> + Send + 'static,
{
    let actor = caller.token_id().to_owned();
    let by = caller.clone();
    let plan: BulkPlanner = Box::new(move |store, head| {
        let planned = plan(store)?;
        let writes = planned.steps.iter().map(Write::of_step);
        access::check_writes(&by, store, &head.world, writes)?;
        Ok(planned)
    });
    let (write_id, place) = (caller.write().map(|write| write.id()), Box::new(place));
    let bulk = Bulk { actor, action, dry_run, write_id, plan, work, anew, place };
    let landed = app.desk.edit_bulk(bulk).await;
    if let Ok(outcome) = &landed {
        caller.note(outcome);
    }
    match &landed {
        Ok(_) => app.metrics.edits_landed.add(u64::from(!dry_run)),
        Err(_) => app.metrics.edits_refused.add(1),
    }
    landed
}

/// The answer to a write: what changed, of many the first, and how many.
pub(crate) fn changed(outcome: &Outcome) -> Changed {
    let change = |landing: &crate::desk::Landing| api::Change {
        op: landing.op,
        item: named(&landing.key),
        diff: None,
    };
    let Counts { created, updated, deleted } = outcome.counts;
    let is_cut = outcome.counts.all() > outcome.changes.len() as u64;
    Changed {
        revision: outcome.revision.0,
        created: is_cut.then_some(created),
        updated: is_cut.then_some(updated),
        deleted: is_cut.then_some(deleted),
        changes: outcome.changes.iter().map(change).collect(),
        kept: kept(outcome),
        still_named: Vec::new(),
        warnings: Vec::new(),
    }
}

/// What was left alone.
pub(crate) fn kept(outcome: &Outcome) -> Vec<api::Kept> {
    outcome.kept.iter().map(named).collect()
}

/// An item as answers name it.
pub(crate) fn named(key: &ItemKey) -> api::ItemName {
    api::ItemName { kind: key.kind.as_str().to_owned(), id: shown_id(key).to_owned() }
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
                if let Ok(uid) = key.id.parse::<Uid>() {
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
        let text = keepgate_observe::chain(&e);
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

fn listed(row: &Row) -> Answer<Listed<Value>> {
    Ok(Listed {
        id: row.key.id.clone(),
        revision: row.revision.0,
        brought: super::sources::told(row.origin.brought),
        body: body(row)?,
    })
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

pub(crate) fn action(kind: Kind, verb: &'static str) -> &'static str {
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
