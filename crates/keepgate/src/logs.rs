//! Logs go to stderr, as text or as one JSON object a line. `KEEPGATE_LOG` filters them
//! (`info`, `warn,keepgate_gate=debug`, ..); a filter that does not parse stops the start.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::cmd::Global;
use crate::exit::usage;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => {
            let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(color).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
