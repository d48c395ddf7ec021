//! Durations with examples: a histogram, and for each of its buckets the trace of one request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Histogram;
use crate::trace::TraceId;

/// A histogram whose buckets may each name a request that is recorded in a trace.
#[derive(Debug, Default)]
pub struct Timing<const N: usize> {
    pub(crate) histogram: Histogram<N>,
    /// By bucket. Only requests that are traced take the lock; it is empty before the first.
    exemplars: Mutex<Vec<Option<Exemplar>>>,
}

/// One request of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// Its trace.
    pub trace_id: TraceId,
    /// How long it took, in nanoseconds.
    pub ns: u64,
    /// When it was noted, in milliseconds of Unix time.
    pub unix_ms: u64,
}

impl<const N: usize> Timing<N> {
    /// Notes one duration; `bounds_ns` as in [`Histogram::note`]. `trace`: the trace in which it is
    /// recorded, which takes the place of its bucket's last one.
    pub fn note(&self, bounds_ns: &[u64; N], took: Duration, trace: Option<TraceId>) {
        let bucket = self.histogram.note(bounds_ns, took);
        let Some(trace_id) = trace else { return };
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let exemplar = Exemplar { trace_id, ns, unix_ms: crate::unix_ms() };
        let mut exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
        if exemplars.is_empty() {
            exemplars.resize(N + 1, None);
        }
        if let Some(place) = exemplars.get_mut(bucket) {
            *place = Some(exemplar);
        }
    }

    /// The example of each bucket, the last one beyond all; empty: there is none.
    pub fn exemplars(&self) -> Vec<Option<Exemplar>> {
        self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
