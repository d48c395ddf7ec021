//! A gate that its center knows by a client certificate and not by a token.

use std::path::Path;

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::harness::{Running, Scratch, eventually, keepgate_ok, text};
use crate::requests::Http;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate and its key to `NAME.pem` and `NAME.key`.
    fn issue(&self, scratch: &Scratch, file: &str, san: SanType, last_year: i32) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        scratch.write(&format!("{file}.pem"), &certificate.pem());
        scratch.write(&format!("{file}.key"), &key.serialize_pem());
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

const OWN: &str = "spiffe://prod.example/gate";

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Started {
    gate: Running,
    admin: String,
}

fn start(scratch: &Scratch, center: &str, file: &str) -> Started {
    let (cert, key) = (scratch.join(&format!("{file}.pem")), scratch.join(&format!("{file}.key")));
    let ca = scratch.join("ca.pem");
    let mut gate = Running::keepgate(&[
        "gate",
        "--json",
        "--center",
        center,
        "--center-cert",
        shown(&cert),
        "--center-key",
        shown(&key),
        "--ca-file",
        shown(&ca),
        "--service",
        "orders",
        "--upstream",
        "http://127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let admin = text(&gate.json(), "/admin");
    Started { gate, admin }
}

impl Started {
    fn is_connected(&self) -> bool {
        let page = Http::new(&self.admin, &[]).get("/metrics").text();
        page.lines().any(|line| line == "keepgate_gate_replica_connected 1")
    }

    /// It has tried more than once, in vain.
    fn is_refused(&self) {
        let failed = || {
            let page = Http::new(&self.admin, &[]).get("/metrics").text();
            let name = "keepgate_gate_replica_disconnects_total ";
            let lines =
                page.lines().filter_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
            lines.sum::<u64>() >= 2
        };
        eventually("it was refused", || failed().then_some(()));
        assert!(!self.is_connected());
    }

    fn follows(&self) {
        eventually("it follows", || self.is_connected().then_some(()));
    }
}

#[test]
fn a_gate_follows_by_its_certificate() {
    let scratch = Scratch::new();
    let (ca, next) = (Ca::new(), Ca::new());
    let server = |file: &str, ca: &Ca| {
        ca.issue(&scratch, file, SanType::IpAddress("127.0.0.1".parse().unwrap()), 2100);
    };
    server("center", &ca);
    scratch.write("ca.pem", &ca.pem);
    scratch.write("clients.pem", &ca.pem);
    let data = scratch.join("data");
    let paths = ["center.pem", "center.key", "clients.pem"].map(|name| scratch.join(name));
    let run = |listen: &str| {
        let mut center = Running::keepgate(&[
            "center",
            "--json",
            "--data",
            shown(&data),
            "--listen",
            listen,
            "--witness-wait",
            "0s",
            "--tls-cert",
            shown(&paths[0]),
            "--tls-key",
            shown(&paths[1]),
            "--client-ca",
            shown(&paths[2]),
        ]);
        let url = text(&center.json(), "/center");
        (center, url)
    };
    let (center, url) = run("127.0.0.1:0");
    let (token, root) = (data.join("admin.token"), scratch.join("ca.pem"));
    let ok = |args: &[&str]| {
        let more = ["--center", &url, "--token-file", shown(&token), "--ca-file", shown(&root)];
        keepgate_ok(&[args, &more[..]].concat())
    };
    let service = scratch.write("orders/service.toml", "name = \"orders\"\n");
    ok(&["apply", shown(service.parent().unwrap())]);
    let create = ["token", "create", "--role", "gate", "--service", "orders", "--certificate", OWN];
    let id = ok(&create);
    let listed = ok(&["token", "list"]);
    assert!(listed.contains(id.trim()) && listed.contains(OWN), "{listed}");

    // The right name, without any token.
    ca.issue(&scratch, "gate", uri(OWN), 2100);
    let gate = start(&scratch, &url, "gate");
    gate.follows();
    // A name that may not follow, and what has expired.
    ca.issue(&scratch, "other", uri("spiffe://prod.example/other"), 2100);
    let other = start(&scratch, &url, "other");
    other.gate.says("none of its names may follow: it has `spiffe://prod.example/other`");
    ca.issue(&scratch, "old", uri(OWN), 2020);
    let old = start(&scratch, &url, "old");
    old.is_refused();
    assert!(!other.is_connected());
    let announced = [
        "refuses this token",
        "the center is not reached",
        "lost the center",
        "what was used before stays",
    ];
    other.gate.stop_but(&announced);
    old.gate.stop_but(&announced);

    // Another authority takes over: the center reads it anew, and so does the gate its certificate.
    scratch.write("clients.pem", &next.pem);
    center.send(libc::SIGHUP);
    center.says("the certificate was read anew");
    next.issue(&scratch, "second", uri(OWN), 2100);
    let second = start(&scratch, &url, "second");
    second.follows();
    let late = start(&scratch, &url, "gate");
    late.is_refused();
    late.gate.stop_but(&announced);
    next.issue(&scratch, "gate", uri(OWN), 2100);
    gate.gate.send(libc::SIGHUP);
    gate.gate.says("the certificate toward the center, the token and the CA of the center");
    center.stop();
    let (center, _) = run(url.strip_prefix("https://").unwrap());
    let streams = || gate.gate.stderr().matches("following the center").count();
    eventually("it follows with the new one", || {
        (streams() >= 2 && gate.is_connected()).then_some(())
    });

    // Revoked: the streams end.
    ok(&["token", "revoke", id.trim()]);
    gate.gate.says("the token or certificate was revoked, or has expired");
    assert!(!gate.is_connected());
    for started in [gate, second] {
        started.gate.stop_but(&announced);
    }
    center.stop();
}
