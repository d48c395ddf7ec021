//! What the gate counts. Each worker has its own counters, so that none is contended; they are
//! added up when somebody asks.

use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use keepgate_observe::{Counter, Gauge, Page, Sort};

use super::hook::Hook;
use super::phase::Phase;
use super::timings::{self, SiteTimings};
use crate::exchange::cut::{Cut, Cuts};
use crate::message::problem::Kind;

/// The phases that limit, and whether a limit only counts.
const LIMITED: [(Phase, bool); 4] = [
    (Phase::LimitAddress, false),
    (Phase::LimitAddress, true),
    (Phase::LimitPrincipal, false),
    (Phase::LimitPrincipal, true),
];

const KINDS: usize = Kind::ALL.len();
const PHASES: usize = Phase::ALL.len();
const HOOKS: usize = Hook::ALL.len();
/// The outcomes of a check that are no [`Kind`].
const CHECKED: [&str; 2] = ["allowed", "preflight"];

/// What became of a request that another proxy asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    Allowed,
    Preflight,
    Refused(Kind),
}

/// What became of the questions by one hook: those of `CHECKED`, then the kinds.
type Checks = ([Counter; CHECKED.len()], [Counter; KINDS]);

/// One service's counters at one worker.
#[derive(Debug, Default)]
pub(crate) struct ServiceMetrics {
    /// Answers of the gate's own, by kind.
    answered: [Counter; KINDS],
    /// Upstream's answers, by the first digit of their status.
    forwarded: [Counter; 6],
    /// Requests that another proxy may pass on.
    pub(crate) allowed: Counter,
}

impl ServiceMetrics {
    /// The gate answered by itself.
    pub(crate) fn answered(&self, kind: Kind) {
        if let Some(counter) = self.answered.get(kind as usize) {
            counter.add(1);
        }
    }

    /// The upstream answered.
    pub(crate) fn forwarded(&self, status: StatusCode) {
        if let Some(counter) = self.forwarded.get(usize::from(status.as_u16() / 100)) {
            counter.add(1);
        }
    }
}

/// One worker's counters.
#[derive(Debug, Default)]
pub(crate) struct WorkerMetrics {
    /// Those of each service, in the order of the services.
    pub(crate) services: Box<[Arc<ServiceMetrics>]>,
    /// Answers of the gate's own, by phase and kind.
    answered: [[Counter; KINDS]; PHASES],
    /// Upstream's answers, by the first digit of their status.
    forwarded: [Counter; 6],
    /// Requests over a limit, in the order of `LIMITED`.
    limited: [Counter; LIMITED.len()],
    /// How long requests take, by site. The lock is taken when sites change and when somebody asks.
    timings: Mutex<Vec<Arc<SiteTimings>>>,
    /// How long those without a site take.
    pub(crate) siteless: Arc<SiteTimings>,
    /// Connections of callers.
    pub(crate) accepted: Counter,
    pub(crate) open: Gauge,
    pub(crate) over_bound: Counter,
    pub(crate) handshake_failed: Counter,
    pub(crate) first_byte_late: Counter,
    /// Tokens found in the cache, and verified.
    pub(crate) token_cached: Counter,
    pub(crate) introspections: Counter,
    pub(crate) introspection_failed: Counter,
    pub(crate) assertion_signed: Counter,
    pub(crate) token_verified: Counter,
    pub(crate) tunnels: Gauge,
    /// What was cut short, by bound.
    pub(crate) cuts: Arc<Cuts>,
    /// Requests whose forwarding headers were dropped.
    pub(crate) forwarding_dropped: Counter,
    /// Policies that failed to evaluate.
    pub(crate) policy_errors: Counter,
    /// Preflights that the gate answered.
    pub(crate) preflights: Counter,
    /// Requests for the page for callers, and what belongs to it.
    pub(crate) pages: Counter,
    /// Requests that another proxy may pass on.
    pub(crate) allowed: Counter,
    /// What other proxies asked about, by hook.
    checks: [Checks; HOOKS],
    /// Connections to the check listener that were closed: their peers may not ask.
    pub(crate) check_refused: Counter,
}

impl WorkerMetrics {
    /// For so many services.
    pub(crate) fn new(services: usize) -> WorkerMetrics {
        let services = (0..services).map(|_| Arc::default()).collect();
        WorkerMetrics { services, ..WorkerMetrics::default() }
    }

    /// The gate answered by itself.
    pub(crate) fn answered(&self, phase: Phase, kind: Kind) {
        let row = self.answered.get(phase as usize);
        if let Some(counter) = row.and_then(|row| row.get(kind as usize)) {
            counter.add(1);
        }
    }

