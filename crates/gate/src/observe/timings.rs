//! How long requests take, by site and outcome. Each worker has its own histograms, so that none is
//! contended; one is made when its first request is noted.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keepgate_observe::trace::TraceId;
use keepgate_observe::{Page, Timing, TimingSeries};
use keepgate_record::Outcome;

/// Upper bounds of the decision histogram's buckets, in nanoseconds, and as labels in seconds.
const DECISION_NS: [u64; 10] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 1_000_000, 10_000_000];
const DECISION_LABELS: [&str; 10] = [
    "0.000000250",
    "0.000000500",
    "0.000001000",
    "0.000002500",
    "0.000005000",
    "0.000010000",
    "0.000050000",
    "0.000100000",
    "0.001000000",
    "0.010000000",
];

/// Upper bounds of the buckets of whole requests and of their upstreams, in nanoseconds, and as labels
/// in seconds.
const REQUEST_NS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
];
const REQUEST_LABELS: [&str; 14] = [
    "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1",
    "2.5", "10", "60",
];

/// The `site` of a request that has none.
const NO_SITE: &str = "none";

const OUTCOMES: usize = Outcome::ALL.len();

/// The histograms of one kind, by outcome.
#[derive(Debug)]
struct ByOutcome<const N: usize>([OnceLock<Box<Timing<N>>>; OUTCOMES]);

impl<const N: usize> Default for ByOutcome<N> {
    fn default() -> Self {
        ByOutcome(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<const N: usize> ByOutcome<N> {
    fn note(&self, bounds: &[u64; N], outcome: Outcome, took: Duration, trace: Option<TraceId>) {
        if let Some(place) = self.0.get(outcome as usize) {
            place.get_or_init(Box::default).note(bounds, took, trace);
        }
    }

    fn of(&self, outcome: Outcome) -> Option<&Timing<N>> {
        self.0.get(outcome as usize)?.get().map(Box::as_ref)
    }
}

/// The histograms of one site at one worker.
#[derive(Debug)]
pub(crate) struct SiteTimings {
    /// As its configuration names it.
    pub(crate) site: Arc<str>,
    requests: ByOutcome<{ REQUEST_NS.len() }>,
    decisions: ByOutcome<{ DECISION_NS.len() }>,
    upstreams: ByOutcome<{ REQUEST_NS.len() }>,
}

impl Default for SiteTimings {
    /// Those of requests without a site.
    fn default() -> SiteTimings {
        SiteTimings::of(NO_SITE.into())
    }
}

impl SiteTimings {
    pub(crate) fn of(site: Arc<str>) -> SiteTimings {
        SiteTimings {
            site,
            requests: ByOutcome::default(),
            decisions: ByOutcome::default(),
            upstreams: ByOutcome::default(),
        }
    }

    /// From a request's head to its answer's. `trace`: where it is recorded.
    pub(crate) fn request(&self, outcome: Outcome, took: Duration, trace: Option<TraceId>) {
        self.requests.note(&REQUEST_NS, outcome, took, trace);
    }

    /// One decision.
    pub(crate) fn decision(&self, outcome: Outcome, took: Duration, trace: Option<TraceId>) {
        self.decisions.note(&DECISION_NS, outcome, took, trace);
    }

    /// From asking for a connection to the upstream to the head of its answer.
    pub(crate) fn upstream(&self, outcome: Outcome, took: Duration, trace: Option<TraceId>) {
        self.upstreams.note(&REQUEST_NS, outcome, took, trace);
    }
}

/// The histograms of all sites of all workers.
pub(crate) fn render(all: impl Iterator<Item = Arc<SiteTimings>>, page: &mut Page) {
    let mut sites: BTreeMap<Arc<str>, Vec<Arc<SiteTimings>>> = BTreeMap::new();
    for timings in all {
        sites.entry(Arc::clone(&timings.site)).or_default().push(timings);
    }
    let help = "Time from a request's head to its answer's, by site and outcome.";
    family(&sites, page, "request_seconds", help, &REQUEST_LABELS, |site| &site.requests);
    let help = "Time to decide one request, by site and outcome.";
    family(&sites, page, "decision_seconds", help, &DECISION_LABELS, |site| &site.decisions);
    let help = "Time from asking for a connection to the upstream to the head of its answer, by site \
                and outcome.";
    family(&sites, page, "upstream_seconds", help, &REQUEST_LABELS, |site| &site.upstreams);
}

/// The labels of a series, and its parts.
type Row<'t, const N: usize> = ([(&'t str, &'t str); 2], Vec<&'t Timing<N>>);

fn family<const N: usize>(
    sites: &BTreeMap<Arc<str>, Vec<Arc<SiteTimings>>>,
    page: &mut Page,
    name: &str,
    help: &str,
    bounds: &[&str; N],
    of: fn(&SiteTimings) -> &ByOutcome<N>,
) {
    let mut rows: Vec<Row<'_, N>> = Vec::new();
    for (site, workers) in sites {
        for outcome in Outcome::ALL {
            let parts: Vec<_> = workers.iter().filter_map(|w| of(w).of(outcome)).collect();
            if !parts.is_empty() {
                rows.push(([("site", &**site), ("outcome", outcome.name())], parts));
            }
        }
    }
    let series: Vec<TimingSeries<'_, N>> =
        rows.iter().map(|(labels, parts)| (labels.as_slice(), parts.as_slice())).collect();
    page.timings(name, help, bounds, &series);
}
