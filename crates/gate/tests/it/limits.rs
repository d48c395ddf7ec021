//! Limits at the gate: who is refused, what they are told, and who does not notice.
//!
//! What a rule admits is exact, so each test bounds it by its own timestamps around the gate's:
//! however slow the machine is, the bounds hold.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keepgate_limit::rules::{Defaults, Dialect};
use keepgate_policy::model::KeyBody;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, ask, connect, eventually, get, serve, uid,
};

const ALICE: (&str, &str) = ("x-user", "alice");

/// The orders service with these rules and, unless said otherwise, no default ones.
pub(crate) fn limited(rules: Value) -> Draft {
    let mut draft = Draft::orders();
    let Value::Array(rules) = rules else { panic!("a list") };
    draft.limits = rules;
    draft.policies.push(("all".to_owned(), "permit (principal, action, resource);".to_owned()));
    draft
}

fn by_default() -> Draft {
    let mut draft = limited(json!([]));
    draft.settings.limits.default = Defaults::On;
    draft
}

/// Everybody on loopback may say who it speaks for.
pub(crate) fn behind_a_proxy(config: &mut keepgate_gate::GateConfig) {
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()].into();
}

/// A connection that is kept.
pub(crate) struct Line(SendRequest<Full<Bytes>>);

impl Line {
    pub(crate) async fn to(addr: SocketAddr) -> Line {
        let io = TokioIo::new(connect(addr).await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Line(sender)
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "a.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = async {
            self.0.ready().await.unwrap();
            let response = self.0.send_request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
            let headers = parts.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Answer { status: parts.status.as_u16(), headers, body }
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer")
    }

    /// Asks until it is refused by a limit, and at most until patience ends; with all others.
    async fn until_limited(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (Vec<Answer>, Answer) {
        let (mut before, end) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            let answer = self.ask(method, path, headers).await;
            if answer.status == 429 {
                return (before, answer);
            }
            before.push(answer);
            assert!(Instant::now() < end, "{} requests and no limit", before.len());
        }
    }
}

/// `"name";r=1;t=2, ..` as names with parameters.
fn list(field: &str) -> Vec<(String, Vec<(String, u64)>)> {
    let item = |item: &str| {
        let (name, parameters) = item.split_once(';').unwrap();
        let name = name.strip_prefix('"').unwrap().strip_suffix('"').unwrap().to_owned();
        let numbers = parameters.split(';').filter_map(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap();
            (key != "qu").then(|| (key.to_owned(), value.parse().unwrap()))
        });
        (name, numbers.collect())
    };
    field.split(", ").map(item).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawler_gets_its_share_and_nobody_else_notices() {
    const RATE: f64 = 5.0;
    const BURST: f64 = 5.0;
    let echo = Echo::start().await;
    let draft = limited(json!([{"name": "each", "key": "principal", "rate": "5/s"}]));
    let gate = TestGate::start(&draft, &echo.url).await;

    let addr = gate.addr;
    let others = tokio::spawn(async move {
        let mut line = Line::to(addr).await;
        let mut answers = Vec::new();
        // Each at most its burst, in all: never over its limit, however fast this loop is.
        for _ in 0..5 {
            for user in 0..100 {
                let user = format!("u{user}");
                answers.push(line.ask("GET", "/orders", &[("x-user", &user)]).await.status);
            }
        }
        answers
    });

    let crawler = [("x-user", "crawler")];
    let mut line = Line::to(gate.addr).await;
    let (mut admitted, mut asked) = (0.0, 0.0);
    let begun = Instant::now();
    let mut first_answer = None;
    let mut last_refused_sent = begun;
    loop {
        let sent = Instant::now();
        let answer = line.ask("GET", &format!("/orders/{asked}"), &crawler).await;
        first_answer.get_or_insert_with(Instant::now);
        asked += 1.0;
        match answer.status {
            200 => admitted += 1.0,
            429 => last_refused_sent = sent,
            _ => panic!("{answer:?}"),
        }
        let elapsed = begun.elapsed().as_secs_f64();
        if answer.status == 429 && elapsed >= 3.0 && asked >= 50.0 * RATE * elapsed {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{asked} requests, {admitted} admitted");
    }
    let most = BURST + RATE * begun.elapsed().as_secs_f64();
    // When the last was refused, less than one token was there.
    let least_time = last_refused_sent.saturating_duration_since(first_answer.unwrap());
    let least = BURST + RATE * least_time.as_secs_f64() - 1.0;
    assert!((least..=most).contains(&admitted), "{admitted} of {asked}, not {least}..{most}");
    // What the bounds leave open is the test's own delay, not the gate's.
    eprintln!("crawler: {admitted} of {asked} admitted, ideal {least:.1} to {most:.1}");

    let others = tokio::time::timeout(PATIENCE, others).await.unwrap().unwrap();
    assert_eq!(others, vec![200; 500]);
    let refused =
        gate.metric("keepgate_gate_limited_total{phase=\"limit_principal\",shadow=\"false\"}");
    assert_eq!(refused.await, asked - admitted);

    let top = get(gate.admin, "/top", &[]).await;
    let top = top.json();
    assert_eq!(top["service"], "orders");
    assert_eq!(top["requests"], json!(asked as u64 + 500));
    assert_eq!(top["refused"], json!((asked - admitted) as u64));
    let first = &top["principals"][0];
    assert_eq!(first["name"], "user::\"crawler\"");
    assert_eq!(first["requests"], json!(asked as u64));
    assert_eq!(first["methods"], json!(["GET"]));
    assert_eq!(first["routes"][0][0], "/orders/{id}");
    let crawl = &top["crawls"][0];
    assert_eq!((&crawl["name"], &crawl["route"]), (&first["name"], &first["routes"][0][0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_limited_by_default() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&by_default(), &echo.url, behind_a_proxy).await;
    for (method, path, user, from) in [
        ("GET", "/orders", "alice", "192.0.2.1"),
        ("POST", "/orders", "bob", "192.0.2.2"),
        ("DELETE", "/orders/7", "carol", "192.0.2.3"),
    ] {
        let mut line = Line::to(gate.addr).await;
        let begun = Instant::now();
        let caller = [("x-user", user), ("x-forwarded-for", from)];
        let (before, refused) = line.until_limited(method, path, &caller).await;
        let told = refused.is_problem(429, "quota-exceeded");
        assert_eq!(told["violated-policies"], json!(["default-principal"]), "{method}: {told}");
        let most = 100.0 + 20.0 * begun.elapsed().as_secs_f64();
        let admitted = before.len();
        assert!(admitted >= 100 && admitted as f64 <= most, "{method}: {admitted} of {most}");
        assert!(before.iter().all(|answer| answer.status == 200));
    }
    // Many principals of one address share what the address has; so do routes that are not there.
    let mut line = Line::to(gate.addr).await;
    let from = [("x-forwarded-for", "192.0.2.4")];
    let (before, refused) = line.until_limited("GET", "/not-there", &from).await;
    assert!(before.len() >= 200 && before.iter().all(|answer| answer.status == 404));
    let told = refused.is_problem(429, "quota-exceeded");
    assert_eq!(told["violated-policies"], json!(["default-address"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_in_fields() {
    let echo = Echo::start().await;
    let mut draft = limited(json!([
        {"name": "address", "key": "address", "rate": "50/min"},
        {"name": "each", "key": "principal", "rate": "2/h", "concurrency": 3},
    ]));
    draft.settings.help = Some("https://example.org/api".to_owned());
    let gate = TestGate::start(&draft, &echo.url).await;

    let answer = get(gate.addr, "/orders", &[ALICE]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers["ratelimit-policy"],
        "\"address\";q=50;w=60, \"each/concurrency\";q=3;qu=\"concurrent-requests\", \
         \"each\";q=2;w=3600"
    );
    let told = list(&answer.headers["ratelimit"]);
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["address", "each/concurrency", "each"]);
    let remaining: Vec<u64> = told.iter().map(|(_, parameters)| parameters[0].1).collect();
    assert_eq!(remaining, [49, 2, 1]);
    assert!(!answer.headers.contains_key("retry-after"));

    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    let refused = get(gate.addr, "/orders", &[ALICE]).await;
    let problem = refused.is_problem(429, "quota-exceeded");
    assert_eq!(problem["violated-policies"], json!(["each"]));
    assert_eq!(problem["help"], "https://example.org/api");
    assert!(problem["detail"].as_str().unwrap().contains("how to get a key"), "{problem}");
    assert_eq!(refused.headers["link"], "<https://example.org/api>; rel=\"help\"");
    let wait: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=1800).contains(&wait), "{wait}");
    let told = list(&refused.headers["ratelimit"]);
    let each = &told.iter().find(|(name, _)| name == "each").unwrap().1;
    assert_eq!(each.as_slice(), [("r".to_owned(), 0), ("t".to_owned(), wait)]);

    for (revision, headers) in [(2, Dialect::XRateLimit), (3, Dialect::Off)] {
        draft.settings.limits.headers = headers;
        draft.revision = revision;
        gate.source.replace(draft.world());
        let refused = get(gate.addr, "/orders", &[ALICE]).await;
        refused.is_problem(429, "quota-exceeded");
        assert!(!refused.headers.contains_key("ratelimit"), "{refused:?}");
        let old = refused.headers.get("x-ratelimit-remaining").map(String::as_str);
        assert_eq!(old, (headers == Dialect::XRateLimit).then_some("0"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_limited_before_any_cryptography() {
    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";
    let echo = Echo::start().await;
    let file = std::env::temp_dir().join(format!("keepgate-limits-{}", std::process::id()));
    std::fs::write(&file, SECRET).unwrap();
    let rule = json!([{"name": "address", "key": "address", "rate": "1/min", "burst": 5}]);
    let mut draft = limited(rule);
    let jwt = json!({"issuer": "me", "audience": "orders", "secret_file": file});
    draft.settings.identify = serde_json::from_value(json!({"jwt": [jwt]})).unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;

    let bad = [("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJtZSJ9.AAAA")];
    let mut line = Line::to(gate.addr).await;
    let begun = Instant::now();
    let (before, refused) = line.until_limited("GET", "/orders", &bad).await;
    let most = 5.0 + begun.elapsed().as_secs_f64() / 60.0;
    assert!(before.len() >= 5 && before.len() as f64 <= most, "{} of {most}", before.len());
    before.iter().for_each(|answer| {
        answer.is_problem(401, "unauthenticated");
    });
    refused.is_problem(429, "quota-exceeded");
    let at = "keepgate_gate_requests_total{outcome=\"quota-exceeded\",phase=\"limit_address\",\
              status=\"429\"}";
    assert_eq!(gate.metric(at).await, 1.0);
    gate.stop().await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_taken_until_the_body_has_ended() {
    let (begin, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let parts = Arc::new(Mutex::new(None));
    let echo = serve({
        let (begin, seen, parts) = (Arc::clone(&begin), Arc::clone(&seen), Arc::clone(&parts));
        move |_| {
            let (begin, seen, parts) = (Arc::clone(&begin), Arc::clone(&seen), Arc::clone(&parts));
            async move {
                let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
                *parts.lock().unwrap() = Some(sender);
                seen.notify_one();
                begin.notified().await;
                let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
                    receiver.recv().await.map(|part| (part, receiver))
                });
                let frames = stream.map(|part| Ok::<_, Infallible>(Frame::data(part)));
                Response::new(StreamBody::new(Box::pin(frames)))
            }
        }
    })
    .await;
    let rule = json!([{"name": "one", "key": "principal", "concurrency": 1}]);
    let gate = TestGate::start(&limited(rule), &echo.url).await;
    let addr = gate.addr;
    let first = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await.status });
    tokio::time::timeout(PATIENCE, seen.notified()).await.unwrap();

    // It waits for its head; then its head is here, and its body is not at its end.
    let told = get(gate.addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");
    assert_eq!(told["violated-policies"], json!(["one"]));
    let sender = parts.lock().unwrap().take().unwrap();
    sender.send(Bytes::from_static(b"a part")).unwrap();
    begin.notify_one();
    eventually("the head has passed", async || {
        let forwarded = "keepgate_gate_requests_total{outcome=\"forwarded\",phase=\"forward\",\
                         status=\"2xx\"}";
        gate.metric(forwarded).await == 1.0
    })
    .await;
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");

    drop(sender);
    assert_eq!(tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap(), 200);
    // The place is free once the gate has dropped the body, which may be a moment later.
    eventually("the place is free", async || {
        begin.notify_one();
        let second = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await.status });
        while !second.is_finished() {
            drop(parts.lock().unwrap().take());
            tokio::task::yield_now().await;
        }
        second.await.unwrap() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_rules_keeps_the_states_of_the_others() {
    let echo = Echo::start().await;
    let mut draft = limited(json!([{"name": "each", "key": "principal", "rate": "3/h"}]));
    let gate = TestGate::start(&draft, &echo.url).await;
    for _ in 0..3 {
        assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    }
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");

    // Another rule comes.
    draft.limits.push(json!({"name": "address", "key": "address", "rate": "1000/s"}));
    draft.revision = 2;
    gate.source.replace(draft.world());
    let refused = get(gate.addr, "/orders", &[ALICE]).await;
    refused.is_problem(429, "quota-exceeded");
    assert!(refused.headers["ratelimit-policy"].contains("\"address\";q=1000;w=1"));

    // This one itself changes.
    draft.limits[0]["rate"] = json!("4/h");
    draft.revision = 3;
    gate.source.replace(draft.world());
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_limits_leave_those_before_them_in_force() {
    let broken = json!({"name": "nothing", "key": "principal"});
    let echo = Echo::start().await;
    // None before them: the default ones, although they are switched off.
    let mut draft = limited(json!([broken]));
    let gate = TestGate::start(&draft, &echo.url).await;
    let answer = get(gate.addr, "/orders", &[ALICE]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers["ratelimit-policy"].contains("\"default-address\""), "{answer:?}");
    assert_eq!(gate.metric("keepgate_gate_limits_broken").await, 1.0);

    draft.limits = vec![json!({"name": "each", "key": "principal", "rate": "1/h"})];
    draft.revision = 2;
    gate.source.replace(draft.world());
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");
    assert_eq!(gate.metric("keepgate_gate_limits_broken").await, 0.0);

    let of_no_plan = json!({"name": "p", "key": "api_key", "plan": "missing", "rate": "1/h"});
    for (revision, rule) in [(3, broken), (4, of_no_plan)] {
        draft.limits = vec![rule];
        draft.revision = revision;
        gate.source.replace(draft.world());
        get(gate.addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");
        assert_eq!(gate.metric("keepgate_gate_limits_broken").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_in_shadow_mode_only_counts() {
    let echo = Echo::start().await;
    let rule = json!([{"name": "each", "key": "principal", "rate": "1/h", "shadow": true}]);
    let gate = TestGate::start(&limited(rule), &echo.url).await;
    for _ in 0..3 {
        let answer = get(gate.addr, "/orders", &[ALICE]).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.headers.contains_key("ratelimit"), "{answer:?}");
    }
    let count = |shadow: &str| {
        format!("keepgate_gate_limited_total{{phase=\"limit_principal\",shadow=\"{shadow}\"}}")
    };
    assert_eq!(gate.metric(&count("true")).await, 2.0);
    assert_eq!(gate.metric(&count("false")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_plans_and_routes_have_costs() {
    let echo = Echo::start().await;
    let mut draft = by_default();
    draft.settings.help = Some("https://example.org/api".to_owned());
    draft.settings.identify = serde_json::from_value(json!({"api_key": {}})).unwrap();
    draft.routes.iter_mut().find(|r| r.path == "/orders/secret").unwrap().cost = Some(40);
    draft.routes.iter_mut().find(|r| r.path == "/orders" && r.method == "POST").unwrap().cost =
        Some(5000);
    let key = |prefix: &str, plan: &str| KeyBody {
        prefix: prefix.to_owned(),
        sha256: Sha256::digest(format!("kgk_{prefix}_s"))
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
        principal: uid("client", "crawler"),
        plan: plan.to_owned(),
        expires_unix_s: None,
        note: String::new(),
    };
    draft.keys = vec![key("bulk", "bulk"), key("none", "")];
    draft.limits = vec![json!({"name": "address", "key": "address", "rate": "100000/s"})];
    draft.plans = vec![json!({
        "name": "bulk",
        "rule": [{"name": "bulk", "key": "api_key", "rate": "1000/h"}],
    })];
    let gate = TestGate::start(&draft, &echo.url).await;
    let last = |answer: &Answer| list(&answer.headers["ratelimit"]).pop().unwrap();

    let bulk = [("x-api-key", "kgk_bulk_s")];
    let answer = get(gate.addr, "/orders", &bulk).await;
    assert_eq!((last(&answer).0.as_str(), last(&answer).1[0].1), ("bulk", 999), "{answer:?}");
    // It costs 40; and more than a burst is the whole burst, of which too little is left.
    let answer = get(gate.addr, "/orders/secret", &bulk).await;
    assert_eq!(answer.status, 403);
    assert_eq!(last(&answer).1[0].1, 959);
    let refused = ask(gate.addr, "POST", "/orders", &bulk, "x").await;
    let told = refused.is_problem(429, "quota-exceeded");
    assert_eq!(told["violated-policies"], json!(["bulk"]));
    assert!(!told["detail"].as_str().unwrap().contains("how to get a key"), "{told}");

    let answer = get(gate.addr, "/orders", &[("x-api-key", "kgk_none_s")]).await;
    assert_eq!(last(&answer).0, "default-principal", "{answer:?}");
}
