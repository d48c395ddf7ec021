//! Routes from OpenAPI documents, made up and real.

use std::path::Path;
use std::time::Instant;

use expect_test::{Expect, expect};
use keepgate_policy::openapi;
use keepgate_policy::route::Route;
use keepgate_policy::router::{Matched, Router};

const YAML: &str = r##"
openapi: 3.1.0
info: { title: Orders, version: "1" }
servers: [{ url: https://example.org/ignored }]
x-keepgate-base-path: /api
paths:
  /orders:
    summary: All orders
    parameters: [{ name: page, in: query, schema: { type: integer } }]
    get:
      operationId: listOrders
      security: []
      responses: { 200: { description: ok } }
    post:
      x-keepgate-action: create
      x-keepgate-cost: 5
      responses: { 201: { description: made } }
  /orders/{id}:
    $ref: '#/components/pathItems/order'
    delete:
      operationId: deleteOrder
      x-keepgate-max-age: 5s
      x-keepgate-resource: { type: order, param: id }
  /same/{id}:
    $ref: '#/paths/~1orders~1%7Bid%7D'
  /health:
    get: { x-keepgate-anonymous: true }
    trace:
  x-extension: { anything: [goes] }
components:
  schemas: { Order: { type: object } }
  pathItems:
    order:
      get: { operationId: showOrder }
      delete: { operationId: overridden }
"##;

#[test]
fn routes_are_read_with_what_they_say() {
    let routes = openapi::load(YAML).unwrap();
    let lines: Vec<String> =
        routes.iter().map(|route| serde_json::to_string(route).unwrap() + "\n").collect();
    expect![[r#"
        {"method":"GET","path":"/api/orders","operation":"listOrders"}
        {"method":"POST","path":"/api/orders","action":"create","cost":5}
        {"method":"DELETE","path":"/api/orders/{id}","resource":{"type":"order","param":"id"},"max_age":"5s","operation":"deleteOrder"}
        {"method":"GET","path":"/api/orders/{id}","operation":"showOrder"}
        {"method":"DELETE","path":"/api/same/{id}","resource":{"type":"order","param":"id"},"max_age":"5s","operation":"deleteOrder"}
        {"method":"GET","path":"/api/same/{id}","operation":"showOrder"}
        {"method":"GET","path":"/api/health","anonymous":true}
        {"method":"TRACE","path":"/api/health"}
    "#]].assert_eq(&lines.concat());
}

#[test]
fn json_and_yaml_are_the_same_document() {
    let value: serde_json::Value = serde_saphyr::from_str(YAML).unwrap();
    let json = serde_json::to_string_pretty(&value).unwrap();
    assert_eq!(openapi::load(&json).unwrap(), openapi::load(YAML).unwrap());
}

#[track_caller]
fn refused(text: &str, expected: Expect) {
    let error = openapi::load(text).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let source = source.as_deref().and_then(|text| text.lines().next());
    expected.assert_eq(&format!("{error} | {} | line {:?}", source.unwrap_or("-"), error.line()));
}

#[test]
fn documents_that_are_not_understood_are_refused() {
    refused(
        "",
        expect![
            "the document has no `openapi` version; OpenAPI 3.0 and 3.1 are read | - | line None"
        ],
    );
    refused(
        "{",
        expect![
            "the document does not parse as JSON | EOF while parsing an object at line 1 column 1 | line Some(1)"
        ],
    );
    refused(
        "[1]",
        expect![
            "the document does not parse as YAML | invalid type: sequence, expected an OpenAPI document | line None"
        ],
    );
    refused(
        "swagger: '2.0'\npaths: {}",
        expect![
            "the document is Swagger; convert it to OpenAPI 3; OpenAPI 3.0 and 3.1 are read | - | line None"
        ],
    );
    refused(
        "openapi: 3.2.0",
        expect!["the document is OpenAPI `3.2.0`; OpenAPI 3.0 and 3.1 are read | - | line None"],
    );
    refused(
        "openapi: 3.0.0\npaths: {a: {get: {}}}",
        expect![
            "an operation cannot be a route | `a` is not a path template: it must start with `/` | line None"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a:\n    get: 7",
        expect![
            "the document does not parse as YAML | error: line 4 column 5: invalid type: integer `7`, expected an operation | line Some(4)"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a:\n    get: {x-keepgate-anonymus: true}",
        expect![
            "the document does not parse as YAML | error: line 4 column 10: `x-keepgate-anonymus` has no meaning in an operation | line Some(4)"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a:\n    x-keepgate-anonymous: true",
        expect![
            "the document does not parse as YAML | error: line 4 column 5: `x-keepgate-anonymous` has no meaning in a path item (write it at the operation) | line Some(4)"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a:\n    get: {x-keepgate-max-age: 5}",
        expect![
            "the document does not parse as YAML | error: line 4 column 10: `5` is not a duration; write a whole number and a unit: `500ms`, `5s`, `90m`, `1h`, `7d` | line Some(4)"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a:\n    get: {x-keepgate-resource: {type: a, param: b}}",
        expect![
            "an operation cannot be a route | `GET /a`: the resource's id is the parameter `b`, which the path does not have | line None"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /{a}: {get: {}}\n  /{b}: {get: {}}",
        expect![
            "an operation cannot be a route | `GET /{a}` and `GET /{b}` match the same requests; remove one of them | line None"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}",
        expect![
            "`/a` has the reference `#/paths/~1b`: it forms a cycle, or a chain of too many references | - | line None"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a: {$ref: 'other.yaml#/a'}",
        expect![
            "`/a` has the reference `other.yaml#/a`: it points outside of the document; bundle the document into one file first | - | line None"
        ],
    );
    refused(
        "openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}",
        expect!["`/a` has the reference `#/paths/~1b`: there is no such path item | - | line None"],
    );
    refused(
        "openapi: 3.0.0\nx-keepgate-base-path: /api/\npaths: {}",
        expect![
            "expected `x-keepgate-base-path` such as `/api`, without a slash at the end, got `/api/` | - | line None"
        ],
    );
    refused(
        r#"{"openapi":"3.0.0","paths":{"/a":{"get":{},"get":{}}}}"#,
        expect![
            "the document does not parse as JSON | `get` occurs twice in a path item at line 1 column 48 | line Some(1)"
        ],
    );
}

/// A billion laughs, and depth.
#[test]
fn bombs_are_refused() {
    let mut text = "openapi: 3.0.0\nx: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for n in 1..12 {
        let all = vec![format!("*a{}", n - 1); 10].join(",");
        text.push_str(&format!("x{n}: &a{n} [{all}]\n"));
    }
    assert!(openapi::load(&text).is_err());
    let deep = format!("openapi: 3.0.0\nx: {}", "[".repeat(100_000));
    assert!(openapi::load(&deep).is_err());
    let deep = format!("{{\"openapi\":\"3.0.0\",\"x\":{}", "[".repeat(1_000_000));
    assert!(openapi::load(&deep).is_err());
}

/// GitHub's REST description, brought by `scripts/fetch-fixtures`.
pub(crate) fn github() -> Option<String> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/github-openapi.json");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return Some(text);
    }
    let why = "target/fixtures/github-openapi.json is missing; run scripts/fetch-fixtures";
    assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    None
}

#[test]
fn githubs_description_is_read_and_routed() {
    let Some(text) = github() else { return };
    let start = Instant::now();
    let routes = openapi::load(&text).unwrap();
    let took = start.elapsed();
    eprintln!("{} routes from {} bytes in {took:?}", routes.len(), text.len());
    assert!(routes.len() > 1_000, "{}", routes.len());

    // Counted another way: every operation that a full parse finds is a route, and no other.
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
    let mut expected: Vec<(String, String)> = Vec::new();
    for (path, item) in value["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if methods.contains(&method.as_str()) {
                let id = operation["operationId"].as_str().unwrap();
                expected.push((format!("{} {path}", method.to_uppercase()), id.to_owned()));
            }
        }
    }
    let mut read: Vec<(String, String)> =
        routes.iter().map(|route| (route.name(), route.operation.clone().unwrap())).collect();
    expected.sort();
    read.sort();
    assert_eq!(read, expected);

    // Every route finds itself.
    let router = Router::new(routes).unwrap();
    for (index, route) in router.routes().iter().enumerate() {
        let path = filled(route);
        match router.matched(&route.method, &path) {
            Matched::Found(found) => assert_eq!(found.index, index, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// A path of the route with values that no literal of the document has.
fn filled(route: &Route) -> String {
    let mut path = String::new();
    for part in route.path.split_inclusive(['{', '}']) {
        match part.strip_suffix('}') {
            Some(name) => path.push_str(&format!("{name}-0-value")),
            None => path.push_str(part.trim_end_matches('{')),
        }
    }
    path
}
