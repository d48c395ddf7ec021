//! Who may do what: terms of tokens and keys, editors of one service, the host's own way in, and for
//! whom a request is meant.

use std::path::Path;

use bytes::Bytes;
use http::Method;
use keepgate_api::NewAdminToken;
use serde_json::{Value, json};

use crate::fixture::{Dir, Mirror, Raw, Running, STAFF, chain, config, patiently, request};

const HOUR: u64 = 3_600;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn id_of(token: &str) -> String {
    token.split('_').nth(1).unwrap().to_owned()
}

/// What a store looks like that release 0.2 left.
pub(crate) fn as_layout_2(dir: &Path) {
    let raw = rusqlite::Connection::open(dir.join("center.db")).unwrap();
    raw.execute_batch(
        "ALTER TABLE tokens DROP COLUMN expires_unix_s; ALTER TABLE tokens DROP COLUMN last_used_from;
         ALTER TABLE meta DROP COLUMN authzen_together; ALTER TABLE items DROP COLUMN brought;
         ALTER TABLE items DROP COLUMN base; DROP INDEX audit_by_revision;
         DROP INDEX audit_by_id; DROP TABLE past; DROP TABLE past_head; DROP TABLE log_keys; DROP TABLE log_heads;
         DROP TABLE sessions; DROP TABLE requests; DROP TABLE audit_log; ALTER TABLE audit DROP COLUMN chain; PRAGMA user_version = 2;",
    )
    .unwrap();
}

async fn listed(center: &Running, id: &str) -> Value {
    let tokens = center.ask("GET", "/v1/tokens", None).await.good();
    let found = tokens["tokens"].as_array().unwrap().iter().find(|token| token["id"] == id);
    found.unwrap_or_else(|| panic!("{id} in {tokens}")).clone()
}

#[tokio::test]
async fn a_rotated_token_has_a_term_of_its_own_and_the_old_one_overlaps() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let begun = now();
    let body = json!({ "role": "viewer", "note": "wall", "expires_unix_s": begun + HOUR });
    let old = center.ask("POST", "/v1/tokens", Some(body)).await.good();
    let (old_id, old) = (old["id"].as_str().unwrap(), old["token"].as_str().unwrap());
    let good = |token: String| {
        let center = &center;
        async move { center.ask_as(Some(&token), "GET", "/v1/services", None).await.status == 200 }
    };
    let rotate = |id: &str, body: Value| {
        let (center, path) = (&center, format!("/v1/tokens/{id}/rotate"));
        async move { center.ask("POST", &path, Some(body)).await }
    };
    // As long as the old one was meant to be, from now on; the old one ends after the overlap.
    let made = rotate(old_id, json!({ "overlap_s": 60 })).await;
    assert_eq!(made.status, 201);
    let made = made.good();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let line = listed(&center, id).await;
    assert_eq!((&line["role"], &line["note"]), (&json!("viewer"), &json!("wall")));
    let ends = line["expires_unix_s"].as_u64().unwrap();
    assert!((begun + HOUR..=now() + HOUR).contains(&ends), "{line}");
    let ends = listed(&center, old_id).await["expires_unix_s"].as_u64().unwrap();
    assert!((begun + 60..=now() + 60).contains(&ends), "{ends}");
    assert!(good(old.to_owned()).await && good(token.to_owned()).await);
    // Without an overlap it ends at once; the overlap never makes it live longer.
    rotate(old_id, json!({ "overlap_s": 10 * HOUR })).await.good();
    assert!(listed(&center, old_id).await["expires_unix_s"].as_u64().unwrap() <= ends);
    let third = rotate(old_id, json!({ "expires_unix_s": begun + 5 * HOUR })).await.good();
    assert!(!good(old.to_owned()).await && good(token.to_owned()).await);
    let third = third["id"].as_str().unwrap();
    assert_eq!(listed(&center, third).await["expires_unix_s"], json!(begun + 5 * HOUR));
    let never = rotate(third, json!({ "never_expires": true })).await.good();
    let never = never["id"].as_str().unwrap();
    assert_eq!(listed(&center, never).await["expires_unix_s"], Value::Null);
    // Of one that does not end the successor does not either.
    let again = rotate(never, json!({ "overlap_s": 1 })).await.good();
    assert_eq!(listed(&center, again["id"].as_str().unwrap()).await["expires_unix_s"], Value::Null);
    // What does not fit is refused.
    let both = json!({ "never_expires": true, "expires_unix_s": now() + 5 });
    rotate(id, both).await.problem(422);
    for past in [0, now() - 1, keepgate_policy::instant::LAST + 1] {
        let detail = rotate(id, json!({ "expires_unix_s": past })).await.problem(422);
        assert!(detail.contains("expected a time in the future"), "{detail}");
        let body = json!({ "role": "pep", "expires_unix_s": past });
        center.ask("POST", "/v1/tokens", Some(body)).await.problem(422);
    }
    rotate("nobody", json!({})).await.problem(404);
    let detail = rotate(old_id, json!({})).await.problem(409);
    assert!(detail.contains("has expired"), "{detail}");
    center.ask("DELETE", &format!("/v1/tokens/{id}"), None).await.good();
    rotate(id, json!({})).await.problem(409);
    // The only admin may rotate its own token.
    let own = rotate(&id_of(&center.admin), json!({})).await.good();
    center.ask("GET", "/v1/tokens", None).await.problem(401);
    let own = own["token"].as_str().unwrap();
    center.ask_as(Some(own), "GET", "/v1/tokens", None).await.good();
    let own_path = format!("/v1/tokens/{}", id_of(own));
    center.ask_as(Some(own), "DELETE", &own_path, None).await.problem(409);
    let audit = center.ask_as(Some(own), "GET", "/v1/audit", None).await.good().to_string();
    assert!(audit.contains("token.rotate") && audit.contains("expires_unix_s"), "{audit}");
    center.stop().await;
}

