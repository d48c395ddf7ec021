//! What both limit phases cost a request, and what a key costs in memory.
//!
//! ```text
//! cargo run --release -p keepgate-limit --example limit_bench [-- --quick] [--callers 10,000]
//! ```
//!
//! Beside it runs what one would write first: a map from key to state behind sharded mutexes, with
//! the same algorithm, for both phases. Each figure is the median of three rounds, the two arms
//! taking turns. `cpu ns` is the time the threads spent on a processor (Linux counts it in
//! nanoseconds, spinning and system calls included, waiting for a processor not) over
//! requests, so that a busy machine does not count. `driver` is the loop with no limiter.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops when it cannot measure"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use keepgate_limit::gcra::{Answer, FULL};
use keepgate_limit::rules::Rate;
use keepgate_limit::{AddressKey, Caller, Limiter, Limits, Nanos, Quota, Seed, ServiceFacts};

/// Counts the bytes that are taken from the heap.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only a counter is kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// A rate nobody reaches: each request is charged in both phases.
const ADMITTED: &str = "1000000000/s";
/// A rate one busy caller exceeds at once.
const BLOCKED: &str = "100/min";

/// Room for a million keys a phase; otherwise the default, 16 and 4 MiB.
const ROOMY: &str = "memory_mib = 32";

fn rules(rate: &str, memory: &str) -> String {
    ["address", "principal"]
        .map(|key| {
            format!("[[rule]]\nname = \"{key}\"\nkey = \"{key}\"\nrate = \"{rate}\"\n{memory}\n")
        })
        .concat()
}

/// What both arms are asked: may this address and this principal make a request?
trait Arm: Sync {
    fn both_phases(&self, address: Ipv4Addr, principal: &str, now: Nanos) -> bool;
    fn address_phase(&self, address: Ipv4Addr, now: Nanos) -> bool;
}

impl Arm for Limiter {
    fn both_phases(&self, address: Ipv4Addr, principal: &str, now: Nanos) -> bool {
        let from = AddressKey::V4(address);
        let route = Some("/orders/{id}");
        let by_address = self.check_address(&from, "GET", route, now);
        if !by_address.is_admitted() {
            return false;
        }
        let caller = Caller { principal: Some(("user", principal)), ..Caller::anonymous(from) };
        self.check_principal(&caller, "GET", route, now).is_admitted()
    }
    fn address_phase(&self, address: Ipv4Addr, now: Nanos) -> bool {
        self.check_address(&AddressKey::V4(address), "GET", None, now).is_admitted()
    }
}

const SHARDS: usize = 64;

/// The obvious way: no bound, a lock a shard.
struct Sharded {
    quota: Quota,
    hasher: RandomState,
    addresses: Vec<Mutex<HashMap<Ipv4Addr, u64>>>,
    principals: Vec<Mutex<HashMap<(String, String), u64>>>,
}

impl Sharded {
    fn new(rate: &str) -> Sharded {
        let rate: Rate = rate.parse().unwrap();
        let burst = u32::try_from(rate.count()).unwrap();
        Sharded {
            quota: Quota::new(rate.count(), rate.period(), burst).unwrap(),
            hasher: RandomState::new(),
            addresses: (0..SHARDS).map(|_| Mutex::default()).collect(),
            principals: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
    fn charge(&self, state: &mut u64, now: Nanos) -> bool {
        match self.quota.decide(*state, 1, now) {
            Answer::Admitted { state: next } => {
                *state = next;
                true
            }
            Answer::Refused { .. } | Answer::NeverFits => false,
        }
    }
}

impl Arm for Sharded {
    fn both_phases(&self, address: Ipv4Addr, principal: &str, now: Nanos) -> bool {
        if !self.address_phase(address, now) {
            return false;
        }
        let key = ("user".to_owned(), principal.to_owned());
        let shard = self.hasher.hash_one(&key) as usize % SHARDS;
        let mut shard = self.principals[shard].lock().unwrap();
        self.charge(shard.entry(key).or_insert(FULL), now)
    }
    fn address_phase(&self, address: Ipv4Addr, now: Nanos) -> bool {
        let shard = self.hasher.hash_one(address) as usize % SHARDS;
        let mut shard = self.addresses[shard].lock().unwrap();
        self.charge(shard.entry(address).or_insert(FULL), now)
    }
}

fn limiter(rate: &str, memory: &str) -> Limiter {
    let limits: Limits = toml::from_str(&rules(rate, memory)).unwrap();
    let random = RandomState::new();
    let seed = u128::from(random.hash_one(1)) << 64 | u128::from(random.hash_one(2));
    let seed = Seed::new(seed.to_le_bytes());
    Limiter::compile(&limits, &ServiceFacts::default(), seed, None).unwrap()
}

/// A request costs a limiter nothing here: what the driver itself takes.
struct Nothing;

impl Arm for Nothing {
    fn both_phases(&self, address: Ipv4Addr, principal: &str, now: Nanos) -> bool {
        std::hint::black_box((address, principal, now));
        true
    }
    fn address_phase(&self, address: Ipv4Addr, now: Nanos) -> bool {
        std::hint::black_box((address, now));
        true
    }
}

/// The name of principal `number`, without touching memory but `buffer`.
fn name(number: u32, buffer: &mut [u8; 8]) -> &str {
    for (place, byte) in buffer.iter_mut().enumerate() {
        *byte = b'a' + (number >> (28 - 4 * place) & 15) as u8;
    }
    std::str::from_utf8(buffer).unwrap()
}

/// `requests` requests of `callers` callers, by `threads` threads; nanoseconds on a processor, and how many
/// were admitted.
fn drive(
    arm: &dyn Arm,
    threads: usize,
    requests: usize,
    callers: u32,
    origin: Instant,
) -> (f64, usize) {
    let barrier = Barrier::new(threads);
    let each = requests / threads;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread as u64 + 1);
                    let mut now = Nanos::ZERO;
                    let (mut admitted, mut buffer) = (0, [0; 8]);
                    barrier.wait();
                    let start = on_processor_ns();
                    for turn in 0..each {
                        if turn % 64 == 0 {
                            // A gate reads the clock for other reasons; its cost is not counted.
                            now = Nanos::since_origin(origin.elapsed() + Duration::from_secs(1));
                        }
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let number = (((random >> 32) * u64::from(callers)) >> 32) as u32;
                        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
                        let principal = name(number, &mut buffer);
                        admitted += usize::from(arm.both_phases(address, principal, now));
                    }
                    (on_processor_ns() - start, admitted)
                })
            })
            .collect();
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        (done.iter().map(|(ns, _)| ns).sum(), done.iter().map(|(_, admitted)| admitted).sum())
    })
}

