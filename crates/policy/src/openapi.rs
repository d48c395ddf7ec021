//! Routes from OpenAPI 3.0 and 3.1 documents, in JSON or YAML.
//!
//! Only what makes a route is read; the rest (schemas, parameters, examples: most of a large
//! document) is skipped without being built. Servers are not looked at: paths are those below
//! the gate's own root unless the document says `x-keepgate-base-path`. An operation with
//! `security: []` does not become open by that: only `x-keepgate-anonymous: true` opens it.
//!
//! An operation may say `x-keepgate-action` (text), `x-keepgate-resource` (`{type, param}`),
//! `x-keepgate-anonymous` (boolean), `x-keepgate-max-age` (such as `5s`), `x-keepgate-cost` (a
//! number), `x-keepgate-answer-timeout` and `x-keepgate-answer-idle` (such as `10m`). Any other `x-keepgate-` member, or one of these elsewhere, is refused by name: a rule
//! that is not read must not look as if it were.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::duration;
use crate::route::{MAX_ROUTES, ResourceRule, Route, RouteError};
use crate::router::Router;

/// The largest document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;
/// How many `$ref`s may lead to one path item.
const MAX_REFS: usize = 8;

/// A document that gives no routes.
#[derive(Debug, thiserror::Error)]
pub enum OpenApiError {
    /// Larger than [`MAX_DOCUMENT_BYTES`].
    #[error("the document has {0} bytes, at most {MAX_DOCUMENT_BYTES} are read")]
    TooLarge(usize),
    /// No JSON, or not of OpenAPI's shape.
    #[error("the document does not parse as JSON")]
    Json(#[source] serde_json::Error),
    /// No YAML, or not of OpenAPI's shape.
    #[error("the document does not parse as YAML")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// Another version of OpenAPI, or none.
    #[error("{0}; OpenAPI 3.0 and 3.1 are read")]
    Version(String),
    /// A `$ref` that leads nowhere.
    #[error("`{path}` has the reference `{reference}`: {reason}")]
    Reference {
        /// The path whose item it is.
        path: String,
        /// The reference's text.
        reference: String,
        /// Why it is of no use and what to do.
        reason: &'static str,
    },
    /// `x-keepgate-base-path` is not a path.
    #[error(
        "expected `x-keepgate-base-path` such as `/api`, without a slash at the end, got `{0}`"
    )]
    BasePath(String),
    /// A route that cannot be used.
    #[error("an operation cannot be a route")]
    Route(#[from] RouteError),
}

impl OpenApiError {
    /// The line of the document, counted from 1, where it is known.
    pub fn line(&self) -> Option<usize> {
        match self {
            OpenApiError::Json(error) => Some(error.line()).filter(|line| *line > 0),
            OpenApiError::Yaml(error) => error
                .location()
                .and_then(|location| usize::try_from(location.line()).ok())
                .filter(|line| *line > 0),
            _ => None,
        }
    }
}

/// The routes of a document, in its order. A text that starts with `{` is read as JSON, any
/// other as YAML.
pub fn load(text: &str) -> Result<Vec<Route>, OpenApiError> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(OpenApiError::TooLarge(text.len()));
    }
    let text = text.trim_start_matches('\u{feff}');
    let document: Document = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(OpenApiError::Json)?
    } else {
        serde_saphyr::from_str(text).map_err(|error| OpenApiError::Yaml(Box::new(error)))?
    };
    document.check_version()?;
    let routes = document.routes()?;
    // Conflicts are found by building the router; it is cheap beside reading the document.
    let router = Router::new(routes)?;
    Ok(router.routes().to_vec())
}

#[derive(Default)]
struct Document {
    openapi: Option<String>,
    swagger: bool,
    base_path: Option<String>,
    paths: Vec<(String, PathItem)>,
    path_items: Vec<(String, PathItem)>,
}

#[derive(Default)]
struct PathItem {
    reference: Option<String>,
    operations: Vec<(&'static str, Operation)>,
}

#[derive(Default)]
struct Operation {
    id: Option<String>,
    action: Option<String>,
    resource: Option<ResourceRule>,
    anonymous: bool,
    max_age_ms: Option<u64>,
    cost: Option<u32>,
    answer_timeout_ms: Option<u64>,
    answer_idle_ms: Option<u64>,
}

impl Document {
    fn check_version(&self) -> Result<(), OpenApiError> {
        let version = |text: &str| Err(OpenApiError::Version(text.to_owned()));
        match self.openapi.as_deref() {
            Some(v) if ["3.0", "3.1"].contains(&v) => Ok(()),
            Some(v) if v.starts_with("3.0.") || v.starts_with("3.1.") => Ok(()),
            Some(v) => version(&format!("the document is OpenAPI `{v}`")),
            None if self.swagger => version("the document is Swagger; convert it to OpenAPI 3"),
            None => version("the document has no `openapi` version"),
        }
    }

