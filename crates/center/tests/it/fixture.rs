//! A center on a free port with a directory of its own, and clients to talk to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use keepgate_center::{Center, CenterConfig};
use keepgate_policy::proto::follow_response::Response as Told;
use keepgate_policy::proto::{self, FollowRequest, FollowResponse};
use keepgate_policy::wire::{SnapshotDecoder, delta_from_proto};
use keepgate_policy::{Change, Delta, Digest, Item, ItemKey, Revision};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The bound of every wait: far beyond what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Policies of a service that staff may use.
pub(crate) const STAFF: &str = "permit (principal in role::\"staff\", action, resource);";

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Waits for a future, at most [`PATIENCE`].
pub(crate) async fn patiently<T>(what: &str, f: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, f).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A directory that is removed with its owner.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepgate-center-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }

    /// One in memory: for tests of thousands of commits, which would wait for a disk.
    pub(crate) fn in_memory() -> Dir {
        let Dir(path) = &Dir::new();
        match path.file_name() {
            Some(name) if Path::new("/dev/shm").is_dir() => Dir(Path::new("/dev/shm").join(name)),
            _ => Dir::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running center.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: String,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), keepgate_center::RunError>>>,
}

/// Without a wait for witnesses; the tests of that wait set it.
pub(crate) fn config(dir: &Dir) -> CenterConfig {
    let mut config = CenterConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
    config.witness_wait = Duration::ZERO;
    config
}

impl Running {
    pub(crate) async fn start(dir: &Dir) -> Running {
        Running::with(config(dir)).await
    }

    pub(crate) async fn with(config: CenterConfig) -> Running {
        let dir = config.data_dir.clone();
        let center = patiently("start", Center::start(config)).await.unwrap();
        Running::begin(center, &dir)
    }

    /// One that was started already.
    pub(crate) fn of(center: Center, dir: &Dir) -> Running {
        Running::begin(center, dir.path())
    }

    fn begin(center: Center, dir: &Path) -> Running {
        let admin = std::fs::read_to_string(dir.join("admin.token")).unwrap().trim().to_owned();
        let addr = center.addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(center.run(async move {
            let _ = stopped.await;
        }));
        Running { addr, admin, stop: Some(stop), task: Some(task) }
    }

    /// One that runs in another process.
    pub(crate) fn elsewhere(addr: SocketAddr, admin: String) -> Running {
        Running { addr, admin, stop: None, task: None }
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(self) {
        self.try_stop().await.unwrap();
    }

    /// Stops it, whatever comes of that.
    pub(crate) async fn try_stop(mut self) -> Result<(), keepgate_center::RunError> {
        drop(self.stop.take());
        match self.task.take() {
            Some(task) => patiently("a stop", task).await.unwrap(),
            None => Ok(()),
        }
    }

    /// A request with the admin token; the body is JSON.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_as(Some(&self.admin), method, path, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        self.send(request.body(body).unwrap()).await
    }

