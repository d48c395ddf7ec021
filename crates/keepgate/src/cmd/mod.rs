//! The command line: one file per subcommand.
//!
//! To add a subcommand `x`, write `src/cmd/x.rs` with a `pub(crate) struct Args` (derives
//! [`clap::Args`]; its doc comment is the help text) and
//! `pub(crate) fn run(args: Args) -> anyhow::Result<Exit>`, add `mod x;` and, in the list below,
//! `X => x,`. A command that needs an async runtime builds it with [`runtime`].

mod access;
pub(crate) mod apply;
mod audit;
mod center;
mod check;
mod completions;
mod conformance;
mod diff;
mod directory;
mod doctor;
mod entity;
mod export;
mod gate;
mod help_markdown;
mod history;
mod import;
pub(crate) mod key;
mod lab;
mod log;
mod plan;
mod request;
mod role;
mod rollback;
mod service;
mod session;
mod show;
mod status;
mod token;
mod top;
mod tune;
mod up;
mod user;
mod why;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::logs::LogFormat;
use crate::style;

/// Keeps permission checks up when the crawler comes.
#[derive(Debug, Parser)]
#[command(
    name = "keepgate",
    version,
    max_term_width = 100,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  keepgate up --demo                          the whole system with a small service to try it on
  keepgate up --upstream http://127.0.0.1:3000 --policy ./policy
  keepgate apply ./policy --dry-run           what would change
  keepgate doctor                             are the ports of this host running out, and why

Exit codes: 0 ok, 1 failure or finding, 2 denied or could not look, 64 usage.
A value is taken from its flag, else from the environment, else from the file given with
--config, else it is the default."
)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// The subcommand.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// TOML file with values for flags; flags and environment variables override it
    #[arg(long, global = true, env = "KEEPGATE_CONFIG", value_name = "F", display_order = 900)]
    config: Option<PathBuf>,
    /// Format of log lines on stderr
    #[arg(
        long,
        global = true,
        env = "KEEPGATE_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        display_order = 901
    )]
    pub(crate) log_format: LogFormat,
    /// Which log lines are shown: a level, or levels by module
    #[arg(
        long,
        global = true,
        env = "KEEPGATE_LOG",
        default_value = "warn",
        value_name = "FILTER",
        display_order = 902
    )]
    pub(crate) log: String,
}

macro_rules! commands {
    ($($variant:ident => $module:ident,)*) => {
        /// The subcommands; their help is in their own files.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $(

                $variant($module::Args),
            )*
        }

        impl Command {
            /// Runs the one that was given.
            pub(crate) fn run(self) -> anyhow::Result<Exit> {
                match self {
                    $(Command::$variant(args) => $module::run(args),)*
                }
            }
        }
    };
}

// In the order of the help text.
commands! {
    Up => up,
    Center => center,
    Gate => gate,
    Apply => apply,
    Export => export,
    Import => import,
    Check => check,
    Why => why,
    Access => access,
    Token => token,
    Session => session,
    Key => key,
    Request => request,
    Plan => plan,
    Role => role,
    User => user,
    Entity => entity,
    Service => service,
    Audit => audit,
    History => history,
    Show => show,
    Diff => diff,
    Rollback => rollback,
    Log => log,
    Status => status,
    Doctor => doctor,
    Top => top,
    Conformance => conformance,
    Completions => completions,
    Tune => tune,
    Lab => lab,
    HelpMarkdown => help_markdown,
}

/// When something ends that begins now, in Unix seconds.
pub(crate) fn ends_in(ms: u64) -> anyhow::Result<u64> {
    Ok(now_unix_s()?.saturating_add(ms / 1_000))
}

/// Now, in Unix seconds.
pub(crate) fn now_unix_s() -> anyhow::Result<u64> {
    use anyhow::Context as _;
    use std::time::{SystemTime, UNIX_EPOCH};
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).context("this host's clock is before 1970")?;
    Ok(now.as_secs())
}

/// The term of what takes another's place: `never`, or how long it is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Term {
    /// Until it is revoked.
    Never,
    /// So many milliseconds.
    For(u64),
}

impl std::str::FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Term, String> {
        match text {
            "never" => Ok(Term::Never),
            text => keepgate_policy::duration::parse_ms(text)
                .map(Term::For)
                .map_err(|e| format!("{e}; or `never`")),
        }
    }
}

/// When something ends: a duration from now, or a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(u64);

impl Until {
    /// Seconds since the Unix epoch.
    pub(crate) fn unix_s(self) -> u64 {
        self.0
    }
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Until, String> {
        use keepgate_policy::{duration, instant};
        let now = now_unix_s().map_err(|e| e.to_string())?;
        let at = match duration::parse_ms(text) {
            Ok(ms) => now.saturating_add(ms / 1_000),
            Err(_) => {
                instant::parse(text).map_err(|e| format!("{e}; or a duration such as `8h`"))?
            }
        };
        if at <= now || at > instant::LAST {
            return Err(format!("expected a time in the future, got `{text}`"));
        }
        Ok(Until(at))
    }
}

/// The end of a grant or a membership, for people; empty where it has none.
pub(crate) fn shown_until(until_unix_s: Option<u64>, now_unix_s: u64) -> String {
    match until_unix_s {
        None => String::new(),
        Some(at) if at <= now_unix_s => format!("ended {}", style::date(at)),
        Some(at) => format!("until {}", style::date(at)),
    }
}

/// The request of a rotation.
pub(crate) fn rotation(
    overlap_ms: u64,
    term: Option<Term>,
) -> anyhow::Result<keepgate_api::Rotate> {
    let (expires_unix_s, never_expires) = match term {
        None => (None, false),
        Some(Term::Never) => (None, true),
        Some(Term::For(ms)) => (Some(ends_in(ms)?), false),
    };
    Ok(keepgate_api::Rotate { overlap_s: overlap_ms / 1_000, expires_unix_s, never_expires })
}

/// When something ends, for people.
pub(crate) fn shown_end(expires_unix_s: Option<u64>, now_unix_s: u64) -> String {
    match expires_unix_s {
        None => "never".to_owned(),
        Some(at) if at <= now_unix_s => format!("{}, expired", style::date(at)),
        Some(at) => style::date(at),
    }
}

/// A runtime for a command that serves: a thread for each core.
pub(crate) fn server_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(keepgate_policy::DECISION_STACK)
        .build()
        .context("starting a runtime")
}

/// A runtime for a command that talks to a few servers: one thread.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")
}