/// An expired token does not count as a way in, and what follows with it is ended.
#[tokio::test]
async fn an_expired_token_ends_what_it_began() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let gate = center.token("gate", "orders").await;
    let mut follower = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    follower.step().await.unwrap();
    let path = format!("/v1/tokens/{}/rotate", id_of(&gate));
    center.ask("POST", &path, Some(json!({}))).await.good();
    let ended = async {
        loop {
            if let Err(status) = follower.step().await {
                return status;
            }
        }
    };
    patiently("the stream to end", ended).await;
    assert!(Mirror::follow(&center, &gate, &["orders"]).await.is_err());
    center.stop().await;
}

#[tokio::test]
async fn the_last_use_and_its_address_are_listed_and_kept() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let viewer = center.token("viewer", "").await;
    let id = id_of(&viewer);
    let line = listed(&center, &id).await;
    assert_eq!((&line["last_used_unix_s"], &line["last_used_from"]), (&Value::Null, &json!("")));
    let (begun, revision) = (now(), center.revision().await);
    for _ in 0..20 {
        center.ask_as(Some(&viewer), "GET", "/v1/services", None).await.good();
    }
    // It is told before it is written, and no request wrote it.
    let line = listed(&center, &id).await;
    assert!(line["last_used_unix_s"].as_u64().unwrap() >= begun, "{line}");
    assert_eq!(line["last_used_from"], "127.0.0.1");
    assert_eq!(center.revision().await, revision);
    center.stop().await;
    let center = Running::start(&dir).await;
    assert_eq!(listed(&center, &id).await, line);
    center.stop().await;
}