    fn routes(&self) -> Result<Vec<Route>, OpenApiError> {
        let base = self.base_path.as_deref().unwrap_or_default();
        if !base.is_empty() && (!base.starts_with('/') || base.ends_with('/')) {
            return Err(OpenApiError::BasePath(base.to_owned()));
        }
        let by_path: HashMap<&str, &PathItem> =
            self.paths.iter().map(|(path, item)| (path.as_str(), item)).collect();
        let by_name: HashMap<&str, &PathItem> =
            self.path_items.iter().map(|(name, item)| (name.as_str(), item)).collect();
        let mut routes = Vec::new();
        for (path, item) in &self.paths {
            let mut item = item;
            let mut methods: Vec<&str> = Vec::new();
            let mut refs = 0;
            loop {
                for (method, operation) in &item.operations {
                    // What stands beside a `$ref` goes before what it leads to.
                    if methods.contains(method) {
                        continue;
                    }
                    methods.push(method);
                    routes.push(operation.route(method, format!("{base}{path}")));
                    if routes.len() > MAX_ROUTES {
                        return Err(RouteError::TooMany(routes.len()).into());
                    }
                }
                let Some(reference) = &item.reference else {
                    break;
                };
                let error = |reason| OpenApiError::Reference {
                    path: path.clone(),
                    reference: reference.clone(),
                    reason,
                };
                refs += 1;
                if refs > MAX_REFS {
                    return Err(error("it forms a cycle, or a chain of too many references"));
                }
                let Some(local) = reference.strip_prefix("#/") else {
                    return Err(error(
                        "it points outside of the document; bundle the document into one file first",
                    ));
                };
                let found = if let Some(name) = local.strip_prefix("components/pathItems/") {
                    by_name.get(unescaped(name).as_str())
                } else if let Some(path) = local.strip_prefix("paths/") {
                    by_path.get(unescaped(path).as_str())
                } else {
                    return Err(error("a path item is in `#/components/pathItems/` or `#/paths/`"));
                };
                item = found.ok_or_else(|| error("there is no such path item"))?;
            }
        }
        Ok(routes)
    }
}

/// A token of a JSON pointer in a URI fragment (RFC 6901 section 6).
fn unescaped(token: &str) -> String {
    let token = crate::router::decoded(token).unwrap_or(token.into());
    token.replace("~1", "/").replace("~0", "~")
}

impl Operation {
    fn route(&self, method: &str, path: String) -> Route {
        Route {
            method: method.to_owned(),
            path,
            action: self.action.clone(),
            resource: self.resource.clone(),
            anonymous: self.anonymous,
            max_age_ms: self.max_age_ms,
            operation: self.id.clone(),
            cost: self.cost,
            answer_timeout_ms: self.answer_timeout_ms,
            answer_idle_ms: self.answer_idle_ms,
        }
    }
}

/// A member's name: one that is known, one of ours that is not, or any other.
enum Key {
    Known(&'static str),
    Ours(String),
    Other,
}

/// Reads a name without keeping it, unless it is ours.
struct KeyOf(&'static [&'static str]);

impl<'de> serde::de::DeserializeSeed<'de> for KeyOf {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Key, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeyOf {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
        Ok(match self.0.iter().find(|known| **known == name) {
            Some(known) => Key::Known(known),
            None if name.starts_with("x-keepgate-") => Key::Ours(name.to_owned()),
            None => Key::Other,
        })
    }

    // YAML's keys may be numbers (`200:` among responses).
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Key, E> {
        Ok(Key::Other)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Key, E> {
        Ok(Key::Other)
    }
}

/// An object of which some members are read. YAML's empty value counts as an empty object.
trait Members: Default {
    const WHAT: &'static str;
    const NAMES: &'static [&'static str];

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        from: &mut A,
    ) -> Result<(), A::Error>;
}

/// Deserializes [`Members`].
struct Object<T>(T);

