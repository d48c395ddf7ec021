//! The OpenID AuthZEN Authorization API 1.0: bodies and their meaning.
//!
//! Bodies are read by hand from strict JSON (RFC 7493: no member twice), so that an error names
//! the member. Unknown members are ignored; one that is known and has another type than the
//! specification says is refused, null included. Each item of a batch is an [`Evaluation`] of its own
//! and shares nothing with its neighbors but the defaults, whole entities at a time (section
//! 7.1.1: no merging of members). An item that is no valid evaluation is a denial with an error in its
//! context; only what is wrong with the body as a whole is a [`BadRequest`].
//!
//! This module knows no HTTP and no world: the caller decides each evaluation, see
//! [`Evaluation::query`] and [`Batch::answer`].
//!
//! # Types that are no Cedar names
//!
//! A type that Cedar takes as an entity type (`user`, `shop::order`) is that type. Any other, and
//! any that starts with `x__`, is written `x__` and then byte by byte: letters and digits as they
//! are, everything else as `_` and two hexadecimal digits in capitals. `user-account` is
//! `x__user_2Daccount` in policies. [`cedar_type`] and [`authzen_type`] are inverse to each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::decision::{Decision, DenyReason, Effect, Query, QueryError};
use crate::uid::{Uid, is_type_name};

/// The most evaluations in one batch.
pub const MAX_EVALUATIONS: usize = 5_000;

/// The most JSON values of a batch, those that items share counted for each of them: each item is
/// decided with its own properties and context, so a batch costs this product, and not its bytes.
pub const MAX_VALUES: usize = 4_000_000;

const ESCAPE: &str = "x__";

/// What is wrong with a request: the caller's 400, or an error in a batch item's context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No JSON, or a member twice.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    Body,
    /// A member that must be there is not.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A member has another type than it must have.
    #[error("`{member}` is not {expected}")]
    Type {
        /// The member, such as `subject.id`.
        member: String,
        /// What it must be, with its article.
        expected: &'static str,
    },
    /// `options.evaluations_semantic` has a value that is not specified.
    #[error(
        "expected `execute_all`, `deny_on_first_deny` or `permit_on_first_permit` in \
         `options.evaluations_semantic`, got `{0}`"
    )]
    Semantic(String),
    /// More than [`MAX_EVALUATIONS`].
    #[error("`evaluations` has {0} items, at most {MAX_EVALUATIONS} are answered")]
    TooMany(usize),
    /// More than [`MAX_VALUES`].
    #[error(
        "the evaluations have {0} values in their properties and contexts, those they share \
         counted for each; at most {MAX_VALUES} are answered: send fewer evaluations at a time, or \
         smaller contexts"
    )]
    TooMuch(usize),
}

/// Properties of an entity, or the context. The items of a batch share those that they take from
/// its defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    members: Arc<BTreeMap<String, Value>>,
    /// How many JSON values they are.
    values: usize,
}

impl std::ops::Deref for Properties {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

impl Properties {
    fn of(object: &Map<String, Value>) -> Properties {
        let members = object.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Properties { members: Arc::new(members), values: object.values().map(count).sum() }
    }
}

/// A value and all within it; nesting is bounded by the parser.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The subject.
    pub principal: Uid,
    /// The subject's properties.
    pub principal_properties: Properties,
    /// The action, `Action::"NAME"` (or another type `..::Action` where the name is such an
    /// identifier).
    pub action: Uid,
    /// The action's properties.
    pub action_properties: Properties,
    /// The resource.
    pub resource: Uid,
    /// The resource's properties.
    pub resource_properties: Properties,
    /// The context.
    pub context: Properties,
}

impl Evaluation {
    /// Reads the body of an Access Evaluation request (section 6.1).
    pub fn parse(body: &[u8]) -> Result<Evaluation, BadRequest> {
        let members = object(json(body)?)?;
        Fields::top(&members)?.evaluation()
    }

    /// How many JSON values it is decided with.
    pub fn values(&self) -> usize {
        [
            &self.principal_properties,
            &self.action_properties,
            &self.resource_properties,
            &self.context,
        ]
        .into_iter()
        .map(|properties| properties.values)
        .fold(1, usize::saturating_add)
    }

    /// The question to a world.
    pub fn query<'a>(&'a self, service: &'a str) -> Query<'a> {
        Query::new(&self.principal, &self.action, &self.resource)
            .service(service)
            .context(&self.context)
            .principal_properties(&self.principal_properties)
            .action_properties(&self.action_properties)
            .resource_properties(&self.resource_properties)
    }
}

/// The body of an Access Evaluations request (section 7.1).
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// `evaluations` is absent or empty: as an Access Evaluation request.
    One(Box<Evaluation>),
    /// One question an item, or what is wrong with the item.
    Many {
        /// When to stop.
        semantic: Semantic,
        /// The items in their order; never empty.
        items: Vec<Result<Evaluation, BadRequest>>,
    },
}

/// When a batch stops (section 7.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantic {
    /// Never: every item is answered.
    #[default]
    ExecuteAll,
    /// After the first denial or failure.
    DenyOnFirstDeny,
    /// After the first permit.
    PermitOnFirstPermit,
}

