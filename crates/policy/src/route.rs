//! Routes: which method and path template means which action on which resource.
//!
//! A template is an OpenAPI path template. Its segments are literal texts, parameters (`{id}`),
//! or a mixture (`{name}.{format}`, `{id}:cancel`); a last segment `{*rest}` takes all below, and
//! `/admin{/*rest}` takes `/admin`, `/admin/` and all below as one route.
//! Literal text is compared byte by byte with the request's normal form, so it must be in that
//! form itself: other characters percent-encoded, with capitals, and no more than needed.
//! This module does not know requests; matching them is [`crate::router`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::look_alike;
use crate::uid::{Uid, is_type_name};

/// The longest template in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 2048;
/// The most segments in a template.
pub const MAX_SEGMENTS: usize = 64;
/// The longest summary of a route in bytes; of a longer one, this much is kept.
pub const MAX_SUMMARY_BYTES: usize = 200;
/// The most routes in a service.
pub const MAX_ROUTES: usize = 20_000;

/// A route of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// An HTTP method in capitals, or `*` for any.
    pub method: String,
    /// An OpenAPI path template such as `/orders/{id}`; a last segment `{*rest}` takes all below,
    /// `{/*rest}` at the end this path, with or without a slash at its end, and all below.
    pub path: String,
    /// The Cedar action, a name or a whole identifier; none: `Action::"METHOD"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The Cedar resource; none: `route::"TEMPLATE"`, without `{/*rest}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceRule>,
    /// Callers without credentials are let through to the decision as `anonymous`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anonymous: bool,
    /// Oldest replica that may decide, in milliseconds; none: the service's.
    #[serde(
        rename = "max_age",
        default,
        with = "crate::duration::optional_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub max_age_ms: Option<u64>,
    /// For people: the OpenAPI `operationId`, then, after a line break, one line that says what it does.
    // One text: releases before 0.3 refuse a route with another member, and would hold their state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What one request costs in tokens of the limits; none: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// How long the upstream may take to begin its answer, counted from the last byte of the request
    /// that was forwarded, in milliseconds; none: the service's.
    #[serde(
        rename = "answer_timeout",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub answer_timeout_ms: Option<u64>,
    /// How long nothing may move within an answer, in milliseconds; none: the service's.
    #[serde(
        rename = "answer_idle",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub answer_idle_ms: Option<u64>,
    /// How many bytes a request body may have; none: the service's.
    #[serde(default, with = "crate::size::body", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub body_bytes: Option<u64>,
}

/// A route's own resource: a type and the path parameter that holds the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceRule {
    /// The entity type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path parameter's name, without braces.
    pub param: String,
}

/// A route that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Not an HTTP method.
    #[error("`{0}` is not a method; write it in capitals, or `*` for any")]
    Method(String),
    /// Not a path template.
    #[error("`{path}` is not a path template: {reason}")]
    Template {
        /// The text given, cut off after 200 characters.
        path: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A resource type that is not a Cedar name.
    #[error("`{route}`: `{kind}` is not an entity type")]
    ResourceType {
        /// The route, as `METHOD template`.
        route: String,
        /// The text given.
        kind: String,
    },
    /// A resource whose id is not in the path.
    #[error(
        "`{route}`: the resource's id is the parameter `{param}`, which the path does not have"
    )]
    ResourceParam {
        /// The route, as `METHOD template`.
        route: String,
        /// The parameter named.
        param: String,
    },
    /// A cost of nothing would be no limit.
    #[error("`{route}`: a cost is at least 1")]
    Cost {
        /// The route, as `METHOD template`.
        route: String,
    },
    /// Two routes for the same requests.
    #[error("`{first}` and `{second}` match the same requests; remove one of them")]
    Conflict {
        /// The route that came first.
        first: String,
        /// The other one.
        second: String,
    },
    /// More than a router takes.
    #[error("{0} routes, at most {MAX_ROUTES} are allowed")]
    TooMany(usize),
}

impl Route {
    /// The route of a method and a template that says nothing else.
    pub fn new(method: impl Into<String>, path: impl Into<String>) -> Route {
        Route {
            method: method.into(),
            path: path.into(),
            action: None,
            resource: None,
            anonymous: false,
            max_age_ms: None,
            operation: None,
            cost: None,
            answer_timeout_ms: None,
            answer_idle_ms: None,
            body_bytes: None,
        }
    }

    /// The format of items that a reader must know to take this one: 3 where the route says what
    /// release 0.2 refuses, 2 where it says what release 0.1 refuses, else 1.
    pub fn needs(&self) -> u32 {
        if self.body_bytes.is_some() {
            return 3;
        }
        let new = self.answer_timeout_ms.is_some()
            || self.answer_idle_ms.is_some()
            || split_tree(&self.path).is_some();
        if new { 2 } else { 1 }
    }

