//! What is recorded of a request in a trace: spans, whether to record them, and who takes them.
//!
//! Whoever serves requests makes spans; where they go is decided elsewhere ([`SpanSink`]). Without
//! [`Tracing`] nothing is recorded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::Counter;
use crate::trace::{Ids, SpanId, TraceContext, TraceId};

/// Requests that one part (a worker of a gate, a center) records in a second for no other reason than
/// that their callers say so. The others of that second are not recorded.
pub const HONORED_PER_SECOND: u64 = 100;

/// One step of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace that it is of.
    pub trace_id: TraceId,
    /// Its name in the trace.
    pub span_id: SpanId,
    /// The span that it is part of; none: it is the trace's first.
    pub parent: Option<SpanId>,
    /// That span is another program's.
    pub is_parent_remote: bool,
    /// Its role.
    pub kind: SpanKind,
    /// What is done, of few values.
    pub name: Cow<'static, str>,
    /// When it began, by the host's clock.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed; none: it did not.
    pub failed: Option<Cow<'static, str>>,
}

/// The role of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that came.
    Server,
    /// A request to another server.
    Client,
    /// A step between the two.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
    /// True or false.
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Cow::Owned(text))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Number(number.into())
    }
}

/// Takes spans.
pub trait SpanSink: Send + Sync + fmt::Debug {
    /// Takes one. It never waits: what there is no room for is dropped and counted.
    fn take(&self, span: Span);
}

/// What was to be sent and was not: there was no room, or nobody took it in time.
#[derive(Debug, Default)]
pub struct Lost {
    /// Spans.
    pub spans: Counter,
    /// Lines of the log.
    pub logs: Counter,
    /// Points of metrics.
    pub metrics: Counter,
}

impl Lost {
    /// The counts, each with its name.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let Lost { spans, logs, metrics } = self;
        [("spans", spans.value()), ("logs", logs.value()), ("metrics", metrics.value())]
    }
}

/// Which requests are recorded, and who takes their spans.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Which requests.
    pub sampler: Sampler,
    /// Who takes their spans.
    pub sink: Arc<dyn SpanSink>,
}

/// Which requests are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// The part of all requests, from 0 to 1.
    pub ratio: f64,
    /// A request that belongs to a caller's trace is recorded only if the caller records it.
    pub parent_based: bool,
    /// Such a request is recorded without regard to the ratio, up to [`HONORED_PER_SECOND`].
    pub honors_callers: bool,
}

impl Sampler {
    /// Whether a request is recorded. `coin`: a random number that no caller has chosen.
    fn samples(&self, parent: Option<&TraceContext>, coin: u64, honored: &Honored) -> bool {
        // As the SDKs compare: 63 bits of the number against the ratio.
        #[expect(clippy::cast_precision_loss, reason = "a ratio has no more precision")]
        let within = || ((coin >> 1) as f64) < self.ratio * (1_u64 << 63) as f64;
        match parent {
            Some(parent) if self.parent_based => {
                parent.sampled
                    && (if self.honors_callers { within() || honored.take() } else { within() })
            }
            _ => within(),
        }
    }
}

/// What the traces of one part share: a worker of a gate, a center.
#[derive(Debug)]
pub struct Tracer {
    /// Makes the ids of spans.
    pub ids: Ids,
    honored: Honored,
}

impl Tracer {
    /// With a seed that is to be random.
    pub fn seeded(seed: [u8; 16]) -> Tracer {
        let seed = u128::from_le_bytes(seed);
        #[expect(clippy::cast_possible_truncation, reason = "each half is taken")]
        let halves = [(seed >> 64) as u64, seed as u64];
        Tracer { ids: Ids::seeded(halves), honored: Honored::default() }
    }

    /// The trace of a request, and whether the request is recorded in it. `parent`: what its caller
    /// said.
    pub fn begin(&self, sampler: &Sampler, parent: Option<&TraceContext>) -> (TraceId, bool) {
        let (trace_id, coin) = match parent {
            // A caller that chooses its trace's id must not choose with it.
            Some(parent) => (parent.trace_id, self.ids.number()),
            None => self.ids.trace(),
        };
        (trace_id, sampler.samples(parent, coin, &self.honored))
    }
}

/// How many requests were recorded in this second because their callers said so.
#[derive(Debug, Default)]
struct Honored {
    second: AtomicU64,
    count: AtomicU64,
}

impl Honored {
    /// Takes one place of this second, if there is one left. Two that begin a second at once may both
    /// count from zero.
    fn take(&self) -> bool {
        let now = crate::unix_s();
        if self.second.swap(now, Ordering::Relaxed) != now {
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed) < HONORED_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(sampler: Sampler, parent: Option<bool>, of: usize) -> usize {
        let (ids, honored) = (Ids::seeded([3, 5]), Honored::default());
        let parent = parent.map(|sampled| TraceContext {
            // A caller that would always be chosen, if its id decided.
            trace_id: TraceId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            span_id: SpanId([1; 8]),
            sampled,
            random: false,
        });
        (0..of).filter(|_| sampler.samples(parent.as_ref(), ids.number(), &honored)).count()
    }

    #[test]
    fn a_caller_gets_no_more_than_the_ratio_unless_it_is_honored() {
        let sampler = |ratio| Sampler { ratio, parent_based: true, honors_callers: false };
        for parent in [None, Some(true)] {
            assert_eq!(sampled(sampler(1.0), parent, 1_000), 1_000);
            assert_eq!(sampled(sampler(0.0), parent, 1_000), 0);
            let tenth = sampled(sampler(0.1), parent, 10_000);
            assert!((800..1_200).contains(&tenth), "{tenth} of 10,000");
        }
        assert_eq!(sampled(sampler(1.0), Some(false), 1_000), 0, "the caller does not record it");
        let apart = Sampler { parent_based: false, ..sampler(1.0) };
        assert_eq!(sampled(apart, Some(false), 1_000), 1_000);
        // Honored, and bounded: the test may see two seconds begin.
        let honors = Sampler { honors_callers: true, ..sampler(0.0) };
        let places = usize::try_from(HONORED_PER_SECOND).unwrap();
        let most = sampled(honors, Some(true), 10_000);
        assert!((places..=3 * places).contains(&most), "{most}");
        assert_eq!(sampled(honors, None, 1_000) + sampled(honors, Some(false), 1_000), 0);
    }
}
