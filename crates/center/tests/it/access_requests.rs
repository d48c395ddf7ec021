//! Requests for access: kept within bounds, on both engines; asked by a follower, decided by people, and
//! fetched once; told to a webhook.

use std::sync::{Arc, Mutex};

use keepgate_center::WebhookConfig;
use keepgate_center::store::{
    RequestBody, RequestBounds, RequestChange, RequestRow, RequestState, RequestsOf, Store,
};
use keepgate_identify::access::{Asker, KeyAccess};
use keepgate_policy::proto::caller_answer::Answer as Told;
use keepgate_policy::proto::caller_question::Question;
use keepgate_policy::proto::{AskAccess, FetchKey};
use ring::hmac;
use serde_json::{Value, json};

use crate::fixture::{Dir, Mirror, Running, STAFF, config, patiently};
use crate::store_conformance::{Engine, Postgres, Sqlite, on_every_engine};

const BOUNDS: RequestBounds = RequestBounds {
    pending: 6,
    of_service: 4,
    of_address: 2,
    done: 2,
    waits_s: 100,
    done_s: 1_000,
};

fn row(n: u8, service: &str, address: &str, at: u64) -> RequestRow {
    RequestRow {
        id: format!("{at:010x}{n:06x}"),
        service: service.to_owned(),
        state: RequestState::Pending,
        code_sha256: [n; 32],
        address: address.to_owned(),
        created_unix_s: at,
        changed_unix_s: at,
        told: false,
        body: RequestBody {
            who: "who\0".to_owned(),
            what_for: "what".to_owned(),
            per_day: 9,
            gate: "t".to_owned(),
            ..RequestBody::default()
        },
    }
}

fn change(store: &dyn Store, change: RequestChange) -> bool {
    let mut done = false;
    store
        .write(&mut |tx| {
            done = tx.request_change(&change)?;
            Ok(keepgate_center::store::EditVerdict::Commit)
        })
        .unwrap();
    done
}

fn asked(store: &dyn Store, row: &RequestRow) -> bool {
    change(store, RequestChange::Ask(row.clone(), BOUNDS))
}

fn found(store: &dyn Store, of: RequestsOf<'_>) -> Vec<RequestRow> {
    store.read().unwrap().requests(of).unwrap()
}

on_every_engine!(requests_are_kept_within_bounds);

fn requests_are_kept_within_bounds(engine: &impl Engine) {
    let store = engine.open().unwrap();
    let store = &*store;
    // Of an address, of a service, in all; each at its bound and beyond.
    let first = row(1, "a", "192.0.2.1", 1_000);
    assert!(asked(store, &first) && asked(store, &row(2, "a", "192.0.2.1", 1_001)));
    assert!(!asked(store, &row(3, "a", "192.0.2.1", 1_002)));
    assert!(asked(store, &row(4, "a", "", 1_003)) && asked(store, &row(5, "a", "", 1_004)));
    assert!(!asked(store, &row(6, "a", "192.0.2.2", 1_005)));
    assert!(asked(store, &row(7, "b", "", 1_006)) && asked(store, &row(8, "b", "", 1_007)));
    assert!(!asked(store, &row(9, "c", "", 1_008)));
    // Two of one code are none.
    let twice = RequestRow { id: "f".repeat(16), ..first.clone() };
    let again = store.write(&mut |tx| {
        tx.request_change(&RequestChange::Ask(twice.clone(), RequestBounds::DEFAULT))?;
        Ok(keepgate_center::store::EditVerdict::Commit)
    });
    assert!(again.is_err());
    // Found by code, by id within its service, and in pages.
    assert_eq!(found(store, RequestsOf::Code(&[1; 32])), std::slice::from_ref(&first));
    assert_eq!(found(store, RequestsOf::Code(&[99; 32])), []);
    assert_eq!(found(store, RequestsOf::One("a", &first.id)), std::slice::from_ref(&first));
    assert_eq!(found(store, RequestsOf::One("b", &first.id)), []);
    let page = found(store, RequestsOf::Service("a", None, "", 3));
    assert_eq!(page.len(), 3);
    assert_eq!(found(store, RequestsOf::Service("a", None, &page[2].id, 3)).len(), 1);
    assert_eq!(found(store, RequestsOf::Untold(10)).len(), 6);
    assert!(change(store, RequestChange::Told(first.id.clone())));
    assert_eq!(found(store, RequestsOf::Untold(10)).len(), 5);
    // Those that were decided do not wait; the oldest of them go first.
    for (n, at) in [(1, 1_000), (2, 1_001), (4, 1_003)] {
        let state = RequestState::Declined;
        let address = if n < 4 { "192.0.2.1" } else { "" };
        let done = RequestRow { state, changed_unix_s: 1_050, ..row(n, "a", address, at) };
        assert!(change(store, RequestChange::Put(done)));
    }
    let declined = Some(RequestState::Declined);
    assert_eq!(found(store, RequestsOf::Service("a", declined, "", 9)).len(), 3);
    assert!(asked(store, &row(10, "a", "192.0.2.1", 1_060)));
    assert_eq!(found(store, RequestsOf::Service("a", declined, "", 9)).len(), 2);
    assert_eq!(found(store, RequestsOf::Code(&[1; 32])), []);
    // What waits too long is forgotten, and what was decided, later.
    assert!(asked(store, &row(11, "a", "", 1_120)));
    let pending = Some(RequestState::Pending);
    let left: Vec<u8> = found(store, RequestsOf::Service("a", pending, "", 9))
        .iter()
        .map(|row| row.code_sha256[0])
        .collect();
    assert_eq!(left, [10, 11]);
    assert!(asked(store, &row(12, "a", "", 2_051)));
    assert_eq!(found(store, RequestsOf::Service("a", declined, "", 9)), []);
}

