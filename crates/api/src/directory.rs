//! Who is in which role.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Brought, Uid, UidInput};

/// A membership to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Who.
    pub member: UidInput,
    /// In which role.
    pub role: UidInput,
    /// When it ends, in Unix seconds; absent: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
}

/// A membership to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MembershipName {
    /// Who.
    pub member: UidInput,
    /// In which role.
    pub role: UidInput,
}

/// A page of memberships.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MemberPage")]
pub struct Members {
    /// The newest revision.
    pub revision: u64,
    /// By member.
    pub members: Vec<Member>,
    /// Where the next page begins (`?after=`); absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Who.
    pub member: Uid,
    /// In which role.
    pub role: Uid,
    /// The service whose files brought it; empty: a command did.
    #[serde(default)]
    pub source: String,
    /// When it ends, in Unix seconds; it may have ended. Absent: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_s: Option<u64>,
    /// Who brought it.
    #[serde(default)]
    pub brought: Brought,
    /// When it was changed last.
    pub revision: u64,
}
