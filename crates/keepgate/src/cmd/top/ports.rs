//! `keepgate top` alone: the destinations of this host as bars against their supply of ports.
//!
//! A thread looks at the host again and again ([`keepgate_ports::read`]) and hands over each
//! report; this thread draws the last one and takes keys. Neither waits for the other.

mod app;
mod draw;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use keepgate_ports::netns::Namespace;
use keepgate_ports::read::{self, ReadOptions};
use keepgate_ports::rules;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::{App, Look, Step};
use crate::exit::Exit;

/// How many destinations are kept for sorting and filtering.
const MAX_BUCKETS: usize = 256;
/// How long a key may go unnoticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where to look, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct PortsArgs {
    /// Look into a namespace made by `ip netns add`
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    netns: Option<String>,
    /// Look into the namespace of a process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Time between looks, such as 500ms or 2s (0.2s to 1m)
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

pub(crate) fn run(args: PortsArgs) -> anyhow::Result<Exit> {
    let namespace = match (args.netns, args.pid) {
        (Some(name), _) => Namespace::Named(name),
        (None, Some(pid)) => Namespace::Pid(pid),
        (None, None) => Namespace::Current,
    };
    let wanted = Arc::new(Mutex::new(namespace.clone()));
    let (sender, looks) = mpsc::sync_channel(1);
    let (watched, interval) = (Arc::clone(&wanted), args.interval);
    // The thread ends with the process, or when nobody takes its reports any more.
    std::thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || look(&watched, interval, &sender))
        .context("starting the thread that looks")?;
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut app = App::new(namespace, color);
    let mut terminal = ratatui::try_init().context("taking over the terminal")?;
    let ended = show(&mut terminal, &mut app, &looks, &wanted);
    ratatui::try_restore().context("giving the terminal back")?;
    ended.map(|()| Exit::Ok)
}

fn interval(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(200)..=Duration::from_secs(60);
    keepgate_ports::doctor::args::duration(text)
        .filter(|duration| bounds.contains(duration))
        .ok_or_else(|| "expected a time from 0.2s to 1m, such as 500ms or 2s".to_owned())
}

fn look(wanted: &Mutex<Namespace>, interval: Duration, reports: &SyncSender<Look>) {
    loop {
        let namespace = wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options = ReadOptions {
            namespace: namespace.clone(),
            interval: Some(interval),
            shown: MAX_BUCKETS,
            ..ReadOptions::default()
        };
        let report = read::host(&options)
            .map(|snapshot| rules::judge_up_to(&snapshot, MAX_BUCKETS))
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        let failed = report.is_err();
        if reports.send(Look { namespace, report }).is_err() {
            return;
        }
        if failed {
            std::thread::sleep(interval);
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    looks: &Receiver<Look>,
    wanted: &Mutex<Namespace>,
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| draw::draw(frame, app)).context("drawing")?;
        while event::poll(Duration::ZERO).context("reading keys")? {
            let Event::Key(key) = event::read().context("reading keys")? else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match app.key(key) {
                Step::Quit => return Ok(()),
                Step::Enter(namespace) => {
                    *wanted.lock().unwrap_or_else(PoisonError::into_inner) = namespace;
                }
                Step::Stay => {}
            }
            terminal.draw(|frame| draw::draw(frame, app)).context("drawing")?;
        }
        match looks.recv_timeout(PATIENCE) {
            Ok(look) => app.take(look),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the looking thread has ended"),
        }
    }
}
