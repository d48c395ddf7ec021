//! Bodies in both directions: streamed, bounded, never collected.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use keepgate_client::pool::{BodyError, PooledBody};
use keepgate_limit::Permit;
use tokio::time::{Instant, Sleep};

use crate::wire::guard::Shared;

/// What became of a caller's body; tells the caller's faults from the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// Badly framed, or broken off.
    #[error("the request body could not be read")]
    Broken,
    /// Over the bound.
    #[error("the request body is over the gate's bound")]
    TooLarge,
    /// Under the least rate.
    #[error("the request body arrives too slowly")]
    TooSlow,
}

/// Where a body says what became of it.
#[derive(Debug, Default)]
pub(crate) struct BodyFate(AtomicU8);

impl BodyFate {
    fn fail(&self, fault: BodyFault) -> BodyFault {
        let code = match fault {
            BodyFault::Broken => 1,
            BodyFault::TooLarge => 2,
            BodyFault::TooSlow => 3,
        };
        self.0.store(code, Ordering::Release);
        fault
    }

    /// The fault, if there was one.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(BodyFault::Broken),
            2 => Some(BodyFault::TooLarge),
            3 => Some(BodyFault::TooSlow),
            _ => None,
        }
    }
}

/// The bounds of a caller's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBounds {
    pub(crate) bytes: u64,
    pub(crate) rate: u64,
    pub(crate) grace: Duration,
}

/// A caller's body on its way to the upstream.
#[derive(Default)]
pub(crate) struct CallerBody {
    inner: Option<Box<Watched>>,
}

struct Watched {
    incoming: Incoming,
    bounds: BodyBounds,
    fate: Arc<BodyFate>,
    got: u64,
    /// Time spent waiting for the caller alone; time the upstream takes does not count.
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl CallerBody {
    /// None where there is no body at all.
    pub(crate) fn new(
        incoming: Incoming,
        bounds: BodyBounds,
    ) -> (CallerBody, Option<Arc<BodyFate>>) {
        if incoming.is_end_stream() {
            return (CallerBody::default(), None);
        }
        let fate = Arc::new(BodyFate::default());
        let watched = Watched {
            incoming,
            bounds,
            fate: Arc::clone(&fate),
            got: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        };
        (CallerBody { inner: Some(Box::new(watched)) }, Some(fate))
    }
}

impl Watched {
    /// How long the caller may have been waited for, given what it has sent.
    fn patience(&self) -> Duration {
        let earned = self.got.checked_div(self.bounds.rate).unwrap_or(u64::from(u32::MAX));
        self.bounds.grace + Duration::from_secs(earned)
    }

    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let by = since + self.patience().saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        if timer.deadline() != by {
            timer.as_mut().reset(by);
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(body) = &mut self.get_mut().inner else { return Poll::Ready(None) };
        match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(since) = body.waiting_since.take() {
                    body.waited += since.elapsed();
                }
                if let Some(data) = frame.data_ref() {
                    body.got += data.len() as u64;
                    if body.got > body.bounds.bytes {
                        return Poll::Ready(Some(Err(body.fate.fail(BodyFault::TooLarge))));
                    }
                }
                if let Some(trailers) = frame.trailers_mut() {
                    crate::headers::clean_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(body.fate.fail(BodyFault::Broken)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match body.poll_too_slow(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(body.fate.fail(BodyFault::TooSlow)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.incoming.size_hint())
    }
}

/// The body of an answer to a caller.
pub(crate) struct GateBody {
    kind: Answer,
    /// Held until the answer is over, whichever way.
    open: Option<OpenExchange>,
    /// The same: the caller's places among the requests under way.
    permits: Vec<Permit>,
}

enum Answer {
    Full(Bytes),
    Upstream(PooledBody<CallerBody>),
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

    fn gave(&mut self) {
        if self.watch && !self.owed {
            self.owed = true;
            self.shared.gave();
        }
    }

    fn taken(&mut self) {
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

impl GateBody {
    /// A body that is here.
    pub(crate) fn full(bytes: Bytes) -> GateBody {
        GateBody { kind: Answer::Full(bytes), open: None, permits: Vec::new() }
    }

    /// The upstream's.
    pub(crate) fn upstream(body: PooledBody<CallerBody>) -> GateBody {
        GateBody { kind: Answer::Upstream(body), open: None, permits: Vec::new() }
    }

    /// The same, keeping its caller's places among the requests under way.
    #[must_use]
    pub(crate) fn keeping(mut self, permits: Vec<Permit>) -> GateBody {
        self.permits = permits;
        self
    }

    /// The same, keeping its exchange open.
    #[must_use]
    pub(crate) fn holding(mut self, open: OpenExchange) -> GateBody {
        self.open = Some(open);
        self
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(open) = &mut this.open {
            open.taken();
        }
        let polled = match &mut this.kind {
            Answer::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Answer::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Answer::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        if let (Poll::Ready(Some(Ok(_))), Some(open)) = (&polled, &mut this.open) {
            open.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Answer::Full(bytes) => bytes.is_empty(),
            Answer::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Answer::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Answer::Upstream(body) => body.size_hint(),
        }
    }
}
