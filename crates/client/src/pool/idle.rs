//! HTTP/1.1 connections between two requests: one list a thread, the newest first.
//!
//! It knows neither how many there may be nor who waits for one.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::look::Look;
use super::outgoing::{Outgoing, RequestBody};
use super::plain::{Plain, RESPONSE_FIELDS, RESPONSE_HEAD_BYTES, Wire};

/// Threads that have an idle list of their own; beyond that they share.
const MAX_SHARDS: usize = 64;

/// The connections that nobody uses.
pub(super) struct Idle<B> {
    lists: Vec<Vec<H1<B>>>,
}

/// An HTTP/1.1 connection between two requests, or lent to one.
pub(super) struct H1<B> {
    pub(super) driver: Driver<B>,
    pub(super) look: Arc<Look>,
    shard: usize,
    pub(super) timer: Option<Timer>,
    /// How long it may be idle.
    pub(super) keep: Duration,
    pub(super) reused: bool,
    since: Instant,
    /// When it is too old for a request; none: never.
    ends: Option<Instant>,
    _wanted: Wanted,
}

/// As long as it is there, a connection that ends does so because of its peer.
struct Wanted(Arc<Look>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.leave_to_peer(false);
    }
}

/// Who writes and reads on a connection.
pub(super) enum Driver<B> {
    /// Whoever has it.
    Plain(Plain),
    /// A task of hyper's.
    Hyper(http1::SendRequest<Outgoing<B>>),
}

impl<B: RequestBody> Driver<B> {
    /// Gives a connection to hyper, whose task runs where this is called.
    pub(super) async fn hyper(wire: Box<dyn Wire>) -> Result<Driver<B>, hyper::Error> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(RESPONSE_FIELDS)
            .max_header_size(RESPONSE_HEAD_BYTES)
            .handshake(TokioIo::new(wire))
            .await?;
        tokio::spawn(async move {
            // What went wrong is told to the request that was under way; without one, nobody asks.
            let _ = connection.with_upgrades().await;
        });
        Ok(Driver::Hyper(sender))
    }
}

/// A timer kept with its connection, so that a request registers none of its own. It belongs
/// to the runtime of the thread that made it.
pub(super) struct Timer {
    pub(super) shard: usize,
    pub(super) sleep: Pin<Box<Sleep>>,
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

impl<B: RequestBody> Idle<B> {
    pub(super) fn new() -> Idle<B> {
        Idle { lists: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// The connection's thread has it next.
    pub(super) fn put(&mut self, conn: H1<B>) {
        let shard = conn.shard;
        if self.lists.len() <= shard {
            self.lists.resize_with(shard + 1, Vec::new);
        }
        if let Some(list) = self.lists.get_mut(shard) {
            list.push(conn);
        }
    }

    /// The newest connection of this thread, then of the others. What turns out to be stale goes to
    /// `dead`.
    pub(super) fn take(&mut self, shard: usize, dead: &mut Vec<H1<B>>) -> Option<H1<B>> {
        let count = self.lists.len();
        let mut now = None;
        for list in 0..count {
            let list = (shard + list) % count.max(1);
            let Some(list) = self.lists.get_mut(list) else { continue };
            while let Some(mut conn) = list.pop() {
                if !conn.disarm() || conn.is_stale(*now.get_or_insert_with(Instant::now)) {
                    dead.push(conn);
                } else {
                    return Some(conn);
                }
            }
        }
        None
    }

    /// Any connection, to close it.
    pub(super) fn take_any(&mut self, shard: usize) -> Option<H1<B>> {
        let count = self.lists.len();
        (0..count).find_map(|list| self.lists.get_mut((shard + list) % count.max(1))?.pop())
    }

    /// Those that were idle for too long, or are closed.
    pub(super) fn take_stale(&mut self, now: Instant) -> Vec<H1<B>> {
        let mut stale = Vec::new();
        for list in &mut self.lists {
            stale.extend(list.extract_if(.., |conn| conn.is_stale(now)));
        }
        stale
    }
}

impl<B: RequestBody> H1<B> {
    /// A connection that was just made; nobody has used it.
    pub(super) fn new(
        driver: Driver<B>,
        look: Arc<Look>,
        keep: Duration,
        ends: Option<Instant>,
    ) -> H1<B> {
        let (shard, since) = (shard(), Instant::now());
        look.leave_to_peer(true);
        let _wanted = Wanted(Arc::clone(&look));
        H1 { driver, look, shard, timer: None, keep, reused: false, since, ends, _wanted }
    }

    /// Whether it is too old for another request.
    pub(super) fn is_old(&self) -> bool {
        self.ends.is_some_and(|ends| self.since >= ends)
    }

    /// When its last request has ended.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// A request on it has ended.
    pub(super) fn used(&mut self) {
        self.reused = true;
        self.since = Instant::now();
    }

    /// Whether the peer has closed it, as the kernel sees it now. Only of one that was used before; a
    /// new one was open a moment ago. `repeatable`: what is sent on it may be sent again. Then what was
    /// heard of a connection that rings by itself is enough.
    pub(super) fn is_gone(&self, repeatable: bool) -> bool {
        let heard = repeatable && matches!(self.driver, Driver::Plain(_));
        self.reused && !heard && self.look.is_closed()
    }

    /// Whether a request may be sent on it, as far as that was heard.
    pub(super) fn is_ready(&self) -> bool {
        match &self.driver {
            Driver::Plain(plain) => plain.is_ready(),
            Driver::Hyper(sender) => sender.is_ready(),
        }
    }

    /// Whether it is not to be used any more, as far as that was heard.
    pub(super) fn is_closed(&self) -> bool {
        match &self.driver {
            // What is not ready when it comes back never will be.
            Driver::Plain(plain) => !plain.is_ready(),
            Driver::Hyper(sender) => sender.is_closed(),
        }
    }

    /// Nobody uses it for now. False: it is not to be used any more.
    pub(super) fn arm(&mut self) -> bool {
        match &mut self.driver {
            Driver::Plain(plain) => plain.arm(),
            Driver::Hyper(_) => true,
        }
    }

    /// Somebody uses it. False: it is not to be used any more.
    pub(super) fn disarm(&mut self) -> bool {
        match &mut self.driver {
            Driver::Plain(plain) => plain.disarm(),
            Driver::Hyper(_) => true,
        }
    }

    /// The same, driven by hyper.
    pub(super) async fn driven(mut self) -> Result<H1<B>, hyper::Error> {
        if let Driver::Plain(plain) = self.driver {
            self.driver = Driver::hyper(plain.into_wire()).await?;
        }
        Ok(self)
    }

    fn is_stale(&self, now: Instant) -> bool {
        !self.is_ready()
            || now.saturating_duration_since(self.since) >= self.keep
            || self.ends.is_some_and(|ends| now >= ends)
    }
}
