//! Spans: the queue, and what the official exporter gets.

use std::borrow::Cow;
use std::sync::Arc;

use keepgate_observe::span::{Lost, Span, SpanKind, SpanSink, Value};
use opentelemetry::trace::{self, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::origin;
use super::settings::Batches;

/// Puts spans into the queue.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<Span>,
    lost: Arc<Lost>,
}

impl SpanSink for Queue {
    fn take(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.lost.spans.add(1);
        }
    }
}

pub(super) fn queue(
    batches: Batches,
    lost: Arc<Lost>,
) -> (Arc<dyn SpanSink>, mpsc::Receiver<Span>) {
    let (spans, queue) = mpsc::channel(batches.queue);
    (Arc::new(Queue { spans, lost }), queue)
}

pub(super) fn exporter(channel: Channel, resource: &Resource) -> anyhow::Result<SpanExporter> {
    let mut exporter = SpanExporter::builder().with_tonic().with_channel(channel).build()?;
    exporter.set_resource(resource);
    Ok(exporter)
}

pub(super) async fn send(exporter: &SpanExporter, batch: Vec<Span>) -> Result<(), String> {
    let scope = origin::scope();
    let batch = batch.into_iter().map(|span| data(span, &scope)).collect();
    exporter.export(batch).await.map_err(|error| keepgate_observe::chain(&error))
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let trace_id = TraceId::from_bytes(span.trace_id.0);
    let context = SpanContext::new(
        trace_id,
        SpanId::from_bytes(span.span_id.0),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.0)),
        parent_span_is_remote: span.is_parent_remote,
        span_kind: match span.kind {
            SpanKind::Server => trace::SpanKind::Server,
            SpanKind::Client => trace::SpanKind::Client,
            SpanKind::Internal => trace::SpanKind::Internal,
        },
        name: span.name,
        start_time: span.began,
        end_time: span.began + span.took,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.failed {
            Some(why) => Status::error(why),
            None => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    }
}

fn attribute((name, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(Cow::Borrowed(text)) => KeyValue::new(name, text),
        Value::Text(Cow::Owned(text)) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Flag(flag) => KeyValue::new(name, flag),
    }
}
