//! Several centers on one PostgreSQL with a standby, as `examples/several-centers/start` starts them:
//! centers that end one after the other under writes and traffic, and a primary that ends.
//!
//! `KEEPGATE_CENTERS_SECONDS`, `KEEPGATE_CENTERS_CLIENTS`, `KEEPGATE_CENTERS_GATES` and
//! `KEEPGATE_CENTERS_SEED` make the first longer, larger and different: `scripts/long several-centers`.

mod revoked;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::centers::upstream;
use crate::harness::{
    PATIENCE, Running, Scratch, eventually, free_port, keepgate, keepgate_ok, run, skipped, text,
};
use crate::postgres::{receiver_of, send};
use crate::requests::{Http, metric};
use crate::separate::policies;

/// No answer of a gate may come from an older state; three times what is promised of a restart.
const MAX_AGE: &str = "9s";

fn setting(name: &str, default: usize) -> usize {
    let name = format!("KEEPGATE_CENTERS_{name}");
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the script started.
struct Site {
    scratch: Scratch,
    dir: PathBuf,
    script: Child,
    centers: Vec<String>,
    /// By number; none: it does not run.
    running: Vec<Center>,
    primary: u32,
    /// Where the gates' metrics are.
    admins: Vec<String>,
    gates: Vec<String>,
    /// Beside those of the script.
    more: Vec<Running>,
    token: String,
    key: String,
    database: String,
}

enum Center {
    /// A child of the script's.
    Script(u32),
    Ours(Child),
    Down,
}

impl Drop for Site {
    fn drop(&mut self) {
        for center in &mut self.running {
            if let Center::Ours(child) = center {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        self.more.clear();
        send(self.script.id(), libc::SIGTERM);
        let _ = self.script.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Site {
    /// None: PostgreSQL is not installed.
    fn start(synchronous: bool, gates: usize) -> Option<Site> {
        if !std::path::Path::new("/usr/lib/postgresql").exists() {
            skipped("PostgreSQL is not installed");
            return None;
        }
        let scratch = Scratch::new();
        // PostgreSQL's own user must get there.
        std::fs::set_permissions(
            scratch.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o711),
        )
        .unwrap();
        let dir = scratch.join("site");
        let port = ten_ports();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/several-centers/start");
        let upstream = upstream();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", script]);
        command.args(synchronous.then_some("--sync"));
        command.env("KEEPGATE", env!("CARGO_BIN_EXE_keepgate")).env("PORT", port.to_string());
        command.env("DIR", &dir).env("UPSTREAM", &upstream).env_remove("KEEPGATE_REQUIRE_ALL");
        let out = scratch.join("out");
        command.stdout(std::fs::File::create(&out).unwrap());
        command.stderr(std::fs::File::create(scratch.join("err")).unwrap()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let said = eventually("all of it runs", || {
            if let Some(ended) = child.try_wait().unwrap() {
                let err = std::fs::read_to_string(scratch.join("err")).unwrap();
                panic!("the script ended with {ended}: {err}");
            }
            std::fs::read_to_string(&out).ok().filter(|said| said.contains("fail over"))
        });
        let words = |name: &str| -> Vec<String> {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        let pids: Vec<u32> =
            words("processes").iter().filter_map(|word| word.parse().ok()).collect();
        let centers = words("three centers");
        let admins = vec![format!("127.0.0.1:{}", port + 5), format!("127.0.0.1:{}", port + 7)];
        let token = std::fs::read_to_string(dir.join("center-0/admin.token")).unwrap();
        let password = dir.join("password").display().to_string();
        let mut site = Site {
            database: format!(
                "postgres://keepgate@127.0.0.1:{},127.0.0.1:{}/postgres?password_file={password}",
                port + 8,
                port + 9
            ),
            script: child,
            running: pids[2..5].iter().map(|pid| Center::Script(*pid)).collect(),
            primary: pids[0],
            gates: words("two gates"),
            more: Vec::new(),
            token: token.trim().to_owned(),
            key: String::new(),
            scratch,
            dir,
            centers,
            admins,
        };
        site.command(0, &["apply", "--prune", &policies(&site.scratch, MAX_AGE)]);
        let key = ["key", "create", "--service", "orders", "--principal", "user::\"alice\""];
        site.key = site.command(1, &key).trim().to_owned();
        for number in 2..gates {
            site.one_more_gate(number, &upstream);
        }
        for gate in &site.gates {
            let headers = [("X-Api-Key", site.key.as_str())];
            eventually("the gate knows alice", || {
                (Http::new(gate, &headers).get("/orders").status == 200).then_some(())
            });
        }
        Some(site)
    }

    fn one_more_gate(&mut self, number: usize, upstream: &str) {
        let token = self.command(0, &["token", "create", "--role", "gate", "--service", "orders"]);
        let token = self.scratch.write(&format!("gate-{number}.token"), &token);
        let any = "127.0.0.1:0";
        let mut args = vec!["gate", "--json", "--token-file", token.to_str().unwrap()];
        args.extend(["--service", "orders", "--upstream", upstream]);
        args.extend(["--listen", any, "--admin-listen", any]);
        self.centers.iter().for_each(|url| args.extend(["--center", url]));
        let mut gate = Running::keepgate(&args);
        let screen = gate.json();
        self.gates.push(text(&screen, "/gate"));
        self.admins.push(text(&screen, "/admin").trim_start_matches("http://").to_owned());
        self.more.push(gate);
    }

    /// `keepgate ARGS..` at a center, which must succeed.
    fn command(&self, center: usize, args: &[&str]) -> String {
        let token = self.dir.join("center-0/admin.token");
        let mut all = args.to_vec();
        all.extend(["--center", &self.centers[center], "--token-file", token.to_str().unwrap()]);
        keepgate_ok(&all)
    }

    fn end_center(&mut self, number: usize, signal: i32) {
        let place = &mut self.running[number];
        match std::mem::replace(place, Center::Down) {
            Center::Script(pid) => {
                send(pid, signal);
                let there = PathBuf::from(format!("/proc/{pid}/status"));
                // The script waits for nobody before its end: what is left of it is a zombie.
                eventually("the center ends", || {
                    let status = std::fs::read_to_string(&there).unwrap_or_default();
                    (status.is_empty() || status.contains("State:\tZ")).then_some(())
                });
            }
            Center::Ours(mut child) => {
                send(child.id(), signal);
                eventually("the center ends", || child.try_wait().unwrap());
            }
            Center::Down => {}
        }
    }

    fn start_center(&mut self, number: usize) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join(format!("log/center-{number}")))
            .unwrap();
        let data = self.dir.join(format!("center-{number}"));
        let listen = self.centers[number].trim_start_matches("http://");
        let mut command = keepgate();
        command.args(["center", "--database", &self.database, "--listen", listen, "--data"]);
        command.arg(data).stdout(Stdio::null()).stderr(log);
        self.running[number] = Center::Ours(command.spawn().unwrap());
    }

    fn await_center(&self, number: usize) {
        let url = &self.centers[number];
        eventually("the center is ready", || {
            let ready = Http::try_new(url, &[]).ok()?.try_send("GET", "/readyz", "").ok()?;
            (ready.status == 200).then_some(())
        });
    }

    fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.dir.join(format!("log/center-{number}"))).unwrap()
    }

    fn client(&self) -> Client {
        Client { centers: self.centers.clone(), token: self.token.clone(), at: 0, http: None }
    }

    /// The primary ends at once.
    fn kill_primary(&self) {
        send(self.primary, libc::SIGKILL);
        let there = PathBuf::from(format!("/proc/{}/status", self.primary));
        eventually("the primary ends", || {
            let status = std::fs::read_to_string(&there).unwrap_or_default();
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        });
    }

    /// The standby takes its place.
    fn promote(&self) {
        let said = std::fs::read_to_string(self.scratch.join("out")).unwrap();
        let promote = said.lines().find_map(|line| line.strip_prefix("fail over")).unwrap();
        let promote = promote.split_once(';').unwrap().1.trim();
        // A standby that begins anew, as its receiver was killed, forgets what it was told.
        eventually("the standby takes over", || {
            let mut sh = Command::new("sh");
            sh.args(["-c", promote]).env("PGCTLTIMEOUT", "5");
            let done = run(sh);
            (done.code == 0 || done.stderr.contains("not in standby mode")).then_some(())
        });
    }

    fn metric_of(&self, gate: usize, name: &str) -> f64 {
        let page = Http::new(&self.admins[gate], &[]).get("/metrics").text();
        metric(&page, name).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Waits until each gate has this revision.
    fn await_gates(&self, revision: u64) {
        for gate in 0..self.admins.len() {
            eventually("the gate has the revision", || {
                (self.metric_of(gate, "keepgate_gate_replica_revision") >= revision as f64)
                    .then_some(())
            });
        }
    }
}

/// Ten ports in a row that are free.
fn ten_ports() -> u16 {
    loop {
        let first = free_port();
        let others: Vec<u16> = (1..10).map(|_| free_port()).collect();
        if others.last() == Some(&(first + 9)) {
            return first;
        }
    }
}

/// Writes at any of the centers, again and again with one key until one says what became of it.
struct Client {
    centers: Vec<String>,
    token: String,
    at: usize,
    http: Option<Http>,
}

impl Client {
    /// Returns its revision, and how often it was sent; `Err`: a refusal.
    fn put(&mut self, key: &str, id: &str, policy: &str) -> Result<(u64, usize), String> {
        let path = format!("/v1/services/orders/policies/{id}");
        let body = json!({ "text": policy }).to_string();
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        for sent in 1.. {
            assert!(Instant::now() < until, "no center took {key} within {PATIENCE:?}: {last}");
            match self.send(key, &path, &body) {
                Ok((200..=299, answer)) => {
                    let revision = answer["revision"].as_u64().unwrap();
                    return Ok((revision, sent));
                }
                // It says that nothing is known, or that nothing happened: with the key, both are safe
                // to send again.
                Ok((429 | 503, answer)) if !answer.to_string().contains("history-lost") => {
                    last = answer.to_string();
                }
                Ok((status, answer)) => return Err(format!("{status} {answer}")),
                Err(error) => last = error.to_string(),
            }
            self.http = None;
            self.at = (self.at + 1) % self.centers.len();
            std::thread::sleep(Duration::from_millis(50));
        }
        unreachable!()
    }

    fn send(&mut self, key: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let http = match &mut self.http {
            Some(http) => http,
            none => {
                let bearer = format!("Bearer {}", self.token);
                none.insert(Http::try_new(&self.centers[self.at], &[("Authorization", &bearer)])?)
            }
        };
        // One header more goes with the path's line end.
        let target = format!("{path} HTTP/1.1\r\nIdempotency-Key: {key}\r\nX-Rest:");
        let answer = http.try_send("PUT", &target, body)?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
    }
}

fn policy(client: usize, number: usize) -> String {
    format!("permit (principal == user::\"c{client}-{number}\", action, resource);")
}

/// What the log of changes says of each client's policy, in order.
fn audited(site: &Site, center: usize) -> BTreeMap<String, Vec<String>> {
    let bearer = format!("Bearer {}", site.token);
    let mut http = Http::new(&site.centers[center], &[("Authorization", &bearer)]);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = http.get(&format!("/v1/audit?kind=policy&after={after}")).json();
        for row in page["entries"].as_array().unwrap_or_else(|| panic!("{page}")) {
            let body = row["after"].to_string();
            found.entry(row["id"].as_str().unwrap().to_owned()).or_default().push(body);
        }
        match page["next"].as_u64() {
            Some(next) if next > after => after = next,
            _ => return found,
        }
    }
}

/// A caller at each gate: each answer must be 200.
struct Traffic {
    over: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<String>>>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn start(site: &Site) -> Traffic {
        let (over, failed, answered): (Arc<AtomicBool>, Arc<Mutex<Vec<String>>>, Arc<AtomicU64>) =
            Default::default();
        let call = |gate: &String| {
            let (gate, key) = (gate.clone(), site.key.clone());
            let (over, failed, answered) =
                (Arc::clone(&over), Arc::clone(&failed), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut http = Http::new(&gate, &[("X-Api-Key", &key)]);
                while !over.load(Ordering::SeqCst) {
                    let answer = http.get("/orders");
                    if answer.status != 200 {
                        failed.lock().unwrap().push(format!(
                            "{}: {}",
                            answer.status,
                            answer.text()
                        ));
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        };
        let threads = site.gates.iter().map(call).collect();
        Traffic { over, failed, answered, threads }
    }

    fn stop(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*self.failed.lock().unwrap(), [""; 0], "no request fails at a gate");
        self.answered.load(Ordering::SeqCst)
    }
}

/// No edit that a center acknowledged is lost and none is applied twice, each gate goes on from revision
/// to revision, and no request fails.
#[test]
fn centers_that_end_in_turn_lose_nothing() {
    let (seconds, clients) = (setting("SECONDS", 20), setting("CLIENTS", 6));
    let Some(mut site) = Site::start(false, setting("GATES", 2)) else { return };
    let traffic = Traffic::start(&site);
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..clients)
        .map(|client| {
            let (mut writes, over) = (site.client(), Arc::clone(&over));
            writes.at = client % site.centers.len();
            std::thread::spawn(move || {
                let (mut number, mut again, mut last) = (0, 0, 0);
                while !over.load(Ordering::SeqCst) {
                    number += 1;
                    let key = format!("c{client}-{number}");
                    let put = writes.put(&key, &format!("c{client}"), &policy(client, number));
                    let (revision, sent) = put.unwrap();
                    assert!(revision > last, "{key}: revision {revision} after {last}");
                    last = revision;
                    again += sent - 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                (number, again, last)
            })
        })
        .collect();
    let mut dice = setting("SEED", 1) as u64 * 0x9e37_79b9 + 1;
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let mut ended = 0;
    while Instant::now() < until {
        let number = ended % site.centers.len();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        site.end_center(number, if dice.is_multiple_of(2) { libc::SIGKILL } else { libc::SIGTERM });
        ended += 1;
        std::thread::sleep(Duration::from_millis(200 + dice % 800));
        site.start_center(number);
        site.await_center(number);
    }
    over.store(true, Ordering::SeqCst);
    let written: Vec<(usize, usize, u64)> =
        writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    let newest = written.iter().map(|(_, _, revision)| *revision).max().unwrap();
    site.await_gates(newest);
    let answered = traffic.stop();
    let log = audited(&site, 0);
    for (client, (number, ..)) in written.iter().enumerate() {
        let rows = &log[&format!("c{client}")];
        assert_eq!(rows.len(), *number, "client {client}: each edit once: {rows:?}");
        for (at, row) in rows.iter().enumerate() {
            let wanted = format!("c{client}-{}\\\"", at + 1);
            assert!(row.contains(&wanted), "client {client}: edit {}: {row}", at + 1);
        }
    }
    for gate in 0..site.admins.len() {
        for name in ["gaps", "snapshots_rejected", "deltas_rejected"] {
            let name = format!("keepgate_gate_replica_{name}_total");
            assert_eq!(site.metric_of(gate, &name) as u64, 0, "gate {gate}: {name}");
        }
    }
    let edits: usize = written.iter().map(|(number, ..)| number).sum();
    let again: usize = written.iter().map(|(_, again, _)| again).sum();
    eprintln!(
        "{seconds} s: {ended} centers ended, {edits} edits of {clients} clients acknowledged, {again} sent again, \
         {answered} requests at {} gates",
        site.gates.len()
    );
    assert!(edits > 0 && ended > 1);
}

/// Whoever asks one center hears of all: their gates, and a center that has gone.
#[test]
fn each_center_answers_for_all_of_them() {
    let Some(mut site) = Site::start(false, 6) else { return };
    let bearer = format!("Bearer {}", site.token);
    let ask = |center: &str, path: &str| -> Value {
        Http::new(center, &[("Authorization", &bearer)]).get(path).json()
    };
    for center in &site.centers {
        eventually("it knows all centers and all gates", || {
            let status = ask(center, "/v1/status");
            let followers = ask(center, "/v1/followers");
            let names = |of: &str| status[of].as_array().map_or(0, Vec::len);
            let all = names("centers") == 3 && names("gates") == 6 && status["wrong"] == json!([]);
            let count = followers["followers"].as_array().map_or(0, Vec::len);
            (all && followers["centers"] == json!(3) && count == 6).then_some(())
        });
        let status = ask(center, "/v1/status");
        assert_eq!(status["centers"][0]["address"], json!(center), "the one that answers is first");
        let each: u64 = (0..3).map(|at| status["centers"][at]["gates"].as_u64().unwrap()).sum();
        assert_eq!(each, 6);
        let headers = [("X-Api-Key", site.key.as_str())];
        site.gates.iter().for_each(|gate| drop(Http::new(gate, &headers).get("/orders")));
        eventually("the reports of all gates are merged", || {
            let top = ask(center, "/v1/services/orders/top");
            let (heard, following) = (&top["gates"]["heard"], &top["gates"]["following"]);
            let all = *heard == json!(6) && *following == json!(6);
            (all && top["gates"]["centers"] == json!(3)).then_some(())
        });
    }
    site.end_center(2, libc::SIGKILL);
    let gone = site.centers[2].clone();
    eventually("a center that is gone is named, and its gates are with the others", || {
        let status = ask(&site.centers[0], "/v1/status");
        let wrong = status["wrong"].to_string();
        let gates = status["gates"].as_array().map_or(0, Vec::len);
        let is_named = wrong.contains(&format!("center {gone}: not heard for"));
        (is_named && gates == 6).then_some(())
    });
    site.start_center(2);
    site.await_center(2);
    site.end_center(2, libc::SIGTERM);
    eventually("one that ended in order is not", || {
        let status = ask(&site.centers[1], "/v1/status");
        let centers = status["centers"].as_array().unwrap();
        let left = centers.iter().filter(|center| center["address"] == json!(gone)).count();
        // What it left when it was killed is named yet.
        (left == 1).then_some(())
    });
}

/// With a synchronous standby nothing is lost: all goes on at the other server.
#[test]
fn a_synchronous_standby_takes_over_without_loss() {
    let Some(site) = Site::start(true, 2) else { return };
    let traffic = Traffic::start(&site);
    let mut writes = site.client();
    let before: Vec<u64> = (1..=10)
        .map(|number| writes.put(&format!("b{number}"), "c0", &policy(0, number)).unwrap().0)
        .collect();
    site.await_gates(before[9]);
    site.kill_primary();
    site.promote();
    let (after, _) = writes.put("a1", "c0", &policy(0, 11)).unwrap();
    assert!(after > before[9] + 900_000_000, "numbers jump at another server: {after}");
    site.await_gates(after);
    let rows = audited(&site, 1).remove("c0").unwrap();
    assert_eq!(rows.len(), 11, "{rows:?}");
    for gate in 0..2 {
        assert_eq!(site.metric_of(gate, "keepgate_gate_replica_foreign") as u64, 0);
    }
    traffic.stop();
}

/// What an asynchronous standby has not received is lost. That is said, gates do not go back, and the
/// command that is named leads out.
#[test]
fn what_an_asynchronous_standby_lost_is_named() {
    let Some(mut site) = Site::start(false, 2) else { return };
    let mut writes = site.client();
    let (kept, _) = writes.put("k1", "c0", &policy(0, 1)).unwrap();
    site.await_gates(kept);
    // It has all so far; then it receives nothing more.
    let receiver = receiver_of(&site.dir.join("standby"));
    send(receiver, libc::SIGSTOP);
    let lost = (2..=4).map(|n| writes.put(&format!("l{n}"), "c0", &policy(0, n)).unwrap().0).max();
    let lost = lost.unwrap();
    site.await_gates(lost);
    site.kill_primary();
    // What waits for it in its socket goes with it.
    send(receiver, libc::SIGKILL);
    site.promote();
    // The centers find out by themselves, as each acknowledged what is not there any more.
    for number in 0..3 {
        let url = &site.centers[number];
        eventually("the center says that it has lost something", || {
            let ready = Http::new(url, &[]).get("/readyz");
            (ready.status == 503 && ready.text().contains("lost")).then_some(())
        });
    }
    let refused = writes.put("x1", "c0", &policy(0, 9)).unwrap_err();
    assert!(refused.contains("lost"), "{refused}");
    for gate in 0..2 {
        let held = site.metric_of(gate, "keepgate_gate_replica_revision") as u64;
        assert_eq!(held, lost, "gates do not go back");
    }
    eventually("its log names the way out", || {
        site.log(1).contains("keepgate center accept-loss").then_some(())
    });
    for number in 0..3 {
        site.end_center(number, libc::SIGTERM);
    }
    let accept = ["center", "accept-loss", "--json", "--database", &site.database];
    let said = eventually("no center counts as running", || {
        let mut command = keepgate();
        command.args(accept);
        let done = run(command);
        (done.code == 0).then_some(done.stdout)
    });
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["revision"].as_u64().unwrap() > lost + 900_000_000, "{said}");
    for number in 0..3 {
        site.start_center(number);
        site.await_center(number);
    }
    let (after, _) = writes.put("y1", "c0", &policy(0, 10)).unwrap();
    site.await_gates(after);
    let rows = audited(&site, 2).remove("c0").unwrap();
    assert_eq!(rows.len(), 2, "one was there, one came: {rows:?}");
}
