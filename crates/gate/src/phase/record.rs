//! What happened, for those who were not there: metrics, heavy hitters and the decision log; and
//! for the caller, what is left of its limits.

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use keepgate_limit::rules::Dialect;
use keepgate_limit::top::{Observation, Outcome as Told};
use keepgate_record::Outcome as Ended;

use super::forward::{Forwarded, Upgrade};
use super::page::Paged;
use super::preflight::Preflight;
use super::stage::{Arrived, Carrier, Cross, Facts, Found, Refused};
use super::{refusal, spans, written};
use crate::message::answer;
use crate::message::body::GateBody;
use crate::message::problem::{Kind, Problem};
use crate::observe::phase::Phase;
use crate::service::cors::CorsRules;

/// The answer to a caller, and what is to be carried after it where both sides switch protocols.
pub(crate) type Answered = (Response<GateBody>, Option<Box<Upgrade>>);

/// How a request went that was not refused.
#[expect(clippy::large_enum_variant, reason = "the common case is taken apart at once")]
pub(crate) enum Outcome {
    Forwarded(Forwarded),
    /// The gate answered a browser's question.
    Preflight(Box<Preflight>),
    /// The gate answered with its page for callers.
    Page(Box<Paged>),
}

/// Counts the outcome, logs it at debug, and makes the answer.
pub(crate) fn run(outcome: Result<Outcome, Box<Refused>>) -> Answered {
    match outcome {
        Ok(Outcome::Preflight(preflight)) => {
            let Preflight { mut ended, mut response } = *preflight;
            let facts = ended.facts();
            facts.arrived.worker.metrics.preflights.add(1);
            tell(&facts, &mut response, Phase::LimitAddress, "preflight", None);
            let said = (Ended::Allowed, "preflight");
            let recording = written::begin(&facts, said, response.status().as_u16());
            let permits = ended.take_permits();
            (response.map(|body| body.keeping(permits).recording(recording)), None)
        }
        Ok(Outcome::Page(paged)) => {
            let Paged { ended, mut response } = *paged;
            let facts = ended.facts();
            facts.arrived.worker.metrics.pages.add(1);
            tell(&facts, &mut response, Phase::Route, "help_page", None);
            let said = (Ended::Allowed, "help_page");
            let recording = written::begin(&facts, said, response.status().as_u16());
            (response.map(|body| body.recording(recording)), None)
        }
        Ok(Outcome::Forwarded(Forwarded { mut sent, mut response, upgrade })) => {
            let facts = sent.facts();
            let found = facts.found;
            if let Some((rules, found)) = rules(&facts).zip(found).filter(|_| upgrade.is_none()) {
                let Cross { preflight, origin } = &found.cross;
                rules.stamp_forwarded(*preflight, origin.as_ref(), response.headers_mut());
            }
            facts.arrived.worker.metrics.forwarded(response.status());
            if let Some(served) = facts.served {
                served.metrics.forwarded(response.status());
            }
            tell(&facts, &mut response, Phase::Forward, "forwarded", None);
            let said = (Ended::Allowed, "");
            let recording = written::begin(&facts, said, response.status().as_u16());
            let permits = sent.take_permits();
            (response.map(|body| body.keeping(permits).recording(recording)), upgrade)
        }
        Err(refused) => {
            let Refused { phase, mut problem, mut ended } = *refused;
            let facts = ended.facts();
            let Arrived { request_id, grpc, .. } = facts.arrived;
            let kind = problem.kind;
            count_refusal(&facts, phase, &mut problem);
            let said = (kind.outcome(), problem.reason.unwrap_or(kind.suffix()));
            let mut response = if *grpc {
                answer::grpc(problem, request_id)
            } else {
                answer::response(problem, request_id)
            };
            stamp(&facts, response.headers_mut());
            tell(&facts, &mut response, phase, kind.suffix(), Some(kind));
            // Over gRPC the HTTP status says nothing.
            let recording = written::begin(&facts, said, kind.status().as_u16());
            let permits = ended.take_permits();
            (response.map(|body| body.keeping(permits).recording(recording)), None)
        }
    }
}

/// Counts an answer of the gate's own, and says when to come back.
pub(super) fn count_refusal(facts: &Facts<'_>, phase: Phase, problem: &mut Problem) {
    let worker = &facts.arrived.worker;
    let kind = problem.kind;
    if kind.status() == StatusCode::SERVICE_UNAVAILABLE {
        let wait = worker.waits.after(kind);
        let known = problem.retry_after_s.filter(|_| kind.has_own_wait());
        problem.retry_after_s = Some(known.unwrap_or(wait));
    }
    worker.metrics.answered(phase, kind);
    if let Some(served) = facts.served {
        served.metrics.answered(kind);
    }
}

