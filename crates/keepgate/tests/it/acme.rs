//! Certificates by ACME, from a real authority for tests: Pebble, which asks for the proof at the gate's
//! own port and finds names at its own name server.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::{Running, Scratch, eventually, free_port, gate_args, run, skipped, text};
use crate::reload::certificate;
use crate::requests::Http;
use crate::separate::CenterProcess;

/// Programs that end with the test.
struct Authority(Vec<Child>);

impl Drop for Authority {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Authority {
    /// An authority at this port, whose certificates live for so long. All names lead to this host,
    /// and proofs are asked for at `gate`.
    fn start(scratch: &Scratch, port: u16, gate: u16, seconds: u32) -> Authority {
        let (dns, management) = (free_port(), free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": scratch.join("cert.pem"),
            "privateKey": scratch.join("key.pem"),
            "httpPort": 1,
            "tlsPort": gate,
            "certificateValidityPeriod": seconds,
        }});
        let config = scratch.write("pebble.json", &config.to_string());
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}")]);
        names.args(["-management", &format!("127.0.0.1:{}", free_port())]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(config).args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        // It waits at random before it asks, otherwise.
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        Authority(vec![quiet(&mut names), quiet(&mut pebble)])
    }
}

/// Issuer and serial number of the certificate that is shown for a name.
fn shown(port: u16, name: &str) -> Option<String> {
    let mut client = Command::new("sh");
    let script = "openssl s_client -connect \"$0\" -servername \"$1\" </dev/null 2>/dev/null | \
                  openssl x509 -noout -issuer -serial";
    client.args(["-c", script, &format!("127.0.0.1:{port}"), name]);
    let said = run(client);
    (said.code == 0).then_some(said.stdout)
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn certificates_are_obtained_renewed_and_kept() {
    if Command::new("pebble")
        .arg("-help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        skipped("pebble is not installed");
        return;
    }
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &scratch.service("orders")]);
    let create = ["token", "create", "--role", "gate", "--service", "orders"];
    let token = scratch.write("gate.token", &center.ok(&create));
    certificate(&scratch, "authority");
    let (port, authority_port) = (free_port(), free_port());
    let authority = Authority::start(&scratch, authority_port, port, 20);
    let (listen, kept) = (format!("127.0.0.1:{port}"), scratch.join("acme"));
    let directory = format!("https://127.0.0.1:{authority_port}/dir");
    let ca = scratch.join("cert.pem");
    let names = ["a.shop.example", "b.shop.example"];
    let mut args = gate_args(&center.url, token.to_str().unwrap(), &listen);
    args.extend([
        "--acme-host",
        names[0],
        "--acme-host",
        names[1],
        "--acme-dir",
        kept.to_str().unwrap(),
        "--acme-accept-terms",
        "--acme-directory",
        &directory,
        "--acme-ca-file",
        ca.to_str().unwrap(),
    ]);
    eventually("the authority is up", || shown(authority_port, "localhost"));
    let mut gate = Running::keepgate(&args);
    let screen = gate.json();
    assert!(text(&screen, "/gate").starts_with("https://"));
    let admin = text(&screen, "/admin");
    let issued = |name: &str| shown(port, name).filter(|said| said.contains("Pebble"));
    let first = names.map(|name| eventually("it has a certificate", || issued(name)));
    assert_ne!(first[0], first[1], "each name has its own");
    // A name that is not the gate's has none, and a proof is shown to nobody who does not ask.
    assert_eq!(shown(port, "c.shop.example"), None);
    // Nobody else reads the keys.
    assert_eq!(mode(&kept), 0o700);
    for file in ["account.json", "a.shop.example.pem", "b.shop.example.pem"] {
        assert_eq!(mode(&kept.join(file)), 0o600, "{file}");
    }
    // Renewed while it runs.
    let renewed = eventually("it is renewed", || issued(names[0]).filter(|now| *now != first[0]));
    let page = Http::new(&admin, &[]).get("/metrics").text();
    assert!(page.contains("keepgate_gate_acme_failures_total 0\n"), "{page}");
    let ends = "keepgate_gate_acme_certificate_ends_seconds{host=\"a.shop.example\"} ";
    assert!(
        page.lines().any(|line| line.strip_prefix(ends).is_some_and(|end| end != "0")),
        "{page}"
    );

    // Without its authority it says so, and goes on with what it has; so does the next process.
    drop(authority);
    gate.says("no certificate could be obtained");
    assert!(issued(names[0]).is_some());
    gate.stop_but(&["no certificate could be obtained"]);
    let mut gate = Running::keepgate(&args);
    gate.json();
    let held = eventually("it has the certificate that was kept", || issued(names[0]));
    assert!(held == renewed || held != first[0], "{held}");
    gate.stop_but(&["no certificate could be obtained"]);
    center.process.stop();
}

#[test]
fn what_no_authority_can_do_is_refused_before_anything_starts() {
    let scratch = Scratch::new();
    let token = scratch.write("gate.token", "kgt_a_b");
    let dir = scratch.join("acme");
    for (more, says) in [
        (&["--acme-host", "a.example"][..], "--acme-dir"),
        (&["--acme-host", "a.example", "--acme-dir", "DIR"], "--acme-accept-terms"),
        (&["--acme-host", "*.example", "--acme-dir", "DIR", "--acme-accept-terms"], "wildcard"),
        (&["--acme-host", "127.0.0.1", "--acme-dir", "DIR", "--acme-accept-terms"], "`127.0.0.1`"),
    ] {
        let mut command = crate::harness::keepgate();
        command.args([
            "gate",
            "--check-config",
            "--service",
            "a",
            "--upstream",
            "http://127.0.0.1:1",
        ]);
        command.arg("--token-file").arg(&token);
        command.args(more.iter().map(|word| word.replace("DIR", dir.to_str().unwrap())));
        let said = run(command);
        assert_eq!(said.code, 64, "{more:?}: {said:?}");
        assert!(said.stderr.contains(says), "{more:?}: {said:?}");
    }
    assert!(!dir.exists());
}
