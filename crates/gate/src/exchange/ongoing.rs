//! Exchanges that are under way: what they were decided on, and how they hear that they are over.
//!
//! A decision is made once, but what it allowed may go on for hours: a WebSocket, an event stream,
//! a gRPC call, a large body. So each exchange leaves behind what it was decided on, and
//! `serve::revoke` decides it again when permissions change. A worker keeps its own list, which
//! only it and those rounds touch.
//!
//! INVARIANT: an exchange leaves one entry, and takes it away by `Drop`. An entry holds identifiers
//! and the context of one decision: about a kilobyte, and the path, whose length is bounded.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri};
use keepgate_policy::{Revision, Uid};
use serde_json::Value;

use super::cut::{Cut, Cuts};
use super::shared::Shared;
use crate::identify::claims::Said;

/// Why an exchange that is under way is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// The policies deny it now, or its key is not valid any more.
    Denied = 1,
    /// Whether they do cannot be told.
    Undecided = 2,
    /// Its credential has expired.
    Expired = 3,
    /// The gate stops.
    Stopping = 4,
    /// Nothing moved.
    Idle = 5,
}

impl Ending {
    fn from_code(code: u8) -> Option<Ending> {
        use Ending::{Denied, Expired, Idle, Stopping, Undecided};
        [Denied, Undecided, Expired, Stopping, Idle].into_iter().find(|e| *e as u8 == code)
    }

    /// The bound that it is counted under.
    pub(crate) fn cut(self) -> Cut {
        match self {
            Ending::Denied => Cut::Revoked,
            Ending::Undecided => Cut::Undecided,
            Ending::Expired => Cut::Expired,
            Ending::Stopping => Cut::Stopping,
            Ending::Idle => Cut::AnswerIdle,
        }
    }

    /// The status code of a WebSocket's close (RFC 6455 section 7.4.1) and its reason.
    pub(crate) fn websocket(self) -> (u16, &'static str) {
        match self {
            Ending::Denied => (1008, "access was revoked"),
            Ending::Expired => (1008, "the credential has expired"),
            Ending::Undecided => (1013, "access cannot be decided right now"),
            Ending::Stopping => (1001, "the gateway stops"),
            Ending::Idle => (1001, "nothing moved for too long"),
        }
    }

    /// The status of a gRPC call (grpc/doc/statuscodes.md) and its message.
    pub(crate) fn grpc(self) -> (u8, &'static str) {
        match self {
            Ending::Denied => (7, "access was revoked"),
            Ending::Expired => (16, "the credential has expired"),
            Ending::Undecided => (14, "access cannot be decided right now"),
            Ending::Stopping => (14, "the gateway stops"),
            Ending::Idle => (4, "nothing moved for too long"),
        }
    }
}

/// What an exchange was decided on.
pub(crate) struct Inputs {
    /// The place of the service that decided.
    pub(crate) service: usize,
    pub(crate) principal: Arc<Uid>,
    pub(crate) action: Uid,
    pub(crate) resource: Uid,
    pub(crate) circumstances: Circumstances,
    /// What its token said beyond a name; shared with the token's other exchanges.
    pub(crate) said: Option<Arc<Said>>,
    pub(crate) max_age: Duration,
    /// The prefix of the API key that was shown.
    pub(crate) api_key: Option<String>,
    /// When its credential expires, where the service closes then.
    pub(crate) until_unix_s: Option<u64>,
    /// When it was decided first, or a little before: what has ended since may have been counted.
    pub(crate) decided_unix_s: u64,
    /// Nothing was decided: there is nothing to decide again.
    pub(crate) undecided: bool,
    pub(crate) request_id: HeaderValue,
}

/// What the context of a decision is made of. Most exchanges are over before that is needed again.
pub(crate) struct Circumstances {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// The path that was decided on, where that is not the one of `uri`.
    pub(crate) path: Option<Box<str>>,
    pub(crate) host: Box<str>,
    pub(crate) ip: Option<IpAddr>,
}

impl Circumstances {
    /// The context, as the first decision had it (`phase::context`).
    pub(crate) fn context(&self) -> BTreeMap<String, Value> {
        let path = self.path.as_deref().unwrap_or_else(|| self.uri.path());
        let ip = self.ip.map(|ip| ("ip", ip.to_string()));
        [
            ("method", self.method.to_string()),
            ("path", path.to_owned()),
            ("host", self.host.to_string()),
        ]
        .into_iter()
        .chain(ip)
        .map(|(name, text)| (name.to_owned(), Value::String(text)))
        .collect()
    }
}

/// One exchange.
pub(crate) struct Ongoing {
    pub(crate) inputs: Inputs,
    pub(crate) began: Instant,
    /// The revision that it was decided at last.
    decided: AtomicU64,
    /// The time of that decision, in seconds since the Unix epoch.
    decided_unix_s: AtomicU64,
    /// 0, or an [`Ending`].
    ending: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// Its connection, where that carries nothing else (HTTP/1).
    connection: Option<Arc<Shared>>,
}

