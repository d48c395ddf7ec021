//! Taking a role or an entity away, with all that hangs on it.
//!
//! What hangs on it: memberships on either side, grants and links to it or on it, API keys of it, its
//! place among the parents of others, its other items of the same name, and policies that never apply
//! without it. A policy that forbids, or that also applies to others, stays: to take it away would
//! permit more, or take from others. It is named in the answer.
//!
//! INVARIANT: after a deletion nothing but what the answer names says anything about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Out;
use keepgate_api::{self as api, Changed};
use keepgate_policy::model::{EntityBody, GrantBody};
use keepgate_policy::{Encoded, Item, ItemBody, ItemKey, Kind, Naming, Uid};
use serde::Deserialize;
use serde_json::Value;

use super::input::Condition;
use super::items::{Way, action, changed, land_bulk, named, service_must_be};
use super::{Answer, App};
use crate::access::{self, Caller, Write};
use crate::desk::{Anew, EditProblem, Refusal, Step, Work};
use crate::store::{Reading, Row, StoreError};

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cascade {
    /// All that hangs on it goes with it.
    #[serde(default)]
    cascade: bool,
}

/// Things that a refusal names, and items that the answer names as still naming it.
const TOLD: usize = 1_000;

/// Deletes an entity or a role.
pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    key: ItemKey,
    condition: Condition,
    Cascade { cascade }: Cascade,
) -> Answer<Out<Changed>> {
    let uid = super::input::path_uid(&key.id)?;
    let still_named = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (action, told) = (action(key.kind, "delete"), Arc::clone(&still_named));
    let (by, head) = (caller.clone(), app.desk.head());
    let plan = move |store: &dyn Reading| {
        // First: who may not delete it is not told what hangs on it.
        let deletion = std::iter::once(Ok(Write::deletion(&key)));
        access::check_writes(&by, store, &head.world, deletion)?;
        condition.check(store, &key)?;
        if !key.service.is_empty() {
            service_must_be(store, &key.service)?;
        }
        let mut hanging = Hanging::of(store, &key, &uid)?;
        let row = store.item(&key)?;
        if row.is_none() && hanging.changes.is_empty() {
            return Err(Refusal::missing(&key));
        }
        if !cascade && !hanging.changes.is_empty() {
            return Err(hanging.refusal(&key));
        }
        let mut named = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *named = std::mem::take(&mut hanging.stays);
        let mut steps: Vec<Step> = hanging
            .changes
            .into_values()
            .filter_map(|change| {
                Step::new(&change.row.key, Some(&change.row), change.after.as_ref())
            })
            .collect();
        steps.extend(Step::new(&key, row.as_ref(), None));
        steps.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(steps.into())
    };
    let work = Arc::new(Work::default());
    let _watch = work.watch();
    let place = Some(app.bulk.enter(caller, true).await?);
    // Whatever is put meanwhile may hang on it, too.
    let way = Way { anew: Anew::Any, place, ..Way::default() };
    let outcome = land_bulk(app, caller, action, way, work, plan).await?;
    let mut still_named = still_named.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Out(Changed { still_named: std::mem::take(&mut still_named), ..changed(&outcome) }))
}

/// What becomes of an item that hangs on another.
struct Change {
    row: Row,
    /// None: it goes.
    after: Option<Arc<Encoded>>,
    /// What it has to do with it.
    why: &'static str,
}

/// What hangs on an entity.
#[derive(Default)]
struct Hanging {
    changes: BTreeMap<ItemKey, Change>,
    stays: Vec<api::ItemName>,
}

impl Hanging {
    /// On an item of the directory everything may hang; on one of a service, what that service has.
    fn of(store: &dyn Reading, key: &ItemKey, uid: &Uid) -> Result<Hanging, Refusal> {
        let mut found = Hanging::default();
        let look = Look { store, uid, of: key, needle: needle(uid) };
        if key.service.is_empty() {
            look.directory(&mut found)?;
            for scope in store.scopes()?.iter().filter(|scope| !scope.service.is_empty()) {
                look.service(&scope.service, &mut found)?;
            }
        } else {
            look.service(&key.service, &mut found)?;
        }
        Ok(found)
    }

