//! `doctor`: arguments in, a report on standard output and an exit code out.
//!
//! `keepgate doctor` and the small static `keepgate-doctor` both call [`run`], so help and
//! behavior are the same. The one difference: the small binary resolves no names but those in
//! `/etc/hosts`, because a static binary cannot load the system's resolver.

pub mod args;
mod many;
pub mod metrics;
pub mod pipe;
mod resolve;
mod serve;
mod told;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Serialize;

use crate::explain::{Explanation, explain};
use crate::read::{self, ReadError, ReadOptions};
use crate::report::{REPORT_VERSION, Report, Verdict};
use crate::rules;
use crate::snapshot::{Asked, HostSnapshot, SourceAnswer, Unknown};
use crate::text::{self, Style};

use self::args::{Args, Color, Command, UsageError};
use self::pipe::Pipe;

/// Largest snapshot that is read.
const MAX_SNAPSHOT: u64 = 512 * 1024 * 1024;
/// Turns a name into addresses; `/etc/hosts` has been asked already.
pub type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// How the program is called and what it can do.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// As in the usage line.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// A resolver of names, where there is one.
    pub resolve: Option<Resolve>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Nothing at warning level or worse.
    Healthy = 0,
    /// Something is.
    Finding = 1,
    /// It could not look, or what it saw does not decide.
    CouldNotLook = 2,
    /// The command line makes no sense.
    Usage = 64,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// How a look that gave this report ends.
    pub fn of(report: &Report) -> Self {
        match report.verdict {
            Verdict::Unknown => Self::CouldNotLook,
            _ if report.has_trouble() => Self::Finding,
            _ => Self::Healthy,
        }
    }

    /// Of several looks: a proven finding counts most, then a look that could not decide.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Healthy => 0,
            Self::CouldNotLook => 1,
            Self::Finding => 2,
            Self::Usage => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "`{name}` is not in /etc/hosts and this program resolves no other names: give an address (`getent hosts NAME` shows it)"
    )]
    NoResolver { name: String },
    #[error("`{name}` cannot be resolved")]
    Resolve {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the snapshot `{file}`")]
    ReadSnapshot {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("`{file}` is not a snapshot written by --record")]
    ParseSnapshot {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write the snapshot `{file}`")]
    WriteSnapshot {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {addr}")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the error text from standard input")]
    ReadText(#[source] io::Error),
    #[error("cannot write the report")]
    Output(#[source] io::Error),
}

/// Runs the command with standard output and standard error.
pub fn run(program: &Program, words: impl IntoIterator<Item = OsString>) -> Exit {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    run_with(program, words, terminal, &mut stdout.lock(), &mut io::stderr().lock())
}

/// The same, writing elsewhere. `terminal` says whether `out` is one.
pub fn run_with(
    program: &Program,
    words: impl IntoIterator<Item = OsString>,
    terminal: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let out = &mut Pipe::new(out);
    let result = match args::parse(words) {
        Ok(Command::Help) => written(write!(out, "{}", args::help(program.name))),
        Ok(Command::Version) => written(writeln!(out, "{} {}", program.name, program.version)),
        Ok(Command::Look(args)) => look(program, &args, terminal, out),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            let _ = write!(err, "error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                let _ = write!(err, ": {cause}");
                source = cause.source();
            }
            let _ = writeln!(err);
            if matches!(error, DoctorError::Usage(_)) { Exit::Usage } else { Exit::CouldNotLook }
        }
    }
}

fn written(result: io::Result<()>) -> Result<Exit, DoctorError> {
    result.map(|()| Exit::Healthy).map_err(DoctorError::Output)
}

/// The JSON form: the report, and what `--explain` adds.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'a Explanation>,
}

