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
    /// Requests that were sent a second time.
    pub retries: u64,
    /// Requests that had to wait for a connection.
    pub queued: u64,
    /// Requests refused because too many waited.
    pub queue_full: u64,
    /// Requests whose deadline passed while they waited.
    pub queue_timeouts: u64,
    /// Idle connections closed because they were idle for too long.
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
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) opened: Counter,
    pub(super) open_failures: Counter,
    pub(super) ports_exhausted: Counter,
    pub(super) requests: Counter,
    pub(super) retries: Counter,
    pub(super) queued: Counter,
    pub(super) queue_full: Counter,
    pub(super) queue_timeouts: Counter,
    pub(super) expired: Counter,
    pub(super) settled: Counter,
}
