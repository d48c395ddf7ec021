//! One connection, as its places see it: is it idle, and was it told to close?

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Peer;

/// Set in the counter of exchanges once the connection was told to close.
const TOLD: u32 = 1 << 31;

/// See the module.
#[derive(Debug)]
pub struct Seat {
    peer: Peer,
    /// Its place in its peer's row. Changed under the lock of the places.
    ticket: AtomicU64,
    /// Exchanges under way, and [`TOLD`].
    exchanges: AtomicU32,
    idle_since_ms: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// While it lives, its connection has an exchange.
#[derive(Debug)]
pub struct Busy(Arc<Seat>);

impl Seat {
    pub(super) fn new(peer: Peer, ticket: u64, now_ms: u64) -> Seat {
        Seat {
            peer,
            ticket: AtomicU64::new(ticket),
            exchanges: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(now_ms),
            waker: Mutex::new(None),
        }
    }

    /// An exchange begins. One that begins on a connection that was told to close is served; the
    /// connection then closes after it.
    pub fn begin(&self) {
        self.exchanges.fetch_add(1, Ordering::AcqRel);
    }

    /// An exchange that was begun is over.
    pub fn end(&self, now_ms: u64) {
        self.idle_since_ms.store(now_ms, Ordering::Relaxed);
        self.exchanges.fetch_sub(1, Ordering::AcqRel);
    }

    /// An exchange, for as long as the guard lives. It does not move the time since which the
    /// connection is idle.
    pub fn busy(self: &Arc<Seat>) -> Busy {
        self.begin();
        Busy(Arc::clone(self))
    }

    /// Whether it carries no exchange and was not told to close.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchanges.load(Ordering::Acquire) == 0
    }

    /// Whether it was told to close.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.exchanges.load(Ordering::Acquire) & TOLD != 0
    }

    /// Ends when the connection is told to close: at once where it has no exchange, else after
    /// the exchanges that it has. One task waits at a time.
    pub async fn told(&self) {
        poll_fn(|cx| self.poll_told(cx)).await;
    }

    /// As [`Seat::told`].
    pub fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_told() {
            return Poll::Ready(());
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // Told between the look and the waker: nobody else would wake.
        if self.is_told() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Tells it to close, if it is idle.
    pub(super) fn tell(&self) -> bool {
        let told =
            self.exchanges.compare_exchange(0, TOLD, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if told {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        told
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn ticket(&self) -> u64 {
        self.ticket.load(Ordering::Relaxed)
    }

    pub(super) fn renumber(&self, ticket: u64) {
        self.ticket.store(ticket, Ordering::Relaxed);
    }

    pub(super) fn idle_since_ms(&self) -> u64 {
        self.idle_since_ms.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::AcqRel);
    }
}
