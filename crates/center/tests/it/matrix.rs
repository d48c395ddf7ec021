//! Endpoint by role: what really happens when each role calls each endpoint. And the OpenAPI
//! document against the router.

use expect_test::expect;
use serde_json::{Value, json};

use crate::fixture::{Dir, Mirror, Running};

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

fn filled(path: &str) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        filled += before;
        // What is there cannot be harmed: these are not.
        filled += if name == "uid" { "a::%22none%22" } else { "none" };
        rest = after;
    }
    filled + rest
}

async fn operations(center: &Running) -> Vec<(String, String, Value)> {
    let document = center.ask("GET", "/v1/openapi.json", None).await.good();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_endpoint_with_every_role() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut callers = vec![("none", None)];
    for (role, service) in
        [("admin", ""), ("editor", ""), ("viewer", ""), ("gate", "orders"), ("pep", "")]
    {
        callers.push((role, Some(center.token(role, service).await)));
    }
    let mut table = String::new();
    for (method, path, operation) in operations(&center).await {
        let body = operation.get("requestBody").map(|_| Value::Null);
        let mut line = format!("{:<6} {path}:", method.to_uppercase());
        for (role, token) in &callers {
            let method = method.to_uppercase();
            let answer =
                center.ask_as(token.as_deref(), &method, &filled(&path), body.clone()).await;
            let status = answer.status.as_u16();
            match status {
                401 => assert_eq!(*role, "none"),
                403 => {}
                500.. => panic!("{method} {path} as {role}: {status}"),
                _ => line = format!("{line} {role}"),
            }
            // The document says the same.
            let said = operation["x-keepgate-roles"].as_array().unwrap();
            let open = said.is_empty();
            let passes = open || said.contains(&json!(role));
            assert_eq!(passes, !matches!(status, 401 | 403), "{method} {path} as {role}");
        }
        table += &line;
        table.push('\n');
    }
    let mut line = "gRPC   keepgate.sync.v1.Sync/Follow of orders:".to_owned();
    for (role, token) in &callers {
        let token = token.as_deref().unwrap_or_default();
        let passes = match Mirror::follow(&center, token, &["orders"]).await {
            Ok(mut mirror) => mirror.step().await.is_ok(),
            Err(_) => false,
        };
        if passes {
            line = format!("{line} {role}");
        }
    }
    table += &line;
    expect![[r#"
        GET    /healthz: none admin editor viewer gate pep
        GET    /readyz: none admin editor viewer gate pep
        GET    /metrics: none admin editor viewer gate pep
        GET    /v1/openapi.json: none admin editor viewer gate pep
        GET    /v1/services: admin editor viewer
        GET    /v1/services/{service}: admin editor viewer
        PUT    /v1/services/{service}: admin editor
        DELETE /v1/services/{service}: admin editor
        POST   /v1/services/{service}/apply: admin editor
        GET    /v1/services/{service}/export: admin editor viewer
        GET    /v1/services/{service}/extras: admin editor viewer
        POST   /v1/services/{service}/import/entities: admin editor
        POST   /v1/services/{service}/import/grants: admin editor
        GET    /v1/services/{service}/top: admin editor viewer
        GET    /v1/services/{service}/hour: admin editor viewer
        GET    /v1/services/{service}/cedar: admin editor viewer
        PUT    /v1/services/{service}/cedar: admin editor
        GET    /v1/services/{service}/schema: admin editor viewer
        PUT    /v1/services/{service}/schema: admin editor
        DELETE /v1/services/{service}/schema: admin editor
        GET    /v1/services/{service}/policies: admin editor viewer
        GET    /v1/services/{service}/policies/{id}: admin editor viewer
        PUT    /v1/services/{service}/policies/{id}: admin editor
        DELETE /v1/services/{service}/policies/{id}: admin editor
        GET    /v1/services/{service}/templates: admin editor viewer
        GET    /v1/services/{service}/templates/{id}: admin editor viewer
        PUT    /v1/services/{service}/templates/{id}: admin editor
        DELETE /v1/services/{service}/templates/{id}: admin editor
        GET    /v1/services/{service}/links: admin editor viewer
        GET    /v1/services/{service}/links/{id}: admin editor viewer
        PUT    /v1/services/{service}/links/{id}: admin editor
        DELETE /v1/services/{service}/links/{id}: admin editor
        GET    /v1/services/{service}/grants: admin editor viewer
        GET    /v1/services/{service}/grants/{id}: admin editor viewer
        PUT    /v1/services/{service}/grants/{id}: admin editor
        DELETE /v1/services/{service}/grants/{id}: admin editor
        GET    /v1/services/{service}/entities: admin editor viewer
        GET    /v1/services/{service}/entities/{id}: admin editor viewer
        PUT    /v1/services/{service}/entities/{id}: admin editor
        DELETE /v1/services/{service}/entities/{id}: admin editor
        GET    /v1/services/{service}/routes: admin editor viewer
        GET    /v1/services/{service}/routes/{id}: admin editor viewer
        PUT    /v1/services/{service}/routes/{id}: admin editor
        DELETE /v1/services/{service}/routes/{id}: admin editor
        GET    /v1/services/{service}/limits: admin editor viewer
        GET    /v1/services/{service}/limits/{id}: admin editor viewer
        PUT    /v1/services/{service}/limits/{id}: admin editor
        DELETE /v1/services/{service}/limits/{id}: admin editor
        GET    /v1/services/{service}/plans: admin editor viewer
        GET    /v1/services/{service}/plans/{id}: admin editor viewer
        PUT    /v1/services/{service}/plans/{id}: admin editor
        DELETE /v1/services/{service}/plans/{id}: admin editor
        GET    /v1/services/{service}/keys: admin editor viewer
        POST   /v1/services/{service}/keys: admin editor
        GET    /v1/services/{service}/keys/{prefix}: admin editor viewer
        DELETE /v1/services/{service}/keys/{prefix}: admin editor
        POST   /v1/services/{service}/keys/{prefix}/rotate: admin editor
        GET    /v1/services/{service}/requests: admin editor viewer
        GET    /v1/services/{service}/requests/{id}: admin editor viewer
        POST   /v1/services/{service}/requests/{id}/approve: admin editor
        POST   /v1/services/{service}/requests/{id}/decline: admin editor
        GET    /v1/entities: admin editor viewer
        GET    /v1/entities/{uid}: admin editor viewer
        PUT    /v1/entities/{uid}: admin editor
        DELETE /v1/entities/{uid}: admin editor
        GET    /v1/roles: admin editor viewer
        GET    /v1/roles/{uid}: admin editor viewer
        PUT    /v1/roles/{uid}: admin editor
        DELETE /v1/roles/{uid}: admin editor
        POST   /v1/import/entities: admin editor
        POST   /v1/import/members: admin editor
        GET    /v1/members: admin editor viewer
        POST   /v1/roles/assign: admin editor
        POST   /v1/roles/revoke: admin editor
        GET    /v1/tokens: admin
        POST   /v1/tokens: admin
        DELETE /v1/tokens/{id}: admin
        POST   /v1/tokens/{id}/rotate: admin
        GET    /v1/sessions: admin
        DELETE /v1/sessions/{holder}: admin
        GET    /v1/revision: admin editor viewer gate pep
        GET    /v1/status: admin editor viewer
        GET    /v1/audit: admin editor viewer
        GET    /v1/audit/log: admin editor viewer
        GET    /v1/log-keys: admin editor viewer
        GET    /v1/writes/{write_id}: admin editor
        GET    /v1/followers: admin editor viewer
        POST   /v1/check: admin editor viewer pep
        GET    /v1/history: admin editor viewer
        GET    /v1/revisions/{revision}: admin editor viewer
        GET    /v1/diff: admin editor viewer
        POST   /v1/rollback: admin editor
        GET    /v1/access/resource: admin editor viewer
        GET    /v1/access/principal: admin editor viewer
        GET    /v1/access/role: admin editor viewer
        GET    /s/{service}/.well-known/jwks.json: none admin editor viewer gate pep
        GET    /.well-known/authzen-configuration: none admin editor viewer gate pep
        GET    /.well-known/authzen-configuration/s/{service}: none admin editor viewer gate pep
        POST   /access/v1/evaluation: admin editor viewer pep
        POST   /access/v1/evaluations: admin editor viewer pep
        POST   /s/{service}/access/v1/evaluation: admin editor viewer pep
        POST   /s/{service}/access/v1/evaluations: admin editor viewer pep
        gRPC   keepgate.sync.v1.Sync/Follow of orders: admin gate"#]]
    .assert_eq(&table);
    center.stop().await;
}

#[tokio::test]
async fn the_document_has_what_the_router_has() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let operations = operations(&center).await;
    let mut ids: Vec<&str> =
        operations.iter().map(|(_, _, op)| op["operationId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), operations.len(), "operation ids must differ");
    for (_, path, _) in &operations {
        for method in METHODS {
            let documented = operations.iter().any(|(m, p, _)| m == method && p == path);
            let answer = center.ask(&method.to_uppercase(), &filled(path), None).await;
            let routed = answer.status != 405;
            assert_eq!(documented, routed, "{method} {path}");
            // A path of the document is never the router's "nothing is at".
            let text = String::from_utf8_lossy(&answer.body);
            assert!(!text.contains("nothing is at"), "{method} {path}: {text}");
        }
    }
    // Every reference leads somewhere.
    let document = center.ask("GET", "/v1/openapi.json", None).await.good();
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    center.stop().await;
}

#[tokio::test]
async fn metrics_are_those_of_the_document() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let page = center.ask("GET", "/metrics", None).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let mut rows: Vec<String> = Vec::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            rows.push(format!("| `{name}` | {help} |"));
        }
    }
    assert!(rows.len() > 15);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let document = std::fs::read_to_string(file).unwrap();
    let documented: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| `keepgate_center_")).collect();
    assert_eq!(documented, rows, "docs/metrics.md, section center");
    center.stop().await;
}
