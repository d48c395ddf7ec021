//! Reviews of access: who may do what on a resource, what somebody may do, who is in a role.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ItemName, PathStep, Since};

/// A page of those who may do something on a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceAccess {
    /// The revision that was looked at.
    pub revision: u64,
    /// The service whose policies decide.
    pub service: String,
    /// On the first page, those who are not named one by one come first; then by type and id.
    pub entries: Vec<AccessEntry>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Access that somebody has; of each list of policies the first hundred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessEntry {
    /// Who, as Cedar text; `any`, or `any user`: everyone, or all of a type.
    pub principal: String,
    /// What may be done; `any other`: whatever is not named, too.
    pub actions: Vec<String>,
    /// Whether it depends on the request: then `when` or `unless` say on what.
    pub conditional: bool,
    /// What gives it without a condition of the request.
    pub by: Vec<GivenBy>,
    /// What gives it where the condition holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<GivenBy>,
    /// What takes it away where the condition holds, or from whom the policy is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<GivenBy>,
}

/// A policy, and how it applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenBy {
    /// The policy, link or grant.
    #[serde(flatten)]
    pub item: ItemName,
    /// Since when it says so, and by whom.
    pub since: Since,
    /// From the principal to the entity that it names; absent: it names the principal, or everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<PathStep>,
    /// Its condition, in Cedar; absent: it has none, or one that holds as things are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// A page of the policies that apply to somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrincipalAccess {
    /// The revision that was looked at.
    pub revision: u64,
    /// The service whose policies they are.
    pub service: String,
    /// By id.
    pub entries: Vec<Holding>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A policy that applies to somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holding {
    /// Whether it permits or forbids.
    pub effect: PolicyEffect,
    /// The policy, and how it applies.
    #[serde(flatten)]
    pub given: GivenBy,
    /// Its actions, in Cedar.
    pub action: String,
    /// Its resources, in Cedar.
    pub resource: String,
    /// When it ends, in Unix seconds; absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
    /// What it says, in Cedar.
    pub text: String,
}

/// What a policy does where it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyEffect {
    /// It permits.
    Permit,
    /// It forbids.
    Forbid,
}

/// A page of those who are in a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoleAccess {
    /// The revision that was looked at.
    pub revision: u64,
    /// By type and id; roles in the role included.
    pub entries: Vec<RoleEntry>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Somebody who is in a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoleEntry {
    /// Who, as Cedar text.
    pub member: String,
    /// From there to the role; one step: a membership of its own.
    pub path: Vec<PathStep>,
}
