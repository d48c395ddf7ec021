//! Log lines: a layer of the log that puts each into the queue, and what the official exporter gets.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use keepgate_observe::span::Lost;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry_otlp::{LogExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLoggerProvider};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::origin;
use super::settings::Batches;

thread_local! {
    /// Whether this is the thread that sends: what it logs is not sent.
    static IS_SENDER: Cell<bool> = const { Cell::new(false) };
}

/// Leaves out what this thread logs from now on.
pub(super) fn not_of_this_thread() {
    IS_SENDER.set(true);
}

/// The queue of this process; none: log lines are sent nowhere.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    lines: mpsc::Sender<Line>,
    lost: Arc<Lost>,
}

/// One line of the log.
pub(super) struct Line {
    when: SystemTime,
    level: Level,
    target: &'static str,
    message: String,
    fields: Vec<(&'static str, AnyValue)>,
}

/// Takes what is logged, after the log's filter.
pub(crate) fn layer() -> Lines {
    Lines
}

/// See [`layer`].
pub(crate) struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(queue) = QUEUE.get() else { return };
        // What the sending itself logs would be sent for ever.
        if IS_SENDER.get() {
            return;
        }
        let metadata = event.metadata();
        let mut line = Line {
            when: SystemTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        if queue.lines.try_send(line).is_err() {
            queue.lost.logs.add(1);
        }
    }
}

impl Line {
    fn put(&mut self, field: &Field, value: AnyValue) {
        self.fields.push((field.name(), value));
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, value.to_owned().into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field, value.into()),
            Err(_) => self.put(field, value.to_string().into()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// The queue of this process, which is made once.
pub(super) fn queue(batches: Batches, lost: Arc<Lost>) -> mpsc::Receiver<Line> {
    let (lines, queue) = mpsc::channel(batches.queue);
    let _ = QUEUE.set(Queue { lines, lost });
    queue
}

pub(super) fn exporter(channel: Channel, resource: &Resource) -> anyhow::Result<LogExporter> {
    let mut exporter = LogExporter::builder().with_tonic().with_channel(channel).build()?;
    exporter.set_resource(resource);
    Ok(exporter)
}

pub(super) async fn send(exporter: &LogExporter, batch: Vec<Line>) -> Result<(), String> {
    // It makes records, and sends none by itself.
    let logger = SdkLoggerProvider::builder().build().logger("keepgate");
    let scope = origin::scope();
    let records: Vec<_> = batch
        .into_iter()
        .map(|line| {
            let mut record = logger.create_log_record();
            record.set_timestamp(line.when);
            record.set_observed_timestamp(line.when);
            record.set_target(line.target);
            record.set_severity_text(line.level.as_str());
            record.set_severity_number(severity(line.level));
            record.set_body(line.message.into());
            record.add_attributes(line.fields);
            record
        })
        .collect();
    let batch: Vec<_> = records.iter().map(|record| (record, &scope)).collect();
    exporter.export(LogBatch::new(&batch)).await.map_err(|error| keepgate_observe::chain(&error))
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}
