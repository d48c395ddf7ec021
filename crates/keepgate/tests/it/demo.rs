//! `keepgate up --demo`: the lines it prints are pasted into a shell and do what they say.

use std::process::Command;

use crate::harness::{Running, eventually, keepgate, run};

const EPHEMERAL: [&str; 8] = [
    "up",
    "--demo",
    "--listen",
    "127.0.0.1:0",
    "--center",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
];

/// The commands of the start screen with the remarks above them.
fn steps(screen: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = screen.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("# ") && !pair[1].is_empty())
        .map(|pair| (pair[0].trim_start_matches("# ").to_owned(), pair[1].to_owned()))
        .collect()
}

/// Runs a line as it stands, and then the same with curl's `-w` to see the status.
fn paste(line: &str) -> (u16, String) {
    let mut shell = Command::new("bash");
    shell.args(["-c", &line.replacen("curl -i", "curl -sS --max-time 30 -i", 1)]);
    let said = run(shell);
    assert_eq!(said.code, 0, "{line}: {said:?}");
    let status = said.stdout.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{line}: {said:?}")), said.stdout)
}

#[test]
fn the_printed_lines_work() {
    let mut up = Running::keepgate(&EPHEMERAL);
    let screen = up.until("Ctrl-C");
    let steps = steps(&screen);
    let step = |remark: &str| {
        let found = steps.iter().find(|(r, _)| r.starts_with(remark));
        found.unwrap_or_else(|| panic!("no `{remark}` in {screen}")).1.clone()
    };
    let data = screen
        .lines()
        .find_map(|l| l.trim().strip_prefix("data"))
        .unwrap()
        .trim()
        .split(' ')
        .next()
        .unwrap();
    assert!(std::path::Path::new(data).is_dir(), "{data}");

    let (status, answer) = paste(&step("alice may do everything"));
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("two pounds of tea"), "{answer}");
    let (status, answer) = paste(&step("bob may only read"));
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.to_lowercase().contains("no policy permits"), "a reason: {answer}");
    let (status, answer) = paste(&step("a request without a key"));
    assert_eq!(status, 401, "{answer}");
    let (status, answer) = paste(&step("the crawler"));
    assert_eq!(status, 200, "{answer}");

    let bob = step(".. and the gate refuses him");
    assert_eq!(paste(&bob).0, 200, "bob still reads");
    let mut shell = Command::new("bash");
    shell.args(["-c", &step("take bob's role away")]);
    let said = run(shell);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.starts_with("user::\"bob\" is no longer in role::\"orders-reader\""),
        "{said:?}"
    );
    eventually("bob is refused", || (paste(&bob).0 == 403).then_some(()));

    up.stop();
    assert!(!std::path::Path::new(data).exists(), "the temporary directory is removed");
}

#[test]
fn with_a_data_directory_it_finds_everything_again() {
    let scratch = crate::harness::Scratch::new();
    let data = scratch.join("data");
    let args = [&EPHEMERAL[..], &["--data", data.to_str().unwrap(), "--json"]].concat();
    let start = || {
        let mut up = Running::keepgate(&args);
        let screen = up.json();
        (up, screen)
    };
    let (up, first) = start();
    up.stop();
    let secrets: Vec<_> = ["admin.token", "gate-orders.token", "demo-keys.json"]
        .map(|name| {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            std::fs::read_to_string(data.join(name)).unwrap()
        })
        .into();
    let (up, second) = start();
    assert_eq!(first["demo"]["keys"], second["demo"]["keys"]);
    let again: Vec<_> = ["admin.token", "gate-orders.token", "demo-keys.json"]
        .map(|name| std::fs::read_to_string(data.join(name)).unwrap())
        .into();
    assert_eq!(secrets, again);
    // The set-up's own token is gone.
    let center = crate::harness::text(&second, "/center");
    let mut command = keepgate();
    command
        .args(["token", "list", "--center", &center, "--token-file"])
        .arg(data.join("admin.token"));
    let said = run(command);
    assert_eq!(said.stdout.lines().skip(1).count(), 2, "admin and gate: {said:?}");
    up.stop();
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for flag in ["--center", "--listen", "--admin-listen"] {
        let mut args: Vec<&str> = EPHEMERAL.to_vec();
        let place = args.iter().position(|arg| *arg == flag).unwrap();
        args[place + 1] = &addr;
        let mut command = keepgate();
        command.args(&args);
        let said = run(command);
        assert_eq!(said.code, 64, "{flag}: {said:?}");
        assert!(said.stderr.contains(&format!("cannot listen on `{addr}`")), "{flag}: {said:?}");
        assert!(
            said.stderr.contains(&format!("choose another address with {flag} ADDR")),
            "{flag}: {said:?}"
        );
    }
}

#[test]
fn bad_policies_stop_the_start_and_are_named() {
    let scratch = crate::harness::Scratch::new();
    scratch.write("policy/service.toml", "name = \"orders\"\n");
    scratch.write("policy/a.cedar", "permit (principal, action resource);\n");
    scratch.write("policy/role.toml", "");
    let dir = scratch.join("policy");
    let mut command = keepgate();
    command.args(["up", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    command.args(["--center", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"]);
    command.arg(scratch.join("data")).arg("--policy").arg(&dir);
    let said = run(command);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.contains(&format!("{}/a.cedar:1: ", dir.display())), "{said:?}");
    assert!(said.stderr.contains(&format!("{}/role.toml: not a file of a service", dir.display())));
    assert!(said.stderr.ends_with("error: 2 problems; nothing was changed\n"), "{said:?}");
}
