//! What becomes of a request that another proxy asked about: counted and told as the gate's own.
//!
//! The request is under way here until the answer is written, and no longer: limits on requests at
//! once cannot hold for what the proxy forwards afterwards.

use std::time::Duration;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use keepgate_record::Outcome;

use super::preflight::Preflight;
use super::stage::{
    Accepted, Admitted, Allowed, Arrived, Carrier, Ended, Identified, Refused, Routed,
};
use super::{asserted, record, written};
use crate::identify::assertion;
use crate::message::answer;
use crate::message::headers::{self, KEEPGATE_PRINCIPAL, Sender, X_REQUEST_ID};
use crate::message::problem::Kind;
use crate::observe::metrics::CheckOutcome;
use crate::observe::phase::Phase;

pub(crate) const KEEPGATE_REVISION: HeaderName = HeaderName::from_static("keepgate-revision");
pub(crate) const KEEPGATE_AGE: HeaderName = HeaderName::from_static("keepgate-age");

/// How far a request comes before somebody passes it on.
#[expect(clippy::large_enum_variant, reason = "the common case is taken apart at once")]
pub(super) enum Decided {
    Allowed(Allowed),
    Answered(Box<Preflight>),
}

/// The answer about a request.
pub(crate) struct Checked {
    pub(crate) verdict: Verdict,
    /// As it is over HTTP: the status, the headers, and the body of a refusal.
    pub(crate) response: Response<Bytes>,
}

/// How it was decided.
pub(crate) enum Verdict {
    /// The proxy may pass the request on.
    Allowed(Grant),
    /// The caller gets the response; it is nobody's fault.
    Answered,
    /// The caller gets the response; `message` says the same in one line.
    Refused { kind: Kind, message: String },
}

/// What is said of a request that is allowed.
pub(crate) struct Grant {
    /// The principal in Cedar syntax; none: it is nobody, or cannot be written in a header.
    pub(crate) principal: Option<HeaderValue>,
    /// The revision that was decided on.
    pub(crate) revision: u64,
    /// The route's template; none: unmatched.
    pub(crate) route: Option<String>,
    /// The whole path to forward in place of the one that came.
    pub(crate) path: Option<Box<str>>,
    /// The headers of the request that the upstream may see.
    pub(crate) headers: HeaderMap,
    /// Headers that say more of the caller (claims, an assertion), in place of any that came.
    pub(crate) says: Vec<(HeaderName, HeaderValue)>,
}

pub(super) fn run(decided: Result<Decided, Box<Refused>>) -> Checked {
    match decided {
        Ok(Decided::Allowed(allowed)) => match asserted::by(&allowed.admitted) {
            Ok(assertion) => granted(allowed.admitted, assertion),
            Err(problem) => {
                let ended = Ended::Admitted(allowed.admitted);
                refused(*Refused::new(Phase::Forward, problem, ended))
            }
        },
        Ok(Decided::Answered(preflight)) => {
            let Preflight { ended, response } = *preflight;
            let facts = ended.facts();
            facts.arrived.worker.metrics.preflights.add(1);
            count(facts.arrived, CheckOutcome::Preflight);
            let mut response = response.map(|_| Bytes::new());
            record::tell(&facts, &mut response, Phase::LimitAddress, "preflight", None);
            drop(written::begin(
                &facts,
                (Outcome::Allowed, "preflight"),
                response.status().as_u16(),
            ));
            Checked { verdict: Verdict::Answered, response }
        }
        Err(wrong) => refused(*wrong),
    }
}

fn refused(refused: Refused) -> Checked {
    let Refused { phase, mut problem, ended } = refused;
    let facts = ended.facts();
    let kind = problem.kind;
    // What is wrong with the request is no reason to leave the proxy.
    problem.close = false;
    record::count_refusal(&facts, phase, &mut problem);
    count(facts.arrived, CheckOutcome::Refused(kind));
    let said = (kind.outcome(), problem.reason.unwrap_or(kind.suffix()));
    let message = answer::line(&problem);
    let mut response = answer::written(problem, &facts.arrived.request_id);
    record::stamp(&facts, response.headers_mut());
    record::tell(&facts, &mut response, phase, kind.suffix(), Some(kind));
    if let Some(mut recording) = written::begin(&facts, said, response.status().as_u16()) {
        recording.gave(response.body().len());
    }
    Checked { verdict: Verdict::Refused { kind, message }, response }
}

fn granted(mut admitted: Admitted, assertion: Option<HeaderValue>) -> Checked {
    let headers = left(&mut admitted.identified);
    let found = admitted.found();
    let said = admitted.identified.identity.said.iter();
    let claims = said.flat_map(|said| said.headers.iter().cloned());
    let assertion = assertion.map(|assertion| (assertion::HEADER, assertion));
    let grant = Grant {
        principal: admitted.identified.identity.header.clone(),
        says: claims.chain(assertion).collect(),
        revision: found.table.version.0.0,
        route: found.template().map(str::to_owned),
        path: found.replaced.clone(),
        headers,
    };
    let age = found.table.age().unwrap_or_default();
    let ended = Ended::Admitted(admitted);
    let facts = ended.facts();
    let mut response = Response::new(Bytes::new());
    let told = response.headers_mut();
    told.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    told.insert(X_REQUEST_ID, facts.arrived.request_id.clone());
    if let Some(principal) = &grant.principal {
        told.insert(KEEPGATE_PRINCIPAL, principal.clone());
    }
    for (name, value) in &grant.says {
        told.insert(name, value.clone());
    }
    told.insert(KEEPGATE_REVISION, HeaderValue::from(grant.revision));
    if let Some(age) = written_age(age) {
        told.insert(KEEPGATE_AGE, age);
    }
    record::stamp(&facts, told);
    facts.arrived.worker.metrics.allowed.add(1);
    if let Some(served) = facts.served {
        served.metrics.allowed.add(1);
    }
    count(facts.arrived, CheckOutcome::Allowed);
    record::tell(&facts, &mut response, Phase::Decide, "allowed", None);
    drop(written::begin(&facts, (Outcome::Allowed, ""), response.status().as_u16()));
    Checked { verdict: Verdict::Allowed(grant), response }
}

/// In seconds, with milliseconds: how long ago the permissions were known to be current, at most.
fn written_age(age: Duration) -> Option<HeaderValue> {
    // Rounded up: it is a bound.
    let ms = age.as_nanos().div_ceil(1_000_000);
    HeaderValue::try_from(format!("{}.{:03}", ms / 1_000, ms % 1_000)).ok()
}

/// The headers that remain where the gate cleans them for an upstream.
fn left(identified: &mut Identified) -> HeaderMap {
    let Identified { routed: Routed { accepted, found, .. }, .. } = identified;
    let Accepted { arrived, trusted, asked, .. } = accepted;
    let mut left = arrived.parts.headers.clone();
    let settings = &arrived.worker.common.settings;
    let sender = Sender { trusted: *trusted, forwarding: &settings.forwarding_header };
    let trailers = headers::takes_trailers(&left);
    headers::clean_request(&mut left, *asked, sender, &found.service.regard, trailers);
    left
}

fn count(arrived: &Arrived, outcome: CheckOutcome) {
    if let Carrier::Proxy(hook) = arrived.carrier {
        arrived.worker.metrics.checked(hook, outcome);
    }
}
