//! Services as wholes: apply, export, list, delete; their settings and schema.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::Json as Out;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use keepgate_api::{self as api, Applied, Changed, ServiceSummary};
use keepgate_policy::bundle::{self, Packed};
use keepgate_policy::service::is_service_name;
use keepgate_policy::{Item, ItemKey, Kind, World};
use serde::Deserialize;
use serde_json::Value;

use super::input::{Args, Condition, Json, Page, Params, etag};
use super::items::Way;
use super::problem::Problem;
use super::sources::{self, Leave, Report};
use super::spool::Spool;
use super::{Answer, App, files, items, progress, review, samples, since};
use crate::access::Caller;
use crate::desk::{self, Anew, Refusal, Step, Work};
use crate::follow::Follower;
use crate::store::{Reading, Row, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyArgs {
    #[serde(default)]
    dry_run: bool,
    /// What others brought goes, too, and so may all that a missing file had.
    #[serde(default)]
    prune: bool,
    /// What somebody changed since the last apply becomes what the files say.
    #[serde(default)]
    overwrite: bool,
    /// It lands only over this revision.
    #[serde(default)]
    if_revision: Option<u64>,
    /// What is valid and likely not meant is refused.
    #[serde(default)]
    strict: bool,
}

/// Replaces what an apply of the service's files brought by what they say now, as one revision. What
/// others brought stays, and so does what somebody changed since; both are in the answer.
pub(crate) async fn apply(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    Args(args): Args<ApplyArgs>,
    request: Request,
) -> Answer<Response> {
    let over = since::wanted(request.headers(), args.if_revision)?;
    let told = progress::is_asked_for(request.headers());
    let work = Arc::new(Work::default());
    let watch = work.watch();
    let place = app.bulk.enter(&caller, files::is_small(&request)).await?;
    let packed = Arc::new(files::packed(&app, request, &name, &work).await?);
    let landing = {
        let work = Arc::clone(&work);
        async move {
            let said = review::look(&packed, args.strict, &work).await?;
            let ignored = packed.ignored().to_vec();
            let report = Arc::new(Mutex::new(Report::default()));
            let ApplyArgs { dry_run, prune, overwrite, .. } = args;
            let anew = over.map_or(Anew::Far, |_| Anew::Service(name.clone()));
            let plan = {
                let (packed, work) = (Arc::clone(&packed), Arc::clone(&work));
                let told = Arc::clone(&report);
                move |store: &dyn Reading| {
                    if let Some(over) = over {
                        since::must_stand(store, &name, over)?;
                    }
                    let leave = Leave { prune, overwrite, dry_run };
                    let (planned, found) = sources::replace(store, &name, &packed, leave, &work)?;
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = found;
                    Ok(planned)
                }
            };
            let way = Way { dry_run, anew, place: Some(place) };
            let outcome = items::land_bulk(&app, &caller, "apply", way, work, plan).await.map_err(
                |refusal| match refusal {
                    Refusal::Invalid(problems) => Problem::invalid(
                        problems
                            .into_iter()
                            .map(|problem| problem.placed(|key| packed.place(key)))
                            .collect(),
                    ),
                    refusal => refusal.into(),
                },
            )?;
            let followers: Vec<Follower> =
                app.neighbors.followers().into_iter().map(|(_, follower)| follower).collect();
            let together = app.desk.head().authzen_warning();
            // Large services take a while to look at: not on the runtime's threads.
            let in_files = Arc::clone(&packed);
            let look = tokio::task::spawn_blocking(move || {
                let mut warned = too_old(&packed, &followers);
                warned.extend(together.map(|message| {
                    let service = packed.items().find(|item| item.key.kind == Kind::Service);
                    let id = service.map(|item| item.key.service.clone()).unwrap_or_default();
                    api::Warning {
                        id,
                        message,
                        gate: None,
                        line: None,
                        column: None,
                        length: None,
                        file: None,
                    }
                }));
                warned
            });
            let mut warned = look.await.map_err(|_| Problem::internal())?;
            warned.extend(said);
            let mut changed = items::changed(&outcome);
            let mut report =
                std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
            for (landing, change) in outcome.changes.iter().zip(&mut changed.changes) {
                change.diff = report.diffs.remove(&landing.key);
            }
            warned.extend(report.emptied.into_iter().map(missing_file));
            warned.extend(twice(&in_files, &report.twice));
            changed.warnings = warned;
            let (samples, routes_total) = match dry_run {
                false => (Vec::new(), None),
                true => tokio::task::spawn_blocking(move || samples::of(&in_files))
                    .await
                    .map_err(|_| Problem::internal())?,
            };
            Ok(Applied {
                changed,
                dry_run,
                replayed: outcome.replayed,
                ignored,
                conflicts_total: report.conflicts.total(),
                conflicts: report.conflicts.first,
                access: report.access,
                stays_total: report.stays.total(),
                stays: report.stays.first,
                samples,
                routes_total,
            })
        }
    };
    if told {
        return Ok(progress::stream(work, watch, landing));
    }
    let answer: Answer<Applied> = landing.await;
    Ok(Out(answer?).into_response())
}

/// Entities of the service that are in the directory, too.
fn twice(packed: &Packed, twice: &sources::Listed<ItemKey>) -> Vec<api::Warning> {
    let said = |key: &ItemKey| review::warning(packed, key, None, super::twice::MESSAGE.to_owned());
    let mut warned: Vec<api::Warning> = twice.first.iter().map(said).collect();
    if let (Some(all), Some(last)) = (twice.total(), warned.last_mut()) {
        last.message.push_str(&format!("; {all} entities are in both"));
    }
    warned
}

/// What a dry run says of a missing file.
fn missing_file(problem: desk::EditProblem) -> api::Warning {
    let file = problem.file.unwrap_or_default();
    api::Warning {
        id: file,
        message: problem.message,
        gate: None,
        file: None,
        line: None,
        column: None,
        length: None,
    }
}

/// Gates that do not understand what the files say, by name. Each keeps the last state that it
/// understood, and lets its age grow until it cannot decide any more. Blocks.
fn too_old(packed: &Packed, followers: &[Follower]) -> Vec<api::Warning> {
    let mut highest: BTreeMap<&str, (u32, &ItemKey)> = BTreeMap::new();
    for item in packed.items() {
        let found = highest.entry(&item.key.service).or_insert((item.needs, &item.key));
        if item.needs > found.0 {
            *found = (item.needs, &item.key);
        }
    }
    let mut warned = Vec::new();
    for follower in followers {
        let beyond = highest
            .iter()
            .filter(|(service, _)| follower.scope.covers(service))
            .map(|(_, newest)| *newest)
            .max_by_key(|(needs, _)| *needs)
            .filter(|(needs, _)| *needs > follower.format);
        let Some((needs, key)) = beyond else { continue };
        let (name, format, release) = (&follower.name, follower.format, &follower.release);
        let release = match release.as_str() {
            "" => "an unknown release".to_owned(),
            release => format!("release {release}"),
        };
        let message = format!(
            "gate `{name}` is of {release} and understands format {format}, this needs {needs}: it \
             keeps what it has, and stops deciding once that is older than `max_age`; upgrade the \
             gate first"
        );
        let gate = Some(name.clone());
        warned.push(api::Warning { gate, ..review::warning(packed, key, None, message) });
    }
    warned
}

/// The files that apply to the same state.
pub(crate) async fn export(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
) -> Answer<Response> {
    let place = app.bulk.read(&caller).await?;
    let read = app.desk.read(move |store| {
        let _place = place;
        items::service_must_be(store, &name)?;
        let mut spool = Spool::default();
        write_files(store, &name, &mut spool)?;
        Ok((spool, store.head()?))
    });
    let (spool, head) = read.await?;
    let mut response = spool.into_response();
    if let Ok(tag) = HeaderValue::from_str(&etag(head)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Rows read at once; each may have a MiB.
const PAGE: usize = 100;

/// Writes all files; the entities one by one, as there may be millions.
fn write_files(store: &dyn Reading, name: &str, spool: &mut Spool) -> Result<(), StoreError> {
    let mut found = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Key | Kind::Entity)) {
        all_of(store, name, kind, |row| {
            found.push(decoded(row)?);
            Ok(())
        })?;
    }
    for row in store.sourced(name)? {
        found.push(decoded(row)?);
    }
    let mut files = bundle::render(name, &found);
    drop(found);
    let head = store.head()?;
    if let Some(settings) = files.get_mut(bundle::SERVICE_FILE) {
        settings.insert_str(0, &format!("# revision {head}\n"));
    }
    spool.with(|out| {
        write!(out, "{{\"service\":")?;
        out.json(&name)?;
        write!(out, ",\"revision\":{head},\"files\":{{")?;
        for (at, (file, text)) in files.iter().enumerate() {
            write!(out, "{}", if at > 0 { "," } else { "" })?;
            out.json(file)?;
            write!(out, ":")?;
            out.json(text)?;
        }
        Ok(())
    })?;
    let [open, between, close] = bundle::ENTITIES_LIST;
    let mut is_first = true;
    all_of(store, name, Kind::Entity, |row| {
        // Canonical JSON is a text.
        let body = String::from_utf8(row.body)
            .map_err(|e| StoreError::Corrupt { what: keepgate_observe::chain(&e) })?;
        spool.with(|out| {
            if std::mem::replace(&mut is_first, false) {
                let comma = if files.is_empty() { "" } else { "," };
                write!(out, "{comma}\"{}\":\"", bundle::ENTITIES_FILE)?;
                out.text(open)?;
            } else {
                out.text(between)?;
            }
            out.text(&body)
        })
    })?;
    spool.with(|out| {
        if !is_first {
            out.text(close)?;
            write!(out, "\"")?;
        }
        write!(out, "}}}}")
    })
}

/// Visits all items of a kind, page by page, at one revision.
pub(crate) fn all_of(
    store: &dyn Reading,
    service: &str,
    kind: Kind,
    mut visit: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let rows = store.list(service, kind, &after, PAGE)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after.clone_from(&last.key.id);
        let is_last = rows.len() < PAGE;
        rows.into_iter().try_for_each(&mut visit)?;
        if is_last {
            return Ok(());
        }
    }
}

