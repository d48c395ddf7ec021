//! The OpenAPI 3.1 document of this center, made from [`super::table`].

use axum::Json as Out;
use serde_json::{Map, Value, json};

use super::table::{self, Endpoint};
use crate::access::Permission;

pub(crate) async fn document() -> Out<Value> {
    Out(render(&table::endpoints()))
}

/// The document of these endpoints.
pub(crate) fn render(endpoints: &[Endpoint]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let item = paths.entry(endpoint.path.to_string()).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(endpoint.method.to_lowercase(), operation(endpoint));
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
            "schemas": all_schemas(),
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut parameters: Vec<Value> = path_parameters(&endpoint.path)
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true,
                "schema": { "type": "string" } })
        })
        .collect();
    for (name, kind) in endpoint.query {
        parameters.push(json!({ "name": name, "in": "query", "schema": { "type": kind } }));
    }
    if endpoint.conditional {
        for name in ["If-Match", "If-None-Match"] {
            parameters.push(json!({ "name": name, "in": "header",
                "schema": { "type": "string" } }));
        }
    }
    let mut responses = Map::new();
    let status = endpoint.status.to_string();
    responses.insert(status, json!({ "description": "done", "content": content(endpoint.answer) }));
    responses.insert(
        "default".to_owned(),
        json!({ "description": "a problem (RFC 9457)", "content": {
            "application/problem+json": { "schema": reference("Problem") } } }),
    );
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
            fields.insert(
                "requestBody".to_owned(),
                json!({ "required": true, "content": content(body) }),
            );
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

fn content(schema: &str) -> Value {
    match schema {
        "Lines" => json!({ "application/x-ndjson": { "schema": { "type": "string" } } }),
        "Text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "Html" => json!({ "text/html": { "schema": { "type": "string" } } }),
        schema => json!({ "application/json": { "schema": reference(schema) } }),
    }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The names in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

/// The shapes of bodies and answers. Item bodies are those of `docs/files.md`.
fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let boolean = json!({ "type": "boolean" });
    let uid = reference("Uid");
    let list = |of: Value| json!({ "type": "array", "items": of });
    let either = |of: Value| json!({ "oneOf": [text, of] });
    let change = object(
        &["op", "kind", "id"],
        json!({ "op": { "enum": ["create", "update", "delete"] }, "kind": text, "id": text }),
    );
    let located = json!({ "file": text, "line": number, "kind": text, "id": text,
        "message": text });
    let entity = json!({ "type": text, "id": text, "properties": { "type": "object" } });
    let evaluation = json!({ "subject": reference("AuthzenEntity"),
        "action": reference("AuthzenAction"), "resource": reference("AuthzenEntity"),
        "context": { "type": "object" } });
    json!({
        "Any": { "type": "object" },
        "Problem": object(&["type", "title", "status"], json!({ "type": text, "title": text,
            "status": number, "detail": text, "request_id": text,
            "problems": list(object(&["message"], located)) })),
        "Uid": object(&["type", "id"], json!({ "type": text, "id": text })),
        "UidInput": either(uid.clone()),
        "Item": { "type": "object", "description": "an item's body, by its kind" },
        "ItemList": object(&["revision", "items"], json!({ "revision": number, "next": text,
            "items": list(object(&["id", "revision", "body"], json!({ "id": text,
                "revision": number, "body": reference("Item") }))) })),
        "Changed": object(&["revision"], json!({ "revision": number, "created": number,
            "updated": number, "deleted": number, "changes": list(reference("Change")) })),
        "Apply": object(&["files"], json!({ "files": { "type": "object",
            "additionalProperties": text } })),
        "Applied": object(&["revision", "dry_run", "changes"], json!({ "revision": number,
            "dry_run": boolean, "created": number, "updated": number, "deleted": number,
            "changes": list(reference("Change")), "kept": list(reference("Kept")),
            "warnings": list(object(&["id", "message"], json!({ "id": text, "message": text,
                "file": text, "line": number }))) })),
        "Change": change,
        "Export": object(&["service", "files"], json!({ "service": text, "files": {
            "type": "object", "additionalProperties": text } })),
        "Services": object(&["revision", "services"], json!({ "revision": number,
            "services": list(reference("Service")) })),
        "Service": object(&["name"], json!({ "name": text, "policies": number,
            "templates": number, "links": number, "grants": number, "entities": number,
            "routes": number, "keys": number, "limits": number, "plans": number,
            "schema": boolean, "settings": { "type": "object" }, "revision": number })),
        "Membership": object(&["member", "role"], json!({ "member": reference("UidInput"),
            "role": reference("UidInput") })),
        "Members": object(&["revision", "members"], json!({ "revision": number, "next": text,
            "members": list(object(&["member", "role"], json!({ "member": uid, "role": uid,
                "source": text, "revision": number }))) })),
        "NewToken": object(&["role"], json!({ "role": { "enum": ["admin", "editor", "viewer",
            "gate", "pep"] }, "service": text, "note": text })),
        "MadeToken": object(&["id", "token", "revision"], json!({ "id": text, "token": text,
            "revision": number })),
        "Tokens": object(&["revision", "tokens"], json!({ "revision": number,
            "tokens": list(object(&["id", "role"], json!({ "id": text, "role": text,
                "service": text, "note": text, "created_unix_s": number,
                "last_used_unix_s": { "type": ["integer", "null"] },
                "revoked_unix_s": { "type": ["integer", "null"] } }))) })),
        "NewKey": object(&["principal"], json!({ "principal": reference("UidInput"),
            "plan": text, "expires_unix_s": number, "note": text })),
        "RotateKey": object(&[], json!({ "overlap_s": number })),
        "MadeKey": object(&["prefix", "key", "revision"], json!({ "prefix": text, "key": text,
            "revision": number })),
        "Keys": object(&["revision", "keys"], json!({ "revision": number, "next": text,
            "keys": list(reference("Item")) })),
        "Question": object(&["principal", "action", "resource"], json!({ "service": text,
            "principal": reference("UidInput"), "action": reference("UidInput"),
            "resource": reference("UidInput"), "context": { "type": "object" } })),
        "Answer": object(&["decision", "effect", "reason", "determining", "errors", "revision"],
            json!({ "decision": boolean, "effect": { "enum": ["allow", "deny"] },
                "reason": { "enum": ["permit", "forbid", "no_permit"] },
                "determining": list(json!({ "type": "object" })),
                "near": list(json!({ "type": "object" })),
                "errors": list(json!({ "type": "object" })), "revision": number })),
        "Revision": object(&["revision"], json!({ "revision": number, "digest": text })),
        "Audit": object(&["entries"], json!({ "next": number,
            "entries": list(json!({ "type": "object" })) })),
        "Followers": object(&["revision", "followers"], json!({ "revision": number,
            "followers": list(json!({ "type": "object" })) })),
        "AuthzenEntity": object(&["type", "id"], entity),
        "AuthzenAction": object(&["name"], json!({ "name": text,
            "properties": { "type": "object" } })),
        "Evaluation": object(&["subject", "action", "resource"], evaluation.clone()),
        "Evaluations": object(&[], json!({ "subject": reference("AuthzenEntity"),
            "action": reference("AuthzenAction"), "resource": reference("AuthzenEntity"),
            "context": { "type": "object" }, "options": { "type": "object" },
            "evaluations": list(object(&[], evaluation)) })),
        "Decision": object(&["decision"], json!({ "decision": boolean,
            "context": { "type": "object" } })),
        "Decisions": object(&[], json!({ "decision": boolean, "context": { "type": "object" },
            "evaluations": list(reference("Decision")) })),
    })
}

