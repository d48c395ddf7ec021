//! Taking roles and entities away: what hangs on them is named, or goes in the same revision.

use serde_json::{Value, json};

use crate::fixture::{Dir, Running};

fn names(list: &Value) -> Vec<String> {
    let name = |item: &Value| format!("{} {}", item["kind"], item["id"]).replace('"', "");
    list.as_array().map(|list| list.iter().map(name).collect()).unwrap_or_default()
}

/// A service in which much hangs on role `temp` and user `eve`.
async fn prepared(center: &Running) {
    center
        .service(
            "orders",
            &[
                ("temps", "permit (principal in role::\"temp\", action, resource in route::\"/t\");"),
                ("when-temp", "permit (principal, action, resource) when { principal in role::\"te\\u{6d}p\" };"),
                ("eves", "permit (principal, action, resource) when { principal == user::\"eve\" };"),
                ("mixed", "permit (principal, action, resource) when { principal == user::\"eve\" || principal in role::\"temp\" };"),
                ("no-temps", "forbid (principal in role::\"temp\", action, resource in route::\"/x\");"),
                ("no-eve", "forbid (principal == user::\"eve\", action, resource in route::\"/x\");"),
            ],
        )
        .await;
    let at = |path: &str| format!("/v1/services/orders/{path}");
    let uid = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    let template = json!({ "text": "permit (principal == ?principal, action, resource);" });
    center.ask("PUT", &at("templates/t"), Some(template)).await.good();
    let bound =
        json!({ "text": "permit (principal in role::\"temp\", action, resource == ?resource);" });
    center.ask("PUT", &at("templates/of-temp"), Some(bound)).await.good();
    for (path, body) in [
        ("links/eve", json!({ "template": "t", "principal": uid("user", "eve") })),
        ("links/temp", json!({ "template": "of-temp", "resource": uid("route", "/l") })),
        ("links/other", json!({ "template": "t", "principal": uid("user", "other") })),
        ("grants/g-temp", json!({ "principal": uid("role", "temp"), "actions": [] })),
        ("grants/g-eve", json!({ "principal": uid("user", "eve"), "actions": [] })),
        ("grants/g-other", json!({ "principal": uid("user", "other"), "actions": [] })),
        ("entities/user::%22eve%22", json!({ "parents": [uid("role", "temp")] })),
        (
            "entities/order::%221%22",
            json!({ "attrs": { "owner": { "__entity": uid("user", "eve") } } }),
        ),
    ] {
        center.ask("PUT", &at(path), Some(body)).await.good();
    }
    center.ask("PUT", "/v1/roles/temp", Some(json!({ "description": "for a while" }))).await.good();
    for (path, body) in [
        ("user::%22eve%22", json!({})),
        ("user::%22kid%22", json!({ "parents": [uid("role", "temp")] })),
        ("role::%22temp%22", json!({ "parents": [uid("role", "all")] })),
    ] {
        center.ask("PUT", &format!("/v1/entities/{path}"), Some(body)).await.good();
    }
    for (member, role) in [
        ("user::\"eve\"", "role::\"temp\""),
        ("user::\"other\"", "role::\"temp\""),
        ("user::\"eve\"", "role::\"staff\""),
        ("role::\"temp\"", "role::\"staff\""),
        ("user::\"other\"", "role::\"staff\""),
    ] {
        let body = json!({ "member": member, "role": role });
        center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    }
    let key = json!({ "principal": "user::\"eve\"" });
    center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
}

