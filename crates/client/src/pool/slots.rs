//! Who has which connection of one upstream: permits, idle lists, the queue.
//!
//! One short lock guards it all; nothing is awaited, woken into this module or dropped with
//! side effects while it is held. Three guards bring things back by `Drop`: [`Permit`] a socket,
//! [`Opening`] the right to open one, [`Lease`] a connection (or a stream of one).

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use hyper::client::conn::{http1, http2};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::body::Outgoing;
use super::look::Look;
use super::stats::{Counters, UpstreamStats};
use super::upstream::RequestBody;
use super::{MAX_CONNECTIONS, PoolConfig, Protocol, UpstreamId};
use crate::dial::{DialError, Dialer};

/// Threads that have an idle list of their own; beyond that they share.
const MAX_SHARDS: usize = 64;
/// Dials of one upstream that may run at the same time.
const MAX_DIALING: usize = 32;
/// How long a returned connection may take to become ready before it is closed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure for want of ports: how long nothing is opened, doubling between these.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// One upstream's connections.
pub(super) struct Slots<B: RequestBody> {
    pub(super) id: UpstreamId,
    pub(super) name: String,
    pub(super) host: HeaderValue,
    pub(super) dialer: Dialer,
    pub(super) config: PoolConfig,
    pub(super) counters: Counters,
    pub(super) sweeping: AtomicBool,
    state: Mutex<State<B>>,
}

struct State<B: RequestBody> {
    /// Sockets, with those being opened. INVARIANT: as many as there are [`Permit`]s.
    open: usize,
    limit: usize,
    dialing: usize,
    dialing_max: usize,
    /// Connections that came back but are not ready yet; each will go to a waiter.
    settling: usize,
    idle: Vec<Vec<H1<B>>>,
    h2: Vec<Arc<H2<B>>>,
    /// Known once a connection was made.
    multiplexed: Option<bool>,
    waiters: VecDeque<Waiter<B>>,
    /// INVARIANT: no ticket is given twice, and those in the queue ascend.
    first_ticket: i64,
    last_ticket: i64,
    paused: bool,
    pause: Duration,
    shortage: Option<DialError>,
    retired: bool,
}

struct Waiter<B: RequestBody> {
    ticket: i64,
    shard: usize,
    /// Takes only a connection that is new.
    fresh: bool,
    grant: oneshot::Sender<Grant<B>>,
}

/// What a waiter gets.
pub(super) enum Grant<B: RequestBody> {
    Lease(Lease<B>),
    Open(Opening<B>),
}

/// An HTTP/1.1 connection between two requests, or lent to one.
pub(super) struct H1<B> {
    pub(super) sender: http1::SendRequest<Outgoing<B>>,
    pub(super) look: Arc<Look>,
    pub(super) shard: usize,
    pub(super) timer: Option<Timer>,
    pub(super) keep: Duration,
    pub(super) reused: bool,
    pub(super) since: Instant,
}

/// A timer kept with its connection, so that a request registers none of its own. It belongs
/// to the runtime of the thread that made it.
pub(super) struct Timer {
    pub(super) shard: usize,
    pub(super) sleep: Pin<Box<Sleep>>,
}

/// An HTTP/2 connection.
pub(super) struct H2<B> {
    pub(super) sender: http2::SendRequest<Outgoing<B>>,
    pub(super) look: Arc<Look>,
    /// Streams in use; changed under the lock only.
    pub(super) streams: AtomicUsize,
    /// The peer's limit, as last announced.
    pub(super) peer_max: Arc<PeerMax>,
    /// When the last stream ended; changed under the lock only.
    pub(super) since: Mutex<Instant>,
}

/// How many streams a peer takes. Until its settings are here that is one, and more is worth
/// waiting for: nothing else is opened meanwhile.
#[derive(Debug)]
pub(super) struct PeerMax {
    pub(super) streams: AtomicUsize,
    pub(super) greeting: AtomicBool,
}

pub(super) enum Link<B> {
    H1(H1<B>),
    H2(Arc<H2<B>>),
}

/// A connection (HTTP/2: a stream of one) that belongs to one request.
pub(super) struct Lease<B: RequestBody> {
    home: Arc<Slots<B>>,
    link: Option<Link<B>>,
    /// Once a request is on it, dropping the lease closes an HTTP/1.1 connection.
    pub(super) sent: bool,
}

