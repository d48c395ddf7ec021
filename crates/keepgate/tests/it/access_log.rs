//! The access log of a real gate: signed by a real center, killed, cut short, and read again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Running, Said, Scratch, eventually, gate_args, keepgate, run, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

/// An upstream that answers each request with two bytes, and keeps its connections.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0; 1024]);
                while let Ok(n @ 1..) = stream.read(&mut byte) {
                    head.extend_from_slice(&byte[..n]);
                    while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                        head.drain(..end + 4);
                        if stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

struct System {
    scratch: Scratch,
    center: CenterProcess,
    token: PathBuf,
    upstream: String,
}

impl System {
    fn start() -> System {
        let scratch = Scratch::new();
        let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
        let settings = "name = \"orders\"\n[limits]\ndefault = \"off\"\n\
             [identify.trusted_header]\nheader = \"x-user\"\npeers = [\"127.0.0.0/8\"]\n";
        let file = scratch.write("orders/service.toml", settings);
        scratch
            .write("orders/all.cedar", "permit (principal == user::\"alice\", action, resource);");
        scratch.write("orders/routes.toml", "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n");
        center.ok(&["apply", file.parent().unwrap().to_str().unwrap()]);
        let create = ["token", "create", "--role", "gate", "--service", "orders"];
        let token = scratch.write("gate.token", &center.ok(&create));
        let upstream = format!("http://{}", upstream());
        System { scratch, center, token, upstream }
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("access.log")
    }

    fn args(&self) -> Vec<String> {
        let token = self.token.to_str().unwrap();
        let mut args: Vec<String> = gate_args(&self.center.url, token, "127.0.0.1:0")
            .into_iter()
            .map(str::to_owned)
            .collect();
        let at = args.iter().position(|arg| arg == "--upstream").unwrap();
        args[at + 1].clone_from(&self.upstream);
        args.extend(["--access-log".to_owned(), self.log().display().to_string()]);
        args
    }

    /// A gate that serves, and its address.
    fn gate(&self) -> (Running, String, String) {
        let args = self.args();
        let mut gate = Running::keepgate(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let (url, admin) = served(&mut gate);
        (gate, url, admin)
    }

    fn verify(&self, more: &[&str]) -> (Said, Value) {
        let mut command = keepgate();
        command.args(["log", "verify", "--json", "--center", &self.center.url]);
        command.args(["--token-file", &self.center.token_file()]);
        command.args(more).arg(self.log());
        let said = run(command);
        let report = serde_json::from_str(&said.stdout).unwrap_or_default();
        (said, report)
    }
}

fn served(gate: &mut Running) -> (String, String) {
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    eventually("it serves", || {
        (Http::new(&url, &[("x-user", "alice")]).get("/orders").status == 200).then_some(())
    });
    (url, admin)
}

fn metric(admin: &str, name: &str) -> u64 {
    let answer = Http::new(admin, &[]).get("/metrics");
    let name = format!("keepgate_gate_access_log_{name} ");
    answer.text().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

/// Requests on connections of their own until told to stop; how many were answered of each connection, and
/// the longest. The ids are `load-C-N`, where C and N count from 0.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<Duration>>,
}

impl Load {
    fn start(url: &str, connections: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered: Vec<_> = (0..connections).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let threads = answered.iter().enumerate().map(|(connection, answered)| {
            let (address, stop, answered) =
                (address.clone(), Arc::clone(&stop), Arc::clone(answered));
            std::thread::spawn(move || requests(&address, connection, &stop, &answered))
        });
        let threads = threads.collect();
        Load { stop, answered, threads }
    }

    /// How many were answered by now, of each connection.
    fn answered(&self) -> Vec<u64> {
        self.answered.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// Stops; how many were answered of each connection.
    fn counts(self) -> Vec<u64> {
        let answered = self.answered.clone();
        self.stop();
        answered.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.threads.into_iter().map(|thread| thread.join().unwrap()).max();
        (self.answered.iter().map(|n| n.load(Ordering::Relaxed)).sum(), longest.unwrap())
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is not the product")]
fn requests(address: &str, connection: usize, stop: &AtomicBool, answered: &AtomicU64) -> Duration {
    let mut longest = Duration::ZERO;
    let Ok(mut stream) = TcpStream::connect(address) else { return longest };
    let mut answer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let id = format!("load-{connection}-{}", answered.load(Ordering::Relaxed));
        let request = format!(
            "GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nx-request-id: {id}\r\n\r\n"
        );
        if stream.write_all(request.as_bytes()).is_err() {
            return longest;
        }
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\nok") {
            match stream.read(&mut answer) {
                Ok(n @ 1..) => got.extend_from_slice(&answer[..n]),
                _ => return longest,
            }
        }
        longest = longest.max(begin.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    longest
}

/// Of each connection of a [`Load`]: how many requests are recorded. They are its first ones.
fn recorded(log: &Path, connections: usize) -> Vec<u64> {
    let mut recorded = vec![0; connections];
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["request_id"].as_str().and_then(|id| id.strip_prefix("load-"));
        let Some((connection, number)) = id.and_then(|id| id.split_once('-')) else { continue };
        let next = &mut recorded[connection.parse::<usize>().unwrap()];
        assert_eq!(number, next.to_string(), "one is missing among those of {connection}");
        *next += 1;
    }
    recorded
}

/// A kill costs at most what was not written yet, and the log says that it happened: all that was answered
/// before the last positions that were synced is there, and what is missing is the end. What the center has
/// signed is proven, also to somebody who has its keys alone; and a cut is found.
#[test]
fn a_killed_gate_goes_on_with_its_log() {
    let system = System::start();
    let (gate, url, admin) = system.gate();
    let load = Load::start(&url, 4);
    eventually("the center has signed", || (metric(&admin, "anchors_total") >= 2).then_some(()));
    // A position is that of a sync, and the third signature from here is of one that was made after this.
    let (synced, signed) = (load.answered(), metric(&admin, "anchors_total"));
    eventually("it has signed more", || {
        (metric(&admin, "anchors_total") >= signed + 3).then_some(())
    });
    assert_eq!(metric(&admin, "lost_total"), 0);
    gate.kill();
    let answered = load.counts();
    let (said, report) = system.verify(&[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(report["verdict"], "whole");
    assert!(report["notes"].to_string().contains("was killed"), "{report}");
    let recorded = recorded(&system.log(), synced.len());
    for (connection, recorded) in recorded.iter().enumerate() {
        let (synced, answered) = (synced[connection], answered[connection]);
        // One may have been recorded whose answer did not come any more.
        assert!(synced > 0 && (synced..=answered + 1).contains(recorded), "{recorded} {report}");
    }
    let proven = report["proven_seq"].as_u64().unwrap();
    assert!(proven > synced.iter().sum::<u64>(), "{report}");
    // What nothing proves is told: all that comes after.
    let text = std::fs::read_to_string(system.log()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records = lines.filter(|line| line.get("request_id").is_some());
    let after = records.filter(|line| line["seq"].as_u64().unwrap() > proven).count();
    assert_eq!(report["unproven_records"], after, "{report}");

    let (gate, _, admin) = system.gate();
    eventually("the center has signed", || (metric(&admin, "anchors_total") >= 1).then_some(()));
    gate.stop();
    let (said, report) = system.verify(&[]);
    assert_eq!((said.code, &report["verdict"]), (0, &Value::from("whole")), "{said:?}");
    assert!(report["notes"].to_string().contains("had not ended in order"), "{report}");
    assert!(report["proven_seq"].as_u64().unwrap() > proven, "{report}");

    // Offline, with the keys in a file.
    let keys = system.center.ok(&["log", "keys"]);
    let keys = system.scratch.write("keys.json", &keys);
    let (said, report) = system.verify(&["--keys", keys.to_str().unwrap()]);
    assert_eq!((said.code, &report["verdict"]), (0, &Value::from("whole")), "{said:?}");
    let (said, report) = system.verify(&["--chain-only"]);
    assert_eq!((said.code, &report["verdict"]), (0, &Value::from("consistent")), "{said:?}");

    // The log is read, filtered, and followed by nobody.
    let read = |more: &[&str]| {
        let mut command = keepgate();
        command.arg("log").arg(system.log()).args(more);
        run(command).stdout
    };
    assert!(read(&["--principal", "alice", "--last", "1"]).contains("user::\"alice\""));
    assert_eq!(read(&["--outcome", "denied"]), "");
    let json = read(&["--json", "--route", "/orders", "--last", "1"]);
    let record: Value = serde_json::from_str(&json).unwrap();
    let id = record["request_id"].as_str().unwrap();
    assert_eq!(read(&["--json", "--request-id", id]), json);

    // Cut off at the last signed line: what is left is whole in itself, and the center knows better.
    let whole = std::fs::read_to_string(system.log()).unwrap();
    let proven = report_line(&whole, proven);
    std::fs::write(system.log(), &whole[..proven]).unwrap();
    let (said, report) = system.verify(&[]);
    assert_eq!((said.code, &report["verdict"]), (1, &Value::from("wrong")), "{said:?}");
    assert_eq!(report["findings"][0]["kind"], "truncated", "{report}");
    // A gate that goes on from there is not signed for.
    let (gate, ..) = system.gate();
    eventually("the center refuses", || gate.stderr().contains("does not sign").then_some(()));
    gate.stop_but(&["the center does not sign the access log"]);
    // Without the center nothing is said of what it has signed.
    let System { center, .. } = &system;
    let mut command = keepgate();
    command.args(["log", "verify", "--center", "http://127.0.0.1:9", "--token-file"]);
    command.arg(center.token_file()).arg(system.log());
    assert_eq!(run(command).code, 2);
}

/// Where a line of this number begins.
fn report_line(text: &str, seq: u64) -> usize {
    let found = text.find(&format!(",\"seq\":{seq},\"chain\":")).unwrap();
    text[..found].rfind('\n').map_or(0, |place| place + 1)
}

/// A file that can grow no further: nobody waits, and each record is written or counted.
#[test]
fn a_full_disk_costs_records_that_are_counted() {
    let system = System::start();
    let mut args = system.args();
    args.extend(["--access-log-queue-bytes".to_owned(), "64KiB".to_owned()]);
    let mut command = Command::new("sh");
    // In blocks of 512 bytes. The signal would end the gate.
    let limited = "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"";
    command.arg("-c").arg(limited).arg(keepgate().get_program());
    let mut gate = Running::start(command, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let (url, admin) = served(&mut gate);
    let load = Load::start(&url, 4);
    eventually("records are lost", || (metric(&admin, "lost_total") > 500).then_some(()));
    // The queue may have been full before.
    eventually("the disk is full", || (metric(&admin, "failing") == 1).then_some(()));
    let (answered, longest) = load.stop();
    assert!(answered > 500 && longest < Duration::from_secs(30), "{answered} {longest:?}");
    let (offered, lost) = (metric(&admin, "offered_total"), metric(&admin, "lost_total"));
    assert_eq!(metric(&admin, "failing"), 1);
    gate.stop_but(&["the log cannot be written", "was not ended in order"]);
    assert_whole_lines(&system.log());
    let (said, report) = system.verify(&["--chain-only"]);
    assert_eq!(said.code, 0, "{said:?}");
    // What waited when the gate ended was never said to be written.
    let written = report["records"].as_u64().unwrap();
    assert!(written + lost <= offered && lost > 0, "{written} + {lost} of {offered}");

    // With room again the log goes on, and is whole.
    let (gate, _, admin) = system.gate();
    eventually("it is written", || (metric(&admin, "bytes_total") > 0).then_some(()));
    gate.stop();
    let (said, report) = system.verify(&["--chain-only"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(report["notes"].to_string().contains("had not ended in order"), "{report}");
}

fn assert_whole_lines(path: &Path) {
    let text = std::fs::read(path).unwrap();
    assert_eq!(text.last(), Some(&b'\n'), "half a line was left");
}

impl System {
    fn keepgate(&self, args: &[&str]) -> Said {
        let mut command = keepgate();
        command.args(args).args(["--center", &self.center.url]);
        command.args(["--token-file", &self.center.token_file()]);
        run(command)
    }

    fn policy(&self, text: &str) {
        self.scratch.write("orders/all.cedar", text);
        self.center.ok(&["apply", self.scratch.join("orders").to_str().unwrap()]);
    }
}

/// Asks as a user, under an id.
fn ask(url: &str, user: &str, id: &str) -> u16 {
    Http::new(url, &[("x-user", user), ("x-request-id", id)]).get("/orders").status
}

/// What a gate has recorded is decided again as it was, whatever was changed since.
#[test]
fn each_recorded_decision_is_explained_as_it_was_made() {
    let system = System::start();
    let (gate, url, _) = system.gate();
    let alice = "@id(\"alice\")\npermit (principal == user::\"alice\", action, resource);\n";
    let policies = [
        "@id(\"readers\")\npermit (principal in role::\"readers\", action, resource);\n",
        "@id(\"get\")\npermit (principal in role::\"readers\", action, resource)\n\
         when { context.method == \"GET\" && context.path like \"/ord*\" };\n",
        "@id(\"host\")\npermit (principal, action, resource) when { context.host like \"127.*\" };\n",
        "@id(\"not\")\nforbid (principal in role::\"readers\", action, resource);\n",
    ];
    let users = ["alice", "bob", "carol"];
    let mut random = 5_u64;
    let mut draw = |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    system.policy(&format!("{alice}{}", policies[0]));
    let (mut members, mut asked) = (std::collections::BTreeSet::new(), Vec::new());
    for step in 0..14 {
        match draw(3) {
            0 => system.policy(&format!("{alice}{}", policies[draw(policies.len())])),
            _ => {
                let user = users[draw(users.len())];
                let verb = if members.remove(user) { "revoke" } else { "assign" };
                if verb == "assign" {
                    members.insert(user);
                }
                system.center.ok(&["role", verb, &format!("user::{user}"), "readers"]);
            }
        }
        // Before or after the gate has heard of it: the record says which.
        for user in users {
            let id = format!("step-{step}-{user}");
            asked.push((ask(&url, user, &id), id));
        }
    }
    gate.stop();
    let log = system.log().display().to_string();
    let mut revisions = std::collections::BTreeSet::new();
    for (status, id) in &asked {
        let said = system.keepgate(&["why", id, "--access-log", &log, "--json"]);
        assert_eq!(said.code, 0, "{id}: {said:?}");
        let said: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(said["answer"]["decision"], *status == 200, "{id}: {said}");
        assert_eq!((&said["same"], &said["request_id"]), (&Value::from(true), &Value::from(&**id)));
        revisions.insert(said["answer"]["revision"].as_u64());
    }
    assert!(asked.iter().any(|(status, _)| *status == 403), "{asked:?}");
    assert!(asked.iter().filter(|(status, _)| *status == 200).count() > 14, "{asked:?}");
    assert!(revisions.len() > 4, "{revisions:?}");
    let said = system.keepgate(&["why", "nobody-asked", "--access-log", &log]);
    assert_eq!(said.code, 64, "{said:?}");
    assert!(said.stderr.contains("no request `nobody-asked`"), "{said:?}");
}

/// The day after an incident: the crawl is in the log, with why it was let in; who had the right and since
/// when; it is taken back, the policy goes back to what it was, and nothing was removed from the log.
#[test]
fn the_day_after_a_crawl() {
    let system = System::start();
    let (gate, url, admin) = system.gate();
    let history = |of: &[&str]| -> Value {
        let said = system.keepgate(&[&["history", "--json"], of].concat());
        serde_json::from_str(&said.stdout).unwrap()
    };
    let yesterday = history(&[])["entries"][0]["revision"].as_u64().unwrap().to_string();
    system.policy(
        "permit (principal == user::\"alice\", action, resource);\n\
         @id(\"partners\")\npermit (principal in role::\"partners\", action, resource);\n",
    );
    system.center.ok(&["role", "assign", "user::crawler", "partners"]);
    eventually("the gate lets it in", || (ask(&url, "crawler", "first") == 200).then_some(()));
    for n in 0..200 {
        assert_eq!(ask(&url, "crawler", &format!("crawl-{n}")), 200);
    }
    eventually("the center has signed", || (metric(&admin, "anchors_total") >= 1).then_some(()));

    // The crawl, and why it was let in.
    let log = system.log().display().to_string();
    let mut command = keepgate();
    command.args(["log", &log, "--principal", "crawler", "--outcome", "allowed", "--json"]);
    let found = run(command).stdout;
    assert!(found.lines().filter(|line| line.contains("\"crawl-")).count() >= 200, "{found}");
    let said = system.keepgate(&["why", "crawl-7", "--access-log", &log]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("partners"), "{said:?}");
    // Who has the right, by what, and since when.
    let said = system.keepgate(&["access", "--role", "partners", "--json"]);
    let entry = serde_json::from_str::<Value>(&said.stdout).unwrap()["entries"][0].clone();
    assert!(entry.to_string().contains("crawler"), "{said:?}");
    let membership = "member user::\"crawler\" in role::\"partners\"";
    let given = history(&[membership]);
    assert_eq!(given["entries"][0]["action"], "role.assign", "{given}");

    // It is taken back, and the policy goes back.
    system.center.ok(&["role", "revoke", "user::crawler", "partners"]);
    system.center.ok(&["rollback", &yesterday, "--service", "orders", "--yes"]);
    eventually("it is denied", || (ask(&url, "crawler", "after") == 403).then_some(()));
    assert_eq!(ask(&url, "alice", "alice-after"), 200);
    let said = system.keepgate(&["access", "--principal", "user::crawler", "--json"]);
    let none = serde_json::from_str::<Value>(&said.stdout).unwrap();
    assert_eq!(none["entries"].as_array().map(Vec::len), Some(0), "{said:?}");
    // What was true then is still told.
    let said = system.keepgate(&["why", "crawl-7", "--access-log", &log]);
    assert_eq!(said.code, 0, "{said:?}");

    gate.stop();
    let (said, report) = system.verify(&[]);
    assert_eq!((said.code, &report["verdict"]), (0, &Value::from("whole")), "{said:?}");
    assert!(report["records"].as_u64().unwrap() > 200, "{report}");
    // And nothing was removed from the log of who changed what.
    let said = system.keepgate(&["audit", "verify", "--json"]);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &report["verdict"]), (0, &Value::from("whole")), "{said:?}");
    assert!(report["records"].as_u64().unwrap() > 4, "{report}");
}
