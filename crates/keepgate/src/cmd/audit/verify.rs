//! `keepgate audit verify`: whether the audit log is whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context as _;
use keepgate_record::{AuditHead, AuditWitness, Report, hex, time, verify_audit};

use super::super::log::verify::{Verdict, as_json, asked, judged, kept, notes};
use super::export::Parts;
use crate::admin::CenterArgs;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Find what was removed, changed, reordered or written anew in the audit log
///
/// The chain of the log shows each change by those who do not make the chain anew, and the center's
/// signature shows that. Who owns the center's database has the key as well: only keys and a line that were
/// kept elsewhere show a log that was written anew. `keepgate log keys` prints both; its output is --keys.
/// Ends with 0 where all is well, with 1 where something is wrong, and with 2 where it could not be told.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate audit verify                               the log of the center, by its own keys
  keepgate audit verify --keys keys.json              by keys and a line that were kept elsewhere
  keepgate audit verify --keys keys.json audit.jsonl  a file of `keepgate audit export`; no center is asked
  keepgate audit export | keepgate audit verify --keys keys.json -")]
pub(crate) struct Args {
    /// File of `keepgate audit export`; `-` for the standard input; without it, the center is asked
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// File with the center's keys and a line, as `keepgate log keys` has printed them
    #[arg(long, value_name = "F")]
    keys: Option<PathBuf>,
    /// A line that was noted elsewhere, as SEQ:CHAIN; may be repeated
    #[arg(long, value_name = "LINE", value_parser = head)]
    head: Vec<AuditHead>,
    /// The line after which the file begins, as SEQ:CHAIN: for a part of the log alone
    #[arg(long, value_name = "LINE", value_parser = head, requires = "file")]
    after: Option<AuditHead>,
    /// Look at the chain alone: it does not show what the owner of the database has changed
    #[arg(long, conflicts_with = "keys")]
    chain_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

fn head(text: &str) -> Result<AuditHead, String> {
    let parts = text.split_once(':');
    let read = parts.and_then(|(seq, chain)| Some((seq.parse().ok()?, hex::bytes(chain)?)));
    let (seq, chain) = read.ok_or(
        "expected the number of a line, a colon, and 64 hexadecimal digits, in lower case",
    )?;
    Ok(AuditHead { log: None, seq, chain })
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    // What is asked of the center comes before the log: what is added to the log meanwhile is no fault.
    let mut witness = match (args.chain_only, &args.keys) {
        (true, _) => AuditWitness::default(),
        (false, Some(path)) => kept(path)?.audit(),
        (false, None) => match asked(&args.center) {
            Ok(keys) => keys.audit(),
            Err(error) => {
                style::say(&format!(
                    "{} {error:#}\nthe center's signature could not be checked: pass --keys F to do it \
                     without the center, or --chain-only to do without",
                    Paint::stderr().bad("error:")
                ));
                return Ok(Exit::Denied);
            }
        },
    };
    witness.heads.extend(args.head.iter().cloned());
    witness.after = args.after.as_ref().map(|head| (head.seq, head.chain));
    let report = match args.file.as_ref().map(|file| (file, file.to_str())) {
        Some((_, Some("-"))) => read(&mut io::stdin().lock(), &witness, "the standard input")?,
        Some((path, _)) => {
            let shown = path.display().to_string();
            let file = File::open(path).map_err(|e| usage(format!("`{shown}`: {e}")))?;
            read(&mut BufReader::new(file), &witness, &shown)?
        }
        None => {
            let parts = Parts::new(&args.center, 0)?;
            match read(&mut BufReader::new(parts), &witness, "the center's log") {
                Ok(report) => report,
                Err(error) => {
                    style::say(&format!("{} {error:#}", Paint::stderr().bad("error:")));
                    return Ok(Exit::Denied);
                }
            }
        }
    };
    let verdict = Verdict::of(&report, witness.keys.is_some());
    if args.json {
        let mut json = as_json(&report, verdict);
        // Those of a gate's log.
        for name in ["files", "lost", "sampled_out"] {
            json.as_object_mut().and_then(|members| members.remove(name));
        }
        style::print_json(&json)?;
    } else {
        style::print(&shown(&report, verdict, Paint::stdout()))?;
    }
    Ok(verdict.exit())
}

fn read(from: &mut dyn BufRead, witness: &AuditWitness, what: &str) -> anyhow::Result<Report> {
    verify_audit(from, witness).with_context(|| format!("reading {what}"))
}

fn shown(report: &Report, verdict: Verdict, paint: Paint) -> String {
    let mut text = judged(report, verdict, paint);
    text += &match report.span {
        Some((first, last)) => format!("  entries {first} to {last}\n"),
        None => "  no entries\n".to_owned(),
    };
    if let Some((seq, at)) = report.proven {
        text += &format!("  proven up to line {seq}, signed at {}\n", time::text(at));
    }
    text + &notes(report, paint)
}
