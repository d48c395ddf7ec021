//! `keepgate tune`: whatever fails, whoever forges, nothing is left behind and nothing is believed.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::tune::{Host, host, ok};

const NOBODY: u32 = 65_534;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn file(host: &Host, text: &str) -> String {
    let path = host.folder.join("their.conf");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_spelling_the_kernel_takes_is_applied_and_goes_back() {
    let Some(host) = host("spellings") else { return };
    let before = host.state();
    for (text, key, value) in [
        (
            "net.ipv4.ip_local_reserved_ports = 8080,8081",
            "net.ipv4.ip_local_reserved_ports",
            "8080-8081\n",
        ),
        (
            "net.ipv4.ip_local_reserved_ports = 8081,8080,",
            "net.ipv4.ip_local_reserved_ports",
            "8080-8081\n",
        ),
        ("net.ipv4.ip_local_reserved_ports = 0x1f90", "net.ipv4.ip_local_reserved_ports", "8080\n"),
        ("net.ipv4.tcp_tw_reuse = 01", "net.ipv4.tcp_tw_reuse", "1\n"),
        ("net.ipv4.tcp_tw_reuse = 1 # comment", "net.ipv4.tcp_tw_reuse", "1\n"),
        ("net/ipv4/tcp_tw_reuse=0x1", "net.ipv4.tcp_tw_reuse", "1\n"),
        ("net.ipv4.tcp_fin_timeout = 0x1e", "net.ipv4.tcp_fin_timeout", "30\n"),
        ("net.ipv4.tcp_fin_timeout = 030", "net.ipv4.tcp_fin_timeout", "24\n"),
        (
            "net.ipv4.ip_local_port_range = 0x7530   0xea5f # wide",
            "net.ipv4.ip_local_port_range",
            "30000\t59999\n",
        ),
        // Not in the table.
        ("net.ipv4.conf.lo.rp_filter = 0x1", "net.ipv4.conf.lo.rp_filter", "1\n"),
    ] {
        let file = file(&host, &format!("{text}\n"));
        ok(&host.tune(&["apply", "--yes", "--file", &file]));
        assert_eq!(host.value(key), value, "{text}");
        // Applied once more it is so already.
        let again = ok(&host.tune(&["apply", "--yes", "--file", &file]));
        assert!(again.contains("Nothing to change"), "{text}: {again}");
        ok(&host.tune(&["undo"]));
        assert_eq!(host.state(), before, "{text}");
    }
}

#[test]
fn after_a_failure_everything_is_as_it_was() {
    let Some(host) = host("failure") else { return };
    let fails = "net.ipv4.ip_local_reserved_ports = 8080,8081\nnet.ipv4.tcp_tw_reuse = 01\n\
                 net.ipv4.conf.lo.rp_filter = x\n";
    let before = host.state();
    let output = host.tune(&["apply", "--yes", "--file", &file(&host, fails)]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("nothing is changed"), "{}", said(&output));
    assert_eq!(host.state(), before);
    assert!(host.journal().is_none());

    // On top of a confirmed change, that one stays, values, file and journal.
    ok(&host.tune(&["apply", "--yes", "--widen"]));
    let (confirmed, journal) = (host.state(), host.journal());
    let output = host.tune(&["apply", "--yes", "--file", &file(&host, fails)]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!((host.state(), host.journal()), (confirmed.clone(), journal));

    // The lasting file cannot be written.
    let folder = host.folder.join("sysctl.d");
    let kept = host.folder.join("kept");
    std::fs::rename(&folder, &kept).unwrap();
    std::fs::write(&folder, "a file in its place").unwrap();
    let more = file(&host, "net.ipv4.tcp_fin_timeout = 20\n");
    let output = host.tune(&["apply", "--yes", "--file", &more]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(host.value("net.ipv4.tcp_fin_timeout"), "60\n");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&kept, &folder).unwrap();
    assert_eq!(host.state(), confirmed);
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before);
}

/// Every setting of the namespace's devices, and of forwarding.
fn of_devices(host: &Host) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    host.client
        .run(|| {
            let mut all = std::collections::BTreeMap::new();
            let mut open: Vec<std::path::PathBuf> = ["ipv4/conf", "ipv6/conf", "ipv4/neigh"]
                .map(|tree| Path::new("/proc/sys/net").join(tree))
                .into();
            while let Some(folder) = open.pop() {
                for entry in std::fs::read_dir(folder)?.flatten() {
                    if entry.file_type()?.is_dir() {
                        open.push(entry.path());
                    } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
                        all.insert(entry.path(), text);
                    }
                }
            }
            let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
            all.insert(forward.to_owned(), std::fs::read_to_string(forward)?);
            Ok(all)
        })
        .unwrap()
}