#[tokio::test]
async fn a_rotated_key_has_a_term_of_its_own() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let keys = "/v1/services/orders/keys";
    let begun = now();
    let body = json!({ "principal": "user::\"c\"", "expires_unix_s": begun + HOUR });
    let made = center.ask("POST", keys, Some(body)).await.good();
    let prefix = made["prefix"].as_str().unwrap().to_owned();
    let rotate = |prefix: &str, body: Value| {
        let (center, path) = (&center, format!("{keys}/{prefix}/rotate"));
        async move { center.ask("POST", &path, Some(body)).await }
    };
    let ends = |prefix: String| {
        let center = &center;
        async move { center.ask("GET", &format!("{keys}/{prefix}"), None).await.good() }
    };
    let new = rotate(&prefix, json!({ "overlap_s": 60 })).await.good();
    let new = new["prefix"].as_str().unwrap().to_owned();
    let term = ends(new.clone()).await["expires_unix_s"].as_u64().unwrap();
    assert!((begun + HOUR..=now() + HOUR).contains(&term), "as long as it was meant to be: {term}");
    let old = ends(prefix.clone()).await["expires_unix_s"].as_u64().unwrap();
    assert!((begun + 60..=now() + 60).contains(&old), "{old}");
    let longer = rotate(&new, json!({ "expires_unix_s": begun + 9 * HOUR })).await.good();
    let longer = longer["prefix"].as_str().unwrap().to_owned();
    assert_eq!(ends(longer.clone()).await["expires_unix_s"], json!(begun + 9 * HOUR));
    let never = rotate(&longer, json!({ "never_expires": true })).await.good();
    let never = never["prefix"].as_str().unwrap().to_owned();
    assert_eq!(ends(never).await.get("expires_unix_s"), None);
    let both = json!({ "never_expires": true, "expires_unix_s": now() + 5 });
    rotate(&longer, both).await.problem(422);
    rotate(&longer, json!({ "expires_unix_s": 1 })).await.problem(422);
    center.stop().await;
}

/// Layout 2 is that of release 0.2; nothing that has a digest changes when it is migrated.
#[tokio::test]
async fn a_store_of_release_02_is_migrated() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let viewer = center.token("viewer", "").await;
    let before = center.ask("GET", "/v1/revision", None).await.good();
    center.stop().await;
    as_layout_2(dir.path());
    let center = Running::start(&dir).await;
    assert_eq!(center.ask("GET", "/v1/revision", None).await.good(), before);
    center.ask_as(Some(&viewer), "GET", "/v1/services", None).await.good();
    assert_eq!(listed(&center, &id_of(&viewer)).await["expires_unix_s"], Value::Null);
    // One service alone goes on as one.
    assert!(
        !center
            .ask(
                "POST",
                "/access/v1/evaluation",
                Some(json!({
                    "subject": { "type": "user", "id": "a" }, "action": { "name": "read" },
                    "resource": { "type": "record", "id": "r" },
                }))
            )
            .await
            .good()["decision"]
            .as_bool()
            .unwrap()
    );
    center.service("other", &[]).await;
    let body = json!({ "subject": { "type": "user", "id": "a" }, "action": { "name": "read" },
        "resource": { "type": "record", "id": "r" } });
    center.ask("POST", "/access/v1/evaluation", Some(body)).await.problem(409);
    center.stop().await;
}

struct Bound<'a> {
    center: &'a Running,
    token: String,
}

impl Bound<'_> {
    async fn ask(&self, method: &str, path: &str, body: Value) -> crate::fixture::Answer {
        let body = (!body.is_null()).then_some(body);
        self.center.ask_as(Some(&self.token), method, path, body).await
    }
}

fn files(name: &str, roles: &str) -> Value {
    json!({ "files": { "service.toml": format!("name = \"{name}\"\n"), "roles.toml": roles } })
}

fn edge(who: &str, role: &str) -> Value {
    json!({ "member": format!("user::\"{who}\""), "role": format!("role::\"{role}\"") })
}

