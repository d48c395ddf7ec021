//! The trace that a request belongs to, and what is noted of the request for it.
//!
//! Without [`Tracing`] the gate records nothing and passes `traceparent` and `tracestate` on as they
//! came. With it, the gate takes part: it goes on with a valid trace of the caller or begins one, says
//! in `traceparent` whether it records the request, and passes on a `tracestate` within its bounds.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use keepgate_observe::span::{Tracer, Tracing};
use keepgate_observe::trace::{SpanId, TraceContext, TraceId, tracestate};
use ring::rand::SecureRandom as _;

use super::phase::Phase;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the traces of one worker's requests share.
pub(crate) fn tracer() -> Tracer {
    let mut seed = [0; 16];
    if ring::rand::SystemRandom::new().fill(&mut seed).is_err() {
        // Without randomness the clock has to tell workers apart.
        seed = keepgate_observe::unix_now().as_nanos().to_le_bytes();
    }
    Tracer::seeded(seed)
}

/// A request's place in a trace.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// What the upstream is told; without [`Tracing`], what the caller said. None: nothing, or
    /// something malformed.
    context: Option<TraceContext>,
    /// The gate takes part: the upstream gets `context` in place of what came.
    takes_part: bool,
    /// Boxed: it is there for requests that are recorded, which are few.
    recording: Option<Box<Recording>>,
}

/// What is noted of a request that is recorded.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) tracing: Tracing,
    /// The caller's span; none: the trace begins here.
    pub(crate) parent: Option<SpanId>,
    /// The span of the whole request.
    pub(crate) whole: SpanId,
    /// The span of what the upstream does.
    pub(crate) upstream: SpanId,
    pub(crate) began: SystemTime,
    started: Instant,
    /// The phases that it has passed, and when each ended, since the beginning.
    pub(crate) passed: Vec<(Phase, Duration)>,
    /// When the upstream was asked, since the beginning, and how long that took.
    pub(crate) asked: Option<(Duration, Duration)>,
    /// The ids of the steps are made when they are told.
    pub(crate) steps: Vec<SpanId>,
}

impl Trace {
    /// Of a request's headers.
    pub(crate) fn of(
        headers: &HeaderMap,
        tracing: Option<&Tracing>,
        tracer: &Tracer,
        started: Instant,
    ) -> Trace {
        let parent = single(headers);
        match tracing {
            None => Trace { context: parent, ..Trace::default() },
            Some(tracing) => Trace::taken_up(parent, tracing, tracer, started),
        }
    }

    fn taken_up(
        parent: Option<TraceContext>,
        tracing: &Tracing,
        tracer: &Tracer,
        started: Instant,
    ) -> Trace {
        let ids = &tracer.ids;
        let (trace_id, sampled) = tracer.begin(&tracing.sampler, parent.as_ref());
        let recording = sampled.then(|| {
            Box::new(Recording {
                tracing: tracing.clone(),
                parent: parent.map(|parent| parent.span_id),
                whole: ids.span(),
                upstream: ids.span(),
                began: SystemTime::now()
                    .checked_sub(started.elapsed())
                    .unwrap_or_else(SystemTime::now),
                started,
                passed: Vec::with_capacity(Phase::ALL.len()),
                asked: None,
                steps: Phase::ALL.iter().map(|_| ids.span()).collect(),
            })
        });
        let span_id = match (&recording, &parent) {
            (Some(recording), _) => recording.upstream,
            (None, Some(parent)) => parent.span_id,
            (None, None) => ids.span(),
        };
        let random = parent.is_none_or(|parent| parent.random);
        let context = Some(TraceContext { trace_id, span_id, sampled, random });
        Trace { context, takes_part: true, recording }
    }

    /// The trace; none: the request belongs to none.
    pub(crate) fn id(&self) -> Option<TraceId> {
        Some(self.context.as_ref()?.trace_id)
    }

    /// The trace, where somebody records it.
    pub(crate) fn exemplar(&self) -> Option<TraceId> {
        self.context.as_ref().filter(|context| context.sampled).map(|context| context.trace_id)
    }

    /// The request has passed a phase.
    pub(crate) fn passed(&mut self, phase: Phase) {
        if let Some(recording) = &mut self.recording {
            recording.passed.push((phase, recording.started.elapsed()));
        }
    }

    /// The upstream was asked then, and answered or failed after so long.
    pub(crate) fn asked(&mut self, at: Instant, took: Duration) {
        if let Some(recording) = &mut self.recording {
            recording.asked = Some((at.saturating_duration_since(recording.started), took));
        }
    }

    /// What was noted; none: it is not recorded.
    pub(crate) fn recording(&self) -> Option<&Recording> {
        self.recording.as_deref()
    }

    /// The trace's headers, as the upstream gets them.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        if !self.takes_part {
            return;
        }
        let Some(context) = &self.context else { return };
        // A trace that begins here has no state yet.
        let state = match single(headers).is_some() {
            true => tracestate(headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes)),
            false => None,
        };
        headers.remove(TRACESTATE);
        if let Some(state) = state.and_then(|state| HeaderValue::try_from(state).ok()) {
            headers.insert(TRACESTATE, state);
        }
        if let Ok(value) = HeaderValue::from_bytes(&context.write()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// What the caller says.
fn single(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::of(headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes))
}
