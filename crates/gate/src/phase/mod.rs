//! The life of a request: one list of phases, one file each.
//!
//! ```text
//! accept > route > limit by address > identify > limit by principal > decide > forward > record
//! ```
//!
//! A browser's preflight leaves the list after the limit by address: it has no credentials
//! ([`preflight`]).
//!
//! The page for callers ([`page`]) leaves it once a request is accepted: it is the gate's own.
//!
//! Where another proxy passes the request on, the list ends with the decision ([`check`]).
//!
//! A phase takes the request at one stage and gives it back at the next ([`stage`]), or refuses it
//! with all that is known by then. [`live`] is the list; nothing else calls a phase, but for the
//! waits of `revision` and of `introspect`, which let a request through the first ones, and then begin
//! anew.

pub(crate) mod accept;
mod asserted;
pub(crate) mod checked;
pub(crate) mod context;
pub(crate) mod decide;
pub(crate) mod forward;
pub(crate) mod identify;
pub(crate) mod introspect;
pub(crate) mod limit_address;
pub(crate) mod limit_principal;
mod page;
pub(crate) mod preflight;
pub(crate) mod record;
pub(crate) mod refusal;
pub(crate) mod revision;
pub(crate) mod route;
mod spans;
pub(crate) mod stage;
pub(crate) mod undecided;
pub(crate) mod upstream_headers;
pub(crate) mod wanted;
pub(crate) mod worker;
pub(crate) mod written;

use hyper::body::Incoming;

use self::checked::{Checked, Decided};
use self::introspect::Asking;
use self::preflight::Turn;
use self::record::{Answered, Outcome};
use self::revision::Behind;
use self::stage::{Accepted, Arrived, Refused};
use crate::observe::phase::Phase;

/// The list up to the decision, from where a request is accepted.
async fn decided(mut accepted: Accepted) -> Result<Decided, Box<Refused>> {
    accepted.arrived.trace.passed(Phase::Accept);
    let accepted = match Behind::of(accepted) {
        Ok(accepted) => accepted,
        // Boxed: it is the rare case.
        Err(behind) => Box::pin(behind.wait()).await?,
    };
    let accepted = match Asking::of(accepted) {
        Ok(accepted) => accepted,
        // Boxed: a token is asked about once in a while.
        Err(asking) => Box::pin(asking.wait()).await?,
    };
    let mut way = route::run(accepted);
    way.accepted.arrived.trace.passed(Phase::Route);
    let mut routed = limit_address::run(way)?;
    routed.accepted.arrived.trace.passed(Phase::LimitAddress);
    let allowed = match preflight::run(routed) {
        Turn::Ordinary(routed) => {
            let mut identified = identify::run(routed).await?;
            identified.routed.accepted.arrived.trace.passed(Phase::Identify);
            let mut admitted = limit_principal::run(identified)?;
            admitted.arrived_mut().trace.passed(Phase::LimitPrincipal);
            let mut allowed = decide::run(admitted)?;
            allowed.admitted.arrived_mut().trace.passed(Phase::Decide);
            allowed
        }
        Turn::Answered(preflight) => return Ok(Decided::Answered(preflight)),
        Turn::Undecided(allowed) => *allowed,
    };
    Ok(Decided::Allowed(allowed))
}

/// The list.
async fn phases(arrived: Box<Arrived>, body: Option<Incoming>) -> Result<Outcome, Box<Refused>> {
    let accepted = accept::run(arrived)?;
    if let Some(place) = page::asked_for(&accepted) {
        // Boxed: it is the rare case.
        return Box::pin(page::run(accepted, place, body)).await.map(Outcome::Page);
    }
    match decided(accepted).await? {
        Decided::Allowed(allowed) => forward::run(allowed, body).await.map(Outcome::Forwarded),
        Decided::Answered(preflight) => Ok(Outcome::Preflight(preflight)),
    }
}

/// A request's whole life, from its head to its answer's head. No body is an empty one.
pub(crate) async fn live(arrived: Box<Arrived>, body: Option<Incoming>) -> Answered {
    record::run(phases(arrived, body).await)
}

/// The life of a request that another proxy describes: up to the decision.
pub(crate) async fn check(arrived: Box<Arrived>) -> Checked {
    checked::run(match accept::run(arrived) {
        Ok(accepted) => decided(accepted).await,
        Err(refused) => Err(refused),
    })
}
