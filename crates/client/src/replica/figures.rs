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
