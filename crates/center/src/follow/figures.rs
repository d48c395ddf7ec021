//! What gates did with the requests of the last seconds: added up until [`Counted::take`] takes it.
//!
//! Each message counts once, so a follower that goes to another center is counted there from then on.
//! A gate that reports and does not send these is of an earlier release.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use keepgate_policy::proto::Figures;

use crate::desk::Head;
use crate::store::hours::{Counts, MOST, Of};

/// Limits of one message.
pub(crate) const LIMITS: usize = 256;

/// Services that are counted at once, and limits; what is beyond is not.
pub(crate) const SERVICES: usize = 1_000;
pub(crate) const ALL_LIMITS: usize = 4_096;

/// Pairs of a follower and a service that are known to send figures.
const FOLLOWED: usize = 65_536;

/// Rules that gates have where a service says nothing.
const DEFAULTS: &str = "default-";

/// Why a message is dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Uncounted {
    #[error(
        "the figures are about a service that this connection does not follow, or that is not there"
    )]
    Service,
    #[error("expected figures of at most {LIMITS} limits, got {0}")]
    Limits(usize),
    #[error("the figures contradict each other, or are out of all bounds")]
    Numbers,
    #[error("too many services are counted already")]
    Full,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<Kept>);

/// What was counted in a few seconds.
#[derive(Debug, Default)]
pub(crate) struct Span {
    pub(crate) by: HashMap<Of, Counts>,
    /// Services of which a limit was left out.
    pub(crate) crowded: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Kept {
    span: Span,
    services: usize,
    counting: BTreeMap<u64, BTreeSet<String>>,
}

impl Counted {
    /// Counts what a follower says of a service that it follows.
    pub(crate) fn add(
        &self,
        follower: u64,
        figures: &Figures,
        head: &Head,
    ) -> Result<(), Uncounted> {
        let Figures { service, requests, refused, limited, denied, undecided, limits } = figures;
        if limits.len() > LIMITS {
            return Err(Uncounted::Limits(limits.len()));
        }
        let counts = Counts {
            requests: *requests,
            refused: *refused,
            limited: *limited,
            denied: *denied,
            undecided: *undecided,
        };
        let parts = limited.checked_add(*denied).and_then(|sum| sum.checked_add(*undecided));
        let fits = |counts: Counts| counts == counts.bounded() && counts.refused <= counts.requests;
        if !fits(counts) || parts.is_none_or(|parts| parts > *requests) {
            return Err(Uncounted::Numbers);
        }
        let view = head.world.service(service).ok_or(Uncounted::Service)?;
        let is_known = |name: &str| {
            view.rules().iter().any(|rule| rule.name == name)
                || view.plans().iter().flat_map(|plan| &plan.rules).any(|rule| rule.name == name)
                || (name.starts_with(DEFAULTS)
                    && keepgate_limit::Limits::default_rules().iter().any(|rule| rule.name == name))
        };
        let mut of_limits: BTreeMap<&str, Counts> = BTreeMap::new();
        for limit in limits {
            if limit.passed > MOST || limit.refused > MOST {
                return Err(Uncounted::Numbers);
            }
            if is_known(&limit.name) {
                let requests = limit.passed + limit.refused;
                let (refused, limited) = (limit.refused, limit.refused);
                let of = of_limits.entry(&limit.name).or_default();
                *of = of.plus(Counts { requests, refused, limited, ..Counts::default() });
            }
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.note(follower, service)?;
        if !kept.count(Of::service(service), counts) {
            return Err(Uncounted::Full);
        }
        for (name, counts) in of_limits {
            if !kept.count(Of::limit(service, name), counts) {
                kept.span.crowded.insert(service.clone());
            }
        }
        Ok(())
    }

    /// Whether the follower sends figures about the service.
    pub(crate) fn has(&self, follower: u64, service: &str) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.counting.get(&follower).is_some_and(|services| services.contains(service))
    }

    /// Forgets that a follower sends figures; what it said stays.
    pub(crate) fn forget(&self, follower: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counting.remove(&follower);
    }

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Span {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.services = 0;
        std::mem::take(&mut kept.span)
    }
}

impl Kept {
    fn note(&mut self, follower: u64, service: &str) -> Result<(), Uncounted> {
        let all: usize = self.counting.values().map(BTreeSet::len).sum();
        let of = self.counting.entry(follower).or_default();
        if of.contains(service) {
            return Ok(());
        }
        if all >= FOLLOWED {
            return Err(Uncounted::Full);
        }
        of.insert(service.to_owned());
        Ok(())
    }

    /// False: there is no room.
    fn count(&mut self, of: Of, counts: Counts) -> bool {
        let is_service = of.limit.is_empty();
        let (services, all) = (self.services, self.span.by.len());
        match self.span.by.get_mut(&of) {
            Some(sum) => *sum = sum.plus(counts).bounded(),
            None if is_service && services >= SERVICES => return false,
            None if !is_service && all - services >= ALL_LIMITS => return false,
            None => {
                self.services += usize::from(is_service);
                self.span.by.insert(of, counts.bounded());
            }
        }
        true
    }
}
