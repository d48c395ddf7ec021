//! `keepgate key`: API keys of a service's callers.

use clap::Subcommand;
use keepgate_api::{Key, Keys, MadeKey, NewKey, UidInput};
use keepgate_policy::{Uid, duration};
use serde_json::json;

use crate::admin::{Admin, ServiceArgs, segment};
use crate::cmd::{Term, ends_in, now_unix_s, rotation, shown_end};
use crate::exit::Exit;
use crate::secret;
use crate::style::{self, Paint, Table};
use crate::uid;

/// Make, list, revoke and rotate API keys of a service's callers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate key create --principal client::crawler --plan bulk --expires 90d
  keepgate key create --service orders --principal 'user::\"a b\"' --note 'nightly import'
  keepgate key rotate 4f9c2a7e1b03 --overlap 1h --expires 90d
  keepgate key list --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it, alone, on stdout; it is never shown again
    Create {
        /// Who the caller is when it shows this key: a Cedar uid such as client::"crawler", or
        /// client::crawler
        #[arg(long, value_name = "UID", value_parser = uid::parse)]
        principal: Uid,
        /// The plan whose limits apply; `keepgate plan list` lists them
        #[arg(long, value_name = "NAME")]
        plan: Option<String>,
        /// How long the key is valid, such as 90d; default: until it is revoked
        #[arg(
            long,
            visible_alias = "expires-in",
            value_name = "DURATION",
            value_parser = duration::parse_ms
        )]
        expires: Option<u64>,
        /// A note for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Print prefix and key as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// List keys, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Revoke a key at once
    Revoke {
        /// The key's prefix, the part between the underscores
        prefix: String,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Make a key's successor and print it, alone, on stdout
    Rotate {
        /// The old key's prefix
        prefix: String,
        /// How long the old key stays valid, such as 1h
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms, default_value = "1h")]
        overlap: u64,
        /// How long the new key is valid, such as 90d, or `never`; default: as long as the old one was
        /// meant to be
        #[arg(long, value_name = "DURATION")]
        expires: Option<Term>,
        /// Print prefix and key as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    super::runtime()?.block_on(act(args.action))?;
    Ok(Exit::Ok)
}

async fn act(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Create { principal, plan, expires, note, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let expires = expires.map(ends_in).transpose()?;
            let fields = Fields { plan: plan.as_deref(), expires_unix_s: expires, note: &note };
            let answer = create(&mut admin, &service, &principal, &fields).await?;
            print_key(&answer, json)
        }
        Action::List { json, service } => {
            let (mut admin, service) = service.connect().await?;
            let path = format!("/v1/services/{}/keys", segment(&service));
            let keys = admin.load_all::<Keys>(&path).await?;
            if json {
                return style::print_json(&json!({ "keys": keys }));
            }
            style::print(&table(&keys)?.render(Paint::stdout()))
        }
        Action::Revoke { prefix, service } => {
            let (mut admin, service) = service.connect().await?;
            let prefix = prefix_of(&prefix);
            admin
                .delete(&format!("/v1/services/{}/keys/{}", segment(&service), segment(prefix)))
                .await?;
            style::print(&format!("revoked {prefix}\n"))
        }
        Action::Rotate { prefix, overlap, expires, json, service } => {
            let (mut admin, service) = service.connect().await?;
            let prefix = segment(prefix_of(&prefix));
            let path = format!("/v1/services/{}/keys/{prefix}/rotate", segment(&service));
            let answer = admin.post(&path, &rotation(overlap, expires)?).await?;
            print_key(&answer, json)
        }
    }
}

/// Whoever pastes the whole key means its prefix.
pub(crate) fn prefix_of(text: &str) -> &str {
    secret::id_of(text, "kgk")
}

/// Keys as lines, as `key list` and `plan show` print them.
pub(crate) fn table(keys: &[Key]) -> anyhow::Result<Table> {
    let now = now_unix_s()?;
    let mut table = Table::new(&["prefix", "principal", "plan", "expires", "note"]);
    for key in keys {
        let expires = shown_end(key.expires_unix_s, now);
        let (prefix, plan, note) = (key.prefix.clone(), key.plan.clone(), key.note.clone());
        table.row([prefix, uid::told(&key.principal), plan, expires, note]);
    }
    Ok(table)
}

fn print_key(answer: &MadeKey, json: bool) -> anyhow::Result<()> {
    if json { style::print_json(answer) } else { style::print(&format!("{}\n", answer.key)) }
}

/// What a new key may have besides its principal.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) plan: Option<&'a str>,
    pub(crate) expires_unix_s: Option<u64>,
    pub(crate) note: &'a str,
}

/// Makes a key.
pub(crate) async fn create(
    admin: &mut Admin,
    service: &str,
    principal: &Uid,
    fields: &Fields<'_>,
) -> anyhow::Result<MadeKey> {
    let body = NewKey {
        principal: UidInput::Text(principal.to_string()),
        plan: fields.plan.unwrap_or_default().to_owned(),
        expires_unix_s: fields.expires_unix_s,
        note: fields.note.to_owned(),
    };
    admin.post(&format!("/v1/services/{}/keys", segment(service)), &body).await
}
