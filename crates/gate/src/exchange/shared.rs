//! What a connection and the exchanges on it tell each other.
//!
//! The guard of a connection keeps its deadlines by what is here; exchanges begin and end here, and
//! whoever ends a connection from elsewhere does so here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keepgate_serve::Seat;
use tokio::time::Instant;

use super::cut::Cut;

/// What a guard and the exchanges on its connection tell each other.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where milliseconds count from: the clock of all places.
    began: Instant,
    seat: Arc<Seat>,
    /// The connection is to end at once, with what it carries.
    killed: AtomicBool,
    /// Its socket is to be reset, not closed.
    resets: AtomicBool,
    /// The bound that ended it, if the guard did: one more than its place among all.
    cut: AtomicU8,
    /// The connection's task, for [`Shared::kill`].
    connection: Mutex<Option<Waker>>,
    /// When the last exchange ended, in milliseconds after `began`.
    ended_ms: AtomicU64,
    /// Exchanges whose answer is not over.
    open: AtomicUsize,
    /// Answers of which a part was given out and no more was asked for yet.
    owed: AtomicUsize,
    /// When such a part was last given or the next one asked for, in milliseconds after `began`.
    progress_ms: AtomicU64,
    /// Bytes pass as they are from now on.
    tunnel: AtomicBool,
    /// The guard holds bytes for the next exchange and wants to be woken.
    parked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    /// For a new connection with its place, on the clock of all places.
    pub(crate) fn new(seat: Arc<Seat>, began: std::time::Instant) -> Shared {
        let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Shared {
            began: began.into(),
            seat,
            killed: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            cut: AtomicU8::new(0),
            connection: Mutex::new(None),
            ended_ms: AtomicU64::new(now_ms),
            open: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            progress_ms: AtomicU64::new(0),
            tunnel: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            waker: Mutex::new(None),
        }
    }

    /// Since when no exchange is open, if none is.
    pub(crate) fn idle_since(&self) -> Instant {
        self.began + Duration::from_millis(self.ended_ms.load(Ordering::Relaxed))
    }

    /// From now on the connection is a tunnel.
    pub(crate) fn become_tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }

    /// Whether bytes pass as they are.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Acquire)
    }

    /// Whether another connection needs the place of this one.
    pub(crate) fn needs_to_go(&self) -> bool {
        self.seat.is_told()
    }

    /// Whether the socket is to be reset, not closed.
    pub(crate) fn resets(&self) -> bool {
        self.resets.load(Ordering::Acquire)
    }

    /// The connection's task asks: is it to end? With its exchanges (`Ready(true)`), or after them.
    pub(crate) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.killed.load(Ordering::Acquire) {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(cx.waker().clone());
        }
        if self.killed.load(Ordering::Acquire) {
            return Poll::Ready(true);
        }
        self.seat.poll_told(cx).map(|()| false)
    }

    /// As [`Shared::poll_told`], once the task is known.
    pub(crate) fn told(&self) -> Option<bool> {
        match (self.killed.load(Ordering::Acquire), self.seat.is_told()) {
            (true, _) => Some(true),
            (false, told) => told.then_some(false),
        }
    }

    /// Ends the connection with what it carries.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        let waker = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// When the connection closes, the caller is to see a reset: what it got is not all.
    pub(crate) fn reset(&self) {
        self.resets.store(true, Ordering::Release);
    }

    /// The bound that ended the connection, if the guard did; the first one counts.
    pub(crate) fn was_cut(&self) -> Option<Cut> {
        let place = self.cut.load(Ordering::Acquire).checked_sub(1)?;
        Cut::ALL.get(usize::from(place)).copied()
    }

    /// The guard ends the connection by this bound.
    pub(crate) fn cut_by(&self, cut: Cut) {
        let code = cut as u8 + 1;
        let _ = self.cut.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// An exchange begins.
    pub(crate) fn begin(&self) {
        self.seat.begin();
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// An exchange is over.
    pub(crate) fn end(&self) {
        let now_ms = self.now_ms();
        self.ended_ms.store(now_ms, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.seat.end(now_ms);
        if self.parked.swap(false, Ordering::AcqRel) {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// A part of an answer was given out.
    pub(crate) fn gave(&self) {
        self.owed.fetch_add(1, Ordering::AcqRel);
        self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// More of that answer is asked for, or it is over.
    pub(crate) fn taken(&self) {
        self.owed.fetch_sub(1, Ordering::AcqRel);
        self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether parts of answers wait for the caller and none has moved for so long.
    pub(crate) fn has_stalled(&self, stall: Duration) -> bool {
        let quiet = self.now_ms().saturating_sub(self.progress_ms.load(Ordering::Relaxed));
        self.owed.load(Ordering::Acquire) > 0 && u128::from(quiet) >= stall.as_millis()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an exchange is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// The guard holds bytes for the next exchange: it is woken at the end of this one.
    pub(crate) fn park(&self, cx: &Context<'_>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.parked.store(true, Ordering::Release);
    }
}

/// While it lives, its connection has an exchange.
///
/// On HTTP/2 a caller can stop taking an answer without the socket showing it; there it also
/// watches that what was given out is taken.
pub(crate) struct OpenExchange {
    shared: Arc<Shared>,
    watch: bool,
    owed: bool,
}

impl OpenExchange {
    /// For an exchange that the guard began (HTTP/1).
    pub(crate) fn begun(shared: Arc<Shared>) -> OpenExchange {
        OpenExchange { shared, watch: false, owed: false }
    }

    /// Begins one (HTTP/2).
    pub(crate) fn begin(shared: Arc<Shared>) -> OpenExchange {
        shared.begin();
        OpenExchange { shared, watch: true, owed: false }
    }

    /// A part of the answer was given out.
    pub(crate) fn gave(&mut self) {
        if self.watch && !self.owed {
            self.owed = true;
            self.shared.gave();
        }
    }

    /// What was given out is taken.
    pub(crate) fn taken(&mut self) {
        if self.owed {
            self.owed = false;
            self.shared.taken();
        }
    }
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        self.taken();
        self.shared.end();
    }
}
