//! Routes from OpenAPI 3.0 and 3.1 and Swagger 2.0 documents, in JSON or YAML.
//!
//! Only what makes a route is read; the rest (schemas, parameters, examples: most of a large
//! document) is skipped without being built. What is wrong is told all at once, with lines. An
//! operation with `security: []` does not become open by that: only `x-keepgate-anonymous: true`
//! opens it.
//!
//! The paths are those below the document's servers, which must agree on one base path; a document
//! whose servers differ says `x-keepgate-base-path` at its top. Parameters that take several segments
//! in other systems become `{*rest}`.
//!
//! An operation may say `x-keepgate-action` (text), `x-keepgate-resource` (`{type, param}`),
//! `x-keepgate-anonymous` (boolean), `x-keepgate-max-age` (such as `5s`), `x-keepgate-cost` (a
//! number), `x-keepgate-answer-timeout` and `x-keepgate-answer-idle` (such as `10m`). Any other
//! `x-keepgate-` member, or one of these elsewhere, is refused by name: a rule that is not read must
//! not look as if it were.

mod base;
mod json;
mod node;
mod operation;
mod wildcard;
mod yaml;

use std::collections::HashMap;
use std::fmt;

use self::node::{Node, Value, Want};
use crate::route::{MAX_ROUTES, Route};
use crate::router;
use crate::service::PathsFold;

pub(crate) use self::wildcard::own_spelling;

/// The largest document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;
/// The most problems of a document that are told.
pub const MAX_PROBLEMS: usize = 1_000;
/// The longest message, in bytes: what is quoted may be of any length.
const MAX_MESSAGE_BYTES: usize = 1_000;
/// How many `$ref`s may lead to one path item.
const MAX_REFS: usize = 8;

/// A route, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The line of the document, counted from 1.
    pub line: usize,
    /// The route.
    pub route: Route,
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The routes of a document, in its order. A text that starts with `{` is read as JSON, any
/// other as YAML.
///
/// # Errors
/// All that is wrong, at most [`MAX_PROBLEMS`] of it.
pub fn load(text: &str) -> Result<Vec<Placed>, Vec<Problem>> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!(
            "expected a document of at most {MAX_DOCUMENT_BYTES} bytes, found {}",
            text.len()
        );
        return Err(vec![Problem { line: None, message }]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = if text.trim_start().starts_with('{') {
        json::read(text, &DOCUMENT)
    } else {
        yaml::read(text, &DOCUMENT)
    };
    let root = read.map_err(|Problem { line, message }| {
        let message = cut(message);
        vec![Problem { line, message }]
    })?;
    let mut problems = Problems::default();
    let document = Document::new(&root, &mut problems);
    let routes = document.map(|document| document.routes(&mut problems)).unwrap_or_default();
    problems.end().map(|()| routes)
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push_str(" ..");
    }
    message
}

/// What is wrong, within the bound.
#[derive(Default)]
struct Problems {
    told: Vec<Problem>,
    untold: usize,
}

impl Problems {
    fn add(&mut self, line: usize, message: impl Into<String>) {
        if self.told.len() < MAX_PROBLEMS {
            let message = cut(message.into());
            self.told.push(Problem { line: Some(line), message });
        } else {
            self.untold += 1;
        }
    }

    /// In the order of the document.
    fn end(mut self) -> Result<(), Vec<Problem>> {
        if self.told.is_empty() {
            return Ok(());
        }
        self.told.sort_by_key(|problem| problem.line);
        self.told.dedup();
        if self.untold > 0 {
            let message = format!("{} more problems are not shown", self.untold);
            self.told.push(Problem { line: None, message });
        }
        Err(self.told)
    }
}

/// What is read of a document.
static DOCUMENT: Want = Want::Object(&[
    ("openapi", &Want::Leaf),
    ("swagger", &Want::Leaf),
    ("basePath", &Want::Leaf),
    ("x-keepgate-base-path", &Want::Leaf),
    ("servers", &base::SERVERS),
    ("paths", &PATHS),
    ("components", &Want::Object(&[("pathItems", &PATHS)])),
]);
static PATHS: Want = Want::Each(&PATH_ITEM);
static PATH_ITEM: Want = Want::Object(&[
    ("$ref", &Want::Leaf),
    ("servers", &base::SERVERS),
    ("get", &operation::OPERATION),
    ("put", &operation::OPERATION),
    ("post", &operation::OPERATION),
    ("delete", &operation::OPERATION),
    ("options", &operation::OPERATION),
    ("head", &operation::OPERATION),
    ("patch", &operation::OPERATION),
    ("trace", &operation::OPERATION),
]);

