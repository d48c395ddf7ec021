//! What a person reads: hitters with bounds, and crawls with the plan that would fit.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::activity::Activity;
use super::space_saving::SpaceSaving;
use super::{Dimension, Outcome, Top, Window};
use crate::gcra::Nanos;
use crate::hash::Fingerprint;
use crate::rules::Limits;

/// A walk shorter than this, in requests and in different values, is not called a crawl.
pub const LEAST_WALK: u64 = 100;

/// Who made the requests of the last one to two windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopReport {
    /// Seconds covered.
    pub seconds: f64,
    /// All requests.
    pub requests: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, what was limited, denied or not decided; absent: a gate of an earlier release does not
    /// tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<Outcomes>,
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
    /// What the lists leave out.
    pub unlisted: Unlisted,
    /// Peers that name callers' addresses and are not believed: all their requests count as one
    /// caller's. The heaviest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// Requests that were not let through, by what came of them. They are never added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcomes {
    /// Over a limit (429).
    pub limited: u64,
    /// Denied (403).
    pub denied: u64,
    /// Not decided (503), which is no denial.
    pub undecided: u64,
}

impl Outcomes {
    pub(super) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Other => {}
            Outcome::Limited => self.limited += 1,
            Outcome::Denied => self.denied += 1,
            Outcome::Undecided => self.undecided += 1,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Outcomes) -> Outcomes {
        Outcomes {
            limited: self.limited.saturating_add(other.limited),
            denied: self.denied.saturating_add(other.denied),
            undecided: self.undecided.saturating_add(other.undecided),
        }
    }

    /// All of them; only to hold them against a bound.
    pub(super) fn all(self) -> u64 {
        self.limited.saturating_add(self.denied).saturating_add(self.undecided)
    }
}

/// The answer about the callers of one service, of a gate or of a center.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopAnswer {
    /// The service.
    pub service: String,
    /// When it was asked, in Unix milliseconds.
    pub now_unix_ms: u64,
    /// Whose reports are merged; a gate speaks for itself alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<GatesHeard>,
    /// Who makes the requests; none: no gate was heard, which is not the same as no requests.
    #[serde(flatten)]
    pub report: Option<TopReport>,
}

/// Gates whose reports an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GatesHeard {
    /// Gates whose report is there.
    pub heard: u64,
    /// The age of the oldest report, in milliseconds; null: there is none.
    pub oldest_ms: Option<u64>,
    /// Gates that follow the service.
    pub following: u64,
    /// Centers whose gates these are.
    #[serde(default = "one")]
    pub centers: u64,
}

fn one() -> u64 {
    1
}

impl TopAnswer {
    /// Gives each hitter the moment at which it was first seen, by the clock of this answer.
    #[must_use]
    pub fn dated(mut self) -> TopAnswer {
        if let Some(report) = &mut self.report {
            let lists = [
                &mut report.addresses,
                &mut report.principals,
                &mut report.user_agents,
                &mut report.routes,
            ];
            for hitter in lists.into_iter().flatten() {
                let at = self.now_unix_ms.saturating_sub(hitter.first_seen_age_ms);
                hitter.first_seen_unix_ms = Some(at);
            }
        }
        self
    }
}

/// A peer whose forwarding headers are dropped because it is not a trusted proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unheard {
    /// Its address, or `unix`.
    pub peer: String,
    /// Requests with such headers, since the gate started.
    pub requests: u64,
}

/// The most requests that any one that is not listed may have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Unlisted {
    /// Of the addresses.
    pub addresses: u64,
    /// Of the principals.
    pub principals: u64,
    /// Of the user agents.
    pub user_agents: u64,
    /// Of the routes.
    pub routes: u64,
}

/// One that made many of the requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hitter {
    /// Its name, without control characters.
    pub name: String,
    /// Requests, at most.
    pub requests: u64,
    /// Requests, at least.
    pub at_least: u64,
    /// `requests` of all requests, 0 to 1.
    pub share: f64,
    /// `requests` a second since it was first seen.
    pub per_second: f64,
    /// Refused, at least.
    pub refused: u64,
    /// Methods used.
    pub methods: Vec<String>,
    /// Routes asked most, with counts that are at most the true ones.
    pub routes: Vec<(String, u64)>,
    /// How long ago it was first seen in the windows kept, in milliseconds: an age is the same on
    /// every clock.
    pub first_seen_age_ms: u64,
    /// The same as Unix milliseconds, by the clock of the server that answers; none: only the age is
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen_unix_ms: Option<u64>,
}

/// One caller that asks one route with many different parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Crawl {
    /// Known by principal or by address.
    pub by: Dimension,
    /// Who.
    pub name: String,
    /// Of an address: the principal behind most of its requests, of those where it was looked at;
    /// the others were refused before.
    #[serde(default)]
    pub principal: Option<String>,
    /// The route.
    pub route: String,
    /// Requests to it, at least.
    pub requests: u64,
    /// Different parameters, about. Of several gates: if none saw what another saw.
    pub distinct: u64,
    /// Different parameters, about and at least: what one gate saw.
    pub distinct_at_least: u64,
    /// Requests a second since it was first seen.
    pub per_second: f64,
    /// Refused of all its requests, at least.
    pub refused: u64,
    /// The plan that would fit it: the smallest that is large enough.
    pub plan: Option<String>,
}

