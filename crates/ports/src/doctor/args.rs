//! The command line of `doctor`, the same for `keepgate doctor` and `keepgate-doctor`.
//!
//! Parsed by hand: the small binary carries no argument parser.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::netns::Namespace;

/// Longest interval.
const LONGEST: Duration = Duration::from_secs(3600);

/// When to use color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Args {
    /// `--to HOST:PORT`, any number of them.
    pub to: Vec<String>,
    /// `--from ADDR`.
    pub from: Option<IpAddr>,
    /// `--netns NAME` or `--pid PID`.
    pub namespace: Namespace,
    /// `--all-netns`.
    pub all_namespaces: bool,
    /// `--explain TEXT`; `-` is standard input.
    pub explain: Option<String>,
    /// `--json`.
    pub json: bool,
    /// `--watch`.
    pub watch: bool,
    /// `--rounds N`: how many looks `--watch` takes; nothing means no end.
    pub rounds: Option<u32>,
    /// `--once` gives nothing, `--interval TIME` another time than a second.
    pub interval: Option<Duration>,
    /// `--record FILE`.
    pub record: Option<PathBuf>,
    /// `--from-snapshot FILE`.
    pub from_snapshot: Option<PathBuf>,
    /// `--probe N`.
    pub probe_limit: usize,
    /// `--serve ADDR`.
    pub serve: Option<SocketAddr>,
    /// `--every TIME`: how often `--serve` looks.
    pub every: Duration,
    /// `--root DIR`.
    pub root: PathBuf,
    /// `--color WHEN`.
    pub color: Color,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            from: None,
            namespace: Namespace::Current,
            all_namespaces: false,
            explain: None,
            json: false,
            watch: false,
            rounds: None,
            interval: Some(Duration::from_secs(1)),
            record: None,
            from_snapshot: None,
            probe_limit: 65_536,
            serve: None,
            every: Duration::from_secs(10),
            root: PathBuf::from("/"),
            color: Color::Auto,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Look.
    Look(Box<Args>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// A command line that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such option.
    #[error("unknown option `{option}` (see --help)")]
    Unknown {
        /// As written.
        option: String,
    },
    /// An option without its value.
    #[error("`{option}` needs a value: {shape}")]
    Missing {
        /// The option.
        option: &'static str,
        /// What the value looks like.
        shape: &'static str,
    },
    /// A value that does not fit.
    #[error("{option}: expected {shape}, got `{value}`")]
    Value {
        /// The option.
        option: &'static str,
        /// As written.
        value: String,
        /// What it should look like.
        shape: &'static str,
    },
    /// Two options that exclude each other.
    #[error("{first} and {second} exclude each other")]
    Conflict {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}

/// The options that take a value, and what it looks like.
const VALUES: [(&str, &str); 15] = [
    ("--to", "HOST:PORT"),
    ("--from", "an IP address"),
    ("--netns", "the name of a namespace (`ip netns list`)"),
    ("--pid", "a process number"),
    ("--explain", "the text of an error message, or `-`: standard input"),
    ("--rounds", "a number of looks, 1 or more"),
    ("--interval", "a time between the two looks from 0.1s to 1h, such as 2s or 500ms"),
    ("--record", "a file to write"),
    ("--from-snapshot", "a file written by --record, or `-`"),
    ("--probe", "a number of ports, 0 to 65536"),
    ("--serve", "ADDR:PORT to listen on"),
    ("--every", "a time between looks from 1s to 1h, such as 10s or 1m"),
    ("--root", "a directory with a recorded /proc"),
    ("--color", "auto, always or never"),
    ("--colour", "auto, always or never"),
];

/// Parses what comes after the command's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args = Args::default();
    let (mut once, mut named, mut pid) = (false, false, false);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let Some((option, shape)) = VALUES.iter().find(|(option, _)| *option == name) else {
            match (word.as_str(), inline) {
                ("--help" | "-h", None) => return Ok(Command::Help),
                ("--version" | "-V", None) => return Ok(Command::Version),
                ("--json", None) => args.json = true,
                ("--watch", None) => args.watch = true,
                ("--once", None) => once = true,
                ("--all-netns", None) => args.all_namespaces = true,
                _ => return Err(UsageError::Unknown { option: word }),
            }
            continue;
        };
        let value = match inline {
            Some(value) => value,
            None => words
                .next()
                .map(|value| value.to_string_lossy().into_owned())
                .ok_or(UsageError::Missing { option, shape })?,
        };
        named |= *option == "--netns";
        pid |= *option == "--pid";
        set(&mut args, option, &value).ok_or(UsageError::Value { option, value, shape })?;
    }
    if once {
        args.interval = None;
    }
    let conflict = |first, second| Err(UsageError::Conflict { first, second });
    if named && pid {
        return conflict("--netns", "--pid");
    }
    if args.all_namespaces && (named || pid) {
        return conflict("--all-netns", "--netns or --pid");
    }
    if args.all_namespaces && args.record.is_some() {
        return conflict("--all-netns", "--record");
    }
    if args.explain.as_deref() == Some("-")
        && args.from_snapshot.as_deref() == Some(std::path::Path::new("-"))
    {
        return conflict("--explain -", "--from-snapshot -");
    }
    if args.from_snapshot.is_some() && (args.watch || args.serve.is_some() || args.all_namespaces) {
        return conflict("--from-snapshot", "--watch, --serve or --all-netns");
    }
    if args.serve.is_some() && args.watch {
        return conflict("--serve", "--watch");
    }
    Ok(Command::Look(Box::new(args)))
}

