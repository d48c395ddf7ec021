//! One decision path: a request has the same outcome by every hook as through the gate itself.

use std::time::Duration;

use keepgate_policy::{Digest, Revision, Snapshot, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Original, asked, both};
use crate::support::{Draft, Echo, TestGate, route};

/// Routes and limits that bring about every outcome.
fn draft() -> Draft {
    let mut draft = Draft::orders();
    draft.routes.push(route("GET", "/limited"));
    draft.routes.push(route("GET", "/old"));
    draft.policies.push((
        "limited".to_owned(),
        "permit (principal, action, resource == route::\"/limited\");".to_owned(),
    ));
    let limit = serde_json::json!({
        "name": "few", "key": "principal", "route": "/limited", "rate": "1/h",
    });
    draft.limits.push(limit);
    draft
}

fn alice(method: &str, target: &str) -> Original {
    Original::new(method, target).with("x-user", "alice")
}

/// Paths and methods in every spelling; all of them the gate decides about itself too.
fn requests() -> Vec<Original> {
    let mut all = vec![
        alice("GET", "/orders"),
        alice("GET", "/orders?a=1&b=/../c"),
        alice("POST", "/orders"),
        alice("GET", "/orders/7"),
        alice("DELETE", "/orders/7"),
        alice("PATCH", "/orders/a%20b"),
        alice("HEAD", "/orders"),
        alice("OPTIONS", "/orders/7"),
        alice("GET", "/orders/secret"),
        alice("GET", "/public"),
        alice("GET", "/public/deep/er"),
        alice("GET", "/nothing"),
        alice("GET", "/"),
        alice("DELETE", "/orders"),
        alice("TRACE", "/orders"),
        alice("get", "/orders"),
        alice("GETX", "/orders"),
        alice("GET", "/orders/").with("x-user", "bob"),
        Original::new("GET", "/orders"),
        Original::new("GET", "/public"),
        Original::new("GET", "/public").with("authorization", "Basic eDp5"),
        Original::new("GET", "/orders").with("x-user", "bob"),
        Original::new("GET", "/orders").with("x-user", ""),
        alice("GET", "/orders").with("keepgate-principal", "user::\"root\""),
        Original::new("GET", "/orders").with("keepgate-principal", "user::\"alice\""),
        Original::new("GET", "/orders").with("x_user", "alice"),
        alice("GET", "/orders").with("x-http-method-override", "DELETE"),
        alice("GET", "/orders").with("keepgate-min-revision", "1"),
        alice("GET", "/orders").with("keepgate-min-revision", "x"),
        alice("GET", "/orders").with("keepgate-min-revision", "999999"),
    ];
    for path in [
        "//orders",
        "/orders//7",
        "/./orders",
        "/orders/../orders",
        "/public/../orders/secret",
        "/public/%2e%2e/orders/secret",
        "/%6frders",
        "/orders/%37",
        "/orders/%2F7",
        "/orders/7;x=1",
        "/orders/\\7",
        "/orders/%5c7",
        "/orders/%00",
        "/orders/%zz",
        "/orders/a|b",
        "/orders/[1]",
        "/orders/%c3%a9",
        "/orders/%C3%A9",
        "/orders/%ff",
        "/orders/",
        "/..",
    ] {
        all.push(alice("GET", path));
    }
    all
}

