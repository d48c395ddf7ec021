//! `keepgate log`: what a gate has recorded of requests, and whether the record is whole.

pub(super) mod verify;

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use keepgate_policy::{duration, instant};
use keepgate_record::files::{self, FileLine, LogFile, MAX_LINE, next_line};
use keepgate_record::{Entry, Filter, Mark, Outcome, Record, time};

use crate::exit::{Exit, usage};
use crate::style::{self, Paint};

/// Between two looks at a file that is followed.
const LOOK: Duration = Duration::from_millis(200);
/// Lines that `--last` keeps at most.
const MAX_LAST: u64 = 1_000_000;

/// Show what a gate has recorded of requests (see `gate --access-log`)
///
/// It reads the log's files, the compressed ones too, the oldest first. On a terminal each request is
/// one line; --json prints the records as they are.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  keepgate log /var/log/keepgate/access.log --since 1h --outcome denied
  keepgate log access.log --principal alice --route '/orders/{id}'
  keepgate log access.log --request-id 01JDM3 --json
  keepgate log access.log --follow
  keepgate log verify access.log"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The file that the gate writes to; the files before it are found beside it
    #[arg(env = "KEEPGATE_ACCESS_LOG", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only requests of this principal: `user::"alice"`, or the id alone
    #[arg(long, value_name = "WHO")]
    principal: Option<String>,
    /// Only requests of this route, such as /orders/{id}
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Only requests that ended so: allowed, denied, unauthenticated, limited, cannot_decide,
    /// upstream_failed, refused
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    outcome: Option<String>,
    /// Only the request with this id
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Only since this long ago, such as 24h, or since this time
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<u64>,
    /// Only before this long ago, or before this time
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<u64>,
    /// Only the last N of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_LAST))]
    last: Option<u64>,
    /// Go on with what the gate writes from now on
    #[arg(long)]
    follow: bool,
    /// Print the records as they are: one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Verify(verify::Args),
    Keys(verify::KeysArgs),
}

fn outcome(text: &str) -> Result<String, String> {
    let names = Outcome::ALL.map(Outcome::name);
    match names.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one of {}", names.join(", "))),
    }
}

/// A time, or how long ago it was; in milliseconds since the Unix epoch.
fn moment(text: &str) -> Result<u64, String> {
    match (duration::parse_ms(text), instant::parse(text)) {
        (Ok(ago), _) => Ok(time::now_ms().saturating_sub(ago)),
        (Err(_), Ok(unix_s)) => Ok(unix_s.saturating_mul(1_000)),
        (Err(_), Err(error)) => Err(format!("{error}; or how long ago it was, such as `24h`")),
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Some(Verb::Verify(args)) => verify::run(args),
        Some(Verb::Keys(args)) => verify::keys(&args),
        None => show(&args),
    }
}

/// The files of a log; says what to do where there is none.
fn found(path: Option<&Path>) -> anyhow::Result<(PathBuf, Vec<LogFile>)> {
    let Some(path) = path else {
        return Err(usage(
            "which log? Pass the file that the gate writes to (`gate --access-log FILE`), or set \
             KEEPGATE_ACCESS_LOG",
        ));
    };
    let shown = path.display();
    let files = files::list(path).with_context(|| format!("reading the files of `{shown}`"))?;
    if files.is_empty() {
        return Err(usage(format!("there is no log at `{shown}`")));
    }
    Ok((path.to_owned(), files))
}

/// What is shown, and how.
struct View {
    filter: Filter,
    json: bool,
    paint: Paint,
    /// The last of them, with `--last`.
    kept: Option<(usize, VecDeque<String>)>,
    /// Lines of which nobody knows what they are.
    unknown: u64,
}

impl View {
    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let text = match Entry::of(line) {
            Entry::Record(record) if !self.filter.takes(&record) => return Ok(()),
            Entry::Record(_) | Entry::Other if self.json => as_text(line),
            Entry::Record(record) => shown(&record, self.paint),
            Entry::Mark(_) if !self.filter.is_empty() => return Ok(()),
            Entry::Mark(_) if self.json => as_text(line),
            Entry::Mark(mark) => match said(&mark) {
                Some(said) => format!("{}\n", self.paint.faint(&said)),
                None => return Ok(()),
            },
            Entry::Other if self.filter.is_empty() => as_text(line),
            Entry::Other => {
                self.unknown += 1;
                return Ok(());
            }
        };
        match &mut self.kept {
            None => style::print(&text),
            Some((most, kept)) => {
                if kept.len() == *most {
                    kept.pop_front();
                }
                kept.push_back(text);
                Ok(())
            }
        }
    }

    /// Prints what was kept.
    fn flush(&mut self) -> anyhow::Result<()> {
        for text in self.kept.take().into_iter().flat_map(|(_, kept)| kept) {
            style::print(&text)?;
        }
        Ok(())
    }
}

/// A line as it is, without what would move a terminal's cursor.
fn as_text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut text: String = text.chars().map(plain).collect();
    text.push('\n');
    text
}

