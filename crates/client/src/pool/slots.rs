//! One upstream's connections, places and queue under one short lock, and the guards that bring
//! things back.
//!
//! What there is to count and to order is in `places`, `queue`, `idle` and `streams`; here it is
//! decided who gets what. Nothing is awaited, woken into this module or dropped with side effects
//! while the lock is held. Three guards
//! bring things back by `Drop`: [`Permit`] a socket, [`Opening`] the right to open one, [`Lease`] a
//! connection (or a stream of one).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::config::{PoolConfig, Protocol, UpstreamId};
use super::idle::{Driver, H1, Idle, Timer, shard};
use super::outgoing::RequestBody;
use super::places::Places;
use super::plain::Plain;
use super::queue::{Queue, Spot, Wish};
use super::rate::Rate;
use super::shared::Shared;
use super::stats::UpstreamStats;
use super::streams::{H2, Streams};
use super::terms::Terms;
use crate::dial::{DialError, Dialer};

/// How long a returned connection may take to become ready before it is closed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// One upstream's connections.
pub(super) struct Slots<B: RequestBody> {
    pub(super) id: UpstreamId,
    pub(super) name: String,
    pub(super) host: HeaderValue,
    pub(super) dialer: Dialer,
    pub(super) config: PoolConfig,
    pub(super) shared: Arc<Shared>,
    /// How many addresses the upstream has, this one among them.
    among: AtomicUsize,
    pub(super) sweeping: AtomicBool,
    /// Whether ports may be short; the places say whether they are.
    short: AtomicBool,
    state: Mutex<State<B>>,
}

struct State<B: RequestBody> {
    places: Places,
    queue: Queue<Grant<B>>,
    idle: Idle<B>,
    streams: Streams<B>,
    /// How fast places come free.
    rate: Rate,
    /// Known once a connection was made.
    multiplexed: Option<bool>,
    retired: bool,
}

/// What a waiter gets.
pub(super) enum Grant<B: RequestBody> {
    Lease(Lease<B>),
    Open(Opening<B>),
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
    /// Whether its port is free once its socket is gone: no TIME_WAIT holds it.
    pub(super) port_is_free: bool,
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
    /// Nobody else may wait; a place comes free for this one after so many seconds.
    Full(u32),
}

/// A place in the queue; dropping it leaves the queue.
pub(super) struct Ticket<B: RequestBody> {
    home: Arc<Slots<B>>,
    spot: Spot,
    pub(super) granted: oneshot::Receiver<Grant<B>>,
}

