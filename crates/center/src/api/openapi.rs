//! The OpenAPI 3.1 document of this center, made from [`super::table`]. OpenAPI 3.1 takes JSON
//! Schema 2020-12, so the schemas are those of the types that handlers read and answer.

use std::collections::BTreeMap;

use axum::Json as Out;
use keepgate_api::{Json, UID};
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::input::IF_MATCH_TAGS as TAGS;
use super::table::{self, Endpoint};
use super::writes::KEY_PATTERN;
use crate::access::Permission;

/// The name of a service (`policy::service::is_service_name`).
const SERVICE: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

/// Where schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// What a body is: its media type, and the schema of it or, of lines, of each.
#[derive(Clone, Copy)]
pub(crate) struct Content {
    media_type: &'static str,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Content {
    /// Text.
    pub(crate) const TEXT: Content = Content::of::<String>("text/plain");
    /// Any JSON object: this document, which describes itself.
    pub(crate) const DOCUMENT: Content = Content::of::<OpenApi>("application/json");

    const fn of<T: JsonSchema>(media_type: &'static str) -> Content {
        Content { media_type, schema: SchemaGenerator::subschema_for::<T> }
    }

    /// JSON of this type.
    pub(crate) const fn json<T: JsonSchema>() -> Content {
        Content::of::<T>("application/json")
    }

    /// Lines of JSON, each of this type.
    pub(crate) const fn lines<T: JsonSchema>() -> Content {
        Content::of::<T>("application/x-ndjson")
    }

    fn render(self, generator: &mut SchemaGenerator) -> Value {
        let mut content = Map::new();
        content.insert(self.media_type.to_owned(), json!({ "schema": (self.schema)(generator) }));
        Value::Object(content)
    }
}

/// An OpenAPI 3.1 document (<https://spec.openapis.org/oas/v3.1.0>).
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct OpenApi {
    /// `3.1.0`.
    openapi: String,
    /// Title and version.
    info: BTreeMap<String, Json>,
    /// Operations by path and method.
    paths: BTreeMap<String, BTreeMap<String, Json>>,
    /// Schemas and security schemes.
    components: BTreeMap<String, BTreeMap<String, Json>>,
}

pub(crate) async fn document() -> Out<Value> {
    Out(render(&table::endpoints()))
}

/// Types in what is sent and in what is answered: a member with a default may be left out of a
/// request and is always in an answer.
struct Generators {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Generators {
    fn new() -> Generators {
        let of = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
            settings.contract = contract;
            settings.into_generator()
        };
        Generators { requests: of(Contract::Deserialize), answers: of(Contract::Serialize) }
    }

    /// All schemas by name. Where a type is in both and differs, the answer's stands: it is what
    /// programs read, and a superset of what they must send.
    fn take(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all.values_mut().for_each(plain_enums);
        all
    }
}

/// One of several texts, each with a description of its own, is written as `oneOf` of constants.
/// Generators of clients take `enum`: so it is one, and the descriptions are lines of its own.
fn plain_enums(schema: &mut Value) {
    match schema {
        Value::Array(several) => several.iter_mut().for_each(plain_enums),
        Value::Object(fields) => {
            fields.values_mut().for_each(plain_enums);
            let Some(texts) = fields.get("oneOf").and_then(Value::as_array) else { return };
            let constant =
                |one: &Value| one.get("const").and_then(Value::as_str).map(str::to_owned);
            let Some(names) = texts.iter().map(constant).collect::<Option<Vec<String>>>() else {
                return;
            };
            let of = |value: &Value| {
                value.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let mut lines = vec![of(&Value::Object(fields.clone()))];
            lines.extend(
                names.iter().zip(texts).map(|(name, one)| format!("`{name}`: {}", of(one))),
            );
            fields.remove("oneOf");
            fields.insert("type".to_owned(), json!("string"));
            fields.insert("enum".to_owned(), json!(names));
            fields.insert("description".to_owned(), json!(lines.join("\n")));
        }
        _ => {}
    }
}

/// The document of these endpoints.
pub(crate) fn render(endpoints: &[Endpoint]) -> Value {
    let mut generators = Generators::new();
    let problem = generators.answers.subschema_for::<keepgate_api::Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let operation = operation(endpoint, &problem, &mut generators);
        let item = paths.entry(endpoint.path.to_string()).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(endpoint.method.to_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Keepgate center",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": generators.take(),
        },
    })
}

