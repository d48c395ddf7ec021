//! `/v1/check`: one question, answered with the reasons.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{EscapedUid, Json, Uid, UidInput};

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Which service's policies decide; absent: those of all services that take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Who.
    pub principal: UidInput,
    /// Does what; text is short for `Action::"text"`.
    #[schemars(with = "ActionInput")]
    pub action: UidInput,
    /// With what.
    pub resource: UidInput,
    /// Cedar's context, a JSON value for each attribute; `__entity` and `__extn` as in Cedar's request
    /// files. Null is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "context")]
    #[schemars(with = "Option<BTreeMap<String, Json>>")]
    pub context: BTreeMap<String, Value>,
}

fn context<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An action: its name, or its parts. Only its schema is used: the type is [`UidInput`].
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
pub enum ActionInput {
    /// `read`.
    Text(String),
    /// `{"type":"Action","id":"read"}`.
    Parts(Uid),
    /// `{"__entity":{"type":"Action","id":"read"}}`.
    Escaped(EscapedUid),
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
}

/// Why it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A policy permits it and none forbids it.
    Permit,
    /// A policy forbids it.
    Forbid,
    /// No policy permits it.
    NoPermit,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// Whether it is allowed.
    pub decision: bool,
    /// The same as a word.
    pub effect: Effect,
    /// Why it is so.
    pub reason: Reason,
    /// The policies that made it so.
    pub determining: Vec<Determining>,
    /// Policies that would have permitted it but for one part.
    pub near: Vec<Miss>,
    /// Policies that failed to evaluate and were skipped.
    pub errors: Vec<PolicyFailure>,
    /// The revision that was asked.
    pub revision: u64,
}

/// A policy that determined an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Determining {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: String,
    /// What it says, in Cedar.
    pub text: String,
}

/// A policy that nearly permitted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Miss {
    /// Which it is, and what it says.
    #[serde(flatten)]
    pub policy: Determining,
    /// The part that did not hold.
    pub why: String,
}

/// A policy that failed to evaluate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyFailure {
    /// Its service.
    pub service: String,
    /// Its id.
    pub policy: String,
    /// Cedar's error.
    pub message: String,
}
