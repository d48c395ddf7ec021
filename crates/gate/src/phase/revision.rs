//! Read your writes: a request that asks for a revision (`Keepgate-Min-Revision`) waits for it.
//!
//! The wait comes after the limits, and not everybody may wait: so many at once, and for a revision
//! that the center may come to soon. After it the request begins anew, as it was accepted, with the
//! state that has come: a route, a key or a member may be part of what it waited for. It is not
//! charged twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Uri};

use super::stage::{Accepted, Admitted, Ended, Paid, Refused, Routed, Unrouted};
use super::undecided::no_decision;
use super::wanted::Wanted;
use super::worker::{Served, Worker};
use super::{identify, limit_address, limit_principal, route};
use crate::message::problem::Problem;
use crate::observe::phase::Phase;

/// How far beyond the newest revision that the center has told of one may ask. More is no revision
/// that this request's own change can have made.
const AHEAD: u64 = 1_000;

/// A request that came before its revision, and its head as it came.
pub(super) struct Behind {
    accepted: Accepted,
    came: Came,
}

struct Came {
    wanted: Wanted,
    uri: Uri,
    headers: HeaderMap,
}

impl Behind {
    /// The request itself where there is nothing to wait for.
    pub(super) fn of(accepted: Accepted) -> Result<Accepted, Box<Behind>> {
        let wanted = match &accepted.min_revision {
            Some(wanted) if !has(&accepted.entry.served, wanted) => wanted.clone(),
            _ => return Ok(accepted),
        };
        let parts = &accepted.arrived.parts;
        let came = Came { wanted, uri: parts.uri.clone(), headers: parts.headers.clone() };
        Err(Box::new(Behind { accepted, came }))
    }

    /// Waits; then the request is as it was accepted, but for what the limits said.
    pub(super) async fn wait(self: Box<Self>) -> Result<Accepted, Box<Refused>> {
        let Behind { accepted, came: Came { wanted, uri, headers } } = *self;
        let worker = Arc::clone(&accepted.arrived.worker);
        let entry = Arc::clone(&accepted.entry);
        let reached = Reached::by(accepted).await?;
        match wait_for(&wanted, &worker, &entry.served).await {
            Ok(()) => {
                let mut accepted = reached.rewound();
                accepted.arrived.parts.uri = uri;
                accepted.arrived.parts.headers = headers;
                Ok(accepted)
            }
            Err(problem) => Err(Refused::new(Phase::Route, problem, reached.ended())),
        }
    }
}

async fn wait_for(wanted: &Wanted, worker: &Worker, served: &Served) -> Result<(), Problem> {
    is_lost(served, wanted)?;
    let source = &served.tables.source;
    // Of another history nothing is known yet; it may be declared a successor any moment.
    if wanted.is_of(source.history()) && wanted.revision.0 > source.head().0.saturating_add(AHEAD) {
        let detail = "the requested revision is far above the newest one that the center announced";
        return Err(no_decision("ahead", detail));
    }
    let bounds = &worker.common.settings.bounds;
    let waiters = &worker.common.revision_waiters;
    let Some(_waiter) = Waiter::enter(waiters, bounds.revision_waiters) else {
        let detail = "too many requests wait for a revision already";
        return Err(no_decision("waiters", detail));
    };
    if source.wait_for(wanted.revision, bounds.revision_wait).await && has(served, wanted) {
        return Ok(());
    }
    is_lost(served, wanted)?;
    Err(no_decision("behind", "the gate has not reached the requested revision"))
}

/// How far a request comes before it waits: whoever waits is limited first, by whatever is known of
/// it by then.
#[expect(clippy::large_enum_variant, reason = "it lives in the box of a request that waits")]
enum Reached {
    Unrouted(Unrouted),
    /// Nobody is identified yet.
    Routed(Routed),
    Admitted(Admitted),
}

impl Reached {
    async fn by(accepted: Accepted) -> Result<Reached, Box<Refused>> {
        let mut routed = match limit_address::counted(route::run(accepted))? {
            Ok(routed) => routed,
            Err((unrouted, _)) => return Ok(Reached::Unrouted(unrouted)),
        };
        match identify::identity(&mut routed).await {
            Ok(identity) => {
                limit_principal::run(routed.identified(identity)).map(Reached::Admitted)
            }
            Err(_) => Ok(Reached::Routed(routed)),
        }
    }

    /// As it was accepted, and paid for.
    fn rewound(self) -> Accepted {
        let (accepted, by_address, by_principal) = match self {
            Reached::Unrouted(Unrouted { accepted, by_address, .. })
            | Reached::Routed(Routed { accepted, by_address, .. }) => (accepted, by_address, None),
            Reached::Admitted(Admitted { identified, by_principal, .. }) => {
                let charged = identified.identity.charged();
                let Routed { accepted, by_address, .. } = identified.routed;
                (accepted, by_address, Some((charged, by_principal)))
            }
        };
        Accepted { paid: Some(Box::new(Paid { by_address, by_principal })), ..accepted }
    }

    fn ended(self) -> Ended {
        match self {
            Reached::Unrouted(unrouted) => Ended::Unrouted(unrouted),
            Reached::Routed(routed) => Ended::Routed(routed),
            Reached::Admitted(admitted) => Ended::Admitted(admitted),
        }
    }
}

fn has(served: &Served, wanted: &Wanted) -> bool {
    served.table().is_some_and(|table| {
        let (revision, _, history) = table.version;
        revision >= wanted.revision && wanted.is_of(history)
    })
}

/// A revision of a history that was lost never comes: what was written in it is gone.
fn is_lost(served: &Served, wanted: &Wanted) -> Result<(), Problem> {
    let digits = wanted.history.as_deref();
    if digits.is_some_and(|digits| served.tables.source.is_lost_history(digits)) {
        let detail = "the history of the requested revision was lost; write again, and ask for the \
                      revision of that write";
        return Err(no_decision("history-lost", detail));
    }
    Ok(())
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
