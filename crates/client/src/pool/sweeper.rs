//! Closing what is idle for too long, and asking the budget again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::outgoing::RequestBody;
use super::slots::Slots;

/// How often the budget is asked again.
const BUDGET_INTERVAL: Duration = Duration::from_secs(10);

/// One task an upstream closes what is idle for too long and asks the budget again. It ends when
/// nothing is open, and starts again with the next connection.
pub(super) fn start_sweeper<B: RequestBody>(slots: &Arc<Slots<B>>) {
    if slots.sweeping.swap(true, Ordering::AcqRel) {
        return;
    }
    let sweeper = Sweeper { slots: Arc::downgrade(slots) };
    let idle = slots.config.idle_timeout;
    let shortest = slots.config.max_age.map_or(idle, |age| age.min(idle));
    let period = (shortest / 4).clamp(Duration::from_millis(20), Duration::from_secs(5));
    tokio::spawn(async move {
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(period).await;
            let Some(slots) = sweeper.slots.upgrade() else { return };
            slots.sweep();
            if slots.is_quiet() {
                return;
            }
            if slots.config.max_connections.is_none() && asked.elapsed() >= BUDGET_INTERVAL {
                asked = Instant::now();
                // The files of `/proc` that it may read can block.
                let _ = tokio::task::spawn_blocking(move || slots.ask_limit()).await;
            }
        }
    });
}

/// Marks the sweeper as gone however it ends, also with its runtime.
struct Sweeper<B: RequestBody> {
    slots: Weak<Slots<B>>,
}

impl<B: RequestBody> Drop for Sweeper<B> {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.upgrade() {
            slots.sweeping.store(false, Ordering::Release);
        }
    }
}
