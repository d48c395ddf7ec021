//! Whatever nests or is long, by every way in: the center answers 422, and goes on.

use std::path::Path;

use keepgate_policy::{Digest, Item, ItemKey, Kind, Uid};
use serde_json::{Value, json};

use crate::fixture::{Dir, Running};
use crate::keeping::store_of_release_01;

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

/// Puts an item into a store of release 0.1, as that release would have.
fn put_by_release_01(dir: &Path, key: ItemKey, body: &Value) {
    let item = Item::decode(key, body.to_string().as_bytes()).unwrap();
    let (key, body) = (&item.key, item.encode());
    let digest = Digest::of_encoded(key, &body);
    let raw = rusqlite::Connection::open(dir.join("center.db")).unwrap();
    raw.execute(
        "INSERT INTO items VALUES (?1, ?2, ?3, ?4, 12, ?5, '')",
        rusqlite::params![key.service, key.kind.as_str(), key.id, body, digest.to_bytes()],
    )
    .unwrap();
    let sum = "SELECT digest FROM scopes WHERE service = ?1";
    let sum: Vec<u8> = raw.query_row(sum, [&key.service], |row| row.get(0)).unwrap();
    let sum = Digest::from_bytes(&sum).unwrap().plus(digest);
    let grown = "UPDATE scopes SET digest = ?2, items = items + 1 WHERE service = ?1";
    raw.execute(grown, rusqlite::params![key.service, sum.to_bytes()]).unwrap();
}

/// Release 0.1 took what is beyond a bound of today: the center starts on it. What it cannot know
/// it does not decide, until the item is replaced.
#[tokio::test]
async fn a_store_of_release_01_may_hold_what_is_beyond_a_bound() {
    const LEVELS: usize = 120;
    let forbid = format!(
        "forbid (principal, action, resource) when {{ {} }};",
        around("(", "false", ")", LEVELS)
    );
    let types = format!(
        "entity user; entity doc = {{ a: {} }}; action read appliesTo {{ principal: user, \
         resource: doc }};",
        around("Set<", "Long", ">", LEVELS)
    );
    let value: Value = serde_json::from_str(&around("[", "1", "]", LEVELS)).unwrap();
    let user = json!({ "type": "user", "id": "alice" });
    let key = |kind, id: &str| ItemKey::new("orders", kind, id);
    let items = [
        (key(Kind::Policy, "deep"), json!({ "text": forbid }), false),
        (key(Kind::Schema, ""), json!({ "text": types }), false),
        (
            ItemKey::entity("orders", &Uid::new("user", "alice")),
            json!({ "uid": user, "attrs": { "a": value }, "parents": [], "tags": {} }),
            true,
        ),
    ];
    let question = || {
        json!({ "subject": { "type": "user", "id": "alice" }, "action": { "name": "read" },
            "resource": { "type": "doc", "id": "a" } })
    };
    for (key, body, decides) in items {
        let dir = Dir::new();
        store_of_release_01(dir.path());
        put_by_release_01(dir.path(), key.clone(), &body);
        for _ in 0..2 {
            let center = Running::start(&dir).await;
            let path = "/s/orders/access/v1/evaluation";
            let answer = center.ask("POST", path, Some(question())).await;
            let status = if decides { 200 } else { 503 };
            assert_eq!(answer.status.as_u16(), status, "{key}: {}", answer.json());
            center.stop().await;
        }
        let center = Running::start(&dir).await;
        let (path, text) = match key.kind {
            Kind::Policy => {
                ("policies/deep", "forbid (principal, action, resource) when { false };")
            }
            _ => (
                "schema",
                "entity role; entity user in [role]; entity doc; \
                 action read appliesTo { principal: user, resource: doc };",
            ),
        };
        if !decides {
            let path = format!("/v1/services/orders/{path}");
            center.ask("PUT", &path, Some(json!({ "text": text }))).await.good();
            let path = "/s/orders/access/v1/evaluation";
            center.ask("POST", path, Some(question())).await.good();
        }
        center.stop().await;
    }
}
