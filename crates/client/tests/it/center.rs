//! A center for tests: keeps every revision it ever had, follows orders to misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_policy::proto::follow_request::Request as Asked;
use keepgate_policy::proto::follow_response::Response as Told;
use keepgate_policy::proto::{FollowRequest, FollowResponse, Heartbeat};
use keepgate_policy::{
    Change, Delta, Digest, HistoryId, Item, ItemBody, ItemKey, Kind, Mark, Revision, Snapshot, Uid,
    proto, wire,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

pub use crate::fault::{FAULTS, Fault};

#[derive(Clone)]
struct State {
    history: HistoryId,
    revision: u64,
    items: BTreeMap<ItemKey, Item>,
    digest: Digest,
    changes: Vec<Change>,
}

impl State {
    fn first() -> State {
        State {
            history: HistoryId([1; 16]),
            revision: 0,
            items: BTreeMap::new(),
            digest: Digest::default(),
            changes: Vec::new(),
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            history: self.history,
            revision: Revision(self.revision),
            chain: self.digest.to_bytes(),
            seal: [0; 16],
        }
    }
}

pub struct FakeCenter {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    history: Mutex<Vec<State>>,
    faults: Mutex<VecDeque<Fault>>,
    head: watch::Sender<usize>,
    /// Connections are refused (accepted and dropped at once) while this is set.
    down: AtomicBool,
    mute: AtomicBool,
    /// Streams are refused by HTTP with this `Retry-After`, in seconds; 0: they are not.
    busy: AtomicU64,
    /// Connections that are open now.
    open: AtomicUsize,
    /// As release 0.1: no Welcome, no marks, no echo.
    old: AtomicBool,
    /// Pulses are read and not echoed.
    no_echo: AtomicBool,
    /// Snapshots are of this many revisions ago, with deltas after them.
    snapshots_lag: AtomicUsize,
    /// What items of these services need.
    needs: Mutex<BTreeMap<String, u32>>,
    hellos: Mutex<Vec<proto::Hello>>,
    hang_up: watch::Sender<u64>,
    streams: AtomicUsize,
    /// Which faults were done, each with the number of the stream that it was done on.
    done: Mutex<Vec<(usize, Fault)>>,
    pub connections: AtomicUsize,
    pub snapshots: AtomicUsize,
    applied: Mutex<Vec<(Revision, Digest)>>,
    reports: Mutex<Vec<proto::Activity>>,
    figures: Mutex<Vec<proto::Figures>>,
    questions: Mutex<Vec<proto::CallerQuestion>>,
    /// What it answers to a question; none: nothing, as a center that knows no questions.
    answering: Mutex<Option<Answering>>,
}

/// What is sent for a question: the answers, in their order.
pub type Answering = fn(&proto::CallerQuestion) -> Vec<proto::CallerAnswer>;

impl Shared {
    fn answers_to(&self, question: &proto::CallerQuestion) -> Vec<proto::CallerAnswer> {
        let answering = *self.answering.lock().unwrap();
        answering.map(|answering| answering(question)).unwrap_or_default()
    }
}

/// Another release writes some items in another way that means the same.
fn body_of(item: &Item) -> Vec<u8> {
    let mut body = item.encode();
    if item.key.id.contains("odd") {
        body.push(b' ');
    }
    body
}

/// Over the bytes that are sent.
fn digest_of(item: &Item) -> Digest {
    Digest::of_encoded(&item.key, &body_of(item))
}

pub fn entity(id: &str, value: i64) -> Item {
    let uid = Uid::new("user", id);
    Item {
        key: ItemKey::entity("", &uid),
        body: ItemBody::Entity(keepgate_policy::model::EntityBody {
            uid,
            attrs: [("value".to_owned(), value.into())].into(),
            parents: Vec::new(),
            tags: BTreeMap::new(),
        }),
    }
}

/// A service that permits everything to `user::"alice"`.
pub fn service(name: &str) -> Vec<Item> {
    let settings = format!(r#"{{"name":"{name}"}}"#);
    let policy = r#"{"text":"permit(principal == user::\"alice\", action, resource);"}"#;
    [
        (ItemKey::service(name), settings.as_str()),
        (ItemKey::new(name, Kind::Policy, "alice"), policy),
    ]
    .into_iter()
    .map(|(key, body)| Item::decode(key, body.as_bytes()).unwrap())
    .collect()
}

impl FakeCenter {
    pub fn start() -> FakeCenter {
        FakeCenter::start_at("127.0.0.1:0")
    }

    pub fn start_at(addr: &str) -> FakeCenter {
        let listener = std::net::TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            history: Mutex::new(vec![State::first()]),
            faults: Mutex::default(),
            head: watch::Sender::new(0),
            down: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            busy: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            old: AtomicBool::new(false),
            no_echo: AtomicBool::new(false),
            snapshots_lag: AtomicUsize::new(0),
            needs: Mutex::default(),
            hellos: Mutex::default(),
            hang_up: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
            done: Mutex::default(),
            connections: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
            applied: Mutex::default(),
            reports: Mutex::default(),
            figures: Mutex::default(),
            questions: Mutex::default(),
            answering: Mutex::default(),
        });
        let serving = shared.clone();
        crate::server::in_thread(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                if serving.down.load(Ordering::SeqCst) {
                    continue;
                }
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let shared = serving.clone();
                let open = Open::of(&serving);
                tokio::spawn(async move {
                    let _open = open;
                    let mut hang_up = shared.hang_up.subscribe();
                    let service = service_fn(move |request| follow(shared.clone(), request));
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        _ = hang_up.changed() => {}
                    }
                });
            }
        });
        FakeCenter { addr, shared }
    }

    /// With a service `orders` that permits everything to `user::"alice"`.
    pub fn with_orders() -> FakeCenter {
        let center = FakeCenter::start();
        center.orders();
        center
    }

    /// That service, as a new revision.
    pub fn orders(&self) -> Revision {
        self.commit(service("orders").into_iter().map(Change::Put).collect())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A new revision with these changes.
    pub fn commit(&self, changes: Vec<Change>) -> Revision {
        let mut history = self.shared.history.lock().unwrap();
        let mut state = history.last().unwrap().clone();
        for change in &changes {
            match change {
                Change::Put(item) => {
                    if let Some(before) = state.items.insert(item.key.clone(), item.clone()) {
                        state.digest = state.digest.minus(digest_of(&before));
                    }
                    state.digest = state.digest.plus(digest_of(item));
                }
                Change::Delete(key) => {
                    if let Some(before) = state.items.remove(key) {
                        state.digest = state.digest.minus(digest_of(&before));
                    }
                }
            }
        }
        state.changes = changes;
        state.revision += 1;
        let revision = Revision(state.revision);
        history.push(state);
        let head = history.len() - 1;
        drop(history);
        self.shared.head.send_replace(head);
        revision
    }

    /// Declares a new history that continues this one, as `accept-loss` does.
    pub fn successor(&self, history: u8) -> Revision {
        let mut states = self.shared.history.lock().unwrap();
        let mut state = states.last().unwrap().clone();
        state.history = HistoryId([history; 16]);
        state.revision += 1_000_000_000;
        state.changes = Vec::new();
        let revision = Revision(state.revision);
        states.push(state);
        let head = states.len() - 1;
        drop(states);
        self.shared.head.send_replace(head);
        self.hang_up();
        revision
    }

    /// From now on it is a center of another history that continues none.
    pub fn become_foreign(&self, history: u8) {
        for state in self.shared.history.lock().unwrap().iter_mut() {
            state.history = HistoryId([history; 16]);
        }
        self.hang_up();
    }

    pub fn set_old(&self, old: bool) {
        self.shared.old.store(old, Ordering::SeqCst);
        self.hang_up();
    }

    pub fn set_echo(&self, echo: bool) {
        self.shared.no_echo.store(!echo, Ordering::SeqCst);
    }

    pub fn set_snapshots_lag(&self, revisions: usize) {
        self.shared.snapshots_lag.store(revisions, Ordering::SeqCst);
    }

    /// Items of this service say that they need this format.
    pub fn set_needs(&self, service: &str, needs: u32) {
        self.shared.needs.lock().unwrap().insert(service.to_owned(), needs);
    }

    pub fn hellos(&self) -> Vec<proto::Hello> {
        self.shared.hellos.lock().unwrap().clone()
    }

    pub fn put(&self, id: &str, value: i64) -> Revision {
        self.commit(vec![Change::Put(entity(id, value))])
    }

    pub fn head(&self) -> Revision {
        let history = self.shared.history.lock().unwrap();
        Revision(history.last().unwrap().revision)
    }

    pub fn digest_at(&self, revision: Revision) -> Option<Digest> {
        let history = self.shared.history.lock().unwrap();
        let state = history.iter().rev().find(|state| state.revision == revision.0);
        state.map(|state| state.digest)
    }

    pub fn misbehave(&self, fault: Fault) {
        self.shared.faults.lock().unwrap().push_back(fault);
    }

    pub fn behave(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().unwrap().len()
    }

    /// The first fault of each stream on which one was done: a follower ends the stream for it, so
    /// whatever is done there after it says nothing to anybody.
    pub fn first_faults(&self) -> BTreeMap<usize, Fault> {
        let mut first = BTreeMap::new();
        for (stream, fault) in self.shared.done.lock().unwrap().iter() {
            first.entry(*stream).or_insert(*fault);
        }
        first
    }

    pub fn hang_up(&self) {
        self.shared.hang_up.send_modify(|n| *n += 1);
    }

    /// While down, connections are dropped at once and those that are, hung up.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        if down {
            self.hang_up();
        }
    }

    /// While mute, nothing is said on any stream.
    pub fn set_mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }

    /// Forgets all revisions after this one, as a restored backup does.
    pub fn set_back(&self, to: Revision) {
        let mut history = self.shared.history.lock().unwrap();
        history.retain(|state| state.revision <= to.0);
        let head = history.len() - 1;
        drop(history);
        self.shared.head.send_replace(head);
        self.hang_up();
    }

    /// From now on streams are refused, with a time after which to come again. 0 s: they are not.
    pub fn set_busy(&self, seconds: u64) {
        self.shared.busy.store(seconds, Ordering::SeqCst);
        self.hang_up();
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn snapshots(&self) -> usize {
        self.shared.snapshots.load(Ordering::SeqCst)
    }

    /// The requests of all figures that came.
    pub fn counted(&self) -> u64 {
        self.shared.figures.lock().unwrap().iter().map(|told| told.requests).sum()
    }

    /// The reports that came, in order.
    pub fn reports(&self) -> Vec<proto::Activity> {
        self.shared.reports.lock().unwrap().clone()
    }

    /// The questions of callers that came, in order.
    pub fn questions(&self) -> Vec<proto::CallerQuestion> {
        self.shared.questions.lock().unwrap().clone()
    }

    /// From now on questions of callers are answered so.
    pub fn set_answering(&self, answering: Answering) {
        *self.shared.answering.lock().unwrap() = Some(answering);
    }

    pub fn applied(&self) -> Vec<(Revision, Digest)> {
        self.shared.applied.lock().unwrap().clone()
    }
}