impl<B: RequestBody> Slots<B> {
    pub(super) fn new(
        id: UpstreamId,
        dialer: Dialer,
        config: PoolConfig,
        shared: Arc<Shared>,
        among: usize,
    ) -> Slots<B> {
        let multiplexed = match id.protocol {
            Protocol::Http1 => Some(false),
            Protocol::Http2 => Some(true),
            Protocol::Auto => id.target.tls.is_none().then_some(false),
        };
        let limit = config.limit(&id, among);
        Slots {
            name: id.target.to_string(),
            host: HeaderValue::from_str(&id.target.authority())
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            id,
            dialer,
            config,
            shared,
            among: AtomicUsize::new(among),
            sweeping: AtomicBool::new(false),
            short: AtomicBool::new(false),
            state: Mutex::new(State {
                places: Places::new(limit),
                queue: Queue::new(),
                idle: Idle::new(),
                streams: Streams::new(),
                rate: Rate::new(Instant::now()),
                multiplexed,
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
        (state.multiplexed != Some(true)).then_some(state.places.limit())
    }

    /// A connection, the right to open one, or a place in the queue (with `first`, at its
    /// front: for a request that had its turn already). Where the queue is full, the newest request of
    /// the caller with most of them gives way to one of a caller with fewer. With `fresh`, no connection that was used
    /// before; where connections are shared (HTTP/2) that asks nothing.
    pub(super) fn find(self: &Arc<Self>, first: bool, fresh: bool, terms: &Terms<'_>) -> Found<B> {
        let shard = shard();
        let mut dead = Vec::new();
        let mut state = self.lock();
        let fresh = fresh && state.multiplexed != Some(true);
        if fresh {
            if state.may_open(&self.config) {
                self.take_place(&mut state);
                drop(state);
                return Found::Grant(Grant::Open(self.opening()));
            }
            // An old one makes room; when it is closed the queue is served.
            dead.extend(state.surplus(shard));
        } else if let Some(link) = state.take(&self.config, shard, &mut dead) {
            drop(state);
            return Found::Grant(Grant::Lease(self.lease(link)));
        } else if state.queue.exceeds_settling(1) && state.may_open(&self.config) {
            self.take_place(&mut state);
            drop(state);
            return Found::Grant(Grant::Open(self.opening()));
        }
        let caller = terms.caller.map_or(0, |caller| caller());
        let mut displaced = None;
        if state.queue.len() >= self.config.max_queue {
            displaced = state.queue.displace(caller);
            if displaced.is_none() {
                let ahead = state.queue.len();
                let wait_s = state.rate.wait_s(Instant::now(), ahead);
                drop(state);
                self.shared.counters.queue_full.add(1);
                return Found::Full(wait_s);
            }
        }
        let (spot, granted) = state.queue.join(Wish { shard, fresh, caller }, first);
        drop(state);
        // Its request hears of it and is counted there.
        drop(displaced);
        self.shared.counters.queued.add(1);
        Found::Wait(Ticket { home: self.clone(), spot, granted })
    }

    /// After how many seconds a place comes free for one more.
    pub(super) fn wait_s(&self) -> u32 {
        let mut state = self.lock();
        let ahead = state.queue.len();
        state.rate.wait_s(Instant::now(), ahead)
    }

    fn take_place(&self, state: &mut State<B>) {
        state.places.take();
        if state.places.is_short() {
            self.short.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request has to wait because there are no ports to open a connection.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed) && {
            let state = self.lock();
            let has_one =
                state.idle.len() > 0 || state.multiplexed == Some(true) && state.places.open() > 0;
            state.places.is_short() && !has_one
        }
    }

    /// Whether only ports are left that are kept back.
    pub(super) fn is_at_reserve(&self) -> bool {
        self.lock().places.is_at_reserve()
    }

    /// A look at its ports begins.
    pub(super) fn begin_look(&self) {
        self.lock().places.begin_look();
    }

    /// So many sockets may be opened until the next look; none: nothing is known.
    pub(super) fn looked(self: &Arc<Self>, room: Option<u32>) {
        let mut state = self.lock();
        state.places.looked(room);
        self.short.store(state.places.is_short(), Ordering::Relaxed);
        let waits = !state.queue.is_empty();
        drop(state);
        if waits {
            self.admit();
        }
    }

    /// Serves the queue with what there is.
    pub(super) fn admit(self: &Arc<Self>) {
        loop {
            let mut dead = Vec::new();
            let mut state = self.lock();
            let Some(Wish { shard, fresh, .. }) = state.queue.front() else { return };
            let grant = if fresh && state.may_open(&self.config) {
                self.take_place(&mut state);
                Grant::Open(self.opening())
            } else if fresh && state.multiplexed != Some(true) {
                dead.extend(state.surplus(shard));
                return;
            } else if let Some(link) = state.take(&self.config, shard, &mut dead) {
                Grant::Lease(self.lease(link))
            } else if state.queue.exceeds_settling(0) && state.may_open(&self.config) {
                self.take_place(&mut state);
                Grant::Open(self.opening())
            } else {
                return;
            };
            let waiter = state.queue.pop();
            drop(state);
            if let Some(waiter) = waiter {
                // A waiter that just left: dropping the grant brings it back, and this goes on.
                waiter.grant(grant);
            }
        }
    }

    fn lease(self: &Arc<Self>, link: Link<B>) -> Lease<B> {
        Lease { home: self.clone(), link: Some(link), sent: false }
    }

    fn opening(self: &Arc<Self>) -> Opening<B> {
        // Until there is a socket, nothing holds a port.
        let permit = Permit { home: self.clone(), port_is_free: true };
        Opening { home: self.clone(), permit: Some(permit) }
    }

    /// A connection came back, ready or not.
    fn take_back(self: &Arc<Self>, mut conn: H1<B>) {
        if conn.is_closed() {
            return;
        }
        if !conn.is_ready() {
            self.settle(conn);
            return;
        }
        conn.used();
        if conn.is_old() || !conn.arm() {
            // Closing it serves the queue.
            return;
        }
        let mut state = self.lock();
        state.rate.note(conn.since());
        if state.queue.front().is_some_and(|wish| wish.fresh) {
            // Closing it makes room for the one that is wanted.
            drop(state);
            drop(conn);
        } else if let Some(waiter) = state.queue.pop() {
            drop(state);
            // If it rang just now, the waiter finds it closed.
            conn.disarm();
            waiter.grant(Grant::Lease(self.lease(Link::H1(conn))));
        } else if !state.retired && state.places.open() <= state.places.limit() {
            state.idle.put(conn);
        }
    }

    /// Waits aside until a returned connection is ready for its next request.
    fn settle(self: &Arc<Self>, mut conn: H1<B>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.lock().queue.settling();
        self.shared.counters.settled.add(1);
        let settling = Settling { home: self.clone() };
        runtime.spawn(async move {
            let sender = match &mut conn.driver {
                Driver::Hyper(sender) => sender,
                Driver::Plain(plain) => return plain.end().await,
            };
            let ready = tokio::time::timeout(SETTLE_TIMEOUT, sender.ready()).await;
            let home = settling.home.clone();
            if matches!(ready, Ok(Ok(()))) {
                // In this order: a waiter gets this connection and not the right to open one.
                home.lock().queue.settled();
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
    fn opened(&self, multiplexed: bool) -> MutexGuard<'_, State<B>> {
        self.shared.counters.opened.add(1);
        let mut state = self.lock();
        state.multiplexed = Some(multiplexed);
        state.places.opened();
        state
    }

    /// An HTTP/1.1 connection was made; lends it out.
    pub(super) fn opened_h1(self: &Arc<Self>, conn: H1<B>) -> Lease<B> {
        drop(self.opened(false));
        self.lease(Link::H1(conn))
    }

    /// An HTTP/2 connection was made; lends its first stream out.
    pub(super) fn opened_h2(self: &Arc<Self>, conn: H2<B>) -> Lease<B> {
        let conn = Arc::new(conn);
        self.opened(true).streams.put(conn.clone());
        self.lease(Link::H2(conn))
    }

    /// There was no port or descriptor: nothing is opened for a moment, then one at a time.
    pub(super) fn ran_short(self: &Arc<Self>, error: &DialError) {
        self.shared.counters.ports_exhausted.add(1);
        self.short.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.places.ran_short(error);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(lasts) = state.places.pause() else { return };
        drop(state);
        let pause = Pause { home: self.clone() };
        runtime.spawn(async move {
            tokio::time::sleep(lasts).await;
            drop(pause);
        });
    }

    /// The shortage that holds now.
    pub(super) fn shortage(&self) -> Option<DialError> {
        self.lock().places.shortage()
    }

    /// Asks again how many connections there may be. May block briefly.
    pub(super) fn ask_limit(self: &Arc<Self>) {
        let limit = self.config.limit(&self.id, self.among.load(Ordering::Relaxed));
        self.lock().places.set_limit(limit);
        self.admit();
    }

    /// The upstream has so many addresses now. May block briefly.
    pub(super) fn share(self: &Arc<Self>, among: usize) {
        if self.among.swap(among, Ordering::Relaxed) != among {
            self.ask_limit();
        }
    }

    /// Closes what has been idle for too long, and forgets what is closed already.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let dead = state.idle.take_stale(now);
        let dead_h2 = state.streams.take_stale(now, self.config.idle_timeout);
        drop(state);
        let expired = dead.iter().filter(|conn| !conn.is_closed()).count()
            + dead_h2.iter().filter(|conn| !conn.sender.is_closed()).count();
        self.shared.counters.expired.add(expired as u64);
    }

    /// Closes every idle connection, and each one in use when its request has ended.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        let idle = std::mem::replace(&mut state.idle, Idle::new());
        let streams = std::mem::replace(&mut state.streams, Streams::new());
        drop(state);
        drop((idle, streams));
    }

    /// Whether no socket is left and none is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.places.open() == 0 && state.queue.is_empty()
    }

    pub(super) fn stats(&self) -> UpstreamStats {
        let state = self.lock();
        UpstreamStats {
            open: state.places.open(),
            idle: state.idle.len(),
            streams: state.streams.in_use(),
            waiting: state.queue.len(),
            limit: state.places.limit(),
            short: usize::from(state.places.is_short()),
            ..self.shared.counters.stats()
        }
    }
}

impl<B: RequestBody> Link<B> {
    /// A request is put on the connection; whether one was before.
    pub(super) fn carries(&self) -> bool {
        match self {
            Link::H1(conn) => conn.reused,
            Link::H2(conn) => conn.carries(),
        }
    }
}

impl<B: RequestBody> State<B> {
    /// A stream, or the newest idle connection.
    fn take(
        &mut self,
        config: &PoolConfig,
        shard: usize,
        dead: &mut Vec<H1<B>>,
    ) -> Option<Link<B>> {
        if let Some(conn) = self.streams.take(config.h2_max_streams) {
            return Some(Link::H2(conn));
        }
        self.idle.take(shard, dead).map(Link::H1)
    }

    /// An idle connection to close, where all that there may be are open.
    fn surplus(&mut self, shard: usize) -> Option<H1<B>> {
        if self.places.open() < self.places.limit() {
            return None;
        }
        self.idle.take_any(shard)
    }

    fn may_open(&self, config: &PoolConfig) -> bool {
        let wanted = match self.multiplexed {
            Some(false) => true,
            // One dial at a time: its streams serve all who wait.
            Some(true) => {
                !self.places.is_dialing() && self.streams.wants_another(config.h2_max_connections)
            }
            None => !self.places.is_dialing(),
        };
        wanted && self.places.has_room()
    }
}

impl<B: RequestBody> Lease<B> {
    pub(super) fn link(&mut self) -> Option<&mut Link<B>> {
        self.link.as_mut()
    }

    /// The connection, if whoever has it writes and reads on it.
    pub(super) fn plain(&mut self) -> Option<&mut Plain> {
        match &mut self.link {
            Some(Link::H1(H1 { driver: Driver::Plain(plain), .. })) => Some(plain),
            _ => None,
        }
    }

    /// Gives a connection of HTTP/1.1 to hyper, if hyper does not have it yet.
    pub(super) async fn drive(&mut self) -> Result<(), hyper::Error> {
        match self.link.take() {
            Some(Link::H1(conn)) => self.link = Some(Link::H1(conn.driven().await?)),
            link => self.link = link,
        }
        Ok(())
    }

    /// Whether the peer has closed the connection, as the kernel sees it now. `repeatable`: as
    /// [`H1::is_gone`] has it.
    pub(super) fn is_gone(&self, repeatable: bool) -> bool {
        match &self.link {
            Some(Link::H1(conn)) => conn.is_gone(repeatable),
            Some(Link::H2(conn)) => conn.is_gone(),
            None => true,
        }
    }

    /// Nobody uses this connection any more; the exchanges that it has may end.
    pub(super) fn give_up(mut self) {
        self.sent = true;
        if let Some(Link::H2(conn)) = &self.link {
            self.home.lock().streams.forget(conn);
        }
    }

    /// The connection has ended; nothing of it is kept.
    ///
    /// A request may cross the end of its connection: hyper's task drains its channel of requests,
    /// and then one more is put there. Its sender hears of that when all handles on the channel are
    /// gone, and not before.
    pub(super) fn let_go(&mut self) {
        if let Some(Link::H2(conn)) = &self.link {
            self.home.lock().streams.forget(conn);
        }
        self.end();
    }

    fn end(&mut self) {
        match self.link.take() {
            Some(Link::H1(conn)) if !self.sent => self.home.take_back(conn),
            Some(Link::H1(_)) | None => {}
            Some(Link::H2(conn)) => {
                let mut state = self.home.lock();
                state.rate.note(Instant::now());
                conn.ended();
                let wanted = !state.queue.is_empty();
                drop(state);
                if wanted {
                    self.home.admit();
                }
            }
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
        self.end();
    }
}

impl<B: RequestBody> Drop for Permit<B> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.home.lock();
        state.places.free(self.port_is_free);
        state.rate.note(now);
        drop(state);
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
        self.home.lock().places.dialed();
        if self.permit.take().is_none() {
            // Otherwise the permit's own drop serves the queue.
            self.home.admit();
        }
    }
}

impl<B: RequestBody> Drop for Ticket<B> {
    fn drop(&mut self) {
        let left = self.home.lock().queue.leave(self.spot);
        drop(left);
    }
}

struct Settling<B: RequestBody> {
    home: Arc<Slots<B>>,
}

impl<B: RequestBody> Drop for Settling<B> {
    fn drop(&mut self) {
        self.home.lock().queue.settled();
        self.home.admit();
    }
}

/// Nothing is opened while it lasts.
struct Pause<B: RequestBody> {
    home: Arc<Slots<B>>,
}

impl<B: RequestBody> Drop for Pause<B> {
    fn drop(&mut self) {
        let mut state = self.home.lock();
        state.places.resume();
        self.home.short.store(state.places.is_short(), Ordering::Relaxed);
        drop(state);
        self.home.admit();
    }
}