fn ask(who: &str) -> Question {
    let what_for = "Copies orders".to_owned();
    Question::AskAccess(AskAccess { who: who.to_owned(), what_for, per_day: 1_000 })
}

fn fetch(code: &str) -> Question {
    Question::FetchKey(FetchKey { code: code.to_owned() })
}

fn reason(told: Told) -> String {
    match told {
        Told::Refused(refused) => refused.reason,
        other => format!("{other:?}"),
    }
}

async fn code(gate: &mut Mirror, who: &str, address: &str) -> String {
    match gate.question("orders", address, ask(who)).await {
        Told::Asked(asked) => asked.code,
        other => panic!("{other:?}"),
    }
}

const REQUESTS: &str = "/v1/services/orders/requests";

#[tokio::test]
async fn a_key_is_fetched_once_after_somebody_has_approved() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let plan = json!({ "rates": ["10/s"] });
    center.ask("PUT", "/v1/services/orders/plans/bulk", Some(plan)).await;
    let token = center.token("gate", "orders").await;
    let mut gate = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let first = code(&mut gate, "Nightly import", "192.0.2.1").await;
    assert!(first.starts_with("kgr_") && first.len() == 44, "{first}");
    assert_eq!(reason(gate.question("orders", "192.0.2.1", fetch(&first)).await), "pending");
    let listed = center.ask("GET", &format!("{REQUESTS}?state=pending"), None).await.good();
    let request = &listed["requests"][0];
    assert_eq!((&request["who"], &request["per_day"]), (&json!("Nightly import"), &json!(1_000)));
    assert!(!listed.to_string().contains(&first), "{listed}");
    let at = format!("{REQUESTS}/{}", request["id"].as_str().unwrap());

    // Who may write the service's keys decides, and nobody else.
    let approval = json!({ "principal": "client::\"import\"" });
    center.service("other", &[("p", STAFF)]).await;
    for (role, service, status) in [
        ("viewer", "", 403),
        ("editor", "other", 403),
        ("pep", "orders", 403),
        ("gate", "orders", 403),
    ] {
        let token = center.token(role, service).await;
        for what in ["approve", "decline"] {
            let path = format!("{at}/{what}");
            let body = Some(if what == "approve" { approval.clone() } else { json!({}) });
            let answer = center.ask_as(Some(&token), "POST", &path, body).await;
            answer.problem(status);
        }
    }
    let wrong = json!({ "principal": "client::\"import\"", "plan": "none" });
    let detail = center.ask("POST", &format!("{at}/approve"), Some(wrong)).await.problem(422);
    assert!(detail.contains("has no plan `none`"), "{detail}");
    center
        .ask("POST", &format!("{REQUESTS}/none/approve"), Some(approval.clone()))
        .await
        .problem(404);
    center.ask("GET", &format!("{REQUESTS}?state=odd"), None).await.problem(422);
    let editor = center.token("editor", "orders").await;
    let before = center.revision().await;
    let path = format!("{at}/approve");
    let approved = center.ask_as(Some(&editor), "POST", &path, Some(approval.clone())).await.good();
    assert_eq!(approved["state"], "approved");
    assert_eq!(center.revision().await, before + 1);
    // Twice is a refusal, and changes nothing.
    center.ask("POST", &path, Some(approval.clone())).await.problem(422);

    // Through another service's gate, and without the code, there is no key.
    let stranger = center.token("gate", "other").await;
    let mut other = Mirror::follow(&center, &stranger, &["other"]).await.unwrap();
    assert_eq!(reason(other.question("orders", "", fetch(&first)).await), "invalid");
    assert_eq!(reason(other.question("other", "", fetch(&first)).await), "unknown");
    assert_eq!(reason(gate.question("orders", "192.0.2.9", fetch("kgr_0")).await), "unknown");
    let made = match gate.question("orders", "192.0.2.1", fetch(&first)).await {
        Told::Key(made) => made,
        other => panic!("{other:?}"),
    };
    assert!(made.key.starts_with("kgk_"), "{made:?}");
    // Spent: as one that never was.
    assert_eq!(reason(gate.question("orders", "192.0.2.1", fetch(&first)).await), "unknown");
    let key = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    let prefix = made.key.split('_').nth(1).unwrap();
    assert_eq!(key["keys"][0]["prefix"], json!(prefix));
    assert_eq!(key["keys"][0]["principal"], json!({ "type": "client", "id": "import" }));
    let request = center.ask("GET", &at, None).await.good();
    assert_eq!((&request["state"], &request["key"]), (&json!("fetched"), &json!(prefix)));
    center.ask("POST", &format!("{at}/decline"), Some(json!({}))).await.problem(422);

    // Who did what is on record, without code and key.
    let audit = center.ask("GET", "/v1/audit?kind=request", None).await.good();
    let actions: Vec<&Value> =
        audit["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["request.approve", "request.fetch"]);
    let all = center.ask("GET", "/v1/audit?limit=1000", None).await.good().to_string();
    assert!(!all.contains(&first) && !all.contains(&made.key));

    // One that is declined says so, to who has its code.
    let second = code(&mut gate, "Somebody", "192.0.2.2").await;
    let listed = center.ask("GET", &format!("{REQUESTS}?state=pending"), None).await.good();
    let id = listed["requests"][0]["id"].as_str().unwrap().to_owned();
    center.ask("POST", &format!("{REQUESTS}/{id}/decline"), Some(json!({}))).await.good();
    assert_eq!(reason(gate.question("orders", "192.0.2.2", fetch(&second)).await), "declined");
    center.stop().await;
}

