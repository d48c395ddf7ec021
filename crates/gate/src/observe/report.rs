//! Tells the center who makes the requests, every few seconds.
//!
//! Requests do not notice: a report copies what the workers have counted, at its own pace and on
//! another thread. What cannot be sent in time is replaced by the next one. Beside it goes what came of
//! the requests and what each limit did, in counts that add up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keepgate_limit::top::{MAX_TOLD, Top, Totals, Unheard};
use keepgate_limit::{Limiter, Limits, Nanos};
use keepgate_policy::proto;
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
/// Limits of one message; what others did waits for the next one.
const LIMITS: usize = 256;

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
    totals: Totals,
    /// What each limit had let through and refused.
    limits: HashMap<String, (u64, u64)>,
}

impl Seen {
    fn tell(&mut self, tables: &Tables, dropped: &Dropped) {
        let last = tables.limiting.last();
        let limiter = last.as_ref().map(|last| &*last.limiter);
        tables.source.tell_figures(self.figures(
            &tables.service,
            tables.limiting.top.totals(),
            limiter,
        ));
        let Some((report, requests)) = report(tables, dropped) else { return };
        if self.requests == Some(requests) && self.quiet + 1 < QUIET {
            self.quiet += 1;
            return;
        }
        (self.requests, self.quiet) = (Some(requests), 0);
        tables.source.report(&tables.service, report);
    }
}

impl Seen {
    /// What was done since the last time.
    fn figures(
        &mut self,
        service: &str,
        totals: Totals,
        limiter: Option<&Limiter>,
    ) -> proto::Figures {
        let (now, was) = (totals, std::mem::replace(&mut self.totals, totals));
        let (is, before) = (now.outcomes, was.outcomes);
        let mut limits = Vec::new();
        let policies = limiter.map(Limiter::policies).unwrap_or_default();
        for policy in policies {
            let (name, done) = (&policy.rule().name, policy.done());
            let told = self.limits.get(name).copied().unwrap_or_default();
            // One that went and came again counts from the start.
            let told = if told.0 > done.0 || told.1 > done.1 { (0, 0) } else { told };
            let (passed, refused) = (done.0 - told.0, done.1 - told.1);
            if passed + refused > 0 && limits.len() < LIMITS {
                limits.push(proto::LimitFigures { name: name.clone(), passed, refused });
                self.limits.insert(name.clone(), done);
            }
        }
        if self.limits.len() > policies.len() {
            self.limits.retain(|name, _| policies.iter().any(|one| one.rule().name == *name));
        }
        proto::Figures {
            service: service.to_owned(),
            requests: now.requests.saturating_sub(was.requests),
            refused: now.refused.saturating_sub(was.refused),
            limited: is.limited.saturating_sub(before.limited),
            denied: is.denied.saturating_sub(before.denied),
            undecided: is.undecided.saturating_sub(before.undecided),
            limits,
        }
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

    /// Each message has what is new, and all together are what was done.
    #[test]
    fn figures_are_told_once() {
        let seed = Seed::new([1; 16]);
        let top = Top::new(seed, 1, 8, Duration::from_secs(60));
        let limits: Limits = serde_json::from_value(serde_json::json!({
            "rule": [{ "name": "each", "key": "address", "rate": "2/s" }], "defaults": "off",
        }))
        .unwrap();
        let facts = keepgate_limit::ServiceFacts::default();
        let limiter = Limiter::compile(&limits, &facts, seed, None).unwrap();
        let from: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        let from = AddressKey::from(from);
        let mut seen = Seen::default();
        let mut ask = |times: usize| {
            for _ in 0..times {
                let verdict = limiter.check_address(&from, "GET", None, Nanos::new(0));
                let is_limited = !verdict.is_admitted();
                let observation = Observation {
                    address: from,
                    principal: None,
                    user_agent: None,
                    method: "GET",
                    route: None,
                    path: None,
                    refused: is_limited,
                    outcome: if is_limited { Outcome::Limited } else { Outcome::Other },
                    now: Nanos::new(0),
                };
                top.record(0, &observation);
            }
            let told = seen.figures("a", top.totals(), Some(&limiter));
            let limits: Vec<_> = told.limits.iter().map(|one| (one.passed, one.refused)).collect();
            ((told.requests, told.refused, told.limited), limits)
        };
        assert_eq!(ask(3), ((3, 1, 1), vec![(2, 1)]));
        assert_eq!(ask(0), ((0, 0, 0), vec![]));
        assert_eq!(ask(2), ((2, 2, 2), vec![(0, 2)]));
        // Limits that came anew begin at nothing.
        let fresh = Limiter::compile(&limits, &facts, seed, None).unwrap();
        let told = seen.figures("a", top.totals(), Some(&fresh));
        assert!(told.limits.is_empty());
        drop(fresh.check_address(&from, "GET", None, Nanos::new(0)));
        let told = seen.figures("a", top.totals(), Some(&fresh));
        assert_eq!(told.limits.first().map(|one| (one.passed, one.refused)), Some((1, 0)));
    }

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