/// What a report is made with.
struct Telling<'a> {
    seconds: f64,
    now: Nanos,
    limits: Option<&'a Limits>,
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
    /// The `most` heaviest by each dimension, and at most as many crawls among the callers kept.
    ///
    /// `limits` are those whose plans are offered to a crawl.
    pub fn report(&self, now: Nanos, most: usize, limits: Option<&Limits>) -> TopReport {
        let windows = self.windows(now);
        let start = windows.iter().map(|window| window.start).min().unwrap_or(now);
        let elapsed = now.as_u64().saturating_sub(start.as_u64()) as f64 / 1e9;
        let seconds = elapsed.max(1.0);
        let requests: u64 = windows.iter().map(|window| window.requests).sum();

        let all = |dimension: Dimension| merge(windows.iter().map(|w| w.summary(dimension)));
        let (addresses, no_address) = all(Dimension::Address);
        let (principals, no_principal) = all(Dimension::Principal);
        let (user_agents, no_agent) = all(Dimension::UserAgent);
        let (routes, no_route) = all(Dimension::Route);
        let mut crawls = crawls(&addresses, &principals, &Telling { seconds, now, limits });
        crawls.truncate(most);

        let told = |merged: &[Merged]| {
            let hitters = merged.iter().take(most);
            hitters.map(|one| one.told(requests, seconds, now)).collect::<Vec<Hitter>>()
        };
        // The first that is left out made the most of those; whoever is in no summary, no more
        // than the summaries say.
        let left_out =
            |merged: &[Merged], unseen: u64| merged.get(most).map_or(unseen, |m| m.count);
        TopReport {
            seconds,
            requests,
            refused: windows.iter().map(|window| window.refused).sum(),
            outcomes: Some(
                windows.iter().fold(Outcomes::default(), |sum, window| sum.plus(window.outcomes)),
            ),
            anonymous: windows.iter().map(|window| window.anonymous).sum(),
            addresses: told(&addresses),
            principals: told(&principals),
            user_agents: told(&user_agents),
            routes: told(&routes),
            crawls,
            unlisted: Unlisted {
                addresses: left_out(&addresses, no_address),
                principals: left_out(&principals, no_principal),
                user_agents: left_out(&user_agents, no_agent),
                routes: left_out(&routes, no_route),
            },
            unheard: Vec::new(),
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
/// summaries", 2012). Beside them: at most how often a key that none holds was recorded.
fn merge<'a>(summaries: impl Iterator<Item = &'a SpaceSaving<Activity>>) -> (Vec<Merged>, u64) {
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
    (merged, unseen)
}

impl Merged {
    fn told(&self, requests: u64, seconds: f64, now: Nanos) -> Hitter {
        let first_seen = self.activity.first_seen.unwrap_or(now);
        Hitter {
            name: self.name.clone(),
            requests: self.count,
            at_least: self.count - self.error,
            share: if requests == 0 { 0.0 } else { self.count as f64 / requests as f64 },
            per_second: self.count as f64 / self.seconds(seconds, now),
            refused: self.activity.refused,
            methods: self.activity.methods(),
            routes: self.activity.routes(),
            first_seen_age_ms: now.as_u64().saturating_sub(first_seen.as_u64()) / 1_000_000,
            first_seen_unix_ms: None,
        }
    }

    /// How long it has been seen: whoever has just come is not averaged over the time before.
    fn seconds(&self, covered: f64, now: Nanos) -> f64 {
        let first_seen = self.activity.first_seen.unwrap_or(now);
        let since = now.as_u64().saturating_sub(first_seen.as_u64()) as f64 / 1e9;
        since.min(covered).max(1.0)
    }

    /// It asks one route with ever new parameters, and does little else.
    fn crawl(&self, by: Dimension, told: &Telling<'_>) -> Option<Crawl> {
        let walk = self.activity.walk.as_ref()?;
        let distinct = walk.values.estimate().min(walk.requests);
        let long = walk.requests >= LEAST_WALK && distinct >= LEAST_WALK;
        let ever_new = distinct * 2 >= walk.requests;
        let little_else = walk.requests * 2 >= self.activity.seen;
        if !(long && ever_new && little_else) {
            return None;
        }
        let per_second = walk.requests as f64 / self.seconds(told.seconds, told.now);
        let plan = told.limits.and_then(|limits| limits.plan_that_fits(per_second));
        Some(Crawl {
            by,
            name: self.name.clone(),
            principal: None,
            route: walk.route.clone(),
            requests: walk.requests,
            distinct,
            distinct_at_least: distinct,
            per_second,
            refused: self.activity.refused,
            plan: plan.map(str::to_owned),
        })
    }
}

/// The crawls by principal and by address, none twice. An address whose requests are mostly those of
/// a principal that walks the same route is that crawl seen again: the principal is told, unless
/// most of the walk was refused before anybody looked who it is.
fn crawls(addresses: &[Merged], principals: &[Merged], telling: &Telling<'_>) -> Vec<Crawl> {
    let mut told: HashMap<Fingerprint, Crawl> = HashMap::new();
    for one in principals {
        if let Some(crawl) = one.crawl(Dimension::Principal, telling) {
            told.insert(one.key, crawl);
        }
    }
    let names: HashMap<Fingerprint, &str> =
        principals.iter().map(|one| (one.key, one.name.as_str())).collect();
    let mut crawls = Vec::new();
    let mut seen_again = Vec::new();
    for one in addresses {
        let Some(mut crawl) = one.crawl(Dimension::Address, telling) else { continue };
        let lead = one.activity.lead();
        crawl.principal = lead.and_then(|lead| names.get(&lead)).map(|name| (*name).to_owned());
        let same = lead.and_then(|lead| Some((lead, told.get(&lead)?)));
        match same.filter(|(_, of_lead)| of_lead.route == crawl.route) {
            Some((_, of_lead)) if crawl.requests <= of_lead.requests.saturating_mul(2) => {}
            Some((lead, _)) => {
                seen_again.push(lead);
                crawls.push(crawl);
            }
            None => crawls.push(crawl),
        }
    }
    for lead in seen_again {
        told.remove(&lead);
    }
    crawls.extend(told.into_values());
    crawls.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    crawls
}
