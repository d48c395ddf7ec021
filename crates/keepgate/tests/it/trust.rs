//! What the gate's command believes: token files, centers, proxies; and what it says of them.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{Running, Scratch, eventually, keepgate, keepgate_run, run, skipped, text};
use crate::requests::{Http, metric};
use crate::separate::CenterProcess;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A file system that is gone at the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn mount<'a>(args: &[&str], at: &'a Path) -> Option<Mounted<'a>> {
    std::fs::create_dir_all(at).unwrap();
    let done = Command::new("mount").args(args).arg(at).status();
    done.is_ok_and(|status| status.success()).then_some(Mounted(at))
}

#[test]
fn token_files() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let file = scratch.join("viewer.token");
    let shown = file.to_str().unwrap();
    let said = center.ok(&["token", "create", "--role", "viewer", "--out", shown]);
    assert!(said.starts_with("wrote token ") && !said.contains("kgt_"), "{said}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let list = |file: &Path| {
        let args =
            ["service", "list", "--center", &center.url, "--token-file", file.to_str().unwrap()];
        keepgate_run(&args)
    };
    let link = scratch.join("link.token");
    symlink("viewer.token", &link).unwrap();
    for (mode, words) in [
        (0o600, None),
        (0o440, None),
        (0o644, Some("every user can read it")),
        (0o660, Some("users other than its owner can write it")),
        (0o602, Some("users other than its owner can write it")),
    ] {
        set_mode(&file, mode);
        for path in [&file, &link] {
            let said = list(path);
            match words {
                None => assert_eq!(said.code, 0, "{mode:o}: {said:?}"),
                Some(words) => assert!(
                    said.code != 0
                        && said.stderr.contains(words)
                        && said.stderr.contains("chmod 600"),
                    "{mode:o}: {said:?}"
                ),
            }
        }
    }
    // As the secrets of containers are: in memory, or on a read-only mount, for all to read.
    let token = std::fs::read_to_string(&file).unwrap();
    let memory = scratch.join("memory");
    let Some(mounted) = mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &memory) else {
        skipped("this user cannot mount");
        return;
    };
    let within = memory.join("token");
    std::fs::write(&within, &token).unwrap();
    set_mode(&within, 0o644);
    let said = list(&within);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stderr.matches("can read the token file").count(), 1, "{said:?}");
    set_mode(&within, 0o666);
    assert_ne!(list(&within).code, 0, "what others can write is refused everywhere");
    drop(mounted);
    let read_only = scratch.join("read-only");
    set_mode(&file, 0o644);
    if let Some(mounted) =
        mount(&["--bind", "-o", "ro", scratch.path().to_str().unwrap()], &read_only)
    {
        let said = list(&read_only.join("viewer.token"));
        let is_read_only = std::fs::write(read_only.join("probe"), "").is_err();
        assert_eq!(said.code == 0, is_read_only, "{said:?}");
        drop(mounted);
    }
}

#[test]
fn the_flags_of_trust_are_named_where_they_are_missing() {
    let scratch = Scratch::new();
    let token = scratch.write("gate.token", "kgt_a_b\n");
    let gate = |args: &[&str]| {
        let mut command = keepgate();
        command
            .args(["gate", "--service", "orders", "--upstream", "http://127.0.0.1:1"])
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--token-file"])
            .arg(&token)
            .args(args);
        run(command)
    };
    let said = gate(&["--center", "http://192.0.2.1:7480"]);
    assert!(said.code != 0 && said.stderr.contains("--insecure-center"), "{said:?}");
    let said = gate(&["--trusted-proxy", "10.0.0.0/8,0.0.0.0/0"]);
    assert!(said.code != 0 && said.stderr.contains("--trust-everybody"), "{said:?}");
    let said = gate(&["--jwks-allow", "https://id.example/jwks"]);
    assert!(said.code == 64 && said.stderr.contains("expected https://host"), "{said:?}");
}

#[test]
fn an_insecure_center_is_warned_of_at_each_start() {
    let scratch = Scratch::new();
    let token = scratch.write("gate.token", "kgt_a_b\n");
    let mut gate = Running::keepgate(&[
        "gate",
        "--json",
        "--service",
        "orders",
        "--upstream",
        "http://127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--center",
        "http://192.0.2.1:7480",
        "--insecure-center",
        "--token-file",
        token.to_str().unwrap(),
    ]);
    gate.json();
    gate.says("--insecure-center");
    let stderr = gate.stderr();
    assert!(stderr.contains("WARN") && stderr.contains("--insecure-center"), "{stderr}");
    gate.kill();
}

/// Behind a proxy that nobody named, and with a header that anybody may set: it is said once, where
/// the operator looks, with the flag to set.
#[test]
fn whom_a_gate_does_not_believe_is_said_once_with_the_flag() {
    let scratch = Scratch::new();
    scratch.write(
        "policy/service.toml",
        "name = \"orders\"\n[limits]\ndefault = \"off\"\n\
         [identify.trusted_header]\nheader = \"x-user\"\npeers = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n",
    );
    let route = "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\nanonymous = true\n";
    scratch.write("policy/routes.toml", route);
    scratch.write("policy/all.cedar", "permit (principal, action, resource);\n");
    let policy = scratch.join("policy").display().to_string();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let args = center.with(&["apply", &policy, "--dry-run"]);
    let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 0, "{said:?}");
    let warned = said.stderr;
    assert!(warned.contains("`x-user` include every address"), "{warned}");
    assert!(warned.contains("service.toml"), "{warned}");
    center.ok(&["apply", &policy]);
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token);
    let mut gate = Running::keepgate(&[
        "gate",
        "--json",
        "--service",
        "orders",
        "--upstream",
        "http://127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--center",
        &center.url,
        "--token-file",
        token.to_str().unwrap(),
    ]);
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    eventually("the gate decides", || {
        (Http::new(&url, &[]).get("/orders").status == 502).then_some(())
    });
    // New connections, so that both workers meet them.
    for n in 0..20 {
        let address = format!("192.0.2.{n}");
        let said = Http::new(&url, &[("X-Forwarded-For", &address)]).get("/orders");
        assert_eq!(said.status, 502);
        let said = Http::new(&url, &[("X-User", "admin")]).get("/orders");
        assert_eq!((said.status, text(&said.json(), "/type").as_str()), NO_IDENTITY);
    }
    gate.says("start the gate with --trusted-proxy 127.0.0.1");
    gate.says("--trust-everybody");
    let log = gate.stderr();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("start the gate with --trusted-proxy 127.0.0.1"), 1, "{log}");
    assert_eq!(lines("--trust-everybody"), 1, "{log}");
    let metrics = Http::new(&admin, &[]).get("/metrics").text();
    assert_eq!(metric(&metrics, "keepgate_gate_forwarding_dropped_total"), Some(20.0));
    let said = keepgate_run(&["top", "clients", "--gate", &admin]);
    assert!(said.stdout.contains("--trusted-proxy 127.0.0.1"), "{said:?}");
    eventually("the center has heard of it", || {
        let args = center.with(&["top", "clients", "--service", "orders"]);
        let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        said.stdout.contains("--trusted-proxy 127.0.0.1").then_some(())
    });
    gate.stop_but(&["names callers", "name callers", "everybody", "upstream failed"]);
    center.process.stop();
}

const NO_IDENTITY: (u16, &str) = (503, "urn:keepgate:problem:no-identity");
