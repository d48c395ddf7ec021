//! What a gate asserts to its upstream, verified with the keys that the center publishes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

use keepgate_gate::identify::jwks::KeySet;
use keepgate_gate::identify::jwt::Unverified;
use keepgate_policy::identify::JwtIssuer;
use serde_json::{Value, json};

use crate::harness::{Running, Scratch, eventually, gate_args, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

/// An upstream that answers with the head of each request.
fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(&[answer.as_bytes(), &head].concat());
        }
    });
    address
}

fn apply(center: &CenterProcess, scratch: &Scratch, service: &str, assertion: bool) {
    let settings = format!(
        "name = \"{service}\"\nassertion = {assertion}\n[limits]\ndefault = \"off\"\n\
         [identify.trusted_header]\nheader = \"x-user\"\npeers = [\"127.0.0.0/8\"]\n"
    );
    let file = scratch.write(&format!("{service}/service.toml"), &settings);
    scratch.write(&format!("{service}/all.cedar"), "permit (principal, action, resource);");
    let routes = "[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n";
    scratch.write(&format!("{service}/routes.toml"), routes);
    center.ok(&["apply", file.parent().unwrap().to_str().unwrap()]);
}

/// What the upstream got for alice; none: no assertion.
fn asserted(gate: &str) -> Option<String> {
    let forged = [("x-user", "alice"), ("keepgate-assertion", "forged")];
    let answer = Http::new(gate, &forged).get("/orders");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let mut lines = text.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case("keepgate-assertion"));
    found.map(|(_, value)| value.trim().to_owned())
}

fn published(center: &str, service: &str) -> Value {
    let answer = Http::new(center, &[]).get(&format!("/s/{service}/.well-known/jwks.json"));
    match answer.status {
        200 => answer.json(),
        503 => json!({"keys": []}),
        other => panic!("{other}: {}", answer.text()),
    }
}

fn verifies(token: &str, service: &str, keys: &Value) -> bool {
    let issuer: JwtIssuer = serde_json::from_value(json!({
        "issuer": "keepgate", "audience": service, "jwks_file": "x", "algorithms": ["ES256"],
    }))
    .unwrap();
    let Ok(keys) = KeySet::from_jwks(keys.to_string().as_bytes()) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let verified = Unverified::parse(token, 8192).unwrap().verify(&issuer, &keys, now);
    verified.is_ok_and(|verified| verified.id == "user::\"alice\"")
}

#[test]
fn upstreams_verify_assertions_with_the_centers_keys() {
    let scratch = Scratch::new();
    let mut center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    apply(&center, &scratch, "orders", true);
    apply(&center, &scratch, "shop", true);
    let create = ["token", "create", "--role", "gate", "--service", "orders"];
    let token = scratch.write("gate.token", &center.ok(&create));
    let upstream = format!("http://{}", mirror());
    let data = scratch.join("gate-data");
    let start = |center: &str| {
        let mut args = gate_args(center, token.to_str().unwrap(), "127.0.0.1:0");
        let at = args.iter().position(|arg| *arg == "--upstream").unwrap();
        args[at + 1] = &upstream;
        args.extend(["--data", data.to_str().unwrap(), "--check-listen", "127.0.0.1:0"]);
        let mut gate = Running::keepgate(&args);
        let screen = gate.json();
        let check = text(&screen, "/check");
        (gate, text(&screen, "/gate"), text(&screen, "/admin"), check)
    };
    let ready = |url: &str| {
        eventually("it serves", || {
            (Http::new(url, &[("x-user", "alice")]).get("/orders").status == 200).then_some(())
        });
    };
    let (gate, url, admin, check) = start(&center.url);
    ready(&url);
    let first = asserted(&url).unwrap();
    let keys = published(&center.url, "orders");
    assert!(verifies(&first, "orders", &keys), "{keys}");
    assert!(!verifies(&first, "shop", &keys), "it is for one service");
    assert_eq!(published(&center.url, "shop")["keys"], json!([]), "the gate may not follow it");
    // Another proxy that asks is told one for its upstream.
    let asking = [
        ("x-original-method", "GET"),
        ("x-original-uri", "/orders"),
        ("x-real-ip", "127.0.0.1"),
        ("x-user", "alice"),
        ("keepgate-assertion", "forged"),
    ];
    let told = Http::new(&check, &asking).get("/auth");
    assert_eq!(told.status, 200, "{}", told.text());
    assert!(verifies(told.header("keepgate-assertion").unwrap(), "orders", &keys));
    // Used again, as the count of signatures says.
    for _ in 0..5 {
        asserted(&url).unwrap();
    }
    let page = Http::new(&admin, &[]).get("/metrics").text();
    let signed = page.lines().find(|l| l.starts_with("keepgate_gate_assertions_signed_total"));
    let count: u32 = signed.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    // The workers sign on their own.
    assert!((1..=64).contains(&count), "{count}");

    // The center is started anew: the gate says its key again.
    let listen = center.url.strip_prefix("http://").unwrap().to_owned();
    center.process.stop();
    center = CenterProcess::start(None, &scratch.join("data"), &listen);
    eventually("the key is there again", || {
        (published(&center.url, "orders") == keys).then_some(())
    });

    // The gate is started anew while there is no center: it goes on with the key that is known.
    gate.stop_but(&["lost the center"]);
    center.process.stop();
    let (gate, url, ..) = start(&center.url);
    ready(&url);
    let again = asserted(&url).unwrap();
    assert!(again != first && verifies(&again, "orders", &keys));

    // Off: nothing is signed, and what a caller sends does not pass.
    center = CenterProcess::start(None, &scratch.join("data"), &listen);
    eventually("the key is said again", || {
        (published(&center.url, "orders") == keys).then_some(())
    });
    apply(&center, &scratch, "orders", false);
    eventually("it is off", || asserted(&url).is_none().then_some(()));

    // A token that is revoked takes its keys along.
    let secret = std::fs::read_to_string(&token).unwrap();
    center.ok(&["token", "revoke", secret.trim()]);
    eventually("the key is gone", || {
        let answer = published(&center.url, "orders");
        (answer["keys"] == json!([])).then_some(())
    });
    gate.stop_but(&["the center is not reached", "lost the center", "refuses this token"]);
    center.process.stop();
}
