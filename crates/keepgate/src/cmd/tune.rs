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
use crate::style::{Paint, print, print_json, say};
use crate::tune::apply::{self, Applied, Manner};
use crate::tune::journal::{STATE_FOLDER, TuneState};
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
        at: At,
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
        at: At,
        #[command(flatten)]
        want: Want,
        /// Keep what was applied by an earlier `tune apply`
        #[arg(long, conflicts_with_all = ["yes", "file", "widen"])]
        confirm: bool,
        /// Keep it without asking; keeps an earlier change that waits for its confirmation, too
        #[arg(long)]
        yes: bool,
        /// Time to wait for the confirmation, such as 90s or 5m (1s to 1h)
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = patience)]
        timeout: Duration,
        /// Apply the settings of this sysctl file instead of the plan
        #[arg(long, value_name = "F")]
        file: Option<PathBuf>,
        #[command(flatten)]
        keep: Keep,
    },
    /// Take back what was applied, values and file, byte for byte
    Undo {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        keep: Keep,
    },
    /// Judge sysctl files line by line; exit code 1 for errors, with --strict for warnings too
    #[command(after_help = "\
Example:
  keepgate tune lint /etc/sysctl.conf /etc/sysctl.d
For a folder, its *.conf files are read in the order in which they are applied.")]
    Lint {
        /// Files and folders, in the order of application
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write a corrected copy of each file beside it, as NAME.fixed
        #[arg(long)]
        fix: bool,
        /// Warnings count as errors
        #[arg(long)]
        strict: bool,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an unconfirmed change back when its time is over
    #[command(hide = true)]
    Watch {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        keep: Keep,
    },
}

/// Which network namespace.
#[derive(Debug, clap::Args)]
struct At {
    /// A namespace made by `ip netns add`
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    netns: Option<String>,
    /// The namespace of this process
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
    #[arg(long, value_name = "DIR", default_value = STATE_FOLDER)]
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
            let desk = TuneState::new(&keep.state_dir, at.namespace());
            confirm(&desk)
        }
        TuneCommand::Apply { at, want, yes, timeout, file, keep, confirm: false } => {
            let desk = TuneState::new(&keep.state_dir, at.namespace());
            let manner = Manner {
                yes,
                patience: timeout,
                sysctl_dir: lasting_folder(&desk.namespace, keep.sysctl_dir),
                state_dir: keep.state_dir,
            };
            change(&desk, &want, file.as_deref(), &manner)
        }
        TuneCommand::Undo { at, keep } => undo(&TuneState::new(&keep.state_dir, at.namespace())),
        TuneCommand::Lint { files, fix, strict, json } => lint(&files, fix, strict, json),
        TuneCommand::Watch { at, keep } => {
            let desk = TuneState::new(&keep.state_dir, at.namespace());
            watch::run(desk)?;
            Ok(Exit::Ok)
        }
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    keepgate_ports::doctor::args::duration(text)
        .filter(|duration| (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(duration))
        .ok_or_else(|| "expected a time from 1s to 1h, such as 90s or 5m".to_owned())
}

/// Where the file goes that makes settings last. Other namespaces than the host's have none: who
/// makes them sets them.
fn lasting_folder(namespace: &Namespace, folder: Option<PathBuf>) -> Option<PathBuf> {
    folder.or_else(|| {
        let initial = Namespace::Pid(1).inode().ok();
        let here = namespace.inode().ok();
        (here.is_some() && here == initial).then(|| PathBuf::from("/etc/sysctl.d"))
    })
}