#[tokio::test]
async fn questions_have_bounds() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let token = center.token("gate", "orders").await;
    let mut gate = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let question = |who: String, what_for: String, per_day: u64| {
        Question::AskAccess(AskAccess { who, what_for, per_day })
    };
    let text = |n: usize| "x".repeat(n);
    for (n, (who, what_for, per_day, is_taken)) in [
        (text(200), text(500), 1_000_000_000, true),
        (text(201), text(1), 1, false),
        (text(1), text(501), 1, false),
        (text(1), text(1), 1_000_000_001, false),
        (text(1), text(1), 0, false),
        (String::new(), text(1), 1, false),
        (" \n".to_owned(), text(1), 1, false),
        ("a\u{1b}[31m".to_owned(), text(1), 1, false),
        ("a\u{202e}b".to_owned(), text(1), 1, false),
        (text(1), text(1), 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("198.51.100.{n}");
        let told = gate.question("orders", &address, question(who, what_for, per_day)).await;
        assert_eq!(matches!(told, Told::Asked(_)), is_taken, "{n}: {told:?}");
        if !is_taken {
            assert_eq!(reason(told), "invalid");
        }
    }
    assert_eq!(reason(gate.question("none", "", ask("a")).await), "invalid");
    assert_eq!(reason(gate.question("orders", &text(65), ask("a")).await), "invalid");
    // Ten an address a minute, for asking and for wrong codes; others go on.
    for (asks, others) in [(true, "203.0.113.2"), (false, "203.0.113.3")] {
        let one = |n: usize| if asks { ask(&format!("a{n}")) } else { fetch(&format!("kgr_{n}")) };
        let address = if asks { "203.0.113.1" } else { "203.0.113.4" };
        for n in 0..10 {
            let told = gate.question("orders", address, one(n)).await;
            assert!(reason(told.clone()) != "too-many", "{n}: {told:?}");
        }
        let told = gate.question("orders", address, one(10)).await;
        let Told::Refused(refused) = &told else { panic!("{told:?}") };
        assert!(refused.reason == "too-many" && refused.retry_after_s > 0, "{refused:?}");
        assert_ne!(reason(gate.question("orders", others, one(11)).await), "too-many");
    }
    center.stop().await;
}

