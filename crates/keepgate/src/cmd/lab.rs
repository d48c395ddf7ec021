//! `keepgate lab`: the incident reproduced, and each remedy shown to work.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use keepgate_lab::demo::{self, Demo};
use keepgate_lab::report::{html, table};
use keepgate_lab::{Arm, LabPlan, LabReport, Progress, assertion};

use crate::exit::Exit;
use crate::style::{Paint, print, say};

/// Reproduce the port outage in network namespaces, and each remedy
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Run the arms: the naive subsystem, each remedy alone, and the gate
    #[command(after_help = "\
Example:
  keepgate lab run --fast --report lab-report
  keepgate lab run --arm naive --arm keepgate

Needs root, or a kernel that gives ordinary users user namespaces; needs `ip` (iproute2).
Everything happens in namespaces that vanish with this command.")]
    Run {
        /// A tenth of the ports and ten seconds an arm instead of the full numbers
        #[arg(long)]
        fast: bool,
        /// Only this arm; may be repeated
        #[arg(long = "arm", value_name = "NAME")]
        arms: Vec<Arm>,
        #[command(flatten)]
        output: Output,
    },
    /// Check a report against thresholds; exit code 1 if one fails
    #[command(after_help = "\
A line of FILE is [ARM.]METRIC OPERATOR NUMBER; the default arm is keepgate:
  wrong_403 = 0
  reuse_ratio >= 0.999
  users_ok >= 0.999
  naive.wrong_403 > 0")]
    Assert {
        /// The thresholds
        file: PathBuf,
        /// The report to check; without it, the fast run starts now
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// The center dies under load and comes back
    DemoCenterOutage {
        #[command(flatten)]
        output: Output,
    },
    /// Fifty ports toward the upstream, and 256 callers
    DemoPortSqueeze {
        #[command(flatten)]
        output: Output,
    },
    /// Be one of the lab's programs (described by KEEPGATE_LAB_ACTOR)
    #[command(hide = true)]
    Actor,
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Write report.json and report.html into this folder, and keep the programs' logs there
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print the report as JSON instead of the table
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        LabCommand::Actor => {
            let spec = std::env::var("KEEPGATE_LAB_ACTOR").context("reading KEEPGATE_LAB_ACTOR")?;
            keepgate_lab::actor::play(&spec)?;
            Ok(Exit::Ok)
        }
        LabCommand::Run { fast, arms, output } => {
            let plan = if fast { LabPlan::fast() } else { LabPlan::full() };
            let arms = if arms.is_empty() { Arm::ALL.to_vec() } else { arms };
            with_stage(&output, |program, folder, progress| {
                keepgate_lab::run(program, folder, &plan, &arms, progress)
            })
        }
        LabCommand::DemoCenterOutage { output } => play_demo(Demo::CenterOutage, &output),
        LabCommand::DemoPortSqueeze { output } => play_demo(Demo::PortSqueeze, &output),
        LabCommand::Assert { file, report } => hold(&file, report.as_deref()),
    }
}