impl At {
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
            .map_err(|error| usage(format!("expected HOST:PORT, got `{text}`: {error}")))?
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
    serde_json::from_str(&text).with_context(|| {
        format!(
            "expected a snapshot written by `keepgate doctor --record`, got `{}`",
            path.display()
        )
    })
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

fn change(
    desk: &TuneState,
    want: &Want,
    file: Option<&Path>,
    manner: &Manner,
) -> anyhow::Result<Exit> {
    let paint = Paint::stderr();
    let _turn = desk.turn()?;
    for line in apply::repair(desk)? {
        say(&paint.warn(line.trim_end()));
    }
    let waited = apply::is_pending(desk)?;
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
                say(&format!("{} {key}: {}", paint.bad("refused:"), refusal.why));
            }
            Ok(Exit::Denied)
        }
        Applied::Pending => {
            say(&format!(
                "keepgate: an earlier change waits for its confirmation: `keepgate tune apply \
                 --confirm{0}` keeps it, `keepgate tune undo{0}` takes it back",
                hint(desk, manner)
            ));
            Ok(Exit::Failure)
        }
        Applied::Done { steps, aside, watcher, file, winners } => {
            for line in &aside {
                say(&paint.warn(line));
            }
            if steps.is_empty() && waited {
                print("Confirmed what was applied before. `keepgate tune undo` takes it back.\n")?;
                return Ok(Exit::Ok);
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
                    "{} -> {}: {} ports (had {}), {:.0} connections a second sustained (had {:.0})\n",
                    gain.src,
                    SocketAddr::new(gain.dst, gain.dport),
                    gain.usable.1,
                    gain.usable.0,
                    gain.sustainable_per_s.1,
                    gain.sustainable_per_s.0,
                ))?;
            }
            if let Some(path) = &file {
                print(&format!("wrote {}\n", path.display()))?;
            }
            for winner in &winners {
                say(&paint.warn(&format!(
                    "not lasting: {} is applied later and sets {} to `{}`; remove or change that \
                     line, or the next boot brings it back",
                    winner.file.display(),
                    winner.key,
                    winner.value.replace('\t', " "),
                )));
            }
            match watcher {
                None if !winners.is_empty() => {
                    print("Applied until the next boot. `keepgate tune undo` takes it back.\n")?;
                    return Ok(Exit::Failure);
                }
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
fn hint(desk: &TuneState, manner: &Manner) -> String {
    let mut words = match &desk.namespace {
        Namespace::Current => String::new(),
        Namespace::Named(name) => format!(" --netns {name}"),
        Namespace::Pid(pid) => format!(" --pid {pid}"),
    };
    if manner.state_dir != Path::new(STATE_FOLDER) {
        words.push_str(&format!(" --state-dir {}", manner.state_dir.display()));
    }
    words
}

fn confirm(desk: &TuneState) -> anyhow::Result<Exit> {
    let _turn = desk.turn()?;
    let said = apply::repair(desk)?;
    for line in &said {
        say(&Paint::stderr().warn(line.trim_end()));
    }
    if apply::confirm(desk)? {
        print("Confirmed. `keepgate tune undo` takes it back.\n")?;
        return Ok(Exit::Ok);
    }
    say("keepgate: nothing waits for a confirmation here");
    Ok(Exit::Failure)
}

fn undo(desk: &TuneState) -> anyhow::Result<Exit> {
    let _turn = desk.turn()?;
    if let Some(word) = desk.take_word()? {
        say(&Paint::stderr().warn(word.trim_end()));
    }
    match apply::undo(desk)? {
        None => {
            print("Nothing to undo: nothing of ours is applied here.\n")?;
            Ok(Exit::Ok)
        }
        Some(aside) => {
            for line in &aside {
                say(&Paint::stderr().warn(line));
            }
            print("Undone: values and file are as they were.\n")?;
            Ok(if aside.is_empty() { Exit::Ok } else { Exit::Failure })
        }
    }
}

fn lint(paths: &[PathBuf], fix: bool, strict: bool, json: bool) -> anyhow::Result<Exit> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(conf_files(path)?);
    }
    let mut texts = Vec::new();
    let mut exact = Vec::new();
    for path in &files {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        exact.push(as_text(&bytes));
    }
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    let findings = tune::lint(&sources, &kernel_has);
    if json {
        print_json(&serde_json::to_value(&findings)?)?;
    } else {
        print(&tune::render(&sources, &findings, Paint::stdout().is_on()))?;
    }
    if fix {
        let all: Vec<&str> = exact.iter().map(String::as_str).collect();
        for ((path, text), fixed) in files.iter().zip(&exact).zip(tune::fix_all(&all)) {
            if fixed != *text {
                let mut name = path.clone().into_os_string();
                name.push(".fixed");
                std::fs::write(&name, as_bytes(&fixed))
                    .with_context(|| format!("writing {}", Path::new(&name).display()))?;
                say(&format!("wrote {}", Path::new(&name).display()));
            }
        }
    }
    let worst = if strict { Level::Warning } else { Level::Error };
    let wrong = findings.iter().any(|finding| finding.level <= worst);
    Ok(if wrong { Exit::Failure } else { Exit::Ok })
}

