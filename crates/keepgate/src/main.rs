//! The `keepgate` executable: arguments, configuration, wiring and exit codes, nothing else.
//!
//! Read it from here: [`cmd`] has one file per subcommand; [`config`] says where a value comes
//! from (flag over environment over file over default); [`exit`] says how a run ends. What the
//! commands do is in the libraries; what they print goes to stdout, logs and errors to stderr.

mod admin;
mod cmd;
mod config;
mod conformance;
mod demo;
mod exit;
mod logs;
mod origin;
mod progress;
mod reread;
mod secret;
mod signals;
mod started;
mod style;
mod telemetry;
mod tune;
mod uid;

use std::process::ExitCode;

use exit::Exit;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let cli = match config::parse(argv) {
        Ok(cli) => cli,
        Err(stop) => return stop.report().into(),
    };
    if let Err(error) = logs::start(&cli.global) {
        return exit::report(&error).into();
    }
    cli.command.run().unwrap_or_else(|error| exit::report(&error)).into()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
