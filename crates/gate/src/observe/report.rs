//! Tells the center who makes the requests, every few seconds.
//!
//! Requests do not notice: a report copies what the workers have counted, at its own pace and on
//! another thread. What cannot be sent in time is replaced by the next one.

use std::sync::Arc;
use std::time::Duration;

use keepgate_limit::top::{MAX_TOLD, Top, Unheard};
use keepgate_limit::{Limits, Nanos};
use tokio::time::MissedTickBehavior;

use super::dropped::Dropped;
use crate::service::table::Tables;

/// How often there is a report while there is traffic.
const EVERY: Duration = Duration::from_secs(5);
/// Without traffic, every so many times: the center forgets a gate that it does not hear for 30 s,
/// and that nothing happens is worth knowing, too.
const QUIET: u32 = 4;
/// The largest report, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Runs until it is dropped.
pub(crate) async fn run(services: Vec<Arc<Tables>>, dropped: Arc<Dropped>) {
    let mut seen: Vec<Seen> = services.iter().map(|_| Seen::default()).collect();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for (tables, seen) in services.iter().zip(&mut seen) {
            seen.tell(tables, &dropped);
        }
    }
}

/// What was told of one service last.
#[derive(Default)]
struct Seen {
    requests: Option<u64>,
    quiet: u32,
}

impl Seen {
    fn tell(&mut self, tables: &Tables, dropped: &Dropped) {
        let Some((report, requests)) = report(tables, dropped) else { return };
        if self.requests == Some(requests) && self.quiet + 1 < QUIET {
            self.quiet += 1;
            return;
        }
        *self = Seen { requests: Some(requests), quiet: 0 };
        tables.source.report(&tables.service, report);
    }
}

fn report(tables: &Tables, dropped: &Dropped) -> Option<(Vec<u8>, u64)> {
    let limiting = &tables.limiting;
    let last = limiting.last();
    let limits = last.as_ref().map(|last| &*last.limits);
    fitting(&limiting.top, limiting.now(), limits, &dropped.peers())
}

/// As much of a report as fits, and how many requests it is about.
fn fitting(
    top: &Top,
    now: Nanos,
    limits: Option<&Limits>,
    unheard: &[Unheard],
) -> Option<(Vec<u8>, u64)> {
    for most in [MAX_TOLD, MAX_TOLD / 2, MAX_TOLD / 4, 1, 0] {
        let mut report = top.report(now, most, limits);
        report.unheard = unheard.to_vec();
        let json = serde_json::to_vec(&report).ok()?;
        if json.len() <= MAX_BYTES {
            return Some((json, report.requests));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use keepgate_limit::top::{Observation, Outcome, TopReport};
    use keepgate_limit::{AddressKey, Seed};

    use super::*;

    /// The longest routes that there may be, and many callers on them.
    #[test]
    fn a_report_is_cut_to_what_is_taken() {
        let top = Top::new(Seed::new([1; 16]), 1, 256, Duration::from_secs(60));
        let routes: Vec<String> = (0..4).map(|n| format!("/{n}/{}", "x".repeat(4_000))).collect();
        for turn in 0..1_000_usize {
            let id = (turn % 50).to_string();
            top.record(
                0,
                &Observation {
                    address: AddressKey::Local,
                    principal: Some(("user", &id)),
                    user_agent: Some(&id),
                    method: "GET",
                    route: routes.get(turn % 4).map(String::as_str),
                    path: None,
                    refused: false,
                    outcome: Outcome::Other,
                    now: Nanos::new(0),
                },
            );
        }
        let whole = serde_json::to_vec(&top.report(Nanos::new(0), MAX_TOLD, None)).unwrap();
        assert!(whole.len() > MAX_BYTES, "{}", whole.len());
        let (json, requests) = fitting(&top, Nanos::new(0), None, &[]).unwrap();
        assert!(json.len() <= MAX_BYTES && requests == 1_000, "{}", json.len());
        let report: TopReport = serde_json::from_slice(&json).unwrap();
        report.check().unwrap();
        assert!(!report.principals.is_empty());
    }
}
