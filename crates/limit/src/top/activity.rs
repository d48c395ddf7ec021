//! What is kept about one heavy hitter: methods, routes, refusals, and whether it walks.

use std::cmp::Reverse;

use super::distinct::Distinct;
use crate::gcra::Nanos;
use crate::hash::Fingerprint;

/// The most routes kept for one hitter.
pub const ROUTES: usize = 4;
/// The methods told apart; others are `OTHER`.
pub const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];

/// All other methods.
pub const OTHER: &str = "OTHER";

/// What one key did.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity {
    /// Bits of [`METHODS`]; the one above them for others.
    methods: u16,
    /// Routes with counts that are never too large (Misra and Gries, 1982).
    routes: Vec<(String, u64)>,
    /// Requests seen while it was kept.
    pub(super) seen: u64,
    /// Of these, refused.
    pub(super) refused: u64,
    /// The first.
    pub(super) first_seen: Option<Nanos>,
    /// The route it asks most often with parameters, if any.
    pub(super) walk: Option<Box<Walk>>,
    /// Of an address: the principal behind most of its requests, by majority vote.
    lead: Option<Fingerprint>,
    lead_votes: u64,
}

/// One route asked with many values.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) route: String,
    /// Majority vote among routes (Boyer and Moore, 1981).
    votes: u64,
    /// Requests to `route` while it led.
    pub(super) requests: u64,
    pub(super) values: Distinct,
}

impl Activity {
    /// Takes one request in.
    pub(super) fn take(&mut self, method: &str, refused: bool, now: Nanos) {
        let bit = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len());
        self.methods |= 1 << bit;
        self.seen += 1;
        self.refused += u64::from(refused);
        self.first_seen = Some(self.first_seen.map_or(now, |first| first.min(now)));
    }

    /// Takes the route of one request in, and the values of its path parameters.
    pub(super) fn visit(&mut self, route: &str, values: Option<Fingerprint>) {
        count_route(&mut self.routes, route, 1);
        let Some(value) = values else { return };
        let walk = match &mut self.walk {
            Some(walk) if walk.route == route => walk,
            Some(walk) if walk.votes > 1 => {
                walk.votes -= 1;
                return;
            }
            other => other.insert(Box::new(Walk {
                route: route.to_owned(),
                votes: 0,
                requests: 0,
                values: Distinct::default(),
            })),
        };
        walk.votes += 1;
        walk.requests += 1;
        walk.values.insert(value);
    }

    /// Takes in who was behind one request of an address, where that was looked at.
    pub(super) fn follow(&mut self, principal: Option<Fingerprint>) {
        if self.lead_votes == 0 {
            self.lead = principal;
        }
        if self.lead == principal {
            self.lead_votes += 1;
        } else {
            self.lead_votes -= 1;
        }
    }

    /// The principal behind most of an address's requests, of those where it was looked at; `None` if
    /// that is nobody known.
    pub(super) fn lead(&self) -> Option<Fingerprint> {
        self.lead
    }

    /// Takes all that another activity of the same key saw.
    pub(super) fn merge(&mut self, other: &Activity) {
        self.methods |= other.methods;
        self.seen += other.seen;
        self.refused += other.refused;
        self.first_seen = [self.first_seen, other.first_seen].into_iter().flatten().min();
        for (route, count) in &other.routes {
            count_route(&mut self.routes, route, *count);
        }
        if other.lead_votes > self.lead_votes {
            (self.lead, self.lead_votes) = (other.lead, other.lead_votes);
        }
        match (&mut self.walk, &other.walk) {
            (Some(own), Some(theirs)) if own.route == theirs.route => {
                own.requests += theirs.requests;
                own.values.merge(&theirs.values);
            }
            (Some(own), Some(theirs)) if own.requests >= theirs.requests => {}
            (own, Some(theirs)) => *own = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    /// The methods used.
    pub(super) fn methods(&self) -> Vec<String> {
        let all = METHODS.iter().copied().chain([OTHER]).enumerate();
        let used = all.filter(|(bit, _)| self.methods >> bit & 1 == 1);
        used.map(|(_, method)| method.to_owned()).collect()
    }

    /// The routes asked most, with counts that are at most the true ones.
    pub(super) fn routes(&self) -> Vec<(String, u64)> {
        let mut routes = self.routes.clone();
        routes.sort_by_key(|(_, count)| Reverse(*count));
        routes
    }
}

fn count_route(routes: &mut Vec<(String, u64)>, route: &str, times: u64) {
    if let Some((_, count)) = routes.iter_mut().find(|(known, _)| known == route) {
        *count += times;
    } else if routes.len() < ROUTES {
        routes.push((route.to_owned(), times));
    } else {
        // One new against one of each old: what stays is at most the true count.
        let least = routes.iter().map(|(_, count)| *count).min().unwrap_or(0).min(times);
        for (_, count) in routes.iter_mut() {
            *count -= least;
        }
        routes.retain(|(_, count)| *count > 0);
        if times > least && routes.len() < ROUTES {
            routes.push((route.to_owned(), times - least));
        }
    }
}
