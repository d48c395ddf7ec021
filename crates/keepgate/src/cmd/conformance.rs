//! `keepgate conformance`: does a decision point speak AuthZEN 1.0.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::admin::read_token;
use crate::conformance::{CaseReport, Level, Outcome, Target};
use crate::exit::{Exit, usage};
use crate::origin::Origin;
use crate::style::{self, Paint};

/// Test a decision point against a published standard
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate apply examples/authzen && \\
      keepgate conformance authzen --url http://127.0.0.1:7480 --token \"$(cat pep.token)\"
  keepgate conformance authzen --url https://pdp.example.com --level discovery --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    standard: Standard,
}

#[derive(Debug, Subcommand)]
enum Standard {
    /// The OpenID AuthZEN Authorization API 1.0, with the cases of its certification scenario
    ///
    /// The decision point must hold the scenario's fixture; for Keepgate it is examples/authzen.
    /// Ends with 0 if all cases pass, 1 if one fails, 2 if the decision point cannot be reached.
    Authzen(Authzen),
}

#[derive(Debug, clap::Args)]
struct Authzen {
    /// Base URL of the decision point
    #[arg(long, env = "KEEPGATE_URL")]
    url: String,
    /// Bearer token to show
    #[arg(long, env = "KEEPGATE_TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the bearer token
    #[arg(long, env = "KEEPGATE_TOKEN_FILE", value_name = "F")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust in place of this host's store
    #[arg(long, env = "KEEPGATE_CA_FILE", value_name = "F")]
    ca_file: Option<PathBuf>,
    /// What to test; may be repeated. Default: what the decision point says it serves
    #[arg(long, value_enum)]
    level: Vec<Level>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let Standard::Authzen(args) = args.standard;
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(token.trim().to_owned()),
        (None, Some(path)) => Some(read_token(path)?),
        (None, None) => None,
    };
    let origin = Origin::new(&args.url, args.ca_file.as_deref())
        .map_err(|e| usage(format!("--url: {e:#}")))?;
    if token.is_some() && !origin.is_private() {
        return Err(usage(format!(
            "`{}` is neither https nor on this host: the token would travel in the clear",
            args.url
        )));
    }
    let tested = super::runtime()?.block_on(async {
        let mut target = Target::discover(origin, &args.url, token.as_deref()).await?;
        let levels = if args.level.is_empty() { target.levels() } else { args.level.clone() };
        target.run(&levels).await
    });
    let reports = match tested {
        Ok(reports) => reports,
        Err(error) => {
            crate::exit::report(&error);
            return Ok(Exit::Denied);
        }
    };
    if args.json {
        style::print_json(&as_json(&args.url, &reports))?;
    } else {
        style::print(&as_text(&args.url, &reports, Paint::stdout()))?;
    }
    let failed = reports.iter().any(|report| matches!(report.outcome, Outcome::Fail(_)));
    Ok(if failed { Exit::Failure } else { Exit::Ok })
}

/// Levels that were tested, with how many cases passed, failed and were skipped.
fn levels(reports: &[CaseReport]) -> Vec<(Level, [usize; 3])> {
    let count = |level: Level| {
        let mut counts = [0; 3];
        let [passed, failed, skipped] = &mut counts;
        for report in reports.iter().filter(|report| report.level == level) {
            match report.outcome {
                Outcome::Pass => *passed += 1,
                Outcome::Fail(_) => *failed += 1,
                Outcome::Skip(_) => *skipped += 1,
            }
        }
        (level, counts)
    };
    Level::ALL
        .into_iter()
        .map(count)
        .filter(|(_, counts)| counts.iter().sum::<usize>() > 0)
        .collect()
}

fn as_text(url: &str, reports: &[CaseReport], paint: Paint) -> String {
    let mut out = format!("{} at {url}\n", paint.strong("AuthZEN Authorization API 1.0"));
    // Writing to a String cannot fail.
    for (level, [passed, failed, skipped]) in levels(reports) {
        let verdict = if failed == 0 { paint.good("pass") } else { paint.bad("FAIL") };
        let _ = write!(
            out,
            "\n{}  {verdict}  {passed} of {}",
            paint.strong(level.title()),
            passed + failed
        );
        let _ = if skipped > 0 { writeln!(out, ", {skipped} skipped") } else { writeln!(out) };
        for report in reports.iter().filter(|report| report.level == level) {
            let (word, detail) = match &report.outcome {
                Outcome::Pass => (paint.good("pass"), ""),
                Outcome::Fail(why) => (paint.bad("FAIL"), why.as_str()),
                Outcome::Skip(why) => (paint.warn("skip"), why.as_str()),
            };
            let _ = writeln!(out, "  {word}  {:<7} {}", report.id, report.title);
            if !detail.is_empty() {
                let _ = writeln!(out, "                {}", paint.faint(detail));
            }
        }
    }
    out
}

fn as_json(url: &str, reports: &[CaseReport]) -> serde_json::Value {
    let levels: Vec<_> = levels(reports)
        .into_iter()
        .map(|(level, [passed, failed, skipped])| {
            json!({ "level": level.title(), "passed": passed, "failed": failed, "skipped": skipped })
        })
        .collect();
    let cases: Vec<_> = reports
        .iter()
        .map(|report| {
            let (outcome, detail) = match &report.outcome {
                Outcome::Pass => ("pass", ""),
                Outcome::Fail(why) => ("fail", why.as_str()),
                Outcome::Skip(why) => ("skip", why.as_str()),
            };
            json!({
                "id": report.id, "level": report.level.title(), "title": report.title,
                "outcome": outcome, "detail": detail,
            })
        })
        .collect();
    json!({ "standard": "AuthZEN Authorization API 1.0", "url": url, "levels": levels, "cases": cases })
}
