//! Who is making the requests: heavy hitters by address, principal, user agent and route, and
//! crawls, in bounded memory.
//!
//! A [`Top`] has a recorder for each worker thread, so recording does not make threads wait for
//! each other; a report merges them. Counts cover the current window and the one before.
//!
//! Error bounds. Of `n` requests in the two windows, with `m` entries a summary: for each hitter
//! reported, `at_least <= true count <= requests`, and `requests - at_least` is at most
//! `n / m` (the sum of its summaries' bounds). Whoever made more than `n / m` of the requests
//! is in the report. With the default of 256 entries: everyone above 0.4 %.
//!
//! Reports of several gates are merged by [`merge`], with bounds that still hold.
//!
//! A *crawl* is one caller that asks one route with many different path parameters; how many
//! is estimated within some 7 % (see [`distinct`]).
//!
//! It knows no clock, and keeps no request: of a path it keeps the template and, of
//! parameters, a count of how many there were.

mod activity;
pub mod distinct;
mod merge;
mod report;
pub mod space_saving;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use activity::Activity;
use space_saving::SpaceSaving;

use crate::gcra::Nanos;
use crate::hash::{Fingerprint, Seed, Sort};
use crate::limiter::AddressKey;

pub use activity::{METHODS, OTHER, ROUTES};
pub use merge::{Heard, MAX_TOLD, Malformed, merge};
pub use report::{
    Crawl, GatesHeard, Hitter, LEAST_WALK, Outcomes, TopAnswer, TopReport, Unheard, Unlisted,
};

/// The entries of a summary unless told otherwise.
pub const ENTRIES: usize = 256;
/// Names are cut to this many bytes.
pub const NAME_BYTES: usize = 200;

/// By what requests are counted.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The client's address (IPv6 by its /64).
    Address,
    /// The principal.
    Principal,
    /// The `User-Agent`.
    UserAgent,
    /// The route template.
    Route,
}

/// One request, as it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Where from.
    pub address: AddressKey,
    /// The principal's type and id.
    pub principal: Option<(&'a str, &'a str)>,
    /// The `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The route template.
    pub route: Option<&'a str>,
    /// The path, if the template has parameters: different paths are different values.
    pub path: Option<&'a str>,
    /// It was refused.
    pub refused: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// When.
    pub now: Nanos,
}

/// What came of a request, as far as it is told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was let through, or refused for another reason.
    #[default]
    Other,
    /// It was over a limit (429).
    Limited,
    /// It was denied (403).
    Denied,
    /// It could not be decided (503), which is no denial.
    Undecided,
}

/// Heavy hitters of the current window and the one before.
#[derive(Debug)]
pub struct Top {
    seed: Seed,
    entries: usize,
    window: Duration,
    recorders: Box<[Mutex<Recorder>]>,
}

#[derive(Debug, Default)]
struct Recorder {
    totals: Totals,
    current: Option<Window>,
    /// Never changed again, so that a report copies nothing of it.
    before: Option<Arc<Window>>,
}

/// All requests since the start, by what came of them. It only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// All of them.
    pub requests: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, what was limited, denied or not decided.
    pub outcomes: Outcomes,
}

#[derive(Debug, Clone)]
struct Window {
    start: Nanos,
    requests: u64,
    refused: u64,
    outcomes: Outcomes,
    anonymous: u64,
    address: SpaceSaving<Activity>,
    principal: SpaceSaving<Activity>,
    user_agent: SpaceSaving<Activity>,
    route: SpaceSaving<Activity>,
}

impl Top {
    /// For `workers` threads, with `entries` a summary and windows of length `window`.
    pub fn new(seed: Seed, workers: usize, entries: usize, window: Duration) -> Top {
        let recorders = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Top { seed, entries: entries.max(1), window, recorders }
    }

    /// Records one request in the recorder of `worker` (taken modulo their number).
    pub fn record(&self, worker: usize, request: &Observation<'_>) {
        let Some(recorder) = self.recorders.get(worker % self.recorders.len()) else {
            return;
        };
        let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.turn(request.now, self.window, self.entries);
        recorder.totals.requests += 1;
        recorder.totals.refused += u64::from(request.refused);
        recorder.totals.outcomes.count(request.outcome);
        let Recorder { current: Some(window), before, .. } = &mut *recorder else {
            return;
        };
        window.record(request, &self.seed, before.as_deref());
    }

