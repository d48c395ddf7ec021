//! A gate on a world in hand, an upstream that says what it saw, and raw connections.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keepgate_gate::identify::access::KeyAccess;
use keepgate_gate::{FixedSource, Gate, GateConfig, Listen, Reloader};
use keepgate_policy::limits::Written;
use keepgate_policy::model::{GrantBody, KeyBody, MemberBody, PolicyBody, SchemaBody};
use keepgate_policy::route::Route;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Digest, Item, ItemBody, Revision, Snapshot, Uid, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// No wait in a test is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SERVICE: &str = "orders";

/// A world to be: the service `orders` with a handful of routes, users and policies.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) settings: ServiceSettings,
    pub(crate) routes: Vec<Route>,
    pub(crate) policies: Vec<(String, String)>,
    pub(crate) keys: Vec<KeyBody>,
    pub(crate) grants: Vec<(String, GrantBody)>,
    pub(crate) members: Vec<MemberBody>,
    /// The Cedar schema.
    pub(crate) schema: Option<String>,
    /// Rules and plans, as in `limits.toml`.
    pub(crate) limits: Vec<serde_json::Value>,
    pub(crate) plans: Vec<serde_json::Value>,
    pub(crate) revision: u64,
}

/// A membership without an end.
pub(crate) fn member(member: Uid, role: Uid) -> MemberBody {
    MemberBody { member, role, source: String::new(), until_unix_s: None }
}

pub(crate) fn route(method: &str, path: &str) -> Route {
    serde_json::from_value(serde_json::json!({"method": method, "path": path})).unwrap()
}

impl Draft {
    /// Alice may do everything below `/orders`; anybody may `/public`; `/orders/secret` is
    /// forbidden to all. Callers are named by `x-user`, believed from loopback. Nothing is limited: the test is one caller.
    pub(crate) fn orders() -> Draft {
        let settings = serde_json::json!({
            "name": SERVICE,
            "limits": {"default": "off"},
            "identify": {"trusted_header": {"header": "x-user", "peers": ["127.0.0.0/8", "::1"]}},
        });
        let mut public = route("*", "/public");
        public.anonymous = true;
        let mut below = route("*", "/public/{*rest}");
        below.anonymous = true;
        let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
        Draft {
            settings: serde_json::from_value(settings).unwrap(),
            routes: vec![
                route("GET", "/orders"),
                route("*", "/orders/{id}"),
                route("POST", "/orders"),
                route("GET", "/orders/secret"),
                public,
                below,
            ],
            policies: vec![
                policy(
                    "alice",
                    "permit (principal == user::\"alice\", action, \
                     resource in route::\"/orders\");",
                ),
                policy("public", "permit (principal, action, resource in route::\"/public\");"),
                policy(
                    "secret",
                    "forbid (principal, action, resource == route::\"/orders/secret\");",
                ),
            ],
            keys: Vec::new(),
            grants: Vec::new(),
            members: Vec::new(),
            schema: None,
            limits: Vec::new(),
            plans: Vec::new(),
            revision: 1,
        }
    }

    pub(crate) fn world(&self) -> World {
        let mut items =
            vec![Item::new(SERVICE, "", ItemBody::Service(Box::new(self.settings.clone())))];
        for route in &self.routes {
            let id = format!("{} {}", route.method, route.path);
            items.push(Item::new(SERVICE, &id, ItemBody::Route(Box::new(route.clone()))));
        }
        for (id, text) in &self.policies {
            let body = PolicyBody { text: text.clone(), file: String::new() };
            items.push(Item::new(SERVICE, id, ItemBody::Policy(body)));
        }
        for key in &self.keys {
            items.push(Item::new(SERVICE, &key.prefix, ItemBody::Key(key.clone())));
        }
        for limit in &self.limits {
            let rule = Written::read(limit.clone()).unwrap();
            items.push(Item::new(SERVICE, "", ItemBody::Limit(Box::new(rule))));
        }
        for plan in &self.plans {
            let plan = Written::read(plan.clone()).unwrap();
            items.push(Item::new(SERVICE, "", ItemBody::Plan(Box::new(plan))));
        }
        if let Some(text) = &self.schema {
            let schema = SchemaBody { text: text.clone() };
            items.push(Item::new(SERVICE, "", ItemBody::Schema(schema)));
        }
        for (id, grant) in &self.grants {
            items.push(Item::new(SERVICE, id, ItemBody::Grant(grant.clone())));
        }
        for member in &self.members {
            let id = format!("{} in {}", member.member, member.role);
            items.push(Item::new("", &id, ItemBody::Member(member.clone())));
        }
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let digest = Digest::of_all(&items);
        World::from_snapshot(&Snapshot { revision: Revision(self.revision), digest, items })
            .unwrap()
    }
}

