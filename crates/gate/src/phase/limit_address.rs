//! Limits by address, before any cryptography is done for a caller.
//!
//! Requests without a route are counted too: who asks for routes that are not there is limited all
//! the same.

use keepgate_limit::LimitVerdict;

use super::refusal::refusal;
use super::stage::{Accepted, Ended, Found, Missed, Refused, Routed, Unrouted, Way};
use crate::message::problem::Problem;
use crate::observe::phase::Phase;
use crate::service::table::Service;

/// Counts it, wherever routing has led it. Refuses what is over a limit, then what has no route.
pub(crate) fn run(way: Way) -> Result<Routed, Box<Refused>> {
    match counted(way)? {
        Ok(routed) => Ok(routed),
        Err((unrouted, problem)) => {
            Err(Refused::new(Phase::Route, problem, Ended::Unrouted(unrouted)))
        }
    }
}

/// Counts it and refuses what is over a limit; what has no route is not refused yet.
#[inline]
pub(super) fn counted(way: Way) -> Result<Result<Routed, (Unrouted, Problem)>, Box<Refused>> {
    let Way { mut accepted, found } = way;
    let service = match &found {
        Ok(found) => Some(&found.service),
        Err(missed) => missed.service.as_ref(),
    };
    let route = found.as_ref().ok().and_then(Found::template);
    let by_address = match &mut accepted.paid {
        None => service.map(|service| count(&accepted, service, route)),
        Some(paid) => paid.by_address.take(),
    };
    let over = match (&by_address, service) {
        // Nobody is known yet: whoever is refused may lack a key.
        (Some(said), Some(service)) if !said.is_admitted() => {
            Some(refusal(service, &[said], false, accepted.page()))
        }
        _ => None,
    };
    let refused = |problem, ended| Err(Refused::new(Phase::LimitAddress, problem, ended));
    match (found, over) {
        (Ok(found), None) => Ok(Ok(Routed { accepted, found, by_address })),
        (Ok(found), Some(over)) => {
            refused(over, Ended::Routed(Routed { accepted, found, by_address }))
        }
        (Err(Missed { service, problem }), over) => {
            let unrouted = Unrouted { accepted, service, by_address };
            match over {
                None => Ok(Err((unrouted, problem))),
                Some(over) => refused(over, Ended::Unrouted(unrouted)),
            }
        }
    }
}

fn count(accepted: &Accepted, service: &Service, route: Option<&str>) -> LimitVerdict {
    let Accepted { arrived, entry, .. } = accepted;
    let now = entry.served.tables.limiting.now();
    let method = arrived.parts.method.as_str();
    let said = service.limits.limiter.check_address(&accepted.address(), method, route, now);
    arrived.worker.metrics.limited(Phase::LimitAddress, &said);
    said
}
