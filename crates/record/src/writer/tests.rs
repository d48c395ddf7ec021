//! The writer against a disk that is slow, and against one that stands still.

use std::path::PathBuf;
use std::sync::Condvar;

use super::*;
use crate::draft::tests::draft;
use crate::sink::slow;
use crate::{Ended, Entry, Shape, files, verify};

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("keepgate-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn offer(log: &Log, numbers: std::ops::Range<u64>) {
    let queue = log.queue(0).unwrap();
    for n in numbers {
        queue.offer(&draft(&n.to_string()).begin(&Shape::default()), &Ended::default());
    }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the log. Each request is in it, in order, or counted at its place: how many are.
fn lost(log: Log, path: &std::path::Path, offered: u64) -> u64 {
    assert!(log.close(Duration::from_secs(60)));
    let stats = log.stats();
    drop(log);
    let files = files::list(path).unwrap();
    let (mut next, mut lost) = (0, 0);
    for file in &files {
        for line in std::io::read_to_string(file.open().unwrap()).unwrap().lines() {
            match Entry::of(line.as_bytes()) {
                Entry::Record(record) => {
                    assert_eq!(record.request_id, next.to_string(), "after {lost} lost ones");
                    next += 1;
                }
                Entry::Mark(Mark::Lost(n)) => (next, lost) = (next + n, lost + n),
                _ => {}
            }
        }
    }
    assert_eq!((next, lost), (offered, stats.lost));
    let report = verify(&files, None);
    assert!(report.is_whole(), "{report:#?}");
    assert_eq!((report.records + report.lost, report.lost), (offered, lost));
    assert_eq!((stats.offered, stats.failures), (offered, 0));
    lost
}

/// A disk that stands still until it is told to go on. Whoever offers records does not wait for it: else
/// this would not end, because it goes on only after all were offered.
#[test]
fn nobody_waits_for_a_disk_that_stands_still() {
    let dir = Dir::new("still");
    let path = dir.0.join("access.log");
    let still = Arc::new((Mutex::new(false), Condvar::new()));
    let disk = Arc::clone(&still);
    slow::put(
        path.clone(),
        Arc::new(move || {
            let is_still = disk.0.lock().unwrap();
            drop(disk.1.wait_while(is_still, |is_still| *is_still).unwrap());
        }),
    );
    let go = |is_still: bool| {
        *still.0.lock().unwrap() = is_still;
        still.1.notify_all();
    };
    let config = LogConfig {
        queue_bytes: 50_000,
        file_bytes: 200_000,
        ..LogConfig::new(Destination::File(path.clone()), "gate-1")
    };
    let log = Log::start(config, 1).unwrap();
    let (mut next, mut before) = (0, 0);
    for _ in 0..3 {
        offer(&log, next..next + 10);
        eventually("it is written", || log.stats().bytes > before);
        go(true);
        offer(&log, next + 10..next + 5_000);
        let stats = log.stats();
        assert!(stats.lost > 0, "{stats:?}");
        before = stats.bytes;
        next += 5_000;
        go(false);
        eventually("it goes on", || log.stats().bytes > before);
        before = log.stats().bytes;
    }
    assert!(lost(log, &path, next) > 0);
}

/// A disk on which each write and each sync takes a while.
#[test]
fn a_slow_disk_costs_records_that_are_counted() {
    let dir = Dir::new("slow");
    let path = dir.0.join("access.log");
    slow::put(path.clone(), Arc::new(|| std::thread::sleep(Duration::from_millis(20))));
    let config = LogConfig {
        queue_bytes: 20_000,
        file_bytes: 100_000,
        ..LogConfig::new(Destination::File(path.clone()), "gate-1")
    };
    let log = Log::start(config, 1).unwrap();
    let mut next = 0;
    // Both ways: some are lost, and then some are written, several times.
    while next < 2_000 || next < 1_000_000 && (log.stats().lost == 0 || log.stats().lines < 500) {
        offer(&log, next..next + 100);
        next += 100;
        std::thread::sleep(Duration::from_millis(1));
    }
    let lost = lost(log, &path, next);
    assert!(lost > 0 && lost < next, "{lost} of {next}");
}
