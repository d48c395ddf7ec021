//! `keepgate lab` with the real executable: the incident happens, the gate prevents it, and
//! nothing is left behind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// None where namespaces cannot be made; then it has said so.
fn folder(name: &str) -> Option<PathBuf> {
    // SAFETY: reads the process's own credentials.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "this test must run, as root");
        eprintln!("SKIPPED: making network namespaces needs root");
        return None;
    }
    let folder =
        std::env::temp_dir().join(format!("keepgate-lab-it-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder)
}

fn lab(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepgate"));
    command.arg("lab").args(words).stdin(Stdio::null());
    command
}

#[test]
#[ignore = "heavy: plays two arms, half a minute"]
fn the_incident_and_the_gate() {
    let Some(folder) = folder("arms") else { return };
    let report = folder.join("report");
    let output = lab(&["run", "--fast", "--arm", "naive", "--arm", "keepgate", "--report"])
        .arg(&report)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    assert!(!error.contains('\x1b'), "colors or cursor movements in a pipe");

    let thresholds = folder.join("thresholds");
    std::fs::write(
        &thresholds,
        "wrong_403 = 0\nwrong_200 = 0\neaddrnotavail = 0\nusers_ok >= 0.999\nreuse_ratio >= 0.99\n\
         naive.wrong_403 > 50\nnaive.eaddrnotavail > 100\nnaive.users_ok_under_crawl < 0.8\n",
    )
    .unwrap();
    let json = report.join("report.json");
    let held = lab(&["assert"]).arg(&thresholds).arg("--report").arg(&json).output().unwrap();
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stdout));

    std::fs::write(&thresholds, "naive.wrong_403 = 0\n").unwrap();
    let fails = lab(&["assert"]).arg(&thresholds).arg("--report").arg(&json).output().unwrap();
    assert_eq!(fails.status.code(), Some(1), "{}", String::from_utf8_lossy(&fails.stdout));
    let page = std::fs::read_to_string(report.join("report.html")).unwrap();
    assert!(page.contains("<h2>naive</h2>") && page.contains("<h2>keepgate</h2>"));
    std::fs::remove_dir_all(folder).unwrap();
}

/// An ordinary user plays an arm in a user namespace, or is told the way to one.
#[test]
#[ignore = "heavy: plays an arm, a quarter of a minute"]
fn an_ordinary_user_needs_no_root() {
    const NOBODY: u32 = 65_534;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let Some(folder) = folder("nobody") else { return };
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    // The build's own folder may be closed to others.
    let program = folder.join("keepgate");
    std::fs::copy(env!("CARGO_BIN_EXE_keepgate"), &program).unwrap();
    let mut run = Command::new(&program);
    run.args(["lab", "run", "--fast", "--arm", "limit", "--json"]).stdin(Stdio::null());
    run.current_dir(&folder).env("TMPDIR", &folder).uid(NOBODY).gid(NOBODY);
    let output = run.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["arms"][0]["summary"]["wrong_403"], 0, "{error}");
    } else {
        assert!(error.contains("the lab needs root, or a kernel that lets"), "{error}");
    }
    // Inside a user namespace that gives no rights, as some security modules have it.
    let refused = run.env("KEEPGATE_LAB_USER_NAMESPACE", "1").output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains("the lab needs root, or a kernel that lets"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Network namespaces that some process of this host holds, other than our own.
fn namespaces() -> BTreeSet<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| std::fs::read_link(process.path().join("ns/net")).ok()).collect()
}

/// Processes whose arguments name this folder, or that are actors of the lab.
fn programs(folder: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| {
            let words = std::fs::read(process.path().join("cmdline")).ok()?;
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let mark = String::from_utf8_lossy(&environment).contains(folder);
            (words.contains(folder) || mark).then_some(words)
        })
        .collect()
}

#[test]
#[ignore = "heavy: plays an arm until it is killed"]
fn nothing_is_left_after_a_kill() {
    let Some(folder) = folder("kill") else { return };
    let name = folder.to_str().unwrap().to_owned();
    let mut run = lab(&["run", "--fast", "--arm", "naive", "--report"])
        .arg(&folder)
        .env("KEEPGATE_LAB_TEST_MARK", &name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let wait = |what: &str, reached: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !reached() {
            assert!(Instant::now() < deadline, "never came: {what}: {:?}", programs(&name));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // The lab itself, the center, the subsystem, the users and the crawler.
    wait("all programs", &|| programs(&name).len() >= 5);
    let own: BTreeSet<PathBuf> = {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let mut inside = namespaces();
        inside.remove(&of(std::process::id()));
        inside
    };
    assert!(own.len() >= 4, "{own:?}");
    run.kill().unwrap();
    run.wait().unwrap();
    wait("the end of all programs", &|| programs(&name).is_empty());
    // Other tests have namespaces, too; those of this run are the ones whose holders are gone.
    let left: Vec<String> = programs(&name);
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir_all(folder).unwrap();
}
