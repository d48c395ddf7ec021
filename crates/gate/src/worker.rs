//! One worker: a thread, its runtime, its listener, and what its requests share.
//!
//! Workers share no contended memory on a request's way: counters, the compiled table, the token
//! cache and the ids are each worker's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use keepgate_client::pool::Upstream;
use keepgate_observe::Counter;
use keepgate_serve::{Places, Seat};
use tokio::sync::watch;

use crate::body::CallerBody;
use crate::config::GateConfig;
use crate::cut::{Cut, Lines};
use crate::dropped::Dropped;
use crate::identify::cache::{Known, TokenCache};
use crate::identify::issuers::Issuers;
use crate::limits::Limiting;
use crate::listen::CallerPlace;
use crate::metrics::WorkerMetrics;
use crate::ongoing::List;
use crate::phase::decide::Context;
use crate::request_id::RequestIds;
use crate::source::{DecisionSource, Peek};
use crate::table::Table;
use crate::uploads::Uploads;
use crate::wire::guard::Shared;

/// At most one warning about the upstream in this time, a worker.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The other end of a caller's connection.
pub(crate) struct Peer {
    /// Who connected, or whom that one speaks for (PROXY protocol); none over a Unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// A PROXY protocol header named nobody: `client` is who connected, and is not trusted.
    pub(crate) is_unnamed: bool,
    /// `client`'s address as `X-Forwarded-For` has it.
    pub(crate) forwarded_for: Option<HeaderValue>,
    pub(crate) is_tls: bool,
    pub(crate) is_h2: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) seat: Arc<Seat>,
    #[expect(dead_code, reason = "held for its Drop, also by what outlives the connection")]
    pub(crate) place: CallerPlace,
}

/// What all workers share.
pub(crate) struct Common {
    pub(crate) settings: Arc<GateConfig>,
    pub(crate) source: Arc<dyn DecisionSource>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) upstream: Upstream<CallerBody>,
    pub(crate) limiting: Limiting,
    pub(crate) dropped: Dropped,
    /// It was said that a trusted header's peers are everybody.
    pub(crate) said_everybody: AtomicBool,
    pub(crate) tls: Option<tokio_rustls::TlsAcceptor>,
    /// The clock of `places` counts from here.
    pub(crate) began: Instant,
    /// Connections of callers, over all workers.
    pub(crate) places: Places,
    /// Exchanges that are under way, by worker.
    pub(crate) ongoing: Box<[Arc<List>]>,
    /// Exchanges that were decided again.
    pub(crate) redecided: Counter,
    /// Request bodies in progress.
    pub(crate) uploads: Arc<Uploads>,
    /// Requests that wait for a revision.
    pub(crate) revision_waiters: AtomicUsize,
    /// Set once, when the gate stops.
    pub(crate) stopping: AtomicBool,
    pub(crate) stop: watch::Sender<bool>,
}

impl Common {
    /// On the clock of the places.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Ends when the gate is told to stop.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives as long as the gate; its end is the end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// See the module.
pub(crate) struct Worker {
    pub(crate) common: Arc<Common>,
    /// Its place among the workers.
    pub(crate) number: usize,
    // Copies of `common`'s, one step nearer.
    pub(crate) settings: Arc<GateConfig>,
    pub(crate) source: Arc<dyn DecisionSource>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) upstream: Upstream<CallerBody>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) ongoing: Arc<List>,
    pub(crate) request_ids: Arc<RequestIds>,
    table: Mutex<Option<Arc<Table>>>,
    tokens: Mutex<TokenCache>,
    context: Mutex<Context>,
    began: Instant,
    /// When the next warning is due, in milliseconds after `began`, and how many were left out.
    warn_due_ms: AtomicU64,
    unwarned: AtomicU64,
    /// Lines about what was cut short.
    cut_lines: Lines,
}

impl Worker {
    pub(crate) fn new(common: Arc<Common>, number: usize, metrics: Arc<WorkerMetrics>) -> Worker {
        Worker {
            number,
            settings: Arc::clone(&common.settings),
            source: Arc::clone(&common.source),
            issuers: Arc::clone(&common.issuers),
            upstream: common.upstream.clone(),
            metrics,
            ongoing: common.ongoing.get(number).map(Arc::clone).unwrap_or_default(),
            request_ids: Arc::new(RequestIds::new()),
            table: Mutex::new(None),
            tokens: Mutex::default(),
            context: Mutex::default(),
            began: Instant::now(),
            warn_due_ms: AtomicU64::new(0),
            unwarned: AtomicU64::new(0),
            cut_lines: Lines::default(),
            common,
        }
    }

    /// The table of the world as it is now; compiled anew where the world has changed.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        let mut held = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match self.source.peek(held.as_ref().map(|table| table.version)) {
            Peek::Same => {}
            Peek::Nothing => *held = None,
            Peek::New(dated) => {
                let shared = &self.common;
                let table = Table::compile(dated, held.as_deref(), shared);
                *held = Some(Arc::new(table));
            }
        }
        held.clone()
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

    /// Counts what was cut short, and logs it.
    pub(crate) fn cut(&self, cut: Cut, request_id: &HeaderValue) {
        self.metrics.cut(cut);
        if let Some(left_out) = self.cut_lines.take(self.began.elapsed()) {
            let request_id = request_id.to_str().unwrap_or_default();
            tracing::info!(
                target: "keepgate::cut",
                bound = cut.name(),
                request_id,
                left_out,
                "cut short"
            );
        }
    }

    /// A peer that is no trusted proxy names callers.
    pub(crate) fn forwarding_was_dropped(&self, peer: Option<IpAddr>) {
        self.metrics.forwarding_dropped.add(1);
        if self.common.dropped.record(self.number, peer) {
            let shown = crate::dropped::shown(peer);
            tracing::warn!(
                peer = shown,
                "headers that name callers' addresses are dropped: all requests of this peer count \
                 as one caller's; if it is a proxy in front, start the gate with --trusted-proxy \
                 {shown}"
            );
        }
    }

    /// Warns that the upstream failed, but not for every request.
    pub(crate) fn warn_upstream(&self, error: &str, request_id: &HeaderValue) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.warn_due_ms.load(Ordering::Relaxed) {
            self.unwarned.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let interval = u64::try_from(WARN_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        self.warn_due_ms.store(now.saturating_add(interval), Ordering::Relaxed);
        let left_out = self.unwarned.swap(0, Ordering::Relaxed);
        let request_id = request_id.to_str().unwrap_or_default();
        tracing::warn!(error, request_id, left_out, "the upstream failed a request");
    }
}
