//! What gates make of histories, seen from outside: revisions of a lost one, a name that leads to two
//! centers, gates that are too old for what lands.

use std::process::Command;

use serde_json::Value;

use crate::harness::{
    Running, Scratch, eventually, free_port, gate_args, keepgate_ok, skipped, text,
};
use crate::requests::{Http, metric};
use crate::separate::{CenterProcess, policies};

/// A center with the orders, a key of alice and a gate's token.
struct Place {
    scratch: Scratch,
    center: CenterProcess,
    listen: String,
    key: String,
    token: String,
}

impl Place {
    fn new() -> Place {
        let scratch = Scratch::new();
        let listen = format!("127.0.0.1:{}", free_port());
        let center = CenterProcess::start(None, &scratch.join("data"), &listen);
        center.ok(&["apply", &policies(&scratch, "1h")]);
        let key = center.ok(&["key", "create", "--principal", "user::\"alice\""]);
        let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
        let token = scratch.write("gate.token", &token).to_str().unwrap().to_owned();
        Place { scratch, center, listen, key: key.trim().to_owned(), token }
    }

    fn gate_args(&self, center: &str) -> Vec<String> {
        let data = self.scratch.join("replica");
        let mut args = gate_args(center, &self.token, "127.0.0.1:0");
        args.extend(["--data", data.to_str().unwrap()]);
        args.into_iter().map(str::to_owned).collect()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.center.ok(&["status", "--json"])).unwrap()
    }
}

fn started(args: &[String]) -> (Running, String, String) {
    let mut gate = Running::keepgate(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let screen = gate.json();
    (gate, text(&screen, "/gate"), text(&screen, "/admin"))
}

fn asks(gate: &str, key: &str, wanted: Option<&str>) -> (u16, String) {
    let mut headers = vec![("X-Api-Key", key)];
    headers.extend(wanted.map(|wanted| ("Keepgate-Min-Revision", wanted)));
    let answer = Http::new(gate, &headers).get("/orders");
    (answer.status, answer.text())
}

/// What was written to a history that is lost never comes; its numbers are no other's.
#[test]
fn a_revision_of_a_lost_history_is_refused() {
    let mut place = Place::new();
    let (gate, url, _) = started(&place.gate_args(&place.center.url.clone()));
    eventually("the gate decides", || (asks(&url, &place.key, None).0 == 502).then_some(()));
    let file = place.scratch.join("older.kgbackup").to_str().unwrap().to_owned();
    let data = place.center.data.to_str().unwrap().to_owned();
    keepgate_ok(&["center", "backup", &file, "--data", &data]);
    place.center.ok(&["role", "assign", "user::\"zoe\"", "role::\"orders-reader\""]);
    let said = place.status();
    let revision = said["centers"][0]["revision"].as_u64().unwrap();
    let old = said["centers"][0]["history"].as_str().unwrap().to_owned();
    let written = format!("{revision}@{}", &old[..8]);
    assert_eq!(asks(&url, &place.key, Some(&written)).0, 502, "read your writes");
    assert_eq!(asks(&url, &place.key, Some(&format!("{revision}@{old}"))).0, 502, "in full");
    let (status, body) = asks(&url, &place.key, Some(&format!("{revision}@00000000")));
    assert_eq!(status, 503, "a history that nobody knows: {body}");
    assert!(body.contains("behind"), "{body}");
    // The backup of before is restored: a successor, in which that revision is not.
    place.center.process.stop();
    keepgate_ok(&["center", "restore", &file, "--data", &data, "--accept-older"]);
    place.center = CenterProcess::start(None, &place.scratch.join("data"), &place.listen);
    let new = place.status()["centers"][0].clone();
    assert_ne!(new["history"], old.as_str());
    let now = format!("{}@{}", new["revision"], &new["history"].as_str().unwrap()[..8]);
    eventually("the gate follows the successor", || {
        (asks(&url, &place.key, Some(&now)).0 == 502).then_some(())
    });
    let (status, body) = asks(&url, &place.key, Some(&written));
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("history-lost"), "{body}");
    gate.stop_but(&["WARN", "ERROR"]);
}

