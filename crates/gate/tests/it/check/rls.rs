//! Envoy's rate limit service: the limits of the service, in the gate's own buckets.

use keepgate_gate::proto::envoy::extensions::common::ratelimit::v3 as common;
use keepgate_gate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use keepgate_gate::proto::envoy::service::ratelimit::v3 as rls;
use keepgate_gate::proto::google::protobuf::UInt64Value;
use keepgate_policy::model::KeyBody;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::grpc::{call, call_with};
use super::{asked, both, listening};
use crate::records::Written;
use crate::support::{Draft, Echo, TestGate, get, uid};

const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const OK: i32 = 1;
const OVER: i32 = 2;

type Entries<'e> = &'e [(&'e str, &'e str)];

fn request(domain: &str, hits: u32, descriptors: &[Entries<'_>]) -> rls::RateLimitRequest {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
    let descriptor = |entries: &Entries<'_>| common::RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        hits_addend: None,
    };
    rls::RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.iter().map(descriptor).collect(),
        hits_addend: hits,
    }
}

async fn ask(
    gate: &TestGate,
    request: &rls::RateLimitRequest,
) -> Result<rls::RateLimitResponse, u8> {
    call(gate.check.unwrap(), PATH, request).await
}

/// The codes of all descriptors, the whole one first.
async fn codes(gate: &TestGate, request: &rls::RateLimitRequest) -> Vec<i32> {
    let response = ask(gate, request).await.unwrap();
    let each = response.statuses.iter().map(|status| status.code);
    [response.overall_code].into_iter().chain(each).collect()
}

fn limited(limits: serde_json::Value) -> Draft {
    let mut draft = Draft::orders();
    draft.limits = limits.as_array().unwrap().clone();
    draft
}

/// Each entry leads to what the gate counts a request by; requests through the gate are in the same
/// buckets.
#[tokio::test(flavor = "multi_thread")]
async fn the_gates_own_buckets() {
    let echo = Echo::start().await;
    let draft = limited(json!([
        {"name": "address", "key": "address", "rate": "2/h", "route": "/public"},
        {"name": "each", "key": "principal", "rate": "3/h", "route": "/orders"},
        {"name": "tenant", "key": "header:x-tenant", "rate": "1/h", "methods": ["POST"]},
    ]));
    let gate = both(&draft, &echo.url).await;
    // By address, with the path's route.
    let here = [("remote_address", "127.0.0.1"), ("method", "GET"), ("path", "/public?q=1")];
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    assert_eq!(codes(&gate, &request("orders", 0, &[&here])).await, [OK, OK]);
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 429);
    let response = ask(&gate, &request("orders", 0, &[&here])).await.unwrap();
    assert_eq!(response.overall_code, OVER);
    let status = &response.statuses[0];
    let limit = status.current_limit.as_ref().unwrap();
    assert_eq!((limit.name.as_str(), limit.requests_per_unit, limit.unit), ("address", 2, 3));
    assert_eq!((status.code, status.limit_remaining), (OVER, 0));
    let until = status.duration_until_reset.as_ref().unwrap();
    assert!((1..=1_800).contains(&until.seconds), "{until:?}");
    let header = |name: &str| {
        let found = response.response_headers_to_add.iter().find(|header| header.key == name);
        found.map(|header| header.value.clone()).unwrap_or_default()
    };
    assert!(header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(header("content-type"), "application/problem+json");
    assert!(header("ratelimit-policy").starts_with("\"address\";q=2;w=3600"));
    let problem: serde_json::Value = serde_json::from_slice(&response.raw_body).unwrap();
    assert_eq!(problem["violated-policies"], json!(["address"]));
    // Another address has its own.
    let there = [("address", "10.1.1.1"), ("method", "GET"), ("route", "/public")];
    assert_eq!(codes(&gate, &request("", 0, &[&there])).await, [OK, OK]);
    // By principal.
    let alice = [("principal", "user::\"alice\""), ("method", "GET"), ("path", "/orders")];
    assert_eq!(get(gate.addr, "/orders", &[("x-user", "alice")]).await.status, 200);
    let response = ask(&gate, &request("orders", 0, &[&alice])).await.unwrap();
    assert_eq!((response.overall_code, response.statuses[0].limit_remaining), (OK, 1));
    assert_eq!(codes(&gate, &request("orders", 1, &[&alice])).await, [OK, OK]);
    assert_eq!(get(gate.addr, "/orders", &[("x-user", "alice")]).await.status, 429);
    // By a header.
    for (entry, code) in
        [(("header:X-Tenant", "a"), OK), (("x-tenant", "a"), OVER), (("x-tenant", "b"), OK)]
    {
        let entries = [entry, ("method", "POST"), ("address", "10.1.1.1")];
        assert_eq!(
            codes(&gate, &request("orders", 0, &[&entries])).await,
            [code, code],
            "{entry:?}"
        );
    }
    // What nothing is said about is within all limits.
    let other = [("generic_key", "x"), ("service", "orders")];
    assert_eq!(codes(&gate, &request("another", 0, &[&other])).await, [OK, OK]);
}

