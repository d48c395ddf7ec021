//! A worker's thread, from its runtime to its end.

use std::sync::Arc;
use std::time::Duration;

use super::front::Front;
use super::listen::{self, Listener};
use crate::phase::worker::Worker;

/// Serves until the gate stops, then lets what is open end within its bound.
pub(crate) fn run(
    front: &Arc<Front>,
    worker: &Arc<Worker>,
    listeners: Vec<Listener>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drain = front.common.settings.bounds.drain;
    let result = runtime.block_on(async {
        let accepting = listeners.into_iter().map(|one| listen::accept(front, worker, one));
        futures_util::future::try_join_all(accepting).await?;
        drained(worker, drain).await;
        Ok(())
    });
    // Whatever is still open had its time.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Ends when this worker's connections have, or when their time is over.
async fn drained(worker: &Worker, within: Duration) {
    let open = async {
        while worker.metrics.open.value() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(within, open).await.is_err() {
        let left = worker.metrics.open.value();
        tracing::info!(left, "connections were cut off at the end");
    }
}
