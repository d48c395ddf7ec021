//! `keepgate tune`: the host setting that helps, applied so that it cannot hurt.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use keepgate_ports::netns::Namespace;
use keepgate_ports::ranges::PortSet;
use keepgate_ports::read::{self, ReadOptions};
use keepgate_ports::snapshot::HostSnapshot;
use keepgate_ports::tune::{self, Ask, Level, Source, TunePlan, formats};

use crate::exit::{Exit, usage};
use crate::style::{Paint, print, print_json};
use crate::tune::apply::{self, Applied, Manner};
use crate::tune::journal::Desk;
use crate::tune::watch;

/// Plan, apply and undo port settings of this host, and judge existing ones
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: TuneCommand,
}

#[derive(Debug, Subcommand)]
enum TuneCommand {
    /// Say which settings help here, why, and what each buys; changes nothing
    #[command(after_help = "\
Examples:
  keepgate tune plan
  keepgate tune plan --to 10.0.0.2:8443            for this destination
  keepgate tune plan --format kubernetes           a snippet for a pod")]
    Plan {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        want: Want,
        /// The form of the plan
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// The same as --format json
        #[arg(long)]
        json: bool,
        /// Plan for a recorded host (`keepgate doctor --record F`)
        #[arg(long, value_name = "F")]
        from_snapshot: Option<PathBuf>,
    },
    /// Apply the plan; unless confirmed in time, everything goes back by itself
    #[command(after_help = "\
Examples:
  keepgate tune apply                   apply, then confirm within 60 s:
  keepgate tune apply --confirm         keep what was applied
  keepgate tune apply --yes             apply and keep, for automation")]
    Apply {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        want: Want,
        /// Keep what was applied by an earlier `tune apply`
        #[arg(long, conflicts_with_all = ["yes", "file", "widen"])]
        confirm: bool,
        /// Keep it without asking
        #[arg(long)]
        yes: bool,
        /// Seconds to wait for the confirmation
        #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
        /// Apply the settings of this sysctl file instead of the plan
        #[arg(long, value_name = "F")]
        file: Option<PathBuf>,
        #[command(flatten)]
        keep: Keep,
    },
    /// Take back what was applied, values and file, byte for byte
    Undo {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        keep: Keep,
    },
    /// Judge sysctl files line by line; exit code 1 if a line is wrong
    #[command(after_help = "\
Example:
  keepgate tune lint /etc/sysctl.conf /etc/sysctl.d
A folder stands for its *.conf files in the order in which they are applied.")]
    Lint {
        /// Files and folders, in the order of application
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write a corrected copy of each file beside it, as NAME.fixed
        #[arg(long)]
        fix: bool,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an unconfirmed change back when its time is over
    #[command(hide = true)]
    Watch {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        keep: Keep,
    },
}

/// Which network namespace.
#[derive(Debug, clap::Args)]
struct Place {
    /// A namespace made by `ip netns add`
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    netns: Option<String>,
    /// The namespace this process lives in
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct Want {
    /// The destination whose ports matter
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// The source address, with --to
    #[arg(long, value_name = "ADDR", requires = "to")]
    from: Option<IpAddr>,
    /// Widen the range even where nothing is short of ports
    #[arg(long)]
    widen: bool,
}

#[derive(Debug, clap::Args)]
struct Keep {
    /// Where the lasting file goes; default: /etc/sysctl.d for the host's own namespace, and
    /// nowhere for another one
    #[arg(long, value_name = "DIR")]
    sysctl_dir: Option<PathBuf>,
    /// Where the journal is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/keepgate")]
    state_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Sysctl,
    Kubernetes,
    Systemd,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        TuneCommand::Plan { at, want, format, json, from_snapshot } => {
            let snapshot = match from_snapshot {
                Some(path) => recorded(&path)?,
                None => look(&at.namespace(), &want)?,
            };
            let plan = tune::plan(&snapshot, &ask(&want));
            show(&plan, if json { Format::Json } else { format })
        }
        TuneCommand::Apply { at, confirm: true, keep, .. } => {
            let desk = Desk::new(&keep.state_dir, at.namespace());
            confirm(&desk)
        }
        TuneCommand::Apply { at, want, yes, timeout, file, keep, confirm: false } => {
            let desk = Desk::new(&keep.state_dir, at.namespace());
            let manner = Manner {
                yes,
                patience: Duration::from_secs(timeout),
                file: lasting_file(&desk.namespace, keep.sysctl_dir),
                state_dir: keep.state_dir,
            };
            change(&desk, &want, file.as_deref(), &manner)
        }
        TuneCommand::Undo { at, keep } => undo(&Desk::new(&keep.state_dir, at.namespace())),
        TuneCommand::Lint { files, fix, json } => lint(&files, fix, json),
        TuneCommand::Watch { at, keep } => {
            let desk = Desk::new(&keep.state_dir, at.namespace());
            watch::run(desk)?;
            Ok(Exit::Ok)
        }
    }
}

/// The file that makes settings last. Other namespaces than the host's have none: who makes them
/// sets them.
fn lasting_file(namespace: &Namespace, folder: Option<PathBuf>) -> Option<PathBuf> {
    let folder = folder.or_else(|| {
        let initial = Namespace::Pid(1).inode().ok();
        let here = namespace.inode().ok();
        (here.is_some() && here == initial).then(|| PathBuf::from("/etc/sysctl.d"))
    })?;
    Some(folder.join("90-keepgate.conf"))
}

impl Place {
    fn namespace(&self) -> Namespace {
        match (&self.netns, self.pid) {
            (Some(name), _) => Namespace::Named(name.clone()),
            (None, Some(pid)) => Namespace::Pid(pid),
            (None, None) => Namespace::Current,
        }
    }
}

fn look(namespace: &Namespace, want: &Want) -> anyhow::Result<HostSnapshot> {
    let mut to = Vec::new();
    if let Some(text) = &want.to {
        let addresses: Vec<SocketAddr> = text
            .to_socket_addrs()
            .map_err(|error| usage(format!("`{text}` is no HOST:PORT: {error}")))?
            .collect();
        to.extend(addresses.into_iter().map(|address| (text.clone(), address)));
    }
    let options = ReadOptions {
        namespace: namespace.clone(),
        to,
        from: want.from,
        // Every port may count: a plan is a promise, and a probe takes 25 us.
        probe_limit: usize::from(u16::MAX),
        assume_reuse: true,
        ..Default::default()
    };
    read::host(&options).context("reading this host")
}

fn recorded(path: &Path) -> anyhow::Result<HostSnapshot> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no snapshot", path.display()))
}

