//! Reports of several gates as one.
//!
//! Error bounds stay valid: who is not in a gate's list made at most [`Unlisted`] requests there, which
//! is added to `requests` and not to `at_least`. So for each name in the merged report
//! `at_least <= true count <= requests`, and whoever is in none made at most its `unlisted`.
//! (Names are cut to [`NAME_BYTES`]; two that are the same after that count as one.)
//!
//! How many different parameters a crawl asked for cannot be merged, since each gate hashes with a
//! seed of its own: both bounds are told.
//!
//! A report comes from elsewhere. [`TopReport::check`] refuses one that no gate would make; merging
//! does not trust it further: sums saturate.

use std::collections::BTreeMap;

use super::activity::{METHODS, OTHER, ROUTES};
use super::report::{Crawl, Hitter, Outcomes, TopReport, Unheard, Unlisted};
use super::{Dimension, NAME_BYTES};
use crate::rules::Limits;

/// The most of a kind in a report that is told on.
pub const MAX_TOLD: usize = 20;
/// The longest route in a report that is told on, in bytes.
const ROUTE_BYTES: usize = 4096;
/// Longer than any window.
const MAX_SECONDS: f64 = 86_400.0;
/// More requests than a gate can count in a window; sums of many stay far below 2^64.
const MAX_REQUESTS: u64 = 1 << 44;

/// One gate's report, and how long ago it was made.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What it said.
    pub report: TopReport,
    /// Milliseconds since.
    pub age_ms: u64,
}

/// No gate makes such a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than [`MAX_TOLD`] of a kind.
    #[error("expected at most {MAX_TOLD} {kind}, got {count}")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// How many.
        count: usize,
    },
    /// A name or route that is too long or not for a terminal.
    #[error("a name or route in it is too long or has control characters")]
    Name,
    /// Numbers that contradict each other, or are out of all bounds.
    #[error("its numbers contradict each other")]
    Numbers,
    /// A method that gates do not tell.
    #[error("it has a method that gates do not report")]
    Method,
}

impl TopReport {
    /// Whether a gate may have made this.
    pub fn check(&self) -> Result<(), Malformed> {
        let told = (0.0..=MAX_SECONDS).contains(&self.seconds)
            && self.requests <= MAX_REQUESTS
            && self.refused <= self.requests
            && self.anonymous <= self.requests
            && self.outcomes.is_none_or(|outcomes| outcomes.all() <= self.requests);
        let Unlisted { addresses, principals, user_agents, routes } = self.unlisted;
        let bounded =
            [addresses, principals, user_agents, routes].iter().all(|n| *n <= MAX_REQUESTS);
        if !told || !bounded {
            return Err(Malformed::Numbers);
        }
        for (kind, list) in [
            ("addresses", &self.addresses),
            ("principals", &self.principals),
            ("user agents", &self.user_agents),
            ("routes", &self.routes),
        ] {
            if list.len() > MAX_TOLD {
                return Err(Malformed::TooMany { kind, count: list.len() });
            }
            list.iter().try_for_each(check_hitter)?;
        }
        if self.crawls.len() > MAX_TOLD {
            return Err(Malformed::TooMany { kind: "crawls", count: self.crawls.len() });
        }
        self.crawls.iter().try_for_each(check_crawl)?;
        if self.unheard.len() > MAX_TOLD {
            return Err(Malformed::TooMany { kind: "peers", count: self.unheard.len() });
        }
        self.unheard.iter().try_for_each(|one| text(&one.peer, NAME_BYTES))
    }
}

fn check_hitter(one: &Hitter) -> Result<(), Malformed> {
    let counts = one.at_least <= one.requests
        && one.requests <= MAX_REQUESTS
        && one.refused <= one.requests
        && rate(one.per_second)
        && one.routes.iter().all(|(_, count)| *count <= one.requests);
    let known = |method: &String| METHODS.contains(&method.as_str()) || method == OTHER;
    if !counts || one.routes.len() > ROUTES {
        return Err(Malformed::Numbers);
    }
    if !one.methods.iter().all(known) || one.methods.len() > METHODS.len() + 1 {
        return Err(Malformed::Method);
    }
    text(&one.name, NAME_BYTES)?;
    one.routes.iter().try_for_each(|(route, _)| text(route, ROUTE_BYTES))
}

fn check_crawl(one: &Crawl) -> Result<(), Malformed> {
    let counts = one.requests <= MAX_REQUESTS
        && one.distinct <= MAX_REQUESTS
        && one.distinct_at_least <= one.distinct
        && one.refused <= MAX_REQUESTS
        && rate(one.per_second);
    if !counts {
        return Err(Malformed::Numbers);
    }
    text(&one.name, NAME_BYTES)?;
    text(one.principal.as_deref().unwrap_or_default(), NAME_BYTES)?;
    text(&one.route, ROUTE_BYTES)
}

fn rate(per_second: f64) -> bool {
    (0.0..=MAX_REQUESTS as f64).contains(&per_second)
}

fn text(text: &str, most: usize) -> Result<(), Malformed> {
    let fits = text.len() <= most && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(Malformed::Name) }
}