/// The right to have one socket; lives in the socket.
pub(super) struct Permit<B: RequestBody> {
    home: Arc<Slots<B>>,
}

/// The right to open one.
pub(super) struct Opening<B: RequestBody> {
    home: Arc<Slots<B>>,
    permit: Option<Permit<B>>,
}

/// What a request finds.
pub(super) enum Found<B: RequestBody> {
    Grant(Grant<B>),
    Wait(Ticket<B>),
    Full,
}

/// A place in the queue; dropping it leaves the queue.
pub(super) struct Ticket<B: RequestBody> {
    home: Arc<Slots<B>>,
    ticket: i64,
    pub(super) granted: oneshot::Receiver<Grant<B>>,
}

/// This thread's idle list.
pub(super) fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: Cell<usize> = const { Cell::new(usize::MAX) });
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % MAX_SHARDS);
        }
        shard.get()
    })
}

impl<B: RequestBody> Slots<B> {
    pub(super) fn new(id: UpstreamId, dialer: Dialer, config: PoolConfig) -> Slots<B> {
        let multiplexed = match id.protocol {
            Protocol::Http1 => Some(false),
            Protocol::Http2 => Some(true),
            Protocol::Auto => id.target.tls.is_none().then_some(false),
        };
        let limit = limit(&config, &id);
        Slots {
            name: id.target.to_string(),
            host: HeaderValue::from_str(&id.target.authority())
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            id,
            dialer,
            config,
            counters: Counters::default(),
            sweeping: AtomicBool::new(false),
            state: Mutex::new(State {
                open: 0,
                limit,
                dialing: 0,
                dialing_max: MAX_DIALING,
                settling: 0,
                idle: Vec::new(),
                h2: Vec::new(),
                multiplexed,
                waiters: VecDeque::new(),
                first_ticket: 0,
                last_ticket: 0,
                paused: false,
                pause: Duration::ZERO,
                shortage: None,
                retired: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests share connections, as far as that is known.
    pub(super) fn multiplexed(&self) -> Option<bool> {
        self.lock().multiplexed
    }

    /// The bound on connections, where each carries one request at a time.
    pub(super) fn unshared(&self) -> Option<usize> {
        let state = self.lock();
        (state.multiplexed != Some(true)).then_some(state.limit)
    }

    /// A connection, the right to open one, or a place in the queue (with `first`, at its
    /// front: for a request that had its turn already). With `fresh`, no connection that was used
    /// before; where connections are shared (HTTP/2) that asks nothing.
    pub(super) fn find(self: &Arc<Self>, first: bool, fresh: bool) -> Found<B> {
        let shard = shard();
        let mut dead = Vec::new();
        let mut state = self.lock();
        let fresh = fresh && state.multiplexed != Some(true);
        if fresh {
            if state.may_open(&self.config) {
                state.open += 1;
                state.dialing += 1;
                drop(state);
                return Found::Grant(Grant::Open(self.opening()));
            }
            // An old one makes room; when it is closed the queue is served.
            dead.extend(state.surplus(shard));
        } else if let Some(link) = state.take(self, shard, &mut dead) {
            drop(state);
            return Found::Grant(Grant::Lease(self.lease(link)));
        }
        if !fresh && state.settling <= state.waiters.len() && state.may_open(&self.config) {
            state.open += 1;
            state.dialing += 1;
            drop(state);
            return Found::Grant(Grant::Open(self.opening()));
        }
        if state.waiters.len() >= self.config.max_queue {
            drop(state);
            self.counters.queue_full.add(1);
            return Found::Full;
        }
        let (grant, granted) = oneshot::channel();
        let waiter = |ticket| Waiter { ticket, shard, fresh, grant };
        let ticket = if first {
            state.first_ticket -= 1;
            let ticket = state.first_ticket;
            state.waiters.push_front(waiter(ticket));
            ticket
        } else {
            state.last_ticket += 1;
            let ticket = state.last_ticket;
            state.waiters.push_back(waiter(ticket));
            ticket
        };
        drop(state);
        self.counters.queued.add(1);
        Found::Wait(Ticket { home: self.clone(), ticket, granted })
    }

    /// Serves the queue with what there is.
    pub(super) fn admit(self: &Arc<Self>) {
        loop {
            let mut dead = Vec::new();
            let mut state = self.lock();
            let front = state.waiters.front().map(|waiter| (waiter.shard, waiter.fresh));
            let Some((shard, fresh)) = front else { return };
            let grant = if fresh && state.may_open(&self.config) {
                state.open += 1;
                state.dialing += 1;
                Grant::Open(self.opening())
            } else if fresh && state.multiplexed != Some(true) {
                dead.extend(state.surplus(shard));
                return;
            } else if let Some(link) = state.take(self, shard, &mut dead) {
                Grant::Lease(self.lease(link))
            } else if state.waiters.len() > state.settling && state.may_open(&self.config) {
                state.open += 1;
                state.dialing += 1;
                Grant::Open(self.opening())
            } else {
                return;
            };
            let waiter = state.waiters.pop_front();
            drop(state);
            if let Some(waiter) = waiter {
                // A waiter that just left: dropping the grant brings it back, and this goes on.
                drop(waiter.grant.send(grant));
            }
        }
    }

    fn lease(self: &Arc<Self>, link: Link<B>) -> Lease<B> {
        Lease { home: self.clone(), link: Some(link), sent: false }
    }

    fn opening(self: &Arc<Self>) -> Opening<B> {
        let permit = Permit { home: self.clone() };
        Opening { home: self.clone(), permit: Some(permit) }
    }

    /// A connection came back, ready or not.
    fn take_back(self: &Arc<Self>, mut conn: H1<B>) {
        if conn.sender.is_closed() {
            return;
        }
        if !conn.sender.is_ready() {
            self.settle(conn);
            return;
        }
        conn.reused = true;
        conn.since = Instant::now();
        let mut state = self.lock();
        if state.waiters.front().is_some_and(|waiter| waiter.fresh) {
            // Closing it makes room for the one that is wanted.
            drop(state);
            drop(conn);
        } else if let Some(waiter) = state.waiters.pop_front() {
            drop(state);
            drop(waiter.grant.send(Grant::Lease(self.lease(Link::H1(conn)))));
        } else if !state.retired && state.open <= state.limit {
            state.idle_list(conn.shard).push(conn);
        }
    }

    /// Waits aside until a returned connection is ready for its next request.
    fn settle(self: &Arc<Self>, mut conn: H1<B>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.lock().settling += 1;
        self.counters.settled.add(1);
        let settling = Settling { home: self.clone() };
        runtime.spawn(async move {
            let ready = tokio::time::timeout(SETTLE_TIMEOUT, conn.sender.ready()).await;
            let home = settling.home.clone();
            if matches!(ready, Ok(Ok(()))) {
                // In this order: a waiter gets this connection and not the right to open one.
                home.lock().settling -= 1;
                std::mem::forget(settling);
                home.take_back(conn);
                home.admit();
            } else {
                drop(conn);
                drop(settling);
            }
        });
    }

    /// A connection was made.
    pub(super) fn opened(&self, multiplexed: bool) {
        self.counters.opened.add(1);
        let mut state = self.lock();
        state.multiplexed = Some(multiplexed);
        state.dialing_max = (state.dialing_max * 2).min(MAX_DIALING);
        state.pause = Duration::ZERO;
        state.shortage = None;
    }

    /// Registers an HTTP/2 connection and takes its first stream.
    pub(super) fn opened_h2(self: &Arc<Self>, conn: Arc<H2<B>>) -> Lease<B> {
        conn.streams.store(1, Ordering::Relaxed);
        self.lock().h2.push(conn.clone());
        self.lease(Link::H2(conn))
    }

    /// There was no port or descriptor: nothing is opened for a moment, then one at a time.
    pub(super) fn ran_short(self: &Arc<Self>, error: &DialError) {
        self.counters.ports_exhausted.add(1);
        let mut state = self.lock();
        state.shortage = error.shortage();
        if state.paused {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        state.paused = true;
        state.dialing_max = 1;
        state.pause = (state.pause * 2).clamp(PAUSE_MIN, MAX_PAUSE);
        let pause = Pause { home: self.clone(), lasts: state.pause };
        drop(state);
        runtime.spawn(async move {
            tokio::time::sleep(pause.lasts).await;
            drop(pause);
        });
    }

    /// The shortage that holds now.
    pub(super) fn shortage(&self) -> Option<DialError> {
        self.lock().shortage.as_ref().and_then(DialError::shortage)
    }

    pub(super) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.lock().limit = limit.clamp(1, MAX_CONNECTIONS);
        self.admit();
    }

    /// Closes what has been idle for too long, and forgets what is closed already.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut dead = Vec::new();
        let mut state = self.lock();
        for list in &mut state.idle {
            dead.extend(list.extract_if(.., |conn| conn.is_stale(now)));
        }
        let keep = self.config.idle_timeout;
        let dead_h2: Vec<_> = state.h2.extract_if(.., |conn| conn.is_stale(now, keep)).collect();
        drop(state);
        let expired = dead.iter().filter(|conn| !conn.sender.is_closed()).count()
            + dead_h2.iter().filter(|conn| !conn.sender.is_closed()).count();
        self.counters.expired.add(expired as u64);
    }

    /// Closes every idle connection, and each one in use when its request has ended.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        let idle = std::mem::take(&mut state.idle);
        let h2 = std::mem::take(&mut state.h2);
        drop(state);
        drop((idle, h2));
    }

    /// Whether no socket is left and none is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.open == 0 && state.waiters.is_empty()
    }

    pub(super) fn stats(&self) -> UpstreamStats {
        let state = self.lock();
        UpstreamStats {
            opened: self.counters.opened.value(),
            open_failures: self.counters.open_failures.value(),
            ports_exhausted: self.counters.ports_exhausted.value(),
            requests: self.counters.requests.value(),
            retries: self.counters.retries.value(),
            queued: self.counters.queued.value(),
            queue_full: self.counters.queue_full.value(),
            queue_timeouts: self.counters.queue_timeouts.value(),
            expired: self.counters.expired.value(),
            settled: self.counters.settled.value(),
            open: state.open,
            idle: state.idle.iter().map(Vec::len).sum(),
            streams: state.h2.iter().map(|conn| conn.streams.load(Ordering::Relaxed)).sum(),
            waiting: state.waiters.len(),
            limit: state.limit,
        }
    }
}

/// What the configuration and the budget allow.
pub(super) fn limit(config: &PoolConfig, id: &UpstreamId) -> usize {
    let asked = config.max_connections.unwrap_or_else(|| (config.budget)(&id.target));
    asked.clamp(1, MAX_CONNECTIONS)
}

impl<B: RequestBody> State<B> {
    fn idle_list(&mut self, shard: usize) -> &mut Vec<H1<B>> {
        if self.idle.len() <= shard {
            self.idle.resize_with(shard + 1, Vec::new);
        }
        #[expect(clippy::indexing_slicing, reason = "resized just above")]
        &mut self.idle[shard]
    }