/// [`schemas`] and those of traffic: one literal of all would be too deep for its macro.
fn all_schemas() -> Value {
    let mut all = schemas();
    if let (Some(all), Value::Object(traffic)) = (all.as_object_mut(), schemas_of_traffic()) {
        all.extend(traffic);
    }
    all
}

fn schemas_of_traffic() -> Value {
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let ratio = json!({ "type": "number", "minimum": 0 });
    let list = |of: Value| json!({ "type": "array", "items": of });
    let hitters = list(reference("Hitter"));
    let gates = object(
        &["heard", "following"],
        json!({ "heard": number, "following": number,
            "oldest_ms": { "type": ["integer", "null"] } }),
    );
    let unlisted = json!({ "addresses": number, "principals": number, "user_agents": number,
        "routes": number });
    let top = json!({ "service": text, "now_unix_ms": number, "gates": gates, "seconds": ratio,
        "requests": number, "refused": number, "anonymous": number, "addresses": hitters,
        "principals": hitters, "user_agents": hitters, "routes": hitters,
        "crawls": list(reference("Crawl")), "unlisted": object(&[], unlisted) });
    let hitter = json!({ "name": text, "requests": number, "at_least": number, "share": ratio,
        "per_second": ratio, "refused": number, "methods": list(text.clone()),
        "routes": list(json!({ "type": "array" })), "first_seen_age_ms": number,
        "first_seen_unix_ms": number });
    let crawl = json!({ "by": { "enum": ["principal", "address"] }, "name": text,
        "principal": { "type": ["string", "null"] }, "route": text,
        "requests": number, "distinct": number, "distinct_at_least": number,
        "per_second": ratio, "refused": number, "plan": { "type": ["string", "null"] } });
    json!({
        "Imported": object(&["revision", "created", "updated", "deleted"], json!({
            "revision": number, "created": number, "updated": number, "deleted": number,
            "kept": list(reference("Kept")) })),
        "Kept": object(&["kind", "id"], json!({ "kind": text, "id": text })),
        "Top": object(&["service", "now_unix_ms", "gates"], top),
        "Hitter": object(&["name", "requests", "at_least"], hitter),
        "Crawl": object(&["by", "name", "route", "requests"], crawl),
    })
}
