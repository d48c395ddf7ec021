//! Read your writes: a request that asks for a revision (`Keepgate-Min-Revision`) waits for it.
//!
//! The wait comes after the limits, and not everybody may wait: so many at once, and for a revision
//! that the center may come to soon. After it the request begins anew with the state that has come:
//! a route, a key or a member may be part of what it waited for. It is not charged twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Uri};
use keepgate_policy::{Revision, Uid};

use super::decide::no_decision;
use super::{Exchange, Verdict};
use crate::problem::Problem;
use crate::worker::Worker;

/// How far beyond the newest revision that the center has told of one may ask. More is no revision
/// that this request's own change can have made.
const AHEAD: u64 = 1_000;

/// A request that came before its revision, as it came.
pub(super) struct Behind {
    wanted: Revision,
    uri: Uri,
    headers: HeaderMap,
}

impl Behind {
    /// None: there is nothing to wait for.
    pub(super) fn of(x: &Exchange) -> Option<Behind> {
        let wanted = x.min_revision.filter(|wanted| !has(&x.worker, *wanted))?;
        Some(Behind { wanted, uri: x.parts.uri.clone(), headers: x.parts.headers.clone() })
    }

    /// Waits; then the request is as it came, but for what the limits said.
    pub(super) async fn wait(self, x: &mut Exchange) -> Verdict {
        match self.reached(&x.worker).await {
            Ok(()) => {
                x.parts.uri = self.uri;
                x.parts.headers = self.headers;
                x.forget();
                Verdict::Continue
            }
            Err(problem) => problem.into(),
        }
    }

    async fn reached(&self, worker: &Worker) -> Result<(), Problem> {
        if self.wanted.0 > worker.source.head().0.saturating_add(AHEAD) {
            let detail = "the revision asked for is far beyond any that the center has told of";
            return Err(no_decision("ahead", detail));
        }
        let bounds = &worker.settings.bounds;
        let waiters = &worker.common.revision_waiters;
        let Some(_waiter) = Waiter::enter(waiters, bounds.revision_waiters) else {
            let detail = "as many requests as may wait for a revision already do";
            return Err(no_decision("waiters", detail));
        };
        if worker.source.wait_for(self.wanted, bounds.revision_wait).await
            && has(worker, self.wanted)
        {
            return Ok(());
        }
        Err(no_decision("behind", "the gate has not reached the revision asked for"))
    }
}

fn has(worker: &Worker, wanted: Revision) -> bool {
    worker.table().is_some_and(|table| table.world.revision() >= wanted)
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
