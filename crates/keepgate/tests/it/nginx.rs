//! `keepgate up --upstream` before a real nginx, with an OpenAPI document and policies of one's
//! own; a right revoked while requests flow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Nginx, PATIENCE, Running, Scratch, skipped, text};
use crate::requests::{Center, Http};
use crate::separate::policies;

/// How often a role is revoked and assigned again.
const ROUNDS: usize = 10;

#[test]
fn a_revoked_role_is_refused_within_100_ms_and_nothing_else_fails() {
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else {
        return skipped("nginx is not installed");
    };
    let scratch = Scratch::new();
    let policy = policies(&scratch, "1h");
    let data = scratch.join("data");
    let upstream = format!("http://127.0.0.1:{}", nginx.port);
    let mut up = Running::up(&upstream, &policy, &data);
    let screen = up.json();
    let (gate, center) = (text(&screen, "/gate"), text(&screen, "/center"));
    let admin = std::fs::read_to_string(text(&screen, "/admin_token_file")).unwrap();
    let mut center = Center::new(&center, &admin);
    let mut key = |who: &str| {
        let body = json!({ "principal": { "type": "user", "id": who } });
        text(&center.post("/v1/services/orders/keys", &body), "/key")
    };
    let (alice, bob) = (key("alice"), key("bob"));

    // What nginx serves comes through, and only that which is a route and is permitted.
    let mut as_bob = Http::new(&gate, &[("X-Api-Key", &bob)]);
    // A new key is followed like any other change.
    crate::harness::eventually("bob's key has arrived", || {
        (as_bob.get("/orders").status == 200).then_some(())
    });
    assert_eq!(as_bob.get("/orders").text(), "{\"orders\":[]}\n");
    let one = as_bob.get("/orders/7");
    assert_eq!(one.status, 200);
    assert!(one.text().contains("/orders/7") && one.text().contains("bob"), "{}", one.text());
    assert_eq!(as_bob.send("POST", "/orders", "{}").status, 403);
    assert_eq!(as_bob.get("/nginx-status").status, 404);
    assert_eq!(Http::new(&gate, &[]).get("/orders").status, 401);

    // Requests flow all the while: alice's must all be 200, bob's 200 or 403 and nothing else.
    let done = Arc::new(AtomicBool::new(false));
    let refusals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let flow = |key: String, watched: bool| {
        let (done, refusals, gate) = (Arc::clone(&done), Arc::clone(&refusals), gate.clone());
        std::thread::spawn(move || {
            let mut http = Http::new(&gate, &[("X-Api-Key", &key)]);
            let (mut allowed, mut denied) = (0_u64, 0_u64);
            while !done.load(Ordering::Relaxed) {
                match http.get("/orders").status {
                    200 => allowed += 1,
                    403 if watched => {
                        refusals.lock().unwrap().push(Instant::now());
                        denied += 1;
                    }
                    status => panic!("{status} in between"),
                }
            }
            (allowed, denied)
        })
    };
    let flows = [flow(alice, false), flow(bob.clone(), true)];
    let edge = json!({ "member": { "type": "user", "id": "bob" }, "role": { "type": "role", "id": "orders-reader" } });
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        refusals.lock().unwrap().clear();
        let revoked = Instant::now();
        center.post("/v1/roles/revoke", &edge);
        let refused = loop {
            if let Some(first) = refusals.lock().unwrap().first() {
                break *first;
            }
            assert!(revoked.elapsed() < PATIENCE, "bob was never refused");
            std::thread::sleep(Duration::from_millis(1));
        };
        delays.push(refused.duration_since(revoked));
        center.post("/v1/roles/assign", &edge);
        crate::harness::eventually("bob reads again", || {
            (as_bob.get("/orders").status == 200).then_some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    for flow in flows {
        let (allowed, denied) = flow.join().expect("a request failed otherwise");
        eprintln!("{allowed} allowed, {denied} denied");
        assert!(allowed > 0);
    }
    // From sending the revocation to the first refusal. The median of ten: one stall of a busy
    // machine is not the gate's.
    delays.sort();
    eprintln!("revoked to refused: {delays:?}");
    assert!(delays[ROUNDS / 2] < Duration::from_millis(100), "{delays:?}");
    up.stop();
}
