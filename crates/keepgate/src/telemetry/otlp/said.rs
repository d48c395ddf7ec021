//! What the log says of a receiver that takes nothing.

/// What was logged of a receiver: that it takes nothing, once, and that it does again.
pub(super) struct Said<'w> {
    what: &'w str,
    failing: bool,
}

impl<'w> Said<'w> {
    /// Nothing was logged yet.
    pub(super) fn of(what: &'w str) -> Said<'w> {
        Said { what, failing: false }
    }

    pub(super) fn note(&mut self, sent: Result<(), String>) {
        let what = self.what;
        match sent {
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(
                    error,
                    "the OTLP receiver does not take {what}; they are dropped and counted"
                );
            }
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the OTLP receiver takes {what} again");
            }
            _ => {}
        }
    }
}