impl Batch {
    /// Reads the body of an Access Evaluations request.
    pub fn parse(body: &[u8]) -> Result<Batch, BadRequest> {
        let mut members = object(json(body)?)?;
        let evaluations = match members.remove("evaluations") {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(wrong("evaluations", "an array")),
        };
        let semantic = semantic(members.get("options"))?;
        let top = Fields::top(&members)?;
        if evaluations.is_empty() {
            return top.evaluation().map(Box::new).map(Batch::One);
        }
        if evaluations.len() > MAX_EVALUATIONS {
            return Err(BadRequest::TooMany(evaluations.len()));
        }
        let items: Vec<Result<Evaluation, BadRequest>> =
            evaluations.iter().map(|item| top.overridden(item)?.evaluation()).collect();
        let values = items.iter().flatten().map(Evaluation::values);
        let values = values.fold(0, usize::saturating_add);
        if values > MAX_VALUES {
            return Err(BadRequest::TooMuch(values));
        }
        Ok(Batch::Many { semantic, items })
    }

    /// Decides one by one, in order, until the semantic is satisfied. An `Err` of `decide` (there is no
    /// decision to be had) ends it all: a batch is never answered in part.
    pub fn answer<E>(
        &self,
        mut decide: impl FnMut(&Evaluation) -> Result<Response, E>,
    ) -> Result<BatchResponse, E> {
        let (semantic, items) = match self {
            Batch::One(evaluation) => return decide(evaluation).map(BatchResponse::One),
            Batch::Many { semantic, items } => (*semantic, items),
        };
        let mut evaluations = Vec::with_capacity(items.len());
        for item in items {
            let response = match item {
                Ok(evaluation) => decide(evaluation)?,
                Err(error) => Response::error(400, error.to_string()),
            };
            let is_last = match semantic {
                Semantic::ExecuteAll => false,
                Semantic::DenyOnFirstDeny => !response.decision,
                Semantic::PermitOnFirstPermit => response.decision,
            };
            evaluations.push(response);
            if is_last {
                break;
            }
        }
        Ok(BatchResponse::Many { evaluations })
    }
}

/// A Decision (section 5.5).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    /// Whether the access is permitted.
    pub decision: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<ResponseContext>,
}

/// What Keepgate says beside a denial.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseContext {
    /// A decision, and of which kind: `forbid` or `no_permit`.
    Reason(&'static str),
    /// No decision, but an error of this item of a batch.
    Error {
        /// As an HTTP status.
        status: u16,
        /// What is wrong.
        message: String,
    },
}

impl Response {
    /// A decision of the engine.
    pub fn decided(decision: &Decision) -> Response {
        let context = match decision.effect {
            Effect::Allow => None,
            Effect::Deny(DenyReason::Forbid) => Some(ResponseContext::Reason("forbid")),
            Effect::Deny(DenyReason::NoPermit) => Some(ResponseContext::Reason("no_permit")),
        };
        Response { decision: decision.is_allowed(), context }
    }

    /// A batch item that has no decision.
    pub fn error(status: u16, message: impl Into<String>) -> Response {
        let context = ResponseContext::Error { status, message: message.into() };
        Response { decision: false, context: Some(context) }
    }

    /// A batch item that has no decision: 400 where it is at fault, 503 where the policies are.
    pub fn refused(error: &QueryError) -> Response {
        let status = if error.is_undecided() { 503 } else { 400 };
        Response::error(status, error.to_string())
    }
}

/// The body of an Access Evaluations response (section 7.2).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BatchResponse {
    /// To [`Batch::One`].
    One(Response),
    /// To [`Batch::Many`]; shorter than the request where the semantic stopped it.
    Many {
        /// In the order of the request.
        evaluations: Vec<Response>,
    },
}

/// Where the endpoints of a policy decision point are (section 9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Metadata {
    policy_decision_point: String,
    access_evaluation_endpoint: String,
    access_evaluations_endpoint: String,
}

impl Metadata {
    /// Of the one at this URL, which has no slash at its end.
    pub fn of(base: &str) -> Metadata {
        Metadata {
            policy_decision_point: base.to_owned(),
            access_evaluation_endpoint: format!("{base}/access/v1/evaluation"),
            access_evaluations_endpoint: format!("{base}/access/v1/evaluations"),
        }
    }
}

/// The Cedar entity type of an AuthZEN type; see the module.
pub fn cedar_type(kind: &str) -> Cow<'_, str> {
    if is_type_name(kind) && !kind.starts_with(ESCAPE) {
        return Cow::Borrowed(kind);
    }
    let mut escaped = String::with_capacity(ESCAPE.len() + kind.len() + 8);
    escaped.push_str(ESCAPE);
    for byte in kind.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("_{byte:02X}"));
        }
    }
    Cow::Owned(escaped)
}

