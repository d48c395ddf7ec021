//! `keepgate log verify`: whether a gate's log is whole.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepgate_record::{AuditHead, AuditWitness, Head, PublicKey, Report, Witness, hex, time};
use serde::Deserialize;
use serde_json::json;

use crate::admin::CenterArgs;
use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// The largest file of keys, in bytes.
const KEYS_BYTES: u64 = 64 << 20;

/// Find what was removed, changed, reordered or written anew
///
/// The chain of a log shows each change by those who do not make the chain anew. The gate's owner
/// can do that; then the center's signatures show it. Lines after the last signature are proven by
/// nothing yet. Ends with 0 where all is well, with 1 where something is wrong, and with 2 where it
/// could not be told.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate log verify access.log                    asks the center what it has signed
  keepgate log keys > keys.json                     on a host that reaches the center
  keepgate log verify access.log --keys keys.json   elsewhere
  keepgate log verify access.log --chain-only       without what the center has signed")]
pub(crate) struct Args {
    /// The file that the gate writes to; the files before it are found beside it
    #[arg(env = "KEEPGATE_ACCESS_LOG", value_name = "FILE")]
    file: Option<PathBuf>,
    /// File with the center's keys, as `keepgate log keys` prints them; the center is not asked then
    #[arg(long, value_name = "F")]
    keys: Option<PathBuf>,
    /// Look at the chain alone: it does not show what the gate's owner has changed
    #[arg(long, conflicts_with = "keys")]
    chain_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

/// Print the public keys with which the center signs logs, and what it has signed last
///
/// Keep them where the gate's owner cannot change them: `keepgate log verify --keys F` needs no center.
#[derive(Debug, clap::Args)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    center: CenterArgs,
}

/// `GET /v1/log-keys`.
#[derive(Debug, Deserialize)]
pub(in crate::cmd) struct LogKeys {
    keys: Vec<PublicKey>,
    #[serde(default)]
    logs: Vec<Head>,
    #[serde(default)]
    audit: Option<AuditHead>,
}

impl LogKeys {
    fn checked(self) -> Result<LogKeys, String> {
        match self.keys.iter().find(|key| !key.is_named_right()) {
            Some(key) => Err(format!("the key `{}` is not the one of this name", key.id)),
            None => Ok(self),
        }
    }

    fn witness(self) -> Witness {
        Witness { keys: self.keys, heads: Some(self.logs) }
    }

    /// By which an audit log is judged.
    pub(in crate::cmd) fn audit(self) -> AuditWitness {
        AuditWitness { keys: Some(self.keys), heads: self.audit.into_iter().collect(), after: None }
    }
}

pub(super) fn keys(args: &KeysArgs) -> anyhow::Result<Exit> {
    let mut admin = args.center.connect()?;
    let keys: serde_json::Value = super::super::runtime()?.block_on(admin.load("/v1/log-keys"))?;
    style::print_json(&keys)?;
    Ok(Exit::Ok)
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let (_, files) = super::found(args.file.as_deref())?;
    let witness = match (args.chain_only, &args.keys) {
        (true, _) => None,
        (false, Some(path)) => Some(kept(path)?.witness()),
        (false, None) => match asked(&args.center) {
            Ok(keys) => Some(keys.witness()),
            Err(error) => {
                style::say(&format!(
                    "{} {error:#}\nthe center's signatures could not be checked: pass --keys F to do it \
                     without the center, or --chain-only to do without",
                    Paint::stderr().bad("error:")
                ));
                return Ok(Exit::Denied);
            }
        },
    };
    let report = keepgate_record::verify(&files, witness.as_ref());
    let verdict = Verdict::of(&report, witness.is_some());
    if args.json {
        style::print_json(&as_json(&report, verdict))?;
    } else {
        style::print(&shown(&report, verdict, Paint::stdout()))?;
    }
    Ok(verdict.exit())
}

/// The keys of the center that is asked.
pub(in crate::cmd) fn asked(center: &CenterArgs) -> anyhow::Result<LogKeys> {
    let mut admin = center.connect()?;
    let keys: LogKeys = super::super::runtime()?.block_on(admin.load("/v1/log-keys"))?;
    keys.checked().map_err(anyhow::Error::msg)
}

