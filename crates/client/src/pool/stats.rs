//! What an upstream's connections did and do.

use keepgate_observe::Counter;

/// Counters since the start, and gauges of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamStats {
    /// Connections opened, that is, dials that became a usable connection.
    pub opened: u64,
    /// Dials that did not, for any reason.
    pub open_failures: u64,
    /// Of these, for want of a local port or descriptor.
    pub ports_exhausted: u64,
    /// Requests put on a connection (a request sent twice counts twice).
    pub requests: u64,
    /// Of these, on a connection that had carried a request before (HTTP/2: beside or after another).
    pub reused: u64,
    /// Requests that were sent a second time.
    pub retries: u64,
    /// Requests that were not, because too many had been: see `retries`.
    pub retries_refused: u64,
    /// Requests that had to wait for a connection.
    pub queued: u64,
    /// Requests refused because too many waited, or displaced by another caller's.
    pub queue_full: u64,
    /// Requests whose deadline passed while they waited.
    pub queue_timeouts: u64,
    /// Connections closed because they were idle for too long, or too old.
    pub expired: u64,
    /// Returned connections that were not ready at once (the request was still being written,
    /// or another thread was still at it).
    pub settled: u64,
    /// Sockets now, with those being opened.
    pub open: usize,
    /// Idle HTTP/1.1 connections now.
    pub idle: usize,
    /// HTTP/2 streams in use now.
    pub streams: usize,
    /// Requests waiting now.
    pub waiting: usize,
    /// The bound for `open`.
    pub limit: usize,
    /// Addresses toward which nothing is opened now, because only ports are left that are kept back, or
    /// none.
    pub short: usize,
}

/// What an upstream with all its addresses did and does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// Over all addresses; the counters also of those that it had before.
    pub all: UpstreamStats,
    /// Addresses now.
    pub addresses: usize,
    /// Of these, ejected because requests to them failed.
    pub ejected: usize,
    /// Of these, taken out by active checks.
    pub down: usize,
    /// All are ejected or out, and so all are used.
    pub panic: bool,
    /// Times that an address was ejected.
    pub ejections: u64,
    /// Times that a request went on to another address.
    pub failovers: u64,
    /// Requests that were sent while all addresses were out.
    pub panics: u64,
    /// Active checks that failed.
    pub checks_failed: u64,
    /// Times that a name was looked up.
    pub lookups: u64,
    /// Of these, without an answer.
    pub lookups_failed: u64,
    /// Times that a name led to other addresses than before.
    pub moves: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) opened: Counter,
    pub(super) open_failures: Counter,
    pub(super) ports_exhausted: Counter,
    pub(super) requests: Counter,
    pub(super) reused: Counter,
    pub(super) retries: Counter,
    pub(super) retries_refused: Counter,
    pub(super) queued: Counter,
    pub(super) queue_full: Counter,
    pub(super) queue_timeouts: Counter,
    pub(super) expired: Counter,
    pub(super) settled: Counter,
}

impl Counters {
    /// What they count; the gauges are the caller's.
    pub(super) fn stats(&self) -> UpstreamStats {
        UpstreamStats {
            opened: self.opened.value(),
            open_failures: self.open_failures.value(),
            ports_exhausted: self.ports_exhausted.value(),
            requests: self.requests.value(),
            reused: self.reused.value(),
            retries: self.retries.value(),
            retries_refused: self.retries_refused.value(),
            queued: self.queued.value(),
            queue_full: self.queue_full.value(),
            queue_timeouts: self.queue_timeouts.value(),
            expired: self.expired.value(),
            settled: self.settled.value(),
            ..UpstreamStats::default()
        }
    }
}