type Played<'p> = &'p mut dyn FnMut(Progress<'_>);

fn play_demo(demo: Demo, output: &Output) -> anyhow::Result<Exit> {
    say(demo.about());
    with_stage(output, |program, folder, progress| demo::play(demo, program, folder, progress))
}

/// Plays something with this executable and a folder for data and logs, then writes what was
/// asked for.
fn with_stage(
    output: &Output,
    play: impl FnOnce(&Path, &Path, Played<'_>) -> anyhow::Result<LabReport>,
) -> anyhow::Result<Exit> {
    let report = played(output.report.as_deref(), play)?;
    if let Some(folder) = &output.report {
        let json = serde_json::to_string_pretty(&report)?;
        for (name, text) in [("report.json", json), ("report.html", html::render(&report))] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            say(&format!("wrote {}", path.display()));
        }
    }
    if output.json {
        crate::style::print_json(&serde_json::to_value(&report)?)?;
    } else {
        print(&table::render(&report))?;
    }
    Ok(Exit::Ok)
}

fn played(
    folder: Option<&Path>,
    play: impl FnOnce(&Path, &Path, Played<'_>) -> anyhow::Result<LabReport>,
) -> anyhow::Result<LabReport> {
    keepgate_lab::net::gain_privilege()?;
    let program = std::env::current_exe().context("finding this program")?;
    let scratch = Scratch::new(folder)?;
    let mut display = Display::new();
    play(&program, &scratch.folder, &mut |progress| display.show(&progress))
}

fn hold(file: &Path, report: Option<&Path>) -> anyhow::Result<Exit> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let thresholds = match assertion::parse(&text) {
        Ok(thresholds) => thresholds,
        Err(error) => {
            say(&format!("keepgate: {}:{}: {}", file.display(), error.line, error.reason));
            return Ok(Exit::Usage);
        }
    };
    let report: LabReport = match report {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?
        }
        None => {
            let mut arms: Vec<Arm> = Arm::ALL.to_vec();
            arms.retain(|arm| thresholds.iter().any(|threshold| threshold.arm == *arm));
            played(None, |program, folder, progress| {
                keepgate_lab::run(program, folder, &LabPlan::fast(), &arms, progress)
            })?
        }
    };
    let paint = Paint::stdout();
    let outcomes = assertion::check(&thresholds, &report);
    for outcome in &outcomes {
        let line = outcome.to_string();
        let line = if outcome.holds { paint.good(&line) } else { paint.bad(&line) };
        print(&format!("{line}\n"))?;
    }
    let all = outcomes.iter().all(|outcome| outcome.holds);
    Ok(if all { Exit::Ok } else { Exit::Failure })
}

/// Where the programs keep data and logs: in the report's folder, or in one that is removed.
struct Scratch {
    folder: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(report: Option<&Path>) -> anyhow::Result<Scratch> {
        let (folder, keep) = match report {
            Some(folder) => (folder.join("logs"), true),
            None => {
                let name = format!("keepgate-lab-{}", std::process::id());
                (std::env::temp_dir().join(name), false)
            }
        };
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("removing the old {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        Ok(Scratch { folder: folder.canonicalize()?, keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the temporary folder, whose owner sweeps it.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Progress on standard error: one line that is rewritten on a terminal, one line an arm else.
struct Display {
    paint: Paint,
    live: bool,
}

impl Display {
    fn new() -> Display {
        Display { paint: Paint::stderr(), live: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Begins(arm) if self.live => {
                self.rewrite(&format!("{arm:<18} setting the stage"))
            }
            Progress::Begins(_) => {}
            Progress::Moment(arm, moment) if self.live => {
                let wrong = format!("{:>4} wrong 403", moment.users.wrong_403);
                let wrong = if moment.users.wrong_403 > 0 { self.paint.bad(&wrong) } else { wrong };
                let forecast = match moment.exhausted_in_s {
                    Some(s) if s > 0.0 => format!(", out in {s:.0} s"),
                    _ => String::new(),
                };
                self.rewrite(&format!(
                    "{arm:<18} {:>3} s  users {:>4} right {wrong}  crawler {:>5} right  {:>6} ports left  {}{forecast}",
                    moment.t, moment.users.right, moment.crawler.right, moment.ports_left, moment.verdict,
                ));
            }
            Progress::Moment(..) => {}
            Progress::Ended(arm) => {
                let summary = &arm.summary;
                let text = format!(
                    "{:<18} users ok {}, {} wrong 403, {} EADDRNOTAVAIL, {} connections opened",
                    arm.arm.name(),
                    // The same number as in the table.
                    table::percent(summary.users_ok_under_crawl),
                    summary.wrong_403,
                    summary.eaddrnotavail,
                    summary.opened
                );
                if self.live {
                    self.rewrite("");
                }
                say(&text);
            }
        }
    }

    fn rewrite(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that went away is no reason to end the run.
        let _ = write!(stderr, "\r\x1b[2K{text}");
        let _ = stderr.flush();
    }
}
