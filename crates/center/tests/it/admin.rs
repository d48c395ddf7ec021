//! The admin API: items, conditions, directory, tokens, keys, audit, errors.

use bytes::Bytes;
use expect_test::{Expect, expect};
use http::Method;
use serde_json::json;

use crate::fixture::{Dir, Running, request};

const ALLOW: &str = "permit (principal, action, resource);";

#[tokio::test]
async fn items_come_back_as_they_were_put_and_a_put_of_the_same_makes_no_revision() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    let path = "/v1/services/orders/policies/all";
    let got = center.ask("GET", path, None).await;
    let revision = center.revision().await;
    assert_eq!(got.header("etag"), format!("\"{revision}\""));
    let body = got.good();
    assert_eq!(body, json!({ "text": ALLOW }));
    let same = center.ask("PUT", path, Some(body)).await.good();
    assert_eq!(same, json!({ "revision": revision, "changes": [] }));
    let grant = json!({ "principal": { "type": "role", "id": "admin" },
        "actions": [{ "type": "Action", "id": "GET" }] });
    let put = center.ask("PUT", "/v1/services/orders/grants/g1", Some(grant.clone())).await.good();
    assert_eq!(
        put,
        json!({ "revision": revision + 1,
            "changes": [{ "op": "create", "kind": "grant", "id": "g1" }] })
    );
    let got = center.ask("GET", "/v1/services/orders/grants/g1", None).await.good();
    assert_eq!(got, grant);
    // Ids with slashes and spaces are escaped in paths; entities are brought to canonical text.
    let route = "/v1/services/orders/routes/GET%20%2Forders%2F%7Bid%7D";
    center.ask("PUT", route, Some(json!({}))).await.good();
    let got = center.ask("GET", route, None).await.good();
    assert_eq!(got, json!({ "method": "GET", "path": "/orders/{id}" }));
    let entity = "/v1/entities/user::%22alice%22";
    center.ask("PUT", entity, Some(json!({ "attrs": { "level": 3 } }))).await.good();
    let got = center.ask("GET", entity, None).await.good();
    assert_eq!(got["uid"], json!({ "type": "user", "id": "alice" }));
    let deleted = center.ask("DELETE", path, None).await.good();
    assert_eq!(deleted["changes"][0]["op"], "delete");
    center.ask("GET", path, None).await.problem(404);
    center.ask("DELETE", path, None).await.problem(404);
    center.stop().await;
}

#[tokio::test]
async fn lists_are_pages_of_one_order() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    for n in 0..7 {
        let path = format!("/v1/services/orders/policies/p{n}");
        center.ask("PUT", &path, Some(json!({ "text": ALLOW }))).await.good();
    }
    let mut after = String::new();
    let mut ids = Vec::new();
    let mut pages = 0;
    loop {
        let path = format!("/v1/services/orders/policies?limit=3&after={after}");
        let page = center.ask("GET", &path, None).await.good();
        for item in page["items"].as_array().unwrap() {
            ids.push(item["id"].as_str().unwrap().to_owned());
        }
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(ids, ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
    assert_eq!(pages, 3);
    center.stop().await;
}

#[tokio::test]
async fn conditions_keep_two_editors_apart() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    let tag = center.ask("GET", "/v1/services/orders/policies/all", None).await;
    let tag = tag.header("etag").to_owned();
    let put = |name: &str, value: &str, text: &str| {
        let body = Bytes::from(json!({ "text": text }).to_string());
        let request = request(Method::PUT, "/v1/services/orders/policies/all")
            .header("authorization", format!("Bearer {}", center.admin))
            .header("content-type", "application/json")
            .header(name, value)
            .body(body)
            .unwrap();
        center.send(request)
    };
    let forbid = "forbid (principal, action, resource);";
    put("if-none-match", "*", forbid).await.problem(412);
    put("if-match", &tag, forbid).await.good();
    let detail = put("if-match", &tag, ALLOW).await.problem(412);
    assert!(detail.contains("someone changed it meanwhile"), "{detail}");
    put("if-match", "*", ALLOW).await.good();
    put("if-none-match", "\"1\"", ALLOW).await.problem(400);
    for none in ["", " ", "7", "\"7", "W/7", "*, \"7\""] {
        let detail = put("if-match", none, forbid).await.problem(400);
        assert!(detail.contains("expected `*` or an entity tag"), "{none:?}: {detail}");
    }
    put("if-match", "\"a\"", forbid).await.problem(412);
    let tag = center.ask("GET", "/v1/services/orders/policies/all", None).await;
    put("if-match", &format!("\"a\", {}", tag.header("etag")), forbid).await.good();
    center.stop().await;
}

