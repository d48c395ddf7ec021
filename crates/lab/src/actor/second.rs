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
    now: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    counts: BTreeMap<&'static str, u64>,
    latencies_us: Vec<u64>,
}

impl Recorder {
    pub(super) fn new(who: &str, epoch: Epoch) -> Recorder {
        Recorder { who: who.to_owned(), epoch, now: Mutex::default() }
    }

    pub(super) fn count(&self, what: &'static str) {
        if let Ok(mut now) = self.now.lock() {
            *now.counts.entry(what).or_default() += 1;
        }
    }

    pub(super) fn latency(&self, took: std::time::Duration) {
        if let Ok(mut now) = self.now.lock()
            && now.latencies_us.len() < SAMPLES
        {
            now.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Prints one line a second, until `end_s`.
    pub(super) async fn speak(&self, end_s: f64) {
        let mut t = 0_u64;
        while (t as f64) < end_s {
            self.epoch.until(t as f64 + 1.0).await;
            let current =
                self.now.lock().map(|mut now| std::mem::take(&mut *now)).unwrap_or_default();
            let second = self.second(t, current);
            match serde_json::to_string(&second) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("a second that is no JSON: {error}"),
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
