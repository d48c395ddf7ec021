//! SIGINT and SIGTERM as a future: the first asks for a clean end; a second ends at once. SIGHUP asks
//! for files to be read anew.

use crate::exit::Exit;
use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, registered.
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Registers; from here on the signal no longer ends the process.
    pub(crate) fn register() -> anyhow::Result<Hangup> {
        Ok(Hangup(signal(SignalKind::hangup()).context("registering SIGHUP")?))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is going; so is who waits here.
            std::future::pending::<()>().await;
        }
    }
}

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
