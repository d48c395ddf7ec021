//! What an actor saw in one second, and the line it says it in.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::Epoch;

/// Latencies kept per second; beyond that the percentiles are of a prefix.
const SAMPLES: usize = 20_000;

/// One line of an actor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Who speaks: `users`, `crawler` or `subsystem`.
    pub who: String,
    /// Which second since the epoch.
    pub t: u64,
    /// Events by name; see the actors for theirs.
    pub counts: BTreeMap<String, u64>,
    /// Median of the latencies, in microseconds; 0 where there was none.
    pub p50_us: u64,
    /// 99th percentile of the latencies, in microseconds.
    pub p99_us: u64,
}

/// Collects what happens and prints a line when a second is over.
#[derive(Debug)]
pub(super) struct Recorder {
    who: String,
    epoch: Epoch,
    /// By second: what happens is counted where it happens, also when the line is printed late.
    seconds: Mutex<BTreeMap<u64, Current>>,
}

#[derive(Debug, Default)]
struct Current {
    counts: BTreeMap<&'static str, u64>,
    latencies_us: Vec<u64>,
}

impl Recorder {
    pub(super) fn new(who: &str, epoch: Epoch) -> Recorder {
        Recorder { who: who.to_owned(), epoch, seconds: Mutex::default() }
    }

    pub(super) fn count(&self, what: &'static str) {
        self.with(|now| *now.counts.entry(what).or_default() += 1);
    }

    pub(super) fn latency(&self, took: std::time::Duration) {
        self.with(|now| {
            if now.latencies_us.len() < SAMPLES {
                now.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        });
    }

    fn with(&self, change: impl FnOnce(&mut Current)) {
        let t = self.epoch.elapsed_s().max(0.0) as u64;
        if let Ok(mut seconds) = self.seconds.lock() {
            change(seconds.entry(t).or_default());
        }
    }

    /// What was counted up to second `t`: all of it, so that nothing is lost between two lines.
    fn take(&self, t: u64) -> Current {
        let mut sum = Current::default();
        let Ok(mut seconds) = self.seconds.lock() else { return sum };
        let later = seconds.split_off(&(t + 1));
        for (_, mut part) in std::mem::replace(&mut *seconds, later) {
            for (what, n) in part.counts {
                *sum.counts.entry(what).or_default() += n;
            }
            sum.latencies_us.append(&mut part.latencies_us);
        }
        sum
    }

    /// Prints one line a second, until `end_s`.
    pub(super) async fn speak(&self, end_s: f64) {
        let mut t = 0_u64;
        while (t as f64) < end_s {
            self.epoch.until(t as f64 + 1.0).await;
            let second = self.second(t, self.take(t));
            match serde_json::to_string(&second) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("cannot write a second as JSON: {error}"),
            }
            t += 1;
        }
    }

    fn second(&self, t: u64, mut current: Current) -> Second {
        current.latencies_us.sort_unstable();
        let at = |share: f64| {
            let index = (current.latencies_us.len() as f64 * share) as usize;
            current.latencies_us.get(index).copied().unwrap_or(0)
        };
        Second {
            who: self.who.clone(),
            t,
            p50_us: at(0.5),
            p99_us: at(0.99),
            counts: current.counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        }
    }
}