    /// All requests since the start.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for recorder in &self.recorders {
            let Totals { requests, refused, outcomes } =
                recorder.lock().unwrap_or_else(PoisonError::into_inner).totals;
            sum.requests += requests;
            sum.refused += refused;
            sum.outcomes = sum.outcomes.plus(outcomes);
        }
        sum
    }

    /// Copies of the windows that a report at `now` covers.
    fn windows(&self, now: Nanos) -> Vec<Arc<Window>> {
        let mut windows = Vec::new();
        for recorder in &self.recorders {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.turn(now, self.window, self.entries);
            windows.extend(recorder.current.clone().map(Arc::new));
            windows.extend(recorder.before.clone());
        }
        windows
    }
}

impl Recorder {
    /// Begins a new window when the current one has ended at `now`.
    fn turn(&mut self, now: Nanos, length: Duration, entries: usize) {
        match &self.current {
            None => self.current = Some(Window::new(now, entries)),
            Some(current) if now >= current.start.plus(length) => {
                let stale = now >= current.start.plus(length.saturating_mul(2));
                let ended = self.current.replace(Window::new(now, entries));
                self.before = if stale { None } else { ended.map(Arc::new) };
            }
            Some(_) => {}
        }
    }
}

impl Window {
    fn new(start: Nanos, entries: usize) -> Window {
        Window {
            start,
            requests: 0,
            refused: 0,
            outcomes: Outcomes::default(),
            anonymous: 0,
            address: SpaceSaving::new(entries),
            principal: SpaceSaving::new(entries),
            user_agent: SpaceSaving::new(entries),
            route: SpaceSaving::new(entries),
        }
    }

    fn record(&mut self, request: &Observation<'_>, seed: &Seed, before: Option<&Window>) {
        self.requests += 1;
        self.refused += u64::from(request.refused);
        self.outcomes.count(request.outcome);
        let values = request.path.map(|path| seed.bytes(Sort::Text, path.as_bytes()));
        let visit = |activity: Option<&mut Activity>, known: Option<Nanos>, walks: bool| {
            let Some(activity) = activity else { return };
            activity.take(request.method, request.refused, known.unwrap_or(request.now));
            if let Some(route) = request.route {
                activity.visit(route, values.filter(|_| walks));
            }
        };

        let principal = request.principal.map(|(kind, id)| {
            (seed.pair(Sort::Principal, kind.as_bytes(), id.as_bytes()), kind, id)
        });
        let network = request.address.network(64);
        let key = network.fingerprint(seed, 64);
        let known = first_seen(before.map(|b| &b.address), key);
        let mut activity = self.address.record(key, || network.to_string());
        if let Some(activity) = &mut activity {
            // Who was refused before anybody looked may be anybody.
            if principal.is_some() || !request.refused {
                activity.follow(principal.map(|(key, ..)| key));
            }
        }
        visit(activity, known, true);

        match principal {
            Some((key, kind, id)) => {
                let known = first_seen(before.map(|b| &b.principal), key);
                let name = || printable(&format!("{kind}::{id:?}"));
                visit(self.principal.record(key, name), known, true);
            }
            None => self.anonymous += 1,
        }
        if let Some(agent) = request.user_agent {
            let key = seed.bytes(Sort::Header, agent.as_bytes());
            let known = first_seen(before.map(|b| &b.user_agent), key);
            visit(self.user_agent.record(key, || printable(agent)), known, false);
        }
        if let Some(route) = request.route {
            let key = seed.bytes(Sort::Text, route.as_bytes());
            let known = first_seen(before.map(|b| &b.route), key);
            if let Some(activity) = self.route.record(key, || printable(route)) {
                activity.take(request.method, request.refused, known.unwrap_or(request.now));
            }
        }
    }
}

fn first_seen(before: Option<&SpaceSaving<Activity>>, key: Fingerprint) -> Option<Nanos> {
    before?.entry(key)?.value.first_seen
}

/// A caller's text for a person's terminal: no control characters, at most [`NAME_BYTES`].
fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() + c.len_utf8() > NAME_BYTES {
            break;
        }
        out.push(if c.is_control() { '?' } else { c });
    }
    out
}
