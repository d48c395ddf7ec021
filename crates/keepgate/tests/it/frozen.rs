//! A center that is frozen, not dead: its connections stay open and say nothing. What a gate cannot
//! decide any more ends as such when the route's `max_age` is over, and not before.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::{PATIENCE, Running, Scratch, eventually, skipped, text};
use crate::requests::{Http, metric};
use crate::separate::CenterProcess;

const MAX_AGE: Duration = Duration::from_secs(6);
/// The age at the freeze is at most this and the way to the center.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// From the end of `max_age` to the end of the stream, as promised.
const PROMISED: Duration = Duration::from_millis(1_200);
const USER: &str = "x-user: alice";

/// An upstream of long answers: an event, then nothing; or a WebSocket that says a word.
fn long_answers() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut upgrades = false;
                loop {
                    let mut line = String::new();
                    if !matches!(reader.read_line(&mut line), Ok(1..)) {
                        return;
                    }
                    upgrades |= line.to_ascii_lowercase().starts_with("upgrade:");
                    if line == "\r\n" {
                        break;
                    }
                }
                let answer: &[u8] = if upgrades {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                      Upgrade: websocket\r\n\r\n\x81\x04open"
                } else {
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\nd\r\ndata: open\n\n\n\r\n"
                };
                let _ = reader.get_mut().write_all(answer);
                // Until the other side has enough.
                let _ = reader.read_to_end(&mut Vec::new());
            });
        }
    });
    port
}

/// A gate of the service before this upstream.
struct Gate {
    process: Running,
    address: String,
    admin: String,
}

impl Gate {
    fn start(center: &CenterProcess, token: &Path, upstream: &str, protocol: &str) -> Gate {
        let mut process = Running::keepgate(&[
            "gate",
            "--json",
            "--center",
            &center.url,
            "--token-file",
            token.to_str().unwrap(),
            "--service",
            "orders",
            "--upstream",
            upstream,
            "--upstream-protocol",
            protocol,
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        let screen = process.json();
        let address = text(&screen, "/gate").trim_start_matches("http://").to_owned();
        Gate { process, address, admin: text(&screen, "/admin") }
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&Http::new(&self.admin, &[]).get("/metrics").text(), name).unwrap_or_default()
    }
}

/// How a long exchange ended, and when.
struct End {
    at: SystemTime,
    what: String,
}

/// Asks for it and waits until it is open; then for its end.
#[expect(clippy::disallowed_methods, reason = "a test is not the product")]
fn raw(gate: &Gate, path: &str, more: &str) -> JoinHandle<End> {
    let mut stream = TcpStream::connect(&gate.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{USER}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.windows(4).any(|part| part == b"open") {
        let mut some = [0; 1024];
        let n = stream.read(&mut some).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&some[..n]);
    }
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let at = SystemTime::now();
        let what = match (read, rest.as_slice()) {
            (Err(error), _) => format!("{error}"),
            (_, [0x88, _, a, b, ..]) => u16::from_be_bytes([*a, *b]).to_string(),
            (_, rest) if rest.ends_with(b"0\r\n\r\n") => "whole".to_owned(),
            (_, b"" | b"\r\n" | b"\n\r\n") => "broken".to_owned(),
            (_, rest) => String::from_utf8_lossy(rest).into_owned(),
        };
        End { at, what }
    })
}

/// The same over HTTP/2, by curl: 92 is a stream that was reset.
fn by_curl(gate: &Gate, path: &str) -> JoinHandle<End> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--no-buffer", "--http2-prior-knowledge", "--max-time", "60"]);
    command.args(["--write-out", "", "-H", USER, &format!("http://{}{path}", gate.address)]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "data: open");
    std::thread::spawn(move || {
        let code = child.wait().unwrap().code();
        End { at: SystemTime::now(), what: format!("curl {}", code.unwrap_or(-1)) }
    })
}

/// A gRPC library's stream.
fn by_grpc(python: &Path, script: &Path, gate: &Gate) -> JoinHandle<End> {
    let mut command = Command::new(python);
    command.arg(script);
    let mut peer = Running::start(command, &["quiet", &gate.address]);
    assert_eq!(peer.line(), "open");
    std::thread::spawn(move || {
        let said: Value = peer.json();
        let at = UNIX_EPOCH + Duration::from_secs_f64(said["ended"].as_f64().unwrap());
        End { at, what: text(&said, "/code") }
    })
}

