//! 401, 403, 404 and 503: each for its reason, and 403 for nothing but a denial.

use std::sync::Arc;
use std::time::Duration;

use keepgate_gate::FixedSource;
use keepgate_policy::service::Unmatched;

use super::support::{Draft, Echo, PATIENCE, TestGate, ask, eventually, get, route};

const ALICE: (&str, &str) = ("x-user", "alice");
const BOB: (&str, &str) = ("x-user", "bob");

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;

    let answer = get(gate.addr, "/orders/7", &[ALICE]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("GET /orders/7\n"), "{answer:?}");
    assert!(answer.body.contains("keepgate-principal: user::\"alice\"\n"), "{answer:?}");

    let denied = get(gate.addr, "/orders/7", &[BOB]).await.is_problem(403, "denied");
    assert_eq!(denied["reason"], "no_permit");
    let denied = get(gate.addr, "/orders/secret", &[ALICE]).await.is_problem(403, "denied");
    assert_eq!(denied["reason"], "forbid");
    assert!(!denied.to_string().contains("secret"), "no policy in: {denied}");

    get(gate.addr, "/orders/7", &[]).await.is_problem(401, "unauthenticated");
    get(gate.addr, "/nothing", &[ALICE]).await.is_problem(404, "no-route");
    ask(gate.addr, "DELETE", "/orders", &[ALICE], "").await.is_problem(405, "method-not-allowed");

    let answer = get(gate.addr, "/public", &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("keepgate-principal: user::\"anonymous\"\n"), "{answer:?}");
    assert!(get(gate.addr, "/public", &[BOB]).await.body.contains("user::\"bob\""));

    for (outcome, decisions) in [("allowed", 3.0), ("denied", 2.0)] {
        let line =
            format!(r#"keepgate_gate_decision_seconds_count{{site="*",outcome="{outcome}"}}"#);
        assert_eq!(gate.metric(&line).await, decisions, "{outcome}");
    }
    let denied = r#"keepgate_gate_requests_total{outcome="denied",phase="decide",status="403"}"#;
    assert_eq!(gate.metric(denied).await, 2.0);
    let forwarded =
        r#"keepgate_gate_requests_total{outcome="forwarded",phase="forward",status="2xx"}"#;
    assert_eq!(gate.metric(forwarded).await, 3.0);
    assert_eq!(gate.metric("keepgate_gate_replica_revision").await, 1.0);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unmatched_requests_can_be_decided_on() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.unmatched = Unmatched::Forward;
    draft.policies.push((
        "root".to_owned(),
        "permit (principal == user::\"alice\", action == Action::\"GET\", \
         resource == route::\"/\");"
            .to_owned(),
    ));
    let gate = TestGate::start(&draft, &echo.url).await;
    assert_eq!(get(gate.addr, "/nothing", &[ALICE]).await.status, 200);
    get(gate.addr, "/nothing", &[BOB]).await.is_problem(403, "denied");
    ask(gate.addr, "POST", "/nothing", &[ALICE], "").await.is_problem(403, "denied");
    get(gate.addr, "/nothing", &[]).await.is_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_its_own_action_and_resource() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let mut own = route("GET", "/records/{id}");
    own.action = Some("read".to_owned());
    own.resource =
        serde_json::from_value(serde_json::json!({"type": "record", "param": "id"})).unwrap();
    draft.routes.push(own);
    draft.policies.push((
        "records".to_owned(),
        "permit (principal, action == Action::\"read\", resource == record::\"r 1\") \
         when { context.method == \"GET\" && context.path == \"/records/r%201\" \
                && context.ip == \"127.0.0.1\" };"
            .to_owned(),
    ));
    let gate = TestGate::start(&draft, &echo.url).await;
    assert_eq!(get(gate.addr, "/records/r%201", &[BOB]).await.status, 200);
    get(gate.addr, "/records/r2", &[BOB]).await.is_problem(403, "denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_decision_it_is_503() {
    let echo = Echo::start().await;
    let source = Arc::new(FixedSource::default());
    let gate = TestGate::on(Arc::clone(&source), &echo.url, |config| {
        config.bounds.revision_wait = Duration::from_millis(50);
    })
    .await;
    let reason = |json: serde_json::Value| json["reason"].as_str().unwrap().to_owned();
    let no_decision = async |headers: &[(&str, &str)]| {
        reason(get(gate.addr, "/orders", headers).await.is_problem(503, "no-decision"))
    };
    assert_eq!(no_decision(&[ALICE]).await, "no_replica");
    assert_eq!(get(gate.admin, "/readyz", &[]).await.status, 503);
    assert_eq!(get(gate.admin, "/healthz", &[]).await.status, 200);

    let mut draft = Draft::orders();
    source.replace(draft.world());
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    assert_eq!(get(gate.admin, "/readyz", &[]).await.status, 200);

    // Too old: 503, not 403, for those who would be denied too.
    source.set_age(Duration::from_secs(3601));
    assert_eq!(no_decision(&[ALICE]).await, "stale");
    assert_eq!(no_decision(&[BOB]).await, "stale");
    source.set_age(Duration::from_secs(3599));
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);

    // An age that nobody knows is no age: not ready, too.
    source.set_age(None);
    assert_eq!(no_decision(&[ALICE]).await, "age_unknown");
    let ready = get(gate.admin, "/readyz", &[]).await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("how old"), "{}", ready.body);
    source.set_age(Duration::ZERO);
    assert_eq!(get(gate.admin, "/readyz", &[]).await.status, 200);

    // A revision that is not here yet.
    let asked = [ALICE, ("Keepgate-Min-Revision", "2")];
    assert_eq!(no_decision(&asked).await, "behind");
    draft.revision = 2;
    source.replace(draft.world());
    assert_eq!(get(gate.addr, "/orders", &asked).await.status, 200);

    // A world without the service.
    let empty = keepgate_policy::World::from_snapshot(&keepgate_policy::Snapshot::default());
    source.replace(empty.unwrap());
    assert_eq!(no_decision(&[ALICE]).await, "no_service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_revision_it_asks_for() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.bounds.revision_wait = PATIENCE;
    })
    .await;
    let addr = gate.addr;
    let asked =
        tokio::spawn(
            async move { get(addr, "/orders", &[BOB, ("Keepgate-Min-Revision", "2")]).await },
        );
    draft.revision = 2;
    draft.policies.push((
        "bob".to_owned(),
        "permit (principal == user::\"bob\", action, resource in route::\"/orders\");".to_owned(),
    ));
    gate.source.replace(draft.world());
    assert_eq!(asked.await.unwrap().status, 200);
}

