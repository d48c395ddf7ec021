//! What a gate did with requests, in counts that are told once: each is taken out before it is sent, so
//! that no two centers count it. What was under way when a connection broke is lost.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use keepgate_policy::proto::{Figures, LimitFigures};
use tokio::sync::watch;

use super::MAX_SERVICES;
use super::age::Moment;

/// What is older than this is not told any more: the center would take it for what happens now.
const KEPT_NS: i64 = 15_000_000_000;

/// Limits of one service that are told at once.
pub(super) const LIMITS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Untold {
    by_service: Mutex<BTreeMap<String, (Moment, Figures)>>,
    added: watch::Sender<u64>,
}

impl Default for Untold {
    fn default() -> Untold {
        Untold { by_service: Mutex::default(), added: watch::Sender::new(0) }
    }
}

impl Untold {
    pub(super) fn add(&self, figures: Figures, now: Moment) -> bool {
        let mut untold = self.by_service.lock().unwrap_or_else(PoisonError::into_inner);
        untold.retain(|_, (since, _)| now.0.saturating_sub(since.0) <= KEPT_NS);
        let is_full = untold.len() >= MAX_SERVICES;
        match untold.get_mut(&figures.service) {
            Some((_, sum)) => plus(sum, figures),
            None if is_full => return false,
            None => {
                untold.insert(figures.service.clone(), (now, figures));
            }
        }
        drop(untold);
        self.added.send_modify(|number| *number = number.wrapping_add(1));
        true
    }

    /// Hears of what is there, and of what comes.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        let mut added = self.added.subscribe();
        added.mark_changed();
        added
    }

    /// Takes out what is to be told next, and whether there is more.
    pub(super) fn take(&self, now: Moment) -> Option<(Figures, bool)> {
        let mut untold = self.by_service.lock().unwrap_or_else(PoisonError::into_inner);
        untold.retain(|_, (since, _)| now.0.saturating_sub(since.0) <= KEPT_NS);
        let (_, (_, mut figures)) = untold.pop_first()?;
        figures.limits.truncate(LIMITS);
        Some((figures, !untold.is_empty()))
    }
}

fn plus(sum: &mut Figures, more: Figures) {
    sum.requests = sum.requests.saturating_add(more.requests);
    sum.refused = sum.refused.saturating_add(more.refused);
    sum.limited = sum.limited.saturating_add(more.limited);
    sum.denied = sum.denied.saturating_add(more.denied);
    sum.undecided = sum.undecided.saturating_add(more.undecided);
    for LimitFigures { name, passed, refused } in more.limits {
        let is_full = sum.limits.len() >= LIMITS;
        match sum.limits.iter_mut().find(|limit| limit.name == name) {
            Some(limit) => {
                limit.passed = limit.passed.saturating_add(passed);
                limit.refused = limit.refused.saturating_add(refused);
            }
            None if is_full => {}
            None => sum.limits.push(LimitFigures { name, passed, refused }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(service: &str, requests: u64, limits: &[&str]) -> Figures {
        let limits = limits.iter().map(|name| LimitFigures {
            name: (*name).to_owned(),
            passed: requests,
            refused: 1,
        });
        let service = service.to_owned();
        Figures { service, requests, limits: limits.collect(), ..Figures::default() }
    }

    fn at(seconds: i64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    #[test]
    fn what_waits_is_told_together_and_once() {
        let untold = Untold::default();
        assert!(untold.add(figures("a", 3, &["x"]), at(0)));
        assert!(untold.add(figures("a", 4, &["x", "y"]), at(5)));
        assert!(untold.add(figures("b", 1, &[]), at(5)));
        let (told, has_more) = untold.take(at(6)).unwrap();
        assert_eq!((told.service.as_str(), told.requests, has_more), ("a", 7, true));
        let limits: Vec<_> =
            told.limits.iter().map(|one| (one.name.as_str(), one.passed, one.refused)).collect();
        assert_eq!(limits, [("x", 7, 2), ("y", 4, 1)]);
        assert_eq!(untold.take(at(6)).map(|(told, more)| (told.requests, more)), Some((1, false)));
        assert!(untold.take(at(6)).is_none());
    }

    /// While no center is there, what is old is not told as if it were now.
    #[test]
    fn what_waits_is_bounded() {
        let untold = Untold::default();
        assert!(untold.add(figures("a", 3, &[]), at(0)));
        assert!(untold.add(figures("a", 4, &[]), at(16)));
        assert_eq!(untold.take(at(16)).unwrap().0.requests, 4);
        assert!(untold.add(figures("a", 5, &[]), at(20)));
        assert!(untold.take(at(36)).is_none());
        let names: Vec<String> = (0..=LIMITS).map(|n| format!("l{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(untold.add(figures("a", 1, &names), at(40)));
        assert!(untold.add(figures("a", 1, &["more"]), at(40)));
        assert_eq!(untold.take(at(40)).unwrap().0.limits.len(), LIMITS);
        for n in 0..MAX_SERVICES {
            assert!(untold.add(figures(&format!("s{n}"), 1, &[]), at(50)));
        }
        assert!(!untold.add(figures("more", 1, &[]), at(50)));
        assert!(untold.add(figures("s0", 1, &[]), at(50)));
    }
}