struct Open(Arc<Shared>);

impl Open {
    fn of(shared: &Arc<Shared>) -> Open {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Open(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

type Told1 = Result<FollowResponse, Status>;
type Stream = Pin<Box<dyn futures_util::Stream<Item = Told1> + Send>>;

async fn follow(
    shared: Arc<Shared>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    assert_eq!(request.uri().path(), "/keepgate.sync.v1.Sync/Follow");
    if request.headers()["authorization"] != "Bearer test-token" {
        return Ok(Status::unauthenticated("unknown token").into_http());
    }
    let busy = shared.busy.load(Ordering::SeqCst);
    if busy > 0 {
        let refusal = http::Response::builder().status(503).header("retry-after", busy);
        return Ok(refusal.body(tonic::body::Body::empty()).unwrap());
    }
    let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
    Ok(grpc.streaming(Sync(shared), request).await)
}

struct Sync(Arc<Shared>);

impl tonic::server::StreamingService<FollowRequest> for Sync {
    type Response = FollowResponse;
    type ResponseStream = Stream;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Stream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<FollowRequest>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let mut asked = request.into_inner();
            let Some(FollowRequest { request: Some(Asked::Hello(hello)) }) =
                asked.message().await?
            else {
                return Err(Status::invalid_argument("no hello"));
            };
            shared.hellos.lock().unwrap().push(hello.clone());
            let (to, told) = mpsc::channel(8);
            // Weak: the stream ends with what feeds it.
            let (acks, back) = (shared.clone(), to.downgrade());
            // The newest pulse of this stream.
            let newest = Arc::new(AtomicU64::new(0));
            let pulses = newest.clone();
            tokio::spawn(async move {
                while let Ok(Some(FollowRequest { request: Some(said) })) = asked.message().await {
                    match said {
                        Asked::Applied(applied) => {
                            let digest = Digest::from_bytes(&applied.digest).unwrap();
                            acks.applied.lock().unwrap().push((Revision(applied.revision), digest));
                        }
                        Asked::Activity(report) => acks.reports.lock().unwrap().push(report),
                        Asked::GateReport(_) => {}
                        Asked::Figures(figures) => acks.figures.lock().unwrap().push(figures),
                        Asked::Pulse(pulse) => pulses.store(pulse.nonce, Ordering::SeqCst),
                        Asked::AssertionKeys(_) | Asked::LogPosition(_) => {}
                        Asked::CallerQuestion(question) => {
                            acks.questions.lock().unwrap().push(question.clone());
                            for answer in acks.answers_to(&question) {
                                let told = Told::CallerAnswer(answer);
                                let told = FollowResponse { response: Some(told) };
                                let Some(back) = back.upgrade() else { return };
                                let _ = back.send(Ok(told)).await;
                            }
                        }
                        Asked::Hello(_) => return,
                    }
                }
            });
            tokio::spawn(async move {
                let _ = feed(shared, hello, to, newest).await;
            });
            let told = futures_util::stream::unfold(told, |mut told| async move {
                Some((told.recv().await?, told))
            });
            Ok(Response::new(Box::pin(told) as Stream))
        })
    }
}

