//! The items that make up the world, and how they change.
//!
//! Everything a center stores and a replica follows is an [`Item`]: a key and a body. Items
//! without a service belong to the *directory* (principals, roles, memberships), which all
//! services see; items of a service are seen by that service alone. A gate for service S holds
//! the directory and the items of S.
//!
//! INVARIANT: an item's body has one canonical JSON text (object keys sorted, no spaces), so
//! equal items have equal digests wherever they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use keepgate_limit::rules::{NamedPlan, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::Written;
use crate::route::Route;
use crate::service::ServiceSettings;
pub use crate::uid::{Uid, UidError};

/// The center's change number: one per write transaction, 0 for an empty store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What sort of item a key names. The order is the order in which a world is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A service's settings; id: empty.
    Service,
    /// A service's Cedar schema text; id: empty.
    Schema,
    /// A Cedar entity (directory or service); id: its [`Uid`] in Cedar syntax.
    Entity,
    /// A role's description (directory); id: its [`Uid`] in Cedar syntax.
    Role,
    /// One membership edge, member in role (directory); id: `member in role`, both in Cedar syntax.
    Member,
    /// A static Cedar policy of a service; id: the policy id.
    Policy,
    /// A Cedar template of a service; id: the template id.
    Template,
    /// A link of a service's template; id: the policy id of the link.
    Link,
    /// A role may do actions on resources; id: the policy id.
    Grant,
    /// A route; id: `METHOD template`.
    Route,
    /// An API key (its hash); id: the key's public prefix.
    Key,
    /// A rate-limit rule; id: its name. The body belongs to the `limit` crate.
    Limit,
    /// A plan, a named set of limits; id: its name. The body belongs to the `limit` crate.
    Plan,
}

impl Kind {
    /// All kinds, in the order in which a world is built.
    pub const ALL: [Kind; 13] = [
        Kind::Service,
        Kind::Schema,
        Kind::Entity,
        Kind::Role,
        Kind::Member,
        Kind::Policy,
        Kind::Template,
        Kind::Link,
        Kind::Grant,
        Kind::Route,
        Kind::Key,
        Kind::Limit,
        Kind::Plan,
    ];

    /// Its name, as in JSON and in error texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::Schema => "schema",
            Kind::Entity => "entity",
            Kind::Role => "role",
            Kind::Member => "member",
            Kind::Policy => "policy",
            Kind::Template => "template",
            Kind::Link => "link",
            Kind::Grant => "grant",
            Kind::Route => "route",
            Kind::Key => "key",
            Kind::Limit => "limit",
            Kind::Plan => "plan",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey {
    /// The owning service's name; empty for the directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// What sort of item this is.
    pub kind: Kind,
    /// The name within service and kind; see [`Kind`].
    pub id: String,
}

impl ItemKey {
    /// The key of this kind and id in a service; an empty service is the directory.
    pub fn new(service: impl Into<String>, kind: Kind, id: impl Into<String>) -> ItemKey {
        ItemKey { service: service.into(), kind, id: id.into() }
    }

    /// A service's settings.
    pub fn service(service: &str) -> ItemKey {
        ItemKey::new(service, Kind::Service, "")
    }

    /// A service's schema.
    pub fn schema(service: &str) -> ItemKey {
        ItemKey::new(service, Kind::Schema, "")
    }

    /// An entity of a service, or of the directory if `service` is empty.
    pub fn entity(service: &str, uid: &Uid) -> ItemKey {
        ItemKey::new(service, Kind::Entity, uid.to_string())
    }

    /// A role's description, in the directory.
    pub fn role(uid: &Uid) -> ItemKey {
        ItemKey::new("", Kind::Role, uid.to_string())
    }

    /// A membership, in the directory.
    pub fn member(member: &Uid, role: &Uid) -> ItemKey {
        ItemKey::new("", Kind::Member, format!("{member} in {role}"))
    }

    /// A static policy.
    pub fn policy(service: &str, id: &str) -> ItemKey {
        ItemKey::new(service, Kind::Policy, id)
    }

    /// A template.
    pub fn template(service: &str, id: &str) -> ItemKey {
        ItemKey::new(service, Kind::Template, id)
    }

    /// A link of a template.
    pub fn link(service: &str, id: &str) -> ItemKey {
        ItemKey::new(service, Kind::Link, id)
    }

    /// A grant.
    pub fn grant(service: &str, id: &str) -> ItemKey {
        ItemKey::new(service, Kind::Grant, id)
    }

    /// A route.
    pub fn route(service: &str, method: &str, path: &str) -> ItemKey {
        ItemKey::new(service, Kind::Route, format!("{method} {path}"))
    }

    /// An API key.
    pub fn key(service: &str, prefix: &str) -> ItemKey {
        ItemKey::new(service, Kind::Key, prefix)
    }

    /// A rate-limit rule.
    pub fn limit(service: &str, name: &str) -> ItemKey {
        ItemKey::new(service, Kind::Limit, name)
    }

    /// A plan.
    pub fn plan(service: &str, name: &str) -> ItemKey {
        ItemKey::new(service, Kind::Plan, name)
    }
}

/// For people: ``policy `p1` of service `orders` ``.
impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if !self.id.is_empty() {
            write!(f, " `{}`", self.id)?;
        }
        if !self.service.is_empty() {
            write!(f, " of service `{}`", self.service)?;
        }
        Ok(())
    }
}

