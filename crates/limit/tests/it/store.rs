//! The store against one exact state a key, under floods and under threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepgate_limit::gcra::{Answer, FULL, Nanos, Quota};
use keepgate_limit::hash::{Fingerprint, Sort};
use keepgate_limit::store::{SMALLEST_STORE_BYTES, Store};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn key(number: u64) -> Fingerprint {
    crate::seed().wide(Sort::Address, u128::from(number))
}

fn per_minute(count: u64, burst: u32) -> Quota {
    Quota::new(count, Duration::from_secs(60), burst).expect("a quota")
}

#[test]
fn a_million_keys_do_not_free_a_blocked_one() {
    let store = Store::new(32 << 20);
    // A day a token: nothing comes back while the test looks.
    let quota = Quota::new(1, Duration::from_secs(86_400), 10).expect("a quota");
    let now = Nanos::new(SECOND);
    let blocked = key(u64::MAX);
    for _ in 0..10 {
        assert!(store.charge(blocked, &quota, 1, now).is_admitted());
    }
    let state = store.state(blocked);
    assert!(!store.charge(blocked, &quota, 1, now).is_admitted());
    for number in 0..1_000_000 {
        let _answer = store.charge(key(number), &quota, 1, now);
    }
    assert!(!store.charge(blocked, &quota, 1, now).is_admitted());
    assert!(store.state(blocked) >= state);
    let census = store.census();
    assert!(census.bytes <= 32 << 20, "{census:?}");
    assert!(store.byte_bound() <= 32 << 20);
    // A million keys, each in debt, and bytes taken for each that has a slot.
    assert!(census.keys > 950_000, "{census:?}");
    assert!(census.bytes / census.keys <= 64, "{} bytes a key", census.bytes / census.keys);
}

#[test]
fn a_flood_larger_than_the_memory_frees_nobody() {
    let store = Store::new(1 << 20);
    let quota = Quota::new(1, Duration::from_secs(86_400), 5).expect("a quota");
    let now = Nanos::new(SECOND);
    let blocked: Vec<Fingerprint> = (0..2_000).map(|n| key(1_000_000_000 + n)).collect();
    let spend = |key: &Fingerprint| {
        (0..9).filter(|_| store.charge(*key, &quota, 1, now).is_admitted()).count()
    };
    for key in &blocked {
        assert!(spend(key) <= 5);
    }
    for number in 0..1_000_000 {
        let _answer = store.charge(key(number), &quota, 1, now);
    }
    let freed = blocked.iter().map(spend).sum::<usize>();
    assert_eq!(freed, 0);
    assert!(store.census().evicted_in_debt > 100_000, "the flood did evict: {:?}", store.census());
    assert!(store.census().bytes <= 1 << 20);
}

/// At half of what would hold every slot, people who come and go are not refused.
#[test]
fn a_flood_within_the_documented_bound_refuses_nobody_else() {
    let store = Store::new(1 << 20);
    let quota = per_minute(100, 20);
    let token_ns = 600_000_000;
    let (mut now, mut flood) = (SECOND, 1_000_000_u64);
    let people: Vec<Fingerprint> = (0..100).map(key).collect();
    let step = token_ns / (store.slots() as u64 / 2);
    let mut refused = 0;
    for turn in 0..400_000_usize {
        now += step;
        flood += 1;
        let _answer = store.charge(key(flood), &quota, 1, Nanos::new(now));
        // Each person asks about once a second.
        if turn.is_multiple_of((SECOND / step / 100) as usize) {
            let person = people[turn / (SECOND / step / 100) as usize % 100];
            refused += usize::from(!store.charge(person, &quota, 1, Nanos::new(now)).is_admitted());
        }
    }
    assert_eq!(refused, 0);
}

