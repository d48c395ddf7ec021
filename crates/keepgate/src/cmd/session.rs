//! `keepgate session`: who has signed in to the console.

use clap::Subcommand;
use keepgate_api::{Session, Sessions};
use serde_json::json;

use crate::admin::{CenterArgs, segment};
use crate::exit::Exit;
use crate::style::{self, Paint, Table};

/// List and end sessions of the console
///
/// A person who was removed at the identity provider keeps a session until it ends. Remove them there first,
/// so that they cannot sign in again, then end their sessions here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate session list
  keepgate session end oidc:248289761001")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List sessions that have not ended
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        center: CenterArgs,
    },
    /// End all sessions that one person or token has
    End {
        /// Who has them, as the list says: `oidc:` and a name, or the id of a token
        holder: String,
        #[command(flatten)]
        center: CenterArgs,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    match args.action {
        Action::List { json, center } => {
            let mut admin = center.connect()?;
            let mut sessions = runtime.block_on(admin.load_all::<Sessions>("/v1/sessions"))?;
            sessions.sort_by(|a, b| (&a.holder, a.began_unix_s).cmp(&(&b.holder, b.began_unix_s)));
            if json {
                style::print_json(&json!({ "sessions": sessions }))?;
            } else {
                style::print(&table(&sessions).render(Paint::stdout()))?;
            }
        }
        Action::End { holder, center } => {
            let mut admin = center.connect()?;
            runtime.block_on(admin.delete(&format!("/v1/sessions/{}", segment(&holder))))?;
            style::print(&format!("ended the sessions of {holder}\n"))?;
        }
    }
    Ok(Exit::Ok)
}

fn table(sessions: &[Session]) -> Table {
    let mut table = Table::new(&["holder", "role", "service", "began", "ends", "signed in at"]);
    for session in sessions {
        let [holder, role, service] =
            [&session.holder, &session.role, &session.service].map(String::clone);
        let [began, ends] = [session.began_unix_s, session.ends_unix_s].map(style::date);
        let issuer = session.issuer.clone().unwrap_or_else(|| "(token)".to_owned());
        table.row([holder, role, service, began, ends, issuer]);
    }
    table
}