fn ask(want: &Want) -> Ask {
    Ask {
        widen: want.widen,
        services: services(&std::fs::read_to_string("/etc/services").unwrap_or_default()),
        kubernetes: Path::new("/var/lib/kubelet").exists(),
    }
}

/// TCP ports above 1023 that `/etc/services` names.
fn services(text: &str) -> PortSet {
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().nth(1)?.strip_suffix("/tcp"))
        .filter_map(|port| port.parse().ok())
        .filter(|port: &u16| *port >= 1024)
        .collect()
}

fn show(plan: &TunePlan, format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Text => {
            print(&formats::text(plan))?;
            if !plan.steps.is_empty() {
                print(
                    "Apply it with `keepgate tune apply`; it goes back by itself unless confirmed.\n",
                )?;
            }
        }
        Format::Json => print_json(&serde_json::to_value(plan)?)?,
        Format::Sysctl => print(&formats::sysctl(&plan.steps))?,
        Format::Kubernetes => print(&formats::kubernetes(&plan.steps))?,
        Format::Systemd => print(&formats::systemd(&plan.steps))?,
    }
    Ok(Exit::Ok)
}

fn change(desk: &Desk, want: &Want, file: Option<&Path>, manner: &Manner) -> anyhow::Result<Exit> {
    let paint = Paint::stderr();
    let _turn = desk.turn()?;
    for line in apply::repair(desk)? {
        eprintln!("{}", paint.warn(line.trim_end()));
    }
    let snapshot = look(&desk.namespace, want)?;
    let mut plan = tune::plan(&snapshot, &ask(want));
    if let Some(path) = file {
        plan.steps = apply::steps_of_file(desk, path)?;
        plan.gains.clear();
    }
    match apply::apply(desk, &snapshot, &plan, manner)? {
        Applied::Refused(refused) => {
            for refusal in &refused {
                let key = if refusal.key.is_empty() { "this namespace" } else { &refusal.key };
                eprintln!("{} {key}: {}", paint.bad("refused:"), refusal.why);
            }
            Ok(Exit::Denied)
        }
        Applied::Done { steps, aside, watcher } => {
            for line in &aside {
                eprintln!("{}", paint.warn(line));
            }
            if steps.is_empty() {
                print("Nothing to change.\n")?;
                return Ok(Exit::Ok);
            }
            for step in &steps {
                print(&format!("set {} = {}\n", step.key, step.to))?;
            }
            for gain in &plan.gains {
                print(&format!(
                    "{} -> {}: {} ports (had {}), {:.0} connections a second for ever (had {:.0})\n",
                    gain.src,
                    SocketAddr::new(gain.dst, gain.dport),
                    gain.usable.1,
                    gain.usable.0,
                    gain.sustainable_per_s.1,
                    gain.sustainable_per_s.0,
                ))?;
            }
            if let Some(path) = &manner.file {
                print(&format!("wrote {}\n", path.display()))?;
            }
            match watcher {
                None => print("Confirmed. `keepgate tune undo` takes it back.\n")?,
                Some(pid) => print(&format!(
                    "Everything goes back in {} s (watcher: process {pid}) unless you confirm:\n  \
                     keepgate tune apply --confirm{}\n",
                    manner.patience.as_secs(),
                    hint(desk, manner),
                ))?,
            }
            Ok(Exit::Ok)
        }
    }
}

