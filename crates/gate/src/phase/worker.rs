//! What the requests of one worker share, and what those of all workers do.
//!
//! Workers share no contended memory on a request's way: counters, the compiled table, the token
//! cache and the ids are each worker's own.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use keepgate_client::pool::Upstream;

use super::context::Context;
use crate::config::GateConfig;
use crate::exchange::ongoing::List;
use crate::identify::cache::{Known, TokenCache};
use crate::message::body::CallerBody;
use crate::message::request_id::RequestIds;
use crate::message::retry::Waits;
use crate::message::uploads::Uploads;
use crate::observe::dropped::{Dropped, shown};
use crate::observe::metrics::WorkerMetrics;
use crate::observe::warnings::UpstreamWarnings;
use crate::service::table::{Table, Tables};

/// What the requests of all workers share.
pub(crate) struct Common {
    pub(crate) settings: GateConfig,
    pub(crate) tables: Arc<Tables>,
    pub(crate) upstream: Upstream<CallerBody>,
    pub(crate) dropped: Arc<Dropped>,
    /// Request bodies in progress.
    pub(crate) uploads: Arc<Uploads>,
    /// Requests that wait for a revision.
    pub(crate) revision_waiters: AtomicUsize,
}

/// What the requests of one worker share.
pub(crate) struct Worker {
    pub(crate) common: Arc<Common>,
    /// Its place among the workers.
    pub(crate) number: usize,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Its exchanges that are under way.
    pub(crate) ongoing: Arc<List>,
    pub(crate) request_ids: Arc<RequestIds>,
    pub(crate) warnings: UpstreamWarnings,
    /// How long callers are asked to wait.
    pub(crate) waits: Waits,
    table: Mutex<Option<Arc<Table>>>,
    tokens: Mutex<TokenCache>,
    context: Mutex<Context>,
}

impl Worker {
    pub(crate) fn new(
        common: Arc<Common>,
        number: usize,
        metrics: Arc<WorkerMetrics>,
        ongoing: Arc<List>,
    ) -> Worker {
        Worker {
            common,
            number,
            metrics,
            ongoing,
            request_ids: Arc::new(RequestIds::new()),
            warnings: UpstreamWarnings::default(),
            waits: Waits::default(),
            table: Mutex::new(None),
            tokens: Mutex::default(),
            context: Mutex::default(),
        }
    }

    /// The table of the world as it is now; compiled anew where the world has changed.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        let mut held = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        self.common.tables.renew(&mut held)
    }

    pub(crate) fn known_token(&self, state: u64, name: &[u8; 32], now: u64) -> Option<Known> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).find(state, name, now)
    }

    pub(crate) fn keep_token(&self, state: u64, name: [u8; 32], known: Known) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).keep(state, name, known);
    }

    /// Lends the decision context's memory.
    pub(crate) fn with_context<T>(&self, with: impl FnOnce(&mut Context) -> T) -> T {
        with(&mut self.context.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A peer that is no trusted proxy names callers.
    pub(crate) fn forwarding_was_dropped(&self, peer: Option<IpAddr>) {
        self.metrics.forwarding_dropped.add(1);
        if self.common.dropped.record(self.number, peer) {
            let shown = shown(peer);
            tracing::warn!(
                peer = shown,
                "headers that name callers' addresses are dropped: all requests of this peer count \
                 as one caller's; if it is a proxy in front, start the gate with --trusted-proxy \
                 {shown}"
            );
        }
    }
}
