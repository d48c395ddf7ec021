//! The dead-man: a process of its own session that takes changes back unless they are confirmed.
//!
//! It is started before the first setting is written and outlives whoever started it (its
//! terminal, too). It lives in the namespace it watches, so the namespace lives as long.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use keepgate_ports::netns::{self, Namespace};

use super::journal::{State, TuneState};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Starts the watcher of a desk; its process id.
pub(crate) fn start(desk: &TuneState, folder: &std::path::Path) -> anyhow::Result<u32> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["tune", "watch", "--state-dir"]).arg(folder);
    match &desk.namespace {
        Namespace::Current => {}
        Namespace::Named(name) => {
            command.args(["--netns", name]);
        }
        Namespace::Pid(pid) => {
            command.args(["--pid", &pid.to_string()]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid is async-signal-safe and concerns the forked child alone.
    unsafe {
        command.pre_exec(|| {
            // A session of its own: no terminal can take it along.
            if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    // It is meant to outlive this process, which hence never waits for it.
    Ok(command.spawn().context("starting the watcher")?.id())
}

/// Watches until the journal is confirmed, closed or taken back.
pub(crate) fn run(desk: TuneState) -> anyhow::Result<()> {
    let namespace = desk.namespace.clone();
    // Inside for good: the namespace stays as long as the watch, whoever leaves it.
    let here = desk.seen_from_inside();
    netns::enter(&namespace, || watch(&here))?
}

fn watch(desk: &TuneState) -> anyhow::Result<()> {
    loop {
        {
            let _turn = desk.turn()?;
            let Some(journal) = desk.load()? else { return Ok(()) };
            if journal.state == State::Confirmed {
                return Ok(());
            }
            if journal.is_abandoned() {
                let word = match desk.take_back(&journal) {
                    Ok(aside) => {
                        let done = "The last change was not confirmed in time; everything was \
                                    taken back.";
                        std::iter::once(done.to_owned()).chain(aside).collect()
                    }
                    // The journal stays: the next `tune` tries again.
                    Err(error) => vec![format!(
                        "The last change was not confirmed in time, and could not be taken back \
                         whole: {error:#}"
                    )],
                };
                return desk.leave_word(&word);
            }
        }
        std::thread::sleep(LOOK);
    }
}
