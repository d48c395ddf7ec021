//! Bodies on their way: the request's, watched; the response's, which brings the connection back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::slots::Lease;
use super::upstream::RequestBody;

/// A request body as the connection sees it. A body that is empty from the start is dropped
/// at once, so that the request can be repeated without it.
pub(super) struct Outgoing<B> {
    body: Option<(B, Arc<Watch>)>,
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

    /// When the upstream's time to respond is over, given `timeout` after it had all there was
    /// to have; none: it is over.
    pub(super) fn extended(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.starved.load(Ordering::Acquire) {
            return Some(now + timeout);
        }
        let alive = Duration::from_millis(self.alive_ms.load(Ordering::Acquire));
        let end = self.start + alive + timeout;
        (end > now).then_some(end)
    }

    fn sign_of_life(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.alive_ms.store(elapsed, Ordering::Release);
    }
}

impl<B: RequestBody> Outgoing<B> {
    pub(super) fn new(body: B) -> (Outgoing<B>, Option<Arc<Watch>>) {
        if body.is_end_stream() {
            return (Outgoing::empty(), None);
        }
        let watch = Arc::new(Watch {
            start: Instant::now(),
            alive_ms: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        (Outgoing { body: Some((body, watch.clone())) }, Some(watch))
    }

    pub(super) fn empty() -> Outgoing<B> {
        Outgoing { body: None }
    }
}

impl<B: RequestBody> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some((body, watch)) = &mut self.get_mut().body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        match &polled {
            Poll::Pending => watch.starved.store(true, Ordering::Release),
            Poll::Ready(frame) => {
                watch.sign_of_life();
                watch.starved.store(false, Ordering::Release);
                if matches!(frame, Some(Err(_))) {
                    watch.failed.store(true, Ordering::Release);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

/// A response body that broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended, or what came is not HTTP.
    #[error("the response broke off")]
    Broken(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the response paused for more than {0:?}")]
    Stalled(Duration),
}

/// A response body. When it has ended the connection goes back to the pool; when it is dropped
/// before, the connection (on HTTP/2: the stream) is closed.
pub struct PooledBody<B: RequestBody> {
    incoming: Incoming,
    lease: Option<Lease<B>>,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    paused: bool,
}

impl<B: RequestBody> PooledBody<B> {
    pub(super) fn new(
        incoming: Incoming,
        lease: Option<Lease<B>>,
        timer: Option<Pin<Box<Sleep>>>,
        pause: Duration,
    ) -> PooledBody<B> {
        let mut body = PooledBody { incoming, lease, pause, timer, paused: false };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.timer.take());
        }
    }

    /// The stall deadline, run only while there is nothing to read.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lease.is_none() {
            return Poll::Pending;
        }
        let pause = self.pause;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        if !self.paused {
            self.paused = true;
            timer.as_mut().reset(Instant::now() + pause);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B: RequestBody> Body for PooledBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.paused = false;
                if this.incoming.is_end_stream() {
                    this.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.lease = None;
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Poll::Pending => match this.poll_stalled(cx) {
                Poll::Ready(()) => {
                    this.lease = None;
                    Poll::Ready(Some(Err(BodyError::Stalled(this.pause))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl<B: RequestBody> std::fmt::Debug for PooledBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledBody").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}
