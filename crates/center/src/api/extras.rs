//! What the files of a service do not hold: the directory but for what they brought, keys and
//! tombstones.

use std::io::{self, Write as _};

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use keepgate_api as api;
use keepgate_policy::model::EntityBody;
use keepgate_policy::{Item, ItemBody, Kind};
use serde::Serialize;

use super::input::Params;
use super::services::all_of;
use super::spool::Spool;
use super::{Answer, App, items, keys};
use crate::access::{Caller, Permission};
use crate::desk::Refusal;
use crate::store::{Reading, Row, StoreError};

/// Memberships and roles that no apply of this service brought, the directory's entities, the
/// service's keys (hashes for admins only), and the tombstones of its items and of the directory's.
pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(service): Params<String>,
) -> Answer<Response> {
    let hashes = caller.may(Permission::Tokens);
    let place = app.bulk.read(&caller).await?;
    let read = app.desk.read(move |store| {
        let _place = place;
        collect(store, &service, hashes)
    });
    Ok(read.await?.into_response())
}

/// Writes them one by one, as there may be millions.
fn collect(store: &dyn Reading, service: &str, hashes: bool) -> Result<Spool, Refusal> {
    items::service_must_be(store, service)?;
    let head = store.head()?;
    let mut spool = Spool::default();
    spool.with(|out| {
        write!(out, "{{\"service\":")?;
        out.json(&service)?;
        write!(out, ",\"revision\":{head}")
    })?;
    for (name, kind) in
        [("members", Kind::Member), ("roles", Kind::Role), ("entities", Kind::Entity)]
    {
        let mut list = List::begun(&mut spool, name)?;
        all_of(store, "", kind, |row| match beside_files(row, service)? {
            Some(shown) => list.add(&shown),
            None => Ok(()),
        })?;
        list.end()?;
    }
    let mut list = List::begun(&mut spool, "keys")?;
    all_of(store, service, Kind::Key, |row| list.add(&keys::shown(&row.body, hashes)?))?;
    list.end()?;
    let mut list = List::begun(&mut spool, "tombstones")?;
    store.tombstones(&mut |row| {
        if !row.key.service.is_empty() && row.key.service != service {
            return Ok(());
        }
        list.add(&api::Tombstone {
            service: row.key.service,
            kind: row.key.kind.as_str().to_owned(),
            id: row.key.id,
            revision: row.revision.0,
            unix_ms: row.unix_ms,
            actor: row.actor,
            action: row.action,
        })
    })?;
    list.end()?;
    spool.with(|out| write!(out, "}}"))?;
    Ok(spool)
}

/// An item of the directory that no file of the service says.
fn beside_files(row: Row, service: &str) -> Result<Option<Shown>, StoreError> {
    if row.source == service {
        return Ok(None);
    }
    let item = Item::decode(row.key, &row.body)?;
    Ok(match item.body {
        ItemBody::Member(body) => Some(Shown::Member(api::ForeignMember {
            member: body.member.to_string(),
            role: body.role.to_string(),
            source: body.source,
            until_unix_s: body.until_unix_s,
        })),
        ItemBody::Role(body) => Some(Shown::Role(api::ForeignRole {
            role: body.uid.to_string(),
            description: body.description,
            source: body.source,
        })),
        ItemBody::Entity(body) => Some(Shown::Entity(body)),
        _ => None,
    })
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Member(api::ForeignMember),
    Role(api::ForeignRole),
    Entity(EntityBody),
}

/// A list that is a member of the answer.
struct List<'a> {
    out: &'a mut Spool,
    is_empty: bool,
}

impl List<'_> {
    fn begun<'a>(out: &'a mut Spool, name: &str) -> Result<List<'a>, StoreError> {
        out.with(|out| write!(out, ",\"{name}\":["))?;
        Ok(List { out, is_empty: true })
    }

    fn add(&mut self, value: &impl Serialize) -> Result<(), StoreError> {
        let comma = if std::mem::replace(&mut self.is_empty, false) { "" } else { "," };
        self.out.with(|out| -> io::Result<()> {
            write!(out, "{comma}")?;
            out.json(value)
        })
    }

    fn end(self) -> Result<(), StoreError> {
        self.out.with(|out| write!(out, "]"))
    }
}
