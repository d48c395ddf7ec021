//! `/v1/check`: one question, answered with the reasons.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{AsOf, EscapedUid, ItemName, Json, Uid, UidInput};

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
    /// In which past state; absent: now. Needs a token that may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
    /// When it is asked, in Unix seconds: what ended before does not count. Absent: now, or the time of
    /// the past state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_unix_s: Option<u64>,
    /// Parents that the principal has for this request, such as roles from claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1_000))]
    pub principal_parents: Vec<UidInput>,
    /// Properties that overlay the principal's stored attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "context")]
    #[schemars(with = "Option<BTreeMap<String, Json>>")]
    pub principal_properties: BTreeMap<String, Value>,
    /// Properties of the action, which become `context.action`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "context")]
    #[schemars(with = "Option<BTreeMap<String, Json>>")]
    pub action_properties: BTreeMap<String, Value>,
    /// Properties that overlay the resource's stored attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "context")]
    #[schemars(with = "Option<BTreeMap<String, Json>>")]
    pub resource_properties: BTreeMap<String, Value>,
}

impl Question {
    /// Whether this principal may do this with that resource, now.
    pub fn new(principal: UidInput, action: UidInput, resource: UidInput) -> Question {
        let (context, principal_properties, action_properties, resource_properties) =
            Default::default();
        Question {
            service: None,
            principal,
            action,
            resource,
            context,
            as_of: None,
            at_unix_s: None,
            principal_parents: Vec::new(),
            principal_properties,
            action_properties,
            resource_properties,
        }
    }
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
    /// Other policies that came near: forbids, and where it is allowed, permits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Miss>,
    /// Policies that failed to evaluate and were skipped.
    pub errors: Vec<PolicyFailure>,
    /// What is remarkable about the question, such as a principal that nothing is known of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The revision that was asked.
    pub revision: u64,
    /// Of a past state: when its revision landed, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landed_unix_ms: Option<u64>,
    /// The time that was decided for, in Unix seconds.
    #[serde(default)]
    pub at_unix_s: u64,
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
    /// The steps from the principal to the entity that it names; absent: it names the principal, or
    /// everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principal_path: Vec<PathStep>,
    /// The same from the resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_path: Vec<PathStep>,
    /// What its condition saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saw: Vec<Saw>,
}

/// A step from an entity to one that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathStep {
    /// Where it leads to, as Cedar text.
    pub to: String,
    /// The item that says so; absent: the path of a route does, or the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ItemName>,
    /// When it ends, in Unix seconds; absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
    /// Since when it is so, and by whom; only in reviews of access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
}

/// Since when an item is as it is, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Since {
    /// The revision that changed it last; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// When, in Unix milliseconds; absent: not known, as the audit log does not reach back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
    /// The token that did it; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// By which action, such as `role.assign`; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// A part of a condition, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saw {
    /// The part, in Cedar.
    pub part: String,
    /// Its value in Cedar, or Cedar's error.
    pub value: String,
}

/// A policy that came near.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Miss {
    /// Which it is, and what it says; the condition's values where that is what did not hold.
    #[serde(flatten)]
    pub policy: Determining,
    /// The part that did not hold.
    pub why: String,
    /// Whether it forbids; else it permits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forbids: bool,
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