/// One thing the world is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name.
    pub key: ItemKey,
    /// What it says; its variant agrees with `key.kind`.
    pub body: ItemBody,
}

/// What an item says, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemBody {
    /// See [`Kind::Service`].
    Service(Box<ServiceSettings>),
    /// See [`Kind::Schema`]; text in Cedar's schema syntax, verbatim.
    Schema(SchemaBody),
    /// See [`Kind::Entity`].
    Entity(EntityBody),
    /// See [`Kind::Role`].
    Role(RoleBody),
    /// See [`Kind::Member`].
    Member(MemberBody),
    /// See [`Kind::Policy`].
    Policy(PolicyBody),
    /// See [`Kind::Template`].
    Template(PolicyBody),
    /// See [`Kind::Link`].
    Link(LinkBody),
    /// See [`Kind::Grant`].
    Grant(GrantBody),
    /// See [`Kind::Route`].
    Route(Box<Route>),
    /// See [`Kind::Key`].
    Key(KeyBody),
    /// See [`Kind::Limit`].
    Limit(Box<Written<Rule>>),
    /// See [`Kind::Plan`].
    Plan(Box<Written<NamedPlan>>),
}

/// A service's Cedar schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CedarSchema")]
pub struct SchemaBody {
    /// Cedar's human-readable schema syntax, verbatim.
    pub text: String,
}

/// A Cedar entity, as in Cedar's JSON entity format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Entity")]
pub struct EntityBody {
    /// Its identifier.
    pub uid: Uid,
    /// Attributes in Cedar's JSON value format (`__entity`, `__extn` escapes allowed: operators
    /// are trusted with them, request bodies are not).
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, CedarValue>")]
    pub attrs: BTreeMap<String, serde_json::Value>,
    /// Direct parents, sorted and without repetition.
    #[serde(default)]
    pub parents: Vec<Uid>,
    /// Tags, as attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, CedarValue>")]
    pub tags: BTreeMap<String, serde_json::Value>,
}

/// A Cedar value as JSON; a record may be an `__entity` or `__extn` escape. Only its schema is used,
/// which is not recursive, as generators of clients do not follow a type into itself.
enum CedarValue {}

impl JsonSchema for CedarValue {
    fn schema_name() -> Cow<'static, str> {
        "CedarValue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A Cedar value: a boolean, a whole number, a string, a set or a record.",
            "anyOf": [
                { "type": "boolean" },
                { "type": "integer" },
                { "type": "string" },
                { "type": "array", "items": {} },
                { "type": "object", "additionalProperties": {} },
            ],
        })
    }
}

/// A role and what it is for. Roles are entities; this adds words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Role")]
pub struct RoleBody {
    /// The role's entity, usually `role::"name"`.
    pub uid: Uid,
    /// One line for people; may be empty.
    #[serde(default)]
    pub description: String,
    /// The service whose `apply` brought it; empty when made by hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// One membership edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MemberItem")]
pub struct MemberBody {
    /// Who is in it: a principal or another role.
    pub member: Uid,
    /// The role.
    pub role: Uid,
    /// The service whose `apply` brought it; empty when assigned by hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Seconds since the Unix epoch from which on it does not count any more; none: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
}

/// A Cedar policy or template, one per item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Policy")]
pub struct PolicyBody {
    /// The text, verbatim, comments included; exactly one policy or template.
    pub text: String,
    /// The file it came from, for people and for `export`; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

/// A link of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Link")]
pub struct LinkBody {
    /// The template's id, in the same service.
    pub template: String,
    /// Value of `?principal`, where the template has that slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Uid>,
    /// Value of `?resource`, where the template has that slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Uid>,
}

/// A role (or one principal) may do actions on resources: the link of the built-in template
/// `permit (principal in ?principal, action in [..], resource in ?resource);`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Grant")]
pub struct GrantBody {
    /// The role or principal that is granted.
    pub principal: Uid,
    /// The actions; empty means any action.
    #[serde(default)]
    pub actions: Vec<Uid>,
    /// The resource or a group of resources; none means any resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Uid>,
    /// Seconds since the Unix epoch from which on it permits nothing any more; none: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
}

/// An API key as stored: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoredKey")]
pub struct KeyBody {
    /// The readable prefix by which the key is found and talked about.
    pub prefix: String,
    /// SHA-256 of the whole key, 64 lower-case hex digits.
    pub sha256: String,
    /// Who the caller is when it shows this key.
    pub principal: Uid,
    /// The plan whose limits apply; empty for the service's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// Seconds since the Unix epoch after which the key is refused; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
    /// A note for people; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// One step of a [`Delta`].
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The item is new or replaces the one with the same key.
    Put(Item),
    /// The item is gone.
    Delete(ItemKey),
}

/// Everything a replica needs for its services, at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The revision all items were read at.
    pub revision: Revision,
    /// Digest of all items.
    pub digest: Digest,
    /// The items, in key order.
    pub items: Vec<Item>,
}

/// The changes of one or more revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The revision the changes apply to; any other is a gap.
    pub previous: Revision,
    /// The revision after them.
    pub revision: Revision,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Digest of the state after them, where the center sent one.
    pub digest: Option<Digest>,
}