/// The wait comes after the limits: whoever asks for what will never come is limited like all.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_revision_is_limited_and_bounded() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.limits = vec![serde_json::json!(
        {"name": "each", "key": "address", "rate": "1/h", "burst": 5}
    )];
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.bounds.revision_wait = PATIENCE;
        config.bounds.revision_waiters = 2;
    })
    .await;
    let addr = gate.addr;
    // Far beyond all that the center has told of: at once.
    let never = [ALICE, ("Keepgate-Min-Revision", "18446744073709551615")];
    let json = get(addr, "/orders", &never).await.is_problem(503, "no-decision");
    assert_eq!(json["reason"], "ahead");
    let json = get(addr, "/orders", &[ALICE, ("Keepgate-Min-Revision", "1002")]).await;
    assert_eq!(json.is_problem(503, "no-decision")["reason"], "ahead");
    // Two wait, the third is told, the fourth is over the limit.
    let soon = [ALICE, ("Keepgate-Min-Revision", "2")];
    let waiting: Vec<_> =
        (0..2).map(|_| tokio::spawn(async move { get(addr, "/orders", &soon).await })).collect();
    eventually("two wait", async || gate.metric("keepgate_gate_revision_waiters").await == 2.0)
        .await;
    let json = get(addr, "/orders", &soon).await.is_problem(503, "no-decision");
    assert_eq!(json["reason"], "waiters");
    get(addr, "/orders", &soon).await.is_problem(429, "quota-exceeded");
    draft.revision = 2;
    gate.source.replace(draft.world());
    for waited in waiting {
        // Charged once: else the burst would not have been enough.
        assert_eq!(waited.await.unwrap().status, 200);
    }
}

/// What a request waits for may be its own route, its own key, or its own membership.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_wait_a_request_is_routed_and_identified_anew() {
    use sha2::{Digest as _, Sha256};
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.identify.api_key = Some(serde_json::from_value(serde_json::json!({})).unwrap());
    draft.limits = vec![serde_json::json!(
        {"name": "each", "key": "principal", "rate": "1/h", "burst": 1}
    )];
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.bounds.revision_wait = PATIENCE;
    })
    .await;
    let addr = gate.addr;
    let key = "kgk_test_0123456789abcdef0123456789abcdef";
    let headers = [("X-Api-Key", key), ("Keepgate-Min-Revision", "2")];
    let asked = tokio::spawn(async move { get(addr, "/new/7", &headers).await });
    eventually("it waits", async || gate.metric("keepgate_gate_revision_waiters").await == 1.0)
        .await;
    draft.revision = 2;
    draft.routes.push(route("GET", "/new/{id}"));
    draft.policies.push((
        "new".to_owned(),
        "permit (principal == user::\"dora\", action, resource in route::\"/new\");".to_owned(),
    ));
    let sha256: String =
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    draft.keys = vec![
        serde_json::from_value(serde_json::json!({
            "prefix": "test", "sha256": sha256, "principal": {"type": "user", "id": "dora"},
        }))
        .unwrap(),
    ];
    gate.source.replace(draft.world());
    assert_eq!(asked.await.unwrap().status, 200);
    // One that was known before the wait was charged before it, and once.
    let headers = [ALICE, ("Keepgate-Min-Revision", "3")];
    let asked = tokio::spawn(async move { get(addr, "/orders", &headers).await });
    eventually("it waits", async || gate.metric("keepgate_gate_revision_waiters").await == 1.0)
        .await;
    draft.revision = 3;
    gate.source.replace(draft.world());
    assert_eq!(asked.await.unwrap().status, 200);
    get(addr, "/orders", &[ALICE]).await.is_problem(429, "quota-exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_have_a_stricter_age() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let mut strict = route("DELETE", "/orders/{id}");
    strict.max_age_ms = Some(5000);
    draft.routes.push(strict);
    let gate = TestGate::start(&draft, &echo.url).await;
    gate.source.set_age(Duration::from_secs(6));
    assert_eq!(get(gate.addr, "/orders/7", &[ALICE]).await.status, 200);
    ask(gate.addr, "DELETE", "/orders/7", &[ALICE], "").await.is_problem(503, "no-decision");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_by_the_next_request_on_an_open_connection() {
    use tokio::io::AsyncWriteExt as _;
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let gate = TestGate::start(&draft, &echo.url).await;
    let mut stream = super::support::connect(gate.addr).await;
    let request = b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n";
    stream.write_all(request).await.unwrap();
    super::support::read_until(&mut stream, "x-request-id").await;
    draft.policies.clear();
    draft.revision = 2;
    gate.source.replace(draft.world());
    stream.write_all(request).await.unwrap();
    let text = super::support::read_until(&mut stream, "\"reason\"").await;
    assert!(text.contains("no_permit"), "{text}");
}
