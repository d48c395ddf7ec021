//! What a policy did, counted by many threads that do not wait for each other.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads beyond this many share their counts.
const STRIPES: usize = 8;

/// Requests let through and refused.
#[derive(Debug, Default)]
pub(super) struct Done([Stripe; STRIPES]);

/// Of some threads, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe {
    passed: AtomicU64,
    refused: AtomicU64,
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The stripe of this thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own(usize);

impl Own {
    #[inline]
    pub(super) fn of_thread() -> Own {
        Own(OWN.with(|own| {
            if own.get() == usize::MAX {
                own.set(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES);
            }
            own.get()
        }))
    }
}

impl Done {
    /// Counts requests as refused or let through.
    #[inline]
    pub(super) fn add(&self, own: Own, is_refused: bool, requests: u32) {
        if let Some(stripe) = self.0.get(own.0) {
            let count = if is_refused { &stripe.refused } else { &stripe.passed };
            count.fetch_add(u64::from(requests), Ordering::Relaxed);
        }
    }

    pub(super) fn sum(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(passed, refused), stripe| {
            (
                passed + stripe.passed.load(Ordering::Relaxed),
                refused + stripe.refused.load(Ordering::Relaxed),
            )
        })
    }
}
