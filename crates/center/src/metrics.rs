//! What the center counts, and its text exposition.
//!
//! Names and labels are an API: `docs/metrics.md` lists them and a test compares. Label values
//! come from enums, never from requests.

use std::sync::Arc;
use std::time::Duration;

use keepgate_observe::span::Lost;
use keepgate_observe::trace::TraceId;
use keepgate_observe::{Counter, Dialect, Gauge, Page, Sort, Timing};

/// Upper bounds of the request latency buckets, in nanoseconds, and as labels in seconds.
const LATENCY_NS: [u64; 8] = [
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];
const LATENCY_LABELS: [&str; 8] = ["0.0001", "0.0005", "0.001", "0.005", "0.025", "0.1", "1", "10"];

/// Which part of the API a request went to; the label `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1`.
    Admin,
    /// `/access/v1`, `/s/NAME/access/v1`, `/.well-known`.
    Authzen,
    /// `keepgate.sync.v1`.
    Sync,
    /// All else.
    Other,
}

impl Api {
    const ALL: [Api; 4] = [Api::Admin, Api::Authzen, Api::Sync, Api::Other];

    fn name(self) -> &'static str {
        match self {
            Api::Admin => "admin",
            Api::Authzen => "authzen",
            Api::Sync => "sync",
            Api::Other => "other",
        }
    }

    /// By the request's path.
    pub fn of(path: &str) -> Api {
        if path.starts_with("/v1/") {
            Api::Admin
        } else if path.starts_with("/access/")
            || path.starts_with("/s/")
            || path.starts_with("/.well-known/")
        {
            Api::Authzen
        } else if path.starts_with("/keepgate.sync.v1.Sync/") {
            Api::Sync
        } else {
            Api::Other
        }
    }
}

/// The label `class`.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// All that the center counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests answered, by part and status class.
    requests: [[Counter; 4]; 4],
    latency: Timing<8>,
    /// AuthZEN and check decisions that allowed.
    pub allowed: Counter,
    /// AuthZEN and check decisions that denied.
    pub denied: Counter,
    /// Deltas sent to followers.
    pub deltas_sent: Counter,
    /// Snapshots sent to followers.
    pub snapshots_sent: Counter,
    /// Followers that fell out of the window and were brought up to date from the store.
    pub followers_resynced: Counter,
    /// Followers given up because they read nothing.
    pub followers_stalled: Counter,
    /// Reports of followers that were kept.
    pub activity_kept: Counter,
    /// Reports of followers that were dropped.
    pub activity_dropped: Counter,
    /// What of traces, metrics and logs was dropped.
    pub lost: Arc<Lost>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections refused because too many were open.
    pub connections_refused: Counter,
    /// Connections closed because the handshake or the first request took too long.
    pub connections_timed_out: Counter,
    /// Edits that landed.
    pub edits_landed: Counter,
    /// Edits that were refused.
    pub edits_refused: Counter,
    /// Requests for access that were taken down.
    pub requests_asked: Counter,
    /// Keys that were fetched with a code.
    pub requests_fetched: Counter,
    /// Questions of callers that were refused.
    pub requests_refused: Counter,
    /// Messages that the webhook took.
    pub webhooks_sent: Counter,
    /// Tries that it did not take.
    pub webhooks_failed: Counter,
    /// Messages that were given up, until the next start.
    pub webhooks_lost: Counter,
    /// Requests without a good token where one is needed.
    pub unauthenticated: Counter,
}

/// What is read when the metrics are.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    /// The head.
    pub revision: u64,
    /// Services.
    pub services: u64,
    /// Items in all scopes.
    pub items: u64,
    /// Followers connected.
    pub followers: u64,
    /// How many revisions the slowest follower is behind.
    pub lag_revisions: u64,
}

impl Metrics {
    /// With these counts of what was dropped.
    pub fn beside(lost: Arc<Lost>) -> Metrics {
        Metrics { lost, ..Metrics::default() }
    }

    /// How long an answer to the admin API or AuthZEN took. `trace`: where it is recorded.
    pub fn took(&self, took: Duration, trace: Option<TraceId>) {
        self.latency.note(&LATENCY_NS, took, trace);
    }

