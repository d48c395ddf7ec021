//! Past states: decided in as they decided then, compared, and gone back to; reviews of access.

use keepgate_center::CenterConfig;
use keepgate_center::store::{Address, Retention};
use serde_json::{Value, json};

use crate::database::{shared, skipped, unique};
use crate::fixture::{Dir, Running, STAFF, config};

/// A small source of chance; the same seed gives the same history.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const ROLES: [&str; 3] = ["staff", "admin", "guest"];
const ACTIONS: [&str; 2] = ["read", "write"];

/// One random change; what it was does not matter, and it may be refused.
async fn change(center: &Running, chance: &mut Chance) {
    let (user, role) = (chance.pick(&USERS), chance.pick(&ROLES));
    let member =
        json!({ "member": format!("user::\"{user}\""), "role": format!("role::\"{role}\"") });
    let (action, id) = (chance.pick(&ACTIONS), chance.below(4));
    let entity = format!("/v1/services/orders/entities/user::%22{user}%22");
    match chance.below(10) {
        0..=2 => center.ask("POST", "/v1/roles/assign", Some(member)).await,
        3 => center.ask("POST", "/v1/roles/revoke", Some(member)).await,
        4 => {
            let body = json!({ "principal": { "type": "role", "id": role },
                "actions": [{ "type": "Action", "id": action }] });
            center.ask("PUT", &format!("/v1/services/orders/grants/g{id}"), Some(body)).await
        }
        5 => center.ask("DELETE", &format!("/v1/services/orders/grants/g{id}"), None).await,
        6 => {
            let effect = chance.pick(&["permit", "forbid"]);
            let condition =
                chance.pick(&["", "when { principal has dept && principal.dept == 1 }"]);
            let text = format!(
                "{effect}(principal in role::\"{role}\", action == Action::\"{action}\", resource) \
                 {condition};"
            );
            let path = format!("/v1/services/orders/policies/p{id}");
            center.ask("PUT", &path, Some(json!({ "text": text }))).await
        }
        7 => center.ask("DELETE", &format!("/v1/services/orders/policies/p{id}"), None).await,
        8 => {
            let body = json!({ "attrs": { "dept": chance.below(3) },
                "parents": [{ "type": "role", "id": role }] });
            center.ask("PUT", &entity, Some(body)).await
        }
        _ => center.ask("DELETE", &format!("{entity}?cascade=true"), None).await,
    };
}

/// What is decided now, or in a past state: the decision and the policies that determined it.
async fn decided(center: &Running, as_of: Option<Value>) -> Vec<(bool, Vec<String>)> {
    let mut all = Vec::new();
    for user in USERS {
        for action in ACTIONS {
            let mut body = json!({ "principal": format!("user::\"{user}\""), "action": action,
                "resource": "record::\"r1\"", "service": "orders" });
            if let Some(as_of) = &as_of {
                body["as_of"] = as_of.clone();
            }
            let answer = center.ask("POST", "/v1/check", Some(body)).await.good();
            let by = answer["determining"].as_array().unwrap();
            let by = by.iter().map(|policy| policy["id"].as_str().unwrap().to_owned()).collect();
            all.push((answer["decision"].as_bool().unwrap(), by));
        }
    }
    all
}

