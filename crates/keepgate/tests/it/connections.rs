//! 100,000 requests at concurrency 64: at most 64 connections to the upstream and exactly one to
//! the center, as the kernel counted them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::{Netns, Nginx, Running, Scratch, skipped, text};
use crate::requests::Http;
use crate::separate::{CenterProcess, policies};

const REQUESTS: u64 = 100_000;
const CALLERS: u64 = 64;

#[test]
fn a_hundred_thousand_requests_reuse_their_connections() {
    let (Some(gates), Some(callers), Some(upstreams)) = (Netns::new(), Netns::new(), Netns::new())
    else {
        return skipped("network namespaces cannot be made here");
    };
    Netns::join(&callers, &gates, 1);
    Netns::join(&gates, &upstreams, 2);
    let Some(nginx) = Nginx::start(Some(&upstreams), "10.9.2.2") else {
        return skipped("nginx is not installed");
    };
    let scratch = Scratch::new();
    let policy = policies(&scratch, "1h");
    let center = CenterProcess::start(Some(&gates), &scratch.join("data"), "127.0.0.1:0");
    // The commands run where the center is.
    let admin = |args: &[&str]| {
        let mut command = std::process::Command::new("ip");
        command
            .args(["netns", "exec", &gates.name, env!("CARGO_BIN_EXE_keepgate")])
            .args(center.with(args));
        let said = crate::harness::run(command);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.stdout
    };
    admin(&["apply", &policy]);
    let key = admin(&["key", "create", "--principal", "user::\"bob\""]).trim().to_owned();
    let token = admin(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token);

    // From here on the gate's namespace opens connections only through the gate: those to the
    // upstream are counted where they arrive, and what is left went to the center.
    let opened = || gates.counter("Tcp", "ActiveOpens");
    let arrived = || upstreams.counter("Tcp", "PassiveOpens");
    let (opened_before, arrived_before) = (opened(), arrived());
    let upstream = format!("http://10.9.2.2:{}", nginx.port);
    let mut gate = Running::keepgate_in(
        &gates,
        &[
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
            "10.9.1.2:0",
            "--admin-listen",
            "127.0.0.1:0",
        ],
    );
    let url = text(&gate.json(), "/gate");

    let sent = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (sent, url, key, name) =
                (Arc::clone(&sent), url.clone(), key.clone(), callers.name.clone());
            std::thread::spawn(move || {
                let netns = std::mem::ManuallyDrop::new(Netns { name });
                netns.enter();
                let mut http = Http::new(&url, &[("X-Api-Key", &key)]);
                // The gate may still be waiting for its first replica.
                crate::harness::eventually("the gate decides", || {
                    (http.get("/orders").status == 200).then_some(())
                });
                while sent.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                    assert_eq!(http.get("/orders").status, 200);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a request failed");
    }
    let to_upstream = arrived() - arrived_before;
    let to_center = opened() - opened_before - to_upstream;
    eprintln!(
        "{REQUESTS} requests: {to_upstream} connections to the upstream, {to_center} to the center"
    );
    assert!((1..=CALLERS).contains(&to_upstream), "{to_upstream}");
    assert_eq!(to_center, 1);
    gate.stop();
    center.process.stop();
}
