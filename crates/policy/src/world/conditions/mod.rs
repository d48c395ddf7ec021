//! Everything that needs Cedar's own evaluator.
//!
//! The core crate does not follow semver; it is pinned exactly, and the oracle test compares
//! this crate's decisions with `cedar_policy::Authorizer` at every upgrade. Inside: policy texts
//! to scopes and conditions (`parse`), JSON to Cedar values (`value`), schemas (`schema`),
//! and conditions over the small slice of entities they can reach (`slice`).
//!
//! Expressions are loaded without source locations: evaluation clones a location at each step,
//! and those shared counts slow down cores that evaluate the same policy.

mod parse;
mod schema;
mod slice;
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;

use cedar_policy_core::ast::{Eid, EntityType, EntityUID, PartialValue, Value, ValueKind};
use smol_str::SmolStr;

pub(super) use parse::{
    Accessed, ActionText, Condition, Parsed, Ref, ScopeText, Unreadable, parse,
};
pub(super) use schema::Schema;
pub use slice::Seen;
pub(super) use slice::{Facts, Failure, Question, Store, Subject, evaluate, seen};
pub(super) use value::{ESCAPES, Trust, ValueProblem};

/// An entity's identifier as the evaluator has it.
pub(super) type CedarUid = EntityUID;

/// An entity's type and id; a type in a namespace has to be put together.
pub(super) fn texts(uid: &CedarUid) -> (Cow<'_, str>, &str) {
    let name = uid.entity_type().name();
    let kind = if name.is_unqualified() {
        Cow::Borrowed(name.basename_as_ref().as_ref())
    } else {
        Cow::Owned(name.to_string())
    };
    (kind, uid.eid().as_ref())
}

/// An entity type as the evaluator has it.
#[derive(Clone, Debug)]
pub(super) struct TypeName(EntityType);

impl TypeName {
    pub(super) fn parse(kind: &str) -> Result<TypeName, String> {
        match EntityType::from_normalized_str(kind) {
            Ok(kind) => Ok(TypeName(kind.with_loc(None))),
            Err(_) => Err(format!("`{kind}` is not an entity type")),
        }
    }

    pub(super) fn uid(&self, id: &str) -> CedarUid {
        EntityUID::from_components(self.0.clone(), Eid::new(id), None)
    }
}

/// Values by name: a context, or properties that overlay attributes.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(BTreeMap<SmolStr, Value>);

impl Record {
    /// One without members.
    pub(super) const EMPTY: Record = Record(BTreeMap::new());

    /// Reads JSON of a request; `path` names the record in problems.
    pub(super) fn of_request(
        json: &BTreeMap<String, serde_json::Value>,
        trust: Trust,
        path: &str,
    ) -> Result<Record, ValueProblem> {
        let mut record = BTreeMap::new();
        for (name, json) in json {
            if let Some(value) = value::read(json, trust).map_err(|p| p.below(name).below(path))? {
                record.insert(name.into(), value);
            }
        }
        Ok(Record(record))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Some of its members, as JSON.
    pub(super) fn json(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> serde_json::Map<String, serde_json::Value> {
        json_of(&self.0, wanted)
    }

    /// Takes over the members of another; they win.
    pub(super) fn append(&mut self, mut other: Record) {
        self.0.append(&mut other.0);
    }

    /// The record with one member more, itself a record.
    pub(super) fn insert(&mut self, name: &str, member: Record) {
        self.insert_shared(name, &member.share());
    }

    /// The same, of a record that others have too.
    pub(super) fn insert_shared(&mut self, name: &str, member: &Shared) {
        self.0.insert(name.into(), member.0.clone());
    }

    /// The record as a value whose clone is a pointer.
    pub(super) fn share(self) -> Shared {
        Shared(Value::record_arc(self.0.into(), None))
    }
}

/// A record that many questions have in common.
#[derive(Clone, Debug)]
pub(super) struct Shared(Value);

impl Shared {
    /// Some of its members, as JSON.
    pub(super) fn members(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> serde_json::Map<String, serde_json::Value> {
        match self.0.value_kind() {
            ValueKind::Record(members) => json_of(members, wanted),
            _ => serde_json::Map::new(),
        }
    }
}

fn json_of(
    members: &BTreeMap<SmolStr, Value>,
    wanted: impl Fn(&str) -> bool,
) -> serde_json::Map<String, serde_json::Value> {
    let wanted = members.iter().filter(|(name, _)| wanted(name));
    wanted.map(|(name, value)| (name.to_string(), value::json(value))).collect()
}

/// A stored entity's attributes and tags.
#[derive(Clone, Debug)]
pub(super) struct Attributes(std::sync::Arc<cedar_policy_core::ast::Entity>);

impl Attributes {
    /// Reads the JSON of a stored entity.
    pub(super) fn trusted(
        uid: CedarUid,
        attrs: &BTreeMap<String, serde_json::Value>,
        tags: &BTreeMap<String, serde_json::Value>,
    ) -> Result<Attributes, ValueProblem> {
        let read = |json: &BTreeMap<String, serde_json::Value>, path: &str| {
            json.iter()
                .filter_map(|(name, json)| match value::read(json, Trust::Operator) {
                    Ok(value) => Some(Ok((SmolStr::from(name), PartialValue::Value(value?)))),
                    Err(problem) => Some(Err(problem.below(name).below(path))),
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let (attrs, tags) = (read(attrs, "attrs")?, read(tags, "tags")?);
        let none = std::collections::HashSet::new;
        let entity = cedar_policy_core::ast::Entity::new_with_attr_partial_value(
            uid,
            attrs,
            none(),
            none(),
            tags,
        );
        Ok(Attributes(std::sync::Arc::new(entity)))
    }
}