#[tokio::test]
async fn an_editor_of_a_service_writes_that_service_and_no_other() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    center.service("billing", &[]).await;
    let bound = Bound { center: &center, token: center.token("editor", "orders").await };
    let line = listed(&center, &id_of(&bound.token)).await;
    assert_eq!((&line["role"], &line["service"]), (&json!("editor"), &json!("orders")));
    let policy = json!({ "text": "permit (principal, action, resource);" });
    let key = json!({ "principal": "user::\"c\"" });
    let grant = json!({ "principal": { "type": "role", "id": "r" }, "actions": [] });
    for (service, good) in
        [("orders", true), ("billing", false), ("new", false), ("%62illing", false)]
    {
        let of = |rest: &str| format!("/v1/services/{service}{rest}");
        let name = if service.starts_with('%') { "billing" } else { service };
        for (method, path, body) in [
            ("PUT", of("/policies/p"), policy.clone()),
            ("DELETE", of("/policies/p"), Value::Null),
            ("PUT", of("/grants/g"), grant.clone()),
            ("DELETE", of("/grants/g"), Value::Null),
            ("POST", of("/keys"), key.clone()),
            ("POST", of("/apply"), files(name, "")),
            ("POST", of("/apply?dry_run=true"), files(name, "")),
            ("PUT", of(""), json!({})),
        ] {
            let answer = bound.ask(method, &path, body).await;
            if good {
                assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
            } else {
                // What is not there may be said to be not there.
                assert!(matches!(answer.status.as_u16(), 403 | 404), "{method} {path}: {answer:?}");
            }
        }
    }
    let summary = center.ask("GET", "/v1/services/billing", None).await.good();
    assert_eq!(
        (&summary["policies"], &summary["grants"], &summary["keys"]),
        (&json!(0), &json!(0), &json!(0))
    );
    center.ask("GET", "/v1/services/new", None).await.problem(404);
    // Who decides what names no service is not its business: neither to take it nor to let it go.
    let default = json!({ "authzen": "default" });
    bound.ask("PUT", "/v1/services/orders", default.clone()).await.problem(403);
    center.ask("PUT", "/v1/services/orders", Some(default.clone())).await.good();
    bound.ask("PUT", "/v1/services/orders", default).await.good();
    bound.ask("PUT", "/v1/services/orders", json!({})).await.problem(403);
    let overwrite = "/v1/services/orders/apply?overwrite=true";
    bound.ask("POST", overwrite, files("orders", "")).await.problem(403);
    bound.ask("DELETE", "/v1/services/orders", Value::Null).await.problem(403);
    center.ask("PUT", "/v1/services/orders", Some(json!({}))).await.good();
    // It reads what an editor reads, and makes no tokens.
    bound.ask("GET", "/v1/services/billing", Value::Null).await.good();
    bound.ask("GET", "/v1/tokens", Value::Null).await.problem(403);
    for body in [
        json!({ "role": "editor", "service": "a b" }),
        json!({ "role": "viewer", "service": "orders" }),
    ] {
        center.ask("POST", "/v1/tokens", Some(body)).await.problem(422);
    }
    center.stop().await;
}

