//! What the listeners and connections of all workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use keepgate_observe::Counter;
use keepgate_serve::Places;
use tokio::sync::watch;

use crate::exchange::ongoing::List;
use crate::phase::worker::Common;

/// See the module.
pub(crate) struct Front {
    /// What their requests share.
    pub(crate) common: Arc<Common>,
    pub(crate) tls: Option<tokio_rustls::TlsAcceptor>,
    /// The clock of `places` counts from here.
    pub(crate) began: Instant,
    /// Connections of callers, over all workers.
    pub(crate) places: Places,
    /// Exchanges that are under way, by worker.
    pub(crate) ongoing: Box<[Arc<List>]>,
    /// Exchanges that were decided again.
    pub(crate) redecided: Counter,
    /// Set once, when the gate stops.
    pub(crate) stopping: AtomicBool,
    pub(crate) stop: watch::Sender<bool>,
}

impl Front {
    /// On the clock of the places.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells everybody that the gate stops.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
    }

    /// Ends when the gate is told to stop.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            // The sender lives as long as the gate; its end is the end too.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }
}
