//! Requests in traces (W3C Trace Context): each that is recorded is one span. It has the endpoint's
//! path as the table of endpoints writes it, and nothing of what was sent.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request};
use http::{HeaderValue, Method, StatusCode};
use keepgate_observe::span::{Span, SpanKind, Tracer, Tracing};
use keepgate_observe::trace::{SpanId, TraceContext, TraceId};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::App;

/// What the traces of a center share.
pub(crate) fn tracer() -> Tracer {
    let mut seed = [0; 16];
    if SystemRandom::new().fill(&mut seed).is_err() {
        // Without randomness the clock has to tell centers apart.
        seed = keepgate_observe::unix_now().as_nanos().to_le_bytes();
    }
    Tracer::seeded(seed)
}

/// A request that is recorded.
pub(crate) struct Recorded {
    tracing: Tracing,
    pub(crate) trace_id: TraceId,
    span_id: SpanId,
    parent: Option<SpanId>,
    began: SystemTime,
    method: &'static str,
    route: Option<String>,
}

impl Recorded {
    /// None: it is not recorded.
    pub(crate) fn of(app: &App, request: &Request) -> Option<Recorded> {
        let tracing = app.tracing.as_ref()?;
        let said = request.headers().get_all("traceparent");
        let parent = TraceContext::of(said.iter().map(HeaderValue::as_bytes));
        let (trace_id, sampled) = app.tracer.begin(&tracing.sampler, parent.as_ref());
        let route = request.extensions().get::<MatchedPath>();
        sampled.then(|| Recorded {
            tracing: tracing.clone(),
            trace_id,
            span_id: app.tracer.ids.span(),
            parent: parent.map(|parent| parent.span_id),
            began: SystemTime::now(),
            method: known(request.method()),
            route: route.map(|route| route.as_str().to_owned()),
        })
    }

    /// Gives its span to whoever takes them; never waits.
    pub(crate) fn ended(self, status: StatusCode, took: Duration, request_id: &str) {
        let Recorded { tracing, trace_id, span_id, parent, began, method, route } = self;
        let name = match &route {
            Some(route) => format!("{method} {route}").into(),
            None => Cow::Borrowed(method),
        };
        let attributes = [
            ("http.request.method", Some(method.into())),
            ("http.route", route.map(Into::into)),
            ("http.response.status_code", Some(status.as_u16().into())),
            ("keepgate.request_id", Some(request_id.to_owned().into())),
        ];
        tracing.sink.take(Span {
            trace_id,
            span_id,
            parent,
            is_parent_remote: parent.is_some(),
            kind: SpanKind::Server,
            name,
            began,
            took,
            attributes: attributes
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
            failed: status.is_server_error().then_some(Cow::Borrowed("server error")),
        });
    }
}

/// A method of the API; callers may invent others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "HTTP",
    }
}