    /// The upstream answered.
    pub(crate) fn forwarded(&self, status: StatusCode) {
        if let Some(counter) = self.forwarded.get(usize::from(status.as_u16() / 100)) {
            counter.add(1);
        }
    }

    /// Another proxy was answered.
    pub(crate) fn checked(&self, hook: Hook, outcome: CheckOutcome) {
        let Some((plain, kinds)) = self.checks.get(hook as usize) else { return };
        let counter = match outcome {
            CheckOutcome::Allowed => plain.first(),
            CheckOutcome::Preflight => plain.get(1),
            CheckOutcome::Refused(kind) => kinds.get(kind as usize),
        };
        if let Some(counter) = counter {
            counter.add(1);
        }
    }

    /// What the limits said in one of their phases.
    pub(crate) fn limited(&self, phase: Phase, said: &keepgate_limit::LimitVerdict) {
        let shadow = said.shadow_refusals().next().is_some();
        for (counter, (of, is_shadow)) in self.limited.iter().zip(LIMITED) {
            if of == phase && (if is_shadow { shadow } else { !said.is_admitted() }) {
                counter.add(1);
            }
        }
    }

    /// The histograms of sites with these names, in their order; those of other sites are given up.
    pub(crate) fn timed(&self, sites: impl Iterator<Item = String>) -> Vec<Arc<SiteTimings>> {
        let mut held = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |site: String| match held.iter().find(|held| *held.site == *site) {
            Some(held) => Arc::clone(held),
            None => Arc::new(SiteTimings::of(site.into())),
        };
        let timings: Vec<_> = sites.map(of).collect();
        held.clone_from(&timings);
        timings
    }

    /// The histograms of all sites, and of requests without one.
    fn timings(&self) -> Vec<Arc<SiteTimings>> {
        let held = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().chain([&self.siteless]).cloned().collect()
    }
}

/// All workers' counters.
pub(crate) type Workers = [Arc<WorkerMetrics>];

fn total(workers: &Workers, of: impl Fn(&WorkerMetrics) -> u64) -> u64 {
    workers.iter().map(|worker| of(worker)).sum()
}

/// The workers' metrics.
pub(crate) fn render(workers: &Workers, page: &mut Page) {
    requests(workers, page);
    checks(workers, page);
    limited(workers, page);
    timings::render(workers.iter().flat_map(|worker| worker.timings()), page);
    cuts(workers, page);
    type Row = (Sort, &'static str, &'static str, fn(&WorkerMetrics) -> u64);
    const ROWS: [Row; 16] = [
        (
            Sort::Counter,
            "connections_accepted_total",
            "Connections of callers that were accepted.",
            |w| w.accepted.value(),
        ),
        (Sort::Gauge, "connections_open", "Connections of callers that are open.", |w| {
            w.open.value()
        }),
        (
            Sort::Counter,
            "connections_over_bound_total",
            "Connections closed at once because too many were open.",
            |w| w.over_bound.value(),
        ),
        (
            Sort::Counter,
            "handshake_failures_total",
            "TLS handshakes or PROXY protocol headers that failed or were late.",
            |w| w.handshake_failed.value(),
        ),
        (
            Sort::Counter,
            "first_byte_late_total",
            "Connections closed because their first request did not begin in time.",
            |w| w.first_byte_late.value(),
        ),
        (
            Sort::Counter,
            "assertions_signed_total",
            "Assertions to upstreams that were signed.",
            |w| w.assertion_signed.value(),
        ),
        (Sort::Counter, "introspections_total", "Questions to introspection servers.", |w| {
            w.introspections.value()
        }),
        (
            Sort::Counter,
            "introspections_failed_total",
            "Requests whose token nobody has said the meaning of.",
            |w| w.introspection_failed.value(),
        ),
        (Sort::Counter, "tokens_cached_total", "Tokens whose verification was remembered.", |w| {
            w.token_cached.value()
        }),
        (Sort::Counter, "tokens_verified_total", "Tokens whose signature was verified.", |w| {
            w.token_verified.value()
        }),
        (Sort::Gauge, "tunnels_open", "Upgraded connections that are open.", |w| w.tunnels.value()),
        (
            Sort::Counter,
            "forwarding_dropped_total",
            "Requests whose forwarding headers were dropped: the peer is not a trusted proxy.",
            |w| w.forwarding_dropped.value(),
        ),
        (
            Sort::Counter,
            "policy_errors_total",
            "Policies that failed to evaluate and were skipped.",
            |w| w.policy_errors.value(),
        ),
        (
            Sort::Counter,
            "preflights_total",
            "Preflights of browsers that the gate answered itself.",
            |w| w.preflights.value(),
        ),
        (
            Sort::Counter,
            "help_page_total",
            "Requests that the page for callers answered, its forms among them.",
            |w| w.pages.value(),
        ),
        (
            Sort::Counter,
            "check_connections_refused_total",
            "Connections to the check listener closed at once: the peer is not one of --check-peer.",
            |w| w.check_refused.value(),
        ),
    ];
    for (sort, name, help, of) in ROWS {
        page.value(sort, name, help, total(workers, of));
    }
}