/// Nanoseconds this thread has spent on a processor.
fn on_processor_ns() -> f64 {
    // The kernel brings the count up to date when it looks for another thread to run.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let requests = if quick { 400_000 } else { 1_000_000 };
    let rounds = if quick { 1 } else { 3 };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);

    println!("cores: {cores}; {requests} requests a round, median of {rounds}");
    println!();
    println!(
        "| callers | threads | keepgate cpu ns | sharded mutex cpu ns | ratio | driver cpu ns |"
    );
    println!("|---|---|---|---|---|---|");
    let origin = Instant::now();
    let only: Option<String> = std::env::args().skip_while(|a| a != "--callers").nth(1);
    for (name, count, rate, memory) in [
        ("1, blocked", 1, BLOCKED, ""),
        ("1", 1, ADMITTED, ""),
        ("10,000", 10_000, ADMITTED, ""),
        ("10,000, 1 MiB", 10_000, ADMITTED, "memory_mib = 1"),
        ("1,000,000, 32 MiB", 1_000_000, ADMITTED, ROOMY),
    ] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        for threads in [1, 2, 4, 8, 16] {
            let ours = limiter(rate, memory);
            let theirs = Sharded::new(rate);
            let arms: [&dyn Arm; 3] = [&ours, &theirs, &Nothing];
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            for round in 0..=rounds {
                for (arm, times) in arms.iter().zip(&mut times) {
                    let (spent, admitted) = drive(*arm, threads, requests, count, origin);
                    let charged = admitted == requests / threads * threads;
                    assert!(charged || rate == BLOCKED, "not the path that is to be measured");
                    // The first round fills the tables.
                    if round > 0 {
                        times.push(spent / requests as f64);
                    }
                }
            }
            let [a, b, driver] = times.map(median);
            let ratio = a / b;
            println!("| {name} | {threads} | {a:.0} | {b:.0} | {ratio:.2} | {driver:.0} |");
        }
    }

    println!();
    println!("| one million keys | bytes a key (heap) | a blocked key is still blocked |");
    println!("|---|---|---|");
    let ours = limiter(BLOCKED, ROOMY);
    memory("keepgate", &ours);
    memory("sharded mutex", &Sharded::new(BLOCKED));
}

/// Blocks a key, lets a million others come, and looks again.
fn memory(name: &str, arm: &dyn Arm) {
    let before = TAKEN.load(Ordering::Relaxed);
    let now = Nanos::new(1_000_000_000);
    let blocked = Ipv4Addr::new(192, 0, 2, 1);
    while arm.address_phase(blocked, now) {}
    for n in 0..1_000_000 {
        assert!(arm.address_phase(Ipv4Addr::from_bits(0x0a00_0000 + n), now));
    }
    let still = !arm.address_phase(blocked, now);
    let taken = TAKEN.load(Ordering::Relaxed) - before;
    println!("| {name} | {:.1} | {} |", taken as f64 / 1e6, if still { "yes" } else { "NO" });
}
