//! The shapes of AuthZEN bodies for the OpenAPI document. `policy::authzen` reads and writes them;
//! the tests send both what these shapes say.

use std::collections::BTreeMap;

use keepgate_api::Json;
use schemars::JsonSchema;

/// Properties by name.
type Properties = BTreeMap<String, Json>;

/// Who, or with what (AuthZEN 1.0, section 5).
#[derive(JsonSchema)]
#[schemars(rename = "AuthzenEntity")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Entity {
    /// Its type.
    #[serde(rename = "type")]
    #[schemars(length(min = 1))]
    kind: String,
    /// Its id.
    #[schemars(length(min = 1))]
    id: String,
    /// What is known of it.
    #[serde(default)]
    properties: Properties,
}

/// Does what.
#[derive(JsonSchema)]
#[schemars(rename = "AuthzenAction")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Action {
    /// Its name.
    #[schemars(length(min = 1))]
    name: String,
    /// What is known of it.
    #[serde(default)]
    properties: Properties,
}

/// An Access Evaluation request (section 6.1).
#[derive(JsonSchema)]
#[schemars(rename = "Evaluation")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Asked {
    subject: Entity,
    action: Action,
    resource: Entity,
    #[serde(default)]
    context: Properties,
}

/// One item of a batch; what it leaves out is the batch's.
#[derive(JsonSchema)]
#[schemars(rename = "EvaluationItem")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct AskedItem {
    #[serde(default)]
    #[schemars(with = "Entity")]
    subject: Option<Entity>,
    #[serde(default)]
    #[schemars(with = "Action")]
    action: Option<Action>,
    #[serde(default)]
    #[schemars(with = "Entity")]
    resource: Option<Entity>,
    #[serde(default)]
    #[schemars(with = "Properties")]
    context: Option<Properties>,
}

/// An Access Evaluations request (section 7.1).
#[derive(JsonSchema)]
#[schemars(rename = "EvaluationBatch")]
#[schemars(extend("anyOf" = [
    { "required": ["evaluations"], "properties": { "evaluations": {
        "type": "array", "items": { "$ref": "#/components/schemas/EvaluationItem" }, "minItems": 1,
    } } },
    { "required": ["subject", "action", "resource"] },
]))]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct AskedMany {
    /// Of each item that has none.
    #[serde(flatten)]
    defaults: AskedItem,
    /// How the batch is answered.
    #[serde(default)]
    options: Options,
    #[serde(default)]
    evaluations: Vec<AskedItem>,
}

/// How a batch is answered.
#[derive(Default, JsonSchema)]
#[schemars(rename = "EvaluationOptions")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Options {
    /// Whether to stop early.
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// Whether a batch stops early (section 7.1.2).
#[derive(Default, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "EvaluationsSemantic")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum Semantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

/// A Decision (section 5.5).
#[derive(JsonSchema)]
#[schemars(rename = "Decision")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Decided {
    /// Whether it is permitted.
    decision: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<DecidedContext>,
}

/// What is said beside a denial.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DecisionContext")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum DecidedContext {
    /// `forbid` or `no_permit`.
    Reason(String),
    /// No decision, but an error of this item of a batch.
    Error(DecidedError),
}

/// Why an item of a batch has no decision.
#[derive(JsonSchema)]
#[schemars(rename = "DecisionError")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct DecidedError {
    /// As an HTTP status.
    status: u16,
    /// What is wrong.
    message: String,
}

/// An Access Evaluations response (section 7.2).
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Decisions")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum DecidedMany {
    /// To a request without `evaluations`.
    One(Decided),
    /// To a batch.
    Many {
        /// In the order of the request; shorter where the semantic stopped it.
        evaluations: Vec<Decided>,
    },
}
