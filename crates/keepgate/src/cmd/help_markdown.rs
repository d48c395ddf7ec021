//! `keepgate help-markdown`: all help texts as one Markdown document, `docs/cli.md`.
//!
//! Hidden from the help. A test holds `docs/cli.md` against it.

use std::fmt::Write as _;

use clap::Command;

use crate::config;
use crate::exit::Exit;
use crate::style;

const INTRODUCTION: &str = "\
# The command line

Made from the help texts by `keepgate help-markdown`; do not edit.

Exit codes: 0 ok, 1 failure or finding, 2 denied or could not look, 64 usage.

Every command takes the global options that the first section shows.

A value is taken from its flag, else from the environment (`KEEPGATE_*`), else from the TOML file
given with `--config` (or `KEEPGATE_CONFIG`), else it is the default. In the file, a key at the top
is meant for every command with a flag of that name; a key in a command's table for that command.
A key can have `_` for each `-`. A gate's file can also have sites: see gate.md.

```toml
center = \"https://center.example.com:7480\"
token-file = \"/etc/keepgate/token\"

[gate]
service = \"orders\"
upstream = \"http://127.0.0.1:3000\"
```
";

/// Print all help texts as Markdown
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<Exit> {
    style::print(&document())?;
    Ok(Exit::Ok)
}

fn document() -> String {
    let mut command = config::command_line().disable_help_subcommand(true).term_width(100);
    command.build();
    let mut text = INTRODUCTION.to_owned();
    section(&mut command, "keepgate", &mut text);
    text
}

fn section(command: &mut Command, path: &str, text: &mut String) {
    let mut shown = command.clone().bin_name(path).term_width(100);
    if path != "keepgate" {
        // The global options are the same everywhere; once is enough.
        shown = shown.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    }
    let help = shown.render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## `{path}`\n\n```text\n{}\n```\n", help.trim_end());
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        section(sub, &path, text);
    }
}
