//! Many items in small portions: newline-delimited JSON, one revision a request.
//!
//! A portion is put as a whole or not at all, and to put it again changes nothing: so an import
//! that was broken off is begun again at any line before the break. What is not named stays.
//!
//! INVARIANT: what somebody has deleted stays deleted and is named, unless the caller says otherwise
//! (`overwrite`): an import that runs each night must not undo a revocation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::Json as Out;
use axum::extract::{Request, State};
use keepgate_api::{Conflict, Imported, Json, Membership, UidInput, Warning};
use keepgate_policy::model::{EntityBody, GrantBody, MemberBody};
use keepgate_policy::{Encoded, Item, ItemBody, ItemKey, Kind, Uid};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::input::{self, Args, Params};
use super::items::Way;
use super::problem::Problem;
use super::{Answer, App, items, sources, twice};
use crate::access::{self, Caller};
use crate::desk::{Counts, EditProblem as Located, Refusal, Step, Work};
use crate::store::{Row, StoreError, Sum};

/// Lines of one portion.
pub(crate) const MAX_LINES: usize = 5_000;

/// Bytes of one portion.
const BODY: usize = 16 << 20;

/// Problems that are told.
const TOLD: usize = 100;

/// In place of a list of actions or of a resource: all there are. It must be written.
const ANY: &str = "any";

/// A line of an import: an entity.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EntityLine")]
pub(crate) struct Entity {
    uid: UidInput,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Json>")]
    attrs: BTreeMap<String, Value>,
    #[serde(default)]
    parents: Vec<UidInput>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Json>")]
    tags: BTreeMap<String, Value>,
}

/// A line of an import: a grant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GrantLine")]
pub(crate) struct Grant {
    #[serde(default)]
    id: Option<String>,
    principal: UidInput,
    actions: Actions,
    resource: UidInput,
    /// When it ends, in Unix seconds; absent: when it is taken back.
    #[serde(default)]
    until_unix_s: Option<u64>,
}

/// The actions of a grant: a list, or the text `any`.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "`actions` is a list of at least one, or \"any\"")]
pub(crate) enum Actions {
    Any(String),
    These(#[schemars(with = "Vec<keepgate_api::ActionInput>")] Vec<UidInput>),
}

/// What the caller of an import allows.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overwrite {
    /// What somebody has deleted is created again.
    #[serde(default)]
    overwrite: bool,
}

/// What an import says of its items.
#[derive(Default)]
struct Said {
    conflicts: Vec<Conflict>,
    warnings: Vec<Warning>,
}

/// The entities of a service.
pub(crate) async fn entities(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    Args(args): Args<Overwrite>,
    request: Request,
) -> Answer<Out<Imported>> {
    import(app, caller, service, Kind::Entity, args, request).await
}

/// The grants of a service.
pub(crate) async fn grants(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    Args(args): Args<Overwrite>,
    request: Request,
) -> Answer<Out<Imported>> {
    import(app, caller, service, Kind::Grant, args, request).await
}

/// The entities of the directory.
pub(crate) async fn directory_entities(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<Overwrite>,
    request: Request,
) -> Answer<Out<Imported>> {
    import(app, caller, String::new(), Kind::Entity, args, request).await
}

/// Memberships.
pub(crate) async fn members(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Args(args): Args<Overwrite>,
    request: Request,
) -> Answer<Out<Imported>> {
    import(app, caller, String::new(), Kind::Member, args, request).await
}

async fn import(
    app: App,
    caller: Caller,
    service: String,
    kind: Kind,
    args: Overwrite,
    request: Request,
) -> Answer<Out<Imported>> {
    if !input::is_type(request.headers(), "application/x-ndjson") {
        return Err(Problem::media_type("send it with `Content-Type: application/x-ndjson`"));
    }
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let body = input::bytes(request, BODY, &app).await?;
    let place = Some(app.bulk.enter(&caller, true).await?);
    let (of, source) = (service.clone(), access::source(&caller));
    let read = tokio::task::spawn_blocking(move || portion(&of, kind, &source, &body)).await;
    let lines = read.map_err(|_| Problem::internal())??;
    let lines = Arc::new(lines);
    let said = Arc::new(Mutex::new(Said::default()));
    let plan = {
        let (lines, says) = (Arc::clone(&lines), Arc::clone(&said));
        move |store: &dyn crate::store::Reading| {
            if !service.is_empty() {
                items::service_must_be(store, &service)?;
            }
            let mut steps: Vec<Step> = Vec::new();
            let mut said = Said::default();
            let may_be_deleted = !args.overwrite && store.sum(Sum::Tombstones)?.rows > 0;
            for (key, (item, line)) in lines.iter() {
                let row = store.item(key)?;
                if may_be_deleted
                    && row.is_none()
                    && let Some(tombstone) = sources::deleted_by_hand(store, key)?
                {
                    let conflict = sources::stays_deleted(&tombstone, "the import has it");
                    said.conflicts.push(Conflict { line: Some(*line as u64), ..conflict });
                    continue;
                }
                let held = match &row {
                    Some(row) if kind == Kind::Member => Some(same_source(row, item)?),
                    _ => None,
                };
                steps.extend(Step::new(key, row.as_ref(), Some(held.as_ref().unwrap_or(item))));
            }
            said.warnings = twice::warnings(store, steps.iter().map(|step| &step.key))?;
            // It may be planned anew: what counts is what was said last.
            *says.lock().unwrap_or_else(PoisonError::into_inner) = said;
            Ok(steps.into())
        }
    };
    let action = match kind {
        Kind::Entity => "entity.import",
        Kind::Member => "role.import",
        _ => "grant.import",
    };
    let way = Way { place, ..Way::default() };
    let landed = items::land_bulk(&app, &caller, action, way, work, plan).await;
    let outcome = landed.map_err(|refusal| match refusal {
        Refusal::Invalid(problems) => Problem::invalid(
            problems
                .into_iter()
                .map(|mut problem| {
                    let line = problem.key.as_ref().and_then(|key| lines.get(key));
                    problem.line = line.map(|(_, line)| *line).or(problem.line);
                    problem
                })
                .collect(),
        ),
        refusal => refusal.into(),
    })?;
    // Whoever sent the lines knows what they say: how many will do.
    let Counts { created, updated, deleted } = outcome.counts;
    let (revision, kept) = (outcome.revision.0, items::kept(&outcome));
    let Said { conflicts, warnings } =
        std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Out(Imported { revision, created, updated, deleted, kept, conflicts, warnings }))
}

