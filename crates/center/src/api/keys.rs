//! API keys of a service's callers: made here, shown once, stored hashed, followed by gates.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use keepgate_policy::model::KeyBody;
use keepgate_policy::{Change, Item, ItemBody, ItemKey, Kind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{Args, Condition, Json, Page, Params, UidInput};
use super::problem::Problem;
use super::{Answer, App, items};
use crate::access::Caller;
use crate::desk::{Plan, Refusal};
use crate::store::StoreError;
use crate::token;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    principal: UidInput,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    expires_unix_s: Option<u64>,
    #[serde(default)]
    note: String,
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    Json(asked): Json<NewKey>,
) -> Answer<(StatusCode, Out<Value>)> {
    let minted = mint()?;
    let item = Item {
        key: ItemKey::new(&service, Kind::Key, &minted.id),
        body: ItemBody::Key(KeyBody {
            prefix: minted.id.clone(),
            sha256: token::hex(&minted.sha256),
            principal: asked.principal.uid("principal")?,
            plan: asked.plan,
            expires_unix_s: asked.expires_unix_s,
            note: asked.note,
        }),
    };
    let outcome = items::edit(&app, &caller, "key.create", move |store, _| {
        items::service_must_be(store, &service)?;
        Ok(Plan { changes: vec![Change::Put(item)], ..Plan::default() })
    })
    .await?;
    let answer = json!({ "prefix": minted.id, "key": minted.text, "revision": outcome.revision });
    Ok((StatusCode::CREATED, Out(answer)))
}

fn mint() -> Answer<token::Minted> {
    token::mint("kgk").map_err(|e| {
        tracing::error!(error = %e, "no key was made");
        Problem::internal()
    })
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(service): Params<String>,
    Args(page): Args<Page>,
) -> Answer<Out<Value>> {
    let limit = page.limit();
    let (revision, mut rows) = app
        .desk
        .read(move |store| {
            items::service_must_be(store, &service)?;
            let rows = store.list(&service, Kind::Key, &page.after, limit + 1)?;
            Ok((store.head()?, rows))
        })
        .await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = more.then(|| rows.last().map(|row| row.key.id.clone())).flatten();
    let keys = rows.iter().map(items::body).collect::<Answer<Vec<_>>>()?;
    let mut answer = json!({ "revision": revision, "keys": keys });
    if let (Some(next), Some(answer)) = (next, answer.as_object_mut()) {
        answer.insert("next".to_owned(), json!(next));
    }
    Ok(Out(answer))
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Params((service, prefix)): Params<(String, String)>,
) -> Answer<Response> {
    items::fetch(&app, ItemKey::new(&service, Kind::Key, &prefix)).await
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params((service, prefix)): Params<(String, String)>,
    condition: Condition,
) -> Answer<Out<Value>> {
    items::delete(&app, &caller, ItemKey::new(&service, Kind::Key, &prefix), condition).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    /// How long the old key goes on working.
    #[serde(default)]
    overlap_s: u64,
}

/// A new key for the same caller; the old one expires after the overlap (never later than it
/// would have).
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params((service, prefix)): Params<(String, String)>,
    Json(asked): Json<Rotate>,
) -> Answer<(StatusCode, Out<Value>)> {
    let minted = mint()?;
    let (id, sha256) = (minted.id.clone(), token::hex(&minted.sha256));
    let now_s = crate::desk::unix_ms() / 1000;
    let outcome = items::edit(&app, &caller, "key.rotate", move |store, _| {
        let key = ItemKey::new(&service, Kind::Key, &prefix);
        let row = store.item(&key)?.ok_or_else(|| Refusal::missing(&key))?;
        let mut old: KeyBody = serde_json::from_slice(&row.body)
            .map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
        let new = KeyBody { prefix: id.clone(), sha256, ..old.clone() };
        let ends = now_s.saturating_add(asked.overlap_s);
        old.expires_unix_s = Some(old.expires_unix_s.map_or(ends, |before| before.min(ends)));
        let new_key = ItemKey::new(&service, Kind::Key, &id);
        let changes = vec![
            Change::Put(Item { key, body: ItemBody::Key(old) }),
            Change::Put(Item { key: new_key, body: ItemBody::Key(new) }),
        ];
        Ok(Plan { changes, ..Plan::default() })
    })
    .await?;
    let answer = json!({ "prefix": minted.id, "key": minted.text, "revision": outcome.revision });
    Ok((StatusCode::CREATED, Out(answer)))
}
