//! `keepgate status`: every center and gate, and what is wrong, in one screen.

use keepgate_policy::duration;
use serde_json::Value;

use crate::admin::{CenterArgs, list, shown, text};
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
    let answer = super::runtime()?.block_on(admin.load("/v1/status"))?;
    if args.json {
        style::print_json(&answer)?;
    } else {
        style::print(&screen(&answer, Paint::stdout()))?;
    }
    Ok(if list(&answer, "wrong").is_empty() { Exit::Ok } else { Exit::Failure })
}

fn screen(answer: &Value, paint: Paint) -> String {
    let mut centers =
        Table::new(&["center", "release", "history", "revision", "services", "gates"]);
    for center in list(answer, "centers") {
        centers.row([
            text(center, "condition").to_owned(),
            text(center, "release").to_owned(),
            short(text(center, "history")),
            shown(center.get("revision")),
            shown(center.get("services")),
            shown(center.get("gates")),
        ]);
    }
    let mut out = centers.render(paint);
    let gates = list(answer, "gates");
    if gates.is_empty() {
        out += "no gate is connected\n";
    } else {
        let heading =
            ["gate", "release", "history", "revision", "age", "connected", "address", "services"];
        let mut table = Table::new(&heading);
        for gate in gates {
            table.row([
                text(gate, "name").to_owned(),
                text(gate, "release").to_owned(),
                short(text(gate, "history")),
                shown(gate.get("revision")),
                ago(gate.get("age_ms")),
                ago(gate.get("connected_ms")),
                text(gate, "peer").to_owned(),
                shown(gate.get("services")),
            ]);
        }
        out += "\n";
        out += &table.render(paint);
    }
    let wrong = list(answer, "wrong");
    out += "\n";
    if wrong.is_empty() {
        out += &format!("{}\n", paint.good("nothing is wrong"));
    }
    for said in wrong {
        out += &format!("{} {}\n", paint.bad("!"), said.as_str().unwrap_or_default());
    }
    out
}

fn short(history: &str) -> String {
    history.chars().take(8).collect()
}

fn ago(ms: Option<&Value>) -> String {
    match ms.and_then(Value::as_u64) {
        Some(ms) if ms < 10_000 => format!("{ms}ms"),
        Some(ms) => duration::to_text(ms / 1000 * 1000),
        None => "unknown".to_owned(),
    }
}