fn requests(workers: &Workers, page: &mut Page) {
    let help = "Requests by outcome and by the phase that answered.";
    let mut series = page.metric(Sort::Counter, "requests_total", help);
    for (digit, class) in ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().enumerate().skip(1) {
        let n = total(workers, |w| w.forwarded.get(digit).map_or(0, Counter::value));
        let labels = [("outcome", "forwarded"), ("phase", "forward"), ("status", class)];
        series.line(&labels, n);
    }
    let allowed = total(workers, |w| w.allowed.value());
    if allowed > 0 {
        let labels = [("outcome", "allowed"), ("phase", "decide"), ("status", "200")];
        series.line(&labels, allowed);
    }
    for phase in Phase::ALL {
        for kind in Kind::ALL {
            let n = total(workers, |w| {
                let row = w.answered.get(*phase as usize);
                row.and_then(|row| row.get(*kind as usize)).map_or(0, Counter::value)
            });
            if n > 0 {
                let status = kind.status();
                let labels = [
                    ("outcome", kind.suffix()),
                    ("phase", phase.name()),
                    ("status", status.as_str()),
                ];
                series.line(&labels, n);
            }
        }
    }
}

fn checks(workers: &Workers, page: &mut Page) {
    let help = "Requests that other proxies asked about, by how they asked and by outcome.";
    let mut series = page.metric(Sort::Counter, "checks_total", help);
    for hook in Hook::ALL {
        let sum = |of: &dyn Fn(&Checks) -> u64| {
            total(workers, |w| w.checks.get(*hook as usize).map_or(0, of))
        };
        for (place, outcome) in CHECKED.iter().enumerate() {
            let n = sum(&|(plain, _)| plain.get(place).map_or(0, Counter::value));
            if n > 0 {
                series.line(&[("hook", hook.name()), ("outcome", outcome)], n);
            }
        }
        for kind in Kind::ALL {
            let n = sum(&|(_, kinds)| kinds.get(*kind as usize).map_or(0, Counter::value));
            if n > 0 {
                series.line(&[("hook", hook.name()), ("outcome", kind.suffix())], n);
            }
        }
    }
}

/// The requests of each service, in the order of their names here.
pub(crate) fn services(workers: &Workers, names: &[&str], page: &mut Page) {
    let help = "Requests of each service by outcome.";
    let mut series = page.metric(Sort::Counter, "service_requests_total", help);
    for (place, name) in names.iter().enumerate() {
        let sum = |of: &dyn Fn(&ServiceMetrics) -> u64| {
            total(workers, |w| w.services.get(place).map_or(0, |service| of(service)))
        };
        for (digit, class) in ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().enumerate() {
            let n = sum(&|s| s.forwarded.get(digit).map_or(0, Counter::value));
            if n > 0 || *class == "2xx" {
                let labels = [("service", *name), ("outcome", "forwarded"), ("status", *class)];
                series.line(&labels, n);
            }
        }
        let allowed = sum(&|s| s.allowed.value());
        if allowed > 0 {
            let labels = [("service", *name), ("outcome", "allowed"), ("status", "200")];
            series.line(&labels, allowed);
        }
        for kind in Kind::ALL {
            let n = sum(&|s| s.answered.get(*kind as usize).map_or(0, Counter::value));
            if n > 0 {
                let status = kind.status();
                let labels =
                    [("service", *name), ("outcome", kind.suffix()), ("status", status.as_str())];
                series.line(&labels, n);
            }
        }
    }
}

fn limited(workers: &Workers, page: &mut Page) {
    let help = "Requests over a limit; with shadow they were let through.";
    let mut series = page.metric(Sort::Counter, "limited_total", help);
    for (place, (phase, shadow)) in LIMITED.iter().enumerate() {
        let n = total(workers, |w| w.limited.get(place).map_or(0, Counter::value));
        let shadow = if *shadow { "true" } else { "false" };
        series.line(&[("phase", phase.name()), ("shadow", shadow)], n);
    }
}

fn cuts(workers: &Workers, page: &mut Page) {
    let help = "Exchanges and connections cut short, by the bound that did it.";
    let mut series = page.metric(Sort::Counter, "cut_total", help);
    for cut in Cut::ALL {
        let n = total(workers, |w| w.cuts.count(*cut));
        series.line(&[("bound", cut.name())], n);
    }
}
