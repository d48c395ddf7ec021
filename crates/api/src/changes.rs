//! Answers to writes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Problem, Warning};

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// It was not there before.
    Create,
    /// It is another now.
    Update,
    /// It is gone.
    Delete,
}

/// An item by its kind and id. A service and its schema have the service's name as id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemName {
    /// Its kind, such as `policy`.
    pub kind: String,
    /// Its id within its service, or within the directory.
    pub id: String,
}

/// One item that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What happened to it.
    pub op: Op,
    /// Which it is.
    #[serde(flatten)]
    pub item: ItemName,
    /// How its text changes, line by line; only in a dry run, of policies, templates and schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// An item that was left alone: somebody changed it while the edit was worked out.
pub type Kept = ItemName;

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The revision at which it is in force.
    pub revision: u64,
    /// How many items were created; only where `changes` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// How many were updated; only where `changes` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<u64>,
    /// How many were deleted; only where `changes` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// The items that changed; of many the first.
    pub changes: Vec<Change>,
    /// Items that were left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Of a deletion: policies and entities that still name what is gone. A policy that forbids, or
    /// that also applies to others, is not taken away with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub still_named: Vec<ItemName>,
    /// What is allowed and likely not meant: Cedar's warnings about policies and schema, ids that do
    /// not read as they are, entities that the directory has too, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// The answer to an apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// What changed, or would change.
    #[serde(flatten)]
    pub changed: Changed,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the same request, by its `Idempotency-Key`, had landed before, as this revision: it was
    /// not made again, and what it changed is not told again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// Files that are nothing to apply, such as requests in Cedar's format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Items of which the files say something else than somebody has made of them since the last
    /// apply. They are left as they are; `overwrite` makes them what the files say. Of many the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// How many conflicts there are; only where `conflicts` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts_total: Option<u64>,
    /// Items that the files do not have and that no apply of this service brought. They stay; `prune`
    /// removes them. Of many the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<Stay>,
    /// Access that is gained or lost, as far as it can be named; only in a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessChange>,
    /// How many items stay; only where `stays` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays_total: Option<u64>,
    /// Requests that the routes of the files serve, for example; only in a dry run. Of many routes
    /// the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// How many routes there are; only where `samples` does not have all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes_total: Option<u64>,
}

/// A request that a route serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// Method and path, as a caller sends them.
    pub request: String,
    /// The route: method and template.
    pub route: String,
    /// The action that is decided on, as Cedar text.
    pub action: String,
    /// The resource that is decided on, as Cedar text.
    pub resource: String,
}

/// Access that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessChange {
    /// Whether it is gained; else it is lost.
    pub gained: bool,
    /// Who, as Cedar text; `any`: a policy says it of nobody by name.
    pub principal: String,
    /// What, in words.
    pub message: String,
}

/// Who brought an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Brought {
    /// An apply of files.
    #[default]
    Files,
    /// A command: command line, API, console.
    Command,
    /// An import.
    Import,
}

/// An item that somebody has changed since the last apply, and that the files have differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conflict {
    /// Which it is.
    #[serde(flatten)]
    pub item: ItemName,
    /// What somebody did to it, and what the files say, in words.
    pub message: String,
    /// The revision that did it.
    pub revision: u64,
    /// The token that did it; absent where the audit log does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// By which action, such as `role.revoke`; absent where the audit log does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// When, in Unix milliseconds; absent where the audit log does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
    /// The file that has it; absent: the files do not have it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// An item that an apply leaves, because others brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stay {
    /// Which it is.
    #[serde(flatten)]
    pub item: ItemName,
    /// Who brought it.
    pub brought: Brought,
    /// The service whose files brought it; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// When it was changed last.
    pub revision: u64,
}

/// The answer to one portion of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// The revision at which the portion is in force.
    pub revision: u64,
    /// Items that were created.
    pub created: u64,
    /// Items that were updated.
    pub updated: u64,
    /// Items that were deleted; an import deletes none.
    pub deleted: u64,
    /// Items that were left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Items that somebody has deleted: they stay deleted; `overwrite` creates them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Entities that a service has and the directory, too; of many the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// One line of an answer that tells how far it is (`application/x-ndjson`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// How far it is; any number of them.
    Progress(Progress),
    /// The answer; the last line.
    Result(Applied),
    /// The refusal; the last line.
    Problem(Problem),
}

/// How far a long piece of work is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What it is at.
    pub stage: String,
    /// Items that this stage is done with.
    pub done: u64,
    /// Items of this stage; 0: unknown.
    pub total: u64,
}