#[test]
fn a_known_key_is_exact_in_a_flood() {
    let store = Store::new(1 << 20);
    let quota = per_minute(600, 60);
    let crawler = key(7);
    let (start, mut now, mut admitted, mut flood) = (SECOND, SECOND, 0_u64, 1_000_000);
    // Ten seconds at fifty times its limit, each request among ten of other addresses.
    while now < start + 10 * SECOND {
        admitted += u64::from(store.charge(crawler, &quota, 1, Nanos::new(now)).is_admitted());
        for _ in 0..10 {
            flood += 1;
            let _answer = store.charge(key(flood), &quota, 1, Nanos::new(now));
        }
        now += SECOND / 500;
    }
    assert_eq!(admitted, 60 + 99, "burst and rate, to the token");
}

#[test]
fn memory_is_taken_when_used_and_bounded() {
    let store = Store::new(64 << 20);
    let empty = store.census().bytes;
    assert!(empty < 1 << 20, "{empty} bytes for nothing");
    let quota = per_minute(100, 20);
    for number in 0..1_000 {
        let _answer = store.charge(key(number), &quota, 1, Nanos::new(SECOND));
    }
    assert!(store.census().bytes < empty + 1_000 * 2_100);
    assert_eq!(store.census().keys, 1_000);
    assert!(Store::new(0).byte_bound() <= SMALLEST_STORE_BYTES);
}

/// As many keys as fit are all kept with their own states, whatever splits on the way.
#[test]
fn what_splits_forgets_nothing() {
    let quota = Quota::new(1, Duration::from_secs(60), 1_000).expect("a quota");
    let now = Nanos::new(SECOND);
    let store = Store::shaped(1, 3);
    let cost = |number: u64| 1 + (number % 900) as u32;
    let grown = (0..3_000).map(|number| {
        let charge = store.charge(key(number), &quota, cost(number), now);
        assert!(charge.is_admitted());
        store.census().bytes
    });
    let grown: Vec<usize> = grown.collect();
    assert!(grown[50] < 2 * grown[0] && grown[2_999] > 50 * grown[0], "it grows with its keys");
    assert_eq!(store.census().evicted_in_debt, 0);
    assert_eq!(store.census().keys, 3_000);
    for number in 0..3_000 {
        // One token costs 60 s.
        let own = SECOND + u64::from(cost(number)) * 60 * SECOND;
        assert_eq!(store.state(key(number)), own, "key {number}");
    }
}

/// Keys evicted before a set splits are strangers to the sets it becomes, and get no more there.
#[test]
fn what_splits_remembers_whom_it_evicted() {
    let store = Store::shaped(1, 2);
    let quota = per_minute(60, 20);
    // One in four seconds: when a set is full, its oldest key is idle and goes.
    for number in 0..600 {
        let now = Nanos::new((1 + number * 4) * SECOND);
        assert!(store.charge(key(number), &quota, 1, now).is_admitted());
    }
    let before = store.census();
    assert!(before.keys <= 16 * 7, "nothing has split: {before:?}");
    let now = Nanos::new(2_401 * SECOND);
    for number in 1_000..2_000 {
        assert!(store.charge(key(number), &quota, 1, now).is_admitted());
    }
    assert!(store.census().bytes >= before.bytes + 16 * 2_048, "all have split");
    for number in 0..600 {
        let own = (2 + number * 4) * SECOND;
        assert!(store.state(key(number)) >= own, "key {number}");
    }
}

/// A caller a minute, for days: the keys of yesterday make room, and nothing grows.
#[test]
fn keys_that_are_idle_make_room() {
    let store = Store::new(1 << 20);
    let quota = per_minute(100, 20);
    for number in 0..100_000 {
        let now = Nanos::new(SECOND + number * 60 * SECOND);
        assert!(store.charge(key(number), &quota, 1, now).is_admitted());
    }
    let census = store.census();
    assert!(census.bytes < 80 << 10, "{census:?}");
}