#[test]
fn what_the_kernel_changes_along_goes_back_too() {
    let Some(host) = host("along") else { return };
    // One device forwards already, the other one does not.
    host.client.sysctl("net.ipv4.conf.up0.forwarding", "1").unwrap();
    host.client.sysctl("net.ipv6.conf.lo.forwarding", "1").unwrap();
    let before = of_devices(&host);
    for text in [
        "net.ipv4.conf.all.forwarding = 1\nnet.ipv4.conf.lo.forwarding = 0\n",
        "net.ipv4.ip_forward = 1\nnet.ipv4.ip_forward = 1\nnet.ipv4.conf.up0.forwarding = 0\n",
        "net.ipv6.conf.all.forwarding = 1\n",
        "net.ipv4.conf.default.rp_filter = 1\nnet.ipv4.conf.default.arp_filter = 1\n",
    ] {
        let file = file(&host, text);
        ok(&host.tune(&["apply", "--yes", "--file", &file]));
        assert_ne!(of_devices(&host), before, "{text}");
        for line in text.lines() {
            let (key, value) = line.split_once(" = ").unwrap();
            assert_eq!(host.value(key).trim(), value, "{text}");
        }
        ok(&host.tune(&["undo"]));
        assert_eq!(of_devices(&host), before, "{text}");
        // The same where the last line fails.
        let fails = format!("{text}net.ipv4.conf.lo.rp_filter = x\n");
        let output = host.tune(&["apply", "--yes", "--file", &self::file(&host, &fails)]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("nothing is changed"), "{}", said(&output));
        assert_eq!(of_devices(&host), before, "{text}");
    }
    // What somebody else has set since stays.
    ok(&host.tune(&["apply", "--yes", "--file", &file(&host, "net.ipv4.ip_forward = 1\n")]));
    host.client.sysctl("net.ipv4.conf.up0.forwarding", "0").unwrap();
    ok(&host.tune(&["undo"]));
    assert_eq!(host.value("net.ipv4.conf.up0.forwarding"), "0\n");
    assert_eq!(host.value("net.ipv4.conf.lo.forwarding"), "0\n");
    // Addresses do not come back, so they are not taken away.
    let text = "net.ipv6.conf.all.disable_ipv6 = 1\n";
    let output = host.tune(&["apply", "--yes", "--file", &file(&host, text)]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn one_setting_that_cannot_go_back_keeps_no_other_from_it() {
    let Some(host) = host("vanished") else { return };
    let before = host.state();
    let link = |words: &[&str]| {
        let output = host.client.command("ip").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    };
    let add = ["link", "add", "kgv", "type", "veth", "peer", "name", "kgw"];
    let text = "net.ipv4.tcp_tw_reuse = 1\nnet.ipv4.conf.kgv.rp_filter = 1\n";
    // A device that goes while the change waits for its confirmation.
    link(&add);
    ok(&host.tune(&["apply", "--file", &file(&host, text), "--timeout", "1s"]));
    link(&["link", "del", "kgv"]);
    crate::tune::wait_for("the rest taken back", || (host.state() == before).then_some(()));
    crate::tune::wait_for("its journal closed", || host.journal().is_none().then_some(()));
    // After the confirmation.
    link(&add);
    ok(&host.tune(&["apply", "--yes", "--file", &file(&host, text)]));
    link(&["link", "del", "kgv"]);
    let output = host.tune(&["undo"]);
    assert!(said(&output).contains("no longer exists"), "{}", said(&output));
    assert_eq!((host.state(), host.journal()), (before.clone(), None));
    // A setting that nobody can write, behind one that was written already.
    let only = "net.ipv4.tcp_tw_reuse = 1\nnet.ipv4.tcp_available_congestion_control = x\n";
    let output = host.tune(&["apply", "--yes", "--file", &file(&host, only)]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("nothing is changed"), "{}", said(&output));
    assert_eq!((host.state(), host.journal()), (before, None));
}

#[test]
fn without_its_watcher_the_next_command_takes_a_change_back() {
    let Some(host) = host("watcher") else { return };
    let before = host.state();
    let text = ok(&host.tune(&["apply", "--widen", "--timeout", "1s"]));
    let watcher = text.split("process ").nth(1).unwrap().split(')').next().unwrap();
    let watcher: i32 = watcher.parse().unwrap();
    // SAFETY: the watcher of this test's own change.
    assert_eq!(unsafe { libc::kill(watcher, libc::SIGKILL) }, 0);
    let armed = host.journal().unwrap()["deadline_unix_ms"].as_u64().unwrap();
    crate::tune::wait_for("the deadline", || {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        (now > u128::from(armed)).then_some(())
    });
    let output = host.tune(&["apply", "--confirm"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("taken back"), "{}", said(&output));
    assert_eq!((host.state(), host.journal()), (before, None));
}

#[test]
fn yes_confirms_what_is_pending() {
    let Some(host) = host("pending") else { return };
    let before = host.state();
    ok(&host.tune(&["apply", "--widen", "--timeout", "1h"]));
    // Something else meanwhile would mix the two.
    let other = file(&host, "net.ipv4.tcp_fin_timeout = 20\n");
    let output = host.tune(&["apply", "--file", &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("waits for its confirmation"), "{}", said(&output));
    let text = ok(&host.tune(&["apply", "--yes", "--widen"]));
    assert!(text.contains("Confirmed"), "{text}");
    assert_eq!(host.journal().unwrap()["state"], "confirmed");
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before);

    // An unconfirmed change on top of a confirmed one: only that one goes back.
    ok(&host.tune(&["apply", "--yes", "--widen"]));
    let confirmed = host.state();
    ok(&host.tune(&["apply", "--file", &other, "--timeout", "1s"]));
    crate::tune::wait_for("the second change taken back", || {
        (host.value("net.ipv4.tcp_fin_timeout") == "60\n" && host.state() == confirmed)
            .then_some(())
    });
    crate::tune::wait_for("the first one's journal", || {
        (host.journal()?["state"] == "confirmed").then_some(())
    });
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before);
}

/// Connects so often, says so, and holds the connections until its input ends.
const HOLD: &str = "import socket,sys\nh=[]\nfor _ in range(int(sys.argv[3])):\n s=socket.socket(); s.connect((sys.argv[1],int(sys.argv[2]))); h.append(s)\nprint(len(h),flush=True)\nsys.stdin.read()\n";

#[test]
fn what_would_create_the_outage_is_refused() {
    let Some(host) = host("outage") else { return };
    let before = host.state();
    let refused = |text: &str| {
        let output = host.tune(&["apply", "--yes", "--file", &file(&host, text)]);
        assert_eq!(output.status.code(), Some(2), "{text}{}", said(&output));
        assert_eq!(host.state(), before, "{text}");
        said(&output)
    };
    refused("net.ipv4.ip_local_reserved_ports = 1024-65535\n");
    refused("net.ipv4.ip_local_port_range = 50000 50001\n");
    refused(
        "net.ipv4.ip_local_port_range = 40000 50000\nnet.ipv4.ip_local_reserved_ports = 40000-49900\n",
    );
    // 1,500 in use: a fifth more, 1,800, must exist.
    let mut holder = host
        .client
        .command("python3")
        .args(["-c", HOLD, &host.to.ip().to_string(), &host.to.port().to_string(), "1500"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(holder.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line.trim(), "1500");
    let text = refused("net.ipv4.ip_local_port_range = 33000 34701\n");
    assert!(text.contains("1500") && text.contains("1800"), "{text}");
    ok(&host.tune(&[
        "apply",
        "--yes",
        "--file",
        &file(&host, "net.ipv4.ip_local_port_range = 33000 38001\n"),
    ]));
    holder.kill().unwrap();
    holder.wait().unwrap();
    ok(&host.tune(&["undo"]));
}

#[test]
fn a_file_that_is_overridden_is_not_lasting() {
    let Some(host) = host("lasting") else { return };
    let before = host.state();
    let folder = host.folder.join("sysctl.d");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("99-vendor.conf"), "net/ipv4/tcp_tw_reuse = 0\n").unwrap();
    let reuse = file(&host, "net.ipv4.tcp_tw_reuse = 1\n");
    let text = ok(&host.tune(&["apply", "--yes", "--file", &reuse]));
    assert!(text.contains("99-zzz-keepgate.conf") && text.contains("Confirmed"), "{text}");
    assert!(folder.join("99-zzz-keepgate.conf").exists());
    ok(&host.tune(&["undo"]));
    assert!(!folder.join("99-zzz-keepgate.conf").exists());

    std::fs::write(host.folder.join("sysctl.conf"), "net.ipv4.tcp_tw_reuse = 2\n").unwrap();
    let output = host.tune(&["apply", "--yes", "--file", &reuse]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("not lasting") && text.contains("sysctl.conf"), "{text}");
    assert!(!text.contains("Confirmed"), "{text}");
    ok(&host.tune(&["undo"]));
    assert_eq!(host.state(), before);
}

/// A journal that would have `undo` write somebody's text to somebody's path.
fn forged(victim: &Path) -> String {
    serde_json::json!({
        "version": 1, "state": "confirmed",
        "boot": std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim(),
        "pid": 1, "deadline_unix_ms": 0,
        "changes": [{"key": "net.ipv4.tcp_tw_reuse", "before": "0\n", "after": "2"}],
        "file": {"path": victim, "before": "owned\n", "after": "precious\n"},
    })
    .to_string()
}

#[test]
fn what_others_can_write_is_not_believed() {
    let Some(host) = host("forged") else { return };
    let before = host.state();
    let state = host.folder.join("state");
    let (journal, lock) = (state.join("tune-host.json"), state.join("tune-host.lock"));
    let victim = host.folder.join("victim-keepgate.conf");
    let refused = |what: &str| {
        for words in [&["undo"][..], &["apply", "--yes", "--widen"]] {
            let output = host.tune(words);
            assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious\n", "{what}");
            assert_eq!(host.state(), before, "{what}");
        }
    };
    let fresh = || {
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(&victim, "precious\n").unwrap();
    };
    fresh();
    std::fs::write(&journal, forged(&victim)).unwrap();
    chown(&journal, Some(NOBODY), None).unwrap();
    refused("another user's journal");

    fresh();
    std::fs::write(&journal, forged(&victim)).unwrap();
    std::fs::set_permissions(&journal, PermissionsExt::from_mode(0o666)).unwrap();
    refused("a journal that anybody can write");

    fresh();
    let elsewhere = host.folder.join("elsewhere.json");
    std::fs::write(&elsewhere, forged(&victim)).unwrap();
    symlink(&elsewhere, &journal).unwrap();
    refused("a link in place of the journal");

    fresh();
    std::fs::write(&journal, forged(&victim)).unwrap();
    std::fs::hard_link(&journal, host.folder.join("second-name")).unwrap();
    refused("a journal with a second name");

    fresh();
    std::fs::write(&journal, forged(&host.folder.join("victim"))).unwrap();
    refused("a journal about a file that tune does not write");

    fresh();
    symlink(&victim, &lock).unwrap();
    refused("a link in place of the lock");

    fresh();
    chown(&state, Some(NOBODY), None).unwrap();
    refused("another user's folder");

    fresh();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o770)).unwrap();
    refused("a folder that others can write");

    fresh();
    let real = host.folder.join("real-state");
    std::fs::rename(&state, &real).unwrap();
    symlink(&real, &state).unwrap();
    refused("a link in place of the folder");
}

/// Runs `keepgate tune` without `--state-dir`, over empty `/var/lib` and `/run` of its own.
fn with_defaults(host: &Host, prepare: &str, words: &str) -> Output {
    let script = format!(
        "set -e\nmount -t tmpfs none /var/lib\nmount -t tmpfs none /run\n{prepare}\n\"$0\" tune {words}"
    );
    let mut command: Command = host.client.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.arg(env!("CARGO_BIN_EXE_keepgate")).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_default_folders_are_root_s_alone_and_old_journals_are_found() {
    let Some(host) = host("defaults") else { return };
    let before = host.state();
    let output = with_defaults(
        &host,
        "",
        "apply --yes --widen && stat -c '%n %u %a' /run/keepgate-tune /var/lib/keepgate-tune \
         /run/keepgate-tune/*.lock /var/lib/keepgate-tune/*.json && \"$0\" tune undo",
    );
    let text = ok(&output);
    for line in [
        "/run/keepgate-tune 0 700",
        "/var/lib/keepgate-tune 0 700",
        "/run/keepgate-tune/tune-host.lock 0 600",
        "/var/lib/keepgate-tune/tune-host.json 0 600",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(host.state(), before);

    // A journal of release 0.1, root's, in the center's data folder, which is another user's.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let old = host.folder.join("old.json");
    let journal = serde_json::json!({
        "version": 1, "state": "confirmed", "boot": boot.trim(), "pid": 1, "deadline_unix_ms": 0,
        "changes": [{"key": "net.ipv4.tcp_tw_reuse", "before": "2\n", "after": "1"}],
        "file": null,
    });
    std::fs::write(&old, journal.to_string()).unwrap();
    let place = format!(
        "mkdir -p /var/lib/keepgate; cp {0} /var/lib/keepgate/tune-host.json; chown {NOBODY} /var/lib/keepgate",
        old.display()
    );
    host.client.sysctl("net.ipv4.tcp_tw_reuse", "1").unwrap();
    let text = ok(&with_defaults(&host, &place, "undo; ls /var/lib/keepgate"));
    assert!(text.contains("Undone") && !text.contains("tune-host.json"), "{text}");
    assert_eq!(host.state(), before);

    // The same from another user is refused.
    host.client.sysctl("net.ipv4.tcp_tw_reuse", "1").unwrap();
    let theirs = format!("{place}; chown {NOBODY} /var/lib/keepgate/tune-host.json");
    let output = with_defaults(&host, &theirs, "undo");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(host.value("net.ipv4.tcp_tw_reuse"), "1\n");
    host.client.sysctl("net.ipv4.tcp_tw_reuse", "2").unwrap();
}

#[test]
fn lint_fails_for_errors_and_strictly_for_warnings() {
    let folder = std::env::temp_dir().join(format!("keepgate-lint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let code = |text: &str, words: &[&str]| {
        let path = folder.join("x.conf");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepgate"));
        command.args(["tune", "lint"]).arg(&path).args(words).output().unwrap().status.code()
    };
    for (text, plain, strict) in [
        ("net.ipv4.tcp_tw_reuse = 1\n", 0, 0),
        ("net.ipv4.tcp_fin_timeout = 30\n", 0, 1),
        ("vm.swapiness = 1\n", 1, 1),
        ("vm.swappiness = 1\n", 0, 0),
        ("-vm.swapiness = 1\n", 0, 1),
        ("net.ipv4.ip_local_reserved_ports = 1024-65535\n", 1, 1),
        ("net.ipv4.ip_local_port_range = 50000 50001\n", 1, 1),
        ("// x\n", 1, 1),
    ] {
        assert_eq!(code(text, &[]), Some(plain), "{text}");
        assert_eq!(code(text, &["--strict"]), Some(strict), "{text}");
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_broken_pipe_keeps_the_exit_code() {
    let folder = std::env::temp_dir().join(format!("keepgate-pipe-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bad = folder.join("bad.conf");
    std::fs::write(&bad, "// x\n".repeat(20_000)).unwrap();
    let bad = bad.to_str().unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../ports/tests/it/golden/close-wait.json");
    let thresholds = folder.join("t");
    std::fs::write(&thresholds, "naive.wrong_403 > 0\n").unwrap();
    for (words, code) in [
        (&["tune", "lint", bad][..], 1),
        (&["tune", "lint", "--fix", bad], 1),
        (&["doctor", "--from-snapshot", golden], 1),
        (&["doctor", "--from-snapshot", golden, "--json"], 1),
        (&["doctor", "--to", "no-such-host.invalid:80"], 2),
        (&["tune", "plan", "--from-snapshot", golden], 0),
        (&["lab", "assert", thresholds.to_str().unwrap(), "--report", "/no/such/report"], 1),
        (&["top", "--interval", "9h"], 64),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keepgate"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads either of them.
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(code), "{words:?}");
    }
    let _ = std::fs::remove_dir_all(&folder);
}