/// Also where a path takes no parameter at all: whoever sends one expects an effect.
#[tokio::test]
async fn unknown_parameters_are_refused_everywhere() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", ALLOW)]).await;
    let document = center.ask("GET", "/v1/openapi.json", None).await.good();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{service}", "orders")
            .replace("{uid}", "user::%22x%22")
            .replace(['{', '}'], "");
        for (method, operation) in operations.as_object().unwrap() {
            let body = operation.get("requestBody").map(|_| json!({}));
            let query = format!("{path}?revision=2");
            let refused = center.ask(&method.to_uppercase(), &query, body).await;
            let detail = refused.problem(400);
            assert!(detail.contains("unknown field `revision`"), "{method} {path}: {detail}");
            asked += 1;
        }
    }
    assert!(asked > 75, "{asked}");
    center.stop().await;
}

#[tokio::test]
async fn services_and_tokens_come_in_pages() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    for name in ["a", "b", "c", "d", "e"] {
        center.service(name, &[]).await;
        let token = json!({ "role": "pep", "service": name });
        center.ask("POST", "/v1/tokens", Some(token)).await.good();
    }
    for (list, id) in [("services", "name"), ("tokens", "id")] {
        let all = center.ask("GET", &format!("/v1/{list}"), None).await.good();
        assert!(all.get("next").is_none(), "{all}");
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/{list}?limit=2&after={after}");
            let page = center.ask("GET", &path, None).await.good();
            let part = page[list].as_array().unwrap();
            assert!(!part.is_empty() && part.len() <= 2, "{page}");
            seen.extend(part.clone());
            let Some(next) = page["next"].as_str() else { break };
            after = next.to_owned();
        }
        assert_eq!(json!(seen), all[list]);
        let ids: Vec<&str> = seen.iter().map(|one| one[id].as_str().unwrap()).collect();
        assert!(ids.is_sorted() && ids.len() >= 5, "{ids:?}");
    }
    center.stop().await;
}

#[tokio::test]
async fn roles_are_assigned_once_and_revoked_once() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let body =
        || Some(json!({ "member": "user::\"alice\"", "role": { "type": "role", "id": "x" } }));
    let assigned = center.ask("POST", "/v1/roles/assign", body()).await.good();
    assert_eq!(assigned["changes"][0]["id"], "user::\"alice\" in role::\"x\"");
    let again = center.ask("POST", "/v1/roles/assign", body()).await.good();
    assert_eq!(again, json!({ "revision": assigned["revision"], "changes": [] }));
    for who in ["user::\"bob\"", "user::\"al\"", "user::\"alice2\""] {
        let body = json!({ "member": who, "role": "role::\"y\"" });
        center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    }
    let of = |query: &str| {
        let path = format!("/v1/members{query}");
        let center = &center;
        async move {
            let found = center.ask("GET", &path, None).await.good();
            let found = found["members"].as_array().unwrap().clone();
            let id = |v: &serde_json::Value| v["member"]["id"].as_str().unwrap().to_owned();
            found.iter().map(id).collect::<Vec<_>>()
        }
    };
    assert_eq!(of("").await, ["al", "alice", "alice2", "bob"]);
    assert_eq!(of("?role=role::%22y%22").await, ["al", "alice2", "bob"]);
    assert_eq!(of("?member=user::%22alice%22").await, ["alice"]);
    assert_eq!(of("?member=user::%22nobody%22").await, Vec::<String>::new());
    assert_eq!(of("?limit=2").await, ["al", "alice"]);
    center.ask("POST", "/v1/roles/revoke", body()).await.good();
    let detail = center.ask("POST", "/v1/roles/revoke", body()).await.problem(404);
    assert!(detail.contains("user::\"alice\" in role::\"x\""), "{detail}");
    center.stop().await;
}

#[tokio::test]
async fn tokens_are_shown_once_work_at_once_and_end_at_once() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let made = center
        .ask("POST", "/v1/tokens", Some(json!({ "role": "viewer", "note": "for the wall" })))
        .await;
    assert_eq!(made.status, 201);
    let made = made.good();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(token.starts_with(&format!("kgt_{id}_")));
    center.ask_as(Some(token), "GET", "/v1/services", None).await.good();
    let listed = center.ask("GET", "/v1/tokens", None).await.good().to_string();
    assert!(listed.contains(id) && listed.contains("for the wall"));
    assert!(!listed.contains(token));
    let path = format!("/v1/tokens/{id}");
    center.ask("DELETE", &path, None).await.good();
    center.ask_as(Some(token), "GET", "/v1/services", None).await.problem(401);
    // Nobody can lock everybody out.
    let own = center.admin.split('_').nth(1).unwrap().to_owned();
    let detail = center.ask("DELETE", &format!("/v1/tokens/{own}"), None).await.problem(409);
    assert!(detail.contains("last admin token"), "{detail}");
    let second = center.token("admin", "").await;
    center.ask("DELETE", &format!("/v1/tokens/{own}"), None).await.good();
    center.ask("GET", "/v1/tokens", None).await.problem(401);
    center.ask_as(Some(&second), "GET", "/v1/tokens", None).await.good();
    // A wrong secret with a right id, and texts that are no tokens.
    for bad in [format!("kgt_{}_{}", id, "0".repeat(64)), "x".to_owned(), String::new()] {
        center.ask_as(Some(&bad), "GET", "/v1/revision", None).await.problem(401);
    }
    center.stop().await;
}