/// Each question has one record, which says who was counted, by what, and what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn each_question_is_recorded_once() {
    let (echo, written) = (Echo::start().await, Written::new("rls"));
    let draft = limited(json!([
        {"name": "address", "key": "address", "rate": "1/h", "route": "/public"},
        {"name": "each", "key": "principal", "rate": "1/h", "route": "/orders/{id}"},
    ]));
    let gate = TestGate::with(&draft, &echo.url, |config| {
        listening(config);
        config.records = Some(written.config());
    })
    .await;
    let check = gate.check.unwrap();
    let by = async |id: &'static str, request: &rls::RateLimitRequest| {
        call_with::<rls::RateLimitResponse>(check, PATH, &[("x-request-id", id)], request).await
    };
    let here = [("remote_address", "10.1.1.1"), ("method", "GET"), ("path", "/public?q=1")];
    let alice = [("principal", "user::\"alice\""), ("method", "GET"), ("path", "/orders/7")];
    for (id, code) in [("within", OK), ("over", OVER)] {
        let response = by(id, &request("orders", 0, &[&here])).await.unwrap();
        assert_eq!(response.overall_code, code, "{id}");
        if code == OVER {
            let problem: serde_json::Value = serde_json::from_slice(&response.raw_body).unwrap();
            assert_eq!(problem["request_id"], id, "{problem}");
        }
    }
    // Of several descriptors it is about the one that is over; without a name it has one.
    let other: Entries<'_> = &[("address", "10.9.9.9")];
    for (id, descriptors, code) in
        [("first", [&alice[..], other], OK), ("second", [other, &alice[..]], OVER)]
    {
        let response = by(id, &request("", 0, &descriptors)).await.unwrap();
        assert_eq!(response.overall_code, code, "{id}");
    }
    assert!(by("malformed", &request("orders", 0, &[])).await.is_err());
    assert!(by("elsewhere", &request("unknown", 0, &[&here])).await.is_err());
    gate.stop().await;

    let of = |id: &str| {
        let record = written.record(id);
        let (outcome, reason) = (record.outcome.clone(), record.reason.clone());
        (outcome, record.status.unwrap(), reason)
    };
    let is = |id: &str, outcome: &str, status: u16, reason: &str| {
        assert_eq!(of(id), (outcome.to_owned(), status, reason.to_owned()), "{id}");
    };
    is("within", "allowed", 200, "");
    is("over", "limited", 429, "quota-exceeded");
    is("first", "allowed", 200, "");
    is("second", "limited", 429, "quota-exceeded");
    is("malformed", "refused", 400, "bad-request");
    is("elsewhere", "refused", 400, "bad-request");
    let over = written.record("over");
    assert_eq!(
        [&over.service, &over.address, &over.method, &over.path, &over.route],
        ["orders", "10.1.1.1", "GET", "/public", "/public"]
    );
    assert_eq!(over.revision, Some(1));
    for id in ["first", "second"] {
        let record = written.record(id);
        assert_eq!(
            [&record.service, &record.principal, &record.path, &record.route, &record.address],
            ["orders", "user::\"alice\"", "/orders/7", "/orders/{id}", ""]
        );
    }
}

