//! Opaque tokens: asked about once, kept for a while, and not refused where there is no answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::certificates::Temp;
use super::identify::Signer;
use super::support::{Answer, Draft, Echo, TestGate, eventually, get, serve};

/// An introspection server: what it says of each token, and what it was asked.
#[derive(Clone, Default)]
struct Says {
    answers: Arc<Mutex<Vec<(String, Value)>>>,
    /// Told in place of an answer: a status and a body.
    instead: Arc<Mutex<Option<(u16, String)>>>,
    asked: Arc<AtomicU64>,
    /// Of the newest question.
    heard: Arc<Mutex<(String, String)>>,
    /// Answers wait for one of these, if there are any.
    gate: Arc<Mutex<Option<Arc<Semaphore>>>>,
}

impl Says {
    fn put(&self, token: &str, answer: Value) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| known != token);
        answers.push((token.to_owned(), answer));
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    async fn serve(&self) -> Echo {
        let this = self.clone();
        serve(move |request: Request<Incoming>| {
            let this = this.clone();
            async move {
                this.asked.fetch_add(1, Ordering::SeqCst);
                assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/i"));
                let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
                assert_eq!(kind, "application/x-www-form-urlencoded");
                let known = request.headers()["authorization"].to_str().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let form = String::from_utf8(body.to_vec()).unwrap();
                let token = form.strip_prefix("token=").unwrap().split('&').next().unwrap();
                let gate = this.gate.lock().unwrap().clone();
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
                let answers = this.answers.lock().unwrap();
                let found = answers.iter().find(|(known, _)| known == token);
                let answer = found.map_or(json!({"active": false}), |(_, answer)| answer.clone());
                let (status, body) = match this.instead.lock().unwrap().clone() {
                    Some(instead) => instead,
                    None => (200, answer.to_string()),
                };
                *this.heard.lock().unwrap() = (known, form.clone());
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            }
        })
        .await
    }
}

fn draft(url: &str, secret: &Temp, more: Value) -> Draft {
    let mut server = json!({
        "url": format!("{url}/i"), "client_id": "ga te", "client_secret_file": secret.0,
    });
    server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(json!({"introspection": [server]})).unwrap();
    draft
}

async fn shown(addr: SocketAddr, token: &str) -> Answer {
    get(addr, "/orders", &[("Authorization", &format!("Bearer {token}"))]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_means_what_the_server_says() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("s:cret\n"));
    let server = says.serve().await;
    says.put("good-1", json!({"active": true, "sub": "alice"}));
    says.put("bob-1", json!({"active": true, "sub": "bob"}));
    let gate = TestGate::start(&draft(&server.url, &secret, json!({})), &echo.url).await;
    for _ in 0..3 {
        let answer = shown(gate.addr, "good-1").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("keepgate-principal: user::\"alice\"\n"), "{answer:?}");
        shown(gate.addr, "bob-1").await.is_problem(403, "denied");
        let said = shown(gate.addr, "gone-1").await.is_problem(401, "unauthenticated");
        assert!(said["detail"].to_string().contains("not active"), "{said}");
    }
    assert_eq!(says.asked(), 3, "one question for each token");
    // `ga te` and `s:cret` as a form has them.
    let (known, form) = says.heard.lock().unwrap().clone();
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode("ga%20te:s%3Acret");
    assert_eq!(known, format!("Basic {basic}"));
    assert_eq!(form, "token=gone-1&token_type_hint=access_token");
    assert_eq!(gate.metric("keepgate_gate_introspections_total").await, 3.0);
    // Callers without a token are nobody, and a route for them needs no answer.
    get(gate.addr, "/orders", &[]).await.is_problem(401, "unauthenticated");
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    assert_eq!(says.asked(), 3);
    gate.stop().await;
}

/// A server that fails says nothing about the token.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_503_and_never_401() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let gate = TestGate::start(&draft(&server.url, &secret, json!({})), &echo.url).await;
    let large = format!("{{\"active\":true,\"sub\":\"alice\",\"x\":\"{}\"}}", "x".repeat(65_536));
    for (status, body) in [
        (500, "{\"active\":false}"),
        (401, "{\"active\":false}"),
        (403, "{}"),
        (404, ""),
        (302, ""),
        (200, ""),
        (200, "no JSON"),
        (200, "[]"),
        (200, "{}"),
        (200, "{\"active\":\"true\"}"),
        (200, "{\"active\":true,\"active\":false,\"sub\":\"alice\"}"),
        (200, large.as_str()),
    ] {
        *says.instead.lock().unwrap() = Some((status, body.to_owned()));
        let answer = shown(gate.addr, "alice-1").await;
        let said = answer.is_problem(503, "no-identity");
        assert_eq!(said["reason"], "introspection", "{status} {}", &body[..body.len().min(60)]);
    }
    *says.instead.lock().unwrap() = None;
    says.put("alice-1", json!({"active": true, "sub": "alice"}));
    assert_eq!(shown(gate.addr, "alice-1").await.status, 200, "nothing of it was kept");
    gate.stop().await;
    // Nobody is there; a place that is not to be asked; a secret that is not there.
    let nobody = draft("http://127.0.0.1:9", &secret, json!({}));
    let gone = Temp::new("x");
    let lost = draft(&server.url, &gone, json!({}));
    drop(gone);
    for (draft, change) in
        [(nobody, true), (draft(&server.url, &secret, json!({})), false), (lost, true)]
    {
        let gate =
            TestGate::with(&draft, &echo.url, |config| config.key_access.local = change).await;
        shown(gate.addr, "alice-1").await.is_problem(503, "no-identity");
        gate.stop().await;
    }
}

