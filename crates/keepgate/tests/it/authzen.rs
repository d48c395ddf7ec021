//! The conformance runner against our own center, with the fixture of the repository; and
//! against the same center with the fixture broken, so that it can be seen to fail.

use serde_json::Value;

use crate::harness::{Scratch, keepgate_run};
use crate::separate::CenterProcess;

fn conformance(center: &CenterProcess, token: &str, more: &[&str]) -> (i32, Value) {
    let args = ["conformance", "authzen", "--json", "--url", &center.url, "--token", token];
    let said = keepgate_run(&[&args[..], more].concat());
    let results = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    (said.code, results)
}

#[test]
fn our_center_conforms() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let fixture = format!("{}/../../examples/authzen", env!("CARGO_MANIFEST_DIR"));
    center.ok(&["apply", &fixture]);
    let token = center.ok(&["token", "create", "--role", "pep"]);
    let token = token.trim();

    let (code, results) = conformance(&center, token, &[]);
    let failed: Vec<_> = results["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["outcome"] == "fail")
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(code, 0);
    let levels: Vec<_> = results["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|level| level["level"].as_str().unwrap())
        .collect();
    let promised =
        ["Basic Core", "Basic Properties", "Batch Core", "Batch Properties", "Batch Semantics"];
    assert!(promised.iter().all(|level| levels.contains(level)), "{levels:?}");

    // The text says the same.
    let said = keepgate_run(&[
        "conformance",
        "authzen",
        "--url",
        &center.url,
        "--token",
        token,
        "--level",
        "basic-core",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("pass  2.2.1   permit decision"), "{said:?}");

    // With bob among the writers two rules are broken, and the runner sees both.
    center.ok(&["role", "assign", "user::\"bob\"", "record-writer"]);
    let (code, results) = conformance(&center, token, &["--level", "basic-core"]);
    let failed: Vec<_> = results["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["outcome"] == "fail")
        .map(|case| (case["id"].as_str().unwrap(), case["detail"].as_str().unwrap()))
        .collect();
    assert_eq!((code, failed), (1, vec![("2.2.2", "expected decision false, got true")]));

    // Without a token nothing is decided.
    let said =
        keepgate_run(&["conformance", "authzen", "--url", &center.url, "--level", "basic-core"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("expected 200, got 401"), "{said:?}");
    center.process.stop();
}
