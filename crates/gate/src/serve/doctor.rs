//! Looks at the gate's own ports once a second, and finds out who holds them when one was missing.
//!
//! A thread of its own does both: a look walks the kernel's table of sockets, and reading who holds the
//! ports takes longer than a worker may be held up. Each look tells each upstream how many connections
//! it may open until the next one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use keepgate_client::pool::PortWatch;
use keepgate_observe::chain;
use keepgate_ports::read::{self, ReadOptions};
use keepgate_ports::report::{BucketReport, Report};
use keepgate_ports::rules;

use super::front::Front;
use super::life::Life;
use super::ports::Exhausted;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// From one report to the next.
const BETWEEN_REPORTS: Duration = Duration::from_secs(60);
/// Reports that are kept.
const REPORTS: usize = 8;
/// Their directory, in the data directory.
const DIRECTORY: &str = "ports";
/// Owners of a bucket that are named in the log.
const NAMED: usize = 4;

/// Looks at the gate's ports until the gate has ended.
pub(super) fn start(front: &Arc<Front>) {
    let Some(events) = front.ports.events() else { return };
    let weak = Arc::downgrade(front);
    let started = std::thread::Builder::new()
        .name("gate-ports".to_owned())
        .spawn(move || watch(&weak, &events));
    if let Err(error) = started {
        tracing::warn!(error = chain(&error), "the gate cannot look at its own ports");
    }
}

fn watch(front: &Weak<Front>, events: &Receiver<Exhausted>) {
    let mut watch = match PortWatch::open() {
        Ok(watch) => Some(watch),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(error, "the gate cannot see its own ports");
            None
        }
    };
    let mut doctor = Doctor::default();
    loop {
        let next = Instant::now() + EVERY;
        {
            let Some(front) = front.upgrade() else { return };
            if front.life.is(Life::Ended) {
                return;
            }
            if let Some(watch) = &mut watch {
                front.ports.look(watch, &front.common.live.load_full().backends);
            }
        }
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(event) => {
                    if let Some(watch) = &mut watch {
                        watch.forget();
                    }
                    let Some(front) = front.upgrade() else { return };
                    doctor.told(event, &front);
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(left);
                    break;
                }
            }
        }
    }
}

/// Finds out who holds the ports, now and then.
#[derive(Default)]
struct Doctor {
    last: Option<Instant>,
}

impl Doctor {
    fn told(&mut self, event: Exhausted, front: &Front) {
        if self.last.is_some_and(|last| last.elapsed() < BETWEEN_REPORTS) {
            return;
        }
        self.last = Some(Instant::now());
        let Exhausted { src, dst } = event;
        let options = ReadOptions {
            interval: None,
            to: vec![(dst.to_string(), dst)],
            from: src,
            shown: REPORTS,
            ..ReadOptions::default()
        };
        let shown_src = src.map_or_else(|| "any address".to_owned(), |src| src.to_string());
        let report = match read::host(&options) {
            Ok(snapshot) => rules::judge(&snapshot),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(src = shown_src, %dst, error, "no local port is free; the sockets cannot be read");
                return;
            }
        };
        front.ports.reports.add(1);
        let written = front.common.settings.data_dir.as_deref().map(|dir| write(dir, &report));
        let file = match &written {
            Some(Ok(path)) => path.display().to_string(),
            Some(Err(error)) => format!("not written: {}", chain(error)),
            None => "not written: there is no data directory".to_owned(),
        };
        let bucket = report.buckets.iter().find(|b| (b.dst, b.dport) == (dst.ip(), dst.port()));
        let (usable, used) = bucket.map_or((0, 0), |bucket| (bucket.usable, bucket.used));
        let holders = bucket.map_or_else(|| "nobody that can be seen".to_owned(), holders);
        tracing::warn!(
            src = shown_src,
            %dst,
            usable,
            used,
            holders,
            report = file,
            "no local port is free: requests wait for a connection in use, and get 503 \
             (ports-exhausted) if none comes back in time; see `keepgate doctor --to {dst}`"
        );
    }
}

/// Who has the sockets of a bucket, with how many.
fn holders(bucket: &BucketReport) -> String {
    let named: Vec<String> = bucket
        .owners
        .iter()
        .take(NAMED)
        .map(|owner| format!("{} (pid {}): {}", owner.command, owner.pid, owner.sockets))
        .collect();
    match (named.is_empty(), bucket.owners.len().saturating_sub(NAMED)) {
        (true, _) => "nobody that can be seen".to_owned(),
        (false, 0) => named.join(", "),
        (false, more) => format!("{}, and {more} more", named.join(", ")),
    }
}

/// Writes a report and removes the oldest. Returns where it is.
fn write(data_dir: &Path, report: &Report) -> io::Result<PathBuf> {
    let dir = data_dir.join(DIRECTORY);
    std::fs::create_dir_all(&dir)?;
    let name = format!("{:015}.json", keepgate_observe::unix_ms());
    let (path, draft) = (dir.join(&name), dir.join(format!("{name}.new")));
    let json = serde_json::to_vec_pretty(report)?;
    std::fs::write(&draft, json)?;
    std::fs::rename(&draft, &path)?;
    let mut held: Vec<PathBuf> = std::fs::read_dir(&dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "json" || end == "new"))
        .collect();
    held.sort();
    let too_many = held.len().saturating_sub(REPORTS);
    for old in held.into_iter().take(too_many) {
        std::fs::remove_file(old)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept() {
        let dir = std::env::temp_dir().join(format!("keepgate-ports-{}", std::process::id()));
        let snapshot = keepgate_ports::snapshot::HostSnapshot::default();
        let report = rules::judge(&snapshot);
        let mut last = PathBuf::new();
        for _ in 0..REPORTS + 3 {
            std::thread::sleep(Duration::from_millis(2));
            last = write(&dir, &report).unwrap();
        }
        let held = std::fs::read_dir(dir.join(DIRECTORY)).unwrap();
        let mut held: Vec<PathBuf> = held.map(|entry| entry.unwrap().path()).collect();
        held.sort();
        assert_eq!(held.len(), REPORTS);
        assert_eq!(held.last(), Some(&last));
        let read: Report = serde_json::from_slice(&std::fs::read(last).unwrap()).unwrap();
        assert_eq!(read, report);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
