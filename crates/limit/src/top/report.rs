//! What a person reads: hitters with bounds, and crawls with the plan that would fit.

use std::collections::HashMap;

use serde::Serialize;

use super::activity::Activity;
use super::space_saving::SpaceSaving;
use super::{Dimension, Top, Window};
use crate::gcra::Nanos;
use crate::hash::Fingerprint;
use crate::rules::Limits;

/// A walk shorter than this, in requests and in different values, is not called a crawl.
pub const LEAST_WALK: u64 = 100;

/// Who made the requests of the last one to two windows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Seconds covered.
    pub seconds: f64,
    /// All requests.
    pub requests: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, by nobody known.
    pub anonymous: u64,
    /// By address, the heaviest first.
    pub addresses: Vec<Hitter>,
    /// By principal.
    pub principals: Vec<Hitter>,
    /// By user agent.
    pub user_agents: Vec<Hitter>,
    /// By route.
    pub routes: Vec<Hitter>,
    /// Callers that walk a route.
    pub crawls: Vec<Crawl>,
}

/// One that made many of the requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hitter {
    /// Its name, without control characters.
    pub name: String,
    /// At most so many requests.
    pub requests: u64,
    /// At least so many.
    pub at_least: u64,
    /// `requests` of all requests, 0 to 1.
    pub share: f64,
    /// `requests` a second over the time covered.
    pub per_second: f64,
    /// Refused, at least.
    pub refused: u64,
    /// Methods used.
    pub methods: Vec<&'static str>,
    /// Routes asked most, with counts that are at most the true ones.
    pub routes: Vec<(String, u64)>,
    /// When it was first seen in the windows kept, in nanoseconds of the caller's clock.
    pub first_seen_ns: u64,
}

/// One caller that asks one route with many different parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crawl {
    /// Known by principal or by address.
    pub by: Dimension,
    /// Who.
    pub name: String,
    /// The route.
    pub route: String,
    /// Requests to it, at least.
    pub requests: u64,
    /// Different parameters, about.
    pub distinct: u64,
    /// Requests a second over the time covered.
    pub per_second: f64,
    /// Refused of all its requests, at least.
    pub refused: u64,
    /// The plan that would fit it: the smallest that is large enough.
    pub plan: Option<String>,
}

struct Merged {
    key: Fingerprint,
    name: String,
    count: u64,
    error: u64,
    present: u64,
    activity: Activity,
}

impl Top {
    /// The `most` heaviest by each dimension, and all crawls among the callers kept.
    ///
    /// `limits` are those whose plans are offered to a crawl.
    pub fn report(&self, now: Nanos, most: usize, limits: Option<&Limits>) -> Report {
        let windows = self.windows(now);
        let start = windows.iter().map(|window| window.start).min().unwrap_or(now);
        let elapsed = now.as_u64().saturating_sub(start.as_u64()) as f64 / 1e9;
        let seconds = elapsed.max(1.0);
        let requests: u64 = windows.iter().map(|window| window.requests).sum();

        let all = |dimension: Dimension| merge(windows.iter().map(|w| w.summary(dimension)));
        let addresses = all(Dimension::Address);
        let principals = all(Dimension::Principal);
        let crawls = crawls(&addresses, &principals, seconds, limits);

        let told = |merged: &[Merged]| {
            let hitters = merged.iter().take(most);
            hitters.map(|one| one.told(requests, seconds)).collect::<Vec<Hitter>>()
        };
        Report {
            seconds,
            requests,
            refused: windows.iter().map(|window| window.refused).sum(),
            anonymous: windows.iter().map(|window| window.anonymous).sum(),
            addresses: told(&addresses),
            principals: told(&principals),
            user_agents: told(&all(Dimension::UserAgent)),
            routes: told(&all(Dimension::Route)),
            crawls,
        }
    }
}

impl Window {
    fn summary(&self, dimension: Dimension) -> &SpaceSaving<Activity> {
        match dimension {
            Dimension::Address => &self.address,
            Dimension::Principal => &self.principal,
            Dimension::UserAgent => &self.user_agent,
            Dimension::Route => &self.route,
        }
    }
}

/// Merges summaries, the heaviest first. A key that one summary does not hold was recorded there
/// at most as often as that summary's smallest entry (Agarwal and others, "Mergeable
/// summaries", 2012).
fn merge<'a>(summaries: impl Iterator<Item = &'a SpaceSaving<Activity>>) -> Vec<Merged> {
    let mut merged: HashMap<Fingerprint, Merged> = HashMap::new();
    let mut unseen = 0;
    for summary in summaries {
        unseen += summary.most_of_the_unseen();
        for entry in summary.entries() {
            let one = merged.entry(entry.key).or_insert_with(|| Merged {
                key: entry.key,
                name: entry.name.clone(),
                count: 0,
                error: 0,
                present: 0,
                activity: Activity::default(),
            });
            one.count += entry.count;
            one.error += entry.error;
            one.present += summary.most_of_the_unseen();
            one.activity.merge(&entry.value);
        }
    }
    let mut merged: Vec<Merged> = merged.into_values().collect();
    for one in &mut merged {
        let elsewhere = unseen - one.present;
        one.count += elsewhere;
        one.error += elsewhere;
    }
    merged.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    merged
}

impl Merged {
    fn told(&self, requests: u64, seconds: f64) -> Hitter {
        Hitter {
            name: self.name.clone(),
            requests: self.count,
            at_least: self.count - self.error,
            share: if requests == 0 { 0.0 } else { self.count as f64 / requests as f64 },
            per_second: self.count as f64 / seconds,
            refused: self.activity.refused,
            methods: self.activity.methods(),
            routes: self.activity.routes(),
            first_seen_ns: self.activity.first_seen.map_or(0, Nanos::as_u64),
        }
    }

    /// It asks one route with ever new parameters, and does little else.
    fn crawl(&self, by: Dimension, seconds: f64, limits: Option<&Limits>) -> Option<Crawl> {
        let walk = self.activity.walk.as_ref()?;
        let distinct = walk.values.estimate();
        let long = walk.requests >= LEAST_WALK && distinct >= LEAST_WALK;
        let ever_new = distinct * 2 >= walk.requests;
        let little_else = walk.requests * 2 >= self.activity.seen;
        if !(long && ever_new && little_else) {
            return None;
        }
        let per_second = walk.requests as f64 / seconds;
        let plan = limits.and_then(|limits| limits.plan_that_fits(per_second));
        Some(Crawl {
            by,
            name: self.name.clone(),
            route: walk.route.clone(),
            requests: walk.requests,
            distinct,
            per_second,
            refused: self.activity.refused,
            plan: plan.map(str::to_owned),
        })
    }
}

/// The crawls by principal, and those by address that are not the same seen twice: whose
/// requests are not mostly those of one principal already told to walk that route.
fn crawls(
    addresses: &[Merged],
    principals: &[Merged],
    seconds: f64,
    limits: Option<&Limits>,
) -> Vec<Crawl> {
    let mut told: HashMap<Fingerprint, Crawl> = HashMap::new();
    for one in principals {
        if let Some(crawl) = one.crawl(Dimension::Principal, seconds, limits) {
            told.insert(one.key, crawl);
        }
    }
    let by_address = addresses.iter().filter_map(|one| {
        let crawl = one.crawl(Dimension::Address, seconds, limits)?;
        let lead = one.activity.lead().and_then(|lead| told.get(&lead));
        lead.is_none_or(|lead| lead.route != crawl.route).then_some(crawl)
    });
    let mut crawls: Vec<Crawl> = by_address.collect();
    crawls.extend(told.into_values());
    crawls.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    crawls
}
