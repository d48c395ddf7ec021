//! AuthZEN at the gate, in process: the bodies and statuses of the center's endpoints.

use std::time::Duration;

use serde_json::{Value, json};

use super::{both, listening};
use crate::support::{Answer, Draft, Echo, SERVICE, TestGate, ask, get};

const ONE: &str = "/access/v1/evaluation";
const MANY: &str = "/access/v1/evaluations";
const JSON: (&str, &str) = ("content-type", "application/json");

fn question(user: &str, path: &str) -> Value {
    json!({
        "subject": {"type": "user", "id": user},
        "action": {"name": "GET"},
        "resource": {"type": "route", "id": path},
    })
}

async fn post(gate: &TestGate, path: &str, body: &Value) -> Answer {
    ask(gate.check.unwrap(), "POST", path, &[JSON], &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluations() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    for (body, expected) in [
        (question("alice", "/orders"), json!({"decision": true})),
        (
            question("bob", "/orders"),
            json!({"decision": false, "context": {"reason": "no_permit"}}),
        ),
        (
            question("alice", "/orders/secret"),
            json!({"decision": false, "context": {"reason": "forbid"}}),
        ),
    ] {
        for path in [ONE, "/s/orders/access/v1/evaluation", MANY] {
            let answer = post(&gate, path, &body).await;
            assert_eq!((answer.status, answer.json()), (200, expected.clone()), "{path}");
            assert_eq!(answer.headers["content-type"], "application/json");
        }
    }
    let mut batch = question("alice", "/orders");
    batch["evaluations"] = json!([
        {},
        {"resource": {"type": "route", "id": "/orders/secret"}},
        {"subject": {"type": "user"}},
        {"subject": {"type": "user", "id": "bob"}},
    ]);
    let all = post(&gate, MANY, &batch).await.json()["evaluations"].clone();
    let decisions: Vec<&Value> = all.as_array().unwrap().iter().map(|a| &a["decision"]).collect();
    assert_eq!(decisions, [true, false, false, false]);
    assert_eq!(all[2]["context"]["error"]["status"], 400);
    batch["options"] = json!({"evaluations_semantic": "deny_on_first_deny"});
    let short = post(&gate, MANY, &batch).await.json();
    assert_eq!(short["evaluations"].as_array().unwrap().len(), 2);
    let line = "keepgate_gate_checks_total{hook=\"authzen\",outcome=\"denied\"}";
    // Six alone, three and then one more in the batches.
    assert_eq!(gate.metric(line).await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_request_ids() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let base = "http://a.example";
    for (path, of) in [("", String::new()), ("/s/orders", "/s/orders".to_owned())] {
        let answer = get(check, &format!("/.well-known/authzen-configuration{path}"), &[]).await;
        let expected = json!({
            "policy_decision_point": format!("{base}{of}"),
            "access_evaluation_endpoint": format!("{base}{of}{ONE}"),
            "access_evaluations_endpoint": format!("{base}{of}{MANY}"),
        });
        assert_eq!((answer.status, answer.json()), (200, expected));
    }
    for (body, status) in [("{}", 400), (&*question("alice", "/orders").to_string(), 200)] {
        let headers = [JSON, ("x-request-id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")];
        let answer = ask(check, "POST", ONE, &headers, body).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["x-request-id"], headers[1].1, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let body = question("alice", "/orders").to_string();
    for (method, path, headers, body, status) in [
        ("GET", ONE, &[][..], "", 405),
        ("POST", "/.well-known/authzen-configuration", &[JSON], &*body, 405),
        ("POST", ONE, &[("content-type", "text/plain")], &body, 400),
        ("POST", ONE, &[JSON], "[]", 400),
        ("POST", ONE, &[JSON], "{\"subject\": {}, \"subject\": {}}", 400),
        ("POST", MANY, &[JSON], "{\"evaluations\": {}}", 400),
        ("POST", "/s/nobody/access/v1/evaluation", &[JSON], &body, 404),
        ("GET", "/.well-known/authzen-configuration/s/nobody", &[], "", 404),
        ("POST", "/access/v1/search/subject", &[JSON], &body, 404),
    ] {
        let answer = ask(check, method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    // At the bound, and beyond it.
    let padded = |bytes: usize| {
        let mut body = body.clone();
        body.push_str(&" ".repeat(bytes - body.len()));
        body
    };
    for (bytes, status) in [(4 << 20, 200), ((4 << 20) + 1, 413)] {
        let answer = ask(check, "POST", ONE, &[JSON], &padded(bytes)).await;
        assert_eq!(answer.status, status);
    }
}

/// A replica that is too old, or not there, answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn no_decision() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.max_age_ms = 1_000;
    let gate = both(&draft, &echo.url).await;
    let body = question("alice", "/orders");
    assert_eq!(post(&gate, ONE, &body).await.status, 200);
    gate.source.set_age(Some(Duration::from_secs(2)));
    for path in [ONE, MANY] {
        let problem = post(&gate, path, &body).await.is_problem(503, "no-decision");
        assert_eq!(problem["reason"], "stale");
    }
    let source = std::sync::Arc::new(keepgate_gate::FixedSource::default());
    let empty = TestGate::on(source, &echo.url, listening).await;
    let problem = post(&empty, ONE, &body).await.is_problem(503, "no-decision");
    assert_eq!(problem["reason"], "no_replica");
}

/// Of a gate with one service it is that one, unless it says no.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_says_no() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.authzen = keepgate_policy::service::Authzen::No;
    let gate = both(&draft, &echo.url).await;
    let body = question("alice", "/orders");
    post(&gate, ONE, &body).await.is_problem(404, "no-route");
    assert_eq!(post(&gate, &format!("/s/{SERVICE}{ONE}"), &body).await.status, 200);
}