#[tokio::test]
async fn keys_are_hashed_rotated_and_revoked() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let keys = "/v1/services/orders/keys";
    let body = json!({ "principal": "user::\"crawler\"", "note": "n" });
    let made = center.ask("POST", keys, Some(body)).await.good();
    let (prefix, key) = (made["prefix"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with(&format!("kgk_{prefix}_")));
    let listed = center.ask("GET", keys, None).await.good();
    assert!(listed["keys"][0].get("sha256").is_none());
    assert_eq!(listed["keys"][0]["principal"], json!({ "type": "user", "id": "crawler" }));
    let rotate = format!("{keys}/{prefix}/rotate");
    let new = center.ask("POST", &rotate, Some(json!({ "overlap_s": 60 }))).await.good();
    let old = center.ask("GET", &format!("{keys}/{prefix}"), None).await.good();
    assert!(old["expires_unix_s"].as_u64().unwrap() > 60);
    let path = format!("{keys}/{}", new["prefix"].as_str().unwrap());
    let fresh = center.ask("GET", &path, None).await.good();
    assert_eq!(fresh.get("expires_unix_s"), None);
    center.ask("DELETE", &format!("{keys}/{prefix}"), None).await.good();
    center.ask("POST", &rotate, Some(json!({}))).await.problem(404);
    // The hash that gates get is that of the whole text, and the audit log has none.
    let audit = center.ask("GET", "/v1/audit", None).await.good().to_string();
    assert!(audit.contains("key.rotate") && !audit.contains("sha256") && !audit.contains(key));
    center.stop().await;
}