    /// The newest idle connection of this thread, then of the others; or a stream.
    fn take(&mut self, home: &Slots<B>, shard: usize, dead: &mut Vec<H1<B>>) -> Option<Link<B>> {
        if !self.h2.is_empty() {
            self.h2.retain(|conn| conn.sender.is_ready());
            let free = self.h2.iter().find(|conn| {
                let max = conn.peer_max.streams.load(Ordering::Relaxed);
                let max = max.min(home.config.h2_max_streams);
                conn.streams.load(Ordering::Relaxed) < max.max(1)
            });
            if let Some(conn) = free {
                conn.streams.fetch_add(1, Ordering::Relaxed);
                return Some(Link::H2(conn.clone()));
            }
        }
        let count = self.idle.len();
        let mut now = None;
        for list in 0..count {
            let list = (shard + list) % count.max(1);
            let Some(list) = self.idle.get_mut(list) else { continue };
            while let Some(conn) = list.pop() {
                if conn.is_stale(*now.get_or_insert_with(Instant::now)) {
                    dead.push(conn);
                } else {
                    return Some(Link::H1(conn));
                }
            }
        }
        None
    }

    /// An idle connection to close, where all that there may be are open.
    fn surplus(&mut self, shard: usize) -> Option<H1<B>> {
        if self.open < self.limit {
            return None;
        }
        let count = self.idle.len();
        (0..count).find_map(|list| self.idle.get_mut((shard + list) % count.max(1))?.pop())
    }