fn operation(endpoint: &Endpoint, problem: &Schema, generators: &mut Generators) -> Value {
    let mut parameters: Vec<Value> = path_parameters(&endpoint.path)
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true,
                "schema": parameter(path_kind(&endpoint.path, name), "string") })
        })
        .collect();
    for (name, kind) in endpoint.query {
        parameters.push(json!({ "name": name, "in": "query", "schema": parameter(name, kind) }));
    }
    if endpoint.conditional {
        let of =
            |name: &str, schema: Value| json!({ "name": name, "in": "header", "schema": schema });
        let of_tags = json!({ "type": "string", "anyOf": [{ "enum": ["*"] }, { "type": "string", "pattern": TAGS }] });
        parameters.push(of("If-Match", of_tags));
        parameters.push(of("If-None-Match", json!({ "type": "string", "enum": ["*"] })));
    }
    if endpoint.writes() {
        let schema = json!({ "type": "string", "pattern": KEY_PATTERN });
        parameters.push(json!({ "name": "Idempotency-Key", "in": "header", "schema": schema }));
    }
    let mut content = endpoint.answer.render(&mut generators.answers);
    if let (Some(lines), Some(content)) = (endpoint.progress, content.as_object_mut())
        && let Value::Object(lines) = lines.render(&mut generators.answers)
    {
        content.extend(lines);
    }
    let mut responses = Map::new();
    let status = endpoint.status.to_string();
    responses.insert(status, json!({ "description": "done", "content": content }));
    for (status, description) in problems(endpoint) {
        responses.insert(
            status.to_string(),
            json!({ "description": description, "content": {
                "application/problem+json": { "schema": problem } } }),
        );
    }
    if let Some((status, content)) = endpoint.also {
        let content = content.render(&mut generators.answers);
        let description = "not now; the body says why";
        let answer = json!({ "description": description, "content": content });
        responses.insert(status.to_string(), answer);
    }
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "responses": responses,
    });
    if let Some(fields) = operation.as_object_mut() {
        if !parameters.is_empty() {
            fields.insert("parameters".to_owned(), json!(parameters));
        }
        if let Some(body) = endpoint.body {
            let content = body.render(&mut generators.requests);
            let body = json!({ "required": true, "content": content });
            fields.insert("requestBody".to_owned(), body);
        }
        let security = match endpoint.needs {
            Permission::Open => json!([]),
            _ => json!([{ "token": [] }]),
        };
        fields.insert("security".to_owned(), security);
        fields.insert("x-keepgate-roles".to_owned(), json!(table::roles(endpoint.needs)));
    }
    operation
}

/// What a parameter of a path is: the ids of entities are Cedar text; a role is named so, or by its name.
fn path_kind<'p>(path: &str, name: &'p str) -> &'p str {
    match name {
        "id" if path.contains("/entities/{id}") => "uid",
        "uid" if path.starts_with("/v1/roles/") => "name",
        _ => name,
    }
}

/// The schema of a parameter of the path or of the query.
fn parameter(name: &str, kind: &str) -> Value {
    match (name, kind) {
        ("service", _) => json!({ "type": kind, "pattern": SERVICE }),
        ("write_id", _) => json!({ "type": kind, "pattern": "^[0-9A-Fa-f]{32}$" }),
        ("uid" | "member" | "role" | "resource" | "principal", _) => {
            json!({ "type": kind, "pattern": UID })
        }
        ("revision", _) => parameter("", "integer"),
        (_, "integer") => json!({ "type": kind, "format": "uint64", "minimum": 0,
            "maximum": u64::MAX }),
        _ => json!({ "type": kind }),
    }
}

/// The refusals of an endpoint: each a problem.
fn problems(endpoint: &Endpoint) -> Vec<(u16, &'static str)> {
    let open = endpoint.needs == Permission::Open;
    let named = endpoint.path.contains('{');
    let writes = endpoint.writes();
    let body = endpoint.body.is_some();
    let all = [
        (400, true, "the request does not have the form that is described here"),
        (401, !open, "no good token"),
        (403, !open, "the token may not do this"),
        (404, named || body, "there is no such thing"),
        (408, body, "the body came too slowly"),
        (409, writes || endpoint.needs == Permission::Decide, "the state does not allow it"),
        (412, writes, "the state is another one than was expected"),
        (413, body, "the body is too large"),
        (415, body, "the body has another media type"),
        (421, true, "this host is not served here"),
        (
            422,
            named || body || !endpoint.query.is_empty(),
            "what is described here cannot express what is wrong; the problem says it",
        ),
        (429, true, "too many requests at once; see `Retry-After`"),
        (500, true, "the center failed"),
        (503, true, "not now; see `Retry-After`"),
        (507, writes, "no space is left"),
    ];
    all.into_iter().filter(|(_, may, _)| *may).map(|(status, _, why)| (status, why)).collect()
}

/// The names in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}