/// What `keepgate log keys` has printed to a file.
pub(in crate::cmd) fn kept(path: &Path) -> anyhow::Result<LogKeys> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("reading `{shown}`"))?.len();
    if size > KEYS_BYTES {
        return Err(usage(format!("`{shown}`: expected at most {KEYS_BYTES} bytes, got {size}")));
    }
    let text = std::fs::read(path).with_context(|| format!("reading `{shown}`"))?;
    let keys: LogKeys = serde_json::from_slice(&text).map_err(|error| {
        usage(format!("`{shown}`: expected what `keepgate log keys` prints: {error}"))
    })?;
    keys.checked().map_err(|error| usage(format!("`{shown}`: {error}")))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cmd) enum Verdict {
    /// Nothing is wrong, as far as the center has signed.
    Whole,
    /// The chain holds, and nobody looked further.
    Consistent,
    /// The chain holds, and no signature shows that it is the one that was written.
    Unproven,
    Wrong,
}

impl Verdict {
    pub(in crate::cmd) fn of(report: &Report, was_asked: bool) -> Verdict {
        match (report.is_whole(), was_asked, report.proven) {
            (false, ..) => Verdict::Wrong,
            (true, false, _) if report.lines > 0 => Verdict::Consistent,
            (true, _, Some(_)) => Verdict::Whole,
            (true, ..) => Verdict::Unproven,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Whole => "whole",
            Verdict::Consistent => "consistent",
            Verdict::Unproven => "unproven",
            Verdict::Wrong => "wrong",
        }
    }

    pub(in crate::cmd) fn exit(self) -> Exit {
        match self {
            Verdict::Whole | Verdict::Consistent => Exit::Ok,
            Verdict::Wrong => Exit::Failure,
            Verdict::Unproven => Exit::Denied,
        }
    }
}

pub(in crate::cmd) fn as_json(report: &Report, verdict: Verdict) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|found| {
            json!({
                "kind": found.kind.name(),
                "file": found.file,
                "line": found.line,
                "what": found.what,
            })
        })
        .collect();
    json!({
        "version": 1,
        "verdict": verdict.name(),
        "log": report.log.map(|log| hex::text(&log)),
        "files": report.files,
        "lines": report.lines,
        "records": report.records,
        "lost": report.lost,
        "sampled_out": report.sampled_out,
        "first_seq": report.span.map(|(first, _)| first),
        "last_seq": report.span.map(|(_, last)| last),
        "findings": findings,
        "more_findings": report.more,
        "anchors": report.anchors,
        "proven_seq": report.proven.map(|(seq, _)| seq),
        "proven_at": report.proven.map(|(_, at)| time::text(at)),
        "unproven_records": report.unproven,
        "notes": report.notes,
    })
}

fn shown(report: &Report, verdict: Verdict, paint: Paint) -> String {
    let mut text = judged(report, verdict, paint);
    let (first, last) = report.span.unwrap_or_default();
    text += &format!(
        "  {} records in {} lines ({first} to {last}) of {} files; {} lost, {} left out by sampling\n",
        report.records, report.lines, report.files, report.lost, report.sampled_out
    );
    if verdict != Verdict::Consistent {
        text += &match report.proven {
            Some((seq, at)) => format!(
                "  proven up to line {seq}, signed at {} ({} signatures); after it {} records are proven \
                 by nothing yet\n",
                time::text(at),
                report.anchors,
                report.unproven
            ),
            None => "  nothing is proven: there is no signature of the center\n".to_owned(),
        };
    }
    text + &notes(report, paint)
}

/// What a reader should know beside.
pub(in crate::cmd) fn notes(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    for note in &report.notes {
        text += &format!("  {} {note}\n", paint.faint("note"));
    }
    text
}

/// The verdict, and what is wrong.
pub(in crate::cmd) fn judged(report: &Report, verdict: Verdict, paint: Paint) -> String {
    let mut text = match verdict {
        Verdict::Whole => format!("{}  nothing is wrong\n", paint.good("WHOLE")),
        Verdict::Consistent => {
            format!("{}  the chain holds; no signature was looked at\n", paint.good("CONSISTENT"))
        }
        Verdict::Unproven => format!(
            "{}  the chain holds, but no signature of the center shows that it is the one that was \
             written\n",
            paint.warn("UNPROVEN")
        ),
        Verdict::Wrong => {
            let count = report.findings.len() as u64 + report.more;
            format!("{}  {} found\n", paint.bad("WRONG"), style::count(count))
        }
    };
    for found in &report.findings {
        let place = match (found.file.as_str(), found.line) {
            ("", _) => String::new(),
            (file, 0) => format!("{file}: "),
            (file, line) => format!("{file}:{line}: "),
        };
        text += &format!("  {} {place}{}\n", paint.bad(found.kind.name()), found.what);
    }
    if report.more > 0 {
        text += &format!("  and {} more\n", report.more);
    }
    text
}
