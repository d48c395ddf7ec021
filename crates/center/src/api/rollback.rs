//! `POST /v1/rollback`: a new revision with what an old one had.
//!
//! Nothing is lost: what is replaced stays in the history. What somebody took away since is not given
//! back unseen: each such thing is a conflict, which the request must name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use http::HeaderMap;
use keepgate_api as api;
use keepgate_policy::{Encoded, Item, ItemBody, ItemKey, Naming, Revision};
use serde::Deserialize;

use super::input::{Args, Json};
use super::items::{self, Way, named};
use super::past::wanted;
use super::problem::Problem;
use super::{Answer, App, gains, since};
use crate::access::Caller;
use crate::desk::past::{self, Images};
use crate::desk::{Anew, ChangedSince, ROLLBACK, Refusal, Step, Work, shown_id};
use crate::store::{Brought, Reading, Row, StoreError};

/// Conflicts that an answer lists.
const TOLD: usize = 1_000;

/// Conflicts that a refusal names.
const NAMED: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackArgs {
    /// Nothing is changed.
    #[serde(default)]
    dry_run: bool,
    /// It lands only over this revision.
    #[serde(default)]
    if_revision: Option<u64>,
}

/// What was found while it was worked out.
#[derive(Default)]
struct Report {
    to: Revision,
    conflicts: Vec<api::Conflict>,
    conflicts_total: usize,
    access: Vec<api::AccessChange>,
    diffs: Vec<(ItemKey, Option<String>)>,
}

pub(crate) async fn rollback(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<RollbackArgs>,
    headers: HeaderMap,
    Json(body): Json<api::Rollback>,
) -> Answer<Out<api::RolledBack>> {
    let over = since::wanted(&headers, args.if_revision)?;
    let (to, _) = wanted(&body.to, "to")?;
    if body.undo.len() > TOLD * 10 {
        let detail = format!("`undo`: expected at most {} conflicts", TOLD * 10);
        return Err(Problem::unprocessable(detail));
    }
    let undo: BTreeSet<String> = body.undo.into_iter().collect();
    let (service, dry_run) = (body.service, args.dry_run);
    let report = Arc::new(Mutex::new(Report::default()));
    let told = Arc::clone(&report);
    let plan = move |store: &dyn Reading| {
        if let Some(over) = over {
            must_stand(store, service.as_deref(), over)?;
        }
        let row = past::find(store, to)?;
        let mut images = past::images(store, row.revision, store.head()?)?;
        if let Some(service) = &service {
            keep_own(store, service, &mut images)?;
        }
        let mut report = Report { to: row.revision, ..Report::default() };
        let steps = steps(store, row.revision, images, dry_run, &undo, &mut report)?;
        if dry_run {
            report.access = gains::of_steps(store, &steps)?;
        }
        let unsaid = report.conflicts_total;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = report;
        if unsaid > 0 && !dry_run {
            return Err(Refusal::Unfit(String::new()));
        }
        Ok(steps.into())
    };
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let place = Some(app.bulk.enter(&caller, true).await?);
    let way = Way { dry_run, anew: Anew::All, place };
    let landed = items::land_bulk(&app, &caller, ROLLBACK, way, work, plan).await;
    let report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
    let outcome = match landed {
        Ok(outcome) => outcome,
        Err(Refusal::Unfit(why)) if why.is_empty() => return Err(conflicting(&report)),
        Err(refusal) => return Err(refusal.into()),
    };
    let mut changed = items::changed(&outcome);
    let mut diffs = report.diffs.into_iter().peekable();
    for (landing, change) in outcome.changes.iter().zip(&mut changed.changes) {
        // Both are in key order.
        while diffs.next_if(|(key, _)| *key < landing.key).is_some() {}
        if let Some((_, diff)) = diffs.next_if(|(key, _)| *key == landing.key) {
            change.diff = diff;
        }
    }
    let all = report.conflicts_total;
    Ok(Out(api::RolledBack {
        changed,
        to: report.to.0,
        dry_run,
        replayed: outcome.replayed,
        conflicts_total: (all > report.conflicts.len()).then_some(all as u64),
        conflicts: report.conflicts,
        access: report.access,
    }))
}

