//! Permits: exact counts, given back whatever happens, in bounded memory.

use std::sync::atomic::{AtomicU32, Ordering};

use keepgate_limit::concurrency::{Concurrency, KEYS_PER_SHARD};
use keepgate_limit::hash::{Fingerprint, Sort};
use proptest::prelude::*;

fn key(number: u64) -> Fingerprint {
    crate::seed().wide(Sort::Principal, u128::from(number))
}

proptest! {
    /// Against a plain count for each key.
    #[test]
    fn counts_are_exact(steps in proptest::collection::vec((0..4_u64, any::<bool>()), 1..200)) {
        let table = Concurrency::new();
        let mut held = [const { Vec::new() }; 4];
        for (number, acquire) in steps {
            let own = &mut held[number as usize];
            if acquire {
                match table.acquire(key(number), 3) {
                    Ok((permit, count)) => {
                        own.push(permit);
                        prop_assert!(count as usize == own.len() && count <= 3);
                    }
                    Err(count) => prop_assert!(count == 3 && own.len() == 3),
                }
            } else {
                own.pop();
            }
            prop_assert_eq!(table.under_way(key(number)) as usize, own.len());
        }
        prop_assert_eq!(table.keys(), held.iter().filter(|own| !own.is_empty()).count());
        drop(held);
        prop_assert_eq!(table.keys(), 0);
    }
}

#[test]
fn threads_never_exceed_the_limit_and_leave_nothing() {
    let table = Concurrency::new();
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    if let Ok((permit, _)) = table.acquire(key(1), 5) {
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 5);
    assert_eq!((table.keys(), table.under_way(key(1))), (0, 0));
}

/// More keys under way than are told apart: the rest share, so are stricter, and come back.
#[test]
fn a_flood_of_keys_under_way_is_bounded() {
    let table = Concurrency::new();
    let mut permits = Vec::new();
    let mut refused = 0;
    for number in 0..400_000 {
        match table.acquire(key(number), 2) {
            Ok((permit, _)) => permits.push(permit),
            Err(_) => refused += 1,
        }
    }
    assert!(table.keys() <= 64 * KEYS_PER_SHARD);
    assert!(refused > 100_000, "{refused}");
    // A key that is told apart keeps its own count.
    assert!(table.acquire(key(0), 2).is_ok());
    drop(permits);
    assert_eq!(table.keys(), 0);
    assert!(table.acquire(key(399_999), 1).is_ok());
}

#[test]
fn a_limit_of_zero_leaves_no_trace() {
    let table = Concurrency::new();
    assert_eq!(table.acquire(key(1), 0).map(|(_, count)| count), Err(0));
    assert_eq!(table.keys(), 0);
}