/// All gates' reports as one; `most` of a kind. `limits` are those whose plans are offered.
pub fn merge(heard: &[Heard], most: usize, limits: Option<&Limits>) -> TopReport {
    let sum = |part: fn(&TopReport) -> u64| {
        heard.iter().fold(0_u64, |sum, one| sum.saturating_add(part(&one.report)))
    };
    let requests = sum(|report| report.requests);
    let list = |hitters: fn(&TopReport) -> &[Hitter], unlisted: fn(&Unlisted) -> u64| {
        merge_lists(heard, hitters, unlisted, requests, most)
    };
    let (addresses, no_address) = list(|r| &r.addresses, |u| u.addresses);
    let (principals, no_principal) = list(|r| &r.principals, |u| u.principals);
    let (user_agents, no_agent) = list(|r| &r.user_agents, |u| u.user_agents);
    let (routes, no_route) = list(|r| &r.routes, |u| u.routes);
    TopReport {
        seconds: heard.iter().map(|one| one.report.seconds).fold(0.0, f64::max),
        requests,
        refused: sum(|report| report.refused),
        // Known only where every gate tells.
        outcomes: heard
            .iter()
            .try_fold(Outcomes::default(), |sum, one| Some(sum.plus(one.report.outcomes?))),
        anonymous: sum(|report| report.anonymous),
        addresses,
        principals,
        user_agents,
        routes,
        crawls: merge_crawls(heard, most, limits),
        unlisted: Unlisted {
            addresses: no_address,
            principals: no_principal,
            user_agents: no_agent,
            routes: no_route,
        },
        unheard: merge_unheard(heard, most),
    }
}

fn merge_unheard(heard: &[Heard], most: usize) -> Vec<Unheard> {
    let mut merged: BTreeMap<&str, u64> = BTreeMap::new();
    for one in heard.iter().flat_map(|one| &one.report.unheard) {
        let sum = merged.entry(&one.peer).or_default();
        *sum = sum.saturating_add(one.requests);
    }
    let of = |(peer, requests): (&str, u64)| Unheard { peer: peer.to_owned(), requests };
    let mut all: Vec<Unheard> = merged.into_iter().map(of).collect();
    all.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.peer.cmp(&b.peer)));
    all.truncate(most);
    all
}

fn merge_lists(
    heard: &[Heard],
    hitters: fn(&TopReport) -> &[Hitter],
    unlisted: fn(&Unlisted) -> u64,
    requests: u64,
    most: usize,
) -> (Vec<Hitter>, u64) {
    let mut merged: BTreeMap<&str, Hitter> = BTreeMap::new();
    // For each name, the last report that listed it, and what is unlisted in those that did.
    let mut listed: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut absent = 0_u64;
    for (number, Heard { report, age_ms }) in heard.iter().enumerate() {
        let here = unlisted(&report.unlisted);
        absent = absent.saturating_add(here);
        for hitter in hitters(report) {
            let (last, known) = listed.entry(&hitter.name).or_insert((usize::MAX, 0));
            if *last != number {
                (*last, *known) = (number, known.saturating_add(here));
            }
            let age = hitter.first_seen_age_ms.saturating_add(*age_ms);
            match merged.get_mut(hitter.name.as_str()) {
                Some(one) => add(one, hitter, age),
                None => {
                    let one = Hitter { first_seen_age_ms: age, ..hitter.clone() };
                    merged.insert(&hitter.name, one);
                }
            }
        }
    }
    let mut all: Vec<Hitter> = Vec::new();
    for (name, mut one) in merged {
        let known = listed.get(name).map_or(0, |(_, known)| *known);
        one.requests = one.requests.saturating_add(absent.saturating_sub(known));
        one.share = if requests == 0 { 0.0 } else { one.requests as f64 / requests as f64 };
        one.routes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        one.routes.truncate(ROUTES);
        all.push(one);
    }
    all.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    let left_out = all.get(most).map_or(absent, |one| one.requests.max(absent));
    all.truncate(most);
    (all, left_out)
}

fn add(one: &mut Hitter, more: &Hitter, age_ms: u64) {
    one.requests = one.requests.saturating_add(more.requests);
    one.at_least = one.at_least.saturating_add(more.at_least);
    one.refused = one.refused.saturating_add(more.refused);
    one.per_second += more.per_second;
    one.first_seen_age_ms = one.first_seen_age_ms.max(age_ms);
    for method in &more.methods {
        if !one.methods.contains(method) {
            one.methods.push(method.clone());
        }
    }
    for (route, count) in &more.routes {
        match one.routes.iter_mut().find(|(known, _)| known == route) {
            Some((_, sum)) => *sum = sum.saturating_add(*count),
            None => one.routes.push((route.clone(), *count)),
        }
    }
}

fn merge_crawls(heard: &[Heard], most: usize, limits: Option<&Limits>) -> Vec<Crawl> {
    let mut merged: BTreeMap<(bool, &str, &str), Crawl> = BTreeMap::new();
    for crawl in heard.iter().flat_map(|one| &one.report.crawls) {
        let by_address = crawl.by == Dimension::Address;
        match merged.get_mut(&(by_address, crawl.name.as_str(), crawl.route.as_str())) {
            Some(one) => {
                one.requests = one.requests.saturating_add(crawl.requests);
                one.distinct_at_least = one.distinct_at_least.max(crawl.distinct_at_least);
                let sum = one.distinct.saturating_add(crawl.distinct).min(one.requests);
                one.distinct = sum.max(one.distinct_at_least);
                one.refused = one.refused.saturating_add(crawl.refused);
                one.per_second += crawl.per_second;
                if one.principal.is_none() {
                    one.principal.clone_from(&crawl.principal);
                }
            }
            None => {
                merged.insert((by_address, &crawl.name, &crawl.route), crawl.clone());
            }
        }
    }
    let mut crawls: Vec<Crawl> = merged.into_values().collect();
    for crawl in &mut crawls {
        let plan = limits.and_then(|limits| limits.plan_that_fits(crawl.per_second));
        crawl.plan = plan.map(str::to_owned);
    }
    crawls.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    crawls.truncate(most);
    crawls
}
