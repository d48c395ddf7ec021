//! What the gate's command believes: token files, centers, proxies; and what it says of them.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{Running, Scratch, keepgate, keepgate_run, run, skipped};
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
        (0o660, Some("others than its owner can write it")),
        (0o602, Some("others than its owner can write it")),
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
    let stderr = gate.stderr();
    assert!(stderr.contains("WARN") && stderr.contains("--insecure-center"), "{stderr}");
    gate.kill();
}
