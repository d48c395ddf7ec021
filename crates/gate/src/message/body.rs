//! Bodies in both directions: streamed, bounded, never collected.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use keepgate_client::pool::{BodyError, PooledBody};
use keepgate_limit::Permit;
use tokio::time::{Instant, Sleep};

use super::fate::{BodyFate, BodyFault};
use super::headers::{self, GRPC_MESSAGE, GRPC_STATUS, Regard};
use super::recording::Recording;
use super::uploads::{InProgress, Slot};
use crate::exchange::ongoing::{Ending, Listed};
use crate::exchange::shared::OpenExchange;

/// The bounds of a caller's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBounds {
    pub(crate) bytes: u64,
    /// Without a byte.
    pub(crate) idle: Duration,
    /// In each such time...
    pub(crate) window: Duration,
    /// ...so many bytes must arrive.
    pub(crate) least: u64,
}

/// A caller's body on its way to the upstream.
#[derive(Default)]
pub(crate) struct CallerBody {
    inner: Option<Box<Watched>>,
}

struct Watched {
    incoming: Incoming,
    bounds: BodyBounds,
    regard: Arc<Regard>,
    fate: Arc<BodyFate>,
    got: u64,
    pace: Pace,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    in_progress: InProgress,
    #[expect(dead_code, reason = "held for its Drop")]
    slot: Option<Slot>,
}

impl CallerBody {
    /// A body that is not empty. `stream`: it is one half of a conversation (gRPC), which no bound
    /// on bodies holds for. `regard`: of its trailers. `slot`: its address's right to have it in progress.
    pub(crate) fn new(
        incoming: Incoming,
        bounds: BodyBounds,
        regard: Arc<Regard>,
        stream: bool,
        in_progress: InProgress,
        slot: Option<Slot>,
    ) -> (CallerBody, Arc<BodyFate>) {
        if stream {
            in_progress.upload().unbind();
        }
        let upload = Arc::clone(in_progress.upload());
        let fate = Arc::new(BodyFate::new(upload));
        let watched = Watched {
            incoming,
            bounds,
            regard,
            fate: Arc::clone(&fate),
            got: 0,
            pace: Pace::default(),
            waiting_since: None,
            timer: None,
            in_progress,
            slot,
        };
        (CallerBody { inner: Some(Box::new(watched)) }, fate)
    }
}

/// How fast a body comes, in time spent waiting for the caller alone: what the upstream takes does
/// not count against the caller.
#[derive(Debug, Default)]
struct Pace {
    /// All that was waited so far.
    waited: Duration,
    /// When something came last.
    last: Duration,
    /// What came last, the oldest first: as little of it as is at least the least. What comes close
    /// together is one entry, so that there are never more than [`ENTRIES`].
    recent: VecDeque<Arrival>,
    /// The bytes of `recent`.
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    first: Duration,
    last: Duration,
    bytes: u64,
}

/// Into so many parts a window is divided.
const ENTRIES: u32 = 64;

impl Pace {
    fn arrived(&mut self, bytes: u64, bounds: &BodyBounds) {
        let now = self.waited;
        self.last = now;
        self.bytes = self.bytes.saturating_add(bytes);
        match self.recent.back_mut() {
            Some(last) if now - last.first < bounds.window / ENTRIES => {
                last.last = now;
                last.bytes = last.bytes.saturating_add(bytes);
            }
            _ => self.recent.push_back(Arrival { first: now, last: now, bytes }),
        }
        while let Some(oldest) = self.recent.front()
            && self.bytes - oldest.bytes >= bounds.least
        {
            self.bytes -= oldest.bytes;
            self.recent.pop_front();
        }
    }

    /// Until when, on the clock of `waited`, the next bytes are waited for.
    fn deadline(&self, bounds: &BodyBounds) -> Duration {
        let begin = match self.recent.front() {
            Some(oldest) if self.bytes >= bounds.least => oldest.last,
            _ => Duration::ZERO,
        };
        (begin + bounds.window).min(self.last + bounds.idle)
    }
}

