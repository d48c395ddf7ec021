//! Request bodies that are in progress: whose they are, and which one is the slowest.
//!
//! On HTTP/1.1 a body that is not over holds a connection to the upstream. One address may hold so
//! many of them (a quarter), the others wait for their turn; and when requests wait for a
//! connection, the slowest body that holds one is ended first.
//!
//! It knows no HTTP: an upload is an address, a count of bytes and a waker.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// The most requests of one address that wait for their turn.
const MAX_WAITING: usize = 256;
/// A body is not judged before this.
const YOUNG: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: HashMap<IpAddr, Held>,
    all: Vec<Option<Arc<Upload>>>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// One body.
#[derive(Debug)]
pub(crate) struct Upload {
    began: Instant,
    got: AtomicU64,
    /// The caller is waited for.
    waits: AtomicBool,
    /// Bounds apply to it: it is no stream, and its answer has not begun.
    bounded: AtomicBool,
    cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// An address's right to one more body; given on, or back, by `Drop`.
#[derive(Debug)]
pub(crate) struct Slot {
    uploads: Arc<Uploads>,
    address: IpAddr,
}

/// A body among all of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct InProgress {
    uploads: Arc<Uploads>,
    upload: Arc<Upload>,
    index: usize,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to one more body for this address, of at most `share`. Waits for it within a
    /// bound; none: in vain.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        share: usize,
        within: Duration,
    ) -> Option<Slot> {
        let address = site(address);
        let turn = {
            let mut state = self.lock();
            let held = state.addresses.entry(address).or_default();
            if held.count < share.max(1) {
                held.count += 1;
                return Some(Slot { uploads: Arc::clone(self), address });
            }
            held.waiting.retain(|waiter| !waiter.is_closed());
            if held.waiting.len() >= MAX_WAITING {
                return None;
            }
            let (give, turn) = oneshot::channel();
            held.waiting.push_back(give);
            turn
        };
        tokio::time::timeout(within, turn).await.ok()?.ok()
    }

    /// Notes a body.
    pub(crate) fn begin(self: &Arc<Self>) -> InProgress {
        let upload = Arc::new(Upload {
            began: Instant::now(),
            got: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            bounded: AtomicBool::new(true),
            cut: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let mut state = self.lock();
        let index = state.free.pop().unwrap_or(state.all.len());
        match state.all.get_mut(index) {
            Some(place) => *place = Some(Arc::clone(&upload)),
            None => state.all.push(Some(Arc::clone(&upload))),
        }
        drop(state);
        InProgress { uploads: Arc::clone(self), upload, index }
    }

    /// Ends the slowest body that brings less than `rate` bytes a second, if there is one.
    pub(crate) fn cut_slowest(&self, rate: u64, now: Instant) -> bool {
        let state = self.lock();
        let slowest = state
            .all
            .iter()
            .flatten()
            .filter(|upload| upload.may_be_cut())
            .filter_map(|upload| Some((upload.rate(now)?, upload)))
            .filter(|(bytes_per_s, _)| *bytes_per_s < rate)
            .min_by_key(|(bytes_per_s, upload)| (*bytes_per_s, upload.began))
            .map(|(_, upload)| Arc::clone(upload));
        drop(state);
        slowest.is_some_and(|upload| upload.end())
    }
}

/// The address as it is counted: whoever has an IPv6 address has its whole /64.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Upload {
    fn may_be_cut(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
            && self.bounded.load(Ordering::Relaxed)
            && !self.cut.load(Ordering::Relaxed)
    }

    /// Bytes a second so far; none: too young to say.
    fn rate(&self, now: Instant) -> Option<u64> {
        let age = now.saturating_duration_since(self.began);
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        (age >= YOUNG).then(|| {
            self.got.load(Ordering::Relaxed).saturating_mul(1000).checked_div(ms).unwrap_or(0)
        })
    }

    fn end(&self) -> bool {
        let ended = !self.cut.swap(true, Ordering::AcqRel);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
        ended
    }

    /// The bounds on bodies do not apply any more.
    pub(crate) fn unbind(&self) {
        self.bounded.store(false, Ordering::Release);
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.bounded.load(Ordering::Acquire)
    }
}

