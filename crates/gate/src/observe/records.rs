//! The decision and access log of a gate: its writer, and what its numbers are.

use std::sync::Arc;

use keepgate_observe::{Page, Sort};
use keepgate_record::{Log, LogConfig, LogStats, OpenError, Queue, Shape};

use crate::config::GateConfig;
use crate::config::records::Sample;

/// See the module.
pub(crate) struct Records {
    pub(crate) log: Log,
    pub(crate) shape: Shape,
    pub(crate) gate: String,
    pub(crate) samples: Vec<Sample>,
}

impl Records {
    /// Opens the log, if the configuration has one.
    pub(crate) fn open(
        config: &GateConfig,
        workers: usize,
    ) -> Result<Option<Arc<Records>>, OpenError> {
        let Some(records) = &config.records else { return Ok(None) };
        let bounds = &config.record_bounds;
        let log = LogConfig {
            format: records.format,
            file_bytes: bounds.file_bytes,
            file_age: bounds.file_age,
            total_bytes: bounds.total_bytes,
            queue_bytes: bounds.queue_bytes,
            rules: records.samples.len(),
            ..LogConfig::new(records.destination.clone(), &records.gate)
        };
        Ok(Some(Arc::new(Records {
            log: Log::start(log, workers)?,
            shape: records.shape(),
            gate: records.gate.clone(),
            samples: records.samples.clone(),
        })))
    }
}

/// The log at one worker.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) records: Arc<Records>,
    pub(crate) queue: Arc<Queue>,
}

impl Recorder {
    pub(crate) fn of(records: Option<&Arc<Records>>, worker: usize) -> Option<Recorder> {
        let records = Arc::clone(records?);
        let queue = records.log.queue(worker)?;
        Some(Recorder { records, queue })
    }

    /// Whether a request that is allowed is one of those to be written.
    pub(crate) fn takes(&self, method: &str, route: &str) -> bool {
        let samples = self.records.samples.iter().enumerate();
        match samples.clone().find(|(_, sample)| sample.fits(method, route)) {
            Some((rule, sample)) => self.queue.takes(rule, sample.one_in),
            None => true,
        }
    }
}

/// The log's metrics.
pub(crate) fn render(stats: &LogStats, page: &mut Page) {
    let counters = [
        ("offered_total", "Records of requests that were handed to the access log.", stats.offered),
        ("lost_total", "Records that did not fit where they wait to be written.", stats.lost),
        ("sampled_out_total", "Allowed requests that sampling left out of the access log.", {
            stats.sampled_out
        }),
        ("lines_total", "Lines of the access log; what is said of the log itself among them.", {
            stats.lines
        }),
        ("bytes_total", "Bytes written to the access log.", stats.bytes),
        ("failures_total", "Times that the access log could not be written or synced.", {
            stats.failures
        }),
        ("anchors_total", "Signatures of the center that were written into the access log.", {
            stats.anchors
        }),
    ];
    for (name, help, value) in counters {
        page.value(Sort::Counter, &format!("access_log_{name}"), help, value);
    }
    let help = "Whether the access log cannot be written right now.";
    page.value(Sort::Gauge, "access_log_failing", help, u64::from(stats.is_failing));
}
