//! `keepgate token`: tokens of the admin API, of decision callers and of gates.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use keepgate_api::{MadeToken, NewToken, Token, Tokens};
use serde_json::json;

use crate::admin::{Admin, CenterArgs, segment};
use crate::exit::{Exit, usage};
use crate::secret;
use crate::style::{self, Paint, Table};

/// Make, list and revoke tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate token create --role gate --service orders --out gate.token
  keepgate token list
  keepgate token revoke 4f9c2a7e1b03")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print it, alone, on stdout; it is never shown again
    Create {
        /// What it may do
        #[arg(long, value_enum)]
        role: TokenRole,
        /// The service, for the roles gate and pep
        #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
        service: Option<String>,
        /// A note for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Write the token to this file, mode 0600, in place of printing it
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        out: Option<PathBuf>,
        /// Print id and token as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// List tokens, without their secrets
    List {
        /// Revoked ones too
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Revoke a token and close the connections that use it
    Revoke {
        /// The token's id, the part between the underscores
        id: String,
        #[command(flatten)]
        center: CenterArgs,
    },
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// Everything, tokens included
    Admin,
    /// Read and write services, the directory and keys
    Editor,
    /// Read what an editor reads
    Viewer,
    /// Follow one service
    Gate,
    /// Ask for decisions
    Pep,
}

impl TokenRole {
    fn name(self) -> &'static str {
        match self {
            TokenRole::Admin => "admin",
            TokenRole::Editor => "editor",
            TokenRole::Viewer => "viewer",
            TokenRole::Gate => "gate",
            TokenRole::Pep => "pep",
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    match args.action {
        Action::Create { role, service, note, out, json, center } => {
            if role == TokenRole::Gate && service.is_none() {
                return Err(usage("a gate's token is for one service: pass --service NAME"));
            }
            let mut admin = center.connect()?;
            let answer = runtime.block_on(create(&mut admin, role, service.as_deref(), &note))?;
            let line = format!("{}\n", answer.token);
            match &out {
                Some(path) => keep(&mut admin, &runtime, path, &line, &answer.id)?,
                None if json => style::print_json(&answer)?,
                None => style::print(&line)?,
            }
        }
        Action::List { all, json, center } => {
            let mut admin = center.connect()?;
            let tokens = runtime.block_on(admin.load_all::<Tokens>("/v1/tokens"))?;
            let tokens = tokens.iter().filter(|token| all || !is_revoked(token));
            if json {
                style::print_json(&json!({ "tokens": tokens.collect::<Vec<_>>() }))?;
            } else {
                let members = ["id", "role", "service", "note"];
                let mut table = Table::new(if all {
                    &["id", "role", "service", "note", "state"]
                } else {
                    &members
                });
                for token in tokens {
                    let state = if is_revoked(token) { "revoked" } else { "" };
                    let cells = [&token.id, &token.role, &token.service, &token.note];
                    table.row(cells.into_iter().cloned().chain([state.to_owned()]));
                }
                style::print(&table.render(Paint::stdout()))?;
            }
        }
        Action::Revoke { id, center } => {
            let mut admin = center.connect()?;
            // Whoever pastes the whole token means its id.
            let id = id.strip_prefix("kgt_").and_then(|rest| rest.split('_').next()).unwrap_or(&id);
            runtime.block_on(admin.delete(&format!("/v1/tokens/{}", segment(id))))?;
            style::print(&format!("revoked {id}\n"))?;
        }
    }
    Ok(Exit::Ok)
}

/// Writes a new token to a file; where that fails nobody holds it, so it is revoked.
fn keep(
    admin: &mut Admin,
    runtime: &tokio::runtime::Runtime,
    path: &Path,
    line: &str,
    id: &str,
) -> anyhow::Result<()> {
    let Err(error) = secret::write(path, line) else {
        return style::print(&format!("wrote token {id} to {}\n", path.display()));
    };
    let revoked = runtime.block_on(admin.delete(&format!("/v1/tokens/{}", segment(id))));
    Err(match revoked {
        Ok(_) => error.context("the new token was revoked again"),
        Err(_) => error.context(format!("run `keepgate token revoke {id}`: nobody holds it")),
    })
}

/// Whether a token of the center's list is good no more.
pub(crate) fn is_revoked(token: &Token) -> bool {
    token.revoked_unix_s.is_some()
}

/// Makes a token.
pub(crate) async fn create(
    admin: &mut Admin,
    role: TokenRole,
    service: Option<&str>,
    note: &str,
) -> anyhow::Result<MadeToken> {
    let (role, service) = (role.name().to_owned(), service.unwrap_or_default().to_owned());
    admin.post("/v1/tokens", &NewToken { role, service, note: note.to_owned() }).await
}
