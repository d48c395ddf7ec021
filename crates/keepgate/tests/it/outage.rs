//! The center dies under load. Decisions go on until the replica is older than `max_age`; its
//! age can be seen; then 503, never 403; and when the center is back all is well within 2 s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Nginx, Running, Scratch, eventually, free_port, skipped, text};
use crate::requests::{Http, metric};
use crate::separate::{CenterProcess, policies};

const MAX_AGE: Duration = Duration::from_secs(4);
/// Heartbeats come this often: the age at the kill is at most this.
const HEARTBEAT: Duration = Duration::from_secs(1);

struct Seen {
    at: Instant,
    status: u16,
    retry_after: bool,
    no_store: bool,
}

#[test]
fn decisions_outlive_the_center() {
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else {
        return skipped("nginx is not installed");
    };
    let scratch = Scratch::new();
    let policy = policies(&scratch, "4s");
    let data = scratch.join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    let center = CenterProcess::start(None, &data, &listen);
    center.ok(&["apply", &policy]);
    let bob = center.ok(&["key", "create", "--principal", "user::\"bob\""]).trim().to_owned();
    let token = scratch.write(
        "gate.token",
        &center.ok(&["token", "create", "--role", "gate", "--service", "orders"]),
    );
    let upstream = format!("http://127.0.0.1:{}", nginx.port);
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
        &upstream,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    let mut http = Http::new(&url, &[("X-Api-Key", &bob)]);
    eventually("the gate decides", || (http.get("/orders").status == 200).then_some(()));
    let mut admin = Http::new(&admin, &[]);
    let mut age = || {
        metric(&admin.get("/metrics").text(), "keepgate_gate_replica_age_seconds")
            .expect("the age is a metric")
    };

    let done = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let flows: Vec<_> = (0..4)
        .map(|_| {
            let (done, seen, url, bob) =
                (Arc::clone(&done), Arc::clone(&seen), url.clone(), bob.clone());
            std::thread::spawn(move || {
                let mut http = Http::new(&url, &[("X-Api-Key", &bob)]);
                while !done.load(Ordering::Relaxed) {
                    let answer = http.get("/orders");
                    seen.lock().unwrap().push(Seen {
                        at: Instant::now(),
                        status: answer.status,
                        retry_after: answer.header("retry-after").is_some(),
                        no_store: answer.header("cache-control") == Some("no-store"),
                    });
                }
            })
        })
        .collect();

    let killed = Instant::now();
    center.process.kill();
    let young = age();
    eventually("the age grows", || (age() > young + 1.5).then_some(()));
    eventually("the replica is too old", || (http.get("/orders").status == 503).then_some(()));
    let is_refused = || seen.lock().unwrap().iter().any(|seen| seen.status == 503);
    eventually("the others are told, too", || is_refused().then_some(()));

    let restarted = Instant::now();
    let center = CenterProcess::start(None, &data, &listen);
    let listening = Instant::now();
    eventually("the gate decides again", || (http.get("/orders").status == 200).then_some(()));
    let well = listening.elapsed();
    eventually("the replica is young", || (age() < 2.0).then_some(()));
    done.store(true, Ordering::Relaxed);
    for flow in flows {
        flow.join().expect("a request got no answer");
    }

    let seen = seen.lock().unwrap();
    eprintln!("{} requests; well {well:?} after the center listened", seen.len());
    let refused: Vec<&Seen> = seen.iter().filter(|seen| seen.status != 200).collect();
    assert!(!refused.is_empty());
    for refused in &refused {
        assert_eq!(refused.status, 503, "only `cannot decide`, never `denied`");
        assert!(refused.retry_after && refused.no_store, "503 says when to come back");
    }
    let first = refused.iter().map(|seen| seen.at).min().expect("not empty");
    let lasted = first.duration_since(killed);
    eprintln!("decided for {lasted:?} without a center");
    assert!(lasted >= MAX_AGE - HEARTBEAT - Duration::from_millis(500), "{lasted:?}");
    assert!(first < restarted);
    assert!(well < Duration::from_secs(2), "{well:?}");
    gate.stop_but(&["lost the center; decisions continue"]);
    center.process.stop();
}
