//! Items to and from their canonical JSON bodies.
//!
//! INVARIANT: `Item::decode(key, item.encode())` is the item, and `encode` of equal items is
//! equal bytes: object keys sorted, no spaces, lists that are sets sorted without repetition.
//! A key that does not belong to its body is refused, so an item cannot be stored under the
//! name of another one.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::is_own_file;
use crate::model::{GrantBody, Item, ItemBody, ItemKey, Kind, MemberBody, Uid};

/// A body that is not what its key says.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is no JSON of the kind's shape.
    #[error("{key}: the body does not parse")]
    Json {
        /// The item.
        key: ItemKey,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The key's id is not the one that the body has.
    #[error("{key}: the body is that of `{body_id}`")]
    Id {
        /// The item.
        key: ItemKey,
        /// The id that follows from the body.
        body_id: String,
    },
    /// The kind does not live in this layer.
    #[error("{key}: {reason}")]
    Layer {
        /// The item.
        key: ItemKey,
        /// Where it belongs.
        reason: &'static str,
    },
}

/// What memberships and grants need that end (see [`Item::needs`]).
pub(crate) const ENDING: u32 = 3;

impl ItemBody {
    /// The kind of item this is a body of.
    pub fn kind(&self) -> Kind {
        match self {
            ItemBody::Service(_) => Kind::Service,
            ItemBody::Schema(_) => Kind::Schema,
            ItemBody::Entity(_) => Kind::Entity,
            ItemBody::Role(_) => Kind::Role,
            ItemBody::Member(_) => Kind::Member,
            ItemBody::Policy(_) => Kind::Policy,
            ItemBody::Template(_) => Kind::Template,
            ItemBody::Link(_) => Kind::Link,
            ItemBody::Grant(_) => Kind::Grant,
            ItemBody::Route(_) => Kind::Route,
            ItemBody::Key(_) => Kind::Key,
            ItemBody::Limit(_) => Kind::Limit,
            ItemBody::Plan(_) => Kind::Plan,
        }
    }

    /// The format of items that a reader must know to take this one: 1 is release 0.1's. An earlier
    /// release refuses members that it does not know, or would enforce the item without them.
    pub fn needs(&self) -> u32 {
        match self {
            ItemBody::Service(settings) => settings.needs(),
            ItemBody::Route(route) => route.needs(),
            ItemBody::Member(MemberBody { until_unix_s: Some(_), .. })
            | ItemBody::Grant(GrantBody { until_unix_s: Some(_), .. }) => ENDING,
            _ => 1,
        }
    }

    /// The id that an item of this body must have; none where the id is free.
    pub fn own_id(&self) -> Option<String> {
        match self {
            ItemBody::Service(_) | ItemBody::Schema(_) => Some(String::new()),
            ItemBody::Entity(body) => Some(body.uid.to_string()),
            ItemBody::Role(body) => Some(body.uid.to_string()),
            ItemBody::Member(body) => Some(format!("{} in {}", body.member, body.role)),
            ItemBody::Route(body) => Some(format!("{} {}", body.method, body.path)),
            ItemBody::Key(body) => Some(body.prefix.clone()),
            ItemBody::Limit(rule) => Some(rule.name.clone()),
            ItemBody::Plan(plan) => Some(plan.name.clone()),
            ItemBody::Policy(_)
            | ItemBody::Template(_)
            | ItemBody::Link(_)
            | ItemBody::Grant(_) => None,
        }
    }
}

impl Item {
    /// The lowest format that understands this item (see [`crate::mark::FORMAT`]): 1 is that of
    /// release 0.1, which refuses settings that it does not know.
    pub fn needs(&self) -> u32 {
        self.body.needs()
    }

    /// An item of the service (the directory if empty) under the id its body has; `id` is used
    /// where the body has none (policies, templates, links, grants).
    pub fn new(service: &str, id: &str, body: ItemBody) -> Item {
        let id = body.own_id().unwrap_or_else(|| id.to_owned());
        Item { key: ItemKey::new(service, body.kind(), id), body }.canonical()
    }

    /// The item with the lists that are sets sorted and without repetition, and the texts of policies
    /// without white space around them and without the file that follows from the id.
    #[must_use]
    pub fn canonical(mut self) -> Item {
        match &mut self.body {
            ItemBody::Entity(body) => {
                body.parents.sort();
                body.parents.dedup();
            }
            ItemBody::Grant(body) => {
                body.actions.sort();
                body.actions.dedup();
            }
            ItemBody::Policy(body) | ItemBody::Template(body) => {
                if body.text.trim().len() < body.text.len() {
                    body.text = body.text.trim().to_owned();
                }
                if !body.file.is_empty() && is_own_file(&body.file, &self.key.id) {
                    body.file.clear();
                }
            }
            _ => {}
        }
        self
    }

