//! A request's record from its answer's head to its end, when it is handed on, whichever way it ends.

use std::sync::Arc;
use std::time::Instant;

use keepgate_record::{Ended, Line, Queue};

use super::fate::BodyFate;

/// See the module.
pub(crate) struct Recording {
    line: Line,
    queue: Arc<Queue>,
    started: Instant,
    /// The request's body; none: it had none, or it was not read.
    body: Option<Arc<BodyFate>>,
    bytes_out: u64,
}

impl Recording {
    pub(crate) fn new(
        line: Line,
        queue: Arc<Queue>,
        started: Instant,
        body: Option<Arc<BodyFate>>,
    ) -> Recording {
        Recording { line, queue, started, body, bytes_out: 0 }
    }

    /// Bytes of the answer's body were handed on.
    pub(crate) fn gave(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let ended = Ended {
            bytes_in: self.body.as_ref().map_or(0, |body| body.got()),
            bytes_out: self.bytes_out,
            total_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        self.queue.offer(&self.line, &ended);
    }
}