/// A running gate; stopped when dropped.
pub(crate) struct TestGate {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where other proxies ask, if anywhere.
    pub(crate) check: Option<SocketAddr>,
    pub(crate) source: Arc<FixedSource>,
    pub(crate) reloader: Reloader,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: Option<tokio::task::JoinHandle<()>>,
}

impl TestGate {
    pub(crate) async fn start(draft: &Draft, upstream: &str) -> TestGate {
        TestGate::with(draft, upstream, |_| {}).await
    }

    pub(crate) async fn with(
        draft: &Draft,
        upstream: &str,
        change: impl FnOnce(&mut GateConfig),
    ) -> TestGate {
        TestGate::on(Arc::new(FixedSource::new(draft.world())), upstream, change).await
    }

    pub(crate) async fn on(
        source: Arc<FixedSource>,
        upstream: &str,
        change: impl FnOnce(&mut GateConfig),
    ) -> TestGate {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = GateConfig {
            service: SERVICE.to_owned(),
            upstream: upstream.to_owned(),
            listen: Listen::Tcp(loopback),
            admin_listen: Some(loopback),
            admin_hosts: vec!["a.example".to_owned()],
            workers: 2,
            // The tests' issuers are on this host, and their files in its temporary directory.
            key_access: KeyAccess {
                secrets: Some(std::env::temp_dir()),
                local: true,
                ..KeyAccess::default()
            },
            ..GateConfig::default()
        };
        config.bounds.drain = Duration::from_secs(2);
        change(&mut config);
        let gate = Gate::with_source(config, source.clone()).await.unwrap();
        let (addr, reloader) = (gate.addr().unwrap_or(loopback), gate.reloader());
        let admin = gate.admin_addr().unwrap();
        let check = gate.check_addrs().first().copied();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            gate.run(shutdown).await.unwrap();
        });
        TestGate { addr, admin, check, source, reloader, stop: Some(stop), ended: Some(ended) }
    }

    /// Tells it to stop.
    pub(crate) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.tell_to_stop();
        let ended = self.ended.take().unwrap();
        tokio::time::timeout(PATIENCE, ended).await.expect("the gate stops").unwrap();
    }

    /// One metric's value, by its line's beginning; zero where it is not.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let text = talk(
            self.admin,
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        .await;
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or_default()
    }
}

/// Accepts a WebSocket, and sends its frames back: unmasked, as a server does; the mask of the tests'
/// frames is zero.
pub(crate) fn echo_websocket<B>(request: &mut Request<Incoming>, response: &mut Response<B>) {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            let mut frame = vec![buffer[0], buffer[1] & 0x7f];
            frame.extend_from_slice(&buffer[6..n]);
            if io.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
}

#[expect(clippy::disallowed_methods, reason = "the test is the caller")]
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    tokio::time::timeout(PATIENCE, TcpStream::connect(addr)).await.unwrap().unwrap()
}

/// Sends bytes and reads all that comes until the other side closes.
pub(crate) async fn talk(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(addr).await;
    // A refusal may come, and the connection close, before all is written.
    let _ = stream.write_all(bytes.as_ref()).await;
    read_to_close(&mut stream).await
}

/// Waits until whoever serves a connection of this host has taken it and read all that was written.
pub(crate) async fn is_read(stream: &TcpStream) {
    let hex = |addr: SocketAddr| {
        let IpAddr::V4(ip) = addr.ip() else { panic!("expected IPv4, got {addr}") };
        format!("{:08X}:{:04X}", ip.to_bits().swap_bytes(), addr.port())
    };
    let (theirs, ours) = (hex(stream.peer_addr().unwrap()), hex(stream.local_addr().unwrap()));
    eventually("all is read", async || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let mut theirs = rows.filter(|row| row.len() > 9 && row[1] == theirs && row[2] == ours);
        // One that was not accepted yet has no inode.
        theirs.any(|row| row[4].ends_with(":00000000") && row[9] != "0")
    })
    .await;
}