/// A name with two addresses, and another center behind one of them: the one whose state is held is
/// found, whichever of them is tried first.
#[test]
fn the_next_address_of_a_name_is_tried() {
    let mut place = Place::new();
    let port = place.listen.rsplit(':').next().unwrap().to_owned();
    let hosts = place.scratch.write("hosts", "127.0.0.1 localhost\n127.0.0.2 localhost\n");
    let several = place.scratch.write("host.conf", "multi on\n");
    let script = format!(
        "mount --bind {} /etc/hosts && {{ [ ! -e /etc/host.conf ] || mount --bind {} /etc/host.conf; }} \
         && exec \"$@\"",
        hosts.display(),
        several.display()
    );
    let own = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]).args(args);
        command
    };
    let found = own(&["getent", "ahosts", "localhost"]).output();
    let found = found.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    if !found.as_ref().is_ok_and(|found| found.contains("127.0.0.2")) {
        return skipped("no mount namespace, or no name of our own in it");
    }
    let url = format!("http://localhost:{port}");
    let mut args = place.gate_args(&url);
    args.push("--insecure-center".to_owned());
    let start = || {
        let mut command = own(&[env!("CARGO_BIN_EXE_keepgate")]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEEPGATE_") {
                command.env_remove(name);
            }
        }
        let mut gate =
            Running::start(command, &args.iter().map(String::as_str).collect::<Vec<_>>());
        let screen = gate.json();
        (gate, text(&screen, "/gate"), text(&screen, "/admin"))
    };
    // The one that it is to follow: a copy that was adopted, at the second address.
    let original = place.center.data.clone();
    place.center.process.stop();
    let copy = place.scratch.join("copy");
    let mut cp = Command::new("cp");
    cp.arg("-a").args([&original, &copy]);
    assert_eq!(crate::harness::run(cp).code, 0);
    keepgate_ok(&["center", "adopt", "--data", copy.to_str().unwrap()]);
    place.center = CenterProcess::start(None, &copy, &format!("127.0.0.2:{port}"));
    let (gate, gate_url, _) = start();
    eventually("it follows the adopted one", || {
        (asks(&gate_url, &place.key, None).0 == 502).then_some(())
    });
    let kept = place.scratch.join("replica").join("replica.seen");
    eventually("it has written down what it follows", || {
        std::fs::metadata(&kept).is_ok_and(|kept| kept.len() > 0).then_some(())
    });
    gate.kill();
    // The original knows nothing of that history. It answers at the first address, with the same
    // tokens.
    let foreign = CenterProcess::start(None, &original, &format!("127.0.0.1:{port}"));
    let (gate, gate_url, admin) = start();
    let readings = || Http::new(&admin, &[]).get("/metrics").text();
    let head = place.status()["centers"][0]["revision"].as_u64().unwrap();
    eventually("it follows the right one again", || {
        let text = readings();
        let follows = metric(&text, "keepgate_gate_replica_connected") == Some(1.0)
            && metric(&text, "keepgate_gate_replica_foreign") == Some(0.0)
            && metric(&text, "keepgate_gate_replica_revision")? >= head as f64;
        follows.then_some(())
    });
    // An edit shows that it does.
    place.center.ok(&["role", "revoke", "user::\"alice\"", "role::\"orders-reader\""]);
    eventually("an edit arrives", || (asks(&gate_url, &place.key, None).0 == 403).then_some(()));
    // Without the right one, the other one is all that answers, and nothing is taken from it.
    place.center.process.kill();
    eventually("the other one is not followed", || {
        let text = readings();
        let is_asked = metric(&text, "keepgate_gate_replica_regressions_total")? >= 1.0;
        (is_asked && asks(&gate_url, &place.key, None).0 == 403).then_some(())
    });
    gate.says("this center is not followed");
    gate.kill();
    foreign.process.stop_but(&["WARN", "ERROR"]);
}