#[tokio::test]
async fn an_editor_of_a_service_writes_what_is_its_own_in_the_directory() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    center.service("billing", &[]).await;
    let bound = Bound { center: &center, token: center.token("editor", "orders").await };
    // What others brought.
    center.ask("POST", "/v1/roles/assign", Some(edge("alice", "by-hand"))).await.good();
    let theirs = "[[role]]\nid = \"theirs\"\nmembers = ['user::\"bob\"']\n";
    center.ask("POST", "/v1/services/billing/apply", Some(files("billing", theirs))).await.good();
    let before = center.revision().await;
    for (path, body) in [
        ("/v1/roles/revoke", edge("alice", "by-hand")),
        ("/v1/roles/assign", edge("alice", "by-hand")),
        ("/v1/roles/revoke", edge("bob", "theirs")),
    ] {
        let detail = bound.ask("POST", path, body).await.problem(403);
        assert!(detail.contains("an editor of service `orders` may not write"), "{detail}");
    }
    let path = "/v1/roles/role::%22theirs%22";
    bound.ask("PUT", path, json!({ "description": "mine" })).await.problem(403);
    bound.ask("DELETE", path, Value::Null).await.problem(403);
    let path = "/v1/entities/user::%22alice%22";
    bound.ask("PUT", path, json!({ "attrs": { "level": 9 } })).await.problem(403);
    bound.ask("DELETE", "/v1/services/billing", Value::Null).await.problem(403);
    assert_eq!(center.revision().await, before);
    // What is its own: by command, by an import and by its files.
    bound.ask("POST", "/v1/roles/assign", edge("carol", "mine")).await.good();
    let members = bound.ask("GET", "/v1/members?role=role::%22mine%22", Value::Null).await.good();
    assert_eq!(members["members"][0]["source"], "orders");
    bound.ask("POST", "/v1/roles/revoke", edge("carol", "mine")).await.good();
    let roles = "[[role]]\nid = \"own\"\nmembers = ['user::\"dave\"']\n";
    bound.ask("POST", "/v1/services/orders/apply", files("orders", roles)).await.good();
    let line = Bytes::from(edge("erin", "own").to_string());
    let import = request(Method::POST, "/v1/import/members")
        .header("authorization", format!("Bearer {}", bound.token))
        .header("content-type", "application/x-ndjson");
    center.send(import.body(line).unwrap()).await.good();
    let members = bound.ask("GET", "/v1/members?role=role::%22own%22", Value::Null).await.good();
    let sources: Vec<&str> = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["source"].as_str().unwrap())
        .collect();
    assert_eq!(sources, ["orders", "orders"]);
    let path = "/v1/roles/role::%22fresh%22";
    bound.ask("PUT", path, json!({ "description": "mine", "source": "billing" })).await.good();
    bound.ask("DELETE", path, Value::Null).await.good();
    center.stop().await;
}

/// Else an editor of one service could let anybody into another one.
#[tokio::test]
async fn an_editor_of_a_service_lets_nobody_into_another_one() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let permit = "permit (principal in role::\"payers\", action, resource);";
    center.service("billing", &[("p", permit)]).await;
    let grant = json!({ "principal": { "type": "role", "id": "granted" }, "actions": [] });
    center.ask("PUT", "/v1/services/billing/grants/g", Some(grant)).await.good();
    let staff_in_payers = json!({ "member": "role::\"staff\"", "role": "role::\"payers\"" });
    center.ask("POST", "/v1/roles/assign", Some(staff_in_payers.clone())).await.good();
    let bound = Bound { center: &center, token: center.token("editor", "orders").await };
    let before = center.revision().await;
    for role in ["payers", "granted", "staff"] {
        let detail = bound.ask("POST", "/v1/roles/assign", edge("eve", role)).await.problem(403);
        assert!(detail.contains("of service `billing` names it"), "{detail}");
        let roles = format!("[[role]]\nid = \"{role}\"\nmembers = ['user::\"eve\"']\n");
        for dry in ["", "?dry_run=true"] {
            let path = format!("/v1/services/orders/apply{dry}");
            bound.ask("POST", &path, files("orders", &roles)).await.problem(403);
        }
        let line = Bytes::from(edge("eve", role).to_string());
        let import = request(Method::POST, "/v1/import/members")
            .header("authorization", format!("Bearer {}", bound.token))
            .header("content-type", "application/x-ndjson");
        center.send(import.body(line).unwrap()).await.problem(403);
    }
    // A role of its own cannot be put into one of them either, and what its own policies name is its.
    let own_in_payers = json!({ "member": "role::\"own\"", "role": "role::\"payers\"" });
    bound.ask("POST", "/v1/roles/assign", own_in_payers).await.problem(403);
    assert_eq!(center.revision().await, before);
    let text = json!({ "text": "permit (principal in role::\"own\", action, resource);" });
    bound.ask("PUT", "/v1/services/orders/policies/p", text).await.good();
    bound.ask("POST", "/v1/roles/assign", edge("eve", "own")).await.good();
    center.stop().await;
}

