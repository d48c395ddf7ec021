//! Whole services: apply, export, dry runs, what stays and what goes, what never lands.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::fixture::{Answer, Dir, Running};

fn orders() -> Value {
    json!({
        "service.toml": "name = \"orders\"\nhelp = \"https://example.org/orders\"\n\
            [identify.api_key]\n",
        "schema.cedarschema": "entity role in [role];\nentity user in [role];\n\
            entity route in [route];\naction GET, POST appliesTo { principal: [user, role], \
            resource: route };\n",
        "owners.cedar": "@id(\"all-get\")\npermit (principal is user, action == Action::\"GET\", \
            resource);\n",
        "roles.toml": "[[role]]\nid = \"orders-admin\"\ndescription = \"may do anything\"\n\
            members = ['user::\"alice\"']\n\n[[role.grant]]\nactions = [\"GET\", \"POST\"]\n\
            resource = 'route::\"/orders\"'\n",
        "entities.json": "[{\"uid\":{\"type\":\"user\",\"id\":\"carl\"},\"attrs\":{},\
            \"parents\":[{\"type\":\"role\",\"id\":\"orders-admin\"}]}]",
        "routes.toml": "[[route]]\nmethod = \"GET\"\npath = \"/orders/{id}\"\n\n[[route]]\n\
            method = \"POST\"\npath = \"/orders\"\n",
        "limits.toml": "[[rule]]\nname = \"orders\"\nkey = \"principal\"\nroute = \"/orders/*\"\n\
            rate = \"100/min\"\n\n[plan.bulk]\n[[plan.bulk.rule]]\nname = \"bulk\"\n\
            key = \"api_key\"\nrate = \"1000/min\"\n",
    })
}

async fn apply(center: &Running, query: &str, files: &Value) -> Answer {
    let path = format!("/v1/services/orders/apply{query}");
    center.ask("POST", &path, Some(json!({ "files": files }))).await
}

fn lines(answer: &Value) -> String {
    let mut text = String::new();
    for change in answer["changes"].as_array().unwrap() {
        let part = |name: &str| change[name].as_str().unwrap().to_owned();
        text += &format!("{} {} {}\n", part("op"), part("kind"), part("id"));
    }
    text
}