/// The AuthZEN type of a Cedar entity type; a text that no type is escaped to stays as it is.
pub fn authzen_type(kind: &str) -> Cow<'_, str> {
    let Some(escaped) = kind.strip_prefix(ESCAPE) else {
        return Cow::Borrowed(kind);
    };
    // `_` only occurs before two digits, so percent-decoding does it.
    let decoded = crate::router::decoded_with(escaped.as_bytes(), b'_');
    match decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(original) if cedar_type(&original) == kind => Cow::Owned(original),
        _ => Cow::Borrowed(kind),
    }
}

/// The four members of an evaluation, each checked or absent.
#[derive(Clone)]
struct Fields {
    subject: Option<Entity>,
    action: Option<Entity>,
    resource: Option<Entity>,
    context: Option<Properties>,
}

#[derive(Clone)]
struct Entity {
    uid: Uid,
    properties: Properties,
}

impl Fields {
    fn top(members: &Map<String, Value>) -> Result<Fields, BadRequest> {
        Ok(Fields {
            subject: entity(members, "subject")?,
            action: action(members)?,
            resource: entity(members, "resource")?,
            context: optional_object(members, "context", "context")?.map(Properties::of),
        })
    }

    /// These as defaults for the members that an item does not have.
    fn overridden(&self, item: &Value) -> Result<Fields, BadRequest> {
        let members = item.as_object().ok_or_else(|| wrong("evaluations[]", "an object"))?;
        let own = Fields::top(members)?;
        Ok(Fields {
            subject: own.subject.or_else(|| self.subject.clone()),
            action: own.action.or_else(|| self.action.clone()),
            resource: own.resource.or_else(|| self.resource.clone()),
            context: own.context.or_else(|| self.context.clone()),
        })
    }

    fn evaluation(&self) -> Result<Evaluation, BadRequest> {
        let missing = |member: &str| BadRequest::Missing(member.to_owned());
        let subject = self.subject.clone().ok_or_else(|| missing("subject"))?;
        let action = self.action.clone().ok_or_else(|| missing("action"))?;
        let resource = self.resource.clone().ok_or_else(|| missing("resource"))?;
        Ok(Evaluation {
            principal: subject.uid,
            principal_properties: subject.properties,
            action: action.uid,
            action_properties: action.properties,
            resource: resource.uid,
            resource_properties: resource.properties,
            context: self.context.clone().unwrap_or_default(),
        })
    }
}

fn entity(members: &Map<String, Value>, member: &str) -> Result<Option<Entity>, BadRequest> {
    let Some(members) = optional_object(members, member, member)? else {
        return Ok(None);
    };
    let kind = text(members, member, "type")?;
    let id = text(members, member, "id")?;
    let properties = optional_object(members, "properties", &format!("{member}.properties"))?;
    Ok(Some(Entity {
        uid: Uid::new(cedar_type(kind), id),
        properties: properties.map(Properties::of).unwrap_or_default(),
    }))
}

fn action(members: &Map<String, Value>) -> Result<Option<Entity>, BadRequest> {
    let Some(members) = optional_object(members, "action", "action")? else {
        return Ok(None);
    };
    let name = text(members, "action", "name")?;
    let properties = optional_object(members, "properties", "action.properties")?;
    let uid = match name.parse::<Uid>() {
        Ok(uid) if uid.kind == "Action" || uid.kind.ends_with("::Action") => uid,
        _ => Uid::new("Action", name),
    };
    Ok(Some(Entity { uid, properties: properties.map(Properties::of).unwrap_or_default() }))
}

fn semantic(options: Option<&Value>) -> Result<Semantic, BadRequest> {
    let options = match options {
        None => return Ok(Semantic::ExecuteAll),
        Some(Value::Object(options)) => options,
        Some(_) => return Err(wrong("options", "an object")),
    };
    match options.get("evaluations_semantic") {
        None => Ok(Semantic::ExecuteAll),
        Some(Value::String(text)) => match text.as_str() {
            "execute_all" => Ok(Semantic::ExecuteAll),
            "deny_on_first_deny" => Ok(Semantic::DenyOnFirstDeny),
            "permit_on_first_permit" => Ok(Semantic::PermitOnFirstPermit),
            _ => Err(BadRequest::Semantic(text.chars().take(100).collect())),
        },
        Some(_) => Err(wrong("options.evaluations_semantic", "a string")),
    }
}

fn text<'a>(members: &'a Map<String, Value>, of: &str, name: &str) -> Result<&'a str, BadRequest> {
    let member = || format!("{of}.{name}");
    match members.get(name) {
        None => Err(BadRequest::Missing(member())),
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => Err(wrong(&member(), "a string that is not empty")),
    }
}

fn optional_object<'a>(
    members: &'a Map<String, Value>,
    name: &str,
    member: &str,
) -> Result<Option<&'a Map<String, Value>>, BadRequest> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong(member, "an object")),
    }
}

fn json(body: &[u8]) -> Result<Value, BadRequest> {
    crate::json::parse(body).map_err(|error| BadRequest::Json(error.to_string()))
}

fn object(value: Value) -> Result<Map<String, Value>, BadRequest> {
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(BadRequest::Body),
    }
}

fn wrong(member: &str, expected: &'static str) -> BadRequest {
    BadRequest::Type { member: member.to_owned(), expected }
}
