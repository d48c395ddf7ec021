//! SIGINT and SIGTERM as a future: the first asks for a clean end; a second ends at once.

use crate::exit::Exit;
use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The two signals that mean "stop", registered.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Registers; from here on the signals no longer end the process by themselves.
    pub(crate) fn register() -> anyhow::Result<Stop> {
        let interrupt = signal(SignalKind::interrupt()).context("registering SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("registering SIGTERM")?;
        Ok(Stop { interrupt, terminate })
    }

    /// Waits for the first one. From then on the second ends the process at once.
    pub(crate) async fn wait_twice(&mut self) {
        let signal = self.wait().await;
        tracing::info!(signal, "stopping; a second signal ends at once");
        if let Ok(mut second) = Stop::register() {
            tokio::spawn(async move {
                let signal = second.wait().await;
                tracing::warn!(signal, "ended at once");
                std::process::exit(i32::from(Exit::Failure as u8));
            });
        }
    }

    /// Waits for the first one; its name.
    pub(crate) async fn first(&mut self) -> &'static str {
        self.wait().await
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