fn decoded(row: Row) -> Result<Item, StoreError> {
    Ok(Item::decode(row.key, &row.body)?)
}

/// How many items each scope has.
fn items_of_scopes(store: &dyn Reading) -> Result<BTreeMap<String, u64>, StoreError> {
    Ok(store.scopes()?.into_iter().map(|scope| (scope.service, scope.items)).collect())
}

/// What a service has. When its grants end is told by the world, which indexes that.
///
/// A store counts a kind row by row, and there may be a million entities: they are what the whole scope,
/// whose number is kept, has beyond all other kinds.
fn summary(
    store: &dyn Reading,
    items: &BTreeMap<String, u64>,
    world: &World,
    name: &str,
) -> Result<ServiceSummary, Refusal> {
    let mut others = BTreeMap::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Entity) {
        others.insert(kind, store.count(name, kind)?);
    }
    let count = |kind| others.get(&kind).copied().unwrap_or_default();
    let whole = items.get(name).copied().unwrap_or_default();
    let view = world.service(name);
    Ok(ServiceSummary {
        ending_grants: view.map_or(0, |view| view.ending_grants() as u64),
        next_end_unix_s: view.and_then(|view| view.next_end(keepgate_observe::unix_s())),
        name: name.to_owned(),
        policies: count(Kind::Policy),
        templates: count(Kind::Template),
        links: count(Kind::Link),
        grants: count(Kind::Grant),
        entities: whole.saturating_sub(others.values().sum::<u64>()),
        routes: count(Kind::Route),
        keys: count(Kind::Key),
        limits: count(Kind::Limit),
        plans: count(Kind::Plan),
        schema: count(Kind::Schema) > 0,
    })
}