/// Whatever happened since, the state of each revision decides as it did while it was the newest.
async fn decides_as_then(config: impl Fn() -> CenterConfig) {
    let mut center = Running::with(config()).await;
    center.service("orders", &[]).await;
    let mut then = vec![(center.revision().await, decided(&center, None).await)];
    let mut chance = Chance(7);
    for round in 0..60 {
        change(&center, &mut chance).await;
        let revision = center.revision().await;
        if then.last().is_some_and(|(last, _)| *last != revision) {
            then.push((revision, decided(&center, None).await));
        }
        if round == 30 {
            center.stop().await;
            center = Running::with(config()).await;
        }
    }
    assert!(then.len() > 30, "{} revisions", then.len());
    let allowed = then.iter().flat_map(|(_, all)| all).filter(|(allowed, _)| *allowed).count();
    let all = then.len() * USERS.len() * ACTIONS.len();
    assert!(allowed > all / 20 && allowed < all * 19 / 20, "{allowed} of {all}");
    for (revision, expected) in &then {
        assert_eq!(&decided(&center, Some(json!(revision))).await, expected, "revision {revision}");
    }
    // Back to each of some of them: it decides so again, and nothing differs from it.
    for (revision, expected) in then.iter().step_by(9) {
        let body = json!({ "to": revision });
        let preview = "/v1/rollback?dry_run=true";
        let preview = center.ask("POST", preview, Some(body.clone())).await.good();
        let names = preview.get("conflicts").and_then(Value::as_array).cloned().unwrap_or_default();
        let name = |of: &Value| {
            json!(format!("{} {}", of["kind"].as_str().unwrap(), of["id"].as_str().unwrap()))
        };
        let undo: Vec<Value> = names.iter().map(name).collect();
        if !undo.is_empty() {
            let detail = center.ask("POST", "/v1/rollback", Some(body)).await.problem(409);
            assert!(detail.contains("taken away since"), "{detail}");
        }
        let body = json!({ "to": revision, "undo": undo });
        let done = center.ask("POST", "/v1/rollback", Some(body)).await.good();
        assert_eq!(
            done["changes"].as_array().unwrap().len(),
            preview["changes"].as_array().unwrap().len()
        );
        assert_eq!(&decided(&center, None).await, expected, "back to {revision}");
        let diff = center.ask("GET", &format!("/v1/diff?from={revision}"), None).await.good();
        assert_eq!(diff["total"], 0, "{diff}");
    }
    // All of it is still there.
    for (revision, expected) in then.iter().step_by(5) {
        assert_eq!(&decided(&center, Some(json!(revision))).await, expected, "revision {revision}");
    }
    center.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_state_decides_as_it_did_in_sqlite() {
    let dir = Dir::new();
    decides_as_then(|| config(&dir)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_state_decides_as_it_did_in_postgresql() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let (dir, schema) = (Dir::new(), unique("past"));
    let address = Address::parse(&cluster.url(&schema, "")).unwrap();
    decides_as_then(|| CenterConfig { database: Some(Box::new(address.clone())), ..config(&dir) })
        .await;
}

fn role(member: &str, role: &str) -> Value {
    json!({ "member": format!("user::\"{member}\""), "role": format!("role::\"{role}\"") })
}

async fn check(center: &Running, who: &str, as_of: Value) -> crate::fixture::Answer {
    let body = json!({ "principal": format!("user::\"{who}\""), "action": "read",
        "resource": "record::\"r1\"", "service": "orders", "as_of": as_of });
    center.ask("POST", "/v1/check", Some(body)).await
}

#[tokio::test]
async fn what_is_out_of_retention_is_said_so() {
    let dir = Dir::new();
    let keep = Retention { past_bytes: 1_500, ..Retention::DEFAULT };
    let center = Running::with(CenterConfig { retention: keep, ..config(&dir) }).await;
    center.service("orders", &[("staff", STAFF)]).await;
    for _ in 0..10 {
        center.member("alice", "assign").await.good();
        center.member("alice", "revoke").await.good();
    }
    let head = center.revision().await;
    let history = center.ask("GET", "/v1/history?limit=1", None).await.good();
    let oldest = history["oldest"].as_u64().unwrap();
    assert!(oldest > 2 && oldest < head, "{history}");
    check(&center, "alice", json!(oldest)).await.good();
    for (as_of, said) in [
        (json!(oldest - 1), format!("revision {} is out of retention", oldest - 1)),
        (json!("1999-01-01T00:00:00Z"), "1999-01-01T00:00:00Z is out of retention".to_owned()),
        (json!(head + 1), format!("there is no revision {} yet", head + 1)),
        (json!("2999-01-01T00:00:00Z"), "has not come yet".to_owned()),
        (json!("yesterday"), "expected a revision or a time".to_owned()),
    ] {
        let detail = check(&center, "alice", as_of).await.problem(422);
        assert!(detail.contains(&said), "{detail}");
    }
    let path = format!("/v1/diff?from={}", oldest - 1);
    assert!(center.ask("GET", &path, None).await.problem(422).contains("out of retention"));
    let back = json!({ "to": oldest - 1 });
    let detail = center.ask("POST", "/v1/rollback", Some(back)).await.problem(422);
    assert!(detail.contains("past states are kept from revision"), "{detail}");
    // Who may only ask what is, is not told what was.
    let pep = center.token("pep", "orders").await;
    let body = json!({ "principal": "user::\"a\"", "action": "read", "resource": "r::\"1\"",
        "as_of": oldest });
    center.ask_as(Some(&pep), "POST", "/v1/check", Some(body)).await.problem(403);
    center.stop().await;
    // In a store of a release that kept no past, it begins with the head.
    let raw = rusqlite::Connection::open(dir.path().join("center.db")).unwrap();
    raw.execute_batch(
        "DROP INDEX audit_by_id; DROP TABLE past; DROP TABLE past_head; DROP TABLE log_keys; DROP TABLE log_heads;
         DROP TABLE sessions; DROP TABLE requests; DROP TABLE audit_log; ALTER TABLE audit DROP COLUMN chain; PRAGMA user_version = 3;",
    )
    .unwrap();
    drop(raw);
    let center = Running::start(&dir).await;
    let head = center.revision().await;
    let history = center.ask("GET", "/v1/history?limit=1", None).await.good();
    assert_eq!((&history["head"], &history["oldest"]), (&json!(head), &json!(head)));
    center.member("bob", "assign").await.good();
    check(&center, "bob", json!(head - 1)).await.problem(422);
    assert_eq!(check(&center, "bob", json!(head)).await.good()["decision"], false);
    assert_eq!(check(&center, "bob", json!(head + 1)).await.good()["decision"], true);
    center.stop().await;
}

#[tokio::test]
async fn history_says_who_did_what_with_the_difference() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.service("other", &[("p", STAFF)]).await;
    let first = center.revision().await;
    let path = "/v1/services/orders/policies/staff";
    let text = "permit(principal in role::\"staff\",\n  action == Action::\"read\",\n  resource);";
    center.ask("PUT", path, Some(json!({ "text": text }))).await.good();
    let changed = center.revision().await;
    center.member("alice", "assign").await.good();
    center.member("alice", "revoke").await.good();
    let last = center.revision().await;
    let editor = center.token("editor", "").await;
    let made = json!({ "note": "x" });
    center.ask_as(Some(&editor), "POST", "/v1/services/orders/keys", Some(made)).await;
    let of = |entry: &Value| entry["revision"].as_u64().unwrap();
    // A service, an item, all; pages have the same.
    let all = center.ask("GET", "/v1/history?limit=100", None).await.good();
    let all = all["entries"].as_array().unwrap().clone();
    assert!(all.windows(2).all(|two| of(&two[0]) > of(&two[1])), "{all:?}");
    let mut paged: Vec<Value> = Vec::new();
    let mut before = 0;
    loop {
        let page = format!("/v1/history?limit=2&before={before}");
        let page = center.ask("GET", &page, None).await.good();
        paged.extend(page["entries"].as_array().unwrap().iter().cloned());
        match page["next"].as_u64() {
            Some(next) => before = next,
            None => break,
        }
    }
    assert_eq!(paged, all);
    let item = "/v1/history?kind=policy&id=staff&service=orders";
    let item = center.ask("GET", item, None).await.good();
    let entries = item["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{item}");
    assert_eq!(of(&entries[0]), changed);
    let change = &entries[0]["changes"][0];
    assert_eq!((&change["op"], &change["kind"]), (&json!("update"), &json!("policy")));
    let diff = change["diff"].as_str().unwrap();
    assert!(diff.contains("+  action == Action::\"read\","), "{diff}");
    // One revision, and two of them compared.
    let shown = center.ask("GET", &format!("/v1/revisions/{changed}"), None).await.good();
    assert_eq!(shown["changes"][0], *change);
    assert_eq!(shown["action"], "policy.put");
    center.ask("GET", &format!("/v1/revisions/{}", last + 50), None).await.problem(404);
    let diff = center.ask("GET", &format!("/v1/diff?from={first}&to={last}"), None).await.good();
    assert_eq!(diff["total"], 1, "what came and went does not differ: {diff}");
    assert_eq!(diff["changes"][0]["diff"], change["diff"]);
    let back = center.ask("GET", &format!("/v1/diff?from={last}&to={first}"), None).await.good();
    let back = back["changes"][0]["diff"].as_str().unwrap();
    assert!(back.contains("-  action == Action::\"read\","), "{back}");
    let none = format!("/v1/diff?from={first}&to={last}&service=other");
    assert_eq!(center.ask("GET", &none, None).await.good()["total"], 0);
    // Of a key no hash is shown.
    let all = serde_json::to_string(&paged).unwrap();
    let diff = center.ask("GET", &format!("/v1/diff?from={first}"), None).await.good().to_string();
    assert!(!all.contains("sha256") && !diff.contains("sha256"), "{diff}");
    center.stop().await;
}

#[tokio::test]
async fn a_rollback_gives_nothing_back_that_is_not_named() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.ask("POST", "/v1/roles/assign", Some(role("alice", "staff"))).await.good();
    let good = center.revision().await;
    let path = "/v1/services/orders/policies/staff";
    let everyone = json!({ "text": "permit(principal, action, resource);" });
    center.ask("PUT", path, Some(everyone)).await.good();
    center.ask("POST", "/v1/roles/revoke", Some(role("alice", "staff"))).await.good();
    let block = json!({ "text": "forbid(principal == user::\"mallory\", action, resource);" });
    center.ask("PUT", "/v1/services/orders/policies/block", Some(block)).await.good();
    let head = center.revision().await;
    // A preview changes nothing, and says what it gives and takes.
    let body = json!({ "to": good });
    let dry = "/v1/rollback?dry_run=true";
    let preview = center.ask("POST", dry, Some(body.clone())).await.good();
    assert_eq!(center.revision().await, head);
    let ids: Vec<&str> = preview["conflicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conflict| conflict["id"].as_str().unwrap())
        .collect();
    let membership = "user::\"alice\" in role::\"staff\"";
    assert_eq!(ids, [membership, "block"], "{preview}");
    let access = preview["access"].to_string();
    assert!(access.contains("membership in role::\\\"staff\\\""), "{access}");
    let diff = preview["changes"].to_string();
    assert!(diff.contains("+permit (principal in role::\\\"staff\\\""), "{diff}");
    let detail = center.ask("POST", "/v1/rollback", Some(body.clone())).await.problem(409);
    assert!(detail.contains(membership) && detail.contains("policy block"), "{detail}");
    // One of them is not enough; a name that is none is none.
    let undo = json!({ "to": good, "undo": [format!("member {membership}"), "policy nothing"] });
    center.ask("POST", "/v1/rollback", Some(undo)).await.problem(409);
    assert_eq!(center.revision().await, head);
    // Only the service, over what was seen, once.
    let undo = json!({ "to": good, "service": "orders", "undo": ["policy block"] });
    let stale = format!("/v1/rollback?if_revision={}", head - 1);
    center.ask("POST", &stale, Some(undo.clone())).await.problem(412);
    let viewer = center.token("viewer", "").await;
    center.ask_as(Some(&viewer), "POST", "/v1/rollback", Some(undo.clone())).await.problem(403);
    let bound = center.token("editor", "orders").await;
    let all = json!({ "to": good, "undo": [format!("member {membership}"), "policy block"] });
    let detail = center.ask_as(Some(&bound), "POST", "/v1/rollback", Some(all)).await.problem(403);
    assert!(detail.contains("an editor of service `orders` may not write"), "{detail}");
    let own = center.ask_as(Some(&bound), "POST", "/v1/rollback", Some(undo)).await.good();
    assert_eq!(own["to"], good);
    assert!(!center.allowed("alice").await, "the membership stays revoked");
    assert!(!center.allowed("mallory").await);
    // Nothing was lost: what was there before can be gone back to as well.
    let shown = center.ask("GET", &format!("/v1/revisions/{}", own["revision"]), None).await.good();
    assert_eq!(shown["action"], "rollback");
    let forth = json!({ "to": head });
    center.ask("POST", "/v1/rollback", Some(forth.clone())).await.good();
    assert!(center.allowed("bob").await && !center.allowed("mallory").await);
    let again = center.ask("POST", "/v1/rollback", Some(forth)).await.good();
    assert_eq!(again["changes"], json!([]), "there is nothing left to do");
    // What is not understood is refused.
    for wrong in [json!({}), json!({ "to": 1, "x": 1 }), json!({ "to": [] })] {
        center.ask("POST", "/v1/rollback", Some(wrong)).await.problem(400);
    }
    center.stop().await;
}

#[tokio::test]
async fn a_review_says_by_what_since_when_and_by_whom() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let text = "permit(principal, action == Action::\"write\", resource) when { context.mfa };";
    let path = "/v1/services/orders/policies/mfa";
    center.ask("PUT", path, Some(json!({ "text": text }))).await.good();
    let before = center.revision().await;
    for user in ["alice", "bob", "carol"] {
        center.member(user, "assign").await.good();
    }
    center.member("carol", "revoke").await.good();
    let editor = center.token("editor", "").await;
    let body = role("dave", "staff");
    center.ask_as(Some(&editor), "POST", "/v1/roles/assign", Some(body)).await.good();
    let resource = "resource=record::%22r1%22&service=orders";
    let asked = format!("/v1/access/resource?{resource}&action=read");
    let found = center.ask("GET", &asked, None).await.good();
    let entries = found["entries"].as_array().unwrap();
    let who: Vec<&str> = entries.iter().map(|entry| entry["principal"].as_str().unwrap()).collect();
    assert_eq!(who, ["user::\"alice\"", "user::\"bob\"", "user::\"dave\""], "{found}");
    let dave = &entries[2]["by"][0];
    assert_eq!((&dave["kind"], &dave["id"]), (&json!("policy"), &json!("staff")));
    let step = &dave["path"][0];
    assert_eq!(step["to"], "role::\"staff\"");
    assert_eq!(step["since"]["actor"], editor.split('_').nth(1).unwrap());
    assert_eq!(step["since"]["revision"], center.revision().await);
    // Page by page it is the same.
    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let page = center.ask("GET", &format!("{asked}&limit=1{after}"), None).await.good();
        paged.extend(page["entries"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", next.replace('"', "%22")),
            None => break,
        }
    }
    assert_eq!(&paged, entries);
    // What depends on the request is a condition.
    let all = center.ask("GET", &format!("/v1/access/resource?{resource}"), None).await.good();
    let anyone = &all["entries"][0];
    assert_eq!((&anyone["principal"], &anyone["conditional"]), (&json!("any"), &json!(true)));
    assert!(anyone["when"][0]["condition"].as_str().unwrap().contains("context.mfa"), "{anyone}");
    // In the past nobody was in the role.
    let then = center.ask("GET", &format!("{asked}&as_of={before}"), None).await.good();
    assert_eq!((&then["entries"], &then["revision"]), (&json!([]), &json!(before)));
    // What has changed since says since when it was so then.
    let assigned = before + 3;
    let then = center.ask("GET", &format!("{asked}&as_of={assigned}"), None).await.good();
    assert_eq!(then["entries"].as_array().unwrap().len(), 3, "{then}");
    let carol = &then["entries"][2]["by"][0]["path"][0]["since"];
    assert_eq!((&carol["revision"], &carol["action"]), (&json!(assigned), &json!("role.assign")));
    let held = "/v1/access/principal?principal=user::%22alice%22&service=orders";
    let held = center.ask("GET", held, None).await.good();
    let ids: Vec<&str> = held["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|held| held["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["mfa", "staff"]);
    let members = center
        .ask("GET", "/v1/access/role?role=role::%22staff%22&service=orders", None)
        .await
        .good();
    assert_eq!(members["entries"].as_array().unwrap().len(), 3, "{members}");
    for (wrong, status) in [
        ("/v1/access/resource", 422),
        ("/v1/access/resource?resource=x", 400),
        ("/v1/access/resource?resource=r::%221%22&nothing=1", 400),
        ("/v1/access/resource?resource=r::%221%22&after=x&service=orders", 422),
        ("/v1/access/resource?resource=r::%221%22&service=nowhere", 422),
        ("/v1/access/resource?resource=r::%221%22&service=%20", 400),
        ("/v1/access/role?role=role::%22a%22&action=read", 400),
        ("/v1/access/role?role=a", 400),
        ("/v1/access/principal?principal=user::%22a%22&type=user", 400),
        ("/v1/diff", 422),
        ("/v1/history?service=%20", 400),
        ("/v1/revisions/x", 400),
    ] {
        center.ask("GET", wrong, None).await.problem(status);
    }
    center.stop().await;
}