/// What is not named, and would be given back.
fn conflicting(report: &Report) -> Problem {
    let first: Vec<String> = report
        .conflicts
        .iter()
        .take(NAMED)
        .map(|conflict| {
            format!("`{} {}` ({})", conflict.item.kind, conflict.item.id, conflict.message)
        })
        .collect();
    let more = report.conflicts_total.saturating_sub(first.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Problem::conflict(format!(
        "it would give back what was taken away since: {}{more}; name each of them in `undo` \
         (`--undo 'KIND ID'`) to give it back, too, or roll back less",
        first.join(", ")
    ))
}

/// Refuses where something has changed since a revision.
fn must_stand(store: &dyn Reading, service: Option<&str>, wanted: Revision) -> Result<(), Refusal> {
    if let Some(service) = service {
        return since::must_stand(store, service, wanted);
    }
    let head = store.head()?;
    if head == wanted {
        return Ok(());
    }
    let untold = Some("it was changed since; look again (`keepgate history`)");
    let since = ChangedSince { wanted, head, untold, count: 0, first: Vec::new() };
    Err(Refusal::Moved(Box::new(since)))
}

/// Leaves of what changed the service's own: its items, and what it brought into the directory.
fn keep_own(store: &dyn Reading, service: &str, images: &mut Images) -> Result<(), Refusal> {
    let mut failed = None;
    images.retain(|key, was| {
        if !key.service.is_empty() {
            return key.service == service;
        }
        let now = store.item(key).map(|row| row.is_some_and(|row| row.source == service));
        let is_now = now.unwrap_or_else(|e| {
            failed = Some(e);
            false
        });
        let was = was.as_ref().and_then(|was| Item::decode(key.clone(), &was.body).ok());
        is_now || was.is_some_and(|item| keepgate_policy::source_of(&item.body) == service)
    });
    failed.map_or(Ok(()), |e| Err(e.into()))
}

/// The steps back, and what they would give back that was taken away since.
fn steps(
    store: &dyn Reading,
    to: Revision,
    images: Images,
    dry_run: bool,
    undo: &BTreeSet<String>,
    report: &mut Report,
) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    let mut room = 2 << 20;
    for (key, was) in images {
        let item = was.as_ref().map(|was| past::decoded(key.clone(), was)).transpose()?;
        let after = item.as_ref().map(|item| Arc::new(Encoded::of(item)));
        let row = store.item(&key)?;
        let Some(step) = Step::new(&key, row.as_ref(), after.as_ref()) else { continue };
        if let Some(conflict) = conflict(store, to, &key, row.as_ref(), item.as_ref())? {
            let name = format!("{} {}", conflict.item.kind, conflict.item.id);
            if !undo.contains(&name) {
                report.conflicts_total += 1;
                if report.conflicts.len() < TOLD {
                    report.conflicts.push(conflict);
                }
            }
        }
        if dry_run {
            let before = row.as_ref().map(|row| &row.body);
            let body = after.as_ref().map(|after| &after.body);
            let change = super::past::difference(&key, before, body, &mut room);
            report.diffs.push((key.clone(), change.diff));
        }
        steps.push(step);
    }
    Ok(steps)
}

/// What a step would undo of what somebody took away since.
fn conflict(
    store: &dyn Reading,
    to: Revision,
    key: &ItemKey,
    row: Option<&Row>,
    after: Option<&Item>,
) -> Result<Option<api::Conflict>, Refusal> {
    let (message, revision, by) = match (row, after) {
        // What forbids gives nothing back.
        (None, Some(Item { body: ItemBody::Policy(then), .. })) if forbids(&then.text) => {
            return Ok(None);
        }
        // Deleted since, and by no apply of files: a role revoked, a key deleted.
        (None, Some(_)) => {
            let found = super::sources::deleted_by_hand(store, key)?;
            let Some(tombstone) = found.filter(|tombstone| tombstone.revision > to) else {
                return Ok(None);
            };
            let by = (tombstone.actor, tombstone.action, tombstone.unix_ms);
            ("taken away", tombstone.revision, Some(by))
        }
        (Some(row), _) => {
            let now = Item::decode(key.clone(), &row.body).map_err(StoreError::from)?;
            let what = match (&now.body, after.map(|item| &item.body)) {
                (ItemBody::Policy(now), then) if forbids(&now.text) => match then {
                    Some(ItemBody::Policy(then)) if then.text == now.text => return Ok(None),
                    _ => "a policy that forbids, made or changed",
                },
                (now, Some(then)) if ends_earlier(now, then) => "made to end earlier",
                (ItemBody::Entity(now), Some(ItemBody::Entity(then)))
                    if then.parents.iter().any(|parent| !now.parents.contains(parent)) =>
                {
                    "taken out of what it was in"
                }
                _ => return Ok(None),
            };
            let audit = store.audit_of(row.revision, key)?;
            // What files say is changed in the files.
            let by_files = match &audit {
                Some(audit) => Brought::by(&audit.action) == Brought::Files,
                None => row.origin.brought == Brought::Files && row.origin.base.is_none(),
            };
            if by_files {
                return Ok(None);
            }
            let by = audit.map(|audit| (audit.actor, audit.action, audit.unix_ms));
            (what, row.revision, by)
        }
        (None, None) => return Ok(None),
    };
    let (actor, action, unix_ms) = match by {
        Some((actor, action, unix_ms)) => (Some(actor), Some(action), Some(unix_ms)),
        None => (None, None, None),
    };
    let who = actor.as_ref().map_or(String::new(), |actor| format!(" by token {actor}"));
    Ok(Some(api::Conflict {
        item: api::ItemName { id: shown_id(key).to_owned(), ..named(key) },
        message: format!("{message} at revision {revision}{who}"),
        revision: revision.0,
        actor,
        action,
        unix_ms,
        file: None,
        line: None,
    }))
}

fn forbids(text: &str) -> bool {
    // What cannot be read may forbid.
    !Naming::of(text).is_ok_and(|naming| naming.permits)
}

/// Whether somebody made an item end before it did.
fn ends_earlier(now: &ItemBody, then: &ItemBody) -> bool {
    let end = |body: &ItemBody| match body {
        ItemBody::Member(member) => Some(member.until_unix_s),
        ItemBody::Grant(grant) => Some(grant.until_unix_s),
        ItemBody::Key(key) => Some(key.expires_unix_s),
        _ => None,
    };
    match (end(now), end(then)) {
        (Some(now), Some(then)) => now.unwrap_or(u64::MAX) < then.unwrap_or(u64::MAX),
        _ => false,
    }
}