fn look(
    program: &Program,
    args: &Args,
    terminal: bool,
    out: &mut Pipe<'_>,
) -> Result<Exit, DoctorError> {
    let color = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    };
    let style = Style { color, width: text::width_of(terminal) };
    let text = told::text(args)?;
    let explanation = text.as_deref().map(explain);
    let options = options(program, args, text.as_deref().zip(explanation.as_ref()))?;
    if let Some(addr) = args.serve {
        serve::serve(addr, &options, args, out)
            .map_err(|source| DoctorError::Listen { addr, source })?;
        return Ok(Exit::Healthy);
    }
    if args.all_namespaces {
        return all_namespaces(args, &options, style, out);
    }
    let rounds = if args.watch { args.rounds.unwrap_or(u32::MAX) } else { 1 };
    let mut worst = Exit::Healthy;
    for _ in 0..rounds {
        let snapshot = match &args.from_snapshot {
            Some(file) => from_snapshot(file, &options)?,
            None => read::host(&options)?,
        };
        if let Some(file) = &args.record {
            record(file, &snapshot)?;
        }
        let mut report = rules::judge(&snapshot);
        if let Some(explanation) = &explanation {
            told::undecided(&mut report, explanation, &options);
        }
        worst = worst.and(Exit::of(&report));
        let explanation = explanation.as_ref();
        print(out, args, &report, explanation, style, terminal).map_err(DoctorError::Output)?;
        if out.is_gone() {
            break;
        }
        if args.watch && args.interval.is_none() {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
    Ok(worst)
}

fn print(
    out: &mut dyn Write,
    args: &Args,
    report: &Report,
    explanation: Option<&Explanation>,
    style: Style,
    terminal: bool,
) -> io::Result<()> {
    if args.json {
        let output = Output { report, explanation };
        let json = if args.watch {
            serde_json::to_string(&output)
        } else {
            serde_json::to_string_pretty(&output)
        };
        writeln!(out, "{}", json.map_err(io::Error::other)?)?;
    } else if args.watch && !terminal {
        writeln!(out, "{}", text::line(report, style))?;
    } else {
        if args.watch {
            // Home, and erase what was there.
            write!(out, "\u{1b}[H\u{1b}[2J")?;
        }
        if let Some(explanation) = explanation {
            writeln!(out, "{}", text::render_explanation(explanation, style))?;
        }
        write!(out, "{}", text::render(report, style))?;
    }
    out.flush()
}

fn options(
    program: &Program,
    args: &Args,
    told: Option<(&str, &Explanation)>,
) -> Result<ReadOptions, DoctorError> {
    let explanation = told.map(|(_, explanation)| explanation);
    let mut to = Vec::new();
    for name in &args.to {
        let found = resolve::resolve(program, args, name)?;
        to.extend(found.into_iter().map(|addr| (name.clone(), addr)));
    }
    let binds = explanation.is_some_and(Explanation::is_bind);
    let named = explanation.and_then(|e| e.address.as_ref());
    // What could not be bound is an own address.
    let own = named
        .filter(|_| binds)
        .and_then(|name| name.parse::<SocketAddr>().ok())
        .map(|addr| addr.ip())
        .filter(|ip| !ip.is_unspecified());
    // The destination an error message names is asked for too, if it can be resolved.
    if args.to.is_empty()
        && !binds
        && let Some(name) = named
        && let Ok(addrs) = resolve::resolve(program, args, name)
    {
        to.extend(addrs.into_iter().map(|addr| (name.clone(), addr)));
    }
    Ok(ReadOptions {
        root: args.root.clone(),
        namespace: args.namespace.clone(),
        interval: args.interval,
        to,
        from: args.from.or(own),
        probe_limit: args.probe_limit,
        bind: told.and_then(|(text, explanation)| resolve::port_in_use(text, explanation)),
        about_files: explanation
            .is_some_and(|e| matches!(e.errno.as_deref(), Some("EMFILE" | "ENFILE"))),
        ..ReadOptions::default()
    })
}

fn from_snapshot(file: &Path, options: &ReadOptions) -> Result<HostSnapshot, DoctorError> {
    let name = || file.display().to_string();
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(MAX_SNAPSHOT).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(MAX_SNAPSHOT).read_to_end(&mut bytes))
    };
    read.map_err(|source| DoctorError::ReadSnapshot { file: name(), source })?;
    let mut snapshot: HostSnapshot = serde_json::from_slice(&bytes)
        .map_err(|source| DoctorError::ParseSnapshot { file: name(), source })?;
    if !options.to.is_empty() {
        snapshot.ask_recorded(&options.to, options.from);
    }
    Ok(snapshot)
}

impl HostSnapshot {
    /// Asks a recorded host for destinations. Its routing table is not recorded, so the source is
    /// the given one, or those that lead there already.
    pub fn ask_recorded(&mut self, to: &[(String, SocketAddr)], from: Option<IpAddr>) {
        self.asked.clear();
        for (name, destination) in to {
            let mut sources: Vec<IpAddr> = from.into_iter().collect();
            if sources.is_empty() {
                let all = &self.sockets.buckets;
                sources = all
                    .iter()
                    .filter(|b| b.key.destination() == *destination)
                    .map(|b| b.key.src)
                    .collect();
                sources.sort_unstable();
                sources.dedup();
                sources.truncate(64);
            }
            if sources.is_empty() {
                self.unknown.push(Unknown {
                    what: format!("the source address toward {name}"),
                    why: "the recorded host has no connection there: give it with --from"
                        .to_owned(),
                });
            }
            self.asked.extend(sources.into_iter().map(|source| Asked {
                name: name.clone(),
                destination: *destination,
                source: SourceAnswer::Local(source),
                from_given: from.is_some(),
            }));
        }
    }
}

fn record(file: &Path, snapshot: &HostSnapshot) -> Result<(), DoctorError> {
    let name = || file.display().to_string();
    let write = || -> io::Result<()> {
        let mut writer = io::BufWriter::new(std::fs::File::create(file)?);
        serde_json::to_writer(&mut writer, snapshot).map_err(io::Error::other)?;
        writer.write_all(b"\n")?;
        writer.flush()
    };
    write().map_err(|source| DoctorError::WriteSnapshot { file: name(), source })
}

/// The JSON form of `--all-netns`.
#[derive(Serialize)]
struct AllOutput {
    version: u32,
    namespaces: Vec<Report>,
    unknown: Vec<Unknown>,
}

fn all_namespaces(
    args: &Args,
    options: &ReadOptions,
    style: Style,
    out: &mut dyn Write,
) -> Result<Exit, DoctorError> {
    let (reports, unknown) = many::look(options);
    let exit = reports.iter().map(Exit::of).reduce(Exit::and).unwrap_or(Exit::CouldNotLook);
    let write = |out: &mut dyn Write| -> io::Result<()> {
        if args.json {
            let all = AllOutput { version: REPORT_VERSION, namespaces: reports, unknown };
            return writeln!(out, "{}", serde_json::to_string_pretty(&all)?);
        }
        for report in &reports {
            writeln!(out, "== {} ==", report.netns)?;
            writeln!(out, "{}", text::render(report, style))?;
        }
        write!(out, "{}", text::render_unseen(&unknown, style))?;
        out.flush()
    };
    write(out).map_err(DoctorError::Output)?;
    Ok(exit)
}