    /// Counts a request.
    pub fn answered(&self, api: Api, status: u16) {
        let class = usize::from(status / 100).saturating_sub(2).min(3);
        if let Some(counter) = self.requests.get(api as usize).and_then(|row| row.get(class)) {
            counter.add(1);
        }
    }

    /// The text exposition.
    pub fn render(&self, levels: Levels, dialect: Dialect) -> String {
        let mut page = Page::written("keepgate_center_", dialect);
        let help = "requests answered, by part and status class";
        let mut requests = page.metric(Sort::Counter, "requests_total", help);
        for (api, row) in Api::ALL.iter().zip(&self.requests) {
            for (class, counter) in CLASSES.iter().zip(row) {
                requests.line(&[("api", api.name()), ("class", class)], counter.value());
            }
        }
        let help = "time to answer admin and AuthZEN requests";
        page.timings("request_seconds", help, &LATENCY_LABELS, &[(&[], &[&self.latency])]);
        let help = "AuthZEN and check decisions, by effect";
        let mut decisions = page.metric(Sort::Counter, "decisions_total", help);
        decisions.line(&[("effect", "allow")], self.allowed.value());
        decisions.line(&[("effect", "deny")], self.denied.value());
        let help = "changes asked for, by outcome";
        let mut edits = page.metric(Sort::Counter, "edits_total", help);
        edits.line(&[("outcome", "landed")], self.edits_landed.value());
        edits.line(&[("outcome", "refused")], self.edits_refused.value());
        let help = "questions of callers: requests for access that were taken down, keys that were fetched, refusals";
        let mut asked = page.metric(Sort::Counter, "caller_questions_total", help);
        asked.line(&[("outcome", "asked")], self.requests_asked.value());
        asked.line(&[("outcome", "fetched")], self.requests_fetched.value());
        asked.line(&[("outcome", "refused")], self.requests_refused.value());
        let help =
            "messages to the webhook: taken, tries that failed, given up until the next start";
        let mut told = page.metric(Sort::Counter, "webhook_total", help);
        told.line(&[("outcome", "sent")], self.webhooks_sent.value());
        told.line(&[("outcome", "failed")], self.webhooks_failed.value());
        told.line(&[("outcome", "lost")], self.webhooks_lost.value());
        for (name, help, value) in [
            ("deltas_sent_total", "deltas sent to followers", self.deltas_sent.value()),
            ("snapshots_sent_total", "snapshots sent to followers", self.snapshots_sent.value()),
            (
                "followers_resynced_total",
                "followers that were too slow for the window of recent revisions",
                self.followers_resynced.value(),
            ),
            (
                "followers_stalled_total",
                "followers given up because they read nothing",
                self.followers_stalled.value(),
            ),
            (
                "activity_reports_total",
                "reports of gates about their callers that were kept",
                self.activity_kept.value(),
            ),
            (
                "activity_reports_dropped_total",
                "reports of gates that were malformed, too large, of another service or too many",
                self.activity_dropped.value(),
            ),
            (
                "connections_refused_total",
                "connections closed at once because too many were open",
                self.connections_refused.value(),
            ),
            (
                "connections_timed_out_total",
                "connections without a handshake or a first request in time",
                self.connections_timed_out.value(),
            ),
            (
                "unauthenticated_total",
                "requests without a valid token that need one",
                self.unauthenticated.value(),
            ),
        ] {
            page.value(Sort::Counter, name, help, value);
        }
        let help = "spans, logs and metrics that no OTLP receiver took in time, by signal";
        let mut lost = page.metric(Sort::Counter, "telemetry_dropped_total", help);
        for (signal, count) in self.lost.counts() {
            lost.line(&[("signal", signal)], count);
        }
        for (name, help, value) in [
            ("connections", "connections that are open", self.connections.value()),
            ("followers", "followers that are connected", levels.followers),
            (
                "followers_lag_revisions",
                "revisions that the slowest follower has not applied yet",
                levels.lag_revisions,
            ),
            ("items", "items in all scopes", levels.items),
            ("revision", "the newest revision", levels.revision),
            ("services", "services", levels.services),
        ] {
            page.value(Sort::Gauge, name, help, value);
        }
        page.finish()
    }
}
