//! The items that make up the world, and how they change.
//!
//! Everything a center stores and a replica follows is an [`Item`]: a key and a body. Items
//! without a service belong to the *directory* (principals, roles, memberships), which all
//! services see; items of a service are seen by that service alone. A gate for service S holds
//! the directory and the items of S.
//!
//! INVARIANT: an item's body has one canonical JSON text (object keys sorted, no spaces), so
//! equal items have equal digests wherever they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::route::Route;
use crate::service::ServiceSettings;

/// The center's change number: one per write transaction, 0 for an empty store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A Cedar entity identifier in its two parts: `kind::"id"`.
///
/// In JSON as Cedar has it: `{"type":"user","id":"alice"}`. `Display` writes Cedar syntax with
/// Cedar's escapes, `FromStr` reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Uid {
    /// The entity type, a Cedar name such as `user` or `shop::order`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The identifier, any text.
    pub id: String,
}

impl Uid {
    /// `kind::"id"`; the kind is not checked here.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Uid {
        Uid { kind: kind.into(), id: id.into() }
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
    Limit(serde_json::Value),
    /// See [`Kind::Plan`].
    Plan(serde_json::Value),
}

/// A service's Cedar schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaBody {
    /// Cedar's human-readable schema syntax, verbatim.
    pub text: String,
}

/// A Cedar entity, as in Cedar's JSON entity format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntityBody {
    /// Its identifier.
    pub uid: Uid,
    /// Attributes in Cedar's JSON value format (`__entity`, `__extn` escapes allowed: operators
    /// are trusted with them, request bodies are not).
    #[serde(default)]
    pub attrs: BTreeMap<String, serde_json::Value>,
    /// Direct parents, sorted and without repetition.
    #[serde(default)]
    pub parents: Vec<Uid>,
    /// Tags, as attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, serde_json::Value>,
}

/// A role and what it is for. Roles are entities; this adds words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleBody {
    /// The role's entity, by habit `role::"name"`.
    pub uid: Uid,
    /// One line for people; may be empty.
    #[serde(default)]
    pub description: String,
    /// The service whose `apply` brought it; empty when made by hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// One membership edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberBody {
    /// Who is in it: a principal or another role.
    pub member: Uid,
    /// The role.
    pub role: Uid,
    /// The service whose `apply` brought it; empty when assigned by hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A Cedar policy or template, one per item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyBody {
    /// The text, verbatim, comments included; exactly one policy or template.
    pub text: String,
    /// The file it came from, for people and for `export`; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

/// A link of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBody {
    /// The role or principal that is granted.
    pub principal: Uid,
    /// The actions; empty means any action.
    #[serde(default)]
    pub actions: Vec<Uid>,
    /// The resource or a group of resources; none means any resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Uid>,
}

/// An API key as stored: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