    /// Its name, `METHOD template`; also the id of its item.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The first line of [`Route::operation`]: the OpenAPI `operationId`; may be empty.
    pub fn operation_id(&self) -> &str {
        let text = self.operation.as_deref().unwrap_or_default();
        text.split_once('\n').map_or(text, |(id, _)| id)
    }

    /// What it does, in one line of at most [`MAX_SUMMARY_BYTES`]; empty: nobody said it.
    pub fn summary(&self) -> String {
        let rest = self.operation.as_deref().and_then(|text| text.split_once('\n'));
        rest.map(|(_, summary)| one_line(summary, MAX_SUMMARY_BYTES)).unwrap_or_default()
    }

    /// Says what it is for people; see [`Route::operation`].
    pub fn describe(&mut self, operation_id: &str, summary: &str) {
        let summary = one_line(summary, MAX_SUMMARY_BYTES);
        let id = match operation_id.contains('\n') {
            true => one_line(operation_id, MAX_SUMMARY_BYTES),
            false => operation_id.to_owned(),
        };
        self.operation = match (id.is_empty(), summary.is_empty()) {
            (true, true) => None,
            (false, true) => Some(id),
            (_, false) => Some(format!("{id}\n{summary}")),
        };
    }

    /// Where in the tree of routes its resource is: the template without `{/*rest}`.
    pub fn resource_path(&self) -> &str {
        match split_tree(&self.path) {
            Some(("", _)) => "/",
            Some((base, _)) => base,
            None => &self.path,
        }
    }

    /// The action of a request; `method` is the request's, used where the route takes any.
    pub fn action(&self, method: &str) -> Uid {
        match &self.action {
            Some(text) => Uid::action(text),
            None if self.method == "*" => Uid::new("Action", method),
            None => Uid::new("Action", &self.method),
        }
    }

    /// Whether the route alone can be used; returns its template.
    pub fn check(&self) -> Result<Template, RouteError> {
        if !is_method(&self.method) {
            return Err(RouteError::Method(self.method.clone()));
        }
        let template: Template = self.path.parse()?;
        if let Some(rule) = &self.resource {
            if !is_type_name(&rule.kind) {
                return Err(RouteError::ResourceType {
                    route: self.name(),
                    kind: rule.kind.clone(),
                });
            }
            if !template.params().any(|name| name == rule.param) {
                return Err(RouteError::ResourceParam {
                    route: self.name(),
                    param: rule.param.clone(),
                });
            }
        }
        if self.cost == Some(0) {
            return Err(RouteError::Cost { route: self.name() });
        }
        Ok(template)
    }
}

/// The first line of a text that says something, without what is not seen or turns the direction of
/// writing, and cut off after `most` bytes.
pub fn one_line(text: &str, most: usize) -> String {
    let hidden = |c: char| c.is_control() && !c.is_whitespace() || look_alike::turns_direction(c);
    let mut lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).map(|line| {
        let seen: String = line.chars().filter(|c| !hidden(*c)).collect();
        seen.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let mut line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    if line.len() > most {
        let end = most.saturating_sub('\u{2026}'.len_utf8());
        let end = line.char_indices().map(|(at, _)| at).take_while(|at| *at <= end).last();
        line.truncate(end.unwrap_or_default());
        line.truncate(line.trim_end().len());
        line.push('\u{2026}');
    }
    line
}

/// Methods are tokens (RFC 9110 section 9.1) and case-sensitive; all that are registered are in
/// capitals, so anything else is a mistake.
fn is_method(method: &str) -> bool {
    method == "*"
        || (!method.is_empty()
            && method.len() <= 32
            && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_'))
}

/// A path template in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The parts between the slashes; `/` has one, which is empty.
    pub segments: Vec<Segment>,
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text; empty after a trailing slash.
    Literal(String),
    /// Literal texts around parameters: `head`, then each parameter with the text after it.
    /// Every parameter takes at least one byte and as few as it can; the last one takes the rest.
    Mixed {
        /// The text before the first parameter.
        head: String,
        /// The parameters, each with the text that follows it.
        params: Vec<(String, String)>,
    },
    /// One whole segment that is not empty.
    Param(String),
    /// All the rest of the path, slashes included; may be empty.
    Rest(String),
    /// The end of the path, or a slash and all the rest of it; the value is without that slash.
    Tree(String),
}

impl Template {
    /// The names of the parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().flat_map(|segment| {
            let (one, many) = match segment {
                Segment::Literal(_) => (None, [].as_slice()),
                Segment::Param(name) | Segment::Rest(name) | Segment::Tree(name) => {
                    (Some(name.as_str()), [].as_slice())
                }
                Segment::Mixed { params, .. } => (None, params.as_slice()),
            };
            one.into_iter().chain(many.iter().map(|(name, _)| name.as_str()))
        })
    }
}

impl std::str::FromStr for Template {
    type Err = RouteError;

