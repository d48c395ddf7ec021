//! What the gate counts. Each worker has its own counters, so that none is contended; they are
//! added up when somebody asks.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

use crate::cut::Cut;
use crate::phase::Phase;
use crate::problem::Kind;

/// Upper bounds of the decision histogram's buckets, in nanoseconds; the last one is infinity.
const DECISION_NS: [u64; 10] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 1_000_000, 10_000_000];

/// The phases that limit, and whether a limit only counts.
const LIMITED: [(Phase, bool); 4] = [
    (Phase::LimitAddress, false),
    (Phase::LimitAddress, true),
    (Phase::LimitPrincipal, false),
    (Phase::LimitPrincipal, true),
];

const KINDS: usize = Kind::ALL.len();
const PHASES: usize = Phase::ALL.len();
const CUTS: usize = Cut::ALL.len();

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters.
#[derive(Debug, Default)]
pub(crate) struct WorkerMetrics {
    /// Answers of the gate's own, by phase and kind.
    answered: [[Counter; KINDS]; PHASES],
    /// Upstream's answers, by the first digit of their status.
    forwarded: [Counter; 6],
    /// Requests over a limit, in the order of `LIMITED`.
    limited: [Counter; LIMITED.len()],
    decision_buckets: [Counter; DECISION_NS.len() + 1],
    decision_ns: Counter,
    /// Connections of callers.
    pub(crate) accepted: Counter,
    pub(crate) open: Counter,
    pub(crate) over_bound: Counter,
    pub(crate) handshake_failed: Counter,
    pub(crate) first_byte_late: Counter,
    /// Tokens found in the cache, and verified.
    pub(crate) token_cached: Counter,
    pub(crate) token_verified: Counter,
    pub(crate) tunnels: Counter,
    /// What was cut short, by bound.
    cut: [Counter; CUTS],
    /// Requests whose forwarding headers were dropped.
    pub(crate) forwarding_dropped: Counter,
    /// Policies that failed to evaluate.
    pub(crate) policy_errors: Counter,
}

impl WorkerMetrics {
    /// The gate answered by itself.
    pub(crate) fn answered(&self, phase: Phase, kind: Kind) {
        let row = self.answered.get(phase as usize);
        if let Some(counter) = row.and_then(|row| row.get(kind as usize)) {
            counter.add(1);
        }
    }

    /// An exchange or a connection was cut short.
    pub(crate) fn cut(&self, cut: Cut) {
        if let Some(counter) = self.cut.get(cut as usize) {
            counter.add(1);
        }
    }

    /// The upstream answered.
    pub(crate) fn forwarded(&self, status: StatusCode) {
        if let Some(counter) = self.forwarded.get(usize::from(status.as_u16() / 100)) {
            counter.add(1);
        }
    }

    /// What the limits said in one of their phases.
    pub(crate) fn limited(&self, phase: Phase, said: &keepgate_limit::Verdict) {
        let shadow = said.shadow_refusals().next().is_some();
        for (counter, (of, is_shadow)) in self.limited.iter().zip(LIMITED) {
            if of == phase && (if is_shadow { shadow } else { !said.is_admitted() }) {
                counter.add(1);
            }
        }
    }

    /// A decision took so long.
    pub(crate) fn decided(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = DECISION_NS.iter().position(|bound| ns <= *bound);
        let bucket = bucket.unwrap_or(DECISION_NS.len());
        if let Some(counter) = self.decision_buckets.get(bucket) {
            counter.add(1);
        }
        self.decision_ns.add(ns);
    }
}

/// All workers' counters.
pub(crate) type Workers = [Arc<WorkerMetrics>];

fn total(workers: &Workers, of: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
    workers.iter().map(|worker| of(worker).value()).sum()
}

/// Writes a metric's head.
pub(crate) fn head(out: &mut String, name: &str, sort: &str, help: &str) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {sort}");
}

