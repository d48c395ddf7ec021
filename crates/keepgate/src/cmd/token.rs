//! `keepgate token`: tokens of the admin API, of decision callers and of gates.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use keepgate_api::{MadeToken, NewToken, Token, Tokens};
use keepgate_policy::duration;
use serde_json::json;

use crate::admin::{Admin, CenterArgs, segment};
use crate::cmd::{Term, ends_in, now_unix_s, rotation, shown_end};
use crate::exit::{Exit, usage};
use crate::secret;
use crate::style::{self, Paint, Table};

/// Make, list, rotate and revoke tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate token create --role gate --service orders --out gate.token
  keepgate token create --role gate --service orders --service shop --out gate.token
  keepgate token create --role gate --service orders --certificate spiffe://prod.example/gate
  keepgate token create --role editor --service orders --expires 90d
  keepgate token rotate 4f9c2a7e1b03 --overlap 1h --out gate.token
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
        /// The service, for the roles gate, pep and editor; a gate's token may name several: repeat it
        #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME", value_delimiter = ',')]
        service: Vec<String>,
        /// How long the token is valid, such as 90d; default: until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms)]
        expires: Option<u64>,
        /// A gate's client certificate that takes the place of a secret: a DNS name or a URI, such as
        /// a SPIFFE id, among its alternative names; prints the id alone
        #[arg(long, value_name = "NAME", conflicts_with = "out")]
        certificate: Option<String>,
        /// A note for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        hand: Hand,
    },
    /// List tokens, without their secrets
    List {
        /// Those that were revoked or have expired too
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// Make a token's successor and print it, alone, on stdout
    ///
    /// It has the old one's role, service and note. Give it to those who use the old one before the
    /// overlap is over.
    Rotate {
        /// The token's id, the part between the underscores
        id: String,
        /// How long the old token stays valid, such as 1h
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms, default_value = "1h")]
        overlap: u64,
        /// How long the new token is valid, such as 90d, or `never`; default: as long as the old one
        /// was meant to be
        #[arg(long, value_name = "DURATION")]
        expires: Option<Term>,
        #[command(flatten)]
        hand: Hand,
    },
    /// Revoke a token and close the connections that use it
    Revoke {
        /// The token's id, the part between the underscores
        id: String,
        #[command(flatten)]
        center: CenterArgs,
    },
}

/// Where a new token goes.
#[derive(Debug, clap::Args)]
struct Hand {
    /// Write the token to this file, mode 0600, in place of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
    /// Print id and token as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
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
    /// Follow the services that it names
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
        Action::Create { role, service, expires, certificate, note, hand } => {
            if role == TokenRole::Gate && service.is_empty() {
                return Err(usage(
                    "a gate's token is for one or more services: pass --service NAME for each",
                ));
            }
            if role != TokenRole::Gate && service.len() > 1 {
                return Err(usage(format!(
                    "a token of role `{}` is for one service: pass one --service, or make one \
                     token for each",
                    role.name()
                )));
            }
            let mut admin = hand.center.connect()?;
            let asked = NewToken {
                role: role.name().to_owned(),
                service: service.join(","),
                note,
                expires_unix_s: expires.map(ends_in).transpose()?,
                certificate: certificate.clone().unwrap_or_default(),
            };
            let answer: MadeToken = runtime.block_on(admin.post("/v1/tokens", &asked))?;
            match certificate {
                Some(_) if hand.json => style::print_json(&answer)?,
                // There is no secret: the id is what is revoked.
                Some(_) => style::print(&format!("{}\n", answer.id))?,
                None => hand.over(&mut admin, &runtime, &answer)?,
            }
        }
        Action::Rotate { id, overlap, expires, hand } => {
            let mut admin = hand.center.connect()?;
            let path = format!("/v1/tokens/{}/rotate", segment(id_of(&id)));
            let answer = runtime.block_on(admin.post(&path, &rotation(overlap, expires)?))?;
            hand.over(&mut admin, &runtime, &answer)?;
        }
        Action::List { all, json, center } => {
            let mut admin = center.connect()?;
            let tokens = runtime.block_on(admin.load_all::<Tokens>("/v1/tokens"))?;
            let now = now_unix_s()?;
            let tokens = tokens.iter().filter(|token| all || !has_ended(token, now));
            if json {
                style::print_json(&json!({ "tokens": tokens.collect::<Vec<_>>() }))?;
            } else {
                style::print(&table(tokens, now).render(Paint::stdout()))?;
            }
        }
        Action::Revoke { id, center } => {
            let mut admin = center.connect()?;
            let id = id_of(&id);
            runtime.block_on(admin.delete(&format!("/v1/tokens/{}", segment(id))))?;
            style::print(&format!("revoked {id}\n"))?;
        }
    }
    Ok(Exit::Ok)
}

/// Whoever pastes the whole token means its id.
pub(crate) fn id_of(text: &str) -> &str {
    secret::id_of(text, "kgt")
}

fn table<'a>(tokens: impl Iterator<Item = &'a Token>, now: u64) -> Table {
    let mut table = Table::new(&["id", "role", "service", "expires", "last used", "from", "note"]);
    for token in tokens {
        let ends = match token.revoked_unix_s {
            Some(_) => "revoked".to_owned(),
            None => shown_end(token.expires_unix_s, now),
        };
        let used = token.last_used_unix_s.map_or_else(|| "never".to_owned(), style::date);
        let [id, role, service] = [&token.id, &token.role, &token.service].map(String::clone);
        let [from, note] = [&token.last_used_from, &token.note].map(String::clone);
        table.row([id, role, service, ends, used, from, note]);
    }
    table
}

impl Hand {
    /// Hands a new token over; where that fails nobody holds it, so it is revoked.
    fn over(
        &self,
        admin: &mut Admin,
        runtime: &tokio::runtime::Runtime,
        made: &MadeToken,
    ) -> anyhow::Result<()> {
        hand_over(made, self.out.as_deref(), self.json, |error| {
            let path = format!("/v1/tokens/{}", segment(&made.id));
            match runtime.block_on(admin.delete(&path)) {
                Ok(_) => error.context("the new token was revoked again"),
                Err(_) => error
                    .context(format!("run `keepgate token revoke {}`: nobody holds it", made.id)),
            }
        })
    }
}

/// Prints a new token, or writes it to a file; `lost`: what becomes of the error where it cannot be
/// written.
pub(crate) fn hand_over(
    made: &MadeToken,
    out: Option<&Path>,
    json: bool,
    lost: impl FnOnce(anyhow::Error) -> anyhow::Error,
) -> anyhow::Result<()> {
    let line = format!("{}\n", made.token);
    match out {
        Some(path) => {
            secret::write(path, &line).map_err(lost)?;
            style::print(&format!("wrote token {} to {}\n", made.id, path.display()))
        }
        None if json => style::print_json(made),
        None => style::print(&line),
    }
}

/// Whether a token of the center's list is good no more at this time, in Unix seconds.
pub(crate) fn has_ended(token: &Token, now: u64) -> bool {
    token.revoked_unix_s.is_some() || token.expires_unix_s.is_some_and(|at| at <= now)
}

/// Makes a token.
pub(crate) async fn create(
    admin: &mut Admin,
    role: TokenRole,
    service: Option<&str>,
    note: &str,
) -> anyhow::Result<MadeToken> {
    let (role, service) = (role.name().to_owned(), service.unwrap_or_default().to_owned());
    let (note, expires_unix_s, certificate) = (note.to_owned(), None, String::new());
    admin.post("/v1/tokens", &NewToken { role, service, note, expires_unix_s, certificate }).await
}