    fn may_open(&self, config: &PoolConfig) -> bool {
        let room = match self.multiplexed {
            Some(false) => true,
            // One dial at a time: its streams serve all who wait.
            Some(true) => {
                let greeting = |conn: &Arc<H2<B>>| conn.peer_max.greeting.load(Ordering::Relaxed);
                self.dialing == 0
                    && self.h2.len() < config.h2_max_connections.max(1)
                    && !self.h2.iter().any(greeting)
            }
            None => self.dialing == 0,
        };
        room && !self.paused && self.open < self.limit && self.dialing < self.dialing_max
    }
}

impl<B> H1<B> {
    fn is_stale(&self, now: Instant) -> bool
    where
        B: RequestBody,
    {
        !self.sender.is_ready() || now.saturating_duration_since(self.since) >= self.keep
    }
}

impl<B: RequestBody> H2<B> {
    fn is_stale(&self, now: Instant, keep: Duration) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        !self.sender.is_ready()
            || self.streams.load(Ordering::Relaxed) == 0
                && now.saturating_duration_since(since) >= keep
    }
}

impl<B: RequestBody> Lease<B> {
    pub(super) fn new_h1(home: &Arc<Slots<B>>, conn: H1<B>) -> Lease<B> {
        home.lease(Link::H1(conn))
    }

