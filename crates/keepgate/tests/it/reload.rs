//! SIGHUP, and files that change, of a running gate: certificates and the token.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::harness::{Running, Scratch, eventually, run, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

/// A certificate for 127.0.0.1 with this name, and its key, written over what was there.
fn certificate(scratch: &Scratch, name: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    command.arg("-keyout").arg(scratch.join("key.pem"));
    command.arg("-out").arg(scratch.join("cert.pem"));
    let said = run(command);
    assert_eq!(said.code, 0, "{said:?}");
}

/// The name in the certificate that is shown there.
fn shown(address: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address]).stdin(Stdio::null());
    let said = run(command);
    let line = said.stdout.lines().find(|line| line.trim_start().starts_with("subject="));
    line.unwrap_or_else(|| panic!("{said:?}")).to_owned()
}

fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[test]
fn certificates_and_the_token_are_read_anew() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &scratch.service("orders")]);
    let create = ["token", "create", "--role", "gate", "--service", "orders"];
    let token = scratch.write("gate.token", &center.ok(&create));
    certificate(&scratch, "first");
    let (cert, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
    let mut gate = Running::keepgate(&[
        "gate",
        "--json",
        "--center",
        &center.url,
        "--token-file",
        token.to_str().unwrap(),
        "--service",
        "orders",
        "--upstream",
        &server(),
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ]);
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    let address = url.strip_prefix("https://").unwrap().to_owned();
    eventually("it is ready", || {
        (Http::new(&admin, &[]).get("/readyz").status == 200).then_some(())
    });
    assert!(shown(&address).contains("first"));

    // By signal.
    certificate(&scratch, "second");
    gate.send(libc::SIGHUP);
    eventually("the second is shown", || shown(&address).contains("second").then_some(()));
    // By itself.
    certificate(&scratch, "third");
    eventually("the third is shown", || shown(&address).contains("third").then_some(()));
    // What cannot be used changes nothing.
    scratch.write("cert.pem", "no certificate\n");
    gate.send(libc::SIGHUP);
    eventually("it is said", || gate.stderr().contains("what was used before stays").then_some(()));
    assert!(shown(&address).contains("third"));
    certificate(&scratch, "fourth");
    eventually("the fourth is shown", || shown(&address).contains("fourth").then_some(()));

    // The token: the old one is revoked only after the new one was read, and the gate follows on.
    let old = std::fs::read_to_string(&token).unwrap();
    let read = || gate.stderr().matches("the token and the CA of the center").count();
    let before = read();
    scratch.write("gate.token", &center.ok(&create));
    eventually("it is read", || (read() > before).then_some(()));
    center.ok(&["token", "revoke", old.trim()]);
    let followed = || {
        let page = Http::new(&admin, &[]).get("/metrics").text();
        page.lines().any(|line| line == "keepgate_gate_replica_connected 1")
    };
    let streams = || gate.stderr().matches("following the center").count();
    eventually("it follows with the new token", || (streams() >= 2 && followed()).then_some(()));
    gate.stop_but(&["what was used before stays", "lost the center"]);
    center.process.stop();
}
