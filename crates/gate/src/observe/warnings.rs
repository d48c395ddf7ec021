//! Warnings about the upstream: not one for every request that it fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;

/// At most one warning in this time, a worker.
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct UpstreamWarnings {
    began: Instant,
    /// When the next warning is due, in milliseconds after `began`, and how many were left out.
    due_ms: AtomicU64,
    left_out: AtomicU64,
}

impl Default for UpstreamWarnings {
    fn default() -> UpstreamWarnings {
        let (due_ms, left_out) = (AtomicU64::new(0), AtomicU64::new(0));
        UpstreamWarnings { began: Instant::now(), due_ms, left_out }
    }
}

impl UpstreamWarnings {
    /// Warns that the upstream failed a request, or counts that it did.
    pub(crate) fn warn(&self, error: &str, request_id: &HeaderValue) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.due_ms.load(Ordering::Relaxed) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let interval = u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX);
        self.due_ms.store(now.saturating_add(interval), Ordering::Relaxed);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let request_id = request_id.to_str().unwrap_or_default();
        tracing::warn!(error, request_id, left_out, "the upstream failed a request");
    }
}