#[tokio::test]
async fn apply_is_one_revision_and_an_export_applied_is_none() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let before = center.revision().await;
    let dry = apply(&center, "?dry_run=true", &orders()).await.good();
    assert_eq!((&dry["dry_run"], &dry["revision"]), (&json!(true), &json!(before)));
    assert_eq!(center.revision().await, before);
    center.ask("GET", "/v1/services/orders", None).await.problem(404);
    let done = apply(&center, "", &orders()).await.good();
    assert_eq!((&done["dry_run"], &done["revision"]), (&json!(false), &json!(before + 1)));
    assert_eq!(done["changes"], dry["changes"]);
    expect![[r#"
        create role role::"orders-admin"
        create member user::"alice" in role::"orders-admin"
        create service orders
        create schema orders
        create entity user::"carl"
        create policy all-get
        create grant orders-admin: GET, POST on route::"/orders"
        create route GET /orders/{id}
        create route POST /orders
        create limit orders
        create plan bulk
    "#]]
    .assert_eq(&lines(&done));
    let again = apply(&center, "", &orders()).await.good();
    assert_eq!(again, json!({ "revision": before + 1, "dry_run": false, "changes": [] }));
    let export = center.ask("GET", "/v1/services/orders/export", None).await.good();
    assert_eq!(export["service"], "orders");
    let again = apply(&center, "", &export["files"]).await.good();
    assert_eq!(again, json!({ "revision": before + 1, "dry_run": false, "changes": [] }));
    let list = center.ask("GET", "/v1/services", None).await.good();
    expect![[r#"[{"name":"orders","policies":1,"templates":0,"links":0,"grants":1,"ending_grants":0,"entities":1,"routes":2,"keys":0,"limits":1,"plans":1,"schema":true}]"#]].assert_eq(&list["services"].to_string());
    // Decisions follow at once.
    let ask = json!({ "service": "orders", "principal": "user::\"alice\"", "action": "POST",
        "resource": "route::\"/orders/{id}\"" });
    let check = center.ask("POST", "/v1/check", Some(ask)).await.good();
    assert_eq!(check["decision"], true, "{check}");
    center.stop().await;
}

#[tokio::test]
async fn what_apply_replaces_and_what_it_leaves() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &orders()).await.good();
    let key = json!({ "principal": "user::\"crawler\"", "plan": "bulk" });
    center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
    let by_hand = json!({ "member": "user::\"bob\"", "role": "role::\"orders-admin\"" });
    center.ask("POST", "/v1/roles/assign", Some(by_hand)).await.good();
    let mut files = orders();
    files["roles.toml"] = json!("[[role]]\nid = \"orders-admin\"\nmembers = ['user::\"dora\"']\n");
    files.as_object_mut().unwrap().remove("routes.toml");
    files.as_object_mut().unwrap().remove("owners.cedar");
    files["limits.toml"] = json!(
        "[plan.bulk]\n[[plan.bulk.rule]]\nname = \"b\"\n\
        key = \"api_key\"\nrate = \"10/s\"\n"
    );
    let done = apply(&center, "", &files).await.good();
    expect![[r#"
        update role role::"orders-admin"
        delete member user::"alice" in role::"orders-admin"
        create member user::"dora" in role::"orders-admin"
        delete policy all-get
        delete grant orders-admin: GET, POST on route::"/orders"
        delete route GET /orders/{id}
        delete route POST /orders
        delete limit orders
        update plan bulk
    "#]]
    .assert_eq(&lines(&done));
    let members = center.ask("GET", "/v1/members", None).await.good();
    let who = |members: &Value| -> Vec<String> {
        let list = members["members"].as_array().unwrap();
        list.iter().map(|m| m["member"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(who(&members), ["bob", "dora"]);
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    // A plan that a key still has cannot go.
    files.as_object_mut().unwrap().remove("limits.toml");
    let detail = apply(&center, "", &files).await.problem(422);
    assert!(detail.contains("plan `bulk`: it is the plan of keys: "), "{detail}");
    assert!(detail.contains(" of user::\"crawler\"; revoke them"), "{detail}");
    // The service goes with all it brought; what was made by hand stays.
    center.ask("DELETE", "/v1/services/orders", None).await.good();
    assert_eq!(who(&center.ask("GET", "/v1/members", None).await.good()), ["bob"]);
    assert_eq!(center.ask("GET", "/v1/roles", None).await.good()["items"], json!([]));
    center.ask("GET", "/v1/services/orders/export", None).await.problem(404);
    center.stop().await;
}

#[tokio::test]
async fn what_is_not_valid_never_lands() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &orders()).await.good();
    let revision = center.revision().await;
    let check = |change: &[(&str, &str)], expected: Expect| {
        let mut files = orders();
        for (file, text) in change {
            files[*file] = json!(text);
        }
        let center = &center;
        async move {
            let answer = apply(center, "", &files).await;
            let problems = answer.json()["problems"].clone();
            answer.problem(422);
            let mut text = String::new();
            for problem in problems.as_array().unwrap() {
                text += &format!(
                    "{}:{} {}\n",
                    problem["file"].as_str().unwrap_or("?"),
                    problem["line"],
                    problem["message"].as_str().unwrap()
                );
            }
            expected.assert_eq(&text);
        }
    };
    check(
        &[("service.toml", "name = \"other\"\n")],
        expect![[r#"
        service.toml:null it names service `other`, the request `orders`
    "#]],
    )
    .await;
    check(&[("what.txt", "")], expect![[r#"
        what.txt:null not a file of a service; known are service.toml, *.cedarschema, *.cedarschema.json, *.cedar, *.cedar.json, *entities.json, roles.toml, links.toml, routes.toml, openapi.json, openapi.yaml, limits.toml, and JSON that is a schema, policies, entities or linked templates in Cedar's format
    "#]]).await;
    check(
        &[("a.cedar", "// one\n\npermit (principal, action, resource)\n")],
        expect![[r#"
        a.cedar:3 unexpected end of input
    "#]],
    )
    .await;
    let typo = "permit (principal, action == Action::\"GET\", resource);\n\n\
        permit (principal, action == Action::\"GIT\", resource);\n";
    check(
        &[("a.cedar", typo)],
        expect![[r#"
        a.cedar:3 unrecognized action `Action::"GIT"`; did you mean `Action::"GET"`?
    "#]],
    )
    .await;
    let cost = "[[rule]]\nname = \"a\"\nkey = \"principal\"\n";
    check(
        &[("limits.toml", cost)],
        expect![[r#"
            limits.toml:1 rule `a` is refused: it limits nothing; give it a `rate` or a `concurrency`, or remove it
        "#]],
    )
    .await;
    let route = "[[rule]]\nname = \"a\"\nkey = \"principal\"\nroute = \"/none\"\nrate = \"1/s\"\n";
    check(
        &[("limits.toml", route)],
        expect![[r#"
            limits.toml:1 rule `a` is refused: no route of the service is `/none`; correct it, or add the route
        "#]],
    )
    .await;
    // A rule's key must resolve, and what routes cost must fit.
    let limits = |key: &str| format!("[[rule]]\nname = \"a\"\nkey = \"{key}\"\nrate = \"9/s\"\n");
    check(&[("limits.toml", &limits("header:X-Api-Key"))], expect![[r#"
        limits.toml:1 rule `a` is refused: its key `header:x-api-key` cannot resolve: the service identifies callers by that header, and it is removed before limits apply; key the rule by `principal` or `api_key`, or choose another header
    "#]]).await;
    let proxied = "name = \"orders\"\n[identify.trusted_header]\nheader = \"X-User\"\n\
        peers = [\"10.0.0.0/8\"]\n";
    check(&[("service.toml", proxied), ("limits.toml", &limits("header:x-user"))], expect![[r#"
        limits.toml:1 rule `a` is refused: its key `header:x-user` cannot resolve: the service identifies callers by that header, and it is removed before limits apply; key the rule by `principal` or `api_key`, or choose another header
    "#]])
        .await;
    check(&[("service.toml", proxied), ("limits.toml", &limits("api_key"))], expect![[r#"
        limits.toml:1 rule `a` is refused: its key `api_key` cannot resolve: the service accepts no API keys; accept them, or key the rule by `principal` or `address`
    "#]]).await;
    check(
        &[("service.toml", "name = \"orders\"\n"), ("limits.toml", &limits("principal"))],
        expect![[r#"
            limits.toml:1 rule `a` is refused: its key `principal` cannot resolve: the service identifies nobody; configure a source of principals, or key the rule by `address`
        "#]],
    )
    .await;
    let export = "[[route]]\nmethod = \"GET\"\npath = \"/orders/{id}\"\n\n[[route]]\n\
        method = \"GET\"\npath = \"/orders\"\ncost = 10\n";
    check(&[("routes.toml", export), ("limits.toml", &limits("principal"))], expect![[r#"
        routes.toml:5 a cost of 10 on `GET /orders` never fits the burst of 9 of the rule `a`; lower the cost, or raise its `burst`, or give it `costs` of its own for this route
    "#]]).await;
    let dear = export.replace("10", "300");
    check(&[("routes.toml", &dear), ("limits.toml", "")], expect![[r#"
        routes.toml:5 a cost of 300 on `GET /orders` never fits the burst of 200 of the rule `default-address`; lower the cost, or write a rule `default-address` with a larger `burst`, which replaces the default one
    "#]]).await;
    assert_eq!(center.revision().await, revision);
    // One by one as well.
    for (path, body, says) in [
        ("policies/p", json!({ "text": "permit (principal, action);" }), "policy `p`"),
        (
            "policies/p",
            json!({ "text": "permit (principal, action, resource) when { resource.x == 1 };" }),
            "policy `p`",
        ),
        ("links/l", json!({ "template": "none" }), "there is no template `none`"),
        ("grants/all-get", json!({ "principal": { "type": "role", "id": "r" } }), "there is a"),
        ("entities/user::%22x%22", json!({ "attrs": { "unknown": 1 } }), "unknown"),
        ("routes/GET%20orders", json!({}), "route `GET orders`"),
        ("limits/l", json!({ "key": "principal" }), "it limits nothing"),
        ("plans/p", json!({}), "the plan has no rule"),
        ("limits/l", json!({ "key": "header:x-api-key", "rate": "1/s" }), "choose another header"),
        (
            "routes/PUT%20%2Forders",
            json!({ "cost": 101 }),
            "never fits the burst of 100 of the rule",
        ),
    ] {
        let path = format!("/v1/services/orders/{path}");
        let detail = center.ask("PUT", &path, Some(body)).await.problem(422);
        assert!(detail.contains(says), "{path}: {detail}");
    }
    let key = json!({ "principal": "user::\"c\"", "plan": "bulky" });
    let detail = center.ask("POST", "/v1/services/orders/keys", Some(key)).await.problem(422);
    assert!(detail.contains("no plan `bulky` in service `orders`; its plan is `bulk`"), "{detail}");
    let gone = center.ask("DELETE", "/v1/services/orders/plans/bulk", None).await;
    assert!(gone.status.is_success());
    let key = json!({ "principal": "user::\"c\"", "plan": "bulk" });
    let detail = center.ask("POST", "/v1/services/orders/keys", Some(key)).await.problem(422);
    assert!(detail.contains("there is no plan `bulk` in service `orders`"), "{detail}");
    center.stop().await;
}

#[tokio::test]
async fn membership_never_leads_in_a_circle() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let assign = |member: &str, role: &str| {
        let body =
            json!({ "member": format!("role::{member:?}"), "role": format!("role::{role:?}") });
        let center = &center;
        async move { center.ask("POST", "/v1/roles/assign", Some(body)).await }
    };
    assign("a", "b").await.good();
    assign("b", "c").await.good();
    let detail = assign("c", "a").await.problem(422);
    assert!(detail.contains("cycle"), "{detail}");
    assign("a", "a").await.problem(422);
    assign("a", "c").await.good();
    // Through parents of entities, too.
    let parents = |role: &str| json!({ "parents": [{ "type": "role", "id": role }] });
    let path = "/v1/entities/role::%22c%22";
    center.ask("PUT", path, Some(parents("d"))).await.good();
    assign("d", "a").await.problem(422);
    center.ask("PUT", path, Some(parents("a"))).await.problem(422);
    center.service("orders", &[]).await;
    let path = "/v1/services/orders/entities/role::%22d%22";
    center.ask("PUT", path, Some(parents("b"))).await.problem(422);
    center.ask("PUT", path, Some(parents("e"))).await.good();
    center.stop().await;
}

/// A bound on the age that no gate can keep is refused by each way in, by name; the smallest that one
/// can keep is taken.
#[tokio::test]
async fn an_age_that_no_gate_can_keep_does_not_land() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let route =
        |age: &str| format!("[[route]]\nmethod = \"GET\"\npath = \"/r\"\nmax_age = \"{age}\"\n");
    let api = |age: &str| {
        json!({ "openapi": "3.1.0", "info": { "title": "t", "version": "1" }, "paths": {
            "/r": { "get": { "x-keepgate-max-age": age, "responses": {} } } } })
        .to_string()
    };
    let named = |age: &str| format!("name = \"orders\"\nmax_age = \"{age}\"\n");
    let plain = "name = \"orders\"\n";
    for (age, status) in [("0s", 422), ("2999ms", 422), ("3s", 200), ("5s", 200)] {
        let says = |answer: Answer, what: &str| {
            assert_eq!(answer.status.as_u16(), status, "{what}, {age}: {}", answer.json());
            if status == 422 {
                let problem = answer.json();
                let message = problem["problems"][0]["message"].as_str().unwrap();
                assert!(message.contains("at least 3000 ms"), "{what}: {message}");
            }
        };
        let files = [
            ("service.toml", json!({ "service.toml": named(age) })),
            ("routes.toml", json!({ "service.toml": plain, "routes.toml": route(age) })),
            ("openapi.json", json!({ "service.toml": plain, "openapi.json": api(age) })),
        ];
        for (file, files) in files {
            for query in ["?dry_run=true", ""] {
                says(apply(&center, query, &files).await, file);
            }
        }
        apply(&center, "", &json!({ "service.toml": plain })).await.good();
        let puts = [
            ("/v1/services/orders", json!({ "max_age": age })),
            ("/v1/services/orders/routes/GET%20%2Fr", json!({ "max_age": age })),
        ];
        for (path, body) in puts {
            says(center.ask("PUT", path, Some(body)).await, path);
        }
    }
    center.stop().await;
}

/// More entities than a page of the store: an export has them all, and applied it changes nothing.
#[tokio::test]
async fn an_export_of_many_entities_is_whole() {
    const MANY: usize = 2_500;
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let entities: Vec<Value> = (0..MANY)
        .map(|n| json!({ "uid": { "type": "user", "id": format!("u\"{n}\\") }, "attrs": {} }))
        .collect();
    let mut files = orders();
    files["entities.json"] = json!(json!(entities).to_string());
    let landed = apply(&center, "", &files).await.good();
    let export = center.ask("GET", "/v1/services/orders/export", None).await.good();
    let told: Value =
        serde_json::from_str(export["files"]["entities.json"].as_str().unwrap()).unwrap();
    assert_eq!(told.as_array().unwrap().len(), MANY);
    let again = apply(&center, "", &export["files"]).await.good();
    assert_eq!((&again["revision"], &again["changes"]), (&landed["revision"], &json!([])));
    center.stop().await;
}