struct Gone;

/// Sends messages, and does what the next fault says at the first message that it fits.
struct Mouth {
    shared: Arc<Shared>,
    to: mpsc::Sender<Told1>,
    /// Counts streams.
    stream: usize,
}

impl Mouth {
    fn fault(&self, fits: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut faults = self.shared.faults.lock().unwrap();
        faults.front().copied().filter(|fault| fits(*fault)).inspect(|fault| {
            self.shared.done.lock().unwrap().push((self.stream, *fault));
            faults.pop_front();
        })
    }

    async fn say(&self, told: Told) -> Result<(), Gone> {
        match self
            .fault(|f| matches!(f, Fault::Disconnect | Fault::Status | Fault::End | Fault::Stall))
        {
            Some(Fault::Disconnect) => {
                self.shared.hang_up.send_modify(|n| *n += 1);
                return Err(Gone);
            }
            Some(Fault::Status) => {
                let _ = self.to.send(Err(Status::internal("as ordered"))).await;
                return Err(Gone);
            }
            Some(Fault::End) => return Err(Gone),
            Some(Fault::Stall) => {
                self.to.closed().await;
                return Err(Gone);
            }
            _ => {}
        }
        while self.shared.mute.load(Ordering::SeqCst) && !self.to.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = FollowResponse { response: Some(told) };
        self.to.send(Ok(told)).await.map_err(|_| Gone)
    }

