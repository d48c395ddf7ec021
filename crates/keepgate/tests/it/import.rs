//! `keepgate import`: many lines in, in portions; what is wrong is named, and the way to go on.

use serde_json::Value;

use crate::harness::{Scratch, keepgate, keepgate_run, run_with_input};
use crate::separate::CenterProcess;

fn line(n: usize) -> String {
    format!("{{\"uid\":\"user::\\\"u{n}\\\"\",\"parents\":[\"role::\\\"r{}\\\"\"]}}\n", n % 7)
}

fn import(center: &CenterProcess, args: &[&str]) -> crate::harness::Said {
    let mut all = vec!["import"];
    all.extend_from_slice(args);
    let all = center.with(&all);
    keepgate_run(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn lines_go_in_and_an_error_is_named_with_the_way_on() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &scratch.service("s")]);

    // A bad line in the third portion: what is before it has landed.
    let mut text: String = (0..2_500).map(line).collect();
    text.push_str("{\"uid\":\"user::\\\"bad\\\"\",\"attrs\":{\"n\":1.5}}\n");
    text.push_str(&(2_500..4_000).map(line).collect::<String>());
    let file = scratch.write("users.ndjson", &text);
    let file = file.to_str().unwrap();
    let said = import(&center, &["entities", file, "--portion", "1000"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&format!("{file}:2501: ")), "{said:?}");
    assert!(said.stderr.contains("lines up to 2000 have landed"), "{said:?}");
    assert!(said.stderr.contains("--resume-from 2001"), "{said:?}");
    // A pipe gets no progress.
    assert!(!said.stderr.contains('\r') && !said.stderr.contains('\x1b'), "{said:?}");

    // Mended, and gone on with where it says.
    let mended = text.replace("1.5", "1");
    std::fs::write(file, &mended).unwrap();
    let said = import(&center, &["entities", file, "--resume-from", "2001", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((told["lines"].as_u64(), told["created"].as_u64()), (Some(2_001), Some(2_001)));
    // All of it again changes nothing.
    let said = import(&center, &["entities", file, "--json"]);
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((told["lines"].as_u64(), told["unchanged"].as_u64()), (Some(4_001), Some(4_001)));
    let list: Value = serde_json::from_str(&center.ok(&["service", "list", "--json"])).unwrap();
    assert_eq!(list["services"][0]["entities"].as_u64(), Some(4_001), "{list}");
}

#[test]
fn standard_input_members_and_grants() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &scratch.service("s")]);
    let from_input = |args: &[&str], text: &str| {
        let mut command = keepgate();
        command.args(center.with(args));
        run_with_input(command, text)
    };
    let members = "{\"member\":\"user::\\\"a\\\"\",\"role\":\"role::\\\"r\\\"\"}\n\n";
    let said = from_input(&["import", "members", "-"], members);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.starts_with("members: 1 lines, 1 created, 0 updated, 0 unchanged"),
        "{said:?}"
    );
    let grants = "{\"principal\":\"role::\\\"r\\\"\",\"actions\":\"any\",\"resource\":\"any\"}\n";
    let said = from_input(&["import", "grants", "-"], grants);
    assert!(said.stdout.starts_with("grants: 1 lines, 1 created"), "{said:?}");
    let said = from_input(&["import", "grants", "-"], "{\"principal\":1}\n");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("-:1: "), "{said:?}");
    // Behind the end there is nothing to go on with.
    let said = from_input(&["import", "members", "-", "--resume-from", "9"], members);
    assert_eq!(said.code, 64, "{said:?}");
    // A line that never ends is not read to its end.
    let endless = "x".repeat(5 << 20);
    let said = from_input(&["import", "members", "-"], &endless);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("at most 4194304 bytes in a line"), "{said:?}");
}

#[test]
fn what_was_revoked_stays_so_and_is_named() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &scratch.service("s")]);
    let member = |who: &str| {
        format!("{{\"member\":\"user::\\\"{who}\\\"\",\"role\":\"role::\\\"r\\\"\"}}\n")
    };
    let text: String = ["ann", "bo", "cy"].map(member).concat();
    let file = scratch.write("members.ndjson", &text);
    let file = file.to_str().unwrap();
    assert_eq!(import(&center, &["members", file]).code, 0);
    center.ok(&["role", "revoke", "user::cy", "r"]);
    let said = import(&center, &["members", file, "--portion", "2"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("3 lines, 0 created, 0 updated, 2 unchanged"), "{said:?}");
    let named = format!("{file}:3: member `user::\"cy\" in role::\"r\"`: deleted at revision");
    assert!(said.stderr.contains(&named), "{said:?}");
    assert!(said.stderr.contains("1 item stays deleted; --overwrite creates"), "{said:?}");
    let said = import(&center, &["members", file, "--json"]);
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, told["conflicts"][0]["line"].as_u64()), (1, Some(3)), "{told}");
    assert_eq!(told["conflicts"][0]["action"], "role.revoke");
    let said = import(&center, &["members", file, "--overwrite"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("1 created"), "{said:?}");
}
