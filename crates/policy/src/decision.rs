//! What is asked and what is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Revision, Uid};
use crate::world::Handles;

/// One authorization question to a [`crate::World`].
///
/// The JSON values come from untrusted requests: Cedar's `__entity` and `__extn` escapes in them
/// are refused (as an [`EvaluationError`]-free [`QueryError`]; but see [`Query::cedar_json`]), null is absent, a float is a
/// Cedar decimal or refused by name.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use keepgate_policy::{Query, Uid};
///
/// let alice = Uid::new("user", "alice");
/// let read = Uid::action("read");
/// let order = Uid::new("order", "7");
/// let context = BTreeMap::from([("hour".to_owned(), 9.into())]);
/// let query = Query::new(&alice, &read, &order).context(&context);
/// assert_eq!(query.service, "");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Query<'a> {
    /// The service whose policies decide; empty: the only one that there is.
    pub service: &'a str,
    /// Who.
    pub principal: &'a Uid,
    /// Does what.
    pub action: &'a Uid,
    /// To what.
    pub resource: &'a Uid,
    /// The request's context; empty for none.
    pub context: &'a BTreeMap<String, serde_json::Value>,
    /// Parents that the principal has for this evaluation, besides those that are stored: `principal in`
    /// each of them holds, and in what each of them is in. They need not exist.
    pub principal_parents: &'a [Uid],
    /// Properties that overlay the principal's stored attributes for this evaluation.
    pub principal_properties: &'a BTreeMap<String, serde_json::Value>,
    /// Properties of the action; they become `context.action`, in place of a member `action` of
    /// the context itself.
    pub action_properties: &'a BTreeMap<String, serde_json::Value>,
    /// Properties that overlay the resource's stored attributes for this evaluation.
    pub resource_properties: &'a BTreeMap<String, serde_json::Value>,
    /// Whether the context may have Cedar's `__entity` and `__extn` escapes; see [`Query::cedar_json`].
    pub escapes: bool,
    /// When it is asked, in seconds since the Unix epoch; needed where grants or memberships end.
    pub at_unix_s: Option<u64>,
    /// What was looked up of it before; see [`Query::resolved_principal`].
    pub(crate) handles: Handles<'a>,
}

/// What is left out of a question.
static NOTHING: BTreeMap<String, serde_json::Value> = BTreeMap::new();

impl<'a> Query<'a> {
    /// Whether this principal may do this to that resource: by the only service that there is, with
    /// an empty context and the attributes as they are stored.
    pub fn new(principal: &'a Uid, action: &'a Uid, resource: &'a Uid) -> Query<'a> {
        Query {
            service: "",
            principal,
            action,
            resource,
            context: &NOTHING,
            principal_parents: &[],
            principal_properties: &NOTHING,
            action_properties: &NOTHING,
            resource_properties: &NOTHING,
            escapes: false,
            at_unix_s: None,
            handles: Handles::default(),
        }
    }

    /// Grants and memberships that end up to this time do not count; seconds since the Unix epoch.
    /// Without it nothing is decided where one ends ([`QueryError::Time`]).
    #[must_use]
    pub fn at(self, unix_s: u64) -> Query<'a> {
        Query { at_unix_s: Some(unix_s), ..self }
    }

    /// The policies of this service decide.
    #[must_use]
    pub fn service(self, service: &'a str) -> Query<'a> {
        Query { service, ..self }
    }

    /// The request's context: a JSON value a member.
    #[must_use]
    pub fn context(self, context: &'a BTreeMap<String, serde_json::Value>) -> Query<'a> {
        Query { context, ..self }
    }

    /// The context is written as Cedar's own request files are: `__entity` and `__extn` name entities
    /// and make values of extension types. Only for questions of those who may name any entity.
    #[must_use]
    pub fn cedar_json(self) -> Query<'a> {
        Query { escapes: true, ..self }
    }

    /// Parents that the principal has besides those that are stored.
    #[must_use]
    pub fn principal_parents(self, principal_parents: &'a [Uid]) -> Query<'a> {
        Query { principal_parents, ..self }
    }

    /// Properties that overlay the principal's stored attributes.
    #[must_use]
    pub fn principal_properties(
        self,
        principal_properties: &'a BTreeMap<String, serde_json::Value>,
    ) -> Query<'a> {
        Query { principal_properties, ..self }
    }

    /// Properties of the action.
    #[must_use]
    pub fn action_properties(
        self,
        action_properties: &'a BTreeMap<String, serde_json::Value>,
    ) -> Query<'a> {
        Query { action_properties, ..self }
    }

    /// Properties that overlay the resource's stored attributes.
    #[must_use]
    pub fn resource_properties(
        self,
        resource_properties: &'a BTreeMap<String, serde_json::Value>,
    ) -> Query<'a> {
        Query { resource_properties, ..self }
    }
}

/// There is no decision, and that is never a denial. The question cannot be put to the engine, a
/// caller's 400; or a policy cannot be evaluated ([`QueryError::Undecided`]), a 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No such service in this world; empty: none was named, and there is not just one.
    #[error("{}", unknown_service(.0))]
    UnknownService(String),
    /// Some grant or membership ends, and the question does not say when it is asked.
    #[error("a grant or a membership ends, and the question does not say when it is asked")]
    Time,
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

/// An answer without the names of the policies that determined it; see [`crate::World::judge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Allowed or not, and for what kind of reason.
    pub effect: Effect,
    /// Policies that failed to evaluate, sorted by name.
    pub errors: Vec<EvaluationError>,
    /// The revision that was asked.
    pub revision: Revision,
}

fn unknown_service(name: &str) -> String {
    match name {
        "" => "expected the name of a service: there is not just one".to_owned(),
        name => format!("unknown service `{name}`"),
    }
}

impl QueryError {
    /// Whether the caller did nothing wrong: the same question may be decided after a change of
    /// the policies, on a thread with more stack, or with the time that was left out.
    pub fn is_undecided(&self) -> bool {
        matches!(self, QueryError::Undecided { .. } | QueryError::Time)
    }
}

impl Decision {
    /// Whether the effect is [`Effect::Allow`].
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}
