//! A gate that knows several centers. Relays in front of one center are its centers here: each can be
//! killed and frozen by itself.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Running, Said, Scratch, eventually, free_port, keepgate, run, text};
use crate::requests::{Http, metric};
use crate::separate::{CenterProcess, policies};

/// What the loss of a center may cost, as promised, and what a loaded machine adds.
const AGE: f64 = 9.0;

/// A listener that passes on what it gets.
struct Relay {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    down: AtomicBool,
    frozen: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

impl Relay {
    #[expect(clippy::disallowed_methods, reason = "a test is not the product")]
    fn to(center: &str) -> Relay {
        let center = center.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if own.down.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(onward) = TcpStream::connect(&center) else { continue };
                own.accepted.fetch_add(1, Ordering::SeqCst);
                let both = [&stream, &onward].map(|end| end.try_clone().unwrap());
                own.streams.lock().unwrap().extend(both);
                let back = (onward.try_clone().unwrap(), stream.try_clone().unwrap());
                for (number, (from, to)) in [(stream, onward), back].into_iter().enumerate() {
                    let own = Arc::clone(&own);
                    if number == 0 {
                        own.open.fetch_add(1, Ordering::SeqCst);
                    }
                    std::thread::spawn(move || {
                        pass(&own, from, to);
                        if number == 0 {
                            own.open.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            }
        });
        Relay { url, shared }
    }

    fn kill(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn revive(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Ordering::SeqCst);
    }

    fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

/// In one direction, until either end is closed.
fn pass(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    loop {
        let n = from.read(&mut bytes).unwrap_or(0);
        while n > 0 && shared.frozen.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if n == 0 || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// An upstream that answers each request with 200.
pub(crate) fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                let mut some = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut some) {
                    seen.extend_from_slice(&some[..n]);
                    if seen.ends_with(b"\r\n\r\n") {
                        seen.clear();
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

/// What callers got, and how old the replica was meanwhile.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    answered: AtomicUsize,
    failed: Mutex<Vec<u16>>,
    oldest: Mutex<f64>,
}

impl Seen {
    /// Waits for so many answers more, and says how old the replica has become since the last call.
    fn oldest(&self) -> f64 {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            (self.answered.load(Ordering::SeqCst) > before + 20).then_some(())
        });
        assert_eq!(*self.failed.lock().unwrap(), [0_u16; 0], "no request failed");
        std::mem::take(&mut *self.oldest.lock().unwrap())
    }
}

#[test]
fn a_gate_moves_to_another_center_and_no_request_fails() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &policies(&scratch, "1h")]);
    let key = center.ok(&["key", "create", "--principal", "user::\"alice\""]).trim().to_owned();
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token).to_str().unwrap().to_owned();
    let relays = [Relay::to(&center.url), Relay::to(&center.url)];
    let any = "127.0.0.1:0";
    let mut args = vec!["gate", "--json", "--token-file", &token, "--service", "orders"];
    let upstream = upstream();
    args.extend(["--upstream", &upstream, "--listen", any, "--admin-listen", any]);
    args.extend(["--center", &relays[0].url, "--center", &relays[1].url]);
    let mut gate = Running::keepgate(&args);
    let screen = gate.json();
    assert_eq!(screen["center"], json!([relays[0].url, relays[1].url]));
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    let get = |path: &str| Http::new(&admin, &[]).get(path);
    eventually("the gate decides", || {
        (Http::new(&url, &[("X-Api-Key", &key)]).get("/orders").status == 200).then_some(())
    });
    let seen = Arc::new(Seen::default());
    let traffic = std::thread::spawn({
        let (seen, url, admin) = (Arc::clone(&seen), url.clone(), admin.clone());
        move || {
            let mut http = Http::new(&url, &[("X-Api-Key", &key)]);
            let mut admin = Http::new(&admin, &[]);
            while !seen.over.load(Ordering::SeqCst) {
                let status = http.get("/orders").status;
                if status != 200 {
                    seen.failed.lock().unwrap().push(status);
                }
                let page = admin.get("/metrics").text();
                let age = metric(&page, "keepgate_gate_replica_age_seconds").unwrap();
                let mut oldest = seen.oldest.lock().unwrap();
                *oldest = oldest.max(age);
                drop(oldest);
                seen.answered.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let followed = || get("/readyz").json()["center"].as_str().map(str::to_owned);
    let moves = || metric(&get("/metrics").text(), "keepgate_gate_replica_moves_total").unwrap();
    seen.oldest();
    for turn in 0..4 {
        let at = eventually("a center is followed", followed);
        let (was, other) = match at == relays[0].url {
            true => (&relays[0], &relays[1]),
            false => (&relays[1], &relays[0]),
        };
        let page = get("/metrics").text();
        for (relay, value) in [(was, 1), (other, 0)] {
            let line =
                format!("keepgate_gate_replica_center{{center=\"{}\"}} {value}\n", relay.url);
            assert!(page.contains(&line), "{line}: {page}");
        }
        let before = moves();
        if turn % 2 == 0 {
            was.kill()
        } else {
            was.freeze(true)
        }
        eventually("the other one is followed", || {
            (followed().as_ref() == Some(&other.url)).then_some(())
        });
        assert!(moves() > before);
        let oldest = seen.oldest();
        assert!(oldest < AGE, "{oldest} s old at turn {turn}");
        was.revive();
        was.freeze(false);
        eventually("there is one connection", || {
            (relays.iter().map(Relay::open).sum::<usize>() == 1).then_some(())
        });
    }
    // The log names both, and why.
    let log = gate.stderr();
    let line = log.lines().find(|line| line.contains("moved to another center")).unwrap();
    assert!(line.contains(" INFO ") && line.contains("why="), "{line}");
    assert!(relays.iter().all(|relay| line.contains(&relay.url)), "{line}");
    // What does not come from a center at all is decided on what is there.
    relays.iter().for_each(Relay::kill);
    eventually("it says so", || gate.stderr().contains("decisions continue").then_some(()));
    assert_eq!(followed(), None);
    seen.oldest();
    relays[1].revive();
    eventually("it is back", || (followed().as_ref() == Some(&relays[1].url)).then_some(()));
    center.ok(&["role", "revoke", "user::\"bob\"", "role::\"orders-reader\""]);
    let status: Value = serde_json::from_str(&center.ok(&["status", "--json"])).unwrap();
    let head = status["centers"][0]["revision"].as_u64().unwrap();
    eventually("an edit arrives", || {
        let page = get("/metrics").text();
        (metric(&page, "keepgate_gate_replica_revision")? >= head as f64).then_some(())
    });
    seen.over.store(true, Ordering::SeqCst);
    traffic.join().unwrap();
    assert_eq!(*seen.failed.lock().unwrap(), [0_u16; 0]);
    gate.stop_but(&["lost the center", "center is not reached"]);
    center.process.stop();
}

fn checked(env: &[(&str, &str)], file: &str, args: &[&str]) -> Said {
    let scratch = Scratch::new();
    let mut command = keepgate();
    command.args(["gate", "--check-config"]).args(args);
    if !file.is_empty() {
        command.arg("--config").arg(scratch.write("gate.toml", file));
    }
    let one = ["--service", "s", "--upstream", "http://127.0.0.1:9"];
    if !file.contains("[[site]]") {
        command.args(one);
    }
    command.env("KEEPGATE_TOKEN", "kgt_a_b").envs(env.iter().copied());
    run(command)
}

#[test]
fn a_list_of_centers_comes_from_flags_variable_or_file() {
    let (a, b) = ("http://127.0.0.1:7001", "http://127.0.0.1:7002");
    let both = format!("{a},{b}");
    let site = "[upstream.u]\naddresses = \"a:1\"\n[[site]]\nservice = \"s\"\nupstream = \"u\"\n";
    let good = [
        checked(&[], "", &["--center", a, "--center", b]),
        checked(&[], "", &["--center", &both]),
        checked(&[("KEEPGATE_CENTER", &both)], "", &[]),
        checked(&[], &format!("center = [\"{a}\", \"{b}\"]\n"), &[]),
        checked(&[], &format!("center = \"{a}\"\n"), &[]),
        checked(&[], &format!("[gate]\ncenter = [\"{a}\", \"{b}\"]\n{site}"), &[]),
    ];
    for said in good {
        assert_eq!(said.code, 0, "{said:?}");
    }
    let twice = format!("`center`: the center `{a}` is named twice; leave one");
    let seventeen: Vec<String> = (1..=17).map(|n| format!("http://127.0.0.1:{n}")).collect();
    let plain = "http://center.example:7480";
    let bad = [
        (checked(&[], "", &["--center", a, "--center", a]), twice.as_str()),
        (checked(&[("KEEPGATE_CENTER", &format!("{both},{a}"))], "", &[]), &twice),
        (checked(&[], &format!("[gate]\ncenter = [\"{a}\", \"{a}\"]\n{site}"), &[]), &twice),
        (checked(&[], "", &["--center", &seventeen.join(",")]), "17 centers, at most 16"),
        (
            checked(&[], "", &["--center", a, "--center", plain]),
            "`http://center.example:7480` is nei",
        ),
        (checked(&[], "", &["--center", a, "--center", "here"]), "`here`"),
        (checked(&[("KEEPGATE_CENTER", &format!("{a},"))], "", &[]), "`` is not a URL"),
    ];
    for (said, part) in bad {
        assert_eq!(said.code, 64, "{part}: {said:?}");
        assert!(said.stderr.contains(part), "no `{part}` in {said:?}");
    }
}

/// The same list is good for the commands: they ask the first center that they can connect to.
#[test]
fn commands_ask_a_center_that_is_there() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let file =
        scratch.write("keepgate.toml", &format!("center = [\"{nobody}\", \"{}\"]\n", center.url));
    let status = |center: &str, config: bool| {
        let mut command = keepgate();
        command.args(["status", "--json"]).env("KEEPGATE_TOKEN_FILE", center_token(&scratch));
        match config {
            true => command.arg("--config").arg(&file),
            false => command.env("KEEPGATE_CENTER", center),
        };
        run(command)
    };
    for said in [
        status(&format!("{nobody},{}", center.url), false),
        status(&format!("{},{nobody}", center.url), false),
        status("", true),
    ] {
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = status(&format!("{nobody},{nobody}"), false);
    assert_eq!(said.code, 1, "{said:?}");
    let said = status(&format!("{}/a,{}/b", center.url, center.url), false);
    assert!(said.code == 64 && said.stderr.contains("the same path"), "{said:?}");
    let said = status(&format!("{},http://192.0.2.1:7480", center.url), false);
    assert!(said.code == 64 && said.stderr.contains("in the clear"), "{said:?}");
    center.process.stop();
}

fn center_token(scratch: &Scratch) -> String {
    scratch.join("data").join("admin.token").to_str().unwrap().to_owned()
}
