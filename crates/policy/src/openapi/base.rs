//! The base path that the paths of a document are below.
//!
//! A gate protects one service, so the servers of all operations must have one path; where they do
//! not, the document says which one it is. Hosts, schemes and ports do not matter.

use std::collections::{BTreeSet, HashSet};

use super::node::{Node, Value, Want};
use super::{Document, Found, Problems};

/// What is read of a list of servers.
pub(super) static SERVERS: Want = Want::List(&SERVER);
/// What is read of a server.
pub(super) static SERVER: Want = Want::Object(&[
    ("url", &Want::Leaf),
    (
        "variables",
        &Want::Each(&Want::Object(&[("default", &Want::Leaf), ("enum", &Want::List(&Want::Leaf))])),
    ),
]);

/// The most paths that the variables of one server may lead to.
const MAX_COMBINATIONS: usize = 64;
/// The longest URL of a server, with the values of its variables, in bytes.
const MAX_URL_BYTES: usize = 8_192;

/// The servers of a document, path item or operation, if there are any.
pub(super) fn listed(of: &Node) -> Option<&Node> {
    of.get("servers").filter(|servers| match &servers.value {
        Value::Null => false,
        Value::List(list) => !list.is_empty(),
        _ => true,
    })
}

/// The base path without a slash at its end; none: there is not one for all, which is told.
pub(super) fn of(
    document: &Document<'_>,
    found: &[Found<'_>],
    problems: &mut Problems,
) -> Option<String> {
    if let Some(ours) = document.root.get("x-keepgate-base-path") {
        return given(ours, problems);
    }
    if document.is_swagger {
        return document.root.get("basePath").map_or(Some(String::new()), |node| {
            let path = node.text().filter(|path| path.is_empty() || path.starts_with('/'));
            if path.is_none() {
                let found = node.scalar().unwrap_or_else(|| node.value.what().to_owned());
                problems.add(
                    node.line,
                    format!("`basePath`: expected a path such as `/v2`, got `{found}`"),
                );
            }
            path.map(|path| path.trim_end_matches('/').to_owned())
        });
    }
    let mut paths = Paths::default();
    let mut is_good = true;
    let mut seen: HashSet<*const Node> = HashSet::new();
    let root = listed(document.root);
    for operation in found {
        let Some(servers) = operation.servers.or(root) else {
            // The server of a document without any is `/`.
            paths.note(String::new(), operation.operation.line);
            continue;
        };
        if !seen.insert(servers) {
            continue;
        }
        if !matches!(servers.value, Value::List(_)) {
            let what = servers.value.what();
            problems.add(servers.line, format!("`servers`: expected a list, found {what}"));
            is_good = false;
        }
        for server in servers.elements() {
            match paths_of(server) {
                Ok(of_server) => {
                    for path in of_server {
                        paths.note(path, server.line);
                    }
                }
                Err(reason) => {
                    problems.add(server.line, reason);
                    is_good = false;
                }
            }
        }
    }
    match paths.0.as_slice() {
        [] => is_good.then(String::new),
        [(path, _)] => is_good.then(|| path.clone()),
        several => {
            let (example, line) = several.iter().max_by_key(|(path, _)| path.len())?;
            problems.add(
                *line,
                format!(
                    "expected one path for all servers, found {}; add the one that requests to \
                     this service have at the top of the document, such as \
                     `x-keepgate-base-path: {}`",
                    paths.words(),
                    shown(example)
                ),
            );
            None
        }
    }
}

/// The paths of servers, each with the line that it is found in first.
#[derive(Default)]
struct Paths(Vec<(String, usize)>);

impl Paths {
    /// More than two are as wrong as two.
    const KEPT: usize = 4;

    fn note(&mut self, path: String, line: usize) {
        if self.0.len() < Paths::KEPT && !self.0.iter().any(|(have, _)| *have == path) {
            self.0.push((path, line));
        }
    }

    fn words(&self) -> String {
        let words = |(path, line): &(String, usize)| format!("`{}` (line {line})", shown(path));
        let mut words: Vec<String> = self.0.iter().map(words).collect();
        if self.0.len() == Paths::KEPT {
            words.push("and perhaps more".to_owned());
        }
        words.join(", ")
    }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The document's own word.
fn given(node: &Node, problems: &mut Problems) -> Option<String> {
    let path = node.text().filter(|path| {
        path.is_empty() || *path == "/" || (path.starts_with('/') && !path.ends_with('/'))
    });
    if path.is_none() {
        let found = node.scalar().unwrap_or_else(|| node.value.what().to_owned());
        problems.add(
            node.line,
            format!(
                "expected `x-keepgate-base-path` such as `/api`, without a slash at the end, got \
                 `{found}`"
            ),
        );
    }
    path.map(|path| path.trim_end_matches('/').to_owned())
}

/// The paths that a server's URL may have, by the values of its variables.
fn paths_of(server: &Node) -> Result<BTreeSet<String>, String> {
    let url = server.get("url");
    let Some(url) = url.and_then(Node::text) else {
        let found = url.map_or("nothing", |url| url.value.what());
        return Err(format!("a server's `url`: expected a text, found {found}"));
    };
    let mut left = vec![url.to_owned()];
    let mut paths = BTreeSet::new();
    let mut tried = 0_usize;
    while let Some(url) = left.pop() {
        if url.len() > MAX_URL_BYTES {
            let found = url.len();
            return Err(format!(
                "a server's `url`: expected at most {MAX_URL_BYTES} bytes, found {found}"
            ));
        }
        tried += 1;
        if tried > 4 * MAX_COMBINATIONS {
            return Err(format!(
                "the variables of the server `{url}` lead to too many paths; add \
                 `x-keepgate-base-path` at the top of the document"
            ));
        }
        // Variables in a host are of no interest, unless the whole of it is one.
        let path = after_host(&url);
        let Some((before, name, after)) = variable(path.unwrap_or(&url)) else {
            paths.insert(base(&url, path)?);
            continue;
        };
        let values = values(server, name)?;
        // What stands before is not needed any more where the host is behind.
        let head = path.map_or_else(|| before.to_owned(), |_| format!("//host{before}"));
        left.extend(values.iter().map(|value| format!("{head}{value}{after}")));
    }
    Ok(paths)
}

/// What follows the scheme and the host of a URL; none: it has none.
fn after_host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("//")?;
    if !(scheme.is_empty() || scheme.ends_with(':')) || scheme.contains('/') {
        return None;
    }
    Some(rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default())
}

/// The first variable of a text, with what is around it.
fn variable(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// The values that a variable may have.
fn values(server: &Node, name: &str) -> Result<Vec<String>, String> {
    let variable = server.get("variables").and_then(|variables| variables.get(name));
    let Some(variable) = variable else {
        return Err(format!(
            "the server's `url` has the variable `{name}`, which is not described"
        ));
    };
    let listed = variable.get("enum").map(Node::elements).unwrap_or_default();
    let default = variable.get("default").into_iter();
    let chosen: Vec<&Node> =
        if listed.is_empty() { default.collect() } else { listed.iter().collect() };
    let values: BTreeSet<String> = chosen.into_iter().filter_map(Node::scalar).collect();
    if values.is_empty() {
        return Err(format!("the server's variable `{name}`: expected a `default`, found none"));
    }
    if values.iter().any(|value| value.contains(['{', '}'])) {
        return Err(format!("the server's variable `{name}`: a value has a brace"));
    }
    Ok(values.into_iter().take(MAX_COMBINATIONS + 1).collect())
}

/// The base path of a URL without variables.
fn base(url: &str, path: Option<&str>) -> Result<String, String> {
    let path = match path {
        Some(path) => path,
        None if url.is_empty() || url.starts_with('/') => url,
        None => {
            return Err(format!(
                "the server `{url}` is relative to where the document is; add \
                 `x-keepgate-base-path` at the top of the document"
            ));
        }
    };
    if path.contains(['?', '#']) {
        return Err(format!("the server `{url}` has a query or a fragment; remove it"));
    }
    Ok(path.trim_end_matches('/').to_owned())
}
