//! Services as wholes: apply, export, list, delete; their settings and schema.

use std::collections::BTreeMap;

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use axum::response::Response;
use keepgate_policy::service::is_service_name;
use keepgate_policy::{Change, Item, ItemKey, Kind, bundle, spelling};
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{APPLY_BODY, Args, Condition, Json, Params};
use super::items;
use super::problem::Problem;
use super::{Answer, App};
use crate::access::Caller;
use crate::desk::{Plan, Problem as Located, Refusal};
use crate::store::{Reading, Row, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyArgs {
    #[serde(default)]
    dry_run: bool,
}

/// Replaces everything that the service's files say, as one revision. Keys are not in files
/// and stay; so do roles and memberships that someone else brought.
pub(crate) async fn apply(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    Args(args): Args<ApplyArgs>,
    Json(Files { files }): Json<Files, APPLY_BODY>,
) -> Answer<Out<Value>> {
    // A large OpenAPI document takes a while to read: not on the runtime's threads.
    let parsed = tokio::task::spawn_blocking(move || bundle::parse(&files)).await;
    let bundle = match parsed {
        Ok(Ok(bundle)) => bundle,
        Ok(Err(errors)) => {
            let located = errors.into_iter().map(Located::from).collect();
            return Err(Problem::invalid(located));
        }
        Err(_) => return Err(Problem::internal()),
    };
    if bundle.service != name {
        let message = format!("it names service `{}`, the request `{name}`", bundle.service);
        return Err(Problem::invalid(vec![Located::in_file("service.toml", message)]));
    }
    let places = bundle.places;
    let items = bundle.items;
    // Large services take a while to look at: not on the runtime's threads.
    let (items, warnings) = if args.dry_run {
        let look = tokio::task::spawn_blocking(move || {
            let warnings = spelling::warnings(&items);
            (items, warnings)
        });
        look.await.map_err(|_| Problem::internal())?
    } else {
        (items, Vec::new())
    };
    let warnings: Vec<Value> = warnings.iter().map(|w| warning(w, &places)).collect();
    let outcome = items::try_land(&app, &caller, "apply", args.dry_run, move |store, _| {
        let changes = replace(store, &name, items)?;
        Ok(Plan { changes, ..Plan::default() })
    })
    .await
    .map_err(|refusal| match refusal {
        Refusal::Invalid(problems) => {
            Problem::invalid(problems.into_iter().map(|problem| problem.placed(&places)).collect())
        }
        refusal => refusal.into(),
    })?;
    let mut answer = json!({
        "revision": outcome.revision,
        "dry_run": args.dry_run,
        "changes": items::changes(&outcome),
    });
    if let (false, Some(members)) = (warnings.is_empty(), answer.as_object_mut()) {
        members.insert("warnings".to_owned(), Value::Array(warnings));
    }
    Ok(Out(answer))
}

/// A warning, with its file and line where it is from one.
fn warning(warning: &spelling::Warning, places: &BTreeMap<ItemKey, bundle::Place>) -> Value {
    let mut shown = json!({ "id": warning.key.id, "message": warning.message });
    if let (Some(place), Some(members)) = (places.get(&warning.key), shown.as_object_mut()) {
        members.insert("file".to_owned(), json!(place.file));
        members.insert("line".to_owned(), json!(place.line));
    }
    shown
}

/// From what is stored to what the files say.
fn replace(store: &dyn Reading, name: &str, wanted: Vec<Item>) -> Result<Vec<Change>, Refusal> {
    let mut wanted: BTreeMap<ItemKey, Item> =
        wanted.into_iter().map(|item| (item.key.clone(), item)).collect();
    let mut changes = Vec::new();
    let mut gone = Vec::new();
    store.each(name, &mut |row| {
        if row.key.kind != Kind::Key && !wanted.contains_key(&row.key) {
            gone.push(row.key);
        }
        Ok(())
    })?;
    for row in store.sourced(name)? {
        if !wanted.contains_key(&row.key) {
            gone.push(row.key);
        }
    }
    // What is in the directory by another hand stays as it is.
    let mut others = Vec::new();
    for key in wanted.keys().filter(|key| key.service.is_empty()) {
        if store.item(key)?.is_some_and(|row| row.source != name) {
            others.push(key.clone());
        }
    }
    for key in others {
        wanted.remove(&key);
    }
    changes.extend(gone.into_iter().map(Change::Delete));
    changes.extend(wanted.into_values().map(Change::Put));
    Ok(changes)
}

/// The files that apply to the same state.
pub(crate) async fn export(
    State(app): State<App>,
    Params(name): Params<String>,
) -> Answer<Out<Value>> {
    let service = name.clone();
    let found = app
        .desk
        .read(move |store| {
            items::service_must_be(store, &service)?;
            let mut found = Vec::new();
            store.each(&service, &mut |row| {
                if row.key.kind != Kind::Key {
                    found.push(decoded(row)?);
                }
                Ok(())
            })?;
            for row in store.sourced(&service)? {
                found.push(decoded(row)?);
            }
            Ok(found)
        })
        .await?;
    let files = bundle::render(&name, &found);
    Ok(Out(json!({ "service": name, "files": files })))
}

fn decoded(row: Row) -> Result<Item, StoreError> {
    Item::decode(row.key, &row.body).map_err(|e| StoreError::Corrupt { what: crate::chain(&e) })
}

/// What a list counts.
const COUNTED: [(&str, Kind); 9] = [
    ("policies", Kind::Policy),
    ("templates", Kind::Template),
    ("links", Kind::Link),
    ("grants", Kind::Grant),
    ("entities", Kind::Entity),
    ("routes", Kind::Route),
    ("keys", Kind::Key),
    ("limits", Kind::Limit),
    ("plans", Kind::Plan),
];

fn summary(store: &dyn Reading, name: &str) -> Result<Value, Refusal> {
    let mut line = serde_json::Map::new();
    line.insert("name".to_owned(), json!(name));
    for (plural, kind) in COUNTED {
        line.insert(plural.to_owned(), json!(store.count(name, kind)?));
    }
    let schema = store.item(&ItemKey::schema(name))?.is_some();
    line.insert("schema".to_owned(), json!(schema));
    Ok(Value::Object(line))
}

pub(crate) async fn list(State(app): State<App>) -> Answer<Out<Value>> {
    let names: Vec<String> = app.desk.head().services.keys().cloned().collect();
    let (revision, services) = app
        .desk
        .read(move |store| {
            let mut services = Vec::new();
            for name in names {
                services.push(summary(store, &name)?);
            }
            Ok((store.head()?, services))
        })
        .await?;
    Ok(Out(json!({ "revision": revision, "services": services })))
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Params(name): Params<String>,
) -> Answer<Out<Value>> {
    let answer = app
        .desk
        .read(move |store| {
            let key = ItemKey::service(&name);
            let row = store.item(&key)?.ok_or_else(|| Refusal::no_service(&name))?;
            let settings: Value = serde_json::from_slice(&row.body)
                .map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
            let mut answer = summary(store, &name)?;
            if let Some(fields) = answer.as_object_mut() {
                fields.insert("settings".to_owned(), settings);
                fields.insert("revision".to_owned(), json!(row.revision));
            }
            Ok(answer)
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
) -> Answer<Out<Value>> {
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
) -> Answer<Out<Value>> {
    let outcome = items::edit(&app, &caller, "service.delete", move |store, _| {
        items::service_must_be(store, &name)?;
        let mut gone = Vec::new();
        store.each(&name, &mut |row| {
            gone.push(row.key);
            Ok(())
        })?;
        gone.extend(store.sourced(&name)?.into_iter().map(|row| row.key));
        Ok(Plan { changes: gone.into_iter().map(Change::Delete).collect(), ..Plan::default() })
    })
    .await?;
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
) -> Answer<Out<Value>> {
    items::put(&app, &caller, ItemKey::schema(&name), condition, body).await
}

pub(crate) async fn delete_schema(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(name): Params<String>,
    condition: Condition,
) -> Answer<Out<Value>> {
    items::delete(&app, &caller, ItemKey::schema(&name), condition).await
}
