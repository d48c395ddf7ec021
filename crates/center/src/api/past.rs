//! What was: history, past states, what changed between them.

use std::collections::BTreeMap;

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_api as api;
use keepgate_policy::service::is_service_name;
use keepgate_policy::{ItemKey, Kind, Revision, World};
use serde::Deserialize;
use serde_json::Value;

use super::input::{Args, Params};
use super::problem::Problem;
use super::{Answer, App, diff};
use crate::access::{Caller, Permission};
use crate::desk::past::{self, Wanted};
use crate::desk::{Refusal, shown, shown_id};
use crate::store::{AuditRow, PastItem, Reading, StoreError};

/// Entries of a page of history.
const ENTRIES: usize = 100;

/// Changes in one answer.
const CHANGES: usize = 1_000;

/// Rows of the audit log read at once: each may have two bodies of a MiB.
const STRIDE: usize = 16;

/// Rows looked at for one answer; the next page goes on from there.
const LOOKED_AT: usize = 20_000;

/// Bytes of one text difference, and of all in an answer.
const DIFF: usize = 32 << 10;
const DIFFS: usize = 2 << 20;

/// A past state, with the time that is decided for.
#[derive(Clone, Debug)]
pub(crate) struct Then {
    pub(crate) world: World,
    /// Since which revision items were as they were, of those that have changed meanwhile.
    pub(crate) since: BTreeMap<ItemKey, Revision>,
    /// When it landed, in milliseconds since the Unix epoch.
    pub(crate) landed_unix_ms: u64,
    /// What the time is there, in seconds since the Unix epoch.
    pub(crate) at_unix_s: u64,
}

/// The state that is named. A time is that second's end: what landed within it counts.
pub(crate) fn wanted(as_of: &api::AsOf, field: &str) -> Answer<(Wanted, Option<u64>)> {
    let text = match as_of {
        api::AsOf::Revision(revision) => return Ok((Wanted::Revision(Revision(*revision)), None)),
        api::AsOf::Time(text) => text,
    };
    if let Ok(revision) = text.parse() {
        return Ok((Wanted::Revision(Revision(revision)), None));
    }
    let at = keepgate_policy::instant::parse(text).map_err(|e| {
        Problem::unprocessable(format!("`{field}`: expected a revision or a time: {e}"))
    })?;
    Ok((Wanted::UnixMs(at.saturating_mul(1_000).saturating_add(999)), Some(at)))
}

/// Makes the state that is named, off the runtime, when it is this token's turn.
pub(crate) async fn state(app: &App, caller: &Caller, as_of: &api::AsOf) -> Answer<Then> {
    if !caller.may(Permission::Read) {
        let detail = "this token may ask what is, not what was; use a viewer's";
        return Err(Problem::forbidden(detail));
    }
    let (wanted, at) = wanted(as_of, "as_of")?;
    let place = app.bulk.read(caller).await?;
    let head = app.desk.head();
    let read = app.desk.read(move |store| {
        let _place = place;
        let row = past::find(store, wanted)?;
        let (world, since) = past::state(store, &head.world, row.revision)?;
        Ok(Then {
            world,
            since,
            landed_unix_ms: row.unix_ms,
            at_unix_s: at.unwrap_or(row.unix_ms / 1_000),
        })
    });
    Ok(read.await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryArgs {
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    actor: Option<String>,
    /// Entries of the audit log before this one; 0: from the newest on.
    #[serde(default)]
    before: u64,
    #[serde(default)]
    limit: Option<usize>,
}

impl HistoryArgs {
    fn passes(&self, row: &AuditRow) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.service, &row.service)
            && is(&self.kind, &row.kind)
            && is(&self.id, &row.id)
            && is(&self.actor, &row.actor)
    }
}

/// `GET /v1/history`
pub(crate) async fn history(
    State(app): State<App>,
    Args(args): Args<HistoryArgs>,
) -> Answer<Out<api::History>> {
    must_be_a_name(args.service.as_deref())?;
    let limit = args.limit.unwrap_or(ENTRIES).clamp(1, ENTRIES);
    let read = app.desk.read(move |store| {
        let head = store.head()?;
        let oldest = store.past_head()?.reaches(head);
        let mut entries: Vec<api::HistoryEntry> = Vec::new();
        let (mut at, mut looked_at, mut changes) = (args.before, 0, 0);
        let mut room = DIFFS;
        let next = 'rows: loop {
            let rows = match &args.id {
                Some(id) => store.audit_of_id(id, at, STRIDE)?,
                None => store.audit_before(at, STRIDE)?,
            };
            let is_last = rows.len() < STRIDE;
            for row in rows {
                looked_at += 1;
                if args.passes(&row) {
                    let is_new = entries.last().is_none_or(|last| last.revision != row.revision.0);
                    if changes >= CHANGES || (is_new && entries.len() >= limit) {
                        break 'rows Some(at);
                    }
                    if is_new {
                        entries.push(entry(&row));
                    }
                    changes += 1;
                    if let Some(last) = entries.last_mut() {
                        last.changes.push(audited(&row, &mut room));
                    }
                }
                at = row.seq;
            }
            if is_last {
                break None;
            }
            if looked_at >= LOOKED_AT || room == 0 {
                break Some(at);
            }
        };
        // Within a revision in the order in which things were changed.
        entries.iter_mut().for_each(|entry| entry.changes.reverse());
        Ok(api::History { head: head.0, oldest: oldest.0, entries, next })
    });
    Ok(Out(read.await?))
}

