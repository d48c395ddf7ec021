//! What a policy did, counted by many threads that do not wait for each other.

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
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

impl Done {
    #[inline]
    fn own(&self) -> Option<&Stripe> {
        self.0.get(OWN.with(|own| *own))
    }

    #[inline]
    pub(super) fn pass(&self, requests: u64) {
        if let Some(own) = self.own() {
            own.passed.fetch_add(requests, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn refuse(&self, requests: u64) {
        if let Some(own) = self.own() {
            own.refused.fetch_add(requests, Ordering::Relaxed);
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