/// Threads on keys that split while they are charged: each key gets its burst, to the token.
#[test]
fn threads_charging_what_splits_get_exactly_the_burst() {
    let quota = Quota::new(1, Duration::from_secs(86_400), 3).expect("a quota");
    let now = Nanos::new(SECOND);
    for round in 0..20_u64 {
        let store = Store::shaped(1, 3);
        let admitted: Vec<AtomicU64> = (0..4_000).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (store, admitted) = (&store, &admitted);
                scope.spawn(move || {
                    // All walk the same keys at almost the same time, so that they meet in splits.
                    for turn in 0..4_000_u64 {
                        let number = (turn + thread) % 4_000;
                        let by = key(round * 4_000 + number);
                        if store.charge(by, &quota, 1, now).is_admitted() {
                            admitted[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(store.census().evicted_in_debt, 0, "all fit");
        let wrong = admitted.iter().position(|count| count.load(Ordering::Relaxed) != 3);
        assert_eq!(wrong, None, "round {round}");
    }
}

#[test]
fn asking_charges_nothing() {
    let store = Store::new(1 << 16);
    let quota = per_minute(1, 1);
    let now = Nanos::new(SECOND);
    for _ in 0..3 {
        assert!(store.peek(key(1), &quota, 1, now).is_admitted());
        assert!(store.charge(key(1), &quota, 0, now).is_admitted());
    }
    assert_eq!(store.census().keys, 0);
    assert!(store.charge(key(1), &quota, 1, now).is_admitted());
    assert!(!store.peek(key(1), &quota, 1, now).is_admitted());
    assert!(!store.charge(key(1), &quota, 1, now).is_admitted());
    assert_eq!(store.charge(key(1), &quota, 2, now).answer, Answer::NeverFits);
}

/// Everybody spends everything, in a store for a twentieth of them: evicted keys are in full
/// debt, and whoever comes back has nothing.
#[test]
fn keys_that_spend_everything_get_nothing_back() {
    let store = Store::new(SMALLEST_STORE_BYTES);
    let quota = Quota::new(1, Duration::from_secs(86_400), 5).expect("a quota");
    let now = Nanos::new(SECOND);
    let mut admitted = vec![0; 5_000];
    // Token by token, so that a set's smallest state is reached by many keys in turn.
    for _ in 0..20 {
        for (number, count) in admitted.iter_mut().enumerate() {
            *count += u32::from(store.charge(key(number as u64), &quota, 1, now).is_admitted());
        }
    }
    assert!(admitted.iter().all(|count| *count <= 5), "{:?}", admitted.iter().max());
    assert!(store.census().evicted_in_debt > 300, "{:?}", store.census());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// In the smallest store (a few sets, always overflowing), and a clock that also goes back: no key
    /// ever gets what its own exact state would refuse.
    #[test]
    fn never_kinder_than_an_exact_state_for_each_key(
        pace in prop_oneof![Just(1_i64), Just(10), Just(100), Just(200_000_000)],
        (levels, keys) in prop_oneof![Just((1, 400_u64)), Just((2, 400)), Just((2, 4_000)), Just((3, 4_000))],
        steps in proptest::collection::vec((0..4_000_u64, -3..6_i64, 1..4_u32), 1..3_000),
    ) {
        let store = Store::shaped(1, levels);
        let quota = Quota::new(1, Duration::from_nanos(1_000), 5).expect("a quota");
        let mut exact: HashMap<u64, u64> = HashMap::new();
        let mut now = 1_000_000_i64;
        for (number, step, cost) in steps {
            let number = number % keys;
            now = (now + step * pace).max(0);
            let at = Nanos::new(now as u64);
            let own = exact.entry(number).or_insert(FULL);
            let allowed = quota.decide(*own, cost, at);
            let charge = store.charge(key(number), &quota, cost, at);
            if charge.is_admitted() {
                let Answer::Admitted { state } = allowed else {
                    return Err(TestCaseError::fail(format!("key {number} got back what it spent")));
                };
                *own = state;
            }
            prop_assert!(store.state(key(number)) >= *own, "forgot a debt of key {number}");
        }
    }
}

/// Threads on a moving clock, keys that are evicted and come back all the time: what each key was
/// admitted keeps the promise over every interval.
#[test]
fn threads_keep_the_promise_over_every_interval() {
    const TOKEN_NS: u64 = 400;
    const BURST: u64 = 3;
    let quota = Quota::new(1, Duration::from_nanos(TOKEN_NS), BURST as u32).expect("a quota");
    for (keys, levels) in [(1_u64, 1), (8, 1), (600, 1), (600, 2), (6_000, 2), (6_000, 3)] {
        let store = Store::shaped(1, levels);
        let clock = AtomicU64::new(SECOND);
        let mut log: HashMap<u64, Vec<u64>> = HashMap::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8_u64)
                .map(|thread| {
                    let (store, clock) = (&store, &clock);
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        let mut random = thread + 1;
                        for _ in 0..60_000 {
                            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            let number = (random >> 33) % keys;
                            // A token every second request or so for a single key, fewer for many.
                            let now =
                                clock.fetch_add(TOKEN_NS / 2 / keys.min(8), Ordering::Relaxed);
                            if store.charge(key(number), &quota, 1, Nanos::new(now)).is_admitted() {
                                own.push((number, now));
                            }
                        }
                        own
                    })
                })
                .collect();
            for worker in workers {
                for (number, now) in worker.join().expect("a worker") {
                    log.entry(number).or_default().push(now);
                }
            }
        });
        assert!(log.len() as u64 > keys / 2);
        for (number, mut times) in log {
            times.sort_unstable();
            // For all i <= j: j - i + 1 <= BURST + (t_j - t_i) / TOKEN. That is, with
            // u_i = i * TOKEN - t_i: u_j + TOKEN <= BURST * TOKEN + u_i for the smallest u_i before j.
            let mut smallest = i128::MAX;
            for (place, now) in times.iter().enumerate() {
                let u = place as i128 * i128::from(TOKEN_NS) - i128::from(*now);
                smallest = smallest.min(u);
                assert!(
                    u + i128::from(TOKEN_NS) <= i128::from(BURST * TOKEN_NS) + smallest,
                    "{keys} keys: key {number} got too much by {now}"
                );
            }
        }
    }
}

