//! Limits by principal, plan, route and method, once the caller is known.
//!
//! Anonymous callers are no principal: they are counted by their addresses, not all as one.

use http::HeaderValue;
use keepgate_limit::{Caller, LimitVerdict};

use super::refusal::refusal;
use super::stage::{Admitted, Ended, Identified, Refused, Routed};
use crate::observe::phase::Phase;

pub(crate) fn run(mut identified: Identified) -> Result<Admitted, Box<Refused>> {
    // Whoever has waited for a revision is charged again only if it is somebody else by now.
    let paid = identified.routed.accepted.paid.take().and_then(|paid| paid.by_principal);
    let by_principal = match paid {
        Some((charged, said)) if charged == identified.identity.charged() => said,
        // What was paid before keeps its places until the limits have spoken again.
        _before => count(&identified),
    };
    if by_principal.is_admitted() {
        return Ok(Admitted { identified, by_principal, evidence: None });
    }
    let Routed { accepted, found, by_address } = &mut identified.routed;
    if let Some(by_address) = by_address {
        // Its places among the requests under way are free again at once.
        drop(by_address.take_permits());
    }
    let said: Vec<&LimitVerdict> = by_address.iter().chain([&by_principal]).collect();
    let problem =
        refusal(&found.service, &said, identified.identity.key.is_some(), accepted.page());
    let ended = Ended::Limited(identified, by_principal);
    Err(Refused::new(Phase::LimitPrincipal, problem, ended))
}

fn count(identified: &Identified) -> LimitVerdict {
    let Identified { routed: Routed { accepted, found, .. }, identity } = identified;
    let (parts, worker) = (&accepted.arrived.parts, &accepted.arrived.worker);
    let key = identity.key.as_ref();
    let caller = Caller {
        address: accepted.address(),
        principal: identity.known(),
        api_key: key.map(|key| key.prefix.as_str()),
        plan: key.map(|key| key.plan.as_str()).filter(|plan| !plan.is_empty()),
        header: &|name| parts.headers.get(name).map(HeaderValue::as_bytes),
    };
    let now = accepted.entry.served.tables.limiting.now();
    let limiter = &found.service.limits.limiter;
    let said = limiter.check_principal(&caller, parts.method.as_str(), found.template(), now);
    worker.metrics.limited(Phase::LimitPrincipal, &said);
    said
}