#[tokio::test]
async fn every_write_is_audited_with_before_and_after() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("p", ALLOW)]).await;
    let path = "/v1/services/orders/policies/p";
    let forbid = json!({ "text": "forbid (principal, action, resource);" });
    center.ask("PUT", path, Some(forbid)).await.good();
    center.ask("DELETE", path, None).await.good();
    let audit = center.ask("GET", "/v1/audit?limit=100", None).await.good();
    let who = center.admin.split('_').nth(1).unwrap();
    let mut lines = String::new();
    for entry in audit["entries"].as_array().unwrap() {
        let actor = if entry["actor"] == who { "ADMIN" } else { entry["actor"].as_str().unwrap() };
        lines += &format!(
            "r{} {actor} {} {} {}: {} -> {}\n",
            entry["revision"],
            entry["action"].as_str().unwrap(),
            entry["service"].as_str().unwrap(),
            entry["id"].as_str().unwrap().replace(who, "ADMIN"),
            entry["before"],
            entry["after"],
        );
    }
    expect![[r#"
        r1 center token.create  ADMIN: null -> {"role":"admin","service":"","note":"the first admin token","revoked":false}
        r2 ADMIN service.put orders : null -> {"name":"orders"}
        r3 ADMIN policy.put orders p: null -> {"text":"permit (principal, action, resource);"}
        r4 ADMIN policy.put orders p: {"text":"permit (principal, action, resource);"} -> {"text":"forbid (principal, action, resource);"}
        r5 ADMIN policy.delete orders p: {"text":"forbid (principal, action, resource);"} -> null
    "#]].assert_eq(&lines);
    let second = center.ask("GET", "/v1/audit?after=1&limit=1", None).await.good();
    assert_eq!(second["entries"][0]["seq"], 2);
    assert_eq!(second["next"], 2);
    center.stop().await;
}

#[tokio::test]
async fn refusals_name_the_culprit() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let check = |method: &'static str,
                 path: &'static str,
                 body: Option<serde_json::Value>,
                 expected: Expect| {
        let center = &center;
        async move {
            let answer = center.ask(method, path, body).await;
            let status = answer.status.as_u16();
            expected.assert_eq(&format!("{status} {}", answer.problem(status)));
        }
    };
    check("GET", "/nothing", None, expect!["404 nothing is at `/nothing`"]).await;
    check("PATCH", "/v1/services", None, expect!["405 `/v1/services` does not take PATCH"]).await;
    check("GET", "/v1/services/none", None, expect!["404 there is no service `none`"]).await;
    check("GET", "/v1/services/none/policies", None, expect!["404 there is no service `none`"])
        .await;
    check(
        "GET",
        "/v1/services/orders/policies/p",
        None,
        expect!["404 there is no policy `p` in service `orders`"],
    )
    .await;
    check(
        "PUT",
        "/v1/services/none/policies/p",
        Some(json!({ "text": ALLOW })),
        expect!["404 there is no service `none`"],
    )
    .await;
    check(
        "PUT",
        "/v1/services/orders/policies/p",
        Some(json!({ "test": 1 })),
        expect![
            "422 policy `p`: the body does not parse: missing field `text` at line 1 column 10"
        ],
    )
    .await;
    check("PUT", "/v1/services/a%20b", Some(json!({})), expect!["400 `a b` cannot name a service"])
        .await;
    check(
        "PUT",
        "/v1/services/orders",
        Some(json!({ "name": "other" })),
        expect!["422 service `orders`: the body is that of `other`"],
    )
    .await;
    check(
        "PUT",
        "/v1/entities/alice",
        Some(json!({})),
        expect![[
            r#"400 in the path: `alice` is not a Cedar identifier; write it as `kind::"id"`"#
        ]],
    )
    .await;
    check(
        "GET",
        "/v1/services/orders/policies?limt=3",
        None,
        expect!["400 the query: limt: unknown field `limt`, expected `after` or `limit`"],
    )
    .await;
    check(
        "POST",
        "/v1/tokens",
        Some(json!({ "role": "boss" })),
        expect!["400 `role`: expected one of admin, editor, viewer, gate, pep, got `boss`"],
    )
    .await;
    check(
        "POST",
        "/v1/tokens",
        Some(json!({ "role": "gate" })),
        expect!["422 `service`: a gate token is for one or more services; name them"],
    )
    .await;
    check(
        "POST",
        "/v1/tokens",
        Some(json!({ "role": "admin", "service": "orders" })),
        expect!["422 `service`: a token of role `admin` is for all services; leave it out"],
    )
    .await;
    check("DELETE", "/v1/tokens/none", None, expect!["404 there is no token `none`"]).await;
    check(
        "POST",
        "/v1/roles/assign",
        Some(json!({ "member": "alice", "role": "x" })),
        expect![[r#"400 `member`: `alice` is not a Cedar identifier; write it as `kind::"id"`"#]],
    )
    .await;
    check(
        "POST",
        "/v1/check",
        Some(json!({})),
        expect!["400 the body does not parse: missing field `principal` at line 1 column 2"],
    )
    .await;
    let no_json = request(Method::POST, "/v1/tokens")
        .header("authorization", format!("Bearer {}", center.admin))
        .body(Bytes::from_static(b"role=admin"))
        .unwrap();
    let detail = center.send(no_json).await.problem(415);
    assert!(detail.contains("application/json"), "{detail}");
    let big = json!({ "text": "x".repeat(2 << 20) });
    center.ask("PUT", "/v1/services/orders/policies/p", Some(big)).await.problem(413);
    center.stop().await;
}

#[tokio::test]
async fn request_ids_come_back_and_are_made_where_there_is_none() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let given =
        request(Method::GET, "/v1/nothing").header("x-request-id", "a b/ü").body(Bytes::new());
    let answer = center.send(given.unwrap()).await;
    assert_eq!(answer.headers.get("x-request-id").unwrap().as_bytes(), "a b/ü".as_bytes());
    let made = center.ask("GET", "/healthz", None).await;
    assert_eq!(made.header("x-request-id").len(), 24);
    center.stop().await;
}

/// The entities of a summary are not counted one by one; they are those that there are.
#[tokio::test]
async fn a_summary_says_how_many_there_are_of_each_kind() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let entity = |n: u32| json!({ "uid": { "type": "user", "id": format!("u{n}") }, "attrs": {}, "parents": [] });
    let entities = serde_json::to_string(&(0..7).map(entity).collect::<Vec<_>>()).unwrap();
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"\n[identify.api_key]\n",
        "p.cedar": "permit (principal == user::\"u1\", action, resource);\n",
        "entities.json": entities,
        "routes.toml": "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n",
    } });
    center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    let key = json!({ "principal": "user::\"u1\"" });
    center.ask("POST", "/v1/services/orders/keys", Some(key)).await.good();
    center.service("stock", &[]).await;
    let all = center.ask("GET", "/v1/services", None).await.good();
    let one = center.ask("GET", "/v1/services/orders", None).await.good();
    for (name, number) in
        [("entities", 7), ("policies", 1), ("routes", 1), ("keys", 1), ("grants", 0)]
    {
        assert_eq!(all["services"][0][name], number, "{name}: {all}");
        assert_eq!(one[name], number, "{name}: {one}");
    }
    assert_eq!(all["services"][1]["entities"], 0, "{all}");
    center.stop().await;
}