    /// A request to a center that may die before it answers.
    pub(crate) async fn try_ask(&self, method: &str, path: &str, body: Value) -> Option<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.admin))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))
            .unwrap();
        self.try_send(request).await
    }

    /// Any request, on a connection of its own.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    async fn try_send(&self, request: Request<Bytes>) -> Option<Answer> {
        let (mut parts, body) = request.into_parts();
        parts.headers.entry("host").or_insert(self.addr.to_string().parse().unwrap());
        let request = Request::from_parts(parts, Full::new(body));
        #[expect(clippy::disallowed_methods, reason = "a test client, to the center it started")]
        let stream = patiently("a connection", TcpStream::connect(self.addr)).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let driver = tokio::spawn(connection);
        let response = patiently("an answer", sender.send_request(request)).await.ok()?;
        let (parts, body) = response.into_parts();
        let body = patiently("a body", body.collect()).await.ok()?.to_bytes();
        drop(sender);
        driver.abort();
        Some(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub(crate) async fn token(&self, role: &str, service: &str) -> String {
        let body = json!({ "role": role, "service": service });
        let made = self.ask("POST", "/v1/tokens", Some(body)).await.good();
        made["token"].as_str().unwrap().to_owned()
    }

    /// A service with these policies, each `(id, text)`.
    pub(crate) async fn service(&self, name: &str, policies: &[(&str, &str)]) {
        self.ask("PUT", &format!("/v1/services/{name}"), Some(json!({}))).await.good();
        for (id, text) in policies {
            let path = format!("/v1/services/{name}/policies/{id}");
            self.ask("PUT", &path, Some(json!({ "text": text }))).await.good();
        }
    }

    /// Puts a user into the role `staff` (`assign`), or takes them out (`revoke`).
    pub(crate) async fn member(&self, who: &str, what: &str) -> Answer {
        let body = json!({ "member": format!("user::\"{who}\""), "role": "role::\"staff\"" });
        self.ask("POST", &format!("/v1/roles/{what}"), Some(body)).await
    }

    /// Asks whether a user may read in `orders`.
    pub(crate) async fn evaluation(&self, who: &str) -> Answer {
        let body = json!({
            "subject": { "type": "user", "id": who },
            "action": { "name": "read" },
            "resource": { "type": "record", "id": "r1" },
        });
        self.ask("POST", "/s/orders/access/v1/evaluation", Some(body)).await
    }

    /// What it decides on that.
    pub(crate) async fn allowed(&self, who: &str) -> bool {
        self.evaluation(who).await.good()["decision"].as_bool().unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        self.ask("GET", "/v1/status", None).await.good()
    }

    /// What `/readyz` says: `ok`, or what is missing as `PART: KIND: WHY`.
    pub(crate) async fn readiness(&self) -> String {
        let said = self.ask("GET", "/readyz", None).await;
        let body: Value = serde_json::from_slice(&said.body).unwrap();
        let missing = body["missing"].as_array().unwrap();
        assert_eq!(body["ready"], missing.is_empty(), "{body}");
        assert_eq!(said.status.as_u16(), if missing.is_empty() { 200 } else { 503 });
        let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        let all: Vec<String> = missing
            .iter()
            .map(|one| ["part", "kind", "why"].map(|name| text(one, name)).join(": "))
            .collect();
        if all.is_empty() { "ok".to_owned() } else { all.join("\n") }
    }

    /// Until that begins so.
    pub(crate) async fn until_readiness(&self, begins: &str) -> String {
        let said = async {
            loop {
                let said = self.readiness().await;
                if said.starts_with(begins) {
                    return said;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently(begins, said).await
    }

    /// Until it says that it is ready.
    pub(crate) async fn until_ready(&self) {
        self.until_readiness("ok").await;
    }

    pub(crate) async fn revision(&self) -> u64 {
        self.ask("GET", "/v1/revision", None).await.good()["revision"].as_u64().unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test client, to the center it has started")]
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    patiently("a connection", TcpStream::connect(addr)).await.unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body of an answer that must be good.
    pub(crate) fn good(self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert!(self.status.is_success(), "{}: {text}", self.status);
        self.json()
    }

    /// The detail of an answer that must be a problem of this status.
    pub(crate) fn problem(self, status: u16) -> String {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{text}");
        let body = self.json();
        assert_eq!(body["status"], json!(status), "{text}");
        assert!(body["type"].as_str().unwrap().starts_with("urn:keepgate:problem:"), "{text}");
        assert_eq!(body["request_id"].as_str().unwrap(), self.header("x-request-id"), "{text}");
        body["detail"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// A follower that keeps what it is told in a plain map: the model that a replica must equal.
pub(crate) struct Mirror {
    to: mpsc::Sender<FollowRequest>,
    from: tonic::Streaming<FollowResponse>,
    decoder: Option<SnapshotDecoder>,
    pub(crate) items: BTreeMap<ItemKey, Item>,
    pub(crate) revision: Revision,
    /// Snapshots that came.
    pub(crate) snapshots: u64,
    /// Deltas that came.
    pub(crate) deltas: Vec<Delta>,
    /// Heads of the heartbeats that came.
    pub(crate) heads: Vec<u64>,
}

impl Mirror {
    pub(crate) async fn follow(
        center: &Running,
        token: &str,
        services: &[&str],
    ) -> Result<Mirror, tonic::Status> {
        Mirror::hello(center, token, services, Revision(0), None, BTreeMap::new()).await
    }

    pub(crate) async fn hello(
        center: &Running,
        token: &str,
        services: &[&str],
        revision: Revision,
        digest: Option<Digest>,
        items: BTreeMap<ItemKey, Item>,
    ) -> Result<Mirror, tonic::Status> {
        let channel = tonic::transport::Endpoint::try_from(format!("http://{}", center.addr))
            .unwrap()
            // Small, so that a follower that does not read is felt soon.
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .connect()
            .await
            .unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        let (to, asked) = mpsc::channel(16);
        let hello = proto::Hello {
            services: services.iter().map(|&name| name.to_owned()).collect(),
            revision: revision.0,
            digest: digest.map(|digest| digest.to_bytes().to_vec()).unwrap_or_default(),
            follower: "mirror".to_owned(),
            ..proto::Hello::default()
        };
        to.send(FollowRequest { request: Some(proto::follow_request::Request::Hello(hello)) })
            .await
            .unwrap();
        let asked = futures_util::stream::unfold(asked, |mut asked| async move {
            asked.recv().await.map(|message| (message, asked))
        });
        let mut request = tonic::Request::new(asked);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/keepgate.sync.v1.Sync/Follow");
        let codec = tonic_prost::ProstCodec::<FollowRequest, FollowResponse>::default();
        let answer = patiently("a stream", grpc.streaming(request, path, codec)).await?;
        Ok(Mirror {
            to,
            from: answer.into_inner(),
            decoder: None,
            items,
            revision,
            snapshots: 0,
            deltas: Vec::new(),
            heads: Vec::new(),
        })
    }

    /// The digest of what it holds.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of_all(self.items.values())
    }

    /// Takes one message; what it announces must hold.
    pub(crate) async fn step(&mut self) -> Result<(), tonic::Status> {
        let message = patiently("a message", self.from.message()).await?;
        let message = message.ok_or_else(|| tonic::Status::ok("the stream has ended"))?;
        match message.response.unwrap() {
            Told::SnapshotBegin(begin) => {
                self.decoder = Some(SnapshotDecoder::begin(&begin).unwrap());
            }
            Told::SnapshotChunk(chunk) => self.decoder.as_mut().unwrap().chunk(&chunk).unwrap(),
            Told::SnapshotEnd(end) => {
                let snapshot = self.decoder.take().unwrap().finish(&end).unwrap();
                assert!(snapshot.revision >= self.revision, "a snapshot took it back");
                self.revision = snapshot.revision;
                self.items =
                    snapshot.items.into_iter().map(|item| (item.key.clone(), item)).collect();
                self.snapshots += 1;
            }
            Told::Delta(delta) => {
                let delta = delta_from_proto(delta).unwrap();
                assert_eq!(delta.previous, self.revision, "a gap");
                for change in &delta.changes {
                    match change {
                        Change::Put(item) => self.items.insert(item.key.clone(), item.clone()),
                        Change::Delete(key) => self.items.remove(key),
                    };
                }
                self.revision = delta.revision;
                if let Some(digest) = delta.digest {
                    assert_eq!(digest, self.digest(), "the digest at {}", self.revision);
                }
                self.deltas.push(delta);
            }
            Told::Heartbeat(heartbeat) => self.heads.push(heartbeat.head),
            Told::Welcome(_)
            | Told::AssertionKeysPublished(_)
            | Told::LogAnchor(_)
            | Told::CallerAnswer(_) => {}
        }
        Ok(())
    }

    /// Until it holds this revision or a later one.
    pub(crate) async fn until(&mut self, revision: u64) {
        while self.revision < Revision(revision) {
            self.step().await.unwrap();
        }
    }

    pub(crate) async fn applied(&self) {
        let applied = proto::Applied {
            revision: self.revision.0,
            digest: self.digest().to_bytes().to_vec(),
            mark: None,
        };
        let request = Some(proto::follow_request::Request::Applied(applied));
        self.to.send(FollowRequest { request }).await.unwrap();
    }

    /// Says who makes the requests of a service; any bytes.
    pub(crate) async fn report(&self, service: &str, report: impl Into<Vec<u8>>) {
        let activity = proto::Activity { service: service.to_owned(), report: report.into() };
        let request = Some(proto::follow_request::Request::Activity(activity));
        self.to.send(FollowRequest { request }).await.unwrap();
    }

    /// Says what it did with requests.
    pub(crate) async fn figures(&self, figures: proto::Figures) {
        let request = Some(proto::follow_request::Request::Figures(figures));
        self.to.send(FollowRequest { request }).await.unwrap();
    }

    /// Has a position of an access log signed.
    pub(crate) async fn sign(&mut self, log: [u8; 16], seq: u64) -> proto::LogAnchor {
        let chain = vec![seq as u8; 32];
        let position = proto::LogPosition { log: log.to_vec(), seq, chain };
        let request = Some(proto::follow_request::Request::LogPosition(position));
        self.to.send(FollowRequest { request }).await.unwrap();
        loop {
            let told = patiently("an anchor", self.from.message()).await.unwrap().unwrap();
            if let Some(Told::LogAnchor(anchor)) = told.response {
                return anchor;
            }
        }
    }

    /// Asks what a caller of its page asks; the answer to it.
    pub(crate) async fn question(
        &mut self,
        service: &str,
        address: &str,
        question: proto::caller_question::Question,
    ) -> proto::caller_answer::Answer {
        let id = 7;
        let (service, address, question) = (service.to_owned(), address.to_owned(), Some(question));
        let asked = proto::CallerQuestion { id, service, address, question };
        let request = Some(proto::follow_request::Request::CallerQuestion(asked));
        self.to.send(FollowRequest { request }).await.unwrap();
        loop {
            let told = patiently("an answer", self.from.message()).await.unwrap().unwrap();
            if let Some(Told::CallerAnswer(answer)) = told.response {
                assert_eq!(answer.id, id);
                return answer.answer.unwrap();
            }
        }
    }

    /// Says what this center does not know.
    pub(crate) async fn say_nothing(&self) {
        self.to.send(FollowRequest { request: None }).await.unwrap();
    }
}

/// What a follower says it holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) revision: u64,
    pub(crate) digest: Vec<u8>,
    pub(crate) mark: Option<proto::Mark>,
}

/// A follower that speaks the protocol message by message. It follows `orders`.
pub(crate) struct Raw {
    to: mpsc::Sender<FollowRequest>,
    from: tonic::Streaming<FollowResponse>,
    held: Option<Held>,
    welcome: Option<proto::Welcome>,
    beats: Vec<proto::Heartbeat>,
    snapshots: usize,
}

/// Sends messages as they were recorded.
#[derive(Default)]
struct Verbatim;

impl tonic::codec::Codec for Verbatim {
    type Encode = Vec<u8>;
    type Decode = FollowResponse;
    type Encoder = Verbatim;
    type Decoder =
        <tonic_prost::ProstCodec<FollowRequest, FollowResponse> as tonic::codec::Codec>::Decoder;

    fn encoder(&mut self) -> Verbatim {
        Verbatim
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstCodec::<FollowRequest, FollowResponse>::default().decoder()
    }
}

impl tonic::codec::Encoder for Verbatim {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        to: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

/// The messages of a recorded gRPC stream: a byte, the length, the message.
fn messages(mut recorded: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = recorded.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let (message, rest) = rest.split_at(length);
        messages.push(message.to_vec());
        recorded = rest;
    }
    assert!(recorded.is_empty() && !messages.is_empty());
    messages
}

impl Raw {
    pub(crate) async fn follow(center: &Running, token: &str, held: Option<Held>) -> Raw {
        Raw::try_follow(center, token, held).await.unwrap()
    }

    /// As this release does.
    pub(crate) async fn try_follow(
        center: &Running,
        token: &str,
        held: Option<Held>,
    ) -> Result<Raw, tonic::Status> {
        let held = held.unwrap_or(Held { revision: 0, digest: Vec::new(), mark: None });
        let hello = proto::Hello {
            services: vec!["orders".to_owned()],
            revision: held.revision,
            digest: held.digest,
            follower: "raw".to_owned(),
            mark: held.mark,
            format: keepgate_policy::mark::FORMAT,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Raw::say_hello(center, token, hello).await
    }

    pub(crate) async fn say_hello(
        center: &Running,
        token: &str,
        hello: proto::Hello,
    ) -> Result<Raw, tonic::Status> {
        let (to, asked) = mpsc::channel(16);
        to.send(FollowRequest { request: Some(proto::follow_request::Request::Hello(hello)) })
            .await
            .unwrap();
        let asked = futures_util::stream::unfold(asked, |mut asked| async move {
            asked.recv().await.map(|message| (message, asked))
        });
        let codec = tonic_prost::ProstCodec::<FollowRequest, FollowResponse>::default();
        Raw::over(center, token, codec, asked, to).await
    }

    /// Sends what was recorded, and says nothing more.
    pub(crate) async fn replay(center: &Running, token: &str, recorded: &[u8]) -> Raw {
        use futures_util::StreamExt as _;
        let said = futures_util::stream::iter(messages(recorded));
        let said = said.chain(futures_util::stream::pending());
        let (to, _) = mpsc::channel(1);
        Raw::over(center, token, Verbatim, said, to).await.unwrap()
    }

    async fn over<C>(
        center: &Running,
        token: &str,
        codec: C,
        asked: impl futures_util::Stream<Item = C::Encode> + Send + 'static,
        to: mpsc::Sender<FollowRequest>,
    ) -> Result<Raw, tonic::Status>
    where
        C: tonic::codec::Codec<Decode = FollowResponse> + Send,
        C::Encode: Send + Sync + 'static,
    {
        let uri = format!("http://{}", center.addr);
        let channel =
            tonic::transport::Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        let mut request = tonic::Request::new(asked);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/keepgate.sync.v1.Sync/Follow");
        let answer = patiently("a stream", grpc.streaming(request, path, codec)).await?;
        let from = answer.into_inner();
        Ok(Raw { to, from, held: None, welcome: None, beats: Vec::new(), snapshots: 0 })
    }

    /// Takes one message.
    pub(crate) async fn next(&mut self) -> Result<(), tonic::Status> {
        let message = patiently("a message", self.from.message()).await?.unwrap();
        match message.response.unwrap() {
            Told::Welcome(welcome) => {
                assert!(self.welcome.is_none() && self.held.is_none(), "Welcome comes once, first");
                self.welcome = Some(welcome);
            }
            Told::SnapshotBegin(begin) => {
                let (revision, digest, mark) = (begin.revision, begin.digest, begin.mark);
                self.snapshots += 1;
                self.held = Some(Held { revision, digest, mark });
            }
            Told::Delta(delta) => {
                let held = self.held.as_mut().unwrap();
                assert_eq!(delta.previous, held.revision);
                held.revision = delta.revision;
                held.mark = delta.mark;
                held.digest = delta.digest;
            }
            Told::Heartbeat(beat) => self.beats.push(beat),
            Told::SnapshotChunk(_)
            | Told::SnapshotEnd(_)
            | Told::AssertionKeysPublished(_)
            | Told::LogAnchor(_)
            | Told::CallerAnswer(_) => {}
        }
        Ok(())
    }

    /// What it was told last; waits for a snapshot.
    pub(crate) async fn held(&mut self) -> Held {
        while self.held.is_none() {
            self.next().await.unwrap();
        }
        self.held.clone().unwrap()
    }

    pub(crate) async fn welcome(&mut self) -> proto::Welcome {
        while self.welcome.is_none() {
            self.next().await.unwrap();
        }
        self.welcome.clone().unwrap()
    }

    pub(crate) async fn pulse(&mut self, nonce: u64) {
        let pulse = proto::Pulse { nonce, age_ms: Some(5) };
        let request = Some(proto::follow_request::Request::Pulse(pulse));
        self.to.send(FollowRequest { request }).await.unwrap();
    }

    /// The first heartbeat that echoes this pulse.
    pub(crate) async fn echo(&mut self, nonce: u64) -> proto::Heartbeat {
        loop {
            if let Some(beat) = self.beats.iter().find(|beat| beat.echo == nonce) {
                return beat.clone();
            }
            self.next().await.unwrap();
        }
    }

    /// It said that it holds this.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// How many snapshots began.
    pub(crate) fn snapshots(&self) -> usize {
        self.snapshots
    }

    /// Whether a Welcome came.
    pub(crate) fn was_welcomed(&self) -> bool {
        self.welcome.is_some()
    }

    /// How many heartbeats came.
    pub(crate) fn beats(&self) -> usize {
        self.beats.len()
    }

    /// The end of the stream.
    pub(crate) async fn end(&mut self) -> tonic::Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}