#[tokio::test]
async fn requests_for_other_hosts_are_refused() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let ask = |host: &str, path: &'static str| {
        let request = request(Method::GET, path)
            .header("host", host)
            .header("authorization", format!("Bearer {}", center.admin));
        center.send(request.body(Bytes::new()).unwrap())
    };
    for path in ["/v1/tokens", "/healthz", "/login", "/metrics", "/v1/openapi.json"] {
        for good in [center.addr.to_string().as_str(), "localhost", "LOCALHOST:1", "[::1]:7480"] {
            assert!(ask(good, path).await.status.is_success(), "{good} {path}");
        }
        for bad in
            ["attacker.example", "127.0.0.1.attacker.example:7480", "10.0.0.1", "localhost@x"]
        {
            let detail = ask(bad, path).await.problem(421);
            assert!(
                detail.contains("--public-url")
                    && detail.contains("127.0.0.1") == bad.contains("127.0.0.1"),
                "{detail}"
            );
        }
    }
    center.stop().await;
    let mut config = config(&dir);
    config.public_url = Some("https://pdp.example.com".to_owned());
    let center = Running::with(config).await;
    let ask = |host: &'static str| {
        let request = request(Method::GET, "/healthz").header("host", host);
        center.send(request.body(Bytes::new()).unwrap())
    };
    assert!(ask("pdp.example.com").await.status.is_success());
    assert!(ask("127.0.0.1").await.status.is_success());
    ask("pdp.example.com.attacker.example").await.problem(421);
    center.stop().await;
}

#[tokio::test]
async fn a_public_url_in_clear_text_is_for_loopback() {
    let dir = Dir::new();
    let start = |url: &str| {
        let mut config = config(&dir);
        config.public_url = Some(url.to_owned());
        keepgate_center::Center::start(config)
    };
    for url in ["http://pdp.example.com", "http://10.0.0.1:7480", "http://localhost.example.com"] {
        let error = chain(&start(url).await.err().unwrap());
        assert!(error.contains("clear text") && error.contains(url), "{error}");
    }
    for url in ["pdp.example.com", "ftp://x", "https://", "https://u@x", "https://x/?q", ""] {
        let error = chain(&start(url).await.err().unwrap());
        assert!(error.contains("expected a public URL"), "{url}: {error}");
    }
    assert!(!dir.path().exists(), "a refused start left files");
    for url in [
        "http://127.0.0.1:7480",
        "http://[::1]/",
        "http://LocalHost:1/x",
        "https://pdp.example.com/",
    ] {
        start(url).await.unwrap().run(async {}).await.unwrap();
    }
}