/// Two that fetch at once: one gets the key.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_fetch_at_once_one_gets_the_key() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let token = center.token("gate", "orders").await;
    let mut one = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let mut two = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    for n in 0..10 {
        let code = code(&mut one, "a", &format!("198.51.100.{n}")).await;
        let listed = center.ask("GET", &format!("{REQUESTS}?state=pending"), None).await.good();
        let id = listed["requests"][0]["id"].as_str().unwrap().to_owned();
        let approval = json!({ "principal": format!("client::\"c{n}\"") });
        let path = format!("{REQUESTS}/{id}/approve");
        center.ask("POST", &path, Some(approval)).await.good();
        let (a, b) = tokio::join!(
            one.question("orders", "", fetch(&code)),
            two.question("orders", "", fetch(&code))
        );
        let keys = [&a, &b].iter().filter(|told| matches!(told, Told::Key(_))).count();
        assert_eq!(keys, 1, "{a:?} {b:?}");
    }
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 10);
    center.stop().await;
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A receiver that refuses the first message of each id; what it took, by id.
async fn receiver(seen: Arc<Mutex<Vec<(String, Value)>>>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tried = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let hook = axum::routing::post(move |headers: http::HeaderMap, body: bytes::Bytes| {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let signed = [format!("{id}.{at}.").as_bytes(), &body].concat();
        let wanted = hmac::sign(&key, &signed);
        let wanted = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(wanted.as_ref())
        };
        assert_eq!(header("webhook-signature"), format!("v1,{wanted}"));
        let is_first = tried.lock().unwrap().insert(id.clone());
        let status = if is_first {
            http::StatusCode::SERVICE_UNAVAILABLE
        } else {
            seen.lock().unwrap().push((id, serde_json::from_slice(&body).unwrap()));
            http::StatusCode::NO_CONTENT
        };
        std::future::ready(status)
    });
    let app = axum::Router::new().route("/hook", hook);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_webhook_is_told_of_each_request_until_it_takes_it() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let token = center.token("gate", "orders").await;
    center.stop().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let address = receiver(Arc::clone(&seen)).await;
    let with = |url: String, outbound: KeyAccess| {
        let mut config = config(&dir);
        config.webhook = Some(WebhookConfig { url, secret: SECRET.to_owned() });
        config.outbound = KeyAccess { asker: Asker::Center, ..outbound };
        config
    };
    let url = format!("http://{address}/hook");
    // This host must be named.
    let refused = keepgate_center::Center::start(with(url.clone(), KeyAccess::default())).await;
    let refused = crate::fixture::chain(&refused.err().unwrap());
    assert!(refused.contains("--outbound-allow"), "{refused}");
    let allowed = KeyAccess {
        allow: vec![format!("http://{address}").parse().unwrap()],
        ..KeyAccess::default()
    };
    // Nobody takes it: the caller gets its code all the same, and the message is told after the next start.
    let nowhere = "http://127.0.0.1:1/hook";
    let closed =
        KeyAccess { allow: vec!["http://127.0.0.1:1".parse().unwrap()], ..KeyAccess::default() };
    let center = Running::with(with(nowhere.to_owned(), closed)).await;
    let mut gate = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let first = code(&mut gate, "first", "").await;
    drop(gate);
    center.stop().await;
    let center = Running::with(with(url, allowed)).await;
    let mut gate = Mirror::follow(&center, &token, &["orders"]).await.unwrap();
    let second = code(&mut gate, "second", "192.0.2.1").await;
    patiently("both messages", async {
        while seen.lock().unwrap().len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let taken = seen.lock().unwrap().clone();
    let whos: std::collections::BTreeSet<&str> =
        taken.iter().map(|(_, body)| body["data"]["who"].as_str().unwrap()).collect();
    assert_eq!(whos, ["first", "second"].into());
    for (id, body) in &taken {
        assert_eq!((&body["type"], &body["data"]["id"]), (&json!("access.requested"), &json!(id)));
        let text = body.to_string();
        assert!(!text.contains(&first) && !text.contains(&second), "{text}");
    }
    center.stop().await;
    // What was taken is not told again.
    let center = Running::start(&dir).await;
    center.stop().await;
}
