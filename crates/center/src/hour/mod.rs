//! The last hour of each service and of each limit: what gates did with requests, in minutes.
//!
//! Gates say what they did in counts that are told once ([`crate::follow`]). Every ten seconds these are
//! closed as one span. With a shared store a center writes its spans down and reads the sums of all
//! others, and of its own earlier runs, so all centers know the same; its own are counted from memory and
//! never read back. Otherwise the hour is in memory alone.
//!
//! Where nothing was heard, nothing is known: that is not "no requests". While the store is away and other
//! centers run, what these see is not known, so neither is the sum.
//!
//! Times are of the store's clock, where there is a shared one: the hosts' clocks need not agree.

mod series;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::desk::Desk;
use crate::follow::figures::{ALL_LIMITS, SERVICES};
use crate::follow::{Followers, activity};
use crate::store::StoreError;
use crate::store::hours::{Counts, HourHeard, Of, SPAN_S, SPANS, SpanRow};

pub use series::{Known, MINUTES, Measure};
use series::{Series, Slot};

/// How often a span is closed, and written down.
pub(crate) const EVERY: Duration = Duration::from_secs(SPAN_S);

/// Rows of one write, and writes in a round; after a long outage more rounds follow.
const BATCH: usize = 5_000;
const BATCHES: usize = 4;

/// Rows that wait to be written; beyond, the oldest are never told to others.
const WAITING: usize = 200_000;

/// Without a word from the store for this long, what other centers see is not known, in seconds.
const BLIND_S: u64 = 30;

/// A difference of the clocks that is not worth a jump, in seconds.
const SKEW_S: u64 = 3;

/// One that was set back by more than this begins the hour anew, in spans.
const SET_BACK: u64 = 6;

/// A read of others' rows that is repeated whole although nothing seems new, in seconds.
const WHOLE_S: u64 = 600;

/// See the module.
#[derive(Debug, Default)]
pub struct Hours(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    series: HashMap<Of, Box<Series>>,
    services: usize,
    /// Services of which a limit was left out, and until which minute that matters.
    crowded: HashMap<String, u64>,
    waiting: BTreeMap<(u64, Of), (Counts, bool)>,
    last_span: u64,
    /// The store's clock is ahead of this host's by so many seconds.
    ahead_s: i64,
    shared: Option<Heard>,
}

/// What a shared store said last.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// None: never.
    at_s: Option<u64>,
    whole_at_s: u64,
    store_unix_ms: u64,
    others: u64,
}

/// What was counted of one service or limit in a span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Of what.
    pub of: Of,
    /// How many.
    pub counts: Counts,
    /// Whether each gate says what came of its requests.
    pub is_told: bool,
}

/// What a limit did in the last hour, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitDid {
    /// Requests that it was asked about.
    pub requests: u64,
    /// Of these, refused.
    pub refused: u64,
}