/// Where bytes that are no UTF-8 are while a file is a text: the end of the last private plane.
const NO_UTF8: u32 = 0x10_ff00;

/// A file's bytes as a text from which [`as_bytes`] makes the same bytes: a remark in Latin-1 stays.
fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let stand_in = |byte: &u8| char::from_u32(NO_UTF8 + u32::from(*byte));
        text.extend(chunk.invalid().iter().filter_map(stand_in));
    }
    text
}

fn as_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c).checked_sub(NO_UTF8).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) if byte >= 0x80 => bytes.push(byte),
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
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

/// Keys below `net.ipv4` and `net.ipv6` that only the host's own namespace has (their beginnings, as
/// Linux 6.18 shows them).
const HOST_ONLY: &[&str] = &[
    "net.ipv4.cipso_",
    "net.ipv4.fib_sync_mem",
    "net.ipv4.inet_peer_",
    "net.ipv4.ipfrag_secret_interval",
    "net.ipv4.tcp_available_ulp",
    "net.ipv4.tcp_low_latency",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_mem",
    "net.ipv4.udp_mem",
    "net.ipv6.calipso_",
    "net.ipv6.ip6frag_secret_interval",
    "net.ipv6.mld_",
];

/// Whether this kernel has the key, or one that fits the pattern; none where this namespace cannot
/// tell: some keys below `net` are the host's own namespace's alone.
fn kernel_has(key: &str) -> Option<bool> {
    let root = Path::new("/proc/sys");
    let path = tune::path_of_key(key);
    let has =
        if key.contains(['*', '?', '[']) { fits(root, &path) } else { root.join(&path).exists() };
    let host = || {
        let initial = Namespace::Pid(1).inode().ok();
        initial.is_some() && initial == Namespace::Current.inode().ok()
    };
    let of_namespace = ["net.ipv4.", "net.ipv6."].iter().any(|tree| key.starts_with(tree))
        && !HOST_ONLY.iter().any(|start| key.starts_with(start));
    let shown = root.exists() && (!key.starts_with("net.") || of_namespace || host());
    (has || shown).then_some(has)
}

/// Whether a file below `folder` fits a pattern, part by part.
fn fits(folder: &Path, pattern: &str) -> bool {
    let (part, rest) = pattern.split_once('/').map_or((pattern, None), |(p, r)| (p, Some(r)));
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_str().is_some_and(|name| tune::fits(part, name))
            && rest.is_none_or(|rest| fits(&entry.path(), rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_bytes_come_back_as_they_were() {
        for bytes in
            [&b"# r\xe9glages\nkey = 1\n"[..], "# r\u{e9}glages\n".as_bytes(), b"\xff\xfe\x00", b""]
        {
            assert_eq!(as_bytes(&as_text(bytes)), bytes);
        }
        assert!(as_text(b"# r\xe9glages").starts_with("# r"));
    }

    #[test]
    fn services_of_the_host() {
        let text = "ssh 22/tcp\nmysql\t\t3306/tcp # database\nntp 123/udp\nfoo 5000/udp\n# x 9/tcp\nbad tcp\n";
        assert_eq!(services(text).to_string(), "3306");
    }
}