#[tokio::test]
async fn a_role_goes_with_all_that_hangs_on_it_or_not_at_all() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    prepared(&center).await;
    assert!(center.allowed("kid").await);
    let revision = center.revision().await;
    let refused = center.ask("DELETE", "/v1/roles/temp", None).await;
    let hanging = names(&refused.json()["problems"]);
    let detail = refused.problem(409);
    assert!(detail.contains("11 other items hang on it"), "{detail}");
    assert!(detail.contains("--cascade"), "{detail}");
    assert_eq!(
        hanging,
        [
            r"entity role::\temp\",
            r"entity user::\kid\",
            r"member role::\temp\ in role::\staff\",
            r"member user::\eve\ in role::\temp\",
            r"member user::\other\ in role::\temp\",
            r"entity user::\eve\",
            "policy temps",
            "policy when-temp",
            "template of-temp",
            "link temp",
            "grant g-temp",
        ]
    );
    assert_eq!(center.revision().await, revision);
    let path = "/v1/roles/role::%22temp%22?cascade=true";
    let gone = center.ask("DELETE", path, None).await.good();
    assert_eq!(gone["revision"], revision + 1, "all in one revision");
    assert_eq!(gone["changes"].as_array().unwrap().len(), hanging.len() + 1);
    assert_eq!(names(&gone["still_named"]), ["policy mixed", "policy no-temps"]);
    assert!(!center.allowed("kid").await);
    // Those who were in it are there still, without it.
    let kid = center.ask("GET", "/v1/entities/user::%22kid%22", None).await.good();
    assert_eq!(kid["parents"], json!([]));
    let members = center.ask("GET", "/v1/members", None).await.good();
    assert_eq!(members["members"].as_array().unwrap().len(), 2, "{members}");
    center.ask("DELETE", path, None).await.problem(404);
    // A role that nobody has described, and that has members.
    let body = json!({ "member": "user::\"x\"", "role": "role::\"bare\"" });
    center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    center.ask("DELETE", "/v1/roles/bare", None).await.problem(409);
    center.ask("DELETE", "/v1/roles/bare?cascade=true", None).await.good();
    // One on which nothing hangs needs no more than before.
    center.ask("PUT", "/v1/roles/lone", Some(json!({}))).await.good();
    center.ask("DELETE", "/v1/roles/lone", None).await.good();
    let detail = center.ask("DELETE", "/v1/roles/lone?cascad=true", None).await.problem(400);
    assert!(detail.contains("cascad"), "{detail}");
    center.stop().await;
}

#[tokio::test]
async fn a_user_goes_with_memberships_grants_keys_and_policies() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    prepared(&center).await;
    assert!(center.allowed("eve").await);
    let path = "/v1/entities/user::%22eve%22";
    let refused = center.ask("DELETE", path, None).await;
    let hanging = names(&refused.json()["problems"]);
    refused.problem(409);
    let key = hanging.iter().find(|name| name.starts_with("key ")).unwrap().clone();
    assert_eq!(
        hanging,
        [
            r"member user::\eve\ in role::\staff\",
            r"member user::\eve\ in role::\temp\",
            r"entity user::\eve\",
            "policy eves",
            "link eve",
            "grant g-eve",
            &key,
        ]
    );
    let gone = center.ask("DELETE", &format!("{path}?cascade=true"), None).await.good();
    assert_eq!(
        names(&gone["still_named"]),
        [r"entity order::\1\", "policy mixed", "policy no-eve"]
    );
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    assert_eq!(keys["keys"], json!([]));
    center.ask("DELETE", "/v1/services/orders/policies/mixed", None).await.good();
    assert!(!center.allowed("eve").await);
    assert!(center.allowed("other").await);
    // Each of them has left a tombstone, of a command.
    let extras = center.ask("GET", "/v1/services/orders/extras", None).await.good();
    let stones = extras["tombstones"].as_array().unwrap();
    let of_eve = stones.iter().filter(|stone| stone["action"] == "entity.delete").count();
    assert_eq!(of_eve, hanging.len() + 1);
    center.stop().await;
}

#[tokio::test]
async fn an_entity_of_a_service_takes_what_that_service_has() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    center.service("other", &[]).await;
    let uid = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    for service in ["orders", "other"] {
        let at = |path: &str| format!("/v1/services/{service}/{path}");
        let folder = json!({ "principal": uid("user", "u"), "actions": [],
            "resource": uid("folder", "f") });
        for (path, body) in [
            ("entities/folder::%22f%22", json!({})),
            ("entities/photo::%221%22", json!({ "parents": [uid("folder", "f")] })),
            ("grants/on-f", folder),
            (
                "grants/verbs",
                json!({ "principal": uid("user", "u"),
                    "actions": [uid("Action", "a"), uid("Action", "b")] }),
            ),
        ] {
            center.ask("PUT", &at(path), Some(body)).await.good();
        }
    }
    let path = "/v1/services/orders/entities/folder::%22f%22";
    center.ask("DELETE", path, None).await.problem(409);
    let gone = center.ask("DELETE", &format!("{path}?cascade=true"), None).await.good();
    assert_eq!(
        names(&gone["changes"]),
        [r"entity folder::\f\", r"entity photo::\1\", "grant on-f"]
    );
    center.ask("GET", "/v1/services/other/grants/on-f", None).await.good();
    // A grant of several actions keeps the others; without any it would be of all.
    for (action, left) in [("a", 1), ("b", 0)] {
        let entity = format!("/v1/services/orders/entities/Action::%22{action}%22");
        center.ask("PUT", &entity, Some(json!({}))).await.good();
        center.ask("DELETE", &format!("{entity}?cascade=true"), None).await.good();
        let grant = center.ask("GET", "/v1/services/orders/grants/verbs", None).await;
        match left {
            0 => drop(grant.problem(404)),
            left => assert_eq!(grant.good()["actions"].as_array().unwrap().len(), left),
        }
    }
    center.stop().await;
}