impl Watched {
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        if self.in_progress.poll_cut(cx).is_ready() {
            return Poll::Ready(BodyFault::Pressure);
        }
        if !self.fate.is_bounded() {
            return Poll::Pending;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let by = since + self.pace.deadline(&self.bounds).saturating_sub(self.pace.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        if timer.deadline() != by {
            timer.as_mut().reset(by);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.fate.is_bounded() {
            // The answer has begun meanwhile.
            return Poll::Pending;
        }
        let silent = self.pace.waited + since.elapsed() - self.pace.last;
        let idle = silent >= self.bounds.idle;
        Poll::Ready(if idle { BodyFault::Idle } else { BodyFault::TooSlow })
    }

    fn arrived(&mut self, bytes: u64) {
        if let Some(since) = self.waiting_since.take() {
            self.pace.waited += since.elapsed();
        }
        self.got = self.got.saturating_add(bytes);
        self.fate.took(self.got);
        self.pace.arrived(bytes, &self.bounds);
        self.in_progress.got(bytes);
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.inner else { return Poll::Ready(None) };
        let fault = match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                body.arrived(frame.data_ref().map_or(0, |data| data.len() as u64));
                if body.got > body.bounds.bytes {
                    BodyFault::TooLarge
                } else {
                    if let Some(trailers) = frame.trailers_mut() {
                        headers::clean_trailers(trailers, &body.regard);
                    }
                    if body.incoming.is_end_stream() {
                        // Over: its address may have another one.
                        this.inner = None;
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
            Poll::Ready(Some(Err(_))) => BodyFault::Broken,
            Poll::Ready(None) => {
                this.inner = None;
                return Poll::Ready(None);
            }
            Poll::Pending => match body.poll_late(cx) {
                Poll::Ready(fault) => fault,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(Some(Err(body.fate.fail(fault))))
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

/// An answer that does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The upstream's fault, or its silence.
    #[error("the answer broke off")]
    Upstream(#[source] BodyError),
    /// The gate ended it.
    #[error("the gate ended the answer: {}", .0.cut().name())]
    Ended(Ending),
}

/// The body of an answer to a caller.
pub(crate) struct GateBody {
    kind: Answer,
    /// Held until the answer is over, whichever way.
    open: Option<OpenExchange>,
    /// The same: the caller's places among the requests under way.
    permits: Vec<Permit>,
    /// The same: the exchange as it is decided again.
    listed: Option<Listed>,
    /// The caller speaks gRPC: what cuts the answer short is told in trailers.
    grpc: bool,
    /// The request's record, which is handed on with the last of it.
    recording: Option<Box<Recording>>,
}

enum Answer {
    Full(Bytes),
    /// Bytes, and trailers after them.
    Trailed(Bytes, Option<HeaderMap>),
    Upstream(PooledBody<CallerBody>),
    Over,
}

impl GateBody {
    /// A body that is here.
    pub(crate) fn full(bytes: Bytes) -> GateBody {
        GateBody::of(Answer::Full(bytes), None, false)
    }

    /// A body that is here, with trailers.
    pub(crate) fn trailed(bytes: Bytes, trailers: HeaderMap) -> GateBody {
        GateBody::of(Answer::Trailed(bytes, Some(trailers)), None, false)
    }

    /// The upstream's, of an exchange that may be told to end.
    pub(crate) fn upstream(
        body: PooledBody<CallerBody>,
        listed: Option<Listed>,
        grpc: bool,
    ) -> GateBody {
        GateBody::of(Answer::Upstream(body), listed, grpc)
    }

    fn of(kind: Answer, listed: Option<Listed>, grpc: bool) -> GateBody {
        GateBody { kind, open: None, permits: Vec::new(), listed, grpc, recording: None }
    }

    /// The same, keeping its caller's places among the requests under way.
    #[must_use]
    pub(crate) fn keeping(mut self, permits: Vec<Permit>) -> GateBody {
        self.permits = permits;
        self
    }

    /// The same, with the request's record.
    #[must_use]
    pub(crate) fn recording(mut self, recording: Option<Box<Recording>>) -> GateBody {
        self.recording = recording;
        self
    }

    /// The same, keeping its exchange open.
    #[must_use]
    pub(crate) fn holding(mut self, open: OpenExchange) -> GateBody {
        self.open = Some(open);
        self
    }
}

impl GateBody {
    /// Ends the answer before its own end.
    fn end(&mut self, ending: Ending) -> Option<Result<Frame<Bytes>, AnswerError>> {
        self.kind = Answer::Over;
        if let Some(listed) = self.listed.take() {
            listed.cut(ending.cut());
        }
        if !self.grpc {
            return Some(Err(AnswerError::Ended(ending)));
        }
        let (status, message) = ending.grpc();
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
        trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        Some(Ok(Frame::trailers(trailers)))
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(ending) = self.listed.as_ref().and_then(Listed::ending) {
            return Poll::Ready(self.end(ending));
        }
        let polled = match &mut self.kind {
            Answer::Over => return Poll::Ready(None),
            Answer::Full(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Answer::Full(bytes) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Answer::Trailed(bytes, _) if !bytes.is_empty() => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Answer::Trailed(_, trailers) => {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Answer::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Err(BodyError::Stalled(_)))) => Poll::Ready(self.end(Ending::Idle)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(AnswerError::Upstream(error)))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => {
                self.listed = None;
                Poll::Ready(None)
            }
            Poll::Pending => match self.listed.as_ref().map(|listed| listed.poll_ended(cx)) {
                Some(Poll::Ready(ending)) => Poll::Ready(self.end(ending)),
                _ => Poll::Pending,
            },
        }
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        if let Some(open) = &mut this.open {
            open.taken();
        }
        let polled = this.poll_answer(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(open) = &mut this.open {
                open.gave();
            }
            if let Some(recording) = &mut this.recording {
                recording.gave(frame.data_ref().map_or(0, Bytes::len));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Answer::Full(bytes) => bytes.is_empty(),
            Answer::Trailed(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Answer::Upstream(body) => body.is_end_stream(),
            Answer::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Answer::Full(bytes) | Answer::Trailed(bytes, _) => {
                SizeHint::with_exact(bytes.len() as u64)
            }
            Answer::Upstream(body) => body.size_hint(),
            Answer::Over => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: BodyBounds = BodyBounds {
        bytes: u64::MAX,
        idle: Duration::from_secs(60),
        window: Duration::from_secs(60),
        least: 1024,
    };

    /// When a body that arrives so is cut, in milliseconds; none: not before its end.
    fn cut_at(arrivals: &[(u64, u64)]) -> Option<u64> {
        let mut pace = Pace::default();
        for (at_ms, bytes) in arrivals {
            let deadline = pace.deadline(&BOUNDS);
            if deadline < Duration::from_millis(*at_ms) {
                return Some(u64::try_from(deadline.as_millis()).unwrap());
            }
            pace.waited = Duration::from_millis(*at_ms);
            pace.arrived(*bytes, &BOUNDS);
            assert!(pace.recent.len() <= ENTRIES as usize + 1, "{}", pace.recent.len());
        }
        None
    }

    #[test]
    fn pauses_and_drips() {
        // A pause of almost the bound, again and again, with enough in between.
        assert_eq!(cut_at(&[(0, 1), (59_000, 1024), (118_000, 1024), (177_000, 1)]), None);
        assert_eq!(cut_at(&[(0, 5_000), (61_000, 1)]), Some(60_000));
        // One byte every two seconds is never 1 KiB a minute.
        let drip: Vec<_> = (0..200).map(|n| (n * 2_000, 1)).collect();
        assert_eq!(cut_at(&drip), Some(60_000));
        // 1 KiB a minute is enough, however it is cut up.
        let steady: Vec<_> = (0..1_000).map(|n| (n * 1_000, 18)).collect();
        assert_eq!(cut_at(&steady), None);
        // What was fast once does not earn time for later.
        let mut burst = vec![(0, 1 << 30)];
        burst.extend((1..200).map(|n| (n * 2_000, 1)));
        assert_eq!(cut_at(&burst), Some(60_000));
    }

    proptest! {
        /// As the definition says it, looked up over all arrivals; up to the coarseness of entries.
        #[test]
        fn the_pace_is_what_its_definition_says(
            steps in prop::collection::vec((0_u64..50_000, 1_u64..2_000), 1..60),
        ) {
            let mut at = 0;
            let arrivals: Vec<_> = steps.iter().map(|(gap, n)| { at += gap; (at, *n) }).collect();
            let within = |end: u64| -> u64 {
                let in_window = |t: u64| t <= end && t + 60_000 > end;
                arrivals.iter().filter(|(t, _)| in_window(*t)).map(|(_, n)| n).sum()
            };
            // Just before each arrival and before any that comes later: was it under the least?
            let exact = (60_000..=at).find(|end| {
                let before = arrivals.iter().filter(|(t, _)| t <= end).count();
                before < arrivals.len() && within(*end) < 1024
            });
            match (cut_at(&arrivals), exact) {
                (None, None) => {}
                (Some(cut), Some(exact)) => prop_assert!(cut >= exact && cut <= exact + 1_000),
                // Within the coarseness the next bytes may just have come.
                (None, Some(exact)) => prop_assert!(
                    arrivals.iter().any(|(t, _)| *t > exact && *t <= exact + 1_000)
                ),
                (Some(cut), None) => prop_assert!(false, "cut at {cut} for nothing"),
            }
        }
    }
}