    fn from_str(path: &str) -> Result<Template, RouteError> {
        parse(path).map_err(|reason| {
            // Enough to be found by, not enough to fill a log.
            let shown: String = path.chars().take(200).collect();
            RouteError::Template { path: shown, reason }
        })
    }
}

fn parse(path: &str) -> Result<Template, String> {
    if path.len() > MAX_TEMPLATE_BYTES {
        return Err(format!("it has {} bytes, at most {MAX_TEMPLATE_BYTES}", path.len()));
    }
    let (path, tree) = match split_tree(path) {
        Some((base, name)) if base.ends_with('/') => {
            let base = base.trim_end_matches('/');
            return Err(format!("`{{/*{name}}}` has the slash: write `{base}{{/*{name}}}`"));
        }
        Some((base, name)) => (base, Some(Segment::Tree(param_name(name)?.to_owned()))),
        None => (path, None),
    };
    if let (true, Some(tree)) = (path.is_empty(), &tree) {
        return Ok(Template { segments: vec![tree.clone()] });
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err("it must start with `/`".to_owned());
    };
    let count = rest.split('/').count() + usize::from(tree.is_some());
    if count > MAX_SEGMENTS {
        return Err(format!("it has {count} segments, at most {MAX_SEGMENTS}"));
    }
    let mut segments = Vec::with_capacity(count);
    for (index, text) in rest.split('/').enumerate() {
        let last = index + 1 == count;
        if text.is_empty() && !last {
            return Err("a segment is empty; the normal form of `//` is `/`".to_owned());
        }
        if matches!(text, "." | "..") {
            return Err(format!("`{text}` never occurs in a normal form"));
        }
        segments.push(segment(text, last)?);
    }
    segments.extend(tree);
    let template = Template { segments };
    let mut names: Vec<&str> = template.params().collect();
    names.sort_unstable();
    let twice = names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    });
    match twice {
        Some(name) => Err(format!("the parameter `{name}` occurs twice")),
        None => Ok(template),
    }
}

/// `/admin` and `rest` of `/admin{/*rest}`.
fn split_tree(path: &str) -> Option<(&str, &str)> {
    let (base, name) = path.strip_suffix('}')?.rsplit_once("{/*")?;
    (!name.contains(['{', '}', '/'])).then_some((base, name))
}

fn segment(text: &str, last: bool) -> Result<Segment, String> {
    if let Some(name) = text.strip_prefix("{*").and_then(|text| text.strip_suffix('}')) {
        if !last {
            return Err(format!("`{text}` takes all the rest, so it must be the last segment"));
        }
        return Ok(Segment::Rest(param_name(name)?.to_owned()));
    }
    let (head, mut rest) = text.split_at(text.find('{').unwrap_or(text.len()));
    literal(head)?;
    let mut params: Vec<(String, String)> = Vec::new();
    while let Some(open) = rest.strip_prefix('{') {
        let (name, after) = open.split_once('}').ok_or("a `{` is not closed")?;
        let (tail, next) = after.split_at(after.find('{').unwrap_or(after.len()));
        literal(tail)?;
        if tail.is_empty() && !next.is_empty() {
            return Err(format!("nothing separates `{{{name}}}` from the next parameter"));
        }
        params.push((param_name(name)?.to_owned(), tail.to_owned()));
        rest = next;
    }
    match params.as_slice() {
        [] => Ok(Segment::Literal(head.to_owned())),
        [(name, tail)] if head.is_empty() && tail.is_empty() => Ok(Segment::Param(name.clone())),
        _ => Ok(Segment::Mixed { head: head.to_owned(), params }),
    }
}

fn param_name(name: &str) -> Result<&str, String> {
    if name.is_empty() || name.contains(['{', '}', '*']) || name.chars().any(char::is_control) {
        return Err(format!("`{name}` cannot name a parameter"));
    }
    Ok(name)
}

/// Path characters of RFC 3986 in normal form.
fn literal(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = (bytes.next(), bytes.next());
                let (Some(high), Some(low)) =
                    (pair.0.and_then(hex_digit), pair.1.and_then(hex_digit))
                else {
                    return Err(
                        "a `%` is followed by two hexadecimal digits in capitals".to_owned()
                    );
                };
                let decoded = high << 4 | low;
                if is_unreserved(decoded) {
                    return Err(format!(
                        "`%{decoded:02X}` is written `{}` in the normal form",
                        char::from(decoded)
                    ));
                }
            }
            b'}' => return Err("a `}` is not opened".to_owned()),
            _ if is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte) => {}
            b'?' | b'#' => {
                return Err("a path has no query or fragment; remove it".to_owned());
            }
            _ if byte.is_ascii() => {
                return Err(format!(
                    "`{}` must be written `%{byte:02X}`",
                    char::from(byte).escape_default()
                ));
            }
            _ => return Err("characters beyond ASCII must be percent-encoded".to_owned()),
        }
    }
    Ok(())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}