/// Refuses what no service is named.
pub(crate) fn must_be_a_name(service: Option<&str>) -> Answer<()> {
    match service.filter(|name| !is_service_name(name)) {
        None => Ok(()),
        Some(name) => Err(Problem::bad_request(format!(
            "`service`: expected the name of a service, got `{name}`"
        ))),
    }
}

fn entry(row: &AuditRow) -> api::HistoryEntry {
    api::HistoryEntry {
        revision: row.revision.0,
        unix_ms: row.unix_ms,
        actor: row.actor.clone(),
        action: row.action.clone(),
        changes: Vec::new(),
    }
}

/// A change as the audit log has it. `room`: bytes of differences that are left.
fn audited(row: &AuditRow, room: &mut usize) -> api::PastChange {
    let op = match (&row.before, &row.after) {
        (None, _) => api::Op::Create,
        (Some(_), Some(_)) => api::Op::Update,
        (Some(_), None) => api::Op::Delete,
    };
    let summary = row.after.as_ref().filter(|_| row.id.is_empty()).and_then(|text| {
        let value: Value = serde_json::from_str(text).ok()?;
        serde_json::from_value::<api::ChangeCounts>(value.get("summary")?.clone()).ok()
    });
    let text = |body: &Option<String>| body.as_ref().map(|body| readable(&row.kind, body));
    let diff = summary.is_none().then(|| {
        let (before, after) = (text(&row.before), text(&row.after));
        bounded(&before.unwrap_or_default(), &after.unwrap_or_default(), room)
    });
    api::PastChange {
        op,
        service: row.service.clone(),
        kind: row.kind.clone(),
        id: row.id.clone(),
        diff: diff.flatten(),
        counts: summary,
    }
}

/// A difference within its bounds; none: there is none, or no room.
fn bounded(before: &str, after: &str, room: &mut usize) -> Option<String> {
    if *room == 0 {
        return None;
    }
    let mut text = diff::unified(before, after);
    if text.len() > DIFF {
        text.truncate(text.floor_char_boundary(DIFF));
        text.push_str("\n.. (cut off)\n");
    }
    *room = room.saturating_sub(text.len());
    (!text.is_empty()).then_some(text)
}

