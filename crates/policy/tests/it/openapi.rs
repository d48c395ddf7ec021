//! Routes from OpenAPI documents, made up and real.

use std::path::Path;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use keepgate_policy::route::{MAX_SUMMARY_BYTES, Route};
use keepgate_policy::router::{Matched, Router};
use keepgate_policy::{openapi, sample};

const YAML: &str = r##"
openapi: 3.1.0
info: { title: Orders, version: "1" }
servers: [{ url: https://example.org/v9 }, { url: https://example.com/v8 }]
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

fn routes(text: &str) -> Vec<Route> {
    let placed = openapi::load(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    placed.into_iter().map(|placed| placed.route).collect()
}

/// The routes by name, each with its line.
#[track_caller]
fn read(text: &str, expected: Expect) {
    let line = |placed: &openapi::Placed| format!("{} {}\n", placed.line, placed.route.name());
    match openapi::load(text) {
        Ok(placed) => expected.assert_eq(&placed.iter().map(line).collect::<String>()),
        Err(problems) => panic!("{problems:#?}"),
    }
}

#[track_caller]
fn refused(text: &str, expected: Expect) {
    let problems = openapi::load(text).unwrap_err();
    let lines: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    expected.assert_eq(&lines.concat());
}

/// Paths of one document, each with one operation, under these servers.
fn document(servers: &str, paths: &[&str]) -> String {
    let mut text = format!("openapi: 3.1.0\n{servers}\npaths:\n");
    for path in paths {
        text.push_str(&format!("  {path}:\n    get: {{}}\n"));
    }
    text
}

#[test]
fn routes_are_read_with_what_they_say() {
    let routes = routes(YAML);
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

/// The summary, else the first line of the description, in one text with the id, as readers of earlier
/// releases take it.
#[test]
fn an_operation_says_in_one_line_what_it_does() {
    let long = "\u{e9}".repeat(150);
    let text = format!(
        "openapi: 3.1.0\npaths:\n  /a:\n    get: {{ operationId: listA, summary: \"Lists\\tA\", description: no }}\n\
         \x20   put: {{ description: \"\\n  \\n First \\e[31mline\\u202e.\\r\\nSecond\" }}\n\
         \x20   post: {{ operationId: \"a\\nb\", summary: \"\" }}\n    patch: {{ summary: {long} }}\n\
         \x20   delete: {{ summary: {{ odd: 1 }}, description: [odd] }}\n"
    );
    let routes = routes(&text);
    let said: Vec<(&str, &str, String)> = routes
        .iter()
        .map(|route| (route.method.as_str(), route.operation_id(), route.summary()))
        .collect();
    assert_eq!(said[0], ("GET", "listA", "Lists A".to_owned()));
    assert_eq!(said[1], ("PUT", "", "First [31mline.".to_owned()));
    assert_eq!(said[2], ("POST", "a", String::new()));
    let (_, id, cut) = &said[3];
    assert!(id.is_empty() && cut.ends_with("\u{e9}\u{2026}"), "{cut}");
    assert!((199..=MAX_SUMMARY_BYTES).contains(&cut.len()), "{}", cut.len());
    assert_eq!(said[4], ("DELETE", "", String::new()));
    assert_eq!(routes[0].operation.as_deref(), Some("listA\nLists A"));
    assert_eq!(routes[4].operation, None);
    assert!(routes.iter().all(|route| route.needs() == 1));
    // At the bound it is whole; what a store has, from whatever release, is shown within it.
    let mut route = Route::new("GET", "/a");
    for (length, is_whole) in [(MAX_SUMMARY_BYTES, true), (MAX_SUMMARY_BYTES + 1, false)] {
        route.describe("", &"x".repeat(length));
        assert_eq!(route.summary().len() == length, is_whole);
    }
    for (text, id, summary) in [
        ("listA", "listA", ""),
        ("", "", ""),
        ("listA\n", "listA", ""),
        ("listA\n\n\u{0}x\ny", "listA", "x"),
    ] {
        route.operation = Some(text.to_owned());
        assert_eq!((route.operation_id(), route.summary().as_str()), (id, summary), "{text:?}");
    }
    route.operation = Some(format!("a\n{}", "y".repeat(10_000)));
    assert_eq!(route.summary().len(), MAX_SUMMARY_BYTES);
}

/// Words for people are no reason to refuse a document.
#[test]
fn a_summary_that_occurs_twice_is_no_fault() {
    let text = r#"{"openapi":"3.1.0","paths":{"/a":{"get":{"summary":"one","summary":"two"}}}}"#;
    assert_eq!(routes(text)[0].summary(), "one");
}

#[test]
fn json_and_yaml_are_the_same_document() {
    let value: serde_json::Value = serde_saphyr::from_str(YAML).unwrap();
    let json = serde_json::to_string_pretty(&value).unwrap();
    assert_eq!(routes(&json), routes(YAML));
    // The lines are those of the text.
    let placed = openapi::load(&json).unwrap();
    for placed in placed {
        let line = json.lines().nth(placed.line - 1).unwrap();
        let method = placed.route.method.to_lowercase();
        assert!(line.contains(&format!("\"{method}\":")), "{placed:?} is not in `{line}`");
    }
    read(
        YAML,
        expect![[r#"
            10 GET /api/orders
            14 POST /api/orders
            20 DELETE /api/orders/{id}
            34 GET /api/orders/{id}
            20 DELETE /api/same/{id}
            34 GET /api/same/{id}
            27 GET /api/health
            28 TRACE /api/health
        "#]],
    );
}

#[test]
fn documents_that_are_not_understood_are_refused() {
    let mut told = String::new();
    for text in [
        "",
        "{",
        "[1]",
        "7",
        "swagger: '1.2'\npaths: {}",
        "swagger: 2.0\nopenapi: 3.0.0",
        "openapi: 3.2.0",
        "openapi: 3.01.0",
        "openapi: 3.0.0\npaths: 7",
        "openapi: 3.0.0\npaths: {a: {get: {}}}",
        "openapi: 3.0.0\npaths:\n  /a: []",
        "openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}",
        "openapi: 3.0.0\npaths:\n  /a: {$ref: 'other.yaml#/a'}",
        "openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}",
        "openapi: 3.0.0\nx-keepgate-base-path: /api/\npaths: {}",
        "openapi: 3.0.0\nx-keepgate-base-path: 7\npaths: {}",
        "openapi: 3.0.0\nx-keepgate-base: /api\npaths:\n  x-keepgate-a: 1",
        "openapi: 3.0.0\npaths:\n  /{a}: {get: {}}\n  /{b}: {get: {}}",
        r#"{"openapi":"3.0.0","paths":{"/a":{"get":{},"get":{}}}}"#,
        "openapi: 3.0.0\npaths:\n  /a: {get: {}}\n  /a: {put: {}}",
        "openapi: 3.0.0\npaths: {/a: {get: {}}",
    ] {
        let problems = openapi::load(text).unwrap_err();
        told.push_str(&format!("{}\n", text.replace('\n', "\\n")));
        told.extend(problems.iter().map(|problem| format!("    {problem}\n")));
    }
    expect![[r#"

            line 1: expected an OpenAPI document, found nothing
        {
            line 1: the document does not parse as JSON: EOF while parsing an object at line 1 column 1
        [1]
            line 1: expected an OpenAPI document, found a list
        7
            line 1: expected an OpenAPI document, found a number
        swagger: '1.2'\npaths: {}
            line 1: the document is Swagger `1.2`; OpenAPI 3.0 and 3.1 and Swagger 2.0 are read
        swagger: 2.0\nopenapi: 3.0.0
            line 1: the document says both `openapi` and `swagger`; keep the one that it is
        openapi: 3.2.0
            line 1: the document is OpenAPI `3.2.0`; OpenAPI 3.0 and 3.1 and Swagger 2.0 are read
        openapi: 3.01.0
            line 1: the document is OpenAPI `3.01.0`; OpenAPI 3.0 and 3.1 and Swagger 2.0 are read
        openapi: 3.0.0\npaths: 7
            line 2: expected `paths` to be an object, found a number
        openapi: 3.0.0\npaths: {a: {get: {}}}
            line 2: `a` is not a path template: it must start with `/`
        openapi: 3.0.0\npaths:\n  /a: []
            line 3: `/a`: expected a path item, found a list
        openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}
            line 3: `/a` has the reference `#/paths/~1b`: it forms a cycle, or a chain of too many references
            line 4: `/b` has the reference `#/paths/~1a`: it forms a cycle, or a chain of too many references
        openapi: 3.0.0\npaths:\n  /a: {$ref: 'other.yaml#/a'}
            line 3: `/a` has the reference `other.yaml#/a`: it points outside of the document; bundle the document into one file first
        openapi: 3.0.0\npaths:\n  /a: {$ref: '#/paths/~1b'}
            line 3: `/a` has the reference `#/paths/~1b`: there is no such path item
        openapi: 3.0.0\nx-keepgate-base-path: /api/\npaths: {}
            line 2: expected `x-keepgate-base-path` such as `/api`, without a slash at the end, got `/api/`
        openapi: 3.0.0\nx-keepgate-base-path: 7\npaths: {}
            line 2: expected `x-keepgate-base-path` such as `/api`, without a slash at the end, got `7`
        openapi: 3.0.0\nx-keepgate-base: /api\npaths:\n  x-keepgate-a: 1
            line 2: `x-keepgate-base` has no meaning in an OpenAPI document
            line 4: `x-keepgate-a` has no meaning in `paths`
        openapi: 3.0.0\npaths:\n  /{a}: {get: {}}\n  /{b}: {get: {}}
            line 4: `GET /{b}` and `GET /{a}` (line 3) match the same requests; remove one of them
        {"openapi":"3.0.0","paths":{"/a":{"get":{},"get":{}}}}
            line 1: `get` occurs twice in one object, first in line 1
        openapi: 3.0.0\npaths:\n  /a: {get: {}}\n  /a: {put: {}}
            line 4: the document does not parse as YAML: error: line 4 column 3: duplicate mapping key: /a, set DuplicateKeyPolicy in Options if acceptable
        openapi: 3.0.0\npaths: {/a: {get: {}}
            line 2: the document does not parse as YAML: error: line 2 column 8: unclosed bracket '{'
    "#]].assert_eq(&told);
}

/// Nothing hides what comes behind it.
#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_line() {
    let text = "openapi: 3.0.0
paths:
  /a:
    get: 7
  /b:
    get: {x-keepgate-anonymus: true}
    put: {x-keepgate-max-age: 5}
    x-keepgate-anonymous: true
  /c:
    get:
      x-keepgate-resource: {type: a, param: b}
    put:
      x-keepgate-resource: {type: a}
      x-keepgate-cost: 0
      x-keepgate-anonymous: yes please
    post: {x-keepgate-cost: many, x-keepgate-answer-idle: 2d, x-keepgate-action: [a]}
  /{d}/x: {get: {}}
  /{e}/x: {get: {}}
  c: {get: {}}
  /f?g: {get: {}}
  /*/h: {get: {}}
  /i: {$ref: 'j.yaml'}
";
    refused(
        text,
        expect![[r#"
        line 4: expected an operation, found a number
        line 6: `x-keepgate-anonymus` has no meaning in an operation
        line 7: `x-keepgate-max-age`: `5` is not a duration; write a whole number and a unit: `500ms`, `5s`, `90m`, `1h`, `7d`
        line 8: `x-keepgate-anonymous` has no meaning in a path item (write it at the operation)
        line 10: `GET /c`: the resource's id is the parameter `b`, which the path does not have
        line 12: `PUT /c`: a cost is at least 1
        line 13: `x-keepgate-resource`: expected `{type, param}`, found no `param`
        line 15: `x-keepgate-anonymous`: expected `true` or `false`, found a text
        line 16: `x-keepgate-cost`: expected a whole number of at least 1, found a text
        line 16: `x-keepgate-answer-idle`: expected a duration from 1ms to 1d, got `2d`
        line 16: `x-keepgate-action`: expected a text, found a list
        line 18: `GET /{e}/x` and `GET /{d}/x` (line 17) match the same requests; remove one of them
        line 19: `c` is not a path template: it must start with `/`
        line 20: `/f?g` is not a path template: a path has no query or fragment; remove it
        line 21: `/*/h`: `*` takes several segments, so it must be the last one; write a parameter such as `{name}` for each segment
        line 22: `/i` has the reference `j.yaml`: it points outside of the document; bundle the document into one file first
    "#]],
    );
    let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    let json = serde_json::to_string_pretty(&value).unwrap();
    let messages = |text: &str| {
        let problems = openapi::load(text).unwrap_err();
        let mut all: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        // Lines within messages differ.
        all.retain(|message| !message.contains("(line "));
        all.sort();
        all
    };
    assert_eq!(messages(&json), messages(text));
}

#[test]
fn problems_are_bounded() {
    let paths: Vec<String> = (0..openapi::MAX_PROBLEMS + 5).map(|n| format!("p{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let problems = openapi::load(&document("", &paths)).unwrap_err();
    assert_eq!(problems.len(), openapi::MAX_PROBLEMS + 1);
    assert_eq!(problems.last().unwrap().to_string(), "5 more problems are not shown");
    let problems = openapi::load(&document("", &paths[..openapi::MAX_PROBLEMS])).unwrap_err();
    assert_eq!(problems.len(), openapi::MAX_PROBLEMS);
    // What is quoted is cut, wherever it stands.
    let long = "a\u{e9}".repeat(100_000);
    for text in [
        format!("openapi: '{long}'"),
        format!("openapi: 3.0.0\nx-keepgate-base-path: '{long}'"),
        document("", &[&format!("'/*/{long}'")]),
        document("", &[&format!("'/{long}*'")]),
        document(
            &format!("servers: [{{url: '/{{v}}', variables: {{v: {{default: '{long}'}}}}}}]"),
            &["/a"],
        ),
        document(&format!("servers: [{{url: '{long}'}}]"), &["/a"]),
        format!("openapi: 3.0.0\npaths: {{/a: {{$ref: '{long}'}}}}"),
        format!("{{\"openapi\":\"3.0.0\",\"paths\":{{\"/{long}\":{{}},\"/{long}\":{{}}}}}}"),
    ] {
        let problems = openapi::load(&text).unwrap_err();
        assert_eq!(problems.len(), 1, "{}", text.len());
        assert!(problems[0].message.len() < 1_010, "{}", problems[0].message.len());
    }
}

/// The base path of every server is in front of every path.
#[test]
fn paths_are_below_the_servers() {
    let base = |servers: &str| {
        let routes = routes(&document(servers, &["/a"]));
        routes[0].path.strip_suffix("/a").unwrap().to_owned()
    };
    for (servers, expected) in [
        ("", ""),
        ("servers:", ""),
        ("servers: []", ""),
        ("servers: [{url: /}]", ""),
        ("servers: [{url: ''}]", ""),
        ("servers: [{url: https://example.com}]", ""),
        ("servers: [{url: 'https://example.com:8443/'}]", ""),
        ("servers: [{url: https://example.com/v2}]", "/v2"),
        ("servers: [{url: https://example.com/api/v2/}]", "/api/v2"),
        ("servers: [{url: //example.com/v2}]", "/v2"),
        ("servers: [{url: /v2}]", "/v2"),
        ("servers: [{url: https://a.example/v2}, {url: 'http://localhost:3000/v2/'}]", "/v2"),
        ("servers: [{url: 'https://{a}.example:{b}/v2'}]", "/v2"),
        ("servers: [{url: '{s}://example.com/v2', variables: {s: {default: https}}}]", "/v2"),
        ("servers: [{url: 'https://e/{b}', variables: {b: {default: v2, description: x}}}]", "/v2"),
        ("servers: [{url: 'https://e/{b}/x', variables: {b: {default: 2}}}]", "/2/x"),
        (
            "servers: [{url: '{origin}/v2', variables: {origin: {default: 'https://a/api', enum: \
             ['https://a/api', 'http://b:1/api']}}}]",
            "/api/v2",
        ),
        ("servers: [{url: /x}, {url: /y}]\nx-keepgate-base-path: /z", "/z"),
        ("servers: [{url: /x}, {url: ../y}]\nx-keepgate-base-path: /", ""),
        ("servers: [{url: /x}]\nx-keepgate-base-path: ''", ""),
        ("x-keepgate-base-path: '/t/{tenant}'", "/t/{tenant}"),
    ] {
        assert_eq!(base(servers), expected, "{servers}");
    }
}

#[test]
fn servers_that_do_not_agree_are_refused() {
    let told = |servers: &str| {
        let problems = openapi::load(&document(servers, &["/a", "/b"])).unwrap_err();
        assert_eq!(problems.len(), 1, "{servers}: {problems:#?}");
        problems[0].to_string()
    };
    for (servers, expected) in [
        (
            "servers: [{url: /v1}, {url: /v2}]",
            expect![
                "line 2: expected one path for all servers, found `/v1` (line 2), `/v2` (line 2); add the one that requests to this service have at the top of the document, such as `x-keepgate-base-path: /v2`"
            ],
        ),
        (
            "servers:\n- {url: https://a/api/v0}\n- {url: 'https://localhost:3000'}",
            expect![
                "line 3: expected one path for all servers, found `/api/v0` (line 3), `/` (line 4); add the one that requests to this service have at the top of the document, such as `x-keepgate-base-path: /api/v0`"
            ],
        ),
        (
            "servers: [{url: 'https://e/{v}', variables: {v: {default: v1, enum: [v1, v2]}}}]",
            expect![
                "line 2: expected one path for all servers, found `/v1` (line 2), `/v2` (line 2); add the one that requests to this service have at the top of the document, such as `x-keepgate-base-path: /v2`"
            ],
        ),
        (
            "servers: [{url: 'https://e/{v}'}]",
            expect!["line 2: the server's `url` has the variable `v`, which is not described"],
        ),
        (
            "servers: [{url: 'https://e/{v}', variables: {v: {}}}]",
            expect!["line 2: the server's variable `v`: expected a `default`, found none"],
        ),
        (
            "servers: [{url: 'https://e/{v}', variables: {v: {default: '{v}'}}}]",
            expect!["line 2: the server's variable `v`: a value has a brace"],
        ),
        (
            "servers: [{url: v1}]",
            expect![
                "line 2: the server `v1` is relative to where the document is; add `x-keepgate-base-path` at the top of the document"
            ],
        ),
        (
            "servers: [{url: api.example.com/v1}]",
            expect![
                "line 2: the server `api.example.com/v1` is relative to where the document is; add `x-keepgate-base-path` at the top of the document"
            ],
        ),
        (
            "servers: [{url: ../v1}]",
            expect![
                "line 2: the server `../v1` is relative to where the document is; add `x-keepgate-base-path` at the top of the document"
            ],
        ),
        (
            "servers: [{url: 'https://e/v1?x=1'}]",
            expect!["line 2: the server `https://e/v1?x=1` has a query or a fragment; remove it"],
        ),
        ("servers: [{}]", expect!["line 2: a server's `url`: expected a text, found nothing"]),
        (
            "servers: [{url: [1]}]",
            expect!["line 2: a server's `url`: expected a text, found a list"],
        ),
        ("servers: https://e/v1", expect!["line 2: `servers`: expected a list, found a text"]),
    ] {
        expected.assert_eq(&told(servers));
    }
    // Of a path item or an operation.
    for place in [
        "  /a:\n    servers: [{url: /v2}]\n    get: {}\n  /b: {get: {}}\n",
        "  /a:\n    get: {servers: [{url: /v2}]}\n  /b: {get: {}}\n",
    ] {
        let text = |root: &str| format!("openapi: 3.0.0\n{root}\npaths:\n{place}");
        let problems = openapi::load(&text("servers: [{url: /v1}]")).unwrap_err();
        assert!(problems[0].to_string().contains("`/v2` (line 5), `/v1` (line 2)"), "{problems:?}");
        assert_eq!(routes(&text("servers: [{url: 'https://e/v2'}]")).len(), 2);
        // What nobody uses is not asked.
        let place = place.split("  /b").next().unwrap();
        let text = format!("openapi: 3.0.0\nservers: [{{url: /v1}}]\npaths:\n{place}");
        assert_eq!(routes(&text)[0].path, "/v2/a");
    }
    // As many combinations as one likes are no trouble.
    let many = |count: usize| {
        let url: String = (0..count).map(|n| format!("/{{v{n}}}")).collect();
        let variables: Vec<String> =
            (0..count).map(|n| format!("v{n}: {{enum: [a, b], default: a}}")).collect();
        format!("servers: [{{url: '{url}', variables: {{{}}}}}]", variables.join(", "))
    };
    let start = Instant::now();
    assert!(told(&many(30)).contains("too many paths"));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(told(&many(2)).contains("`/b/a` (line 2), `/b/b` (line 2)"), "{}", told(&many(2)));
}

#[test]
fn swagger_is_converted() {
    let text = |base: &str| {
        format!(
            "swagger: '2.0'\nhost: example.com\n{base}\nschemes: [https]\nconsumes: [a/b]\npaths:\n  \
             /pets/{{id}}:\n    parameters: [{{name: id, in: path}}]\n    get:\n      operationId: \
             show\n      x-keepgate-resource: {{type: pet, param: id}}\n    delete: {{}}\n"
        )
    };
    let expected = [
        "{\"method\":\"GET\",\"path\":\"/v2/pets/{id}\",\"resource\":{\"type\":\"pet\",\
         \"param\":\"id\"},\"operation\":\"show\"}",
        "{\"method\":\"DELETE\",\"path\":\"/v2/pets/{id}\"}",
    ];
    let json = |route: &Route| serde_json::to_string(route).unwrap();
    for base in ["basePath: /v2", "basePath: /v2/", "basePath: /v1\nx-keepgate-base-path: /v2"] {
        assert_eq!(routes(&text(base)).iter().map(json).collect::<Vec<_>>(), expected, "{base}");
    }
    for base in ["", "basePath: /", "basePath: ''"] {
        assert_eq!(routes(&text(base))[0].path, "/pets/{id}", "{base}");
    }
    // Without quotes the version is a number.
    let unquoted = text("basePath: /v2").replace("'2.0'", "2.0");
    assert_eq!(routes(&unquoted), routes(&text("basePath: /v2")));
    assert_eq!(routes("openapi: 3.1\npaths:\n  /a: {get: {}}\n").len(), 1);
    refused(
        &text("basePath: v2"),
        expect![[r#"
        line 3: `basePath`: expected a path such as `/v2`, got `v2`
    "#]],
    );
}

/// Every path of these systems either takes what it takes there, or is refused.
#[test]
fn wildcards_of_other_systems_become_rests_or_are_refused() {
    let converted = |path: &str| {
        let loaded = openapi::load(&document("", &[&format!("'{path}'")]));
        loaded.map(|placed| placed[0].route.path.clone()).map_err(|p| p[0].message.clone())
    };
    for (path, expected) in [
        ("/a/*", "/a/{*rest}"),
        ("/*", "/{*rest}"),
        ("/a/**", "/a/{*rest}"),
        ("/{rest}/*", "/{rest}/{*rest2}"),
        ("/a/{proxy+}", "/a/{*proxy}"),
        ("/{proxy+}", "/{*proxy}"),
        ("/a/{+path}", "/a/{*path}"),
        ("/a/{path*}", "/a/{*path}"),
        ("/a/{**path}", "/a/{*path}"),
        ("/a/{*path}", "/a/{*path}"),
        ("/a{/*path}", "/a{/*path}"),
        ("/{b}{/*path}", "/{b}{/*path}"),
        ("/a/{path...}", "/a/{*path}"),
        ("/a/{path:path}", "/a/{*path}"),
        ("/a/{path:.*}", "/a/{*path}"),
        ("/a/{path: .+}", "/a/{*path}"),
        ("/a/{name=**}", "/a/{*name}"),
        ("/a/{id:int}/b", "/a/{id}/b"),
        ("/a/{id:[0-9]+}", "/a/{id}"),
        ("/a/{id}:cancel", "/a/{id}:cancel"),
        ("/a/b:{verb}", "/a/b:{verb}"),
        ("/a(id='{id}')", "/a(id='{id}')"),
        ("/a/{file-name}.{format}", "/a/{file-name}.{format}"),
        ("/a/{owner.login}/{repo_id}/{$x}", "/a/{owner.login}/{repo_id}/{$x}"),
        ("/a/@{name}", "/a/@{name}"),
    ] {
        // In YAML a quote is written twice.
        assert_eq!(converted(&path.replace('\'', "''")).as_deref(), Ok(expected), "{path}");
    }
    for path in [
        "/a/*/b",
        "/*/b",
        "/{proxy+}/b",
        "/{+path}/b",
        "/{path:.*}/b",
        "/a*",
        "/a/*.json",
        "/a/b-{c}*",
        "/a/{id?}",
        "/a/{id:int?}",
        "/a{?q}",
        "/a/{;q}",
        "/a/{name=projects/*}",
        "/a/{id}-{proxy+}",
        "/a/:id",
        "/a/<id>",
        "/a/<int:id>",
        "/{$}",
        "/a/{+}",
    ] {
        assert!(converted(path).is_err(), "{path}: {:?}", converted(path));
    }
    refused(
        &document("", &["/a/*/b", "'/{proxy+}/b'", "/a/*.json", "/users/:id", "'/users/<int:id>'"]),
        expect![[r#"
            line 5: `/a/*/b`: `*` takes several segments, so it must be the last one; write a parameter such as `{name}` for each segment
            line 7: `/{proxy+}/b`: `{proxy+}` takes several segments, so it must be the last one; write a parameter such as `{name}` for each segment
            line 9: `/a/*.json`: expected literal text or parameters, found the wildcard `*` in `*.json`; write a parameter such as `{name}`
            line 11: `/users/:id`: expected a parameter such as `{id}`, found `:id`
            line 13: `/users/<int:id>`: expected a parameter such as `{id}`, found `<int:id>`
        "#]],
    );
    // One that takes everything matches what another system gives it.
    let placed = routes(&document("servers: [{url: /v1}]", &["'/files/{proxy+}'"]));
    let router = Router::new(placed).unwrap();
    for path in ["/v1/files/a", "/v1/files/a/b/c", "/v1/files/"] {
        assert!(matches!(router.matched("GET", path), Matched::Found(_)), "{path}");
    }
    assert_eq!(router.matched("GET", "/files/a"), Matched::NotFound);
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
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/documents/github.json");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return Some(text);
    }
    let why = "target/fixtures/documents/github.json is missing; run scripts/fetch-fixtures";
    assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    None
}

#[test]
fn githubs_description_is_read_and_routed() {
    let Some(text) = github() else { return };
    let start = Instant::now();
    let routes = routes(&text);
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
        routes.iter().map(|route| (route.name(), route.operation_id().to_owned())).collect();
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
        // So does its sample.
        let sample = sample::of(&router, index).unwrap_or_else(|| panic!("{}", route.name()));
        match router.matched(&sample.method, &sample.path) {
            Matched::Found(found) => assert_eq!(found.index, index, "{sample:?}"),
            other => panic!("{sample:?}: {other:?}"),
        }
    }
    assert_eq!(sample::samples(&router).len(), sample::MAX_SAMPLES);
}

/// What a dry run shows: requests that are routed, with the base path, and what they mean.
#[test]
fn samples_are_requests_of_their_routes() {
    let text = "openapi: 3.0.0
servers: [{url: https://example.com/v2}]
paths:
  /pet/{petId}: {get: {x-keepgate-resource: {type: pet, param: petId}}, delete: {}}
  /pet/1: {get: {}}
  /pet/{name}.{format}: {get: {}}
  /files/{proxy+}: {put: {x-keepgate-action: write, x-keepgate-anonymous: true}}
  /a b: {}
";
    let mut routes = routes(text);
    routes.push(Route::new("*", "/v2/pet/{petId}"));
    routes.push(Route::new("*", "/admin{/*rest}"));
    let router = Router::new(routes).unwrap();
    let shown: Vec<String> = sample::samples(&router)
        .iter()
        .map(|s| format!("{} {} ({}): {} on {}\n", s.method, s.path, s.route, s.action, s.resource))
        .collect();
    expect![[r#"
        GET /admin (* /admin{/*rest}): Action::"GET" on route::"/admin"
        PUT /v2/files/a/b (PUT /v2/files/{*proxy}): Action::"write" on route::"/v2/files/{*proxy}"
        GET /v2/pet/1 (GET /v2/pet/1): Action::"GET" on route::"/v2/pet/1"
        GET /v2/pet/name.format (GET /v2/pet/{name}.{format}): Action::"GET" on route::"/v2/pet/{name}.{format}"
        POST /v2/pet/1 (* /v2/pet/{petId}): Action::"POST" on route::"/v2/pet/{petId}"
        DELETE /v2/pet/1 (DELETE /v2/pet/{petId}): Action::"DELETE" on route::"/v2/pet/{petId}"
        GET /v2/pet/sample-1 (GET /v2/pet/{petId}): Action::"GET" on pet::"sample-1"
    "#]].assert_eq(&shown.concat());
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