    /// The body as canonical JSON.
    pub fn encode(&self) -> Vec<u8> {
        match &self.body {
            ItemBody::Service(body) => canonical_json(body),
            ItemBody::Schema(body) => canonical_json(body),
            ItemBody::Entity(body) if !is_strictly_sorted(&body.parents) => {
                self.clone().canonical().encode()
            }
            // The common entity and membership are written as they are: they come in millions.
            ItemBody::Entity(body) if body.attrs.is_empty() && body.tags.is_empty() => {
                sorted_json(&PlainEntity {
                    attrs: BTreeMap::new(),
                    parents: body.parents.iter().map(PlainUid::from).collect(),
                    uid: (&body.uid).into(),
                })
            }
            ItemBody::Entity(body) => canonical_json(body),
            ItemBody::Role(body) => canonical_json(body),
            ItemBody::Policy(body) | ItemBody::Template(body)
                if body.text.trim().len() < body.text.len()
                    || (!body.file.is_empty() && is_own_file(&body.file, &self.key.id)) =>
            {
                self.clone().canonical().encode()
            }
            ItemBody::Member(body) => sorted_json(&PlainMember {
                member: (&body.member).into(),
                role: (&body.role).into(),
                source: &body.source,
                until_unix_s: body.until_unix_s,
            }),
            ItemBody::Policy(body) | ItemBody::Template(body) => canonical_json(body),
            ItemBody::Link(body) => canonical_json(body),
            ItemBody::Grant(body) if !is_strictly_sorted(&body.actions) => {
                self.clone().canonical().encode()
            }
            ItemBody::Grant(body) => canonical_json(body),
            ItemBody::Route(body) => canonical_json(body),
            ItemBody::Key(body) => canonical_json(body),
            ItemBody::Limit(rule) => rule.as_json().to_string().into_bytes(),
            ItemBody::Plan(plan) => plan.as_json().to_string().into_bytes(),
        }
    }

    /// Reads a body; any JSON text of it will do, canonical or not.
    pub fn decode(key: ItemKey, body: &[u8]) -> Result<Item, DecodeError> {
        let read = match key.kind {
            Kind::Service => json(body).map(ItemBody::Service),
            Kind::Schema => json(body).map(ItemBody::Schema),
            Kind::Entity => json(body).map(ItemBody::Entity),
            Kind::Role => json(body).map(ItemBody::Role),
            Kind::Member => json(body).map(ItemBody::Member),
            Kind::Policy => json(body).map(ItemBody::Policy),
            Kind::Template => json(body).map(ItemBody::Template),
            Kind::Link => json(body).map(ItemBody::Link),
            Kind::Grant => json(body).map(ItemBody::Grant),
            Kind::Route => json(body).map(ItemBody::Route),
            Kind::Key => json(body).map(ItemBody::Key),
            Kind::Limit => json(body).map(|rule| ItemBody::Limit(Box::new(rule))),
            Kind::Plan => json(body).map(|plan| ItemBody::Plan(Box::new(plan))),
        };
        let body = match read {
            Ok(body) => body,
            Err(source) => return Err(DecodeError::Json { key, source }),
        };
        let item = Item { key, body }.canonical();
        item.check_key()?;
        Ok(item)
    }

    /// Whether key and body belong together.
    pub fn check_key(&self) -> Result<(), DecodeError> {
        let key = &self.key;
        let layer = |reason| Err(DecodeError::Layer { key: key.clone(), reason });
        match (key.kind, key.service.is_empty()) {
            (Kind::Role | Kind::Member, false) => return layer("belongs to the directory"),
            (Kind::Role | Kind::Member, true) | (Kind::Entity, _) => {}
            (_, true) => return layer("belongs to a service"),
            (_, false) => {}
        }
        if self.body.kind() != key.kind {
            return layer("the body is of another kind");
        }
        match self.body.own_id() {
            Some(body_id) if body_id != key.id => {
                Err(DecodeError::Id { key: key.clone(), body_id })
            }
            None if key.id.is_empty() => layer("needs an id"),
            _ => match &self.body {
                ItemBody::Service(settings) if settings.name != key.service => {
                    Err(DecodeError::Id { key: key.clone(), body_id: settings.name.clone() })
                }
                _ => Ok(()),
            },
        }
    }
}

/// JSON with sorted keys and no spaces.
pub(crate) fn canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "the model has text keys only, and writes to memory")]
    let mut value = serde_json::to_value(value).expect("the model is JSON");
    value.sort_all_objects();
    value.to_string().into_bytes()
}

/// The same for a type whose members are declared in order.
fn sorted_json<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "the model has text keys only, and writes to memory")]
    serde_json::to_vec(value).expect("the model is JSON")
}

/// An entity without attributes and tags.
#[derive(Serialize)]
struct PlainEntity<'a> {
    attrs: BTreeMap<&'a str, ()>,
    parents: Vec<PlainUid<'a>>,
    uid: PlainUid<'a>,
}

#[derive(Serialize)]
struct PlainMember<'a> {
    member: PlainUid<'a>,
    role: PlainUid<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_unix_s: Option<u64>,
}

#[derive(Serialize)]
struct PlainUid<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

impl<'a> From<&'a Uid> for PlainUid<'a> {
    fn from(uid: &'a Uid) -> Self {
        PlainUid { id: &uid.id, kind: &uid.kind }
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

fn is_strictly_sorted<T: Ord>(list: &[T]) -> bool {
    list.is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EntityBody;

    /// What is written without sorting is what sorting would have written.
    #[test]
    fn short_cuts_are_canonical() {
        let (a, b) = (Uid::new("user", "a\"\n\u{e9}"), Uid::new("shop::role", ""));
        for parents in [vec![], vec![b.clone(), a.clone()]] {
            let (attrs, tags) = Default::default();
            let body = EntityBody { uid: a.clone(), attrs, parents, tags };
            let item = Item::new("s", "", ItemBody::Entity(body.clone()));
            assert_eq!(item.encode(), canonical_json(&body));
        }
        for (source, until_unix_s) in [("", None), ("shop", None), ("", Some(7)), ("shop", Some(0))]
        {
            let source = source.to_owned();
            let body = MemberBody { member: a.clone(), role: b.clone(), source, until_unix_s };
            let item = Item::new("", "", ItemBody::Member(body.clone()));
            assert_eq!(item.encode(), canonical_json(&body));
        }
    }
}
