//! Read your writes: a request that asks for a revision (`Keepgate-Min-Revision`) waits for it.
//!
//! The wait comes after the limits, and not everybody may wait: so many at once, and for a revision
//! that the center may come to soon. After it the request begins anew with the state that has come:
//! a route, a key or a member may be part of what it waited for. It is not charged twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Uri};
use keepgate_policy::{HistoryId, Revision, Uid};

use super::decide::no_decision;
use super::{Exchange, PhaseVerdict};
use crate::problem::Problem;
use crate::worker::Worker;

/// How far beyond the newest revision that the center has told of one may ask. More is no revision
/// that this request's own change can have made.
const AHEAD: u64 = 1_000;

/// A revision that is asked for, perhaps of a history that is named by its first digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    revision: Revision,
    /// 8 to 32 hexadecimal digits, in lower case.
    history: Option<String>,
}

impl Wanted {
    /// `REVISION` or `REVISION@HISTORY`.
    pub(super) fn parse(text: &str) -> Option<Wanted> {
        let (revision, history) = match text.split_once('@') {
            Some((revision, history)) => (revision, Some(history)),
            None => (text, None),
        };
        let fits = |digits: &str| {
            (8..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if !history.is_none_or(fits) || !revision.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let revision = Revision(revision.parse().ok()?);
        Some(Wanted { revision, history: history.map(str::to_ascii_lowercase) })
    }

    /// Whether this history is meant. Without a name any is.
    fn is_of(&self, history: Option<HistoryId>) -> bool {
        self.history.as_ref().is_none_or(|digits| {
            history.is_some_and(|history| history.to_string().starts_with(digits))
        })
    }
}

/// A request that came before its revision, as it came.
pub(super) struct Behind {
    wanted: Wanted,
    uri: Uri,
    headers: HeaderMap,
}

impl Behind {
    /// None: there is nothing to wait for.
    pub(super) fn of(x: &Exchange) -> Option<Behind> {
        let wanted = x.min_revision.clone().filter(|wanted| !has(&x.worker, wanted))?;
        Some(Behind { wanted, uri: x.parts.uri.clone(), headers: x.parts.headers.clone() })
    }

    /// Waits; then the request is as it came, but for what the limits said.
    pub(super) async fn wait(self, x: &mut Exchange) -> PhaseVerdict {
        match self.reached(&x.worker).await {
            Ok(()) => {
                x.parts.uri = self.uri;
                x.parts.headers = self.headers;
                x.forget();
                PhaseVerdict::Continue
            }
            Err(problem) => problem.into(),
        }
    }

    async fn reached(&self, worker: &Worker) -> Result<(), Problem> {
        let wanted = &self.wanted;
        is_lost(worker, wanted)?;
        // Of another history nothing is known yet; it may be declared a successor any moment.
        if wanted.is_of(worker.source.history())
            && wanted.revision.0 > worker.source.head().0.saturating_add(AHEAD)
        {
            let detail =
                "the requested revision is far above the newest one that the center announced";
            return Err(no_decision("ahead", detail));
        }
        let bounds = &worker.settings.bounds;
        let waiters = &worker.common.revision_waiters;
        let Some(_waiter) = Waiter::enter(waiters, bounds.revision_waiters) else {
            let detail = "too many requests wait for a revision already";
            return Err(no_decision("waiters", detail));
        };
        if worker.source.wait_for(wanted.revision, bounds.revision_wait).await
            && has(worker, wanted)
        {
            return Ok(());
        }
        is_lost(worker, wanted)?;
        Err(no_decision("behind", "the gate has not reached the requested revision"))
    }
}

fn has(worker: &Worker, wanted: &Wanted) -> bool {
    worker.table().is_some_and(|table| {
        let (revision, _, history) = table.version;
        revision >= wanted.revision && wanted.is_of(history)
    })
}

/// A revision of a history that was lost never comes: what was written in it is gone.
fn is_lost(worker: &Worker, wanted: &Wanted) -> Result<(), Problem> {
    let digits = wanted.history.as_deref();
    if digits.is_some_and(|digits| worker.source.is_lost_history(digits)) {
        let detail = "the history of the requested revision was lost; write again, and ask for the \
                      revision of that write";
        return Err(no_decision("history-lost", detail));
    }
    Ok(())
}

/// Whom the limits by principal have counted.
#[derive(PartialEq, Eq)]
pub(super) struct Charged {
    principal: Option<Arc<Uid>>,
    api_key: Option<String>,
    plan: String,
}

impl Charged {
    pub(super) fn of(x: &Exchange) -> Option<Charged> {
        let (principal, api_key) = (x.principal.clone(), x.api_key.clone());
        Some(Charged { principal, api_key, plan: x.plan.clone() })
    }
}

/// One of those who wait; leaves by `Drop`.
struct Waiter<'a>(&'a AtomicUsize);

impl Waiter<'_> {
    fn enter(waiters: &AtomicUsize, most: usize) -> Option<Waiter<'_>> {
        let waiter = Waiter(waiters);
        (waiters.fetch_add(1, Ordering::AcqRel) < most).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_revisions() {
        let wanted = |text: &str| Wanted::parse(text);
        assert_eq!(wanted("5"), Some(Wanted { revision: Revision(5), history: None }));
        let named = wanted("5@ABCDef01").unwrap();
        assert_eq!(named.history.as_deref(), Some("abcdef01"));
        let id = |hex: &str| HistoryId::from_hex(hex);
        assert!(named.is_of(id("abcdef01000000000000000000000000")));
        assert!(!named.is_of(id("abcdef02000000000000000000000000")));
        assert!(!named.is_of(None), "a source without histories has not this one");
        assert!(wanted("5").unwrap().is_of(None));
        for bad in [
            "",
            "@abcdef01",
            "5@",
            "5@abc",
            "5@abcdefgh",
            "+5",
            "-5",
            "5@abcdef01@",
            "x",
            "5@abcdef0100000000000000000000000011",
            "18446744073709551616",
        ] {
            assert_eq!(wanted(bad), None, "{bad:?}");
        }
    }
}
