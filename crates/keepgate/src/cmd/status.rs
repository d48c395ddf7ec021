//! `keepgate status`: every center and gate, and what is wrong, in one screen.

use keepgate_api::{Scope, Status};
use keepgate_policy::duration;

use crate::admin::CenterArgs;
use crate::exit::Exit;
use crate::style::{self, Paint, Table};

/// Show centers and gates, and what is wrong
///
/// Exits 1 when something is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate status
  keepgate status --json")]
pub(crate) struct Args {
    /// Print the center's answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let answer: Status = super::runtime()?.block_on(admin.load("/v1/status"))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&screen(&answer, Paint::stdout()))?;
    }
    Ok(if answer.wrong.is_empty() { Exit::Ok } else { Exit::Failure })
}

fn screen(answer: &Status, paint: Paint) -> String {
    let mut centers =
        Table::new(&["center", "address", "release", "history", "revision", "services", "gates"]);
    for center in &answer.centers {
        centers.row([
            center.condition.clone(),
            center.address.clone(),
            center.release.clone(),
            short(&center.history),
            center.revision.to_string(),
            center.services.to_string(),
            center.gates.to_string(),
        ]);
    }
    let mut out = centers.render(paint);
    if answer.gates.is_empty() {
        out += "no gate is connected\n";
    } else {
        let heading =
            ["gate", "release", "history", "revision", "age", "connected", "address", "services"];
        let mut table = Table::new(&heading);
        for gate in &answer.gates {
            table.row([
                gate.name.clone(),
                gate.release.clone(),
                short(gate.history.as_deref().unwrap_or_default()),
                gate.revision.to_string(),
                ago(gate.age_ms),
                ago(Some(gate.connected_ms)),
                gate.peer.clone().unwrap_or_default(),
                match &gate.services {
                    Scope::All(_) => "all".to_owned(),
                    Scope::Services(names) => names.join(", "),
                },
            ]);
        }
        out += "\n";
        out += &table.render(paint);
    }
    out += "\n";
    if answer.wrong.is_empty() {
        out += &format!("{}\n", paint.good("nothing is wrong"));
    }
    for said in &answer.wrong {
        out += &format!("{} {said}\n", paint.bad("!"));
    }
    out
}

fn short(history: &str) -> String {
    history.chars().take(8).collect()
}

fn ago(ms: Option<u64>) -> String {
    match ms {
        Some(ms) if ms < 10_000 => format!("{ms}ms"),
        Some(ms) => duration::to_text(ms / 1000 * 1000),
        None => "unknown".to_owned(),
    }
}
