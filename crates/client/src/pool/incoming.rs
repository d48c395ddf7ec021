//! A response's body, which brings its connection back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::balancer::Picked;
use super::error::WireError;
use super::outgoing::{RequestBody, Watch};
use super::plain::Rest;
use super::slots::Lease;

/// A response body that broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended, or what came is not HTTP.
    #[error("the response broke off")]
    Broken(#[source] WireError),
    /// Nothing moved for too long, in either direction.
    #[error("the response paused for more than {0:?}")]
    Stalled(Duration),
}

/// A response body. When it has ended the connection goes back to the pool; when it is dropped
/// before, the connection (on HTTP/2: the stream) is closed.
pub struct PooledBody<B: RequestBody> {
    incoming: Source,
    lease: Option<Lease<B>>,
    /// The request's body, while it is under way beside this one.
    request: Option<Arc<Watch>>,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    paused: bool,
    /// Counts it as under way at its address.
    picked: Option<Picked>,
}

/// Where the parts come from.
enum Source {
    Hyper(Incoming),
    /// The leased connection itself.
    Plain(Rest),
}

impl Source {
    fn is_over(&self) -> bool {
        match self {
            Source::Hyper(incoming) => incoming.is_end_stream(),
            Source::Plain(rest) => rest.is_over(),
        }
    }
}

impl<B: RequestBody> PooledBody<B> {
    /// One that is read from the connection which its lease holds.
    pub(super) fn plain(
        rest: Rest,
        lease: Lease<B>,
        timer: Option<Pin<Box<Sleep>>>,
        pause: Duration,
    ) -> PooledBody<B> {
        PooledBody::of(Source::Plain(rest), Some(lease), None, timer, pause)
    }

    pub(super) fn new(
        incoming: Incoming,
        lease: Option<Lease<B>>,
        request: Option<Arc<Watch>>,
        timer: Option<Pin<Box<Sleep>>>,
        pause: Duration,
    ) -> PooledBody<B> {
        PooledBody::of(Source::Hyper(incoming), lease, request, timer, pause)
    }

    fn of(
        incoming: Source,
        lease: Option<Lease<B>>,
        request: Option<Arc<Watch>>,
        timer: Option<Pin<Box<Sleep>>>,
        pause: Duration,
    ) -> PooledBody<B> {
        let mut body =
            PooledBody { incoming, lease, request, pause, timer, paused: false, picked: None };
        if body.incoming.is_over() {
            body.give_back();
        }
        body
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match &mut self.incoming {
            Source::Hyper(incoming) => Pin::new(incoming).poll_frame(cx).map_err(WireError::Http),
            Source::Plain(rest) => match self.lease.as_mut().and_then(Lease::plain) {
                Some(plain) => plain.poll_frame(rest, cx),
                None => Poll::Ready(None),
            },
        }
    }

    /// As long as it has not ended, it counts as under way there.
    pub(super) fn counting(mut self, picked: Picked) -> PooledBody<B> {
        self.picked = self.lease.is_some().then_some(picked);
        self
    }

    fn give_back(&mut self) {
        self.picked = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.timer.take());
        }
    }

    /// The stall deadline, run only while there is nothing to read. What the request's body
    /// brings meanwhile moves it.
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
        while timer.as_mut().poll(cx).is_ready() {
            let later = self.request.as_ref().map(|watch| watch.alive() + pause);
            match later.filter(|later| *later > Instant::now()) {
                Some(later) => timer.as_mut().reset(later),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
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
        match this.poll_part(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.paused = false;
                if this.incoming.is_over() {
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
                this.picked = None;
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Poll::Pending => match this.poll_stalled(cx) {
                Poll::Ready(()) => {
                    this.lease = None;
                    this.picked = None;
                    Poll::Ready(Some(Err(BodyError::Stalled(this.pause))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Source::Hyper(incoming) => incoming.size_hint(),
            Source::Plain(rest) => rest.size_hint(),
        }
    }
}

impl<B: RequestBody> std::fmt::Debug for PooledBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledBody").field("over", &self.incoming.is_over()).finish_non_exhaustive()
    }
}
