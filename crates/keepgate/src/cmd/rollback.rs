//! `keepgate rollback`: a new revision with what an old one had.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use keepgate_api::{AsOf, Op, Rollback, RolledBack};

use crate::admin::{Admin, CenterArgs};
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Go back to what an old revision had, as a new revision
///
/// Shows what would change and who would gain or lose access, then asks. Nothing is lost: what is
/// replaced stays in the history. What somebody took away since (a role revoked, a key deleted) is not
/// given back unless it is named with --undo. Tokens of the center stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate rollback 41 --dry-run
  keepgate rollback 41 --service orders
  keepgate rollback 41 --service orders --yes
  keepgate rollback 2026-07-25T09:00:00Z --undo 'member user::\"alice\" in role::\"admin\"'")]
pub(crate) struct Args {
    /// The state to go back to
    #[arg(value_name = "REV|TIME", value_parser = super::check::as_of)]
    to: AsOf,
    /// Only the items of this service, and what its files or editors brought into the directory
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Give this back, too, though somebody took it away since: its kind and id, as the preview shows them
    #[arg(long, value_name = "ITEM")]
    undo: Vec<String>,
    /// Show what would change; change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON; needs --yes or --dry-run
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    if args.json && !(args.yes || args.dry_run) {
        return Err(usage("--json asks nobody: pass --yes or --dry-run with it"));
    }
    let body =
        Rollback { to: args.to.clone(), service: args.service.clone(), undo: args.undo.clone() };
    let mut admin = args.center.connect()?;
    let runtime = super::runtime()?;
    runtime.block_on(roll_back(&mut admin, &args, &body))
}

async fn roll_back(admin: &mut Admin, args: &Args, body: &Rollback) -> anyhow::Result<Exit> {
    let preview: RolledBack = admin.post("/v1/rollback?dry_run=true", body).await?;
    let paint = Paint::stdout();
    if args.json && (args.dry_run || !preview.conflicts.is_empty()) {
        style::print_json(&preview)?;
        return Ok(if preview.conflicts.is_empty() { Exit::Ok } else { Exit::Failure });
    }
    if !args.json {
        style::print(&shown(&preview, paint))?;
    }
    if !preview.conflicts.is_empty() {
        let said = "nothing was changed: name each conflict with --undo to give it back, too";
        style::say(&format!("keepgate: {said}"));
        return Ok(Exit::Failure);
    }
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    if preview.changed.changes.is_empty() {
        if args.json {
            style::print_json(&preview)?;
        }
        return Ok(Exit::Ok);
    }
    if !args.yes && !asked()? {
        style::say("keepgate: nothing was changed");
        return Ok(Exit::Failure);
    }
    // It lands only over what was shown.
    let path = format!("/v1/rollback?if_revision={}", preview.changed.revision);
    let done: RolledBack = admin.post(&path, body).await?;
    if args.json {
        style::print_json(&done)?;
    } else {
        style::print(&format!(
            "revision {} has what revision {} had\n",
            done.changed.revision, done.to
        ))?;
    }
    Ok(Exit::Ok)
}

/// Asks on the terminal.
fn asked() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(usage("there is no terminal to ask on: pass --yes, or --dry-run"));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "Go back? [y/N] ").and_then(|()| err.flush()).context("asking")?;
    drop(err);
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn shown(preview: &RolledBack, paint: Paint) -> String {
    let changed = &preview.changed;
    let mut out = String::new();
    for change in &changed.changes {
        let mark = match change.op {
            Op::Create => paint.good("+"),
            Op::Update => paint.warn("~"),
            Op::Delete => paint.bad("-"),
        };
        out.push_str(&format!("{mark} {} {}\n", change.item.kind, change.item.id));
        for line in change.diff.iter().flat_map(|diff| diff.lines()) {
            out.push_str(&format!("    {}\n", paint.diff_line(line)));
        }
    }
    let all = changed.created.unwrap_or_default()
        + changed.updated.unwrap_or_default()
        + changed.deleted.unwrap_or_default();
    let listed = changed.changes.len() as u64;
    if all > listed {
        out.push_str(&format!(".. and {} more\n", all - listed));
    }
    for change in &preview.access {
        let (mark, verb) = match change.gained {
            true => (paint.good("+"), "gains"),
            false => (paint.bad("-"), "loses"),
        };
        let who = match change.principal.as_str() {
            "any" => "whom it applies to",
            who => who,
        };
        out.push_str(&format!("{mark} access    {who} {verb} {}\n", change.message));
    }
    for conflict in &preview.conflicts {
        out.push_str(&format!(
            "{} {} {}: {}\n",
            paint.bad("conflict"),
            conflict.item.kind,
            conflict.item.id,
            conflict.message
        ));
    }
    if let Some(all) = preview.conflicts_total {
        out.push_str(&format!(".. {all} conflicts in all\n"));
    }
    out.push_str(&match if all > 0 { all } else { listed } {
        0 => format!("nothing differs from revision {}\n", preview.to),
        1 => format!("1 item differs from revision {}\n", preview.to),
        count => format!("{} items differ from revision {}\n", style::count(count), preview.to),
    });
    out
}
