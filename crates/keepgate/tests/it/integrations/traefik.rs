//! Traefik's ForwardAuth by a client that sends what Traefik 3 sends (`pkg/middlewares/auth/forward.go`):
//! no Traefik runs here. GET, the caller's headers, `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`, `-For`.

use std::net::IpAddr;

use super::cases::{CASES, Case, Who};
use super::outcome::{Outcome, send};
use super::proxies::Way;
use super::stage::{SPOOFED, Scene, Stage, principal};
use super::table::expected;

/// Cases about what a proxy itself does with a request, before it asks.
const OF_THE_PROXY: &[&str] =
    &["host-none", "host-two", "host-bad", "connection", "connection-key", "absolute", "connect"];

#[test]
fn traefiks_contract_has_the_outcomes_of_the_gate_itself() {
    let stage = Stage::start(&[Way::Traefik]);
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|case| !OF_THE_PROXY.contains(&case.name)) {
        let told = send(stage.scene.check, Way::Traefik.caller(), &asked(&stage.scene, case));
        // Any 2xx lets the request go on; nothing else does.
        let found = Outcome::of(told.status, told.status == 200);
        let expected = expected(Way::Traefik, case.name, case.outcome);
        if found != expected {
            wrong.push(format!("{}: {found:?} ({}), not {expected:?}", case.name, told.status));
        }
        if found == Outcome::Reached {
            // `authResponseHeaders` puts these in place of what the caller sent.
            let who = match case.who {
                Who::Writer => principal("writer", Way::Traefik),
                Who::Nobody if case.name != "key-bearer" => "user::\"anonymous\"".to_owned(),
                _ => principal("reader", Way::Traefik),
            };
            if told.header("keepgate-principal") != Some(&who) {
                wrong.push(format!("{}: not {who}: {}", case.name, told.head));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    stage.gate.process.stop_but(SPOOFED);
    stage.center.process.stop();
}

/// The question about a case, as Traefik asks it with `trustForwardHeader: false`.
fn asked(scene: &Scene, case: &Case) -> Vec<u8> {
    let way = Way::Traefik;
    let request = case.request(case.name, scene.key(case.who, way));
    let request = String::from_utf8(request).unwrap();
    let head = request.split("\r\n\r\n").next().unwrap();
    let mut lines = head.lines();
    let first = lines.next().unwrap();
    let target = first.strip_prefix(case.method).unwrap().strip_suffix(" HTTP/1.1").unwrap().trim();
    let mut asked = "GET /forward-auth HTTP/1.1\r\n".to_owned();
    let mut host = "";
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        match name.to_ascii_lowercase().as_str() {
            "host" => host = value,
            // Written anew, and what is between two neighbors.
            name if name.starts_with("x-forwarded-") && !name.ends_with("prefix") => continue,
            "connection" | "content-length" | "transfer-encoding" | "expect" => continue,
            _ => {}
        }
        asked += &format!("{line}\r\n");
    }
    let address: IpAddr = way.caller();
    asked += &format!(
        "X-Forwarded-Method: {}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: {host}\r\n\
         X-Forwarded-Uri: {target}\r\nX-Forwarded-For: {address}\r\nConnection: close\r\n\r\n",
        case.method
    );
    let reader = scene.key(Who::Reader, way).unwrap();
    asked.replace("{reader}", reader).into_bytes()
}
