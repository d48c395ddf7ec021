//! `keepgate top upstreams`: does a gate reuse its connections, and how many ports has it left?
//!
//! Asks the gate's admin listener. What it prints is made by [`draw`] from values alone.

mod draw;

use keepgate_gate::PortsAnswer;

use crate::exit::Exit;
use crate::style::{self, Paint};

/// How a gate reuses its connections to upstreams, and the ports that it has left
///
/// Ends with 0, or with 1 if ports are short: an upstream has only those left that the gate leaves to
/// others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate top upstreams
  keepgate top upstreams --gate http://127.0.0.1:8081 --json")]
pub(crate) struct Args {
    /// The gate's admin listener (its --admin-listen)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    gate: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let answer: PortsAnswer =
        super::super::runtime()?.block_on(super::ask_gate(&args.gate, "/ports"))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&draw::screen(&answer, Paint::stdout()))?;
    }
    let is_short = answer.upstreams.iter().flat_map(|one| &one.buckets).any(draw::is_short);
    Ok(if is_short { Exit::Failure } else { Exit::Ok })
}