/// A gRPC library's server; it ends with its standard input.
struct GrpcServer(Child);

impl GrpcServer {
    fn start(python: &Path, script: &Path) -> (GrpcServer, String) {
        let mut command = Command::new(python);
        command.arg(script).arg("serve-grpc").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        (GrpcServer(child), port.trim().to_owned())
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_frozen_center_ends_what_cannot_be_decided_any_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/fixtures/clients/bin/python");
    let script = root.join("crates/gate/tests/clients/streams.py");
    if !python.exists() {
        return skipped("target/fixtures/clients is missing; run scripts/fetch-fixtures");
    }
    let scratch = Scratch::new();
    scratch.write(
        "policy/service.toml",
        &format!(
            "name = \"orders\"\nmax_age = \"{}s\"\n[limits]\ndefault = \"off\"\n\
             [identify.trusted_header]\nheader = \"x-user\"\npeers = [\"127.0.0.0/8\"]\n",
            MAX_AGE.as_secs()
        ),
    );
    scratch.write(
        "policy/routes.toml",
        "[[route]]\nmethod = \"*\"\npath = \"/orders/{id}\"\n\
         [[route]]\nmethod = \"GET\"\npath = \"/patient\"\nmax_age = \"1h\"\n",
    );
    scratch.write("policy/all.cedar", "permit (principal == user::\"alice\", action, resource);\n");
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", scratch.join("policy").to_str().unwrap()]);
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token);
    let (server, port) = GrpcServer::start(&python, &script);
    let grpc_upstream = format!("http://127.0.0.1:{port}");
    let long = format!("http://127.0.0.1:{}", long_answers());
    let one = Gate::start(&center, &token, &long, "http1");
    let two = Gate::start(&center, &token, &grpc_upstream, "http2");
    for gate in [&one, &two] {
        eventually("the gate can decide", || {
            (Http::new(&gate.admin, &[]).get("/readyz").status == 200).then_some(())
        });
    }
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let streams = [
        ("WebSocket", "1013", raw(&one, "/orders/ws", upgrade)),
        ("HTTP/1.1", "broken", raw(&one, "/orders/events", "")),
        ("HTTP/2", "curl 92", by_curl(&one, "/orders/events")),
        ("gRPC", "UNAVAILABLE", by_grpc(&python, &script, &two)),
    ];
    let patient = raw(&one, "/patient", "");
    let frozen = (SystemTime::now(), Instant::now());
    center.process.send(libc::SIGSTOP);
    for (name, expected, end) in streams {
        let end = end.join().unwrap();
        assert_eq!(end.what, expected, "{name}");
        let after = end.at.duration_since(frozen.0).unwrap_or_default();
        eprintln!("{name}: {} after {after:?}", end.what);
        // The last that the gate heard was up to a heartbeat before the freeze.
        assert!(after >= MAX_AGE - HEARTBEAT - Duration::from_millis(500), "{name}: {after:?}");
        assert!(after < MAX_AGE + PROMISED, "{name}: {after:?}");
    }
    for (gate, count) in [(&one, 3.0), (&two, 1.0)] {
        assert_eq!(gate.metric("keepgate_gate_cut_total{bound=\"undecided\"}"), count);
        assert_eq!(gate.metric("keepgate_gate_cut_total{bound=\"revoked\"}"), 0.0);
        eventually("each is logged, once", || {
            let log = gate.process.stderr();
            let lines = log.lines().filter(|line| line.contains("cut short"));
            let named = lines.filter(|line| line.contains("bound=\"undecided\"")).count() as f64;
            assert!(named <= count, "{log}");
            (named == count).then_some(())
        });
    }
    let said = Http::new(&one.address, &[("x-user", "alice")]).get("/orders/7");
    assert_eq!((said.status, &said.json()["reason"]), (503, &"stale".into()));
    assert!(!patient.is_finished(), "its route takes an older replica");
    center.process.send(libc::SIGCONT);
    eventually("the gate is young again", || {
        (one.metric("keepgate_gate_replica_age_seconds") < 2.0).then_some(())
    });
    assert!(!patient.is_finished(), "it goes on");
    for gate in [one, two] {
        gate.process.stop_but(&["lost the center; decisions continue", "silent"]);
    }
    assert_eq!(patient.join().unwrap().what, "broken", "the gate stopped");
    drop(server);
    center.process.stop_but(&[]);
}