/// The workers' metrics in the Prometheus text format.
pub(crate) fn render(workers: &Workers, out: &mut String) {
    requests(workers, out);
    limited(workers, out);
    decisions(workers, out);
    cuts(workers, out);
    type Row = (&'static str, &'static str, &'static str, fn(&WorkerMetrics) -> &Counter);
    let rows: [Row; 10] = [
        (
            "keepgate_gate_connections_accepted_total",
            "counter",
            "Connections of callers that were accepted.",
            |w| &w.accepted,
        ),
        ("keepgate_gate_connections_open", "gauge", "Connections of callers that are open.", |w| {
            &w.open
        }),
        (
            "keepgate_gate_connections_over_bound_total",
            "counter",
            "Connections closed at once because too many were open.",
            |w| &w.over_bound,
        ),
        (
            "keepgate_gate_handshake_failures_total",
            "counter",
            "TLS handshakes or PROXY protocol headers that failed or were late.",
            |w| &w.handshake_failed,
        ),
        (
            "keepgate_gate_first_byte_late_total",
            "counter",
            "Connections closed because their first request did not begin in time.",
            |w| &w.first_byte_late,
        ),
        (
            "keepgate_gate_tokens_cached_total",
            "counter",
            "Tokens whose verification was remembered.",
            |w| &w.token_cached,
        ),
        (
            "keepgate_gate_tokens_verified_total",
            "counter",
            "Tokens whose signature was verified.",
            |w| &w.token_verified,
        ),
        ("keepgate_gate_tunnels_open", "gauge", "Upgraded connections that are open.", |w| {
            &w.tunnels
        }),
        (
            "keepgate_gate_forwarding_dropped_total",
            "counter",
            "Requests whose X-Forwarded-For and the like were dropped: the peer is no trusted proxy.",
            |w| &w.forwarding_dropped,
        ),
        (
            "keepgate_gate_policy_errors_total",
            "counter",
            "Policies that failed to evaluate and were skipped.",
            |w| &w.policy_errors,
        ),
    ];
    for (name, sort, help, of) in rows {
        head(out, name, sort, help);
        let _ = writeln!(out, "{name} {}", total(workers, of));
    }
}

fn requests(workers: &Workers, out: &mut String) {
    let name = "keepgate_gate_requests_total";
    head(out, name, "counter", "Requests by outcome and by the phase that answered.");
    for (digit, class) in ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().enumerate().skip(1) {
        let n: u64 =
            workers.iter().filter_map(|w| w.forwarded.get(digit)).map(Counter::value).sum();
        let _ = writeln!(
            out,
            "{name}{{outcome=\"forwarded\",phase=\"forward\",status=\"{class}\"}} {n}"
        );
    }
    for phase in Phase::ALL {
        for kind in Kind::ALL {
            let n: u64 = workers
                .iter()
                .filter_map(|w| w.answered.get(*phase as usize)?.get(*kind as usize))
                .map(Counter::value)
                .sum();
            if n > 0 {
                let _ = writeln!(
                    out,
                    "{name}{{outcome=\"{}\",phase=\"{}\",status=\"{}\"}} {n}",
                    kind.suffix(),
                    phase.name(),
                    kind.status().as_str()
                );
            }
        }
    }
}

fn limited(workers: &Workers, out: &mut String) {
    let name = "keepgate_gate_limited_total";
    head(out, name, "counter", "Requests over a limit; with shadow they were let through.");
    for (place, (phase, shadow)) in LIMITED.iter().enumerate() {
        let of = |w: &Arc<WorkerMetrics>| w.limited.get(place).map_or(0, Counter::value);
        let n: u64 = workers.iter().map(of).sum();
        let phase = phase.name();
        let _ = writeln!(out, "{name}{{phase=\"{phase}\",shadow=\"{shadow}\"}} {n}");
    }
}

fn cuts(workers: &Workers, out: &mut String) {
    let name = "keepgate_gate_cut_total";
    head(out, name, "counter", "Exchanges and connections cut short, by the bound that did it.");
    for cut in Cut::ALL {
        let of = |w: &Arc<WorkerMetrics>| w.cut.get(*cut as usize).map_or(0, Counter::value);
        let n: u64 = workers.iter().map(of).sum();
        let _ = writeln!(out, "{name}{{bound=\"{}\"}} {n}", cut.name());
    }
}

fn decisions(workers: &Workers, out: &mut String) {
    let name = "keepgate_gate_decision_seconds";
    head(out, name, "histogram", "Time to decide one request.");
    let mut sum = 0;
    let bounds = DECISION_NS.iter().map(Some).chain(std::iter::once(None));
    for (i, bound) in bounds.enumerate() {
        sum += workers
            .iter()
            .filter_map(|w| w.decision_buckets.get(i))
            .map(Counter::value)
            .sum::<u64>();
        let _ = match bound {
            Some(ns) => writeln!(out, "{name}_bucket{{le=\"{}\"}} {sum}", Seconds(*ns)),
            None => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {sum}"),
        };
    }
    let ns = total(workers, |w| &w.decision_ns);
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", Seconds(ns));
}

/// Nanoseconds shown as seconds, exactly.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
