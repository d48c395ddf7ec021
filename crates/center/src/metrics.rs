//! What the center counts, and its text exposition (Prometheus format 0.0.4).
//!
//! Names and labels are an API: `docs/metrics.md` lists them and a test compares. Label values
//! come from enums, never from requests.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that comes back: each [`Held`] counts one until it is dropped.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// See [`Gauge`].
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Gauge {
    /// One more, until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// Reads it.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds of the request latency buckets, in microseconds.
const BUCKETS_US: [u64; 8] = [100, 500, 1_000, 5_000, 25_000, 100_000, 1_000_000, 10_000_000];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; 8],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Latency {
    /// Notes one duration.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bound, bucket) in BUCKETS_US.iter().zip(&self.buckets) {
            if us <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

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
    /// How long answers to the admin API and AuthZEN took.
    pub latency: Latency,
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
    /// Counts a request.
    pub fn answered(&self, api: Api, status: u16) {
        let class = usize::from(status / 100).saturating_sub(2).min(3);
        if let Some(counter) = self.requests.get(api as usize).and_then(|row| row.get(class)) {
            counter.add(1);
        }
    }

    /// The text exposition.
    pub fn render(&self, levels: Levels) -> String {
        let mut page = Page(String::with_capacity(4096));
        page.head("requests_total", "counter", "requests answered, by part and status class");
        for (api, row) in Api::ALL.iter().zip(&self.requests) {
            for (class, counter) in CLASSES.iter().zip(row) {
                let labels = format!("{{api=\"{}\",class=\"{class}\"}}", api.name());
                page.line("requests_total", &labels, counter.value());
            }
        }
        page.head("request_seconds", "histogram", "time to answer admin and AuthZEN requests");
        let latency = &self.latency;
        for (bound, bucket) in BUCKETS_US.iter().zip(&latency.buckets) {
            let labels = format!("{{le=\"{}\"}}", seconds(*bound));
            page.line("request_seconds_bucket", &labels, bucket.load(Ordering::Relaxed));
        }
        let count = latency.count.load(Ordering::Relaxed);
        page.line("request_seconds_bucket", "{le=\"+Inf\"}", count);
        page.line("request_seconds_sum", "", seconds(latency.sum_us.load(Ordering::Relaxed)));
        page.line("request_seconds_count", "", count);
        page.head("decisions_total", "counter", "AuthZEN and check decisions, by effect");
        page.line("decisions_total", "{effect=\"allow\"}", self.allowed.value());
        page.line("decisions_total", "{effect=\"deny\"}", self.denied.value());
        page.head("edits_total", "counter", "changes asked for, by outcome");
        page.line("edits_total", "{outcome=\"landed\"}", self.edits_landed.value());
        page.line("edits_total", "{outcome=\"refused\"}", self.edits_refused.value());
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
                "requests without a good token where one is needed",
                self.unauthenticated.value(),
            ),
        ] {
            page.head(name, "counter", help);
            page.line(name, "", value);
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
            page.head(name, "gauge", help);
            page.line(name, "", value);
        }
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP keepgate_center_{name} {help}");
        let _ = writeln!(self.0, "# TYPE keepgate_center_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "keepgate_center_{name}{labels} {value}");
    }
}

/// Microseconds as seconds in decimal, exact.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