/// Enforced by the center without a revision, and shown.
#[tokio::test]
async fn a_membership_that_ends_is_enforced_when_it_ends() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.member("stays", "assign").await.good();
    let until = now() + 2;
    let body =
        json!({ "member": "user::\"temp\"", "role": "role::\"staff\"", "until_unix_s": until });
    let changed = center.ask("POST", "/v1/roles/assign", Some(body.clone())).await.good();
    // The same again is no change.
    let again = center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    assert_eq!(again["revision"], changed["revision"]);
    let revision = center.revision().await;
    let ended = async {
        loop {
            let (before, allowed, after) = (now(), center.allowed("temp").await, now());
            if after < until {
                assert!(allowed, "until {until}, at {after}");
            }
            if before >= until {
                assert!(!allowed, "until {until}, at {before}");
                return;
            }
        }
    };
    patiently("the end", ended).await;
    assert!(center.allowed("stays").await);
    assert_eq!(center.revision().await, revision, "without a revision");
    let members = center.ask("GET", "/v1/members", None).await.good();
    let line = members["members"].as_array().unwrap().iter().find(|m| m["member"]["id"] == "temp");
    assert_eq!(line.unwrap()["until_unix_s"], json!(until));
    // Who is assigned without an end is in it again.
    center.member("temp", "assign").await.good();
    assert!(center.allowed("temp").await);
    let past = json!({ "member": "user::\"x\"", "role": "role::\"staff\"", "until_unix_s": until });
    center.ask("POST", "/v1/roles/assign", Some(past)).await.problem(422);
    // A grant, and what the service says of it.
    let grant = json!({ "principal": { "type": "role", "id": "temps" }, "actions": [], "until_unix_s": now() + HOUR });
    center.ask("PUT", "/v1/services/orders/grants/g", Some(grant.clone())).await.good();
    let summary = center.ask("GET", "/v1/services/orders", None).await.good();
    assert_eq!(summary["ending_grants"], 1);
    assert_eq!(summary["next_end_unix_s"], grant["until_unix_s"]);
    // An apply of what an export says changes nothing.
    let export = center.ask("GET", "/v1/services/orders/export", None).await.good();
    let before = center.revision().await;
    let files = json!({ "files": export["files"] });
    center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    assert_eq!(center.revision().await, before, "{export}");
    center.stop().await;
}

/// A gate of an earlier release would not see the end: it gets nothing of the directory any more, and
/// the status says so. One of this release gets all of it.
#[tokio::test]
async fn an_item_that_ends_is_kept_from_gates_that_would_not_see_its_end() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let gate = center.token("gate", "orders").await;
    let mut old = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    old.step().await.unwrap();
    let body =
        json!({ "member": "user::\"t\"", "role": "role::\"staff\"", "until_unix_s": now() + HOUR });
    center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    let said = async {
        loop {
            let said = center.status().await["wrong"].to_string();
            if said.contains("mirror: it is of release 0.1") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    patiently("the status to name the gate", said).await;
    assert!(!old.items.values().any(|item| item.needs() == 3));
    let mut new = Raw::follow(&center, &gate, None).await;
    let revision = center.revision().await;
    while new.held().await.revision < revision {
        new.next().await.unwrap();
    }
    center.stop().await;
}

#[tokio::test]
async fn without_a_center_the_host_makes_an_admin_token_in_the_store() {
    let dir = Dir::new();
    let asked = NewAdminToken { note: "lost".to_owned(), expires_unix_s: Some(now() + HOUR) };
    let error = chain(&keepgate_center::admin_token(dir.path(), &asked).await.unwrap_err());
    assert!(error.contains("found no `center.db`"), "{error}");
    assert!(!dir.path().exists(), "nothing is made where no store is");
    let center = Running::start(&dir).await;
    let held = keepgate_center::admin_token(dir.path(), &asked).await.unwrap_err();
    assert!(held.is_held(), "{held}");
    center.stop().await;
    let made = keepgate_center::admin_token(dir.path(), &asked).await.unwrap();
    let center = Running::start(&dir).await;
    let tokens = center.ask_as(Some(&made.token), "GET", "/v1/tokens", None).await.good();
    let line =
        tokens["tokens"].as_array().unwrap().iter().find(|t| t["id"] == json!(made.id)).unwrap();
    assert_eq!((&line["role"], &line["note"]), (&json!("admin"), &json!("lost")));
    assert_eq!(line["expires_unix_s"], json!(asked.expires_unix_s));
    let audit = center.ask("GET", "/v1/audit", None).await.good();
    let last = audit["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["actor"], &last["action"]), (&json!("host"), &json!("token.create")));
    center.stop().await;
    for wrong in [
        NewAdminToken { note: "x".repeat(501), expires_unix_s: None },
        NewAdminToken { note: String::new(), expires_unix_s: Some(1) },
    ] {
        assert!(keepgate_center::admin_token(dir.path(), &wrong).await.is_err());
    }
}
