//! `keepgate top`: what is heavy right now. Without a subcommand the ports of this host; `clients`
//! says who makes the requests of a service.

mod clients;
mod ports;

use clap::Subcommand;

use crate::exit::Exit;

/// Show used and free ports of each destination, live; `top clients`: who makes the requests
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Keys: up/down choose, s sort, / filter, n namespace, enter the doctor's report, q quit.
Set NO_COLOR to turn colors off; no information is in color alone."
)]
pub(crate) struct Args {
    #[command(flatten)]
    ports: ports::PortsArgs,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    Clients(clients::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.what {
        Some(What::Clients(args)) => clients::run(&args),
        None => ports::run(args.ports),
    }
}