impl<'de, T: Members> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<T>, D::Error> {
        struct ObjectVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Members> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::WHAT)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<T, E> {
                Ok(T::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                let mut read = T::default();
                while let Some(key) = map.next_key_seed(KeyOf(T::NAMES))? {
                    match key {
                        Key::Known(name) => read.member(name, &mut map)?,
                        Key::Ours(name) => {
                            return Err(A::Error::custom(format!(
                                "`{name}` has no meaning in {}",
                                T::WHAT
                            )));
                        }
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(read)
            }
        }

        from.deserialize_any(ObjectVisitor(std::marker::PhantomData)).map(Object)
    }
}

/// A map in the document's order.
struct Pairs<T>(Vec<(String, T)>);

impl<'de, T: Members> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs<T>, D::Error> {
        struct PairsVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Members> Visitor<'de> for PairsVisitor<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of path items")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.starts_with("x-") {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        pairs.push((name, map.next_value::<Object<T>>()?.0));
                    }
                }
                Ok(pairs)
            }
        }

        from.deserialize_any(PairsVisitor(std::marker::PhantomData)).map(Pairs)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Document, D::Error> {
        Object::deserialize(from).map(|Object(document)| document)
    }
}

impl Members for Document {
    const WHAT: &'static str = "an OpenAPI document";
    const NAMES: &'static [&'static str] =
        &["openapi", "swagger", "paths", "components", "x-keepgate-base-path"];

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        from: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "openapi" => self.openapi = Some(from.next_value()?),
            "swagger" => {
                from.next_value::<IgnoredAny>()?;
                self.swagger = true;
            }
            "paths" => self.paths = from.next_value::<Pairs<PathItem>>()?.0,
            "components" => self.path_items = from.next_value::<Object<Components>>()?.0.0,
            _ => self.base_path = Some(from.next_value()?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Components(Vec<(String, PathItem)>);

impl Members for Components {
    const WHAT: &'static str = "the components";
    const NAMES: &'static [&'static str] = &["pathItems"];

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        _: &'static str,
        from: &mut A,
    ) -> Result<(), A::Error> {
        self.0 = from.next_value::<Pairs<PathItem>>()?.0;
        Ok(())
    }
}

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

impl Members for PathItem {
    const WHAT: &'static str = "a path item (write it at the operation)";
    const NAMES: &'static [&'static str] =
        &["$ref", "get", "put", "post", "delete", "options", "head", "patch", "trace"];

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        from: &mut A,
    ) -> Result<(), A::Error> {
        match METHODS.iter().find(|(have, _)| *have == name) {
            Some((_, method)) if self.operations.iter().any(|(have, _)| have == method) => {
                return Err(A::Error::custom(format!("`{name}` occurs twice in a path item")));
            }
            Some((_, method)) => {
                self.operations.push((method, from.next_value::<Object<Operation>>()?.0));
            }
            None => self.reference = Some(from.next_value()?),
        }
        Ok(())
    }
}

impl Members for Operation {
    const WHAT: &'static str = "an operation";
    const NAMES: &'static [&'static str] = &[
        "operationId",
        "x-keepgate-action",
        "x-keepgate-resource",
        "x-keepgate-anonymous",
        "x-keepgate-max-age",
        "x-keepgate-cost",
        "x-keepgate-answer-timeout",
        "x-keepgate-answer-idle",
    ];

    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        from: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "operationId" => self.id = Some(from.next_value()?),
            "x-keepgate-action" => self.action = Some(from.next_value()?),
            "x-keepgate-resource" => self.resource = Some(from.next_value()?),
            "x-keepgate-anonymous" => self.anonymous = from.next_value()?,
            "x-keepgate-max-age" => {
                let text: String = from.next_value()?;
                self.max_age_ms = Some(duration::parse_ms(&text).map_err(A::Error::custom)?);
            }
            "x-keepgate-answer-timeout" => {
                let text: String = from.next_value()?;
                let ms = duration::parse_wait_ms(&text).map_err(A::Error::custom)?;
                self.answer_timeout_ms = Some(ms);
            }
            "x-keepgate-answer-idle" => {
                let text: String = from.next_value()?;
                let ms = duration::parse_wait_ms(&text).map_err(A::Error::custom)?;
                self.answer_idle_ms = Some(ms);
            }
            _ => self.cost = Some(from.next_value()?),
        }
        Ok(())
    }
}