/// Many requests with one token, on all workers: one question. And one connection for all questions.
#[tokio::test(flavor = "multi_thread")]
async fn one_flight_a_token_over_connections_that_are_kept() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let gate = TestGate::start(&draft(&server.url, &secret, json!({})), &echo.url).await;
    says.put("alice-1", json!({"active": true, "sub": "alice"}));
    let held = Arc::new(Semaphore::new(0));
    *says.gate.lock().unwrap() = Some(Arc::clone(&held));
    let addr = gate.addr;
    let all: Vec<_> =
        (0..40).map(|_| tokio::spawn(async move { shown(addr, "alice-1").await.status })).collect();
    eventually("it was asked", || async { says.asked() == 1 }).await;
    held.add_permits(1);
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(says.asked(), 1);
    *says.gate.lock().unwrap() = None;
    for n in 0..20 {
        says.put(&format!("t{n}"), json!({"active": true, "sub": "alice"}));
        assert_eq!(shown(addr, &format!("t{n}")).await.status, 200);
    }
    assert_eq!(says.asked(), 21);
    gate.stop().await;
}

/// More questions than there may be at once are 503 for those who are too many.
#[tokio::test(flavor = "multi_thread")]
async fn flights_are_bounded() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let gate = TestGate::start(&draft(&server.url, &secret, json!({})), &echo.url).await;
    let held = Arc::new(Semaphore::new(0));
    *says.gate.lock().unwrap() = Some(Arc::clone(&held));
    let addr = gate.addr;
    let flights = keepgate_gate::identify::introspection::FLIGHTS;
    let all: Vec<_> = (0..flights)
        .map(|n| tokio::spawn(async move { shown(addr, &format!("t{n}")).await.status }))
        .collect();
    let begun = "keepgate_gate_introspections_total";
    eventually("all wait", || async { gate.metric(begun).await == flights as f64 }).await;
    shown(addr, "one-more").await.is_problem(503, "no-identity");
    held.add_permits(10 * flights);
    let statuses: BTreeSet<u16> = {
        let mut statuses = BTreeSet::new();
        for one in all {
            statuses.insert(one.await.unwrap());
        }
        statuses
    };
    assert_eq!(statuses, BTreeSet::from([401]), "not active, each of them");
    shown(addr, "one-more").await.is_problem(401, "unauthenticated");
    gate.stop().await;
}

/// What was permitted or routed when the request came does not count after the wait.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_wait_the_newest_world_decides_and_nothing_is_charged_twice() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let mut draft = draft(&server.url, &secret, json!({}));
    draft.limits.push(json!({"name": "few", "key": "address", "rate": "1/h", "burst": 3}));
    let gate = TestGate::start(&draft, &echo.url).await;
    says.put("alice-1", json!({"active": true, "sub": "alice"}));
    says.put("alice-2", json!({"active": true, "sub": "alice"}));
    let held = Arc::new(Semaphore::new(0));
    *says.gate.lock().unwrap() = Some(Arc::clone(&held));
    let addr = gate.addr;
    let waiting = tokio::spawn(async move { shown(addr, "alice-1").await });
    eventually("it was asked", || async { says.asked() == 1 }).await;
    let permitted = draft.policies.clone();
    draft.policies.retain(|(id, _)| id != "alice");
    draft.revision += 1;
    gate.source.replace(draft.world());
    held.add_permits(9);
    waiting.await.unwrap().is_problem(403, "denied");
    draft.policies = permitted;
    draft.revision += 1;
    gate.source.replace(draft.world());
    // Of the three tokens of the address one is gone.
    assert_eq!(shown(addr, "alice-2").await.status, 200);
    assert_eq!(shown(addr, "alice-2").await.status, 200);
    assert_eq!(shown(addr, "alice-2").await.status, 429);
    gate.stop().await;
}

/// A JWT of an issuer of the service is verified here and not asked about; all else is.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_known_issuer_are_not_asked_about() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let key = "a secret of 32 bytes or more, for HS256";
    let file = Temp::new(key);
    let mut draft = draft(&server.url, &secret, json!({}));
    let jwt = json!([{"issuer": "i", "audience": "a", "secret_file": file.0}]);
    draft.settings.identify.jwt = serde_json::from_value(jwt).unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;
    let exp = keepgate_observe::unix_s() + 600;
    let token = |key: &str, issuer: &str| {
        let signer = Signer::Hmac(key.as_bytes().to_vec());
        signer.token("", &json!({"iss": issuer, "aud": "a", "sub": "alice", "exp": exp}))
    };
    let (own, forged, foreign) = (token(key, "i"), token("another", "i"), token(key, "j"));
    for token in [&forged, &foreign] {
        says.put(token, json!({"active": true, "sub": "alice"}));
    }
    assert_eq!(shown(gate.addr, &own).await.status, 200);
    shown(gate.addr, &forged).await.is_problem(401, "unauthenticated");
    assert_eq!(says.asked(), 0);
    assert_eq!(shown(gate.addr, &foreign).await.status, 200);
    assert_eq!(says.asked(), 1);
    gate.stop().await;
}

/// An answer is used for as long as its token lasts, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_with_its_token() {
    let (echo, says, secret) = (Echo::start().await, Says::default(), Temp::new("secret"));
    let server = says.serve().await;
    let gate = TestGate::start(&draft(&server.url, &secret, json!({})), &echo.url).await;
    let exp = keepgate_observe::unix_s() + 3;
    says.put("alice-1", json!({"active": true, "sub": "alice", "exp": exp}));
    assert_eq!(shown(gate.addr, "alice-1").await.status, 200);
    eventually("it ends", || async { shown(gate.addr, "alice-1").await.status == 401 }).await;
    assert!(keepgate_observe::unix_s() >= exp);
    gate.stop().await;
}