const METHODS: [(&str, &str); 8] = [
    ("get", "GET"),
    ("put", "PUT"),
    ("post", "POST"),
    ("delete", "DELETE"),
    ("options", "OPTIONS"),
    ("head", "HEAD"),
    ("patch", "PATCH"),
    ("trace", "TRACE"),
];

/// A document of a version that is read.
struct Document<'d> {
    root: &'d Node,
    is_swagger: bool,
    paths: Vec<(&'d str, &'d Node)>,
    by_path: HashMap<&'d str, &'d Node>,
    by_name: HashMap<&'d str, &'d Node>,
}

/// An operation of a path, and the servers that it is reached at.
struct Found<'d> {
    method: &'static str,
    path: &'d str,
    operation: &'d Node,
    /// None: the document's.
    servers: Option<&'d Node>,
}

impl<'d> Document<'d> {
    fn new(root: &'d Node, problems: &mut Problems) -> Option<Document<'d>> {
        let Value::Object(_) = &root.value else {
            let found = root.value.what();
            problems.add(root.line, format!("expected an OpenAPI document, found {found}"));
            return None;
        };
        root.refuse_ours("an OpenAPI document", &["x-keepgate-base-path"], problems);
        let is_swagger = is_swagger(root, problems)?;
        let components = root.get("components");
        if let Some(components) = components {
            components.refuse_ours("the components", &[], problems);
        }
        let paths = items(root.get("paths"), "`paths`", problems);
        let named = items(components.and_then(|c| c.get("pathItems")), "`pathItems`", problems);
        let by_path = paths.iter().copied().collect();
        let by_name = named.iter().copied().collect();
        Some(Document { root, is_swagger, paths, by_path, by_name })
    }

    fn routes(&self, problems: &mut Problems) -> Vec<Placed> {
        let mut found = Vec::new();
        for (path, item) in &self.paths {
            self.operations(path, item, &mut found, problems);
        }
        let base = base::of(self, &found, problems);
        let too_many = found.len() > MAX_ROUTES;
        if too_many {
            let message =
                format!("expected at most {MAX_ROUTES} operations, found {}", found.len());
            problems.add(self.root.line, message);
        }
        let mut placed = Vec::new();
        // Without a base path the paths are checked as they stand.
        for Found { method, path, operation, .. } in found.iter().take(MAX_ROUTES) {
            let path = format!("{}{path}", base.as_deref().unwrap_or_default());
            let spelled = match own_spelling(&path) {
                Ok(spelled) => spelled.into_owned(),
                Err(reason) => {
                    problems.add(operation.line, format!("`{path}`: {reason}"));
                    continue;
                }
            };
            let Some(route) = operation::route(operation, method, spelled, problems) else {
                continue;
            };
            match route.check() {
                Ok(_) => placed.push(Placed { line: operation.line, route }),
                Err(error) => problems.add(operation.line, error.to_string()),
            }
        }
        refuse_conflicts(&placed, problems);
        placed
    }

    /// The operations of a path, those that `$ref`s lead to among them.
    fn operations(
        &self,
        path: &'d str,
        item: &'d Node,
        found: &mut Vec<Found<'d>>,
        problems: &mut Problems,
    ) {
        let mut item = item;
        let mut methods: Vec<&str> = Vec::new();
        let mut servers = None;
        for refs in 0_usize.. {
            if !matches!(item.value, Value::Object(_) | Value::Null) {
                let what = item.value.what();
                problems.add(item.line, format!("`{path}`: expected a path item, found {what}"));
                return;
            }
            let what = "a path item (write it at the operation)";
            item.refuse_ours(what, &[], problems);
            servers = servers.or_else(|| base::listed(item));
            for (name, operation) in item.members() {
                let known = METHODS.iter().find(|(have, _)| *have == name);
                let Some(&(_, method)) = known else { continue };
                // What stands beside a `$ref` goes before what it leads to.
                if methods.contains(&method) {
                    continue;
                }
                methods.push(method);
                let servers = base::listed(operation).or(servers);
                found.push(Found { method, path, operation, servers });
            }
            let Some(reference) = item.get("$ref") else { return };
            let mut refuse = |reason: &str| {
                let text = reference.text().unwrap_or_default();
                let message = format!("`{path}` has the reference `{text}`: {reason}");
                problems.add(reference.line, message);
            };
            if refs >= MAX_REFS {
                return refuse("it forms a cycle, or a chain of too many references");
            }
            match self.referenced(reference) {
                Ok(next) => item = next,
                Err(reason) => return refuse(reason),
            }
        }
    }

    fn referenced(&self, reference: &Node) -> Result<&'d Node, &'static str> {
        let text = reference.text().ok_or("expected a text")?;
        let local = text
            .strip_prefix("#/")
            .ok_or("it points outside of the document; bundle the document into one file first")?;
        let found = if let Some(name) = local.strip_prefix("components/pathItems/") {
            self.by_name.get(unescaped(name).as_str())
        } else if let Some(path) = local.strip_prefix("paths/") {
            self.by_path.get(unescaped(path).as_str())
        } else {
            return Err("a path item is in `#/components/pathItems/` or `#/paths/`");
        };
        found.copied().ok_or("there is no such path item")
    }
}

fn refuse_conflicts(placed: &[Placed], problems: &mut Problems) {
    let routes: Vec<Route> = placed.iter().map(|placed| placed.route.clone()).collect();
    for (first, second) in router::conflicts(&routes, PathsFold::None) {
        let (Some(first), Some(second)) = (placed.get(first), placed.get(second)) else { continue };
        let (a, b) = (first.route.name(), second.route.name());
        let message = format!(
            "`{b}` and `{a}` (line {}) match the same requests; remove one of them",
            first.line
        );
        problems.add(second.line, message);
    }
}

/// Whether it is Swagger 2.0; none: it is of no version that is read.
fn is_swagger(root: &Node, problems: &mut Problems) -> Option<bool> {
    const READ: &str = "OpenAPI 3.0 and 3.1 and Swagger 2.0 are read";
    let version = |node: &Node| node.scalar().unwrap_or_else(|| node.value.what().to_owned());
    let (line, found) = match (root.get("openapi"), root.get("swagger")) {
        (Some(openapi), None) => {
            let text = version(openapi);
            let is_read = |minor: &str| {
                text.strip_prefix(minor)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            if is_read("3.0") || is_read("3.1") {
                return Some(false);
            }
            (openapi.line, format!("the document is OpenAPI `{text}`"))
        }
        (None, Some(swagger)) => {
            let text = version(swagger);
            if matches!(text.as_str(), "2.0" | "2") {
                return Some(true);
            }
            (swagger.line, format!("the document is Swagger `{text}`"))
        }
        (None, None) => {
            (root.line, "the document has no `openapi` or `swagger` version".to_owned())
        }
        (Some(_), Some(swagger)) => {
            let message = "the document says both `openapi` and `swagger`; keep the one that it is";
            problems.add(swagger.line, message);
            return None;
        }
    };
    problems.add(line, format!("{found}; {READ}"));
    None
}

/// The members of a map of path items, each name once.
fn items<'d>(
    map: Option<&'d Node>,
    what: &str,
    problems: &mut Problems,
) -> Vec<(&'d str, &'d Node)> {
    let Some(map) = map else { return Vec::new() };
    if !matches!(map.value, Value::Object(_) | Value::Null) {
        let found = map.value.what();
        problems.add(map.line, format!("expected {what} to be an object, found {found}"));
        return Vec::new();
    }
    map.refuse_ours(what, &[], problems);
    map.members().filter(|(name, _)| !name.starts_with("x-")).collect()
}

/// A token of a JSON pointer in a URI fragment (RFC 6901 section 6).
fn unescaped(token: &str) -> String {
    let token = router::decoded(token).unwrap_or(token.into());
    token.replace("~1", "/").replace("~0", "~")
}
