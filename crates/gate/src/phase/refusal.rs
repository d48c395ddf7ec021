//! What a caller is told about its limits.

use http::{HeaderName, HeaderValue};
use keepgate_limit::LimitVerdict;
use keepgate_limit::headers::{self, QuotaExceeded};

use crate::message::problem::{Kind, Problem};
use crate::service::table::Service;

/// The fields that every answer has. `page`: of the site, for callers.
pub(crate) fn fields(
    service: &Service,
    said: &[&LimitVerdict],
    page: Option<&str>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    headers::fields(&service.limits.limiter, said, page).into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?))
    })
}

/// 429, with what the caller needs to do better. `said`: in the order of the phases. `page`: of the
/// site, for callers.
pub(crate) fn refusal(
    service: &Service,
    said: &[&LimitVerdict],
    has_key: bool,
    page: Option<&str>,
) -> Problem {
    let told = QuotaExceeded::new(&service.limits.limiter, said, has_key, page);
    let Some(told) = told else { return Problem::new(Kind::LimitReached, "") };
    let problem = Problem::new(Kind::LimitReached, told.detail)
        .member("violated-policies", told.violated_policies);
    match told.help {
        Some(help) => problem.member("help", help),
        None => problem,
    }
}
