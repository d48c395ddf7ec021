//! The day after an incident, by commands only: who had the right and since when, why, take it back, go
//! back to the policy of yesterday; and why a recorded request was decided as it was.

use serde_json::{Value, json};

use crate::harness::{Running, Said, Scratch, keepgate, keepgate_run, run_with_input, text};

struct Center {
    url: String,
    token: String,
    process: Running,
}

impl Center {
    fn start(scratch: &Scratch) -> Center {
        let data = scratch.join("data").display().to_string();
        let args = ["center", "--data", &data, "--listen", "127.0.0.1:0", "--json"];
        let mut process = Running::keepgate(&args);
        let screen = process.json();
        let (url, token) = (text(&screen, "/center"), text(&screen, "/admin_token_file"));
        Center { url, token, process }
    }

    fn run(&self, args: &[&str]) -> Said {
        keepgate_run(&[args, &["--center", &self.url, "--token-file", &self.token]].concat())
    }

    fn said(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, code, "keepgate {args:?}: {said:?}");
        said.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.said(0, args)).unwrap()
    }

    fn revision(&self) -> u64 {
        let history = self.json(&["history", "--limit", "1", "--json"]);
        history["entries"][0]["revision"].as_u64().unwrap()
    }
}

const GOOD: &str = "permit(principal in role::\"staff\", action == Action::\"read\", resource)
when { context.hour < 18 };\n";

#[test]
fn the_day_after_by_commands_alone() {
    let scratch = Scratch::new();
    let center = Center::start(&scratch);
    let dir = scratch.join("policy");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("service.toml"), "name = \"orders\"\nauthzen = \"default\"\n").unwrap();
    std::fs::write(dir.join("orders.cedar"), format!("@id(\"office\")\n{GOOD}")).unwrap();
    let dir = dir.display().to_string();
    center.said(0, &["apply", &dir]);
    center.said(0, &["role", "assign", "user::alice", "staff"]);
    let yesterday = center.revision();
    // The bad day: everybody may do everything, and mallory is put into the role.
    std::fs::write(
        scratch.join("policy/orders.cedar"),
        "@id(\"office\")\npermit(principal, action, resource);\n",
    )
    .unwrap();
    center.said(0, &["apply", &dir]);
    let bad = center.revision();
    center.said(0, &["role", "assign", "user::mallory", "staff"]);
    center.said(0, &["role", "revoke", "user::alice", "staff"]);

    // Who has the right, since when, by whom; as a table, JSON and CSV.
    let table = center.said(0, &["access", "--resource", "record::r1", "--action", "read"]);
    assert!(table.contains("any") && table.contains("policy office"), "{table}");
    let table = center.said(0, &["access", "--role", "staff"]);
    assert!(table.contains("user::\"mallory\"") && !table.contains("alice"), "{table}");
    let at = yesterday.to_string();
    let then = ["access", "--resource", "record::r1", "--as-of", &at, "--json"];
    let then = center.json(&then);
    assert_eq!(then["entries"][0]["principal"], "user::\"alice\"", "{then}");
    assert_eq!(then["entries"][0]["when"][0]["path"][0]["to"], "role::\"staff\"");
    let csv = center.said(0, &["access", "--principal", "user::mallory", "--csv"]);
    assert!(csv.starts_with("effect,policy,action,resource,through,since,by_token"), "{csv}");

    // Why, now and then.
    let ask = [
        "check",
        "--principal",
        "user::mallory",
        "--action",
        "read",
        "--resource",
        "record::r1",
        "--context",
        "{\"hour\":9}",
        "--explain",
    ];
    let now = center.said(0, &ask);
    assert!(now.starts_with("allow\n") && now.contains("orders: office"), "{now}");
    let past = center.said(2, &[&ask[..], &["--as-of", &at]].concat());
    for part in [
        "deny\n",
        "`user::\"mallory\"` is not in `role::\"staff\"`",
        "in force since",
        "`user::\"mallory\"` is not stored",
    ] {
        assert!(past.contains(part), "{part} in {past}");
    }
    let ask = [
        "check",
        "--principal",
        "user::alice",
        "--action",
        "read",
        "--resource",
        "record::r1",
        "--as-of",
        &at,
        "--explain",
        "--context",
    ];
    let past = center.said(0, &[&ask[..], &["{\"hour\":9}"]].concat());
    assert!(past.contains("principal -> role::\"staff\" (member)"), "{past}");
    assert!(past.contains("context.hour = 9"), "{past}");
    let past = center.said(2, &[&ask[..], &["{\"hour\":20}"]].concat());
    assert!(
        past.contains("its condition is false") && past.contains("context.hour = 20"),
        "{past}"
    );

    // What happened.
    let history = center.said(0, &["history", "orders"]);
    assert!(history.contains("+permit(principal, action, resource);"), "{history}");
    let item = center.said(0, &["history", "member user::\"alice\" in role::\"staff\"", "--brief"]);
    assert!(item.contains("role.revoke") && item.contains("role.assign"), "{item}");
    let shown = center.said(0, &["show", &bad.to_string()]);
    assert!(shown.contains("apply by token") && shown.contains("-when { context.hour"), "{shown}");
    let diff = center.said(0, &["diff", &at]);
    assert!(diff.contains("3 items differ") && diff.contains("~ policy office"), "{diff}");

    // Back to yesterday: who was revoked since stays so unless named.
    let member = "member user::\"alice\" in role::\"staff\"";
    let said = center.run(&["rollback", &at, "--yes"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains(&format!("conflict {member}")), "{said:?}");
    assert!(said.stdout.contains("user::\"mallory\" loses membership"), "{said:?}");
    assert_eq!(center.run(&["rollback", &at, "--service", "orders"]).code, 64, "nobody to ask");
    let preview = center.said(0, &["rollback", &at, "--service", "orders", "--dry-run"]);
    assert!(preview.contains("+permit(principal in role::\"staff\""), "{preview}");
    center.said(0, &["rollback", &at, "--service", "orders", "--yes"]);
    let undone = center.said(0, &["rollback", &at, "--undo", member, "--yes"]);
    assert!(undone.contains(&format!("has what revision {at} had")), "{undone}");
    assert!(center.said(0, &["diff", &at]).contains("0 items differ"));

    // A recorded request is decided again as it was.
    let record = |outcome: &str, inputs: Value| {
        json!({ "time": "2030-07-25T09:30:00.123Z", "request_id": "r1", "gate": "g", "status": 200,
            "service": "orders", "principal": "user::\"alice\"", "action": "read",
            "resource": "record::\"r1\"", "outcome": outcome, "policies": ["office"],
            "revision": yesterday, "inputs": inputs })
        .to_string()
    };
    let why = |record: &str| {
        let mut command = keepgate();
        command.args([
            "why",
            "--record",
            "-",
            "--center",
            &center.url,
            "--token-file",
            &center.token,
        ]);
        run_with_input(command, record)
    };
    let said = why(&record("allowed", json!({ "context": { "hour": 9 } })));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("decided again with the same outcome"), "{said:?}");
    let said = why(&record("allowed", json!({ "context": { "hour": 19 } })));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("ANOTHER outcome"), "{said:?}");
    let said = why(&record("allowed", json!({ "not_replayable": "redacted" })));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stdout.contains("not replayable"), "{said:?}");
    center.process.stop();
}

