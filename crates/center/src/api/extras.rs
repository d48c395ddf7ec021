//! What the files of a service do not hold: the directory but for what they brought, keys and
//! tombstones.

use axum::Extension;
use axum::Json as Out;
use axum::extract::State;
use keepgate_policy::{Item, ItemBody, Kind};
use serde_json::{Value, json};

use super::input::Params;
use super::{Answer, App, items};
use crate::access::{Caller, Permission};
use crate::desk::Refusal;
use crate::store::{Reading, Row, StoreError};

/// Rows of one sort in one answer; a center with more is backed up in place of exported.
const ROWS: usize = 1_000_000;

/// Memberships and roles that no apply of this service brought, the directory's entities, the
/// service's keys (hashes for admins only), and the tombstones of its items and of the directory's.
pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
) -> Answer<Out<Value>> {
    let hashes = caller.may(Permission::Tokens);
    let answer = app.desk.read(move |store| collect(store, &service, hashes)).await?;
    Ok(Out(answer))
}

fn collect(store: &dyn Reading, service: &str, hashes: bool) -> Result<Value, Refusal> {
    items::service_must_be(store, service)?;
    let (mut members, mut roles, mut entities) = (Vec::new(), Vec::new(), Vec::new());
    let mut keys = Vec::new();
    let mut complete = true;
    for kind in [Kind::Role, Kind::Member, Kind::Entity] {
        for row in listed(store, "", kind, &mut complete)? {
            if row.source == service {
                continue;
            }
            match decoded(Item::decode(row.key, &row.body))?.body {
                ItemBody::Member(body) => members.push(json!({
                    "member": body.member.to_string(),
                    "role": body.role.to_string(),
                    "source": body.source,
                })),
                ItemBody::Role(body) => roles.push(json!({
                    "role": body.uid.to_string(),
                    "description": body.description,
                    "source": body.source,
                })),
                ItemBody::Entity(body) => entities.push(json!(body)),
                _ => {}
            }
        }
    }
    for row in listed(store, service, Kind::Key, &mut complete)? {
        let mut key: Value = serde_json::from_slice(&row.body).unwrap_or_default();
        if !hashes && let Some(fields) = key.as_object_mut() {
            fields.remove("sha256");
        }
        keys.push(key);
    }
    let mut tombstones = Vec::new();
    store.tombstones(&mut |row| {
        if !row.key.service.is_empty() && row.key.service != service {
            return Ok(());
        }
        complete &= tombstones.len() < ROWS;
        if tombstones.len() < ROWS {
            tombstones.push(json!({
                "service": row.key.service,
                "kind": row.key.kind,
                "id": row.key.id,
                "revision": row.revision,
                "unix_ms": row.unix_ms,
                "actor": row.actor,
                "action": row.action,
            }));
        }
        Ok(())
    })?;
    let head = store.head()?;
    Ok(json!({
        "service": service,
        "revision": head,
        "complete": complete,
        "members": members,
        "roles": roles,
        "entities": entities,
        "keys": keys,
        "tombstones": tombstones,
    }))
}

/// At most [`ROWS`]; if there are more, it is not complete.
fn listed(
    store: &dyn Reading,
    service: &str,
    kind: Kind,
    complete: &mut bool,
) -> Result<Vec<Row>, StoreError> {
    let mut rows = store.list(service, kind, "", ROWS + 1)?;
    *complete &= rows.len() <= ROWS;
    rows.truncate(ROWS);
    Ok(rows)
}

fn decoded(item: Result<Item, keepgate_policy::item::DecodeError>) -> Result<Item, StoreError> {
    item.map_err(|e| StoreError::Corrupt { what: keepgate_observe::chain(&e) })
}
