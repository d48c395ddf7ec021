//! Whatever nests or is long, by every way in: the center answers 422, and goes on.

use serde_json::{Value, json};

use crate::fixture::{Dir, Running};

fn around(open: &str, inner: &str, close: &str, n: usize) -> String {
    format!("{}{inner}{}", open.repeat(n), close.repeat(n))
}

fn policy(condition: &str) -> String {
    format!("permit (principal, action, resource)\nwhen {{ {condition} }};")
}

/// Conditions that ended the process.
fn deep(n: usize) -> Vec<String> {
    vec![
        around("(", "true", ")", n),
        "(".repeat(n),
        around("[", "1", "]", n),
        around("{a: ", "1", "}", n),
        around("!(", "true", ")", n),
        around("if true then ", "true", " else false", n),
        around("if false then false else ", "true", "", n),
        format!("1{} == 1", " + 1".repeat(n)),
        format!("context{} == 1", ".a".repeat(n)),
        format!("[1]{}", ".contains(1)".repeat(n)),
        format!("context has a{}", ".a".repeat(n)),
    ]
}

fn files(name: &str, text: &str) -> Value {
    json!({ "files": { "service.toml": "name = \"orders\"\n", name: text } })
}

#[tokio::test]
async fn nothing_deep_ends_the_center() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let first = files("p.cedar", &policy("true"));
    center.ask("POST", "/v1/services/orders/apply", Some(first)).await.good();
    for n in [129, 1_000, 20_000] {
        for condition in deep(n) {
            let text = policy(&condition);
            for query in ["?dry_run=true", ""] {
                let path = format!("/v1/services/orders/apply{query}");
                let answer = center.ask("POST", &path, Some(files("p.cedar", &text))).await;
                assert_eq!(answer.status.as_u16(), 422, "{condition:.80}");
                let problem = answer.json();
                let found = &problem["problems"][0];
                assert_eq!(found["file"], "p.cedar", "{found}");
                assert_eq!(found["line"], 2, "{found}");
                assert!(found["message"].as_str().unwrap().contains("at most 100"), "{found}");
            }
            let body = Some(json!({ "text": text }));
            center.ask("PUT", "/v1/services/orders/policies/p", body).await.problem(422);
            let template = text.replace("(principal,", "(principal == ?principal,");
            let body = Some(json!({ "text": template }));
            center.ask("PUT", "/v1/services/orders/templates/t", body).await.problem(422);
        }
        for (open, close) in [("Set<", ">"), ("{a: ", "}")] {
            let text = format!("entity e = {{ a: {} }};", around(open, "Long", close, n));
            let body = Some(json!({ "text": text }));
            center.ask("PUT", "/v1/services/orders/schema", body).await.problem(422);
        }
        let entities = format!(
            "[{{\"uid\":{{\"type\":\"user\",\"id\":\"a\"}},\"attrs\":{{\"a\":{}}}}}]",
            around("[", "1", "]", n)
        );
        let body = Some(files("entities.json", &entities));
        center.ask("POST", "/v1/services/orders/apply", body).await.problem(422);
        let rule = format!("[[rule]]\nname = \"r\"\nx = {}\n", around("[", "1", "]", n));
        let body = Some(files("limits.toml", &rule));
        center.ask("POST", "/v1/services/orders/apply", body).await.problem(422);
        let rule = format!("[[rule]]\nname = \"r\"\nx{} = 1\n", ".x".repeat(n));
        let body = Some(files("limits.toml", &rule));
        center.ask("POST", "/v1/services/orders/apply", body).await.problem(422);
        let yaml = format!("openapi: 3.1.0\ninfo: {}\npaths: {{}}\n", around("[", "1", "]", n));
        let body = Some(files("openapi.yaml", &yaml));
        center.ask("POST", "/v1/services/orders/apply", body).await.problem(422);
    }
    let users: Vec<String> =
        (0..10_000).map(|at| format!("principal == user::\"u{at}\"")).collect();
    let text = policy(&users.join(" || "));
    let body = Some(json!({ "text": text }));
    center.ask("PUT", "/v1/services/orders/policies/users", body).await.good();
    let question = json!({ "service": "orders", "principal": "user::\"u9999\"", "action": "read",
        "resource": "doc::\"a\"" });
    let answer = center.ask("POST", "/v1/check", Some(question)).await.good();
    assert_eq!(answer["decision"], true);
    let body = json!({ "subject": { "type": "user", "id": "u9999" }, "action": { "name": "read" },
        "resource": { "type": "doc", "id": "a" } });
    let answer = center.ask("POST", "/s/orders/access/v1/evaluation", Some(body)).await.good();
    assert_eq!(answer["decision"], true);
    let export = center.ask("GET", "/v1/services/orders/export", None).await.good();
    assert_eq!(export["files"]["users.cedar"].as_str().unwrap().trim(), text);
    center.stop().await;
    // What is stored is read again.
    let center = Running::start(&dir).await;
    let body = json!({ "subject": { "type": "user", "id": "u1" }, "action": { "name": "read" },
        "resource": { "type": "doc", "id": "a" } });
    let answer = center.ask("POST", "/s/orders/access/v1/evaluation", Some(body)).await.good();
    assert_eq!(answer["decision"], true);
    center.stop().await;
}
