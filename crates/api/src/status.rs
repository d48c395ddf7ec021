//! How center and gates are: revision, status, followers, audit log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Json;

/// A revision at which something is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Landed {
    /// The revision.
    pub revision: u64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Written {
    /// Its id: 32 hexadecimal digits.
    pub write_id: String,
    /// Whether it landed. False: it is not among the revisions that are kept, and nothing that is
    /// under way will make it one.
    pub landed: bool,
    /// The revision that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// When it landed, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
    /// Where it did not: when the oldest revision landed that is kept, in milliseconds since the Unix
    /// epoch. Of a write before that nothing is known. Left out: all are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_since_unix_ms: Option<u64>,
}

/// The newest revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revision {
    /// The revision.
    pub revision: u64,
    /// The digest of everything at it, in hexadecimal.
    pub digest: String,
    /// The history that it counts in, in hexadecimal.
    pub history: String,
}

/// Whether a center serves, and what is missing where it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether nothing is missing.
    pub ready: bool,
    /// What is missing; empty: nothing is.
    pub missing: Vec<Missing>,
}

/// What a center lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    /// Where to look.
    pub part: Part,
    /// What it is, a word that stays the same: `storage-full`, `stopped`, `history-lost`,
    /// `noting-loss`, `waiting-for-witnesses`, `no-admin-token`, or `shutting-down`.
    pub kind: String,
    /// In words, with the way out.
    pub why: String,
}

/// What a center needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Changes are stored, and noted outside of the store.
    Disk,
    /// What was acknowledged is there.
    History,
    /// Somebody can administer the center.
    Keys,
    /// The process goes on.
    Process,
}

/// Center and gates, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The centers: the one that answers, then the others on the same database.
    pub centers: Vec<CenterStatus>,
    /// The gates that follow.
    pub gates: Vec<GateStatus>,
    /// What is wrong with any of them, in words; empty: nothing is.
    pub wrong: Vec<String>,
}

/// How a center is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CenterStatus {
    /// Where it listens, or the URL that callers reach it by.
    #[serde(default)]
    pub address: String,
    /// Its release.
    pub release: String,
    /// The newest format of items that it knows.
    pub format: u32,
    /// `ready`, or what keeps it from answering.
    pub condition: String,
    /// The same in words, with the way out; empty where it is ready.
    pub why: String,
    /// The history that its revisions count in, in hexadecimal.
    pub history: String,
    /// The histories that it continues, the oldest first.
    pub ancestors: Vec<String>,
    /// The newest revision.
    pub revision: u64,
    /// Services.
    pub services: u64,
    /// Gates that follow.
    pub gates: u64,
    /// Since it was heard, in milliseconds; left out: it is the one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms_ago: Option<u64>,
}

/// How a gate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GateStatus {
    /// Its name.
    pub name: String,
    /// The address of the center that it follows.
    #[serde(default)]
    pub center: String,
    /// Its address; null: unknown.
    pub peer: Option<String>,
    /// The services that it follows.
    pub services: Scope,
    /// Its release; empty: 0.1, which does not tell.
    pub release: String,
    /// The newest format of items that it knows.
    pub format: u32,
    /// The history that it holds, in hexadecimal; null: it has told none.
    pub history: Option<String>,
    /// The newest revision that it was sent.
    pub sent: u64,
    /// The newest revision that it decides on.
    pub revision: u64,
    /// The age of what it decides on, in milliseconds; null: it has told none.
    pub age_ms: Option<u64>,
    /// Since it was heard, in milliseconds; null: it does not pulse.
    pub heard_ms_ago: Option<u64>,
    /// Since it connected, in milliseconds.
    pub connected_ms: u64,
    /// How it is, by its own word; absent: it did not say, as gates before release 0.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<GateReport>,
    /// What is wrong with it, in words.
    pub wrong: Vec<String>,
}

/// What a gate says of itself and its host, every ten seconds. What is absent is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GateReport {
    /// Since it said so, in milliseconds.
    pub told_ms_ago: u64,
    /// Connections of callers that are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_connections: Option<u64>,
    /// Connections to upstreams that are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_connections: Option<u64>,
    /// Requests put on a connection to an upstream in the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Of these, on one that had carried a request before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// Of what it opens connections to, where the smallest part of the ports is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tightest: Option<PortsLeft>,
    /// What `keepgate doctor` says of its host: one of `exhausted`, `at_risk`, `healthy`, `not_ports`,
    /// `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The same in one sentence; empty: there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub headline: String,
}

/// Ports from one source address toward one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortsLeft {
    /// The source address.
    pub source: String,
    /// An address with its port.
    pub destination: String,
    /// How many ports there are.
    pub usable: u32,
    /// How many of them are free.
    pub free: u32,
}

/// Services that a follower may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scope {
    /// The text `all`.
    All(All),
    /// These.
    Services(Vec<String>),
}

/// The text `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// All there are.
    All,
}

impl Scope {
    /// All services.
    pub const ALL: Scope = Scope::All(All::All);
}

/// Who follows, and how far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FollowerList")]
pub struct Followers {
    /// The newest revision.
    pub revision: u64,
    /// Centers whose followers these are.
    #[serde(default = "one")]
    pub centers: u64,
    /// Each stream.
    pub followers: Vec<Follower>,
}

fn one() -> u64 {
    1
}

/// One follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Follower {
    /// Its name.
    pub name: String,
    /// The address of the center that it follows.
    #[serde(default)]
    pub center: String,
    /// Its address; null: unknown.
    pub peer: Option<String>,
    /// The id of its token.
    pub token: String,
    /// The services that it follows.
    pub services: Scope,
    /// The newest revision that it was sent.
    pub sent: u64,
    /// The newest revision that it has applied.
    pub applied: u64,
    /// When it said so, in Unix milliseconds; null: never.
    pub applied_unix_ms: Option<u64>,
    /// Since when it is connected, in Unix milliseconds.
    pub connected_unix_ms: u64,
}

/// A page of the audit log, from the oldest on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Audit {
    /// By number.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Who changed what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number; ascending, with gaps where old entries were dropped.
    pub seq: u64,
    /// The revision that the change landed as.
    pub revision: u64,
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// The token that did it.
    pub actor: String,
    /// By which action.
    pub action: String,
    /// The service; empty: the directory, or none.
    pub service: String,
    /// The item's kind; empty: no item.
    pub kind: String,
    /// The item's id.
    pub id: String,
    /// The body before, by its kind; null: there was none.
    #[schemars(with = "Option<Json>")]
    pub before: Option<Value>,
    /// The body after, by its kind; null: there is none.
    #[schemars(with = "Option<Json>")]
    pub after: Option<Value>,
}
