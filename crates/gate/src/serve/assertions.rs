//! Keeps a key for assertions to upstreams that is young and published.

use std::sync::Arc;
use std::time::Duration;

use crate::phase::worker::Common;

/// Between two looks at what the center publishes.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until it is dropped.
pub(crate) async fn run(common: Arc<Common>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let common = Arc::clone(&common);
        // The key is written into a file where there is a new one.
        let _ = tokio::task::spawn_blocking(move || renew(&common)).await;
    }
}

/// Makes a key where there is none or where it is old, has it published, and lets it sign once it is.
/// May block on a file.
pub(crate) fn renew(common: &Common) {
    // All services have one source.
    let Some(source) = common.services.first().map(|tables| &tables.source) else { return };
    let keyring = &common.keyring;
    match keyring.renew(keepgate_observe::unix_s()) {
        Ok(true) => tracing::debug!("a new key for assertions waits for its publication"),
        Ok(false) => {}
        Err(error) => {
            let error = keepgate_observe::chain(&error);
            tracing::error!(error, "there is no new key for assertions");
        }
    }
    source.publish_assertion_keys(&keyring.public());
    if keyring.publish(|key| source.is_assertion_key_published(key)) {
        tracing::debug!("assertions are signed with a new key");
        source.publish_assertion_keys(&keyring.public());
    }
}
