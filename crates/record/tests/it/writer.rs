//! The writer against a model, and against disks and readers that do not do their part.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use keepgate_record::{
    Destination, Entry, Format, Log, LogConfig, LogStats, Mark, Shape, files, verify,
};
use proptest::prelude::*;

use super::{Dir, ENDED, draft, eventually, lines};

const CLOSE: Duration = Duration::from_secs(60);

/// What a log says of each request: written, or one of a number that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Request(u64),
    Lost(u64),
    SampledOut(u64),
}

fn said(lines: &[String]) -> Vec<Said> {
    let mut said = Vec::new();
    for line in lines {
        match Entry::of(line.as_bytes()) {
            Entry::Record(record) => said.push(Said::Request(record.request_id.parse().unwrap())),
            Entry::Mark(Mark::Lost(n)) => said.push(Said::Lost(n)),
            Entry::Mark(Mark::SampledOut(n)) => said.push(Said::SampledOut(n)),
            Entry::Mark(_) => {}
            Entry::Other => panic!("{line}"),
        }
    }
    said
}

/// Whether the lines of one worker account for each request, in order.
fn account(said: &[Said], offered: u64) -> (u64, u64) {
    let (mut next, mut missing, mut lost, mut sampled_out) = (0, 0, 0, 0);
    for one in said {
        match one {
            Said::Request(n) => {
                assert_eq!(*n, next + missing, "{said:?}");
                (next, missing) = (n + 1, 0);
            }
            Said::Lost(n) => (missing, lost) = (missing + n, lost + n),
            Said::SampledOut(n) => (missing, sampled_out) = (missing + n, sampled_out + n),
        }
    }
    assert_eq!(next + missing, offered, "{said:?}");
    (lost, sampled_out)
}

fn config(dir: &Dir) -> LogConfig {
    LogConfig::new(Destination::File(dir.log()), "gate-1")
}

fn offer(log: &Log, from: u64, to: u64) {
    let queue = log.queue(0).unwrap();
    for n in from..to {
        queue.offer(&draft(&n.to_string()).begin(&Shape::default()), &ENDED);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes, in whatever order, with pauses and restarts: written, lost and left out are what
    /// was offered, each at its place, and the log is whole.
    #[test]
    fn written_and_lost_and_left_out_is_all(
        steps in prop::collection::vec((0_u8..5, 1_u64..40), 1..12),
        queue_bytes in 500_usize..8_000,
        file_bytes in 2_000_u64..40_000,
    ) {
        let dir = Dir::new();
        let open = || {
            let config = LogConfig { queue_bytes, file_bytes, rules: 1, ..config(&dir) };
            Log::start(config, 1).unwrap()
        };
        let mut log = open();
        let (mut next, mut stats) = (0, LogStats::default());
        let add = |stats: &mut LogStats, log: &Log| {
            let own = log.stats();
            stats.offered += own.offered;
            stats.lost += own.lost;
            stats.sampled_out += own.sampled_out;
        };
        for (step, count) in steps {
            match step {
                0..=1 => {
                    offer(&log, next, next + count);
                    next += count;
                }
                2 => {
                    let queue = log.queue(0).unwrap();
                    for n in next..next + count {
                        if queue.takes(0, 3) {
                            queue.offer(&draft(&n.to_string()).begin(&Shape::default()), &ENDED);
                        } else {
                            queue.leave_out();
                        }
                    }
                    next += count;
                }
                3 => std::thread::sleep(Duration::from_millis(count)),
                _ => {
                    prop_assert!(log.close(CLOSE));
                    add(&mut stats, &log);
                    log = open();
                }
            }
        }
        prop_assert!(log.close(CLOSE));
        add(&mut stats, &log);
        let (lost, sampled_out) = account(&said(&lines(&dir.log())), next);
        prop_assert_eq!((lost, sampled_out), (stats.lost, stats.sampled_out));
        let report = verify(&files::list(&dir.log()).unwrap(), None);
        prop_assert!(report.is_whole(), "{:#?}", report);
        prop_assert_eq!(report.records + lost, stats.offered);
        prop_assert_eq!(report.records + lost + sampled_out, next);
        prop_assert_eq!((report.lost, report.sampled_out), (lost, sampled_out));
    }
}

/// Each worker's requests are in its order.
#[test]
fn workers_do_not_disturb_each_other() {
    let dir = Dir::new();
    let log = Log::start(config(&dir), 4).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let queue = log.queue(usize::try_from(worker).unwrap()).unwrap();
            scope.spawn(move || {
                for n in 0..5_000 {
                    let name = (worker * 1_000_000 + n).to_string();
                    queue.offer(&draft(&name).begin(&Shape::default()), &ENDED);
                }
            });
        }
    });
    assert!(log.close(CLOSE));
    let said = said(&lines(&dir.log()));
    for worker in 0..4 {
        let own: Vec<u64> = said
            .iter()
            .filter_map(|said| match said {
                Said::Request(n) if n / 1_000_000 == worker => Some(n % 1_000_000),
                _ => None,
            })
            .collect();
        assert_eq!(own, (0..5_000).collect::<Vec<_>>());
    }
}