    async fn snapshot(&self) -> Result<usize, Gone> {
        self.shared.snapshots.fetch_add(1, Ordering::SeqCst);
        let (head, state) = {
            let history = self.shared.history.lock().unwrap();
            let newest = history.len() - 1;
            // Of the same history.
            let lag = self.shared.snapshots_lag.load(Ordering::SeqCst);
            let history_id = history[newest].history;
            let first = history.iter().position(|state| state.history == history_id).unwrap();
            let head = newest.saturating_sub(lag).max(first);
            (head, history[head].clone())
        };
        let revision = Revision(state.revision);
        let items: Vec<Item> = state.items.values().cloned().collect();
        let mut begin = wire::snapshot_begin(revision, state.digest, items.len() as u64);
        if !self.shared.old.load(Ordering::SeqCst) {
            begin.mark = Some(state.mark().to_proto());
        }
        // Small chunks, so that there are several to lose.
        let mut chunks = Vec::new();
        for some in items.chunks(3) {
            let snapshot = Snapshot { revision, digest: Digest::default(), items: some.to_vec() };
            chunks.extend(wire::snapshot_chunks(&snapshot).unwrap().0);
        }
        for chunk in &mut chunks {
            self.mark_needs_of_chunk(chunk);
        }
        let end = proto::SnapshotEnd { chunks: chunks.len() as u64 };
        let fault = self.fault(|f| {
            use Fault::{
                BeginTwice, CorruptChunk, EndEarly, LoseChunk, MisdigestSnapshot, RepeatChunk,
                UnmarkedSnapshot,
            };
            matches!(
                f,
                CorruptChunk
                    | LoseChunk
                    | RepeatChunk
                    | MisdigestSnapshot
                    | EndEarly
                    | BeginTwice
                    | UnmarkedSnapshot
            )
        });
        match fault {
            Some(Fault::CorruptChunk) => {
                if let Some(byte) = chunks.first_mut().and_then(|chunk| chunk.zstd.last_mut()) {
                    *byte ^= 0x55;
                }
            }
            Some(Fault::LoseChunk) => {
                chunks.pop();
            }
            Some(Fault::RepeatChunk) => chunks.extend(chunks.first().cloned()),
            Some(Fault::MisdigestSnapshot) => begin.digest[7] ^= 1,
            Some(Fault::UnmarkedSnapshot) => begin.mark = None,
            Some(Fault::EndEarly) => {
                self.say(Told::SnapshotBegin(begin.clone())).await?;
                self.say(Told::SnapshotEnd(end)).await?;
                return Ok(head);
            }
            Some(Fault::BeginTwice) => self.say(Told::SnapshotBegin(begin.clone())).await?,
            _ => {}
        }
        self.say(Told::SnapshotBegin(begin)).await?;
        for chunk in chunks {
            self.say(Told::SnapshotChunk(chunk)).await?;
        }
        self.say(Told::SnapshotEnd(end)).await?;
        Ok(head)
    }

