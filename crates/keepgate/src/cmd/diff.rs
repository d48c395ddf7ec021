//! `keepgate diff`: how two states differ.

use keepgate_api::{AsOf, StateDiff};

use crate::admin::{Admin, CenterArgs, segment};
use crate::exit::Exit;
use crate::style::{self, Paint};

/// Pages of one answer at most.
const MAX_PAGES: usize = 1_000;

/// Show how two states differ: revisions, or the states in force at two times
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate diff 41                             from revision 41 to now
  keepgate diff 41 47 --service orders
  keepgate diff 2026-07-25T00:00:00Z 2026-07-26T00:00:00Z")]
pub(crate) struct Args {
    /// The first state
    #[arg(value_name = "REV|TIME", value_parser = super::check::as_of)]
    from: AsOf,
    /// The second state; without it, the present one
    #[arg(value_name = "REV|TIME", value_parser = super::check::as_of)]
    to: Option<AsOf>,
    /// Only items of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// A state as a query parameter has it.
pub(super) fn text(state: &AsOf) -> String {
    match state {
        AsOf::Revision(revision) => revision.to_string(),
        AsOf::Time(text) => segment(text),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut path = format!("/v1/diff?from={}", text(&args.from));
    if let Some(to) = &args.to {
        path.push_str(&format!("&to={}", text(to)));
    }
    if let Some(service) = &args.service {
        path.push_str(&format!("&service={}", segment(service)));
    }
    let mut admin = args.center.connect()?;
    let found = super::runtime()?.block_on(all(&mut admin, &path))?;
    if args.json {
        style::print_json(&found)?;
        return Ok(Exit::Ok);
    }
    let paint = Paint::stdout();
    let items = match found.total {
        1 => "1 item differs".to_owned(),
        total => format!("{} items differ", style::count(total)),
    };
    let mut out = format!("{items} from revision {} to revision {}\n", found.from, found.to);
    for change in &found.changes {
        out.push_str(&super::history::change_shown(change, true, paint));
    }
    style::print(&out)?;
    Ok(Exit::Ok)
}

async fn all(admin: &mut Admin, path: &str) -> anyhow::Result<StateDiff> {
    let mut found: StateDiff = admin.load(path).await?;
    for _ in 0..MAX_PAGES {
        let Some(next) = found.next.take() else { break };
        let page: StateDiff = admin.load(&format!("{path}&after={next}")).await?;
        found.changes.extend(page.changes);
        found.next = page.next;
    }
    Ok(found)
}