/// What the confirming command must repeat.
fn hint(desk: &Desk, manner: &Manner) -> String {
    let mut words = match &desk.namespace {
        Namespace::Current => String::new(),
        Namespace::Named(name) => format!(" --netns {name}"),
        Namespace::Pid(pid) => format!(" --pid {pid}"),
    };
    if manner.state_dir != Path::new("/var/lib/keepgate") {
        words.push_str(&format!(" --state-dir {}", manner.state_dir.display()));
    }
    words
}

fn confirm(desk: &Desk) -> anyhow::Result<Exit> {
    let _turn = desk.turn()?;
    let said = apply::repair(desk)?;
    for line in &said {
        eprintln!("{}", Paint::stderr().warn(line.trim_end()));
    }
    if apply::confirm(desk)? {
        print("Confirmed. `keepgate tune undo` takes it back.\n")?;
        return Ok(Exit::Ok);
    }
    eprintln!("keepgate: nothing waits for a confirmation here");
    Ok(Exit::Failure)
}

fn undo(desk: &Desk) -> anyhow::Result<Exit> {
    let _turn = desk.turn()?;
    if let Some(word) = desk.take_word()? {
        eprintln!("{}", Paint::stderr().warn(word.trim_end()));
    }
    match apply::undo(desk)? {
        None => {
            print("Nothing to undo: nothing of ours is applied here.\n")?;
            Ok(Exit::Ok)
        }
        Some(aside) => {
            for line in &aside {
                eprintln!("{}", Paint::stderr().warn(line));
            }
            print("Undone: values and file are as they were.\n")?;
            Ok(if aside.is_empty() { Exit::Ok } else { Exit::Failure })
        }
    }
}

fn lint(paths: &[PathBuf], fix: bool, json: bool) -> anyhow::Result<Exit> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(conf_files(path)?);
    }
    let mut texts = Vec::new();
    for path in &files {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    let findings = tune::lint(&sources, &kernel_has);
    if json {
        print_json(&serde_json::to_value(&findings)?)?;
    } else {
        print(&tune::render(&sources, &findings, Paint::stdout().is_on()))?;
    }
    if fix {
        for (path, (_, text)) in files.iter().zip(&texts) {
            let fixed = tune::fix(text);
            if fixed != *text {
                let mut name = path.clone().into_os_string();
                name.push(".fixed");
                std::fs::write(&name, fixed)
                    .with_context(|| format!("writing {}", Path::new(&name).display()))?;
                eprintln!("wrote {}", Path::new(&name).display());
            }
        }
    }
    let wrong = findings.iter().any(|finding| finding.level != Level::Note);
    Ok(if wrong { Exit::Failure } else { Exit::Ok })
}

/// A file itself; of a folder its `*.conf`, by name.
fn conf_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "conf") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether this kernel has the key; none where this namespace cannot tell.
fn kernel_has(key: &str) -> Option<bool> {
    if !key.starts_with("net.") {
        return None;
    }
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    Path::new("/proc/sys/net").exists().then(|| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_the_host() {
        let text = "ssh 22/tcp\nmysql\t\t3306/tcp # database\nntp 123/udp\nfoo 5000/udp\n# x 9/tcp\nbad tcp\n";
        assert_eq!(services(text).to_string(), "3306");
    }
}
