//! Limits by address, before any cryptography is done for a caller.
//!
//! Requests without a route are counted too.

use http::{HeaderName, HeaderValue};
use keepgate_limit::headers::{self, QuotaExceeded};
use keepgate_limit::{AddressKey, LimitVerdict};

use super::{Exchange, PhaseVerdict, Routed};
use crate::problem::{Kind, Problem};
use crate::table::Service;

/// What the limits said to a request.
#[derive(Default)]
pub(crate) struct Limited {
    pub(crate) by_address: Option<LimitVerdict>,
    pub(crate) by_principal: Option<LimitVerdict>,
}

impl Limited {
    /// What was said, in the order of the phases.
    fn said(&self) -> Vec<&LimitVerdict> {
        self.by_address.iter().chain(&self.by_principal).collect()
    }

    /// The fields that tell a caller about its limits.
    pub(crate) fn fields(&self, service: &Service) -> Vec<(HeaderName, HeaderValue)> {
        let fields = headers::fields(&service.limits.limiter, &self.said());
        let pair = |(name, value): (&'static str, String)| {
            Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?))
        };
        fields.into_iter().filter_map(pair).collect()
    }
}

/// What it reads: `x.client`, the method, and the matched route, if any.
pub(crate) fn run(x: &mut Exchange) -> PhaseVerdict {
    let Some(service) = &x.service else { return PhaseVerdict::Continue };
    let address = address(x);
    let route = x.routed.as_ref().and_then(Routed::template);
    let now = x.worker.common.limiting.now();
    let limiter = &service.limits.limiter;
    let said = limiter.check_address(&address, x.parts.method.as_str(), route, now);
    x.worker.metrics.limited(x.phase, &said);
    let admitted = said.is_admitted();
    x.limited.by_address = Some(said);
    // Nobody is known yet: whoever is refused may lack a key.
    if admitted { PhaseVerdict::Continue } else { refusal(x, false).into() }
}

/// The caller's address, as limits and heavy hitters count it.
pub(crate) fn address(x: &Exchange) -> AddressKey {
    x.client.map_or(AddressKey::Local, AddressKey::from)
}

/// 429, with what the caller needs to do better.
pub(crate) fn refusal(x: &Exchange, has_key: bool) -> Problem {
    let service = x.service.as_ref();
    let told = service.and_then(|service| {
        QuotaExceeded::new(&service.limits.limiter, &x.limited.said(), has_key)
    });
    let Some(told) = told else { return Problem::new(Kind::LimitReached, "") };
    let mut members = serde_json::json!(told.violated_policies).to_string();
    members.insert_str(0, ",\"violated-policies\":");
    if let Some(help) = &told.help {
        members.push_str(",\"help\":");
        crate::problem::push_json_string(&mut members, help);
    }
    Problem { members: members.into(), ..Problem::new(Kind::LimitReached, told.detail) }
}