impl Hours {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a span with what gates said since the last one.
    pub(crate) fn sample(&self, desk: &Desk, followers: &Followers, now_unix_s: u64) {
        let figures = followers.figures();
        // Gates of earlier releases: a report is about the last minute or two, and says how many a second.
        let untold = followers
            .activities()
            .each(Instant::now(), |follower, service| !figures.has(follower, service));
        let counted = figures.take();
        let mut by: BTreeMap<Of, (Counts, bool)> =
            counted.by.into_iter().map(|(of, counts)| (of, (counts, true))).collect();
        let mut crowded: Vec<String> = counted.crowded.into_iter().collect();
        for (service, report) in untold {
            let Ok(report) = activity::read(&report) else { continue };
            let part = |count: u64| {
                let in_span = count as f64 / report.seconds.max(1.0) * SPAN_S as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = ">= 0")]
                let rounded = in_span.round() as u64;
                rounded
            };
            let outcomes = report.outcomes.unwrap_or_default();
            let counts = Counts {
                requests: part(report.requests),
                refused: part(report.refused),
                limited: part(outcomes.limited),
                denied: part(outcomes.denied),
                undecided: part(outcomes.undecided),
            };
            let sum = by.entry(Of::service(&service)).or_insert((Counts::default(), true));
            *sum = (sum.0.plus(counts).bounded(), sum.1 && report.outcomes.is_some());
            // It does not say what its limits did.
            crowded.push(service);
        }
        let spans = by.into_iter().map(|(of, (counts, is_told))| Span { of, counts, is_told });
        let head = desk.head();
        let mut state = self.lock();
        state.close(now_unix_s, desk.is_shared(), spans);
        let until = state.now(now_unix_s) / 60 + MINUTES as u64;
        state.crowded.extend(crowded.into_iter().map(|service| (service, until)));
        state.forget(now_unix_s, |service| head.services.contains_key(service));
    }

    /// Closes a span with these counts.
    pub fn close(&self, now_unix_s: u64, is_shared: bool, spans: impl IntoIterator<Item = Span>) {
        self.lock().close(now_unix_s, is_shared, spans);
    }

    /// Writes down what was closed, and takes over what other centers saw; see
    /// [`crate::store::Store::exchange_hour`]. Blocks.
    ///
    /// # Errors
    /// Those of the store; what was not written waits for the next call.
    pub fn exchange(
        &self,
        now_unix_s: u64,
        mut exchange: impl FnMut(&[SpanRow], u64) -> Result<Option<HourHeard>, StoreError>,
    ) -> Result<(), StoreError> {
        for _ in 0..BATCHES {
            let (rows, since) = self.lock().to_write(now_unix_s);
            let Some(heard) = exchange(&rows, since)? else { return Ok(()) };
            let mut state = self.lock();
            state.written(&rows);
            state.take_over(heard, now_unix_s);
            if state.waiting.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The last hour of a service.
    pub fn of(&self, service: &str, now_unix_s: u64) -> Known {
        let state = self.lock();
        let now = state.now(now_unix_s);
        let series = state.series.get(&Of::service(service));
        let is_alone = state.shared.is_none_or(|heard| heard.others == 0);
        Known::of(series.map(|series| &**series), now, is_alone, state.blind_from(now))
    }

    /// What the limits of a service did in the last hour; one that is not there did nothing. None: it is
    /// not known.
    pub fn limits(&self, service: &str, now_unix_s: u64) -> Option<BTreeMap<String, LimitDid>> {
        let known = self.of(service, now_unix_s);
        let state = self.lock();
        let now = state.now(now_unix_s);
        known.limited.sum?;
        if state.crowded.get(service).is_some_and(|until| *until > now / 60) {
            return None;
        }
        let blind = state.blind_from(now);
        let of =
            state.series.iter().filter(|(of, _)| of.service == service && !of.limit.is_empty());
        let did = of.filter_map(|(of, series)| {
            let sum = series.sum(now, blind);
            let did = LimitDid { requests: sum.requests, refused: sum.limited };
            (did.requests > 0).then(|| (of.limit.clone(), did))
        });
        Some(did.collect())
    }
}

impl State {
    fn now(&self, now_unix_s: u64) -> u64 {
        now_unix_s.saturating_add_signed(self.ahead_s).max(self.last_span.saturating_mul(SPAN_S))
    }

    fn close(&mut self, now_unix_s: u64, is_shared: bool, spans: impl IntoIterator<Item = Span>) {
        if is_shared && self.shared.is_none() {
            self.shared = Some(Heard::default());
        }
        let clock = now_unix_s.saturating_add_signed(self.ahead_s) / SPAN_S;
        if self.last_span > clock.saturating_add(SET_BACK) {
            self.series.clear();
            self.services = 0;
            self.waiting.clear();
            self.last_span = 0;
            self.shared = is_shared.then(Heard::default);
        }
        // A span is closed once: what is written of it does not change.
        let span = clock.max(self.last_span.saturating_add(1));
        self.last_span = span;
        for Span { of, counts, is_told } in spans {
            if !self.make_room(&of, counts.requests > 0, now_unix_s) {
                continue;
            }
            let counts = counts.bounded();
            let bit = 1 << u8::try_from(span % SPANS).unwrap_or_default();
            let series = self.series.entry(of.clone()).or_default();
            series.add(Slot { minute: span / SPANS, spans: bit, is_told, counts });
            if is_shared {
                self.waiting.insert((span, of), (counts, is_told));
            }
        }
        let oldest = span.saturating_sub(SPANS * MINUTES as u64);
        while self.waiting.len() > WAITING
            || self.waiting.first_key_value().is_some_and(|((at, _), _)| *at < oldest)
        {
            self.waiting.pop_first();
        }
    }

    /// False: there is none. One that did something takes the place of one that did nothing.
    fn make_room(&mut self, of: &Of, is_busy: bool, now_unix_s: u64) -> bool {
        if self.series.contains_key(of) {
            return true;
        }
        let is_service = of.limit.is_empty();
        let (held, most) = if is_service {
            (self.services, SERVICES)
        } else {
            (self.series.len() - self.services, ALL_LIMITS)
        };
        if held >= most {
            let now = self.now(now_unix_s);
            let idle = self.series.iter().find(|(held, series)| {
                held.limit.is_empty() == is_service && series.sum(now, None).requests == 0
            });
            let idle = idle.filter(|_| is_busy).map(|(held, _)| held.clone());
            let Some(idle) = idle else {
                if !is_service {
                    let until = now / 60 + MINUTES as u64;
                    self.crowded.insert(of.service.clone(), until);
                }
                return false;
            };
            self.series.remove(&idle);
            self.services -= usize::from(is_service);
        }
        self.services += usize::from(is_service);
        true
    }

    fn forget(&mut self, now_unix_s: u64, is_there: impl Fn(&str) -> bool) {
        let minute = self.now(now_unix_s) / 60;
        self.series.retain(|of, series| is_there(&of.service) && series.is_within(minute));
        self.services = self.series.keys().filter(|of| of.limit.is_empty()).count();
        self.crowded.retain(|service, until| *until > minute && is_there(service));
    }

    /// The newest rows that wait, and since when others' are asked for.
    fn to_write(&self, now_unix_s: u64) -> (Vec<SpanRow>, u64) {
        let rows = self.waiting.iter().rev().take(BATCH).map(|((span, of), (counts, is_told))| {
            SpanRow { span: *span, of: of.clone(), counts: *counts, is_told: *is_told }
        });
        let heard = self.shared.unwrap_or_default();
        let is_old = self.now(now_unix_s) >= heard.whole_at_s.saturating_add(WHOLE_S);
        (rows.collect(), if is_old { 0 } else { heard.store_unix_ms })
    }

    fn written(&mut self, rows: &[SpanRow]) {
        for row in rows {
            self.waiting.remove(&(row.span, row.of.clone()));
        }
    }

    fn take_over(&mut self, heard: HourHeard, now_unix_s: u64) {
        let HourHeard { store_unix_ms, others, from, rows } = heard;
        let store_s = store_unix_ms / 1000;
        if store_s.abs_diff(now_unix_s.saturating_add_signed(self.ahead_s)) > SKEW_S {
            self.ahead_s = i64::try_from(i128::from(store_s) - i128::from(now_unix_s)).unwrap_or(0);
        }
        let before = self.shared.unwrap_or_default();
        let whole = store_s >= before.whole_at_s.saturating_add(WHOLE_S);
        self.shared = Some(Heard {
            at_s: Some(store_s),
            whole_at_s: if whole { store_s } else { before.whole_at_s },
            store_unix_ms,
            others,
        });
        let Some(from) = from else { return };
        for series in self.series.values_mut() {
            series.forget_others(from);
        }
        for row in rows {
            if !self.make_room(&row.of, row.counts.requests > 0, now_unix_s) {
                continue;
            }
            let series = self.series.entry(row.of).or_default();
            series.set_others(Slot {
                minute: row.minute,
                spans: row.spans,
                is_told: row.is_told,
                counts: row.counts,
            });
        }
    }

    /// From which minute on others' part is not known.
    fn blind_from(&self, now: u64) -> Option<u64> {
        let heard = self.shared?;
        match heard.at_s {
            None => Some(0),
            Some(at) if heard.others > 0 && now.saturating_sub(at) > BLIND_S => Some(at / 60),
            Some(_) => None,
        }
    }
}
