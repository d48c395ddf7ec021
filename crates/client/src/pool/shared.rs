//! What all addresses of one upstream share: its counters, and how much may be sent again.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::retries::RetryBudget;
use super::stats::Counters;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counters: Counters,
    /// The clock of the budget and of the balance counts from here.
    began: Instant,
    retries: Mutex<RetryBudget>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        let (counters, retries) = (Counters::default(), Mutex::default());
        Shared { counters, began: Instant::now(), retries }
    }

    /// Milliseconds since the beginning.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether one more request may be sent again that may have been processed. Counts it.
    pub(super) fn may_retry(&self) -> bool {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let may = retries.take(self.now_ms(), self.counters.requests.value());
        drop(retries);
        if !may {
            self.counters.retries_refused.add(1);
        }
        may
    }
}
