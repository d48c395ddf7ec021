//! Streams to a center in traces (W3C Trace Context): each begins one, and says so in `traceparent`, so that
//! a center that takes part has its span in the same trace. The replica's own span lasts until the center's
//! Welcome. What follows then belongs to no trace: a stream lasts for days.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Instant, SystemTime};

use keepgate_observe::span::{Span, SpanKind, Tracer, Tracing};
use keepgate_observe::trace::TraceContext;

/// As gRPC's conventions have it: the service and the method.
const NAME: &str = "keepgate.sync.v1.Sync/Follow";

/// See the module.
pub(super) struct Streams {
    tracing: Tracing,
    tracer: Tracer,
}

impl Streams {
    pub(super) fn new(tracing: Tracing) -> Streams {
        let random = || u128::from(RandomState::new().build_hasher().finish());
        let seed = random() << 64 | random();
        Streams { tracing, tracer: Tracer::seeded(seed.to_le_bytes()) }
    }

    /// A stream is about to be asked for.
    pub(super) fn begin(&self) -> Begun {
        let (trace_id, sampled) = self.tracer.begin(&self.tracing.sampler, None);
        let span_id = self.tracer.ids.span();
        Begun {
            context: TraceContext { trace_id, span_id, sampled, random: true },
            tracing: sampled.then(|| self.tracing.clone()),
            began: SystemTime::now(),
            started: Instant::now(),
            is_welcome: false,
        }
    }
}

/// A stream that was asked for. Its span is told when this is dropped.
pub(super) struct Begun {
    context: TraceContext,
    tracing: Option<Tracing>,
    began: SystemTime,
    started: Instant,
    is_welcome: bool,
}

impl Begun {
    /// Says to the center which trace it is.
    pub(super) fn stamp<T>(&self, request: &mut tonic::Request<T>) {
        let written = self.context.write();
        if let Some(value) = std::str::from_utf8(&written).ok().and_then(|text| text.parse().ok()) {
            request.metadata_mut().insert("traceparent", value);
        }
    }

    /// The center has said its Welcome.
    pub(super) fn welcomed(mut self) {
        self.is_welcome = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(tracing) = self.tracing.take() else { return };
        tracing.sink.take(Span {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent: None,
            is_parent_remote: false,
            kind: SpanKind::Client,
            name: Cow::Borrowed(NAME),
            began: self.began,
            took: self.started.elapsed(),
            attributes: vec![("rpc.system", "grpc".into())],
            failed: (!self.is_welcome).then_some(Cow::Borrowed("no welcome")),
        });
    }
}
