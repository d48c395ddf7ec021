//! A lost admin token: the host's own way in, beside a running center, in place of one, and while one
//! starts and dies. Two processes never write one store.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    Running, Said, Scratch, eventually, gate_args, keepgate_ok, keepgate_run, text,
};

fn start(data: &Path) -> (Running, String) {
    let args = ["center", "--json", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut center = Running::keepgate(&args);
    let url = text(&center.json(), "/center");
    (center, url)
}

fn token(data: &Path, more: &[&str]) -> Said {
    let mut args = vec!["center", "token", "--data", data.to_str().unwrap()];
    args.extend(more);
    keepgate_run(&args)
}

/// A token that a command has printed, alone.
fn made(said: &Said) -> String {
    assert_eq!(said.code, 0, "{said:?}");
    let token = said.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("kgt_") && !token.contains(char::is_whitespace), "{said:?}");
    token.to_owned()
}

/// The tokens that a center lists, asked with one of them.
fn listed(scratch: &Scratch, url: &str, token: &str) -> Value {
    let file = scratch.write("any.token", token);
    let args = ["token", "list", "--json", "--center", url, "--token-file", file.to_str().unwrap()];
    serde_json::from_str(&keepgate_ok(&args)).unwrap()
}

fn has(list: &Value, token: &str) -> bool {
    let id = token.split('_').nth(1).unwrap();
    list["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .any(|line| line["id"] == id && line["role"] == "admin")
}

fn socket(data: &Path) -> PathBuf {
    data.join("center.sock")
}

#[test]
fn a_running_center_is_asked_through_its_socket() {
    let scratch = Scratch::new();
    // Longer than the address of a socket may be.
    let data = scratch.join(&"d".repeat(120)).join("data");
    let (center, url) = start(&data);
    let about = socket(&data).symlink_metadata().unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(data.join("admin.token")).unwrap();
    let first = made(&token(&data, &[]));
    let list = listed(&scratch, &url, &first);
    assert!(has(&list, &first), "{list}");
    // A file in place of the screen, and a term.
    let file = scratch.join("new.token");
    let said = token(&data, &["--out", file.to_str().unwrap(), "--expires", "8h", "--note", "n"]);
    assert!(said.code == 0 && !said.stdout.contains("kgt_"), "{said:?}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let other = std::fs::read_to_string(&file).unwrap();
    let list = listed(&scratch, &url, other.trim());
    let line = list["tokens"].as_array().unwrap().iter().find(|line| line["note"] == "n").unwrap();
    assert!(line["expires_unix_s"].is_u64(), "{line}");
    // Nothing else is behind the socket.
    let path = format!("unix:{}", socket(&data).display());
    let said =
        keepgate_run(&["token", "list", "--center", &path, "--token-file", file.to_str().unwrap()]);
    assert_ne!(said.code, 0, "{said:?}");
    center.stop();
    assert!(!socket(&data).exists(), "a clean stop leaves none");
}

#[test]
fn a_center_that_was_killed_leaves_a_socket_that_hinders_nobody() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let (center, _) = start(&data);
    center.kill();
    assert!(socket(&data).exists());
    let first = made(&token(&data, &[]));
    // The next center replaces it.
    let (center, url) = start(&data);
    let second = made(&token(&data, &[]));
    let list = listed(&scratch, &url, &first);
    assert!(has(&list, &first) && has(&list, &second), "{list}");
    center.stop();
    let third = made(&token(&data, &[]));
    let (center, url) = start(&data);
    assert!(has(&listed(&scratch, &url, &third), &third));
    center.stop();
}

/// Commands and centers start together, and some of them are killed: whoever gets the lock writes, and
/// each token that was printed is good.
#[test]
fn started_together_one_at_a_time_writes_the_store() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    start(&data).0.stop();
    let mut tokens = Vec::new();
    for round in 0..4 {
        let commands: Vec<_> = (0..3)
            .map(|_| {
                let data = data.clone();
                std::thread::spawn(move || made(&token(&data, &[])))
            })
            .collect();
        let args =
            ["center", "--json", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let center = Running::keepgate(&args);
        if round % 2 == 1 {
            center.kill();
            tokens.extend(commands.into_iter().map(|command| command.join().unwrap()));
            continue;
        }
        tokens.extend(commands.into_iter().map(|command| command.join().unwrap()));
        // It runs, or it was refused because a command had the store.
        let refused = "is in use by another center";
        eventually("the center to run or to be refused", || {
            let log = center.stderr();
            (log.contains("the center is ready") || log.contains(refused)).then_some(())
        });
        if !center.stderr().contains(refused) {
            center.stop();
        }
    }
    let (center, url) = start(&data);
    let list = listed(&scratch, &url, &tokens[0]);
    for token in &tokens {
        assert!(has(&list, token), "{token} in {list}");
    }
    center.stop();
    // The store is whole.
    let backup = scratch.join("b.kgbackup");
    keepgate_ok(&["center", "backup", "--data", data.to_str().unwrap(), backup.to_str().unwrap()]);
}

#[test]
fn where_no_store_is_none_is_made() {
    let scratch = Scratch::new();
    for data in [scratch.join("nothing"), scratch.path().to_owned()] {
        let said = token(&data, &[]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("found no `center.db`"), "{said:?}");
        assert!(!data.join("center.db").exists());
    }
}

/// Tokens and keys through the command line, as an operator has them.
#[test]
fn terms_and_rotation_by_command() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let (center, url) = start(&data);
    let admin = data.join("admin.token").to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--center", &url, "--token-file", &admin]);
        keepgate_ok(&args)
    };
    let service = scratch.service("orders");
    run(&["apply", &service]);
    let args = ["token", "create", "--role", "editor", "--service", "orders", "--expires", "90d"];
    let editor = run(&args).trim().to_owned();
    let file = scratch.write("editor.token", &editor);
    let other = scratch.service("billing");
    let args = ["apply", &other, "--center", &url, "--token-file", file.to_str().unwrap()];
    let said = keepgate_run(&args);
    assert!(said.code == 1 && said.stderr.contains("may not write service `billing`"), "{said:?}");
    keepgate_ok(&["apply", &service, "--center", &url, "--token-file", file.to_str().unwrap()]);
    let table = run(&["token", "list"]);
    let line = table.lines().find(|line| line.contains("editor")).unwrap();
    assert!(
        line.contains("orders") && line.contains(" UTC") && line.contains("127.0.0.1"),
        "{table}"
    );
    // The successor; the old one ends at once.
    let new = run(&["token", "rotate", &editor, "--overlap", "0s", "--expires", "never", "--json"]);
    let new: Value = serde_json::from_str(&new).unwrap();
    let table = run(&["token", "list"]);
    assert_eq!(table.matches("editor").count(), 1, "{table}");
    assert!(
        table.contains(new["id"].as_str().unwrap())
            && run(&["token", "list", "--all"]).contains("expired")
    );
    let key =
        run(&["key", "create", "--principal", "user::a", "--expires", "1h"]).trim().to_owned();
    run(&["key", "rotate", &key, "--overlap", "0s", "--expires", "90d"]);
    let keys: Value = serde_json::from_str(&run(&["key", "list", "--json"])).unwrap();
    let ends: Vec<u64> = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["expires_unix_s"].as_u64().unwrap())
        .collect();
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(last - first > 89 * 86_400, "{keys}");
    // Memberships and grants that end, and how they are listed.
    run(&["role", "assign", "user::temp", "clerks", "--create", "--until", "8h"]);
    run(&["role", "assign", "user::stays", "clerks"]);
    run(&[
        "role",
        "grant",
        "clerks",
        "--action",
        "any",
        "--resource",
        "any",
        "--until",
        "2099-01-31T18:00:00Z",
    ]);
    let roles = run(&["role", "list"]);
    assert!(
        roles.contains("user::\"temp\" (until ") && roles.contains("user::\"stays\","),
        "{roles}"
    );
    let grants = run(&["role", "grants"]);
    assert!(grants.contains("until 2099-01-31 18:00 UTC"), "{grants}");
    let services = run(&["service", "list"]);
    assert!(services.contains("2099-01-31 18:00 UTC"), "{services}");
    for bad in ["yesterday", "2020-01-01T00:00:00Z", "0s", "2030-01-01"] {
        let mut args = vec!["role", "assign", "user::x", "clerks", "--until", bad];
        args.extend(["--center", &url, "--token-file", &admin]);
        assert_eq!(keepgate_run(&args).code, 64, "{bad}");
    }
    center.stop();
}

/// Whoever listens on all addresses without TLS is told so at each start.
#[test]
fn a_gate_that_listens_in_clear_on_all_addresses_says_so() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let (center, url) = start(&data);
    let admin = data.join("admin.token").to_str().unwrap().to_owned();
    let with = ["--center", &url, "--token-file", &admin];
    keepgate_ok(&[&["apply", &scratch.service("orders")][..], &with].concat());
    let args = ["token", "create", "--role", "gate", "--service", "orders"];
    let token = scratch.write("gate.token", &keepgate_ok(&[&args[..], &with].concat()));
    let said = "the gate listens in clear text on all addresses";
    for (listen, warns) in [("0.0.0.0:0", true), ("[::]:0", true), ("127.0.0.1:0", false)] {
        let mut gate = Running::keepgate(&gate_args(&url, token.to_str().unwrap(), listen));
        gate.json();
        // It may stop before it has the first state. Whatever else it warns of is not announced.
        if warns {
            gate.says(said);
            gate.stop_but(&[said, "lost the center"]);
        } else {
            gate.stop_but(&["lost the center"]);
        }
    }
    center.stop();
}