/// A body as people compare it: a policy's text, or a member a line.
fn readable(kind: &str, body: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    let is_text =
        matches!(Kind::from_name(kind), Some(Kind::Policy | Kind::Template | Kind::Schema));
    match value.get("text").and_then(Value::as_str).filter(|_| is_text) {
        Some(text) => text.to_owned(),
        None => serde_json::to_string_pretty(&value).unwrap_or_else(|_| body.to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowArgs {
    /// Changes after this entry of the audit log.
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<usize>,
}

/// `GET /v1/revisions/{revision}`
pub(crate) async fn show(
    State(app): State<App>,
    Args(args): Args<ShowArgs>,
    Params(revision): Params<u64>,
) -> Answer<Out<api::RevisionShown>> {
    let limit = args.limit.unwrap_or(CHANGES).clamp(1, CHANGES);
    let read = app.desk.read(move |store| {
        let revision = Revision(revision);
        let row = store.revision(revision)?;
        let (mut room, mut at) = (DIFFS, args.after);
        let mut shown: Option<api::HistoryEntry> = None;
        let mut next = None;
        'rows: loop {
            let rows = store.audit_in(revision, at, STRIDE)?;
            let is_last = rows.len() < STRIDE;
            for row in rows {
                let entry = shown.get_or_insert_with(|| entry(&row));
                if entry.changes.len() >= limit || room == 0 {
                    next = Some(at);
                    break 'rows;
                }
                entry.changes.push(audited(&row, &mut room));
                at = row.seq;
            }
            if is_last {
                break;
            }
        }
        match (shown, row) {
            (Some(entry), _) => Ok(api::RevisionShown { entry, next }),
            (None, Some(row)) if args.after > 0 => {
                let entry = api::HistoryEntry {
                    revision: revision.0,
                    unix_ms: row.unix_ms,
                    actor: String::new(),
                    action: String::new(),
                    changes: Vec::new(),
                };
                Ok(api::RevisionShown { entry, next })
            }
            (None, Some(_)) => Err(Refusal::Unfit(format!(
                "what revision {revision} changed is not known: the audit log does not reach back \
                 to it, or it made none"
            ))),
            (None, None) => Err(Refusal::Missing {
                kind: "revision",
                id: revision.to_string(),
                place: String::new(),
            }),
        }
    });
    Ok(Out(read.await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiffArgs {
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    service: Option<String>,
    /// How many changes are left out: those of the pages before.
    #[serde(default)]
    after: usize,
    #[serde(default)]
    limit: Option<usize>,
}

/// `GET /v1/diff`
pub(crate) async fn compare(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<DiffArgs>,
) -> Answer<Out<api::StateDiff>> {
    must_be_a_name(args.service.as_deref())?;
    let from = args.from.clone().ok_or_else(|| {
        Problem::unprocessable("`from`: expected a revision or a time, got nothing")
    })?;
    let (from, _) = wanted(&api::AsOf::Time(from), "from")?;
    let to = args.to.clone().map(|to| wanted(&api::AsOf::Time(to), "to")).transpose()?;
    let limit = args.limit.unwrap_or(CHANGES).clamp(1, CHANGES);
    let place = app.bulk.read(&caller).await?;
    let read = app.desk.read(move |store| {
        let _place = place;
        let head = store.head()?;
        let from = past::find(store, from)?.revision;
        let to = match to {
            None => head,
            Some((to, _)) => past::find(store, to)?.revision,
        };
        let mut differ = differences(store, from, to, head)?;
        differ.retain(|(key, _, _)| args.service.as_ref().is_none_or(|name| key.service == *name));
        let total = differ.len();
        let mut room = DIFFS;
        let mut changes = Vec::new();
        for (key, before, after) in differ.iter().skip(args.after).take(limit) {
            if room == 0 {
                break;
            }
            changes.push(difference(key, before.as_ref(), after.as_ref(), &mut room));
        }
        let shown = args.after.saturating_add(changes.len());
        Ok(api::StateDiff {
            from: from.0,
            to: to.0,
            total: total as u64,
            changes,
            next: (shown < total).then_some(shown as u64),
        })
    });
    Ok(Out(read.await?))
}

/// An item that differs between two states, as it is in the first and in the second.
type Differs = (ItemKey, Option<Vec<u8>>, Option<Vec<u8>>);

/// What differs between two states, in key order.
fn differences(
    store: &dyn Reading,
    from: Revision,
    to: Revision,
    head: Revision,
) -> Result<Vec<Differs>, Refusal> {
    let (early, late) = (from.min(to), from.max(to));
    let at_early = past::images(store, early, late)?;
    let mut at_late = past::images(store, late, head)?;
    let body = |was: Option<PastItem>| was.map(|was| was.body);
    let mut differ = Vec::new();
    for (key, was) in at_early {
        let early = body(was);
        let late = match at_late.remove(&key) {
            Some(was) => body(was),
            None => store.item(&key)?.map(|row| row.body),
        };
        if early != late {
            differ.push(if from <= to { (key, early, late) } else { (key, late, early) });
        }
    }
    Ok(differ)
}

pub(crate) fn difference(
    key: &ItemKey,
    before: Option<&Vec<u8>>,
    after: Option<&Vec<u8>>,
    room: &mut usize,
) -> api::PastChange {
    let op = match (before, after) {
        (None, _) => api::Op::Create,
        (Some(_), Some(_)) => api::Op::Update,
        (Some(_), None) => api::Op::Delete,
    };
    let text = |body: Option<&Vec<u8>>| {
        body.map_or(String::new(), |body| readable(key.kind.as_str(), &shown(key.kind, body)))
    };
    let diff = bounded(&text(before), &text(after), room);
    api::PastChange {
        op,
        service: key.service.clone(),
        kind: key.kind.as_str().to_owned(),
        id: shown_id(key).to_owned(),
        diff,
        counts: None,
    }
}

/// Since when an item is as it is at a revision, and by whom, as far as it is known. `was`: of those that
/// have changed after it.
pub(crate) fn since(
    store: &dyn Reading,
    key: &ItemKey,
    through: Revision,
    was: &BTreeMap<ItemKey, Revision>,
) -> Result<api::Since, StoreError> {
    let unknown = api::Since { revision: None, unix_ms: None, actor: None, action: None };
    let found = match was.get(key) {
        Some(revision) => Some(*revision),
        None => store.item(key)?.map(|row| row.revision).filter(|found| *found <= through),
    };
    let Some(found) = found else { return Ok(unknown) };
    let revision = Some(found.0);
    if let Some(audit) = store.audit_of(found, key)? {
        return Ok(api::Since {
            revision,
            unix_ms: Some(audit.unix_ms),
            actor: Some(audit.actor),
            action: Some(audit.action),
        });
    }
    let unix_ms = store.revision(found)?.map(|row| row.unix_ms);
    Ok(api::Since { revision, unix_ms, ..unknown })
}
