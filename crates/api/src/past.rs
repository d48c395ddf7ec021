//! What was: history, past states, what changed between them, and the way back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccessChange, Changed, Conflict, Op};

/// A past state: a revision, or the one that was in force at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a past state is a revision, or a time such as \"2026-07-25T09:30:00Z\""
)]
pub enum AsOf {
    /// A revision.
    Revision(u64),
    /// An RFC 3339 time, or a revision as a text.
    Time(String),
}

/// A page of history, the newest revision first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The newest revision.
    pub head: u64,
    /// The oldest revision whose state can be shown, compared and gone back to.
    pub oldest: u64,
    /// A revision that is cut by the end of a page goes on in the next one.
    pub entries: Vec<HistoryEntry>,
    /// Where the next page begins (`?before=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What one revision changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// The revision.
    pub revision: u64,
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// The token that did it.
    pub actor: String,
    /// By which action, such as `apply` or `role.revoke`.
    pub action: String,
    /// What changed.
    pub changes: Vec<PastChange>,
}

/// One revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevisionShown {
    /// What it changed, or the page of it.
    #[serde(flatten)]
    pub entry: HistoryEntry,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// How an item differs between two states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastChange {
    /// What happened to it.
    pub op: Op,
    /// Its service; empty: the directory.
    pub service: String,
    /// Its kind, such as `policy`; `token` for a token.
    pub kind: String,
    /// Its id. Empty: the revision has so many changes of the kind that they are counted.
    pub id: String,
    /// How its text changes, line by line; what is long is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// How many items, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<ChangeCounts>,
}

/// How many items of a kind a revision changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeCounts {
    /// Items that were created.
    pub created: u64,
    /// Items that were updated.
    pub updated: u64,
    /// Items that were deleted.
    pub deleted: u64,
}

/// A page of how two states differ, by service, kind and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateDiff {
    /// The revision of the state that is compared.
    pub from: u64,
    /// The revision of the state that it is compared with.
    pub to: u64,
    /// How many items differ.
    pub total: u64,
    /// What differs.
    pub changes: Vec<PastChange>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Back to what was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The state to go back to.
    pub to: AsOf,
    /// Only the items of this service, and those of the directory that its files or its editors
    /// brought; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Conflicts that are to be undone all the same, each as its kind and its id with a space between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000))]
    pub undo: Vec<String>,
}

/// The answer to a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolledBack {
    /// What changed, or would change.
    #[serde(flatten)]
    pub changed: Changed,
    /// The revision whose state it is.
    pub to: u64,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the same request, by its `Idempotency-Key`, had landed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// What was taken away since, and would be given back. Without a dry run, such a rollback lands
    /// only if `undo` names all of them. Of many the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// How many conflicts there are; only where `conflicts` does not list all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts_total: Option<u64>,
    /// Access that is given or taken, as far as it can be named; only in a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessChange>,
}
