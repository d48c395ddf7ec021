//! How far the end of the gate has come, and who waits for it.
//!
//! A gate that is told to stop first stays reachable, so that load balancers see that it goes
//! (`Leaving`), then takes no connection any more (`Draining`), then closes connections without an
//! exchange (`Closing`), and at last ends what is still open (`Ended`). From the beginning it asks
//! callers to go: HTTP/1.1 with `Connection: close` in each answer, HTTP/2 with GOAWAY. A connection
//! of HTTP/1.1 is not closed at once: its caller may be about to send a request.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

/// See the module. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Life {
    /// All is as always.
    Serving,
    /// It will stop: listeners are open, callers are asked to go.
    Leaving,
    /// Listeners are closed.
    Draining,
    /// Connections without an exchange are closed.
    Closing,
    /// What is still open had its time.
    Ended,
}

/// Where it is told.
#[derive(Debug)]
pub(crate) struct Clock {
    now: AtomicU8,
    changes: watch::Sender<Life>,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { now: AtomicU8::new(0), changes: watch::Sender::new(Life::Serving) }
    }
}

impl Clock {
    /// Whether it has come that far.
    pub(crate) fn is(&self, life: Life) -> bool {
        self.now.load(Ordering::Acquire) >= life as u8
    }

    /// Goes on to `life`, never back.
    pub(crate) fn advance(&self, life: Life) {
        self.now.fetch_max(life as u8, Ordering::AcqRel);
        self.changes.send_if_modified(|now| {
            let later = life > *now;
            *now = life.max(*now);
            later
        });
    }

    /// Ends when it has come that far.
    pub(crate) fn reached(&self, life: Life) -> impl Future<Output = ()> + Send + 'static {
        let mut changes = self.changes.subscribe();
        async move {
            // The sender lives as long as the gate; its end is the end too.
            let _ = changes.wait_for(|now| *now >= life).await;
        }
    }
}
