//! What is asked and what is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Revision, Uid};

/// One authorization question to a [`crate::World`].
///
/// The JSON values come from untrusted requests: Cedar's `__entity` and `__extn` escapes in them
/// are refused (as an [`EvaluationError`]-free [`QueryError`]), null is absent, a float is a
/// Cedar decimal or refused by name.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The service whose policies decide.
    pub service: &'a str,
    /// Who.
    pub principal: &'a Uid,
    /// Does what.
    pub action: &'a Uid,
    /// To what.
    pub resource: &'a Uid,
    /// The request's context; empty for none.
    pub context: &'a BTreeMap<String, serde_json::Value>,
    /// Properties that overlay the principal's stored attributes for this evaluation.
    pub principal_properties: &'a BTreeMap<String, serde_json::Value>,
    /// Properties of the action; they become `context.action`, in place of a member `action` of
    /// the context itself.
    pub action_properties: &'a BTreeMap<String, serde_json::Value>,
    /// Properties that overlay the resource's stored attributes for this evaluation.
    pub resource_properties: &'a BTreeMap<String, serde_json::Value>,
}

/// There is no decision, and that is never a denial. The question cannot be put to the engine, a
/// caller's 400; or a policy cannot be evaluated ([`QueryError::Undecided`]), a 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No such service in this world.
    #[error("unknown service `{0}`")]
    UnknownService(String),
    /// A type that is no Cedar name, where one is needed.
    #[error("`{0}` is not an entity type")]
    Type(String),
    /// A policy whose scope matches was not evaluated to its end, for want of a resource. Cedar
    /// skips such a policy; here it might forbid, so nothing is decided.
    #[error("policy `{policy}` cannot be evaluated: {reason}")]
    Undecided {
        /// The policy; `schema` where it is the service's schema.
        policy: PolicyName,
        /// The bound that was met, and what to do.
        reason: String,
    },
    /// A value that cannot be a Cedar value.
    #[error("`{path}`: {reason}")]
    Value {
        /// Where in the request, such as `context.ip`.
        path: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// At least one `forbid` matched.
    Forbid,
    /// No `permit` matched.
    NoPermit,
}

/// Allowed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// At least one `permit` and no `forbid` matched.
    Allow,
    /// Denied, and why.
    Deny(DenyReason),
}

/// A policy's id within its service.
pub type PolicyName = Arc<str>;

/// A policy whose evaluation failed; Cedar skips it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationError {
    /// The policy.
    pub policy: PolicyName,
    /// Cedar's message.
    pub message: String,
}

/// The answer, as Cedar's authorizer would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed or not, and for what kind of reason.
    pub effect: Effect,
    /// The policies that determined it, sorted: the forbids that matched, else the permits.
    pub determining: Vec<PolicyName>,
    /// Policies that failed to evaluate, sorted by name.
    pub errors: Vec<EvaluationError>,
    /// The revision that was asked.
    pub revision: Revision,
}

impl QueryError {
    /// Whether the caller did nothing wrong: the same question may be decided after a change of
    /// the policies, or on a thread with more stack.
    pub fn is_undecided(&self) -> bool {
        matches!(self, QueryError::Undecided { .. })
    }
}

impl Decision {
    /// Whether the effect is [`Effect::Allow`].
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}
