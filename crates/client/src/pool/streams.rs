//! HTTP/2 connections of one upstream, which requests share.
//!
//! It knows neither how many sockets there may be nor who waits for a stream.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;

use super::look::Look;
use super::outgoing::{Outgoing, RequestBody};

/// The HTTP/2 connections.
pub(super) struct Streams<B> {
    connections: Vec<Arc<H2<B>>>,
}

/// An HTTP/2 connection.
pub(super) struct H2<B> {
    pub(super) sender: http2::SendRequest<Outgoing<B>>,
    pub(super) look: Arc<Look>,
    /// Streams in use; changed under the lock of its [`Streams`] only.
    streams: AtomicUsize,
    /// The peer's limit, as last announced.
    peer_max: Arc<PeerMax>,
    /// A request was put on it.
    carried: AtomicBool,
    /// When the last stream ended; changed under the lock only.
    since: Mutex<Instant>,
    /// When it is too old for a request; none: never.
    ends: Option<Instant>,
}

/// How many streams a peer takes. Until its settings are here that is one, and more is worth
/// waiting for: nothing else is opened meanwhile.
#[derive(Debug)]
pub(super) struct PeerMax {
    streams: AtomicUsize,
    greeting: AtomicBool,
}

impl<B: RequestBody> Streams<B> {
    pub(super) fn new() -> Streams<B> {
        Streams { connections: Vec::new() }
    }

    /// Streams in use.
    pub(super) fn in_use(&self) -> usize {
        self.connections.iter().map(|conn| conn.streams.load(Ordering::Relaxed)).sum()
    }

    /// Whether one more connection is worth opening: there are fewer than `max`, and no peer is yet
    /// to say how many streams it takes.
    pub(super) fn wants_another(&self, max: usize) -> bool {
        self.connections.len() < max.max(1)
            && !self.connections.iter().any(|conn| conn.peer_max.is_awaited())
    }

    /// A new connection, with its first stream in use.
    pub(super) fn put(&mut self, conn: Arc<H2<B>>) {
        self.connections.push(conn);
    }

    /// A stream of the first connection that has one left; each takes `max` at most.
    pub(super) fn take(&mut self, max: usize) -> Option<Arc<H2<B>>> {
        if self.connections.is_empty() {
            return None;
        }
        self.connections.retain(|conn| conn.sender.is_ready() && !conn.is_old());
        let free = self.connections.iter().find(|conn| {
            let max = conn.peer_max.streams.load(Ordering::Relaxed).min(max);
            conn.streams.load(Ordering::Relaxed) < max.max(1)
        })?;
        free.streams.fetch_add(1, Ordering::Relaxed);
        Some(free.clone())
    }

    /// Nobody gets a stream of this one any more.
    pub(super) fn forget(&mut self, conn: &Arc<H2<B>>) {
        self.connections.retain(|other| !Arc::ptr_eq(other, conn));
    }

    /// Those that were idle for too long, or are closed.
    pub(super) fn take_stale(&mut self, now: Instant, keep: Duration) -> Vec<Arc<H2<B>>> {
        self.connections.extract_if(.., |conn| conn.is_stale(now, keep)).collect()
    }
}

impl<B: RequestBody> H2<B> {
    /// A connection that was just made, with its first stream in use.
    pub(super) fn new(
        sender: http2::SendRequest<Outgoing<B>>,
        look: Arc<Look>,
        peer_max: Arc<PeerMax>,
        ends: Option<Instant>,
    ) -> H2<B> {
        let (streams, since) = (AtomicUsize::new(1), Mutex::new(Instant::now()));
        H2 { sender, look, streams, peer_max, carried: AtomicBool::new(false), since, ends }
    }

    /// A request is put on it; whether one was before.
    pub(super) fn carries(&self) -> bool {
        self.carried.swap(true, Ordering::Relaxed)
    }

    /// Whether it is too old for another request. Those that it has go on.
    fn is_old(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// A stream has ended. To be called under the lock of its [`Streams`].
    pub(super) fn ended(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the peer has closed it, as the kernel sees it now.
    pub(super) fn is_gone(&self) -> bool {
        self.look.is_closed()
    }

    fn is_stale(&self, now: Instant, keep: Duration) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        !self.sender.is_ready()
            || self.ends.is_some_and(|ends| now >= ends)
            || self.streams.load(Ordering::Relaxed) == 0
                && now.saturating_duration_since(since) >= keep
    }
}

impl PeerMax {
    /// Before the peer's settings are here.
    pub(super) fn awaited() -> PeerMax {
        PeerMax { streams: AtomicUsize::new(1), greeting: AtomicBool::new(true) }
    }

    /// Whether the settings are still awaited.
    pub(super) fn is_awaited(&self) -> bool {
        self.greeting.load(Ordering::Relaxed)
    }

    /// What the peer takes now; says whether that is news.
    pub(super) fn learn(&self, streams: usize) -> bool {
        self.streams.swap(streams, Ordering::Relaxed) != streams
    }

    /// Nothing more is awaited.
    pub(super) fn settle(&self) {
        self.greeting.store(false, Ordering::Relaxed);
    }
}