impl InProgress {
    pub(crate) fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }

    /// So many bytes came.
    pub(crate) fn got(&self, bytes: u64) {
        self.upload.got.fetch_add(bytes, Ordering::Relaxed);
        self.upload.waits.store(false, Ordering::Relaxed);
    }

    /// The caller is waited for. `Ready`: the body is to end for the sake of others.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        let upload = &self.upload;
        if !upload.waits.swap(true, Ordering::AcqRel) || !upload.cut.load(Ordering::Acquire) {
            *upload.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        if upload.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.uploads.lock();
        if let Some(place) = state.all.get_mut(self.index) {
            *place = None;
            state.free.push(self.index);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        loop {
            let mut state = self.uploads.lock();
            let Some(held) = state.addresses.get_mut(&self.address) else { return };
            let Some(next) = held.waiting.pop_front() else {
                held.count -= 1;
                if held.count == 0 {
                    state.addresses.remove(&self.address);
                }
                return;
            };
            drop(state);
            if next.is_closed() {
                continue;
            }
            // The right goes on as it is. One that nobody takes any more is dropped, and comes by
            // here again.
            let _ = next.send(Slot { uploads: Arc::clone(&self.uploads), address: self.address });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const LONG: Duration = Duration::from_secs(60);

    async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn an_address_holds_its_share_and_the_next_waits_for_its_turn() {
        let uploads = Arc::new(Uploads::default());
        let first = uploads.enter(HOME, 2, LONG).await.unwrap();
        let second = uploads.enter(HOME, 2, LONG).await.unwrap();
        assert!(uploads.enter(HOME, 2, Duration::from_millis(1)).await.is_none());
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
        assert!(uploads.enter(other, 2, Duration::ZERO).await.is_some());
        let mut waits = std::pin::pin!(uploads.enter(HOME, 2, LONG));
        assert!(is_pending(waits.as_mut()).await);
        drop(first);
        let third = waits.await.unwrap();
        assert!(uploads.enter(HOME, 2, Duration::from_millis(1)).await.is_none());
        drop((second, third));
        assert!(uploads.lock().addresses.is_empty(), "all rights came back");
    }

    /// A waiter that leaves just as its turn comes loses no right.
    #[tokio::test]
    async fn a_right_that_nobody_takes_goes_on() {
        let uploads = Arc::new(Uploads::default());
        let first = uploads.enter(HOME, 1, LONG).await.unwrap();
        {
            let mut leaves = std::pin::pin!(uploads.enter(HOME, 1, LONG));
            assert!(is_pending(leaves.as_mut()).await);
            drop(first);
        }
        assert!(uploads.enter(HOME, 1, Duration::ZERO).await.is_some());
        assert!(uploads.lock().addresses.is_empty());
    }

    #[test]
    fn the_slowest_that_waits_goes_first() {
        let uploads = Arc::new(Uploads::default());
        let bodies = [100, 10, 1_000_000, 1].map(|bytes| {
            let body = uploads.begin();
            body.got(bytes);
            body
        });
        let mut cx = Context::from_waker(Waker::noop());
        for body in &bodies[..3] {
            assert!(body.poll_cut(&mut cx).is_pending());
        }
        let now = Instant::now();
        assert!(!uploads.cut_slowest(1024, now), "all are too young");
        let later = now + Duration::from_secs(2);
        assert!(uploads.cut_slowest(1024, later) && bodies[1].poll_cut(&mut cx).is_ready());
        bodies[0].upload().unbind();
        // What is fast, unbound, or not waited for stays.
        assert!(!uploads.cut_slowest(1024, later));
        assert!(bodies[0].poll_cut(&mut cx).is_pending());
    }
}
