//! `keepgate completions`: completion scripts for shells.

use clap_complete::Shell;

use crate::config;
use crate::exit::Exit;
use crate::style;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate completions bash > /etc/bash_completion.d/keepgate
  keepgate completions zsh > ~/.zfunc/_keepgate
  keepgate completions fish > ~/.config/fish/completions/keepgate.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut config::command_line(), "keepgate", &mut script);
    style::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
