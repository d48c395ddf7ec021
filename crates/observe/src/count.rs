//! Numbers that any thread may change. All of them are relaxed: each is true by itself, and two of
//! them read together may be of different moments.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; wraps beyond 2^64.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that comes back: each [`Held`] counts one until it is dropped.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One of what a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Gauge {
    /// One more, until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.rise();
        Held(self)
    }

    /// One more. The caller owns a guard that calls [`Gauge::fall`] when it is dropped.
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less: undoes one [`Gauge::rise`].
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are held now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fall();
    }
}

/// Durations, counted in `N` buckets and one beyond them.
///
/// Its bounds belong to the metric, not to each worker's histogram: whoever notes and whoever
/// shows passes the same ones, in nanoseconds and ascending.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    buckets: [Counter; N],
    beyond: Counter,
    sum_ns: Counter,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            buckets: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            sum_ns: Counter::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Notes one duration; one of exactly a bound is in that bound's bucket. The place of its bucket;
    /// `N`: beyond all.
    pub fn note(&self, bounds_ns: &[u64; N], took: Duration) -> usize {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bounds_ns.iter().position(|bound| ns <= *bound).unwrap_or(N);
        self.buckets.get(bucket).unwrap_or(&self.beyond).add(1);
        self.sum_ns.add(ns);
        bucket
    }

    /// Durations in each bucket, without those of the buckets before it; the last is beyond all.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().chain([&self.beyond]).map(Counter::value)
    }

    /// Nanoseconds in all.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_comes_back_however_it_is_left() {
        let gauge = Gauge::default();
        let held = gauge.hold();
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = gauge.hold();
            assert_eq!(gauge.value(), 2);
            panic!("left early");
        }));
        assert!(failed.is_err());
        assert_eq!(gauge.value(), 1);
        drop(held);
        assert_eq!(gauge.value(), 0);
    }

    #[test]
    fn a_bound_is_in_its_own_bucket() {
        let histogram = Histogram::default();
        for ns in [0, 10, 11, 20, 21, 1_000] {
            histogram.note(&[10, 20], Duration::from_nanos(ns));
        }
        histogram.note(&[10, 20], Duration::MAX);
        assert_eq!(histogram.counts().collect::<Vec<_>>(), [2, 2, 3]);
    }
}
