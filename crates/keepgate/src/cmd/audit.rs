//! `keepgate audit`: who changed what, and when, the newest first; and whether the log is whole.

mod export;
mod verify;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use keepgate_api::{Audit, AuditEntry};
use keepgate_policy::duration;
use serde_json::{Value, json};

use crate::admin::{Admin, CenterArgs, segment};
use crate::exit::Exit;
use crate::style::{self, Paint, Table};

/// Entries asked for at a time.
const PAGE: usize = 500;
/// Pages of one answer at most: each looks at 20,000 entries or more.
const MAX_PAGES: usize = 10_000;

/// Show who changed what, and when, the newest first
///
/// An entry is one change of one item or token. If a revision has more than 10,000 changes of one kind,
/// they share an entry with their counts.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  keepgate audit
  keepgate audit --service orders --since 24h
  keepgate audit --action role --limit 20       role.assign, role.revoke, ..
  keepgate audit --actor 4f9c2a7e --all --csv > audit.csv
  keepgate audit export > audit.jsonl           the log as it is
  keepgate audit verify                         whether it is whole"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only changes by this token: its id, as `keepgate token list` shows it
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// Only by this action, such as apply or role.revoke; `role` for all that begin with `role.`
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only of this kind: member, policy, grant, token, ..
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only of the item of this id, as entries show it
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only since this long ago, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms)]
    since: Option<u64>,
    /// At most this many entries
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All entries, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print JSON, with what was there before and after
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values (RFC 4180), with what was there before and after
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    center: CenterArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Export(export::Args),
    Verify(verify::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Some(Verb::Export(args)) => export::run(&args),
        Some(Verb::Verify(args)) => verify::run(&args),
        None => show(&args),
    }
}

fn show(args: &Args) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let entries = super::runtime()?.block_on(entries(&mut admin, args))?;
    let text = if args.json {
        return style::print_json(&json!({ "entries": entries })).map(|()| Exit::Ok);
    } else if args.csv {
        csv(&entries)
    } else {
        table(&entries).render(Paint::stdout())
    };
    style::print(&text)?;
    Ok(Exit::Ok)
}

/// The entries that pass the filters, the newest first.
async fn entries(admin: &mut Admin, args: &Args) -> anyhow::Result<Vec<AuditEntry>> {
    let mut filters = String::new();
    let texts = [
        ("actor", &args.actor),
        ("action", &args.action),
        ("service", &args.service),
        ("kind", &args.kind),
        ("id", &args.id),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            filters.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    if let Some(since) = args.since {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.context("this host's clock is before 1970")?.as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        filters.push_str(&format!("&since_ms={}", now.saturating_sub(since)));
    }
    let most =
        if args.all { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    let (mut entries, mut before) = (Vec::new(), 0);
    for _ in 0..MAX_PAGES {
        let limit = PAGE.min(most - entries.len());
        let path = format!("/v1/audit?newest=true&before={before}&limit={limit}{filters}");
        let page: Audit = admin.load(&path).await?;
        entries.extend(page.entries);
        match page.next {
            Some(next) if entries.len() < most => before = next,
            _ => break,
        }
    }
    Ok(entries)
}

fn table(entries: &[AuditEntry]) -> Table {
    let mut table = Table::new(&["when", "revision", "token", "action", "change", "of"]);
    for entry in entries {
        let service = match entry.service.as_str() {
            "" => "-".to_owned(),
            service => service.to_owned(),
        };
        table.row([
            keepgate_observe::date(entry.unix_ms / 1_000),
            entry.revision.to_string(),
            entry.actor.clone(),
            entry.action.clone(),
            format!("{} {} {}", mark(entry), entry.kind, entry.id).trim_end().to_owned(),
            service,
        ]);
    }
    table
}

/// As `apply` marks changes.
fn mark(entry: &AuditEntry) -> &'static str {
    match (&entry.before, &entry.after) {
        (None, Some(_)) => "+",
        (_, None) => "-",
        (Some(_), Some(_)) => "~",
    }
}

/// RFC 4180, with a line of names.
fn csv(entries: &[AuditEntry]) -> String {
    let names = "seq,revision,time,actor,action,service,kind,id,before,after\r\n";
    let mut text = names.to_owned();
    let body = |body: &Option<Value>| body.as_ref().map(Value::to_string).unwrap_or_default();
    for entry in entries {
        let cells = [
            entry.seq.to_string(),
            entry.revision.to_string(),
            keepgate_policy::instant::to_text(entry.unix_ms / 1_000),
            entry.actor.clone(),
            entry.action.clone(),
            entry.service.clone(),
            entry.kind.clone(),
            entry.id.clone(),
            body(&entry.before),
            body(&entry.after),
        ];
        let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// Ids are chosen by those who write: to a spreadsheet, a cell that begins like this is a formula. An
/// apostrophe before it makes it a text.
pub(super) fn quoted(cell: &str) -> String {
    let mark = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    match cell.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{mark}{}\"", cell.replace('"', "\"\"")),
        false => format!("{mark}{cell}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        for (cell, wanted) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("role::\"x\"", "\"role::\"\"x\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=HYPERLINK(\"a\")", "\"'=HYPERLINK(\"\"a\"\")\""),
            ("-1+1", "'-1+1"),
            ("@a", "'@a"),
            ("\rx", "\"'\rx\""),
            ("a=b", "a=b"),
        ] {
            assert_eq!(quoted(cell), wanted);
        }
    }
}
