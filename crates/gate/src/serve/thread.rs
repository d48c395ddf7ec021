//! A worker's thread, from its runtime to its end.

use std::sync::Arc;
use std::time::Duration;

use super::front::{Door, Front};
use super::life::Life;
use super::listen::{self, Listener};
use crate::phase::worker::Worker;

/// How long callers have for what they are told at the very end: a WebSocket's close, and their own.
const LAST_WORDS: Duration = Duration::from_millis(2_500);

/// Serves until the gate stops, then lets what is open end within its bound.
pub(crate) fn run(
    front: &Arc<Front>,
    worker: &Arc<Worker>,
    listeners: Vec<(Door, Listener)>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let accepting = listeners
            .into_iter()
            .map(|(door, listener)| listen::accept(front, worker, listener, door));
        futures_util::future::try_join_all(accepting).await?;
        drained(front).await;
        Ok(())
    });
    // Whatever is still open had its time.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Ends when all connections have, those of other workers too, or soon after their time is over: an
/// exchange of another worker may use a connection to the upstream that this one's runtime drives.
async fn drained(front: &Front) {
    let open = async {
        while front.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let over = async {
        front.life.reached(Life::Ended).await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = open => {}
        () = over => {
            let left = front.open();
            tracing::info!(left, "connections were cut off at the end");
        }
    }
}
