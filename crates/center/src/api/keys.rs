//! API keys of a service's callers: made here, shown once, stored hashed, followed by gates.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use keepgate_api as api;
use keepgate_policy::model::KeyBody;
use keepgate_policy::{Change, Item, ItemBody, ItemKey, Kind, Revision};

use super::input::{Args, Condition, Json, Page, Params, told, uid};
use super::writes::told_once;
use super::{Answer, App, items, tokens};
use crate::access::Caller;
use crate::desk::{EditPlan, Refusal};
use crate::store::StoreError;
use crate::token;

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
    Json(asked): Json<api::NewKey>,
) -> Answer<(StatusCode, Out<api::MadeKey>)> {
    let minted = tokens::mint("kgk")?;
    let item = Item {
        key: ItemKey::new(&service, Kind::Key, &minted.id),
        body: ItemBody::Key(KeyBody {
            prefix: minted.id.clone(),
            sha256: token::hex(&minted.sha256),
            principal: uid(asked.principal, "principal")?,
            plan: asked.plan,
            expires_unix_s: asked.expires_unix_s,
            note: asked.note,
        }),
    };
    let outcome = items::edit(&app, &caller, "key.create", move |store, _| {
        items::service_must_be(store, &service)?;
        Ok(EditPlan { changes: vec![Change::Put(item)], ..EditPlan::default() })
    })
    .await?;
    told_once(&outcome)?;
    Ok(made(minted, outcome.revision))
}

fn made(minted: token::Minted, revision: Revision) -> (StatusCode, Out<api::MadeKey>) {
    let (prefix, key) = (minted.id, minted.text);
    (StatusCode::CREATED, Out(api::MadeKey { prefix, key, revision: revision.0 }))
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(service): Params<String>,
    Args(page): Args<Page>,
) -> Answer<Out<api::Keys>> {
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
    let keys = rows.iter().map(|row| shown(&row.body, false)).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(Refusal::from)?;
    Ok(Out(api::Keys { revision: revision.0, keys, next }))
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
) -> Answer<Out<api::Changed>> {
    items::delete(&app, &caller, ItemKey::new(&service, Kind::Key, &prefix), condition).await
}

/// A new key for the same caller, with a term of its own; the old one expires after the overlap
/// (never later than it would have).
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params((service, prefix)): Params<(String, String)>,
    Json(asked): Json<api::Rotate>,
) -> Answer<(StatusCode, Out<api::MadeKey>)> {
    tokens::check_rotation(&asked)?;
    let minted = tokens::mint("kgk")?;
    let (id, sha256) = (minted.id.clone(), token::hex(&minted.sha256));
    let now_s = keepgate_observe::unix_s();
    let outcome = items::edit(&app, &caller, "key.rotate", move |store, _| {
        let key = ItemKey::new(&service, Kind::Key, &prefix);
        let row = store.item(&key)?.ok_or_else(|| Refusal::missing(&key))?;
        let mut old: KeyBody = row.parsed()?;
        // A key is not changed between its making and its first rotation.
        let created = store.revision(row.revision)?.map(|made| made.unix_ms / 1000);
        let term = tokens::new_term(&asked, created, old.expires_unix_s, now_s);
        let expires_unix_s = term.map_err(Refusal::Unfit)?;
        let new = KeyBody { prefix: id.clone(), sha256, expires_unix_s, ..old.clone() };
        let ends = now_s.saturating_add(asked.overlap_s);
        old.expires_unix_s = Some(old.expires_unix_s.map_or(ends, |before| before.min(ends)));
        let new_key = ItemKey::new(&service, Kind::Key, &id);
        let changes = vec![
            Change::Put(Item { key, body: ItemBody::Key(old) }),
            Change::Put(Item { key: new_key, body: ItemBody::Key(new) }),
        ];
        Ok(EditPlan { changes, ..EditPlan::default() })
    })
    .await?;
    told_once(&outcome)?;
    Ok(made(minted, outcome.revision))
}

/// A stored key as answers show it; its hash is of no use to most readers.
pub(crate) fn shown(body: &[u8], with_hash: bool) -> Result<api::Key, StoreError> {
    let key: KeyBody =
        serde_json::from_slice(body).map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
    Ok(api::Key {
        prefix: key.prefix,
        sha256: with_hash.then_some(key.sha256),
        principal: told(key.principal),
        plan: key.plan,
        expires_unix_s: key.expires_unix_s,
        note: key.note,
    })
}