    pub(super) fn link(&mut self) -> Option<&mut Link<B>> {
        self.link.as_mut()
    }

    /// Whether the peer has closed the connection, as the kernel sees it now. Only of one that was
    /// used before; a new one was open a moment ago.
    pub(super) fn is_gone(&self) -> bool {
        match &self.link {
            Some(Link::H1(conn)) => conn.reused && conn.look.is_closed(),
            Some(Link::H2(conn)) => conn.look.is_closed(),
            None => true,
        }
    }

    /// Nobody uses this connection any more; the exchanges that it has may end.
    pub(super) fn give_up(mut self) {
        self.sent = true;
        if let Some(Link::H2(conn)) = &self.link {
            self.home.lock().h2.retain(|other| !Arc::ptr_eq(other, conn));
        }
    }

    /// The response has ended.
    pub(super) fn give_back(mut self, timer: Option<Pin<Box<Sleep>>>) {
        self.sent = false;
        if let Some(Link::H1(conn)) = &mut self.link
            && let Some(sleep) = timer
        {
            conn.timer = Some(Timer { shard: shard(), sleep });
        }
    }
}

impl<B: RequestBody> Drop for Lease<B> {
    fn drop(&mut self) {
        match self.link.take() {
            Some(Link::H1(conn)) if !self.sent => self.home.take_back(conn),
            Some(Link::H1(_)) | None => {}
            Some(Link::H2(conn)) => {
                let state = self.home.lock();
                conn.streams.fetch_sub(1, Ordering::Relaxed);
                *conn.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                let wanted = !state.waiters.is_empty();
                drop(state);
                if wanted {
                    self.home.admit();
                }
            }
        }
    }
}

impl<B: RequestBody> Drop for Permit<B> {
    fn drop(&mut self) {
        self.home.lock().open -= 1;
        self.home.admit();
    }
}

impl<B: RequestBody> Opening<B> {
    /// The permit, for the socket that now exists.
    pub(super) fn permit(&mut self) -> Option<Permit<B>> {
        self.permit.take()
    }
}

impl<B: RequestBody> Drop for Opening<B> {
    fn drop(&mut self) {
        self.home.lock().dialing -= 1;
        if self.permit.take().is_none() {
            // Otherwise the permit's own drop serves the queue.
            self.home.admit();
        }
    }
}

impl<B: RequestBody> Drop for Ticket<B> {
    fn drop(&mut self) {
        let mut state = self.home.lock();
        let place = state.waiters.binary_search_by_key(&self.ticket, |waiter| waiter.ticket);
        let left = place.ok().and_then(|place| state.waiters.remove(place));
        drop(state);
        drop(left);
    }
}

struct Settling<B: RequestBody> {
    home: Arc<Slots<B>>,
}

impl<B: RequestBody> Drop for Settling<B> {
    fn drop(&mut self) {
        self.home.lock().settling -= 1;
        self.home.admit();
    }
}

struct Pause<B: RequestBody> {
    home: Arc<Slots<B>>,
    lasts: Duration,
}

impl<B: RequestBody> Drop for Pause<B> {
    fn drop(&mut self) {
        self.home.lock().paused = false;
        self.home.admit();
    }
}
