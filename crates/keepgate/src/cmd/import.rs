//! `keepgate import`: many entities, memberships or grants from a file of JSON lines.
//!
//! The lines are sent in portions, each one revision, so that other writes go on in between. A
//! portion that was sent twice changes nothing the second time: an import that was broken off is
//! begun again at the line that is told, or at any line before it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use keepgate_api::{Conflict, Imported, Warning};
use serde_json::json;

use crate::admin::{Admin, CenterArgs, Refusal, only_service, segment};
use crate::exit::{Exit, usage};
use crate::progress::Progress;
use crate::signals::Stop;
use crate::style::{self, Paint};

/// Lines of one portion at most; the center takes no more.
const MAX_PORTION: u64 = 5_000;

/// Bytes of one portion: a full line more and it is sent.
const PORTION_BYTES: usize = 8 << 20;

/// Bytes of one line.
const LINE_BYTES: u64 = 4 << 20;

/// Conflicts, and warnings, that are shown.
const TOLD: usize = 1_000;

/// How often a portion is sent that the center has no time for, and the pause in between.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Import many entities, memberships or grants, one per line
///
/// FILE has one JSON object per line (NDJSON); `-` reads standard input. Each line creates or
/// replaces what it names; everything else stays. The lines are applied in portions, each one
/// revision, while other writes continue. After an error, or Ctrl-C, the command prints which lines
/// were applied and how to continue; importing a line again changes nothing.
///
/// What somebody has deleted or revoked stays so, is listed, and the exit code is 1; `--overwrite`
/// creates it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lines:
  entities  {\"uid\": \"user::\\\"alice\\\"\", \"attrs\": {\"team\": \"blue\"}, \"parents\": [\"role::\\\"reader\\\"\"]}
  members   {\"member\": \"user::\\\"alice\\\"\", \"role\": \"role::\\\"reader\\\"\"}
  grants    {\"principal\": \"role::\\\"reader\\\"\", \"actions\": [\"GET\"], \"resource\": \"route::\\\"/orders\\\"\"}
An entity may also be written as {\"type\": \"user\", \"id\": \"alice\"}. In a grant, \"any\" means
all actions or all resources.

Examples:
  keepgate import entities users.ndjson --service orders
  keepgate import entities users.ndjson --service orders --resume-from 480001
  zcat members.ndjson.gz | keepgate import members -")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Import entities of a service, or of the directory
    Entities {
        #[command(flatten)]
        source: Source,
        /// The service; needed only if the center has several
        #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME", conflicts_with = "directory")]
        service: Option<String>,
        /// Into the directory, which all services share
        #[arg(long)]
        directory: bool,
    },
    /// Import memberships into the directory
    Members {
        #[command(flatten)]
        source: Source,
    },
    /// Import grants of a service
    Grants {
        #[command(flatten)]
        source: Source,
        /// The service; needed only if the center has several
        #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
        service: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Source {
    /// The file; `-` is standard input
    file: PathBuf,
    /// Begin at this line, counted from 1; those before it are skipped
    #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    resume_from: u64,
    /// Lines of one portion, which is one revision
    #[arg(long, value_name = "LINES", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=MAX_PORTION))]
    portion: u64,
    /// Create again what somebody has deleted or revoked
    #[arg(long)]
    overwrite: bool,
    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let (source, what) = match &args.what {
        What::Entities { source, .. } => (source, "entities"),
        What::Members { source } => (source, "members"),
        What::Grants { source, .. } => (source, "grants"),
    };
    let mut admin = source.center.connect()?;
    let mut lines = Lines::open(&source.file)?;
    super::runtime()?.block_on(async {
        let mut stop = Stop::register()?;
        let path = match &args.what {
            What::Entities { directory: true, .. } => "/v1/import/entities".to_owned(),
            What::Members { .. } => "/v1/import/members".to_owned(),
            What::Entities { service, .. } | What::Grants { service, .. } => {
                let service = only_service(&mut admin, service.as_deref()).await?;
                format!("/v1/services/{}/import/{what}", segment(&service))
            }
        };
        let path = if source.overwrite { format!("{path}?overwrite=true") } else { path };
        lines.skip_to(source.resume_from)?;
        let mut done = Done { next: source.resume_from, ..Done::default() };
        let ended = tokio::select! {
            ended = import(&mut admin, &path, &mut lines, source, &mut done) => ended,
            signal = stop.first() => Err(anyhow::anyhow!("{signal}")),
        };
        done.tell(what, source, &lines.name, ended)
    })
}

/// What has landed.
#[derive(Debug, Default)]
struct Done {
    /// The first line that is not known to have landed.
    next: u64,
    lines: u64,
    created: u64,
    updated: u64,
    kept: u64,
    revision: u64,
    /// Deletions that stay: how many, and the first of them, by their lines in the file.
    conflicts: u64,
    first: Vec<Conflict>,
    warnings: Vec<Warning>,
}

async fn import(
    admin: &mut Admin,
    path: &str,
    lines: &mut Lines,
    source: &Source,
    done: &mut Done,
) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    loop {
        let portion = lines.portion(source.portion)?;
        if portion.lines == 0 {
            return Ok(());
        }
        let mut tries = 0;
        let answer: Imported = loop {
            match admin.post_lines(path, portion.bytes.clone()).await {
                Err(error) if tries < TRIES && is_busy(&error) => tries += 1,
                answer => break answer?,
            }
            tokio::time::sleep(PAUSE).await;
        };
        done.created += answer.created;
        done.updated += answer.updated;
        done.kept += answer.kept.len() as u64;
        done.revision = answer.revision;
        done.conflicts += answer.conflicts.len() as u64;
        let before = done.next.saturating_sub(1);
        let room = TOLD.saturating_sub(done.first.len());
        done.first.extend(answer.conflicts.into_iter().take(room).map(|conflict| Conflict {
            line: conflict.line.map(|line| before + line),
            ..conflict
        }));
        let room = TOLD.saturating_sub(done.warnings.len());
        done.warnings.extend(answer.warnings.into_iter().take(room));
        done.lines += portion.items;
        done.next += portion.lines;
        progress.bar(lines.read, lines.size, &format!("{} lines", done.lines));
    }
}

/// Whether the center asked to try again.
fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| matches!(refusal.status, 429 | 503))
}

impl Done {
    /// Shows what is perhaps not meant, and what was not created.
    fn show(&self, name: &str) {
        let paint = Paint::stderr();
        for Warning { id, message, .. } in &self.warnings {
            eprintln!("{} `{id}`: {message}", paint.warn("warning:"));
        }
        for Conflict { item, message, line, .. } in &self.first {
            let place = format!("{name}:{}:", line.unwrap_or_default());
            eprintln!("{} {} `{}`: {message}", paint.strong(&place), item.kind, item.id);
        }
        if self.conflicts > 0 {
            let things = if self.conflicts == 1 { "item stays" } else { "items stay" };
            eprintln!(
                "{} {} {things} deleted; --overwrite creates them again",
                paint.warn("conflict:"),
                self.conflicts
            );
        }
    }

    /// Says how it ended, and how to go on where it ended early.
    fn tell(
        &self,
        what: &str,
        source: &Source,
        name: &str,
        ended: anyhow::Result<()>,
    ) -> anyhow::Result<Exit> {
        let changed = self.created + self.updated + self.kept + self.conflicts;
        let unchanged = self.lines.saturating_sub(changed);
        let mut outcome = json!({
            "lines": self.lines, "created": self.created, "updated": self.updated,
            "unchanged": unchanged, "kept": self.kept, "revision": self.revision,
            "conflicts": self.first, "conflicts_total": self.conflicts, "warnings": self.warnings,
        });
        self.show(name);
        let mut exit = if self.conflicts == 0 { Exit::Ok } else { Exit::Failure };
        let landed = ended.is_ok();
        if let Err(error) = ended {
            exit = Exit::Failure;
            let paint = Paint::stderr();
            let refusal = error.downcast_ref::<Refusal>();
            let problems = refusal.map_or(&[] as &[_], |refusal| &refusal.problems);
            for problem in problems {
                // Of a portion's lines; the file's are told.
                let line =
                    problem.line.map_or(self.next, |line| self.next + line.saturating_sub(1));
                eprintln!("{} {}", paint.strong(&format!("{name}:{line}:")), problem.message);
            }
            let told = if problems.is_empty() {
                format!("{error:#}")
            } else {
                "a line is not valid, and none of its portion has landed".to_owned()
            };
            let before = self.next.saturating_sub(1);
            eprintln!("{} {told}", paint.bad("error:"));
            eprintln!(
                "lines up to {before} have landed; go on with: keepgate import {what} {name} \
                 --resume-from {}",
                self.next
            );
            if let Some(fields) = outcome.as_object_mut() {
                fields.insert("error".to_owned(), json!(told));
                fields.insert("resume_from".to_owned(), json!(self.next));
            }
        }
        if source.json {
            style::print_json(&outcome)?;
        } else if landed {
            let revision = match self.revision {
                0 => String::new(),
                revision => format!(", revision {revision}"),
            };
            let kept = match self.kept {
                0 => String::new(),
                kept => format!(", {kept} left alone (changed by others meanwhile)"),
            };
            style::print(&format!(
                "{what}: {} lines, {} created, {} updated, {unchanged} unchanged{kept}{revision}\n",
                self.lines, self.created, self.updated
            ))?;
        }
        Ok(exit)
    }
}

/// A file of lines, read once.
struct Lines {
    name: String,
    from: Box<dyn BufRead>,
    /// Bytes of the file; none: not known.
    size: Option<u64>,
    read: u64,
}

#[derive(Debug, Default)]
struct Portion {
    bytes: Vec<u8>,
    /// Lines, and those of them that are not blank.
    lines: u64,
    items: u64,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Lines> {
        let name = path.display().to_string();
        if name == "-" {
            let from = Box::new(BufReader::new(io::stdin()));
            return Ok(Lines { name, from, size: None, read: 0 });
        }
        let file = File::open(path).with_context(|| format!("opening `{name}`"))?;
        let about = file.metadata().with_context(|| format!("opening `{name}`"))?;
        if about.is_dir() {
            return Err(usage(format!("`{name}` is a directory; name a file of JSON lines")));
        }
        let size = about.is_file().then_some(about.len());
        Ok(Lines { name, from: Box::new(BufReader::with_capacity(1 << 20, file)), size, read: 0 })
    }

    /// One line with its end; empty: there is no more.
    fn line(&mut self, number: u64) -> anyhow::Result<Vec<u8>> {
        let mut line = Vec::new();
        let limited = &mut (&mut self.from).take(LINE_BYTES + 1);
        let reading = || format!("reading `{}`, line {number}", self.name);
        limited.read_until(b'\n', &mut line).with_context(reading)?;
        if line.len() as u64 > LINE_BYTES {
            let text = format!("expected at most {LINE_BYTES} bytes in a line; divide it");
            return Err(anyhow::anyhow!(text).context(format!("{}:{number}", self.name)));
        }
        self.read += line.len() as u64;
        Ok(line)
    }

    fn skip_to(&mut self, first: u64) -> anyhow::Result<()> {
        for number in 1..first {
            if self.line(number)?.is_empty() {
                return Err(usage(format!(
                    "`{}` has {} lines; --resume-from {first} is behind them",
                    self.name,
                    number - 1
                )));
            }
        }
        Ok(())
    }

    fn portion(&mut self, most: u64) -> anyhow::Result<Portion> {
        let mut portion = Portion::default();
        while portion.lines < most && portion.bytes.len() < PORTION_BYTES {
            let line = self.line(portion.lines + 1)?;
            if line.is_empty() {
                break;
            }
            portion.lines += 1;
            portion.items += u64::from(!line.iter().all(u8::is_ascii_whitespace));
            portion.bytes.extend_from_slice(&line);
        }
        Ok(portion)
    }
}