/// What a large apply replaced is not kept; what a rollback replaced is, however much it is.
#[tokio::test]
async fn a_large_apply_ends_the_past_and_a_large_rollback_does_not() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let apply = async |count: usize| {
        let entity = |n: usize| json!({ "uid": { "type": "user", "id": format!("u{n}") } });
        let entities: Vec<Value> = (0..count).map(entity).collect();
        let files = json!({ "service.toml": "name = \"orders\"",
            "entities.json": Value::from(entities).to_string() });
        let body = json!({ "files": files });
        // What the rollback took away is no conflict.
        let path = "/v1/services/orders/apply?overwrite=true";
        center.ask("POST", path, Some(body)).await.good();
        center.revision().await
    };
    let first = apply(1).await;
    let second = apply(9_000).await;
    let third = apply(18_000).await;
    let back = json!({ "to": first });
    let done = center.ask("POST", "/v1/rollback", Some(back)).await.good();
    assert_eq!(done["deleted"], 17_999, "{}", done["deleted"]);
    for (revision, known) in [(first, 1), (second, 9_000), (third, 18_000)] {
        let diff = format!("/v1/diff?from={revision}&limit=1");
        let diff = center.ask("GET", &diff, None).await.good();
        assert_eq!(diff["total"], known - 1, "{diff}");
        check(&center, "u1", json!(revision)).await.good();
    }
    let wall = apply(10_002).await;
    check(&center, "u1", json!(wall)).await.good();
    check(&center, "u1", json!(wall - 1)).await.problem(422);
    center.stop().await;
}
