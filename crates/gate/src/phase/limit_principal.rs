//! Limits by principal, plan, route and method, once the caller is known.
//!
//! Anonymous callers are no principal: they are counted by their addresses, not all as one.

use http::HeaderValue;
use keepgate_limit::Caller;

use super::limit_address::{address, refusal};
use super::{Exchange, PhaseVerdict, Routed};

/// What it reads: `x.principal`, `x.api_key`, `x.plan`, headers, the method and the route.
pub(crate) fn run(x: &mut Exchange) -> PhaseVerdict {
    let Some(service) = &x.service else { return PhaseVerdict::Continue };
    let fields = &x.parts.headers;
    let caller = Caller {
        address: address(x),
        principal: x.known_principal(),
        api_key: x.api_key.as_deref(),
        plan: Some(x.plan.as_str()).filter(|plan| !plan.is_empty()),
        header: &|name| fields.get(name).map(HeaderValue::as_bytes),
    };
    let route = x.routed.as_ref().and_then(Routed::template);
    let now = x.worker.common.limiting.now();
    let limiter = &service.limits.limiter;
    let said = limiter.check_principal(&caller, x.parts.method.as_str(), route, now);
    x.worker.metrics.limited(x.phase, &said);
    let admitted = said.is_admitted();
    if !admitted && let Some(by_address) = &mut x.limited.by_address {
        // Its places among the requests under way are free again at once.
        drop(by_address.take_permits());
    }
    x.limited.by_principal = Some(said);
    if admitted { PhaseVerdict::Continue } else { refusal(x, x.api_key.is_some()).into() }
}
