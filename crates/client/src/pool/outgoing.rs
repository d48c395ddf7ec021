//! A request's body on its way: watched, and kept for another attempt.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// What may be a request's body.
pub trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static
{
}

/// The most of a request body that is kept, so that it can be sent again.
pub const KEPT_BODY: usize = 64 * 1024;

/// A request body as the connection sees it. A body that is empty from the start is dropped
/// at once, so that the request can be repeated without it.
pub(super) struct Outgoing<B> {
    body: Option<Reader<B>>,
}

/// One attempt's way through a body.
struct Reader<B> {
    source: Arc<Source<B>>,
    attempt: u32,
    /// Bytes of what is kept that this attempt has read.
    at: usize,
}

/// A request body over all attempts to send it.
pub(super) struct Source<B> {
    pub(super) watch: Arc<Watch>,
    state: Mutex<State<B>>,
}

struct State<B> {
    body: B,
    /// The attempt that may read; those before it are dead.
    attempt: u32,
    /// What was read so far. Copied: a slice would hold on to its whole buffer.
    kept: BytesMut,
    trailers: Option<HeaderMap>,
    /// Whether `kept` is all that was read.
    keeps: bool,
}

/// What became of a request body, seen from the waiting response.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    /// Milliseconds after `start` of the last sign of life.
    alive_ms: AtomicU64,
    /// The connection has asked for more than the client has sent.
    starved: AtomicBool,
    failed: AtomicBool,
}

impl Watch {
    /// Whether the body ended with an error.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether the connection waits for more of the body.
    pub(super) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
    }

    /// When something of the body was forwarded last.
    pub(super) fn alive(&self) -> Instant {
        self.start + Duration::from_millis(self.alive_ms.load(Ordering::Acquire))
    }

    fn sign_of_life(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.alive_ms.store(elapsed, Ordering::Release);
    }
}

impl<B: RequestBody> Source<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body from its beginning, for one more attempt; none: it was not kept.
    pub(super) fn again(self: &Arc<Self>) -> Option<Outgoing<B>> {
        let mut state = self.lock();
        if !state.keeps || self.watch.has_failed() {
            return None;
        }
        state.attempt += 1;
        let attempt = state.attempt;
        drop(state);
        Some(Outgoing { body: Some(Reader { source: Arc::clone(self), attempt, at: 0 }) })
    }
}

impl<B> State<B> {
    /// Notes what was read, while that is to be kept and is not too much.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.keeps {
            return;
        }
        if let Some(data) = frame.data_ref() {
            if self.kept.len() + data.len() > KEPT_BODY {
                self.keeps = false;
                self.kept = BytesMut::new();
            } else {
                self.kept.extend_from_slice(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }
}

impl<B: RequestBody> Outgoing<B> {
    /// `keeps`: the body may be sent again, as long as it is small.
    pub(super) fn new(body: B, keeps: bool) -> (Outgoing<B>, Option<Arc<Source<B>>>) {
        if body.is_end_stream() {
            return (Outgoing::empty(), None);
        }
        let watch = Arc::new(Watch {
            start: Instant::now(),
            alive_ms: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        let (kept, trailers) = (BytesMut::new(), None);
        let state = Mutex::new(State { body, attempt: 0, kept, trailers, keeps });
        let source = Arc::new(Source { watch, state });
        let reader = Reader { source: Arc::clone(&source), attempt: 0, at: 0 };
        (Outgoing { body: Some(reader) }, Some(source))
    }

    pub(super) fn empty() -> Outgoing<B> {
        Outgoing { body: None }
    }
}

impl<B: RequestBody> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(reader) = &mut self.get_mut().body else {
            return Poll::Ready(None);
        };
        let watch = &reader.source.watch;
        let mut state = reader.source.lock();
        if state.attempt != reader.attempt {
            // The connection of an attempt that was given up; nobody listens to it any more.
            return Poll::Ready(None);
        }
        if state.keeps && reader.at < state.kept.len() {
            let kept = Bytes::copy_from_slice(state.kept.get(reader.at..).unwrap_or_default());
            reader.at = state.kept.len();
            watch.sign_of_life();
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        if let Some(trailers) = state.trailers.clone().filter(|_| reader.at < usize::MAX) {
            // After trailers there is nothing.
            reader.at = usize::MAX;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        match &polled {
            Poll::Pending => watch.starved.store(true, Ordering::Release),
            Poll::Ready(frame) => {
                watch.sign_of_life();
                watch.starved.store(false, Ordering::Release);
                match frame {
                    Some(Ok(frame)) => {
                        state.keep(frame);
                        let trailers = frame.is_trailers();
                        reader.at = if trailers { usize::MAX } else { state.kept.len() };
                    }
                    Some(Err(_)) => watch.failed.store(true, Ordering::Release),
                    None => {}
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|reader| {
            let state = reader.source.lock();
            let read = !state.keeps || reader.at >= state.kept.len();
            let trailers = state.trailers.is_some() && reader.at < usize::MAX;
            read && !trailers && state.body.is_end_stream()
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(reader) = &self.body else { return SizeHint::with_exact(0) };
        let state = reader.source.lock();
        let again = if state.keeps { state.kept.len().saturating_sub(reader.at) as u64 } else { 0 };
        let hint = state.body.size_hint();
        let mut all = SizeHint::new();
        if let Some(upper) = hint.upper() {
            all.set_upper(upper.saturating_add(again).max(hint.lower()));
        }
        all.set_lower(hint.lower().saturating_add(again));
        all
    }
}