/// The audit log as a file: whole by keys and a line that were kept elsewhere, and what is done to it is told.
#[test]
fn the_audit_log_is_exported_and_verified() {
    let scratch = Scratch::new();
    let center = Center::start(&scratch);
    for who in ["alice", "bob", "carol"] {
        center.said(0, &["role", "assign", &format!("user::{who}"), "staff", "--create"]);
    }
    let keys = scratch.join("keys.json").display().to_string();
    std::fs::write(&keys, center.said(0, &["log", "keys"])).unwrap();
    center.said(0, &["role", "revoke", "user::bob", "staff"]);
    let log = center.said(0, &["audit", "export"]);
    let lines: Vec<&str> = log.lines().collect();
    let entries = center.json(&["audit", "--all", "--json"]);
    assert_eq!(lines.len(), entries["entries"].as_array().unwrap().len() + 2);
    // A later part goes on where the one before ended.
    let noted: Value = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    let after = noted["audit"]["seq"].to_string();
    let later = center.said(0, &["audit", "export", "--after", &after]);
    assert_eq!(later.lines().count(), 3, "{later}");

    let file = scratch.join("audit.jsonl").display().to_string();
    let verify = |log: &str, more: &[&str]| {
        std::fs::write(&file, log).unwrap();
        let args = ["audit", "verify", &file, "--json", "--keys", &keys];
        let mut command = keepgate();
        command.args([&args, more].concat());
        let said = run_with_input(command, "");
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let verdict = report["verdict"].as_str().unwrap().to_owned();
        let kinds = report["findings"].as_array().unwrap().iter();
        let kinds = kinds.map(|found| found["kind"].as_str().unwrap().to_owned()).collect();
        (said.code, verdict, kinds)
    };
    let told = |code: i32, verdict: &str, kinds: &[&str]| {
        (code, verdict.to_owned(), kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(verify(&log, &[]), told(0, "whole", &[]));
    let head = format!("{after}:{}", noted["audit"]["chain"].as_str().unwrap());
    assert_eq!(verify(&log, &["--head", &head]), told(0, "whole", &[]));
    assert_eq!(verify(&later, &["--after", &head]), told(0, "whole", &[]));
    assert_eq!(verify(&later, &["--head", &head]), told(1, "wrong", &["removed"]));
    let without = |at: usize| {
        let kept = lines.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    assert_eq!(verify(&without(2), &[]), told(1, "wrong", &["removed"]));
    assert_eq!(verify(&without(lines.len() - 1), &[]), told(1, "wrong", &["truncated"]));
    let changed = log.replacen("alice", "mallory", 1);
    assert_eq!(verify(&changed, &[]), told(1, "wrong", &["changed"]));
    let other = format!("{after}:{}", "0".repeat(64));
    assert_eq!(verify(&log, &["--head", &other]), told(1, "wrong", &["rewritten"]));
    // By the standard input, and of the center itself.
    let mut command = keepgate();
    command.args(["audit", "verify", "-", "--keys", &keys]);
    let said = run_with_input(command, &log);
    assert!(said.code == 0 && said.stdout.contains("WHOLE"), "{said:?}");
    assert!(center.said(0, &["audit", "verify"]).contains("WHOLE"));
    assert!(center.said(0, &["audit", "verify", "--chain-only"]).contains("CONSISTENT"));
    // Without a center and without keys nobody can tell.
    let mut command = keepgate();
    let nowhere = ["--center", "http://127.0.0.1:1", "--token-file", &center.token];
    command.args([&["audit", "verify", &file][..], &nowhere].concat());
    assert_eq!(run_with_input(command, "").code, 2);
    center.process.stop();
}
