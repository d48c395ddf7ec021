//! `keepgate status`, `center backup`, `restore`, `move` and `export --all`, as an operator runs them.

use crate::harness::{Scratch, keepgate_ok, keepgate_run};
use crate::separate::{CenterProcess, policies};

#[test]
fn an_operator_backs_up_and_restores() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let center = CenterProcess::start(None, &data, "127.0.0.1:0");
    let policy = policies(&scratch, "1h");
    center.ok(&["apply", &policy]);
    center.ok(&["role", "assign", "user::\"dave\"", "role::\"orders-reader\""]);
    let made: serde_json::Value = serde_json::from_str(&center.ok(&["status", "--json"])).unwrap();
    assert_eq!(made["centers"][0]["condition"], "ready");
    assert_eq!(made["wrong"], serde_json::json!([]));
    let screen = center.ok(&["status"]);
    assert!(screen.contains("nothing is wrong"), "{screen}");
    assert!(screen.contains("no gate is connected"), "{screen}");
    let out = scratch.join("out").to_str().unwrap().to_owned();
    let said = keepgate_run(
        &center.with(&["export", &out]).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert!(said.stderr.contains("not in these files: 1 memberships"), "{}", said.stderr);
    center.ok(&["export", &out, "--all", "--force"]);
    let extras = std::fs::read_to_string(scratch.join("out/.extras.json")).unwrap();
    assert!(extras.contains("dave"), "{extras}");
    // What apply reads is not disturbed by it.
    assert!(center.ok(&["apply", &out]).contains("nothing to change"));
    let (data, file) = (data.to_str().unwrap(), scratch.join("one.kgbackup"));
    let file = file.to_str().unwrap();
    let said = keepgate_ok(&["center", "backup", file, "--data", data]);
    assert!(said.starts_with("backed up revision "), "{said}");
    center.ok(&["role", "revoke", "user::\"dave\"", "role::\"orders-reader\""]);
    center.process.stop();
    let said = keepgate_run(&["center", "restore", file, "--data", data]);
    assert!(said.stdout.contains("comes back: member user::\"dave\""), "{}", said.stdout);
    assert!(said.stderr.contains("--accept-older"), "{}", said.stderr);
    let said = keepgate_ok(&["center", "restore", file, "--data", data, "--accept-older"]);
    assert!(said.contains("restored: history "), "{said}");
    let moved = scratch.join("moved").to_str().unwrap().to_owned();
    let said = keepgate_ok(&["center", "move", "--data", data, "--to", &moved]);
    assert!(said.contains("moved: history "), "{said}");
    let said = keepgate_run(&["center", "--data", data, "--listen", "127.0.0.1:0"]);
    assert!(said.stderr.contains("this center was moved"), "{}", said.stderr);
    let said = keepgate_run(&["center", "adopt", "--data", &moved]);
    assert!(said.stderr.contains("expected a copied data directory"), "{}", said.stderr);
    let said = keepgate_run(&["center", "accept-loss", "--data", &moved]);
    assert!(said.stderr.contains("none missing"), "{}", said.stderr);
}