/// A key counts only where it holds: with its public part nobody uses up what its owner may.
#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let echo = Echo::start().await;
    let mut draft = limited(json!([{"name": "key", "key": "api_key", "rate": "2/h"}]));
    draft.settings.identify = serde_json::from_value(json!({"api_key": {}})).unwrap();
    draft.keys = vec![KeyBody {
        prefix: "good".to_owned(),
        sha256: Sha256::digest("kgk_good_secret").iter().map(|b| format!("{b:02x}")).collect(),
        principal: uid("user", "alice"),
        plan: String::new(),
        expires_unix_s: None,
        note: String::new(),
    }];
    let gate = both(&draft, &echo.url).await;
    let by = |key: &'static str| [("api_key", key), ("address", "10.1.1.1")];
    for wrong in ["kgk_good_wrong", "good", "", "kgk_other_secret"] {
        // They are one address's.
        let _ = ask(&gate, &request("", 0, &[&by(wrong)])).await.unwrap();
    }
    let right = by("kgk_good_secret");
    assert_eq!(codes(&gate, &request("", 2, &[&right])).await, [OK, OK]);
    assert_eq!(codes(&gate, &request("", 0, &[&right])).await, [OVER, OVER]);
    let shown = [("x-api-key", "kgk_good_secret")];
    assert_eq!(get(gate.addr, "/orders", &shown).await.status, 429);
}

/// Several hits pass together or not at all; one descriptor over its limit is enough.
#[tokio::test(flavor = "multi_thread")]
async fn hits_and_descriptors() {
    let echo = Echo::start().await;
    let draft = limited(json!([{"name": "address", "key": "address", "rate": "10/h"}]));
    let gate = both(&draft, &echo.url).await;
    let (a, b) = ([("address", "10.1.1.1")], [("address", "10.1.1.2")]);
    assert_eq!(codes(&gate, &request("", 8, &[&a])).await, [OK, OK]);
    assert_eq!(codes(&gate, &request("", 3, &[&a, &b])).await, [OVER, OVER, OK]);
    assert_eq!(codes(&gate, &request("", 2, &[&a])).await, [OK, OK], "nothing was charged");
    assert_eq!(codes(&gate, &request("", u32::MAX, &[&b])).await, [OVER, OVER]);
    assert_eq!(codes(&gate, &request("", 7, &[&b])).await, [OK, OK]);
    let mut own = request("", 100, &[&[("address", "10.1.1.3")]]);
    own.descriptors[0].hits_addend = Some(UInt64Value { value: 10 });
    assert_eq!(codes(&gate, &own).await, [OK, OK]);
    let line = "keepgate_gate_checks_total{hook=\"rate_limit\",outcome=\"quota-exceeded\"}";
    assert_eq!(gate.metric(line).await, 2.0);
}

/// A limit on requests at once holds no longer than the question.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once() {
    let echo = Echo::start().await;
    let draft = limited(json!([{"name": "at-once", "key": "address", "concurrency": 1}]));
    let gate = both(&draft, &echo.url).await;
    let here = [("address", "127.0.0.1")];
    for _ in 0..3 {
        assert_eq!(codes(&gate, &request("", 0, &[&here])).await, [OK, OK]);
        let original = super::Original::new("GET", "/public");
        assert_eq!(asked(gate.check.unwrap(), &original.auth()).await.status, 200);
    }
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
}

/// What cannot be answered is a failure of the call, never an answer.
#[tokio::test(flavor = "multi_thread")]
async fn failures() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let fine = [("address", "10.1.1.1")];
    let many: Vec<(&str, &str)> = (0..65).map(|_| ("x", "y")).collect();
    for (request, code) in [
        (request("", 0, &[]), 3),
        (request("nobody", 0, &[&fine]), 3),
        (request("", 0, &[&[("service", "nobody")]]), 3),
        (request("", 0, &[&[("address", "me")]]), 3),
        (request("", 0, &[&[("principal", "alice")]]), 3),
        (request("", 0, &[&many]), 3),
        (request("", 0, &vec![&fine[..]; 65]), 3),
    ] {
        assert_eq!(ask(&gate, &request).await.unwrap_err(), code, "{request:?}");
    }
    assert_eq!(codes(&gate, &request("", 0, &[&many[..64]])).await, [OK, OK]);
    assert_eq!(codes(&gate, &request("", 0, &vec![&fine[..]; 64])).await.len(), 65);
    let source = std::sync::Arc::new(keepgate_gate::FixedSource::default());
    let empty = TestGate::on(source, &echo.url, listening).await;
    assert_eq!(ask(&empty, &request("", 0, &[&fine])).await.unwrap_err(), 14);
}
