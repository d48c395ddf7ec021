//! One operation as a route.

use super::Problems;
use super::node::{Node, Value, Want};
use crate::route::{ResourceRule, Route};
use crate::{duration, size};

/// What is read of an operation.
pub(super) static OPERATION: Want = Want::Object(&[
    ("operationId", &Want::Leaf),
    ("summary", &Want::Leaf),
    ("description", &Want::Leaf),
    ("servers", &super::base::SERVERS),
    ("x-keepgate-resource", &Want::Each(&Want::Leaf)),
]);

/// Members of ours that an operation may have.
const KNOWN: [&str; 8] = [
    "x-keepgate-action",
    "x-keepgate-resource",
    "x-keepgate-anonymous",
    "x-keepgate-max-age",
    "x-keepgate-cost",
    "x-keepgate-answer-timeout",
    "x-keepgate-answer-idle",
    "x-keepgate-body-bytes",
];

/// The route; none: it is no operation, which is told.
pub(super) fn route(
    operation: &Node,
    method: &str,
    path: String,
    problems: &mut Problems,
) -> Option<Route> {
    if !matches!(operation.value, Value::Object(_) | Value::Null) {
        let found = operation.value.what();
        problems.add(operation.line, format!("expected an operation, found {found}"));
        return None;
    }
    operation.refuse_ours("an operation", &KNOWN, problems);
    let mut route = Route::new(method, path);
    let mut wrong = |node: &Node, message: String| problems.add(node.line, message);
    let words = |name: &str| operation.get(name).and_then(Node::scalar).unwrap_or_default();
    // Numbers too: some generators write them.
    let (id, summary) = (words("operationId"), words("summary"));
    let is_said = !summary.trim().is_empty();
    route.describe(&id, &if is_said { summary } else { words("description") });
    for (name, node) in operation.members() {
        let expected =
            |what: &str| format!("`{name}`: expected {what}, found {}", node.value.what());
        match name {
            "x-keepgate-action" => match node.text() {
                Some(text) => route.action = Some(text.to_owned()),
                None => wrong(node, expected("a text")),
            },
            "x-keepgate-anonymous" => match node.value {
                Value::Bool(anonymous) => route.anonymous = anonymous,
                _ => wrong(node, expected("`true` or `false`")),
            },
            "x-keepgate-cost" => match number(node) {
                Some(cost) => route.cost = Some(cost),
                None => wrong(node, expected("a whole number of at least 1")),
            },
            "x-keepgate-resource" => match resource(node) {
                Ok(rule) => route.resource = Some(rule),
                Err(found) => {
                    wrong(node, format!("`{name}`: expected `{{type, param}}`, found {found}"));
                }
            },
            "x-keepgate-max-age" => match ms(node, duration::parse_ms) {
                Ok(ms) => route.max_age_ms = Some(ms),
                Err(reason) => wrong(node, format!("`{name}`: {reason}")),
            },
            "x-keepgate-answer-timeout" => match ms(node, duration::parse_wait_ms) {
                Ok(ms) => route.answer_timeout_ms = Some(ms),
                Err(reason) => wrong(node, format!("`{name}`: {reason}")),
            },
            "x-keepgate-answer-idle" => match ms(node, duration::parse_wait_ms) {
                Ok(ms) => route.answer_idle_ms = Some(ms),
                Err(reason) => wrong(node, format!("`{name}`: {reason}")),
            },
            "x-keepgate-body-bytes" => match size::parse_body(&node.scalar().unwrap_or_default()) {
                Ok(bytes) => route.body_bytes = Some(bytes),
                Err(reason) => wrong(node, format!("`{name}`: {reason}")),
            },
            _ => {}
        }
    }
    Some(route)
}

fn number(node: &Node) -> Option<u32> {
    match &node.value {
        Value::Number(text) => text.parse().ok(),
        _ => None,
    }
}

fn ms<E: ToString>(node: &Node, parse: impl Fn(&str) -> Result<u64, E>) -> Result<u64, String> {
    parse(&node.scalar().unwrap_or_default()).map_err(|error| error.to_string())
}

/// The resource, or what is there in its place.
fn resource(node: &Node) -> Result<ResourceRule, String> {
    if !matches!(node.value, Value::Object(_)) {
        return Err(node.value.what().to_owned());
    }
    if let Some((name, _)) = node.members().find(|(name, _)| !["type", "param"].contains(name)) {
        return Err(format!("the member `{name}`"));
    }
    let text = |name: &str| match node.get(name).map(|node| &node.value) {
        Some(Value::Text(text)) => Ok(text.clone()),
        Some(other) => Err(format!("{} as `{name}`", other.what())),
        None => Err(format!("no `{name}`")),
    };
    Ok(ResourceRule { kind: text("type")?, param: text("param")? })
}