/// What pages of other origins may read of an answer of the gate's own.
pub(super) fn stamp(facts: &Facts<'_>, headers: &mut HeaderMap) {
    if let Some(rules) = rules(facts) {
        rules.stamp_own(origin(facts), headers);
    }
}

fn rules<'e>(facts: &Facts<'e>) -> Option<&'e CorsRules> {
    facts.service?.cors.as_ref()
}

/// The origin of a request, also where its headers are the upstream's by now.
fn origin<'e>(facts: &Facts<'e>) -> Option<&'e HeaderValue> {
    let kept = facts.found.and_then(|found| found.cross.origin.as_ref());
    kept.or_else(|| facts.arrived.parts.headers.get(ORIGIN))
}

pub(super) fn tell<B>(
    facts: &Facts<'_>,
    response: &mut Response<B>,
    phase: Phase,
    outcome: &str,
    refused: Option<Kind>,
) {
    tell_limits(facts, response.headers_mut());
    observe(facts, refused);
    time(facts, response.status(), phase, refused);
    if tracing::enabled!(target: "keepgate::decision", tracing::Level::DEBUG) {
        log(facts, response, phase, outcome);
    }
}

/// How long it took, and what is recorded of it in its trace.
fn time(facts: &Facts<'_>, status: StatusCode, phase: Phase, refused: Option<Kind>) {
    let ended = refused.map_or(Ended::Allowed, Kind::outcome);
    let Arrived { started, trace, .. } = facts.arrived;
    facts.timings().request(ended, started.elapsed(), trace.exemplar());
    if let Some((recording, trace_id)) = trace.recording().zip(trace.id()) {
        spans::tell(facts, recording, trace_id, status, phase, ended);
    }
}

/// What is left of its limits. The upstream may have limits of its own: the fields of draft 11 are
/// lists, to which the gate's are added; where both speak `x-ratelimit`, the upstream's stay.
fn tell_limits(facts: &Facts<'_>, headers: &mut HeaderMap) {
    let Some(service) = facts.service else { return };
    let is_list = service.limits.limiter.headers() == Dialect::Draft11;
    for (name, value) in facts.said(|said| refusal::fields(service, said, facts.page())) {
        if is_list || !headers.contains_key(&name) {
            headers.append(name, value);
        }
    }
}

/// Heavy hitters. A walk through a route shows in its paths, where it has parameters.
fn observe(facts: &Facts<'_>, refused: Option<Kind>) {
    let Arrived { worker, parts, .. } = facts.arrived;
    let route = facts.found.and_then(Found::template);
    // Of what is for none of several services, none is told.
    let Some(served) = facts.served else { return };
    let limiting = &served.tables.limiting;
    let observation = Observation {
        address: facts.address(),
        principal: facts.identity.and_then(|identity| identity.known()),
        user_agent: facts.user_agent.and_then(|value| value.to_str().ok()),
        method: parts.method.as_str(),
        route,
        path: route.filter(|route| route.contains('{')).map(|_| parts.uri.path()),
        refused: refused.is_some_and(|kind| kind.status().is_client_error()),
        outcome: match refused {
            Some(Kind::LimitReached) => Told::Limited,
            Some(Kind::Denied) => Told::Denied,
            Some(Kind::NoDecision | Kind::NoIdentity) => Told::Undecided,
            _ => Told::Other,
        },
        now: limiting.now(),
    };
    limiting.top.record(worker.number, &observation);
}

/// One line a request: who, what, how it ended. No header, query or body.
fn log<B>(facts: &Facts<'_>, response: &Response<B>, phase: Phase, outcome: &str) {
    let text = |value: Option<String>| value.unwrap_or_default();
    let found = facts.found;
    tracing::debug!(
        target: "keepgate::decision",
        request_id = facts.arrived.request_id.to_str().unwrap_or_default(),
        outcome,
        check = match facts.arrived.carrier {
            Carrier::Gate => "",
            Carrier::Proxy(hook) => hook.name(),
        },
        service = facts.served.map(|served| served.tables.service.as_str()).unwrap_or_default(),
        site = facts.site,
        phase = phase.name(),
        status = response.status().as_u16(),
        client = text(facts.client.map(|ip| ip.to_string())),
        principal = text(facts.identity.map(|identity| identity.principal.to_string())),
        route = found.and_then(Found::template).unwrap_or_default(),
        action = text(found.map(|found| found.action.to_string())),
        resource = text(found.map(|found| found.resource.to_string())),
        revision = found.map_or(0, |found| found.table.version.0.0),
        took_us = u64::try_from(facts.arrived.started.elapsed().as_micros()).unwrap_or(u64::MAX),
    );
}
