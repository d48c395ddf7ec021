//! SIGHUP, and files that change, of a running gate or center: certificates and the token.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Running, Scratch, eventually, gate_args, run, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

/// A certificate for 127.0.0.1 with this name, and its key, written over what was there.
pub(crate) fn certificate(scratch: &Scratch, name: &str) {
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

#[test]
fn certificates_and_the_token_are_read_anew() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let settings = "name = \"orders\"\n[limits]\ndefault = \"off\"\n";
    let file = scratch.write("orders/service.toml", settings);
    center.ok(&["apply", file.parent().unwrap().to_str().unwrap()]);
    let create = ["token", "create", "--role", "gate", "--service", "orders"];
    let token = scratch.write("gate.token", &center.ok(&create));
    certificate(&scratch, "first");
    let (cert, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let mut args = gate_args(&center.url, token.to_str().unwrap(), "127.0.0.1:0");
    args.extend(["--tls-cert", cert, "--tls-key", key]);
    let mut gate = Running::keepgate(&args);
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    let address = url.strip_prefix("https://").unwrap().to_owned();
    eventually("it is ready", || {
        (Http::new(&admin, &[]).get("/readyz").status == 200).then_some(())
    });

    // Callers on kept connections, all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let callers = ["--http1.1", "--http2"].map(|version| {
        let (url, stop) = (format!("{url}/[1-50]"), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut command = Command::new("curl");
                command.args(["-sk", version, "--rate", "200/s", "-w", "%{http_code}\\n"]);
                let said = run({
                    command.args(["-o", "/dev/null", &url]);
                    command
                });
                // The service has no route.
                assert_eq!((said.code, said.stdout.as_str()), (0, "404\n".repeat(50).as_str()));
            }
        })
    });

    certificate_changes(&gate, &scratch, &address, "cert.pem");
    certificate(&scratch, "fourth");
    eventually("the fourth is shown", || shown(&address).contains("fourth").then_some(()));
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }

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

/// The certificate changes by signal and by itself; one that cannot be used (the file `broken` holds
/// nothing) changes nothing.
fn certificate_changes(program: &Running, scratch: &Scratch, address: &str, broken: &str) {
    assert!(shown(address).contains("first"));
    certificate(scratch, "second");
    program.send(libc::SIGHUP);
    eventually("the second is shown", || shown(address).contains("second").then_some(()));
    certificate(scratch, "third");
    eventually("the third is shown", || shown(address).contains("third").then_some(()));
    scratch.write(broken, "neither certificate nor key\n");
    program.send(libc::SIGHUP);
    program.says("what was used before stays");
    assert!(shown(address).contains("third"));
}

#[test]
fn a_center_reads_its_certificate_anew_and_outlives_a_hangup() {
    let scratch = Scratch::new();
    certificate(&scratch, "first");
    let (data, cert, key) =
        (scratch.join("data"), scratch.join("cert.pem"), scratch.join("key.pem"));
    let [data, cert, key] = [&data, &cert, &key].map(|path| path.to_str().unwrap());
    let args = ["center", "--json", "--data", data, "--listen", "127.0.0.1:0"];
    let mut center =
        Running::keepgate(&[&args[..], &["--tls-cert", cert, "--tls-key", key]].concat());
    let url = text(&center.json(), "/center");
    certificate_changes(&center, &scratch, url.strip_prefix("https://").unwrap(), "key.pem");
    center.stop_but(&["what was used before stays"]);

    // Without one there is nothing to read, and it stays.
    let mut center = Running::keepgate(&args);
    let url = text(&center.json(), "/center");
    center.send(libc::SIGHUP);
    center.says("there is no file to read anew");
    assert_eq!(Http::new(&url, &[]).get("/healthz").status, 200);
    center.stop();
}

#[test]
fn up_speaks_tls() {
    let scratch = Scratch::new();
    certificate(&scratch, "first");
    let (data, cert, key) =
        (scratch.join("data"), scratch.join("cert.pem"), scratch.join("key.pem"));
    let [data, cert, key] = [&data, &cert, &key].map(|path| path.to_str().unwrap());
    let mut up = Running::keepgate(&[
        "up",
        "--json",
        "--data",
        data,
        "--upstream",
        "http://127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
        "--center",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--tls-cert",
        cert,
        "--tls-key",
        key,
    ]);
    let url = text(&up.json(), "/gate");
    certificate_changes(&up, &scratch, url.strip_prefix("https://").unwrap(), "key.pem");
    up.stop_but(&["what was used before stays"]);
}