/// Many threads, one key: exactly the burst. Many threads, keys that crowd a few sets:
/// no key more than its burst.
#[test]
fn threads_together_get_no_more_than_the_burst() {
    let quota = Quota::new(1, Duration::from_secs(86_400), 100).expect("a quota");
    let now = Nanos::new(SECOND);
    for (keys, levels) in [(1_u64, 1), (3, 2), (64, 2), (5_000, 1), (5_000, 2), (5_000, 3)] {
        let store = Store::shaped(1, levels);
        let admitted: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let (store, admitted) = (&store, &admitted);
                scope.spawn(move || {
                    for turn in 0..20_000_u64 {
                        let number = (turn * 7 + thread * 13) % keys;
                        if store.charge(key(number), &quota, 1, now).is_admitted() {
                            admitted[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let counts: Vec<u64> = admitted.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|count| *count <= 100), "{keys} keys: {counts:?}");
        if keys <= 3 {
            assert!(counts.iter().all(|count| *count == 100), "{keys} keys: {counts:?}");
        }
    }
}

/// A new key asked by two threads in the same instant, again and again: one slot, one burst.
#[test]
fn threads_racing_for_a_new_key_share_one_slot() {
    const ROUNDS: u64 = 20_000;
    let quota = Quota::new(1, Duration::from_secs(86_400), 1).expect("a quota");
    let now = Nanos::new(SECOND);
    let store = Store::new(32 << 20);
    let (arrived, admitted) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let mut turns = 0;
                    while arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
                        turns += 1;
                        if turns % 1_000 == 0 {
                            std::thread::yield_now();
                        }
                        std::hint::spin_loop();
                    }
                    if store.charge(key(round), &quota, 1, now).is_admitted() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::SeqCst), ROUNDS);
    assert_eq!(store.census().keys, ROUNDS as usize);
}
