//! What other people's clients make of a refusal: Python's `requests` with urllib3's `Retry`, and
//! `http-sf`, a reader of structured fields (RFC 9651) that shares nothing with ours.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::limits::limited;
use super::support::{Echo, PATIENCE, TestGate, skip};

/// Runs `client.py`; its line of JSON. None: it is not here, and the test may be left out.
async fn client(args: &[&str]) -> Option<Value> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../../target/fixtures/clients/bin/python");
    if !python.exists() {
        skip("target/fixtures/clients is missing; run scripts/fetch-fixtures");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(here.join("tests/clients/client.py")).args(args).stdin(Stdio::null());
    // It bounds each of its waits itself.
    let out = tokio::task::spawn_blocking(move || command.output().unwrap());
    let out = tokio::time::timeout(5 * PATIENCE, out).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {errors}");
    eprintln!("{}: {}", args[0], String::from_utf8_lossy(&out.stdout).trim());
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: real clients, which wait as they are told"]
async fn requests_with_retry_waits_as_told_and_succeeds() {
    let echo = Echo::start().await;
    let rule = json!([{"name": "each", "key": "address", "rate": "30/min", "burst": 2}]);
    let gate = TestGate::start(&limited(rule), &echo.url).await;
    let url = format!("http://{}/public", gate.addr);
    let Some(said) = client(&["retry", &url]).await else { return };
    assert!((1..=2).contains(&said["told"].as_u64().unwrap()), "{said}");
    assert!(said["waited"].as_f64() >= said["told"].as_f64(), "{said}");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: real clients"]
async fn an_independent_reader_of_structured_fields_finds_what_is_configured() {
    let echo = Echo::start().await;
    let gate = TestGate::start(
        &limited(json!([
            {"name": "of.address_1", "key": "address", "rate": "50/min"},
            {"name": "each", "key": "principal", "rate": "3/h", "concurrency": 3},
            {"name": "at-once", "key": "header:x-team", "concurrency": 7},
            {"name": "unseen", "key": "principal", "rate": "1/h", "shadow": true},
        ])),
        &echo.url,
    )
    .await;
    let url = format!("http://{}/orders", gate.addr);
    let expected = json!({
        "headers": {"x-user": "alice", "x-team": "red"},
        "policies": [
            {"name": "of.address_1", "q": 50, "w": 60},
            {"name": "at-once", "q": 7, "qu": "concurrent-requests"},
            {"name": "each/concurrency", "q": 3, "qu": "concurrent-requests"},
            {"name": "each", "q": 3, "w": 3600},
        ],
        "limiting": "each",
    });
    let Some(said) = client(&["fields", &url, &expected.to_string()]).await else { return };
    assert_eq!(
        said["remaining"],
        json!([2, 1, 0, 0]),
        "three are left, then none, then it is refused"
    );
    gate.stop().await;
}