    async fn delta(&self, revision: usize) -> Result<(), Gone> {
        let (previous, state) = {
            let history = self.shared.history.lock().unwrap();
            match (history.get(revision - 1), history.get(revision)) {
                (Some(previous), Some(state)) => (previous.revision, state.clone()),
                _ => return Err(Gone),
            }
        };
        let mark = state.mark();
        let delta = Delta {
            previous: Revision(previous),
            revision: Revision(state.revision),
            changes: state.changes,
            digest: Some(state.digest),
        };
        let mut delta = wire::delta_to_proto(&delta).unwrap();
        delta.mark = Some(mark.to_proto());
        for change in &mut delta.changes {
            if let Some(proto::change::Change::Put(item)) = &mut change.change {
                self.mark_needs(item);
            }
        }
        let fault = self.fault(|f| {
            use Fault::{
                AlterDelta, BreakDelta, ForeignDelta, LoseDelta, MisdigestDelta, RepeatDelta,
            };
            matches!(
                f,
                LoseDelta | RepeatDelta | AlterDelta | MisdigestDelta | BreakDelta | ForeignDelta
            )
        });
        match fault {
            Some(Fault::LoseDelta) => return Ok(()),
            Some(Fault::RepeatDelta) => self.say(Told::Delta(delta.clone())).await?,
            Some(Fault::AlterDelta) => {
                delta.changes.pop();
            }
            Some(Fault::MisdigestDelta) => delta.digest[3] ^= 1,
            Some(Fault::ForeignDelta) => {
                if let Some(mark) = &mut delta.mark {
                    mark.history = vec![9; 16];
                }
            }
            Some(Fault::BreakDelta) => delta.changes.push(proto::Change { change: None }),
            _ => {}
        }
        self.say(Told::Delta(delta)).await
    }

