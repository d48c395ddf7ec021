//! `keepgate doctor`: hands its words to `ports::doctor`, which the small `keepgate-doctor` runs
//! too, so that help and behavior are the same.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs as _};

use keepgate_ports::doctor::{self, Program};

use crate::exit::Exit;

/// Report whether this host runs out of ports for outgoing connections, and why
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = doctor::args::help("keepgate doctor"))]
pub(crate) struct Args {
    /// See `keepgate doctor --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    words: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let program = Program {
        name: "keepgate doctor",
        version: env!("CARGO_PKG_VERSION"),
        resolve: Some(resolve),
    };
    Ok(match doctor::run(&program, args.words) {
        doctor::Exit::Healthy => Exit::Ok,
        doctor::Exit::Finding => Exit::Failure,
        doctor::Exit::CouldNotLook => Exit::Denied,
        doctor::Exit::Usage => Exit::Usage,
    })
}

fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}
