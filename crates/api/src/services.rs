//! Services as wholes, and lists of their items.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Brought, Key};

/// A page of items; `B` is the body of their kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{B}List")]
pub struct ItemList<B> {
    /// The newest revision.
    pub revision: u64,
    /// By id.
    pub items: Vec<Listed<B>>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An item in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Listed{B}")]
pub struct Listed<B> {
    /// Its id.
    pub id: String,
    /// When it was changed last.
    pub revision: u64,
    /// Who brought it.
    #[serde(default)]
    pub brought: Brought,
    /// What a GET of it answers, and a PUT takes.
    pub body: B,
}

/// A page of services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ServiceList")]
pub struct Services {
    /// The newest revision.
    pub revision: u64,
    /// By name.
    pub services: Vec<ServiceSummary>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a service has, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// Policies.
    pub policies: u64,
    /// Templates.
    pub templates: u64,
    /// Links of templates.
    pub links: u64,
    /// Grants.
    pub grants: u64,
    /// Of these, how many end by themselves, or have ended.
    #[serde(default)]
    pub ending_grants: u64,
    /// When the next of them ends, in Unix seconds; absent: none will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_end_unix_s: Option<u64>,
    /// Entities of its own.
    pub entities: u64,
    /// Routes.
    pub routes: u64,
    /// API keys.
    pub keys: u64,
    /// Limits.
    pub limits: u64,
    /// Plans.
    pub plans: u64,
    /// Whether it has a Cedar schema.
    pub schema: bool,
}

/// A service; `S` is its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Service")]
pub struct Service<S> {
    /// What it has.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// Its settings, as a PUT takes them.
    pub settings: S,
    /// When they were changed last.
    pub revision: u64,
}

/// Files to apply, or that were exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Text by file name.
    pub files: BTreeMap<String, String>,
}

/// The policies and templates of a service as one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CedarText {
    /// The service's name.
    pub service: String,
    /// The newest revision.
    pub revision: u64,
    /// The newest revision that changed one of them; 0: there are none.
    pub changed: u64,
    /// How many policies and templates there are.
    pub policies: u64,
    /// All of them, in Cedar. A line `//@ id: ".."` gives the id of the next one where nothing else does.
    pub text: String,
}

/// The policies and templates that a service is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCedarText {
    /// All of them, in Cedar; at most 512 KiB. Those that it does not have are deleted.
    pub text: String,
}

/// The files of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Export {
    /// Its name.
    pub service: String,
    /// The newest revision, which the first line of `service.toml` names, too.
    #[serde(default)]
    pub revision: u64,
    /// Text by file name; applied, they change nothing.
    pub files: BTreeMap<String, String>,
}

/// What the files of a service do not hold; `E` is the body of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Extras")]
pub struct Extras<E> {
    /// Its name.
    pub service: String,
    /// The newest revision.
    pub revision: u64,
    /// Memberships that no apply of this service brought.
    pub members: Vec<ForeignMember>,
    /// Roles that no apply of this service brought.
    pub roles: Vec<ForeignRole>,
    /// Entities of the directory.
    pub entities: Vec<E>,
    /// Its API keys; with their hashes for admins.
    pub keys: Vec<Key>,
    /// What was deleted, of the service and of the directory.
    pub tombstones: Vec<Tombstone>,
}

/// A membership that the service did not bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForeignMember {
    /// Who, as Cedar text.
    pub member: String,
    /// In which role, as Cedar text.
    pub role: String,
    /// The service whose files brought it; empty: a command did.
    #[serde(default)]
    pub source: String,
    /// When it ends, in Unix seconds; absent: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
}

/// A role that the service did not bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForeignRole {
    /// Which, as Cedar text.
    pub role: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The service whose files brought it; empty: a command did.
    #[serde(default)]
    pub source: String,
}

/// Something that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tombstone {
    /// The service; empty: the directory.
    pub service: String,
    /// The item's kind.
    pub kind: String,
    /// The item's id.
    pub id: String,
    /// The revision that deleted it.
    pub revision: u64,
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// The token that did it.
    pub actor: String,
    /// By which action.
    pub action: String,
}
