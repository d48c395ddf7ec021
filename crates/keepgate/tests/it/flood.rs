//! A flood of many callers (a million with `scripts/long spoofed-addresses`) that are all one: each
//! request names another address in the header that a trusted proxy would set. The gate's memory stays
//! within the bound of its rule, users go on, and who was blocked before is blocked after.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Nginx, PATIENCE, Running, Scratch, eventually, skipped, text};
use crate::requests::Http;
use crate::separate::{CenterProcess, policies};

/// Addresses; a million by the environment.
fn addresses() -> u64 {
    let asked = std::env::var("KEEPGATE_SPOOFED_ADDRESSES").ok();
    asked.map_or(100_000, |asked| asked.parse().unwrap())
}

const CONNECTIONS: u64 = 4;
/// Requests written at once.
const BATCH: u64 = 250;
const USERS: usize = 50;
/// What each user asks while the flood goes on, spread over it.
const ROUNDS: u64 = 40;
/// A token is 36 s: what is gone does not come back within the test.
const BURST: usize = 100;
const RATE: f64 = 100.0 / 3600.0;
/// Fewer than the addresses would take.
const MEMORY_MIB: u64 = 16;
/// What the rule may take, and what the rest of a gate under load may: allocator, sockets' buffers,
/// the heavy hitters.
const fn bound(memory_mib: u64) -> u64 {
    (memory_mib + 6) * 1024 * 1024
}

/// Requests without a key from addresses of 10.0.0.0/8, pipelined; all must be answered 401.
struct Flood {
    stream: TcpStream,
    answered: u64,
}

impl Flood {
    #[expect(clippy::disallowed_methods, reason = "a test is not the product")]
    fn new(url: &str) -> Flood {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Flood { stream, answered: 0 }
    }

    fn ask(&mut self, addresses: impl Iterator<Item = u32>, wanted: &[u8; 3]) {
        const HEAD: &[u8] = b"HTTP/1.1 ";
        let (mut asked, mut batch) = (0, String::new());
        for address in addresses {
            let [_, b, c, d] = address.to_be_bytes();
            batch.push_str("GET /orders HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.");
            batch.push_str(&format!("{b}.{c}.{d}\r\n\r\n"));
            asked += 1;
        }
        self.stream.write_all(batch.as_bytes()).unwrap();
        let (mut held, mut chunk, mut heads) = (Vec::new(), vec![0; 256 * 1024], 0);
        while heads < asked {
            let n = self.stream.read(&mut chunk).unwrap();
            assert!(n > 0, "closed after {} answers", self.answered);
            held.extend_from_slice(&chunk[..n]);
            let mut rest = held.as_slice();
            while let Some(at) = rest.windows(HEAD.len()).position(|window| window == HEAD)
                && let Some(status) = rest.get(at + HEAD.len()..at + HEAD.len() + 3)
            {
                assert_eq!(status, wanted, "{}", String::from_utf8_lossy(rest));
                heads += 1;
                rest = &rest[at + HEAD.len() + 3..];
            }
            // What may be the beginning of a head is looked at again.
            let keep = rest.len().min(HEAD.len() + 2);
            held = rest[rest.len() - keep..].to_vec();
        }
        self.answered += asked;
    }
}

/// Asks until it is refused; how many were not.
fn until_blocked(caller: &mut Http) -> usize {
    for admitted in 0..=10 * BURST {
        match caller.get("/orders").status {
            200 => {}
            429 => return admitted,
            status => panic!("{status} after {admitted}"),
        }
    }
    panic!("it is not limited");
}