/// Whoever brought a membership first, it is there: only its end may be another one.
fn same_source(row: &Row, item: &Encoded) -> Result<Arc<Encoded>, StoreError> {
    let source = row.parsed::<MemberBody>()?.source;
    let Item { key, body } = item.decode()?;
    let body = match body {
        ItemBody::Member(member) => ItemBody::Member(MemberBody { source, ..member }),
        other => other,
    };
    Ok(Arc::new(Encoded::of(&Item { key, body })))
}

type Portion = BTreeMap<ItemKey, (Arc<Encoded>, usize)>;

/// The items of a portion with their lines; of two of one name the last.
/// `source`: of the memberships.
fn portion(service: &str, kind: Kind, source: &str, body: &[u8]) -> Answer<Portion> {
    let mut items = Portion::new();
    let mut problems = Vec::new();
    for (at, text) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = at + 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if line > MAX_LINES {
            let detail = format!("a portion has at most {MAX_LINES} lines; send the rest after it");
            return Err(Problem::bad_request(detail));
        }
        match item(service, kind, source, text) {
            Ok(item) => {
                let item = Arc::new(Encoded::of(&item));
                items.insert(item.key.clone(), (item, line));
            }
            Err(message) if problems.len() < TOLD => {
                problems.push(Located {
                    key: None,
                    file: None,
                    line: Some(line),
                    span: None,
                    message,
                });
            }
            Err(_) => {}
        }
    }
    if problems.is_empty() { Ok(items) } else { Err(Problem::invalid(problems)) }
}

fn item(service: &str, kind: Kind, source: &str, text: &[u8]) -> Result<Item, String> {
    let uid = |uid: UidInput, field: &str| {
        input::uid(uid, field).map_err(|problem| problem.detail().to_owned())
    };
    let (id, body) = match kind {
        Kind::Entity => {
            let entity: Entity = parsed(text)?;
            let parents = entity.parents.into_iter().map(|parent| uid(parent, "parents"));
            let body = EntityBody {
                uid: uid(entity.uid, "uid")?,
                attrs: entity.attrs,
                parents: parents.collect::<Result<_, _>>()?,
                tags: entity.tags,
            };
            (String::new(), ItemBody::Entity(body))
        }
        Kind::Member => {
            let member: Membership = parsed(text)?;
            let until_unix_s = member.until_unix_s;
            let (member, role) = (uid(member.member, "member")?, uid(member.role, "role")?);
            let source = source.to_owned();
            (String::new(), ItemBody::Member(MemberBody { member, role, source, until_unix_s }))
        }
        _ => {
            let grant: Grant = parsed(text)?;
            let actions = match grant.actions {
                Actions::Any(any) if any == ANY => Vec::new(),
                Actions::These(list) if !list.is_empty() => list
                    .into_iter()
                    .map(|action| match action {
                        UidInput::Text(text) => Ok(Uid::action(&text)),
                        parts => uid(parts, "actions"),
                    })
                    .collect::<Result<_, _>>()?,
                _ => return Err("`actions` is a list of at least one, or \"any\"".to_owned()),
            };
            let resource = match grant.resource {
                UidInput::Text(any) if any == ANY => None,
                resource => Some(uid(resource, "resource")?),
            };
            let (principal, until_unix_s) =
                (uid(grant.principal, "principal")?, grant.until_unix_s);
            let mut body = GrantBody { principal, actions, resource, until_unix_s };
            body.actions.sort();
            body.actions.dedup();
            let id = grant.id.unwrap_or_else(|| body.default_id());
            (id, ItemBody::Grant(body))
        }
    };
    let item = Item::new(service, &id, body);
    item.check_key().map_err(|e| e.to_string())?;
    Ok(item)
}

fn parsed<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| {
        // The line within the line says nothing.
        let text = e.to_string();
        text.split(" at line ").next().unwrap_or_default().to_owned()
    })
}
