//! What a server tells an OTLP receiver of itself: traces, metrics and log lines (OpenTelemetry).
//!
//! Off unless the environment names a receiver, by the variables that every OpenTelemetry SDK reads
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, ..). Then [`start`] begins one thread that sends; everything else
//! only puts things into its bounded queues. INVARIANT: no request waits for it. What does not fit, or
//! is not taken in time, is dropped and counted ([`Lost`]).
//!
//! Without the cargo feature `otel` there is nothing but a warning where a receiver is named.

#[cfg(feature = "otel")]
mod otlp;

use std::sync::Arc;

use keepgate_observe::Dialect;
use keepgate_observe::span::{Lost, Tracing};

#[cfg(feature = "otel")]
pub(crate) use otlp::lines::layer as log_layer;

/// What is sent, until it is dropped; then what is left is sent, within bounds.
#[derive(Default)]
pub(crate) struct Telemetry {
    /// Which requests are recorded, and who takes their spans; none: nobody does.
    pub(crate) tracing: Option<Tracing>,
    /// What was dropped.
    pub(crate) lost: Arc<Lost>,
    #[cfg(feature = "otel")]
    sender: Option<otlp::Sender>,
}

impl Telemetry {
    /// Sends the metrics of this page too, until it has nothing more to show.
    pub(crate) fn show(&self, page: impl Fn(Dialect) -> Option<String> + Send + Sync + 'static) {
        #[cfg(feature = "otel")]
        if let Some(sender) = &self.sender {
            sender.show(page);
        }
        #[cfg(not(feature = "otel"))]
        drop(page);
    }
}

/// Begins to send, if a receiver is named. `program`: the name of the service, unless the environment
/// has another one. Must not be called on a runtime.
#[cfg(feature = "otel")]
pub(crate) fn start(program: &'static str) -> anyhow::Result<Telemetry> {
    let lookup = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    match otlp::settings::Settings::read(&lookup)? {
        None => Ok(Telemetry::default()),
        Some(settings) => {
            let (sender, tracing, lost) = otlp::start(settings, program)?;
            Ok(Telemetry { tracing, lost, sender: Some(sender) })
        }
    }
}

/// Warns where a receiver is named: this build has no exporter.
#[cfg(not(feature = "otel"))]
pub(crate) fn start(_program: &'static str) -> anyhow::Result<Telemetry> {
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT names a receiver, but this build has no OpenTelemetry \
             exporter (cargo feature `otel`): nothing is sent"
        );
    }
    Ok(Telemetry::default())
}

/// Nothing takes log lines.
#[cfg(not(feature = "otel"))]
pub(crate) fn log_layer() -> tracing_subscriber::layer::Identity {
    tracing_subscriber::layer::Identity::new()
}