pub(crate) async fn list(
    State(app): State<App>,
    Args(page): Args<Page>,
) -> Answer<Out<api::Services>> {
    let head = app.desk.head();
    let names: Vec<String> = head.services.keys().cloned().collect();
    let (names, next) = page.cut(names, |name| name);
    let (revision, services) = app
        .desk
        .read(move |store| {
            let items = items_of_scopes(store)?;
            let mut services = Vec::new();
            for name in names {
                services.push(summary(store, &items, &head.world, &name)?);
            }
            Ok((store.head()?, services))
        })
        .await?;
    Ok(Out(api::Services { revision: revision.0, services, next }))
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(name): Params<String>,
) -> Answer<Out<api::Service<Value>>> {
    let head = app.desk.head();
    let answer = app
        .desk
        .read(move |store| {
            let key = ItemKey::service(&name);
            let row = store.item(&key)?.ok_or_else(|| Refusal::no_service(&name))?;
            let settings: Value = row.parsed()?;
            let summary = summary(store, &items_of_scopes(store)?, &head.world, &name)?;
            Ok(api::Service { summary, settings, revision: row.revision.0 })
        })
        .await?;
    Ok(Out(answer))
}

/// Creates a service or replaces its settings; all else of it stays.
pub(crate) async fn put(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    condition: Condition,
    Json(body): Json<Value>,
) -> Answer<Out<Changed>> {
    if !is_service_name(&name) {
        return Err(Problem::bad_request(format!("`{name}` cannot name a service")));
    }
    items::put(&app, &caller, ItemKey::service(&name), condition, body).await
}

/// Deletes the service with all that belongs to it and all that its apply brought.
pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
) -> Answer<Out<Changed>> {
    let plan = move |store: &dyn Reading| {
        items::service_must_be(store, &name)?;
        let mut steps: Vec<Step> = Vec::new();
        for row in store.sourced(&name)? {
            steps.extend(Step::new(&row.key, Some(&row), None));
        }
        store.each(&name, &mut |row| {
            steps.extend(Step::new(&row.key, Some(&row), None));
            Ok(())
        })?;
        Ok(steps.into())
    };
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let way = Way { place: Some(app.bulk.enter(&caller, false).await?), ..Way::default() };
    let outcome = items::land_bulk(&app, &caller, "service.delete", way, work, plan).await?;
    Ok(Out(items::changed(&outcome)))
}

pub(crate) async fn fetch_schema(
    State(app): State<App>,
    Params(name): Params<String>,
) -> Answer<Response> {
    items::fetch(&app, ItemKey::schema(&name)).await
}

pub(crate) async fn put_schema(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    condition: Condition,
    Json(body): Json<Value>,
) -> Answer<Out<Changed>> {
    items::put(&app, &caller, ItemKey::schema(&name), condition, body).await
}

pub(crate) async fn delete_schema(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    condition: Condition,
) -> Answer<Out<Changed>> {
    items::delete(&app, &caller, ItemKey::schema(&name), condition).await
}
