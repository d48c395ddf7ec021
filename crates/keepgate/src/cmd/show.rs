//! `keepgate show`: what one revision changed.

use keepgate_api::RevisionShown;

use crate::admin::{Admin, CenterArgs};
use crate::exit::Exit;
use crate::style::{self, Paint};

/// Pages of one answer at most.
const MAX_PAGES: usize = 1_000;

/// Show what one revision changed, by whom and when
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate show 41
  keepgate show 41 --json")]
pub(crate) struct Args {
    /// The revision
    #[arg(value_name = "REV")]
    revision: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let shown = super::runtime()?.block_on(all(&mut admin, args.revision))?;
    if args.json {
        style::print_json(&shown)?;
    } else {
        style::print(&super::history::shown(&shown.entry, true, Paint::stdout()))?;
    }
    Ok(Exit::Ok)
}

async fn all(admin: &mut Admin, revision: u64) -> anyhow::Result<RevisionShown> {
    let mut shown: RevisionShown = admin.load(&format!("/v1/revisions/{revision}?after=0")).await?;
    for _ in 0..MAX_PAGES {
        let Some(next) = shown.next.take() else { break };
        let path = format!("/v1/revisions/{revision}?after={next}");
        let page: RevisionShown = admin.load(&path).await?;
        shown.entry.changes.extend(page.entry.changes);
        shown.next = page.next;
    }
    Ok(shown)
}