/// Nothing waits for a reader that is not there.
#[test]
fn a_reader_that_is_not_there_costs_records_that_are_counted() {
    let dir = Dir::new();
    let config = LogConfig {
        queue_bytes: 20_000,
        format: Format::Common,
        ..LogConfig::new(Destination::Unix(dir.0.join("nobody.sock")), "gate-1")
    };
    let log = Log::start(config, 1).unwrap();
    let begin = Instant::now();
    offer(&log, 0, 10_000);
    assert!(begin.elapsed() < Duration::from_secs(20));
    eventually("it fails", || log.stats().is_failing);
    let stats = log.stats();
    assert!(stats.lost > 9_000 && stats.offered == 10_000, "{stats:?}");
    assert!(!log.close(CLOSE), "what is not written is not said to be");
}

/// A reader that stops, and goes on: what it gets accounts for all that was offered.
#[test]
fn a_reader_that_stops_costs_records_that_are_counted() {
    let dir = Dir::new();
    let path = dir.0.join("log.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let config =
        LogConfig { queue_bytes: 50_000, ..LogConfig::new(Destination::Unix(path), "gate-1") };
    let log = Log::start(config, 1).unwrap();
    offer(&log, 0, 10);
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut got = Vec::new();
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    got.push(line.trim_end().to_owned());
    // It reads nothing more for a while.
    let begin = Instant::now();
    offer(&log, 10, 20_000);
    assert!(begin.elapsed() < Duration::from_secs(20));
    eventually("records are lost", || log.stats().lost > 0);
    let reading = std::thread::spawn(move || {
        got.extend(reader.lines().map(Result::unwrap));
        got
    });
    eventually("it is written again", || !log.stats().is_failing);
    offer(&log, 20_000, 20_010);
    assert!(log.close(CLOSE));
    drop(log);
    let (lost, _) = account(&said(&reading.join().unwrap()), 20_010);
    assert!(lost > 0);
}

/// A torn end, as a kill or a power failure leaves it, is cut off, and the log says so.
#[test]
fn a_torn_end_is_cut_off_and_said() {
    let dir = Dir::new();
    let log = Log::start(config(&dir), 1).unwrap();
    offer(&log, 0, 5);
    assert!(log.close(CLOSE));
    let text = std::fs::read_to_string(dir.log()).unwrap();
    for (cut, zeros) in [(10, 0), (1, 0), (1, 100), (900, 0)] {
        let mut torn = text.as_bytes()[..text.len() - cut].to_vec();
        torn.resize(torn.len() + zeros, 0);
        std::fs::write(dir.log(), &torn).unwrap();
        let log = Log::start(config(&dir), 1).unwrap();
        offer(&log, 100, 101);
        assert!(log.close(CLOSE));
        let report = verify(&files::list(&dir.log()).unwrap(), None);
        assert!(report.is_whole(), "{report:#?}");
        assert!(report.notes.iter().any(|note| note.contains("not ended in order")), "{report:#?}");
        let resumed = lines(&dir.log()).iter().any(|line| line.contains("\"resumed\""));
        assert!(resumed);
    }
    // What is no log is kept.
    std::fs::write(dir.log(), "something else\n").unwrap();
    let log = Log::start(config(&dir), 1).unwrap();
    assert!(log.close(CLOSE));
    let aside = std::fs::read_dir(&dir.0)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains(".aside-"));
    assert_eq!(std::fs::read_to_string(aside.unwrap().path()).unwrap(), "something else\n");
}

/// Files are full, compressed, and bounded in total; what was removed is said in the chain.
#[test]
fn files_are_bounded_and_go_on() {
    let dir = Dir::new();
    let bounded = || LogConfig { file_bytes: 20_000, total_bytes: 60_000, ..config(&dir) };
    for run in 0..3 {
        let log = Log::start(bounded(), 1).unwrap();
        for n in 0..10 {
            let before = log.stats().bytes;
            offer(&log, run * 1_000 + n * 12, run * 1_000 + n * 12 + 12);
            eventually("it is written", || log.stats().bytes > before);
        }
        assert!(log.close(CLOSE));
    }
    let files = files::list(&dir.log()).unwrap();
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(&file.path).unwrap().len()).sum();
    assert!(bytes < 60_000 + 20_000, "{bytes}");
    assert!(files.iter().any(|file| file.name().ends_with(".zst")), "{files:?}");
    let report = verify(&files, None);
    assert!(report.is_whole(), "{report:#?}");
    // A smaller bound: the oldest go, and the log says so.
    let log = Log::start(LogConfig { total_bytes: 30_000, ..bounded() }, 1).unwrap();
    for n in 0..10 {
        let before = log.stats().bytes;
        offer(&log, 5_000 + n * 12, 5_000 + n * 12 + 12);
        eventually("it is written", || log.stats().bytes > before);
    }
    assert!(log.close(CLOSE));
    let files = files::list(&dir.log()).unwrap();
    assert_ne!(files.first().unwrap().number, Some(1));
    let report = verify(&files, None);
    assert!(report.is_whole(), "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("removed by the gate")), "{report:#?}");
}

/// Two writers of one file never mix.
#[test]
fn another_process_waits_for_the_file() {
    let dir = Dir::new();
    let first = Log::start(config(&dir), 1).unwrap();
    offer(&first, 0, 3);
    eventually("it is written", || first.stats().bytes > 0);
    let second = Log::start(config(&dir), 1).unwrap();
    offer(&second, 3, 6);
    assert!(first.close(CLOSE));
    drop(first);
    eventually("the other one writes", || second.stats().bytes > 0);
    assert!(second.close(CLOSE));
    assert_eq!(account(&said(&lines(&dir.log())), 6), (0, 0));
    assert!(verify(&files::list(&dir.log()).unwrap(), None).is_whole());
}