fn show(args: &Args) -> anyhow::Result<Exit> {
    let (path, files) = found(args.file.as_deref())?;
    let mut view = View {
        filter: Filter {
            principal: args.principal.clone(),
            route: args.route.clone(),
            outcome: args.outcome.clone(),
            request_id: args.request_id.clone(),
            since_ms: args.since,
            until_ms: args.until,
        },
        json: args.json,
        paint: Paint::stdout(),
        kept: args.last.map(|most| (usize::try_from(most).unwrap_or(usize::MAX), VecDeque::new())),
        unknown: 0,
    };
    let mut followed = None;
    for file in &files {
        if is_older(file, args.since) {
            continue;
        }
        let opened = match file.number {
            None if args.follow => {
                followed = Some(std::fs::File::open(&file.path));
                continue;
            }
            _ => file.open(),
        };
        let mut from = opened.with_context(|| format!("reading `{}`", file.path.display()))?;
        while let Some(line) =
            next_line(&mut *from).with_context(|| format!("reading `{}`", file.path.display()))?
        {
            match line {
                FileLine::Whole(line) => view.line(&line)?,
                FileLine::Torn(_) => {}
                FileLine::TooLong => view.unknown += 1,
            }
        }
    }
    if args.follow {
        let first =
            followed.transpose().with_context(|| format!("reading `{}`", path.display()))?;
        follow(&path, first, &mut view)?;
    }
    view.flush()?;
    if view.unknown > 0 {
        style::say(&format!(
            "{} lines are no records in JSON, so that nobody knows whether they are meant",
            view.unknown
        ));
    }
    Ok(Exit::Ok)
}

/// The newest record of the request with this id, as its line; for `keepgate why`.
pub(super) fn of_request(path: Option<&Path>, id: &str) -> anyhow::Result<String> {
    let (path, files) = found(path)?;
    let filter = Filter { request_id: Some(id.to_owned()), ..Filter::default() };
    // Callers may choose ids, so that one may be there twice.
    for file in files.iter().rev() {
        let reading = || format!("reading `{}`", file.path.display());
        let mut from = file.open().with_context(reading)?;
        let mut newest = None;
        while let Some(line) = next_line(&mut *from).with_context(reading)? {
            if let FileLine::Whole(line) = line
                && let Entry::Record(record) = Entry::of(&line)
                && filter.takes(&record)
            {
                newest = Some(String::from_utf8_lossy(&line).into_owned());
            }
        }
        if let Some(line) = newest {
            return Ok(line);
        }
    }
    Err(usage(format!(
        "no request `{id}` in the log at `{}`: it may be older than the log, left out by sampling, or of \
         another gate",
        path.display()
    )))
}

/// Whether a full file was last written before this time.
fn is_older(file: &LogFile, since: Option<u64>) -> bool {
    let (Some(since), Some(_)) = (since, file.number) else { return false };
    // Of a compressed file this is later than its last record, never earlier.
    let written = std::fs::metadata(&file.path).map(|meta| meta.mtime());
    written.is_ok_and(|at| u64::try_from(at).unwrap_or(0).saturating_add(1) * 1_000 < since)
}

/// Reads the current file, and each one that takes its place, for as long as somebody watches.
fn follow(path: &Path, first: Option<std::fs::File>, view: &mut View) -> anyhow::Result<()> {
    let mut next = first;
    let mut is_first = true;
    loop {
        let file = match next.take() {
            Some(file) => file,
            None => match std::fs::File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                Err(error) => return Err(error).context(format!("reading `{}`", path.display())),
            },
        };
        let inode = file.metadata()?.ino();
        let mut from = std::io::BufReader::new(file);
        let mut line = Vec::new();
        // Read once more after another file has taken its place: it may have got its last lines.
        let mut is_over = false;
        loop {
            let read = from.read_until(b'\n', &mut line)?;
            if line.last() == Some(&b'\n') {
                line.pop();
                view.line(&line)?;
                line.clear();
                continue;
            }
            if line.len() > MAX_LINE {
                anyhow::bail!("`{}`: a line is longer than any line of a log", path.display());
            }
            if read > 0 {
                continue;
            }
            if std::mem::take(&mut is_first) {
                view.flush()?;
            }
            if is_over {
                break;
            }
            let now = std::fs::metadata(path).map(|meta| meta.ino()).ok();
            is_over = now.is_some_and(|now| now != inode);
            if !is_over {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// One line for people.
fn shown(record: &Record, paint: Paint) -> String {
    let outcome = format!("{:<15}", record.outcome);
    let outcome = match record.outcome.as_str() {
        "allowed" => paint.good(&outcome),
        "denied" | "unauthenticated" | "refused" | "limited" => paint.warn(&outcome),
        _ => paint.bad(&outcome),
    };
    let status = record.status.map(|status| status.to_string()).unwrap_or_default();
    let time = record.time.replace('T', " ");
    let took = record.total_us.map(took).unwrap_or_default();
    let who = match record.principal.as_str() {
        "" => "-",
        who => who,
    };
    let mut line = format!(
        "{} {outcome} {status:>3} {took:>8}  {:<6} {}  {who}  {}",
        time.trim_end_matches('Z'),
        record.method,
        record.path,
        record.address
    );
    if !record.reason.is_empty() {
        line += &format!("  {}", record.reason);
    }
    line += &format!("  {}", paint.faint(&record.request_id));
    as_text_of(&line)
}

fn as_text_of(line: &str) -> String {
    // Escapes of colors are ours; what comes from requests has none left but as JSON had it.
    let plain = |c: char| if c.is_control() && c != '\u{1b}' { '\u{fffd}' } else { c };
    let mut text: String = line.chars().map(plain).collect();
    text.push('\n');
    text
}

fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// What a mark says to somebody who reads; none: nothing.
fn said(mark: &Mark) -> Option<String> {
    Some(match mark {
        Mark::Lost(count) => format!("-- {count} records could not be written --"),
        Mark::SampledOut(count) => format!("-- {count} allowed requests were left out by sampling --"),
        Mark::Resumed(resumed) if !resumed.clean => {
            "-- the gate was started again after it had not ended in order: records may be missing --"
                .to_owned()
        }
        Mark::Removed(removed) => {
            format!("-- files up to {} were removed, because all were too large --", removed.through_file)
        }
        Mark::Begins(_) | Mark::Resumed(_) | Mark::Closed(_) | Mark::Anchor(_) => return None,
    })
}