/// Sets one option; nothing when the value does not fit.
fn set(args: &mut Args, option: &str, value: &str) -> Option<()> {
    let at_least =
        |ms: u64| duration(value).filter(|d| (Duration::from_millis(ms)..=LONGEST).contains(d));
    match option {
        "--to" => {
            let (host, port) = value.rsplit_once(':')?;
            port.parse::<u16>().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| args.to.push(value.to_owned()))?;
        }
        "--from" => args.from = Some(value.parse().ok()?),
        "--netns" => args.namespace = Namespace::Named(value.to_owned()),
        "--pid" => args.namespace = Namespace::Pid(value.parse().ok()?),
        "--explain" => args.explain = Some(value.to_owned()),
        "--rounds" => args.rounds = Some(value.parse().ok().filter(|n| *n > 0)?),
        "--interval" => args.interval = Some(at_least(100)?),
        "--record" => args.record = Some(PathBuf::from(value)),
        "--from-snapshot" => args.from_snapshot = Some(PathBuf::from(value)),
        "--probe" => args.probe_limit = value.parse().ok().filter(|n| *n <= 65_536)?,
        "--serve" => args.serve = Some(value.parse().ok()?),
        "--every" => args.every = at_least(1000)?,
        "--root" => args.root = PathBuf::from(value),
        _ => {
            args.color = match value {
                "auto" => Color::Auto,
                "always" => Color::Always,
                "never" => Color::Never,
                _ => return None,
            }
        }
    }
    Some(())
}

/// A duration as people write it: `500ms`, `2s`, `1.5m`, `1h`; a bare number is seconds. Nothing
/// when it is no duration, or one of more than a day.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit_s = match unit {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = number.trim_end().parse().ok()?;
    let seconds = number * unit_s;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// The help, for a program of that name.
pub fn help(program: &str) -> String {
    format!(
        "\
Reports whether this host runs out of ports for outgoing connections: toward which destination,
through which program, and what to do. It opens no connection, changes nothing and needs no root
(it reports what it could not see).

usage: {program} [options]

  --to HOST:PORT        answer for one destination, even if nothing is connected there
  --from ADDR           answer for this source address
  --explain TEXT        what an error message means, and whether it is true here (`-`: read it
                        from standard input)
  --netns NAME          look into a namespace made by `ip netns add`
  --pid PID             look into the namespace of a process (a container's)
  --all-netns           look into every namespace that can be seen
  --once                one look instead of two a second apart: quicker, and no rates
  --interval TIME       time between the two looks, such as 500ms or 2s (1s)
  --watch               look again and again
  --rounds N            stop --watch after N looks
  --json                the report as JSON
  --record FILE         write what was seen, to be judged elsewhere
  --from-snapshot FILE  judge what --record has written (`-`: standard input)
  --serve ADDR:PORT     metrics for Prometheus at /metrics; with --all-netns for every namespace
  --every TIME          how often --serve looks, such as 5s (10s)
  --probe N             test at most N ports for explicit binding (all that matter)
  --root DIR            read a recorded /proc and /etc under DIR instead of this host
  --color WHEN          auto, always or never
  -h, --help            this text
  -V, --version         the version

exit: 0 healthy, 1 a finding at warning or worse, 2 cannot look or tell, 64 wrong usage
"
    )
}
