//! A request that is recorded, as spans: one for all of it, one for each phase, one for the upstream.
//! No path, query, header or body: the route's template, and names from the configuration.

use std::borrow::Cow;
use std::time::Duration;

use http::{Method, StatusCode};
use keepgate_observe::span::{Span, SpanKind, Value};
use keepgate_observe::trace::{SpanId, TraceId};

use keepgate_record::Outcome;

use super::stage::{Arrived, Carrier, Facts, Found};
use crate::observe::phase::Phase;
use crate::observe::trace::Recording;

/// Gives the spans of a request that has ended in `phase` to whoever takes them; never waits.
#[cold]
pub(super) fn tell(
    facts: &Facts<'_>,
    recording: &Recording,
    trace_id: TraceId,
    status: StatusCode,
    phase: Phase,
    outcome: Outcome,
) {
    let took = facts.arrived.started.elapsed();
    let span = |span_id: SpanId, kind, name, from: Duration, took: Duration| Span {
        trace_id,
        span_id,
        parent: Some(recording.whole),
        is_parent_remote: false,
        kind,
        name,
        began: recording.began + from,
        took,
        attributes: Vec::new(),
        failed: None,
    };
    let sink = &recording.tracing.sink;
    let failed = status.is_server_error().then(|| Cow::Borrowed(outcome.name()));
    let mut from = Duration::ZERO;
    let is_passed = recording.passed.iter().any(|(passed, _)| *passed == phase);
    // What the upstream does has a span of its own.
    let last = (!is_passed && recording.asked.is_none()).then_some((phase, took));
    for ((step, until), id) in recording.passed.iter().copied().chain(last).zip(&recording.steps) {
        let name = Cow::Borrowed(step.name());
        let mut one = span(*id, SpanKind::Internal, name, from, until.saturating_sub(from));
        if !is_passed && step == phase {
            one.failed.clone_from(&failed);
        }
        sink.take(one);
        from = until;
    }
    let Arrived { parts, .. } = facts.arrived;
    let method = known(&parts.method);
    let code = Value::from(status.as_u16());
    if let Some((at, took)) = recording.asked {
        let name = Cow::Borrowed(method);
        let mut asked = span(recording.upstream, SpanKind::Client, name, at, took);
        asked.attributes.push(("http.request.method", method.into()));
        if let Some(upstream) = facts.upstream() {
            asked.attributes.push(("keepgate.upstream", upstream.to_owned().into()));
        }
        if outcome == Outcome::Allowed {
            asked.attributes.push(("http.response.status_code", code.clone()));
        }
        asked.failed.clone_from(&failed);
        sink.take(asked);
    }
    let route = facts.found.and_then(Found::template);
    let name = match route {
        Some(route) => format!("{method} {route}").into(),
        None => Cow::Borrowed(method),
    };
    let mut whole = span(recording.whole, SpanKind::Server, name, Duration::ZERO, took);
    (whole.parent, whole.is_parent_remote) = (recording.parent, recording.parent.is_some());
    whole.failed = failed;
    let text = |text: &str| Value::from(text.to_owned());
    let service = facts.served.map(|served| text(&served.tables.service));
    let request_id = facts.arrived.request_id.to_str().unwrap_or_default();
    let check = match facts.arrived.carrier {
        Carrier::Gate => None,
        Carrier::Proxy(hook) => Some(Value::from(hook.name())),
    };
    let revision = facts.found.and_then(|found| i64::try_from(found.table.version.0.0).ok());
    whole.attributes = [
        ("http.request.method", Some(method.into())),
        ("http.route", route.map(text)),
        ("http.response.status_code", Some(code)),
        ("keepgate.site", Some(text(&facts.timings().site))),
        ("keepgate.service", service),
        ("keepgate.outcome", Some(outcome.name().into())),
        ("keepgate.phase", Some(phase.name().into())),
        ("keepgate.check", check),
        ("keepgate.revision", revision.map(Value::Number)),
        ("keepgate.request_id", Some(text(request_id))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    sink.take(whole);
}

/// A method of HTTP's own; callers may invent others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "HTTP",
    }
}
