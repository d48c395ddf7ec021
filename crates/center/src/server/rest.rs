//! What a request's body has left when its answer is ready.
//!
//! An answer that refuses a request often comes before the body was read. On HTTP/1.1 the next
//! request stands behind that body (RFC 9112, section 9.3): a small rest is read, so that the
//! connection can go on; of a large one nothing is read, and the answer says `Connection: close`
//! (section 9.6). HTTP/2 has streams for that.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use keepgate_serve::places::Busy;

/// Bytes of a rest that is read.
const SMALL: u64 = 256 << 10;

/// How long a rest may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request's body, which can be asked for what is left of it.
pub(super) struct Tracked {
    shared: Arc<Mutex<State>>,
}

/// See [`Tracked`].
pub(super) struct Rest {
    shared: Arc<Mutex<State>>,
    expects_continue: bool,
}

struct State {
    /// None: somebody else has taken over.
    body: Option<Incoming>,
    /// Whether any of it was asked for: then a client that waits for `100 Continue` got it.
    asked: bool,
    failed: bool,
}

/// Follows a body. `expects_continue`: the client waits before it sends it.
pub(super) fn track(body: Incoming, expects_continue: bool) -> (Tracked, Rest) {
    let state = State { body: Some(body), asked: false, failed: false };
    let shared = Arc::new(Mutex::new(state));
    (Tracked { shared: Arc::clone(&shared) }, Rest { shared, expects_continue })
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked = true;
        let Some(body) = state.body.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            state.failed = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Rest {
    /// Reads a small rest. False: the connection cannot be used again.
    pub(super) async fn read(self) -> bool {
        let (body, asked, failed) = {
            let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            (state.body.take(), state.asked, state.failed)
        };
        let Some(mut body) = body else { return true };
        if failed {
            return false;
        }
        if body.is_end_stream() {
            return true;
        }
        // Who was not told to go on may never send it.
        if (self.expects_continue && !asked) || body.size_hint().lower() > SMALL {
            return false;
        }
        let reading = async {
            let mut bytes = 0;
            loop {
                match body.frame().await {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                }
                if bytes > SMALL {
                    return false;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or(false)
    }
}

/// An answer's body; while it is sent its connection is busy.
pub(super) struct Held<B> {
    body: B,
    _busy: Option<Busy>,
}

impl<B> Held<B> {
    pub(super) fn new(body: B, busy: Option<Busy>) -> Held<B> {
        Held { body, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