    fn mark_needs(&self, item: &mut proto::Item) {
        let service = item.key.as_ref().map(|key| key.service.as_str()).unwrap_or_default();
        if let Some(needs) = self.shared.needs.lock().unwrap().get(service) {
            item.needs = *needs;
        }
        let key = wire::key_from_proto(item.key.clone()).unwrap();
        if item.needs <= keepgate_policy::mark::FORMAT {
            item.body = body_of(&Item::decode(key, &item.body).unwrap());
        }
    }

    fn mark_needs_of_chunk(&self, chunk: &mut proto::SnapshotChunk) {
        use prost::Message as _;
        let bytes = zstd::bulk::decompress(&chunk.zstd, wire::MAX_CHUNK_BYTES).unwrap();
        let mut items = proto::Items::decode(bytes.as_slice()).unwrap();
        for item in &mut items.items {
            self.mark_needs(item);
        }
        chunk.zstd = zstd::bulk::compress(&items.encode_to_vec(), 3).unwrap();
    }

    fn heartbeat(&self, newest: &AtomicU64) -> Told {
        // The pulse first, then the head.
        let echo = newest.load(Ordering::SeqCst);
        let history = self.shared.history.lock().unwrap();
        let head = history.last().unwrap();
        let mut beat = Heartbeat { head: head.revision, ..Heartbeat::default() };
        if !self.shared.old.load(Ordering::SeqCst) {
            beat.mark = Some(head.mark().to_proto());
            beat.echo = if self.shared.no_echo.load(Ordering::SeqCst) { 0 } else { echo };
        }
        Told::Heartbeat(beat)
    }

    fn welcome(&self) -> Told {
        let history = self.shared.history.lock().unwrap();
        let head = history.last().unwrap();
        let mut ancestors: Vec<Vec<u8>> = Vec::new();
        for state in history.iter().rev() {
            let id = state.history.0.to_vec();
            if state.history != head.history && !ancestors.contains(&id) {
                ancestors.push(id);
            }
        }
        Told::Welcome(proto::Welcome {
            history: head.history.0.to_vec(),
            ancestors,
            head: Some(head.mark().to_proto()),
            format: keepgate_policy::mark::FORMAT,
            ..proto::Welcome::default()
        })
    }
}

async fn feed(
    shared: Arc<Shared>,
    hello: proto::Hello,
    to: mpsc::Sender<Told1>,
    newest: Arc<AtomicU64>,
) -> Result<(), Gone> {
    let mut heads = shared.head.subscribe();
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    let stream = shared.streams.fetch_add(1, Ordering::SeqCst);
    let mouth = Mouth { shared: shared.clone(), to, stream };
    if !shared.old.load(Ordering::SeqCst) {
        mouth.say(mouth.welcome()).await?;
    }
    let known = {
        let history = shared.history.lock().unwrap();
        let of = history.last().unwrap().history;
        history.iter().position(|state| {
            hello.revision > 0
                && state.history == of
                && state.revision == hello.revision
                && state.digest.to_bytes().as_slice() == hello.digest
        })
    };
    let mut sent = match known {
        Some(at) => at,
        None => {
            mouth.say(mouth.heartbeat(&newest)).await?;
            mouth.snapshot().await?
        }
    };
    loop {
        let head = *heads.borrow_and_update();
        while sent < head {
            mouth.delta(sent + 1).await?;
            sent += 1;
        }
        tokio::select! {
            changed = heads.changed() => changed.map_err(|_| Gone)?,
            _ = beat.tick() => {
                if mouth.fault(|fault| fault == Fault::HeadAhead).is_some() {
                    let echo = newest.load(Ordering::SeqCst);
                    let beat = Heartbeat { head: 1 << 40, echo, ..Heartbeat::default() };
                    mouth.say(Told::Heartbeat(beat)).await?;
                }
                if mouth.fault(|fault| fault == Fault::ForeignHeartbeat).is_some()
                    && let Told::Heartbeat(mut beat) = mouth.heartbeat(&newest)
                {
                    if let Some(mark) = &mut beat.mark {
                        mark.history = vec![9; 16];
                    }
                    mouth.say(Told::Heartbeat(beat)).await?;
                }
                mouth.say(mouth.heartbeat(&newest)).await?;
            }
        }
    }
}
