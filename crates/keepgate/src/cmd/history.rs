//! `keepgate history`: what each revision changed, the newest first.

use keepgate_api::{ChangeCounts, History, HistoryEntry, Op, PastChange};
use keepgate_policy::service::is_service_name;
use serde_json::json;

use crate::admin::{Admin, CenterArgs, segment};
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Entries asked for at a time.
const PAGE: usize = 100;
/// Pages of one answer at most.
const MAX_PAGES: usize = 10_000;

/// Show what each revision changed, by whom and when, the newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate history
  keepgate history orders --limit 5
  keepgate history 'policy office-hours' --service orders
  keepgate history 'member user::\"alice\" in role::\"admin\"'
  keepgate history 'user::\"alice\"'            all items of this id")]
pub(crate) struct Args {
    /// A service, or an item: its kind and id with a space between, or its id alone
    #[arg(value_name = "SERVICE|ITEM")]
    what: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only by this token: its id, as `keepgate token list` shows it
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// At most this many revisions
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Without the text differences
    #[arg(long)]
    brief: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

impl Args {
    /// The filters as query parameters, each with `&` before it.
    fn filters(&self) -> anyhow::Result<String> {
        let mut service = self.service.clone();
        let (mut kind, mut id) = (None, None);
        match &self.what {
            None => {}
            Some(what) => match what.split_once(' ') {
                Some((of, name))
                    if keepgate_policy::Kind::from_name(of).is_some() || of == "token" =>
                {
                    (kind, id) = (Some(of.to_owned()), Some(name.to_owned()));
                }
                None if is_service_name(what) && !what.contains("::") => {
                    if service.is_some() {
                        return Err(usage("pass the service once"));
                    }
                    service = Some(what.clone());
                }
                _ => id = Some(what.clone()),
            },
        }
        let mut filters = String::new();
        for (name, value) in
            [("service", service), ("kind", kind), ("id", id), ("actor", self.actor.clone())]
        {
            if let Some(value) = value {
                filters.push_str(&format!("&{name}={}", segment(&value)));
            }
        }
        Ok(filters)
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let filters = args.filters()?;
    let mut admin = args.center.connect()?;
    let (entries, oldest) = super::runtime()?.block_on(entries(&mut admin, &args, &filters))?;
    if args.json {
        style::print_json(&json!({ "oldest": oldest, "entries": entries }))?;
        return Ok(Exit::Ok);
    }
    let paint = Paint::stdout();
    let mut out = String::new();
    for entry in &entries {
        out.push_str(&shown(entry, !args.brief, paint));
    }
    if let Some(oldest) = oldest {
        out.push_str(&paint.faint(&format!(
            "past states can be shown and gone back to from revision {oldest} on"
        )));
        out.push('\n');
    }
    style::print(&out)?;
    Ok(Exit::Ok)
}

/// The entries that pass, the newest first, and the oldest revision that can be gone back to.
async fn entries(
    admin: &mut Admin,
    args: &Args,
    filters: &str,
) -> anyhow::Result<(Vec<HistoryEntry>, Option<u64>)> {
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut entries, mut before, mut oldest): (Vec<HistoryEntry>, u64, _) = (Vec::new(), 0, None);
    for _ in 0..MAX_PAGES {
        let limit = PAGE.min(most.saturating_sub(entries.len()).max(1));
        let path = format!("/v1/history?before={before}&limit={limit}{filters}");
        let page: History = admin.load(&path).await?;
        oldest = Some(page.oldest);
        for entry in page.entries {
            match entries.last_mut() {
                // It was cut by the end of the page.
                Some(last) if last.revision == entry.revision => last.changes.extend(entry.changes),
                _ => entries.push(entry),
            }
        }
        match page.next {
            Some(next) if entries.len() < most => before = next,
            _ => break,
        }
    }
    Ok((entries, oldest))
}

/// One revision.
pub(super) fn shown(entry: &HistoryEntry, diffs: bool, paint: Paint) -> String {
    let mut out = format!(
        "{}  {}  {} by token {}\n",
        paint.strong(&format!("revision {}", entry.revision)),
        style::date(entry.unix_ms / 1_000),
        entry.action,
        entry.actor
    );
    for change in &entry.changes {
        out.push_str(&change_shown(change, diffs, paint));
    }
    out.push('\n');
    out
}

/// One change, with its difference.
pub(super) fn change_shown(change: &PastChange, diffs: bool, paint: Paint) -> String {
    let mark = match change.op {
        Op::Create => paint.good("+"),
        Op::Update => paint.warn("~"),
        Op::Delete => paint.bad("-"),
    };
    let of = match change.service.as_str() {
        "" => String::new(),
        service => format!("  ({service})"),
    };
    let name = format!("{} {}", change.kind, change.id);
    let counts = change.counts.map_or(String::new(), |counts| {
        let ChangeCounts { created, updated, deleted } = counts;
        format!(" {created} created, {updated} updated, {deleted} deleted")
    });
    let mut out = format!("  {mark} {}{counts}{of}\n", name.trim_end());
    for line in change.diff.iter().filter(|_| diffs).flat_map(|diff| diff.lines()) {
        out.push_str(&format!("      {}\n", paint.diff_line(line)));
    }
    out
}
