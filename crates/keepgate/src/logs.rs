//! Logs go to stderr, as text or as one JSON object a line; and where the environment names an OTLP
//! receiver, those of servers go there too. `KEEPGATE_LOG` filters them
//! (`info`, `warn,keepgate_gate=debug`, ..); a filter that does not parse stops the start.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cmd::Global;
use crate::exit::usage;
use crate::telemetry::log_layer;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Starts logging for this process.
pub(crate) fn start(global: &Global) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&global.log).map_err(|e| {
        usage(format!("expected a log filter (KEEPGATE_LOG, --log), got `{}`: {e}", global.log))
    })?;
    let log = tracing_subscriber::registry().with(filter).with(log_layer());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => {
            let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with(lines.with_ansi(color)).init();
        }
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
}
