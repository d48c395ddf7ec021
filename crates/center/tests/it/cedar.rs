//! Cedar as people have it: warnings, all errors at once, JSON forms, and requests as Cedar writes them.

use expect_test::expect;
use serde_json::{Value, json};

use crate::fixture::{Answer, Dir, Running};

const SCHEMA: &str = "entity Folder;\nentity Album;\nentity User;\nentity Photo in [Album] { owner: User };\n\
    action read appliesTo { principal: [User], resource: [Photo],\n\
    context: { who?: User, ip?: ipaddr, at?: datetime, left?: duration, price?: decimal } };\n";

const IMPOSSIBLE: &str = "\npermit(principal is User, action == Action::\"read\",\n resource is Photo in Folder::\"f\");";

async fn apply(center: &Running, query: &str, files: Value) -> Answer {
    let mut files = files;
    files["service.toml"] = json!("name = \"photos\"\n");
    let path = format!("/v1/services/photos/apply{query}");
    center.ask("POST", &path, Some(json!({ "files": files }))).await
}

fn told(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.map(|w| {
        let message = text(&w["message"]);
        let short: String = message.chars().take(46).collect();
        format!("{}:{} {short}", text(&w["file"]), w["line"])
    })
    .collect()
}

#[tokio::test]
async fn warnings_are_shown_and_strict_refuses_them() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let files = json!({
        "schema.cedarschema": format!("entity String;\n{SCHEMA}"),
        "sub/impossible.cedar": IMPOSSIBLE,
        "odd.cedar": "@id(\"ok\u{202e}\")\npermit(principal, action, resource);",
        "entities.json": "[{\"uid\":{\"type\":\"User\",\"id\":\"\u{430}dmin\"}},{\"uid\":{\"type\":\"User\",\"id\":\"admin\"}}]",
    });
    apply(&center, "?strict=true", json!({ "schema.cedarschema": SCHEMA })).await.good();
    let before = center.revision().await;
    let strict = apply(&center, "?strict=true", files.clone()).await;
    let problems = strict.json();
    let detail = strict.problem(422);
    assert!(!detail.is_empty());
    let problems = problems["problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 6, "{problems}");
    assert!(problems.to_string().contains("(a warning, refused by `strict`)"), "{problems}");
    assert_eq!(center.revision().await, before);
    // As a dry run and an apply tell them; again where nothing changes.
    for query in ["?dry_run=true", "", ""] {
        let answer = apply(&center, query, files.clone()).await.good();
        expect![[r#"
            schema.cedarschema:1 The name `String` shadows a builtin Cedar name
            sub/impossible.cedar:2 policy is impossible: the policy expression ev
            sub/impossible.cedar:2 unable to find an applicable action given the 
            entities.json:1 the id of an entity, `\u{430}dmin`, has letter
            entities.json:1 the id of an entity, `\u{430}dmin`, has the lo
            odd.cedar:1 the id of a policy, `ok\u{202e}`, has U+202E, "#]]
        .assert_eq(&told(&answer["warnings"]).join("\n"));
    }
    apply(&center, "?strict=true&dry_run=true", files).await.problem(422);
    center.stop().await;
}

#[tokio::test]
async fn all_errors_of_all_files_are_told_at_once() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let files = json!({
        "schema.cedarschema": SCHEMA,
        "a.cedar": "permit (principal action);\n\npermit (principal, action, resource) when { nope( };",
        "b.cedar": "permit (principal, action == Action::\"read\", resource)\nwhen { resource.nope == 1 };",
        "roles.toml": "[[role]]\nid = 3\n",
        "entities.json": "[\n{\"uid\":{\"type\":\"Photo\",\"id\":\"p\"},\"attrs\":{\"owner\":1}}]",
        "misspelt.cedra": "",
    });
    let answer = apply(&center, "?dry_run=true", files).await;
    let problems = told(&answer.json()["problems"]);
    let places: Vec<&str> = problems.iter().map(|said| said.split(' ').next().unwrap()).collect();
    let wanted = [
        "a.cedar:1",
        "a.cedar:3",
        "b.cedar:2",
        "entities.json:2",
        "misspelt.cedra:null",
        "roles.toml:2",
    ];
    for place in wanted {
        assert!(places.contains(&place), "{place}: {problems:?}");
    }
    answer.problem(422);
    center.stop().await;
}

#[tokio::test]
async fn requests_are_taken_as_cedar_writes_them() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let policy = "permit (principal, action, resource) when { context.who == principal };\n\
        permit (principal, action, resource) when { context has ip && context.ip.isInRange(ip(\"10.0.0.0/8\")) };\n\
        permit (principal, action, resource) when { context has at && context.at > datetime(\"2030-01-01\") };\n\
        permit (principal, action, resource) when { context has left && context.left.toHours() == 2 };";
    let schema = SCHEMA.replace("who?: User", "who: User");
    let files = |with_schema: bool| match with_schema {
        true => json!({ "p.cedar": policy, "schema.cedarschema": schema }),
        false => json!({ "p.cedar": policy }),
    };
    let entity = |id: &str| json!({ "__entity": { "type": "User", "id": id } });
    let question = |context: Value| {
        json!({ "service": "photos", "principal": "User::\"a\"", "action": "Action::\"read\"",
            "resource": { "__entity": { "type": "Photo", "id": "p" } }, "context": context })
    };
    let extension = |function: &str, arguments: Value| match arguments {
        Value::Array(list) => json!({ "__extn": { "fn": function, "args": list } }),
        one => json!({ "__extn": { "fn": function, "arg": one } }),
    };
    for with_schema in [false, true] {
        apply(&center, "", files(with_schema)).await.good();
        let offset = extension(
            "offset",
            json!([
                extension("datetime", json!("2029-12-31")),
                extension("duration", json!("48h"))
            ]),
        );
        for (context, allowed) in [
            (json!({ "who": entity("a") }), true),
            (json!({ "who": entity("b") }), false),
            (json!({ "who": entity("b"), "ip": extension("ip", json!("10.1.2.3")) }), true),
            (json!({ "who": entity("b"), "ip": extension("ip", json!(["11.1.2.3"])) }), false),
            (json!({ "who": entity("b"), "at": offset }), true),
            (json!({ "who": entity("b"), "left": extension("duration", json!("120m")) }), true),
        ] {
            let answer =
                center.ask("POST", "/v1/check", Some(question(context.clone()))).await.good();
            assert_eq!(answer["decision"], allowed, "{context}, schema {with_schema}: {answer}");
        }
        if !with_schema {
            let null = json!({ "service": "photos", "principal": entity("a"), "action": "read",
                "resource": "Photo::\"p\"", "context": null });
            assert_eq!(center.ask("POST", "/v1/check", Some(null)).await.good()["decision"], false);
        }
        let none = extension("ip", json!([]));
        let wrong = question(json!({ "who": entity("b"), "ip": none }));
        let detail = center.ask("POST", "/v1/check", Some(wrong)).await.problem(422);
        assert!(detail.contains("context.ip"), "{detail}");
    }
    // AuthZEN takes no escapes: it says what to send in their place, and takes that.
    let evaluation = |context: Value| {
        json!({ "subject": { "type": "User", "id": "a" }, "action": { "name": "read" },
            "resource": { "type": "Photo", "id": "p" }, "context": context })
    };
    let path = "/s/photos/access/v1/evaluation";
    let who = json!({ "type": "User", "id": "b" });
    for (name, value) in [("ip", "10.0.0.1"), ("at", "2031-01-01T00:00:00Z"), ("left", "2h")] {
        let body = evaluation(json!({ "who": who, name: value }));
        assert_eq!(center.ask("POST", path, Some(body)).await.good()["decision"], true, "{name}");
    }
    let body = evaluation(json!({ "who": who, "ip": { "fn": "ip", "arg": "10.0.0.1" } }));
    assert_eq!(center.ask("POST", path, Some(body)).await.good()["decision"], true);
    for (context, said) in [
        (
            json!({ "who": who, "ip": extension("ip", json!("10.0.0.1")) }),
            "send the value as a text, such as \"10.0.0.1\"",
        ),
        (json!({ "who": entity("a") }), "send {\"type\": \"..\", \"id\": \"..\"}"),
        (json!({ "who": who, "ip": 5 }), "send a text such as \"10.0.0.1\""),
        (json!({ "who": who, "left": "soon" }), "send a text such as \"1h30m\""),
        (
            json!({ "who": who, "at": { "fn": "ip", "arg": "10.0.0.1" } }),
            "send a text such as \"2030-01-31\"",
        ),
        (json!({ "who": who, "price": [1] }), "send a text such as \"1.50\""),
    ] {
        let detail = center.ask("POST", path, Some(evaluation(context))).await.problem(422);
        assert!(detail.contains(said), "{said}: {detail}");
    }
    center.stop().await;
}