pub(crate) async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut out)).await;
    assert!(read.is_ok(), "no close after: {}", String::from_utf8_lossy(&out));
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads until `until` is in what came.
pub(crate) async fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut out = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&out).into_owned();
        if text.contains(until) {
            return text;
        }
        let n = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
        let n = n.unwrap_or_else(|_| panic!("no `{until}` in: {text}")).unwrap();
        assert!(n > 0, "closed before `{until}`: {text}");
        out.extend_from_slice(&chunk[..n]);
    }
}

/// An answer: status, headers, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Answer {
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let status = status.parse().unwrap_or_else(|_| panic!("no status in: {text:?}"));
        Answer { status, headers, body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let body = self.whole();
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"))
    }

    /// The body without its chunks, if it came in some.
    fn whole(&self) -> String {
        let is_chunked = self.headers.get("transfer-encoding").is_some_and(|how| how == "chunked");
        if !is_chunked {
            return self.body.clone();
        }
        let (mut whole, mut rest) = (String::new(), self.body.as_str());
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|e| panic!("{e}: {rest}"));
            whole.push_str(&after[..size]);
            rest = after[size..].strip_prefix("\r\n").unwrap_or_default();
        }
        whole
    }

    /// Asserts that it is the gate's own answer of this kind, with all that belongs to one.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, kind: &str) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["cache-control"], "no-store");
        let json = self.json();
        assert_eq!(json["type"], format!("urn:keepgate:problem:{kind}"), "{json}");
        assert_eq!(json["status"], status);
        assert_eq!(json["request_id"], self.headers["x-request-id"]);
        assert_eq!(matches!(status, 429 | 503), self.headers.contains_key("retry-after"));
        assert_eq!(status == 401, self.headers.contains_key("www-authenticate"));
        json
    }
}

/// A GET with these headers, on a connection of its own.
pub(crate) async fn get(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(addr, "GET", path, headers, "").await
}

pub(crate) async fn ask(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n");
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    Answer::parse(&talk(addr, text).await)
}

/// An upstream that answers with what it saw, over HTTP/1.1 and HTTP/2.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    pub(crate) url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    pub(crate) async fn start() -> Echo {
        serve(|request: Request<Incoming>| async move {
            let mut text = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let body = request.into_body().collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&body));
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let headers = response.headers_mut();
            headers.insert("x-upstream", HeaderValue::from_static("echo"));
            headers.insert("keep-alive", HeaderValue::from_static("timeout=60"));
            headers.insert("x-mine", HeaderValue::from_static("1"));
            headers.append("connection", HeaderValue::from_static("x-mine"));
            response
        })
        .await
    }
}

/// Serves requests with a function.
pub(crate) async fn serve<F, R, B>(answer: F) -> Echo
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        // They end with it.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let answer = answer.clone();
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                let service = service_fn(move |mut request: Request<Incoming>| {
                    // hyper adds its own connection header where it is missing on HTTP/2.
                    if request.version() == http::Version::HTTP_2 {
                        request.headers_mut().remove("connection");
                    }
                    let h2 = request.version() == http::Version::HTTP_2;
                    let answer = answer(request);
                    async move {
                        let mut response = answer.await;
                        if h2 {
                            response.headers_mut().remove("connection");
                            response.headers_mut().remove("keep-alive");
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                let mut builder = auto::Builder::new(TokioExecutor::new());
                // The gate adds a few to the hundred that a caller may send.
                builder.http1().max_headers(128);
                let io = TokioIo::new(stream);
                let _ = builder.serve_connection_with_upgrades(io, service).await;
            });
        }
    });
    Echo { addr, url: format!("http://{addr}"), task }
}

/// Waits, with patience, until something holds.
pub(crate) async fn eventually<F, R>(what: &str, mut holds: F)
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where a test cannot run: loudly skipped, or failed where everything must run.
pub(crate) fn skip(why: &str) {
    assert!(
        std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none_or(|v| v != "1"),
        "must run here, but: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn uid(kind: &str, id: &str) -> Uid {
    Uid::new(kind, id)
}

/// A free port, for servers that cannot say which one they took. It is below those that the kernel gives
/// to clients (32768 on), so no connection takes it before the server does; no two calls of this process
/// return the same.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const PORTS: u16 = 20_000;
    // Two processes at the same time begin apart.
    let begin = (std::process::id().wrapping_mul(67) % u32::from(PORTS)) as u16;
    loop {
        let at = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(at < PORTS, "no free port from {FIRST} on");
        let port = FIRST + (begin + at) % PORTS;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