impl Ongoing {
    pub(crate) fn decided(&self) -> Revision {
        Revision(self.decided.load(Ordering::Acquire))
    }

    pub(crate) fn set_decided(&self, revision: Revision) {
        self.decided.store(revision.0, Ordering::Release);
    }

    pub(crate) fn decided_unix_s(&self) -> u64 {
        self.decided_unix_s.load(Ordering::Acquire)
    }

    pub(crate) fn set_decided_unix_s(&self, unix_s: u64) {
        self.decided_unix_s.store(unix_s, Ordering::Release);
    }

    /// Why it is over, if it is.
    pub(crate) fn ending(&self) -> Option<Ending> {
        Ending::from_code(self.ending.load(Ordering::Acquire))
    }

    /// Tells it that it is over. The first reason counts.
    pub(crate) fn end(&self, ending: Ending) -> bool {
        let none =
            self.ending.compare_exchange(0, ending as u8, Ordering::AcqRel, Ordering::Acquire);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
        none.is_ok()
    }

    /// It was told and has not ended: its caller takes nothing. Ends its connection, where no other
    /// exchange would go with it.
    pub(crate) fn kill(&self) {
        if let Some(connection) = &self.connection {
            connection.kill();
        }
    }

    /// Ready when it is over. One task waits at a time.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.ending() {
            return Poll::Ready(ending);
        }
        {
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        // Told between the look and the waker: nobody else would wake.
        self.ending().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The exchanges of one worker.
pub(crate) struct List {
    state: Mutex<State>,
    /// Where it is noted that one of them was cut short.
    cuts: Arc<Cuts>,
}

#[derive(Default)]
struct State {
    entries: Vec<Option<Arc<Ongoing>>>,
    free: Vec<usize>,
}

impl List {
    /// An empty one, of the worker with these cuts.
    pub(crate) fn new(cuts: Arc<Cuts>) -> List {
        List { state: Mutex::default(), cuts }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        let state = self.lock();
        state.entries.len() - state.free.len()
    }

    /// The entries at the places from `from`, at most `most`; and where the next ones are.
    pub(crate) fn some(&self, from: usize, most: usize) -> (Vec<Arc<Ongoing>>, Option<usize>) {
        let state = self.lock();
        let places = state.entries.iter().skip(from).take(most);
        let some = places.flatten().map(Arc::clone).collect();
        let next = from.saturating_add(most);
        (some, (next < state.entries.len()).then_some(next))
    }

    /// Tells all of them that they are over.
    pub(crate) fn end_all(&self, ending: Ending) {
        // Not under the lock: who is woken may take its entry away.
        let all: Vec<_> = self.lock().entries.iter().flatten().map(Arc::clone).collect();
        for ongoing in all {
            ongoing.end(ending);
        }
    }

    fn put(&self, ongoing: &Arc<Ongoing>) -> usize {
        let mut state = self.lock();
        let index = state.free.pop().unwrap_or(state.entries.len());
        match state.entries.get_mut(index) {
            Some(place) => *place = Some(Arc::clone(ongoing)),
            None => state.entries.push(Some(Arc::clone(ongoing))),
        }
        index
    }

    fn take(&self, index: usize) -> Option<Arc<Ongoing>> {
        let mut state = self.lock();
        let taken = state.entries.get_mut(index).and_then(Option::take);
        state.free.push(index);
        taken
    }
}

/// An exchange on its worker's list, until this is dropped.
pub(crate) struct Listed {
    list: Arc<List>,
    ongoing: Arc<Ongoing>,
    index: usize,
}

impl Listed {
    /// Puts an exchange that was decided at `revision` on the list. `connection`: its own.
    pub(crate) fn new(
        list: &Arc<List>,
        inputs: Inputs,
        revision: Revision,
        connection: Option<Arc<Shared>>,
    ) -> Listed {
        let ongoing = Arc::new(Ongoing {
            decided_unix_s: AtomicU64::new(inputs.decided_unix_s),
            inputs,
            began: Instant::now(),
            decided: AtomicU64::new(revision.0),
            ending: AtomicU8::new(0),
            waker: Mutex::new(None),
            connection,
        });
        let index = list.put(&ongoing);
        Listed { list: Arc::clone(list), ongoing, index }
    }

    /// Why it is over, if it is.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ongoing.ending()
    }

    /// As [`Ongoing::poll_ended`].
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.ongoing.poll_ended(cx)
    }

    /// Ends when the exchange is over before its own end.
    pub(crate) async fn ended(&self) -> Ending {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Counts and logs that it was cut.
    pub(crate) fn cut(&self, cut: Cut) {
        self.list.cuts.note(cut, &self.ongoing.inputs.request_id);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        drop(self.list.take(self.index));
    }
}