    fn goes(&mut self, row: Row, why: &'static str) {
        self.changes.insert(row.key.clone(), Change { row, after: None, why });
    }

    fn becomes(&mut self, row: Row, item: &Item, why: &'static str) {
        let after = Some(Arc::new(Encoded::of(item)));
        self.changes.insert(row.key.clone(), Change { row, after, why });
    }

    fn stays(&mut self, key: &ItemKey) {
        if self.stays.len() < TOLD {
            self.stays.push(named(key));
        }
    }

    fn refusal(&self, key: &ItemKey) -> Refusal {
        let problem = |(key, change): (&ItemKey, &Change)| EditProblem::of(key, change.why);
        Refusal::Hanging {
            key: key.clone(),
            count: self.changes.len(),
            first: self.changes.iter().take(TOLD).map(problem).collect(),
        }
    }
}

/// How an id stands in canonical JSON, without its quotes.
fn needle(uid: &Uid) -> String {
    let text = Value::from(uid.id.as_str()).to_string();
    text.trim_matches('"').to_owned()
}

struct Look<'a> {
    store: &'a dyn Reading,
    uid: &'a Uid,
    /// What is deleted.
    of: &'a ItemKey,
    needle: String,
}

impl Look<'_> {
    fn directory(&self, found: &mut Hanging) -> Result<(), StoreError> {
        for key in [ItemKey::role(self.uid), ItemKey::entity("", self.uid)] {
            if key != *self.of
                && let Some(row) = self.store.item(&key)?
            {
                found.goes(row, "it is the same by name, as another kind of item");
            }
        }
        self.each("", Kind::Member, |row, item| {
            let ItemBody::Member(member) = &item.body else { return };
            if member.role == *self.uid {
                found.goes(row, "it is a membership in it");
            } else if member.member == *self.uid {
                found.goes(row, "it is a membership of it");
            }
        })?;
        self.entities("", found)
    }

    fn service(&self, service: &str, found: &mut Hanging) -> Result<(), StoreError> {
        let key = ItemKey::entity(service, self.uid);
        if key != *self.of
            && let Some(row) = self.store.item(&key)?
        {
            found.goes(row, "it is the same by name, as an entity of a service");
        }
        self.entities(service, found)?;
        self.each(service, Kind::Grant, |row, item| {
            let ItemBody::Grant(grant) = &item.body else { return };
            if grant.principal == *self.uid {
                found.goes(row, "it grants to it");
            } else if grant.resource.as_ref() == Some(self.uid) {
                found.goes(row, "it grants on it");
            } else if grant.actions.contains(self.uid) {
                self.action_granted(row, &item, grant, found);
            }
        })?;
        self.each(service, Kind::Key, |row, item| {
            if matches!(&item.body, ItemBody::Key(key) if key.principal == *self.uid) {
                found.goes(row, "it is an API key of it");
            }
        })?;
        for kind in [Kind::Policy, Kind::Template] {
            self.policies(service, kind, found)?;
        }
        self.each_link(service, found)
    }

    fn action_granted(&self, row: Row, item: &Item, grant: &GrantBody, found: &mut Hanging) {
        let mut grant = grant.clone();
        grant.actions.retain(|action| action != self.uid);
        // No action is any action: a grant of this one alone goes.
        if grant.actions.is_empty() {
            return found.goes(row, "it grants it, and nothing else");
        }
        let item = Item { key: item.key.clone(), body: ItemBody::Grant(grant) };
        found.becomes(row, &item, "it grants it among others");
    }

    fn entities(&self, service: &str, found: &mut Hanging) -> Result<(), StoreError> {
        self.each(service, Kind::Entity, |row, item| {
            let ItemBody::Entity(entity) = &item.body else { return };
            if entity.uid == *self.uid {
                return;
            }
            if self.is_named(entity) {
                found.stays(&row.key);
            }
            if entity.parents.contains(self.uid) {
                let mut entity = entity.clone();
                entity.parents.retain(|parent| parent != self.uid);
                let item = Item { key: item.key.clone(), body: ItemBody::Entity(entity) };
                found.becomes(row, &item, "it is in it, as an entity with this parent");
            }
        })
    }

    /// Whether an attribute or a tag of an entity names it.
    fn is_named(&self, entity: &EntityBody) -> bool {
        let mut open: Vec<&Value> = entity.attrs.values().chain(entity.tags.values()).collect();
        while let Some(value) = open.pop() {
            match value {
                Value::Array(values) => open.extend(values),
                Value::Object(fields) => {
                    let text = |name: &str| fields.get(name).and_then(Value::as_str);
                    if text("type") == Some(&self.uid.kind) && text("id") == Some(&self.uid.id) {
                        return true;
                    }
                    open.extend(fields.values());
                }
                _ => {}
            }
        }
        false
    }

    fn policies(&self, service: &str, kind: Kind, found: &mut Hanging) -> Result<(), StoreError> {
        self.store.each_of(service, kind, &mut |row| {
            let item = decoded(&row)?;
            let (ItemBody::Policy(policy) | ItemBody::Template(policy)) = &item.body else {
                return Ok(());
            };
            // An id may be written with escapes.
            if !policy.text.contains(&self.uid.id) && !policy.text.contains('\\') {
                return Ok(());
            }
            match Naming::of(&policy.text) {
                Ok(naming) if naming.permits && naming.bound.contains(self.uid) => {
                    found.goes(row, "it is a policy that permits nothing without it");
                }
                Ok(naming) if naming.named.contains(self.uid) => found.stays(&row.key),
                // What cannot be read may name it.
                Err(_) => found.stays(&row.key),
                Ok(_) => {}
            }
            Ok(())
        })
    }

    /// Links to it or on it, and those of templates that go.
    fn each_link(&self, service: &str, found: &mut Hanging) -> Result<(), StoreError> {
        self.store.each_of(service, Kind::Link, &mut |row| {
            let item = decoded(&row)?;
            let ItemBody::Link(link) = &item.body else { return Ok(()) };
            let template = ItemKey::template(service, &link.template);
            let names_it = [&link.principal, &link.resource].into_iter().flatten();
            if found.changes.get(&template).is_some_and(|change| change.after.is_none()) {
                found.goes(row, "it is a link of a template that names it");
            } else if names_it.into_iter().any(|uid| uid == self.uid) {
                if self.forbids(&template)? {
                    found.stays(&row.key);
                } else {
                    found.goes(row, "it is a link of a template to it");
                }
            }
            Ok(())
        })
    }

    /// Whether a template forbids, or cannot be read.
    fn forbids(&self, key: &ItemKey) -> Result<bool, StoreError> {
        let Some(row) = self.store.item(key)? else { return Ok(false) };
        let ItemBody::Template(template) = decoded(&row)?.body else { return Ok(false) };
        Ok(Naming::of(&template.text).map_or(true, |naming| !naming.permits))
    }

    /// The items of a kind whose body has the id somewhere.
    fn each(
        &self,
        service: &str,
        kind: Kind,
        mut visit: impl FnMut(Row, Item),
    ) -> Result<(), StoreError> {
        self.store.each_of(service, kind, &mut |row| {
            let has_id =
                std::str::from_utf8(&row.body).is_ok_and(|body| body.contains(&self.needle));
            if has_id {
                let item = decoded(&row)?;
                visit(row, item);
            }
            Ok(())
        })
    }
}

fn decoded(row: &Row) -> Result<Item, StoreError> {
    Ok(Item::decode(row.key.clone(), &row.body)?)
}