#[test]
#[ignore = "heavy: a hundred thousand requests"]
fn spoofed_addresses_cost_bounded_memory_and_free_nobody() {
    let Some(nginx) = Nginx::start(None, "127.0.0.1") else {
        return skipped("nginx is not installed");
    };
    let scratch = Scratch::new();
    let policy = policies(&scratch, "1h");
    let addresses = addresses();
    let memory_mib = (MEMORY_MIB * addresses / 1_000_000).max(1);
    let limits = format!(
        "[[rule]]\nname = \"address\"\nkey = \"address\"\nrate = \"100/h\"\nburst = 100\n\
         memory_mib = {memory_mib}\n"
    );
    scratch.write("policy/limits.toml", &limits);
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &policy]);
    let key = center.ok(&["key", "create", "--principal", "user::\"bob\""]).trim().to_owned();
    let token = center.ok(&["token", "create", "--role", "gate", "--service", "orders"]);
    let token = scratch.write("gate.token", &token);
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
        "--trusted-proxy",
        "127.0.0.0/8",
    ]);
    let url = text(&gate.json(), "/gate");
    let caller = |from: &str| Http::new(&url, &[("X-Api-Key", &key), ("X-Forwarded-For", from)]);
    eventually("the gate decides", || {
        (caller("192.0.2.9").get("/orders").status == 200).then_some(())
    });

    let mut blocked = caller("192.0.2.1");
    assert!(until_blocked(&mut blocked) >= BURST);
    let blocked_at = Instant::now();
    let mut users: Vec<Http> =
        (0..USERS).map(|number| caller(&format!("198.51.100.{number}"))).collect();
    let mut floods: Vec<Flood> = (0..CONNECTIONS).map(|_| Flood::new(&url)).collect();
    // All that a flood takes but the states of its callers: one address, which is spent.
    floods[0].ask((0..BURST).map(|_| u32::MAX), b"401");
    for flood in &mut floods {
        (0..20).for_each(|_| flood.ask((0..BATCH).map(|_| u32::MAX), b"429"));
    }
    let before = gate.resident();

    let answered = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let threads: Vec<_> = (0..CONNECTIONS)
        .zip(floods)
        .map(|(number, mut flood)| {
            let answered = Arc::clone(&answered);
            std::thread::spawn(move || {
                let mine = addresses / CONNECTIONS;
                for first in (number * mine..(number + 1) * mine).step_by(BATCH as usize) {
                    let batch = first..first + BATCH;
                    flood.ask(batch.map(|n| u32::try_from(n).unwrap()), b"401");
                    answered.fetch_add(BATCH, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut asked = 0;
    for round in 0..ROUNDS {
        // Whatever the flood's speed, users are there from its beginning to its end.
        let reached = round * addresses / ROUNDS;
        while answered.load(Ordering::Relaxed) < reached && !threads.iter().all(|t| t.is_finished())
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        for user in &mut users {
            let answer = user.get("/orders");
            assert_eq!(answer.status, 200, "round {round}: {answer:?}");
            asked += 1;
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let (took, after) = (begun.elapsed(), gate.resident());
    let grown = after.saturating_sub(before);
    assert_eq!(answered.load(Ordering::Relaxed), addresses);

    let again = until_blocked(&mut blocked);
    let refilled = blocked_at.elapsed().as_secs_f64() * RATE + 1.0;
    assert_eq!(caller("192.0.2.77").get("/orders").status, 200, "a caller never seen");
    eprintln!(
        "{addresses} addresses in {:.1} s ({:.0} a second), memory {:.1} MiB before, grown by {:.1} \
         ({:.1} bytes an address); {asked} requests of {USERS} users, all 200; the blocked caller was \
         admitted {again} times of at most {refilled:.2}",
        took.as_secs_f64(),
        addresses as f64 / took.as_secs_f64(),
        before as f64 / 1048576.0,
        grown as f64 / 1048576.0,
        grown as f64 / addresses as f64,
    );
    assert!(again as f64 <= refilled, "{again} admitted, at most {refilled}");
    assert!(grown <= bound(memory_mib), "grown by {grown} bytes at {memory_mib} MiB");
    drop((users, blocked));
    gate.stop();
    center.process.stop();
}