/// The gate's own answer, and whether the upstream gave it.
async fn own(gate: &TestGate, request: &Original) -> (u16, bool) {
    let answer = asked(gate.addr, &request.plain()).await;
    (answer.status, answer.headers.contains_key("x-upstream"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_outcome() {
    let echo = Echo::start().await;
    let gate = both(&draft(), &echo.url).await;
    let mut normal = 0;
    for request in requests() {
        let (status, is_forwarded) = own(&gate, &request).await;
        let expected = match (status, is_forwarded) {
            // The gate would forward another path, which these proxies cannot.
            (_, true) if is_respelled(&request.target) => 400,
            // A denial of another path than the one that the proxy would forward is none.
            (401 | 403 | 404 | 405, false) if is_respelled(&request.target) => 400,
            (_, true) => 200,
            (status, false) => status,
        };
        normal += u32::from(expected == status);
        for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
            let answer = asked(gate.check.unwrap(), &text).await;
            assert_eq!(answer.status, expected, "{text}\n{answer:?}, itself {status}");
        }
    }
    assert!(normal >= 30, "{normal}");
}

/// Whether a path has a normal form that is another one.
fn is_respelled(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let rules = keepgate_gate::message::path::PathRules::default();
    match keepgate_gate::message::path::normal(path, rules) {
        Ok(form) => form != path,
        Err(_) => false,
    }
}

/// A limit counts all ways together: it is the gate's one.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shared() {
    let echo = Echo::start().await;
    for first in 0..4 {
        let gate = both(&draft(), &echo.url).await;
        let request = alice("GET", "/limited");
        let texts = [request.plain(), request.auth(), request.forward_auth(), request.ext_authz()];
        let ask = async |way: usize| {
            let addr = if way == 0 { gate.addr } else { gate.check.unwrap() };
            asked(addr, &texts[way]).await
        };
        assert_eq!(ask(first).await.status, 200);
        for way in 0..4 {
            let answer = ask(way).await;
            assert_eq!(answer.status, 429, "{first} then {way}: {answer:?}");
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            assert!(answer.headers.contains_key("ratelimit"), "{answer:?}");
            if way > 1 {
                let problem = answer.is_problem(429, "quota-exceeded");
                assert_eq!(problem["violated-policies"], serde_json::json!(["few"]));
            }
        }
    }
}

/// What cannot be decided is 503 with when to come back, by every hook: never a denial, never a permit.
#[tokio::test(flavor = "multi_thread")]
async fn no_decision() {
    let echo = Echo::start().await;
    let mut draft = draft();
    draft.settings.max_age_ms = 1_000;
    let gate = both(&draft, &echo.url).await;
    let request = alice("GET", "/orders");
    let texts = [request.auth(), request.forward_auth(), request.ext_authz()];
    let check = gate.check.unwrap();
    let all = async |status: u16, reason: &str| {
        for text in &texts {
            let answer = asked(check, text).await;
            assert_eq!(answer.status, status, "{text}\n{answer:?}");
            assert_eq!(status == 503, answer.headers.contains_key("retry-after"), "{answer:?}");
            if status == 503 && !text.starts_with("GET /auth") {
                assert_eq!(answer.is_problem(503, "no-decision")["reason"], reason);
            }
        }
    };
    all(200, "").await;
    gate.source.set_age(Some(Duration::from_secs(2)));
    all(503, "stale").await;
    gate.source.set_age(None);
    all(503, "age_unknown").await;
    gate.source.set_age(Some(Duration::ZERO));
    all(200, "").await;
    let nothing =
        Snapshot { revision: Revision(2), digest: Digest::of_all(&[]), items: Vec::new() };
    gate.source.replace(World::from_snapshot(&nothing).unwrap());
    all(503, "no_service").await;
}

/// Any path, method and user: by a hook that forwards the path as it came, the outcome is the gate's
/// own, or 400 because the path has another form.
#[test]
fn any_request_has_the_gates_outcome() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (echo, gate) = runtime.block_on(async {
        let echo = Echo::start().await;
        let gate = both(&draft(), &echo.url).await;
        (echo, gate)
    });
    let path = "/(orders|public|nothing|limited)?(/[a-c.%2fF5;|]{0,6}){0,2}";
    let method = prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("Get"), Just("X-Y")];
    let user = prop_oneof![Just(None), Just(Some("alice")), Just(Some("bob"))];
    let odd = prop_oneof![
        Just(None),
        Just(Some(("x_user", "alice"))),
        Just(Some(("keepgate-principal", "x"))),
        Just(Some(("connection", "x-user"))),
        Just(Some(("connection", "authorization"))),
    ];
    let strategy = (path, method, user, odd);
    let mut runner = TestRunner::new(Config::with_cases(192));
    let outcome = runner.run(&strategy, |(path, method, user, odd)| {
        let mut request = Original::new(method, &path);
        for (name, value) in user.map(|user| ("x-user", user)).into_iter().chain(odd) {
            request = request.with(name, value);
        }
        let (own, asked) = runtime.block_on(async {
            let own = own(&gate, &request).await;
            let mut all = Vec::new();
            for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
                all.push(asked(gate.check.unwrap(), &text).await.status);
            }
            (own, all)
        });
        let (status, is_forwarded) = own;
        for asked in asked {
            let same = if is_forwarded { asked == 200 } else { asked == status };
            let is_limited = asked == 429 || status == 429;
            prop_assert!(
                same || is_limited || (asked == 400 && is_respelled(&path)),
                "{request:?}: itself {own:?}, asked {asked}"
            );
        }
        Ok(())
    });
    drop(echo);
    runtime.block_on(gate.stop());
    outcome.unwrap();
}
