//! Long exchanges with real peers: gRPC and WebSocket libraries of other people, nginx as the
//! upstream. `streams.py` beside the tests is the other end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use keepgate_client::pool::Protocol;
use serde_json::Value;
use tokio::sync::mpsc;

use super::support::{Draft, PATIENCE, TestGate, ask, eventually, free_port, serve, skip};

/// A running `streams.py`.
struct Peer {
    lines: mpsc::UnboundedReceiver<String>,
    child: Child,
    /// Its end is the child's, where that serves.
    stdin: Option<ChildStdin>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// None: it is not here, and the test may be left out.
    fn start(args: &[&str]) -> Option<Peer> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = here.join("../../target/fixtures/clients/bin/python");
        if !python.exists() {
            skip("target/fixtures/clients is missing; run scripts/fetch-fixtures");
            return None;
        }
        let mut child = Command::new(python)
            .arg(here.join("tests/clients/streams.py"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, stdin) = (child.stdout.take().unwrap(), child.stdin.take());
        let (tell, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Some(Peer { lines, child, stdin })
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(2 * PATIENCE, self.lines.recv()).await;
        line.expect("a line in time").expect("a line before the end")
    }

    async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

/// Bob's namesake: alice may use orders as long as she is a clerk.
fn clerks() -> Draft {
    let mut draft = Draft::orders();
    draft.policies[0].1 =
        "permit (principal in role::\"clerk\", action, resource in route::\"/orders\");".to_owned();
    draft.members = vec![keepgate_policy::model::MemberBody {
        member: super::support::uid("user", "alice"),
        role: super::support::uid("role", "clerk"),
        source: String::new(),
        until_unix_s: None,
    }];
    draft
}

async fn grpc_server() -> Option<(Peer, String)> {
    let mut peer = Peer::start(&["serve-grpc"])?;
    let port = peer.line().await;
    Some((peer, format!("http://127.0.0.1:{port}")))
}

async fn grpc_gate(draft: &Draft, url: &str) -> TestGate {
    TestGate::with(draft, url, |config| {
        config.upstream_protocol = Protocol::Http2;
        // Far below the pauses of the stream.
        config.bounds.body_idle = Duration::from_millis(200);
        config.bounds.body_window = Duration::from_millis(200);
        config.bounds.revoke_after = Duration::from_millis(100);
    })
    .await
}

/// A small message now and then, with pauses longer than any bound on bodies: all of them arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_with_a_message_now_and_then_arrives_whole() {
    let Some((_server, url)) = grpc_server().await else { return };
    let gate = grpc_gate(&Draft::orders(), &url).await;
    let addr = gate.addr.to_string();
    let mut chat = Peer::start(&["chat", &addr, "15", "0.4"]).unwrap();
    let said = chat.json().await;
    assert_eq!((&said["code"], &said["got"]), (&"OK".into(), &15.into()), "{said}");
}

/// One call of a gRPC library.
struct Call {
    path: String,
    authority: &'static str,
    metadata: Vec<(String, String)>,
    bytes: usize,
}

impl Call {
    fn of(user: &str) -> Call {
        let metadata = vec![("x-user".to_owned(), user.to_owned())];
        Call { path: "/orders/chat".to_owned(), authority: "a.example", metadata, bytes: 3 }
    }

    fn at(path: impl Into<String>) -> Call {
        Call { path: path.into(), ..Call::of("alice") }
    }

    async fn to(self, gate: &TestGate, peer: &mut Peer) -> Value {
        let Call { path, authority, metadata, bytes } = self;
        let told = serde_json::json!({
            "addr": gate.addr.to_string(), "path": path, "authority": authority,
            "metadata": metadata, "bytes": bytes,
        });
        writeln!(peer.stdin.as_mut().unwrap(), "{told}").unwrap();
        peer.json().await
    }
}

/// What a gRPC library makes of the gate's refusals: the whole table of `docs/problems.md`, but for
/// 408 and 501, which no call of such a library meets.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_is_refused_with_a_status_and_a_message() {
    let Some((_server, url)) = grpc_server().await else { return };
    let mut peer = Peer::start(&["calls"]).unwrap();
    let mut draft = Draft::orders();
    draft.settings.hosts = vec!["a.example".parse().unwrap()];
    draft.routes.push(super::support::route("GET", "/read-only"));
    let gate = grpc_gate(&draft, &url).await;
    assert_eq!(Call::of("alice").to(&gate, &mut peer).await["code"], "OK");
    let many = (0..120).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
    for (call, code, words) in [
        (Call::at("/orders/%00"), "INVALID_ARGUMENT", "control byte"),
        (Call { metadata: Vec::new(), ..Call::of("") }, "UNAUTHENTICATED", "no credentials"),
        (Call::of("bob"), "PERMISSION_DENIED", "no policy permits it"),
        (Call::at("/nowhere"), "UNIMPLEMENTED", "no such route"),
        (Call::at("/read-only"), "UNIMPLEMENTED", "does not have this method"),
        (Call { authority: "b.example", ..Call::of("alice") }, "UNIMPLEMENTED", "for this host"),
        (Call::at(format!("/{}", "a".repeat(9_000))), "RESOURCE_EXHAUSTED", "too long"),
        (Call { metadata: many, ..Call::of("alice") }, "RESOURCE_EXHAUSTED", "header fields"),
        (Call { bytes: 2_000, ..Call::of("alice") }, "OK", ""),
    ] {
        let said = call.to(&gate, &mut peer).await;
        assert_eq!(said["code"], code, "{words}: {said}");
        assert!(said["text"].as_str().unwrap().contains(words), "{words}: {said}");
    }
    gate.source.set_age(Duration::from_secs(7_200));
    let said = Call::of("alice").to(&gate, &mut peer).await;
    assert!(said["code"] == "UNAVAILABLE" && said.to_string().contains("too old"), "{said}");
    gate.stop().await;
    // What it takes other gates to show.
    let silent = serve(|_: Request<Incoming>| async {
        std::future::pending::<()>().await;
        Response::new(http_body_util::Full::<Bytes>::default())
    })
    .await;
    draft.limits = vec![serde_json::json!(
        {"name": "each", "key": "address", "rate": "1/h", "burst": 2}
    )];
    let other = TestGate::with(&draft, &silent.url, |config| {
        config.upstream_protocol = Protocol::Http2;
        config.bounds.answer_timeout = Duration::from_millis(300);
        config.bounds.body_bytes = 1_000;
    })
    .await;
    for (call, code, words) in [
        (Call::of("alice"), "DEADLINE_EXCEEDED", "did not begin its answer"),
        (Call { bytes: 2_000, ..Call::of("alice") }, "RESOURCE_EXHAUSTED", "over the gate's bound"),
        (Call::of("alice"), "RESOURCE_EXHAUSTED", "Too many requests"),
    ] {
        let said = call.to(&other, &mut peer).await;
        assert_eq!(said["code"], code, "{words}: {said}");
        assert!(said["text"].as_str().unwrap().contains(words), "{words}: {said}");
    }
    other.stop().await;
    let gone = TestGate::start(&Draft::orders(), "http://127.0.0.1:1").await;
    let said = Call::of("alice").to(&gone, &mut peer).await;
    assert!(said["code"] == "UNAVAILABLE" && said.to_string().contains("refused"), "{said}");
    gone.stop().await;
}

/// An event stream of a real server's shape, beside the WebSocket of a library.
async fn events() -> super::support::Echo {
    serve(|_: Request<Incoming>| async {
        use futures_util::StreamExt as _;
        let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(
            Bytes::from_static(b"data: 1\n\n"),
        ))]);
        Response::new(StreamBody::new(first.chain(futures_util::stream::pending())))
    })
    .await
}

/// How the three end, by name, and when, after `change`.
async fn three_ends(change: impl Fn(&TestGate, &mut Draft)) -> Option<[Value; 3]> {
    let (_grpc, grpc_url) = grpc_server().await?;
    let mut ws_server = Peer::start(&["serve-ws"]).unwrap();
    let ws_url = format!("http://127.0.0.1:{}", ws_server.line().await);
    let sse_server = events().await;
    let mut draft = clerks();
    let brisk = |config: &mut keepgate_gate::GateConfig| {
        config.bounds.revoke_after = Duration::from_millis(100);
    };
    let gates = [
        TestGate::with(&draft, &ws_url, brisk).await,
        TestGate::with(&draft, &sse_server.url, brisk).await,
        grpc_gate(&draft, &grpc_url).await,
    ];
    let mut peers = Vec::new();
    for (gate, what) in gates.iter().zip(["ws", "sse", "quiet"]) {
        peers.push(Peer::start(&[what, &gate.addr.to_string()]).unwrap());
    }
    for peer in &mut peers {
        assert_eq!(peer.line().await, "open");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for gate in &gates {
        change(gate, &mut draft);
    }
    let mut ends = Vec::new();
    for peer in &mut peers {
        let said = peer.json().await;
        let took = said["ended"].as_f64().unwrap() - begun;
        assert!((0.0..1.2).contains(&took), "{took} s: {said}");
        ends.push(said);
    }
    ends.try_into().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_taken_away_closes_a_websocket_an_event_stream_and_a_grpc_stream() {
    let ends = three_ends(|gate, draft| {
        draft.members.clear();
        draft.revision += 1;
        gate.source.replace(draft.world());
    });
    let Some([ws, sse, grpc]) = ends.await else { return };
    assert_eq!((&ws["code"], &ws["text"]), (&1008.into(), &"access was revoked".into()), "{ws}");
    assert_eq!(sse["code"], "broken", "{sse}");
    assert_eq!(
        (&grpc["code"], &grpc["text"]),
        (&"PERMISSION_DENIED".into(), &"access was revoked".into()),
        "{grpc}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_are_too_old_close_them_as_undecided() {
    let ends = three_ends(|gate, _| gate.source.set_age(Duration::from_secs(7_200)));
    let Some([ws, sse, grpc]) = ends.await else { return };
    assert_eq!(ws["code"], 1013, "{ws}");
    assert_eq!(sse["code"], "broken", "{sse}");
    assert_eq!(grpc["code"], "UNAVAILABLE", "{grpc}");
}

/// nginx with HTTP/2 and few requests a connection: each of its GOAWAYs meets requests under way.
struct Nginx {
    child: Child,
    directory: PathBuf,
    url: String,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Nginx {
    async fn start(server: &str) -> Option<Nginx> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].iter().find(|p| Path::new(p).exists());
        let Some(program) = program else {
            skip("nginx is not installed");
            return None;
        };
        let port = free_port();
        let name = format!("keepgate-peers-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let config = directory.join("nginx.conf");
        let mut file = std::fs::File::create(&config).unwrap();
        let at = directory.display();
        write!(
            file,
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/p; \
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             {} }}\n",
            server.replace("PORT", &port.to_string())
        )
        .unwrap();
        let child = Command::new(program)
            .arg("-p")
            .arg(&directory)
            .arg("-e")
            .arg(directory.join("error.log"))
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Nginx { child, directory, url: format!("http://127.0.0.1:{port}") };
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        #[expect(clippy::disallowed_methods, reason = "the test looks whether nginx is there")]
        eventually("nginx listens", async || tokio::net::TcpStream::connect(addr).await.is_ok())
            .await;
        Some(nginx)
    }
}

/// Sends so many requests, 16 at a time; the answers that are not 200.
async fn failures(
    gate: &TestGate,
    method: &'static str,
    body: &'static str,
    many: usize,
) -> Vec<String> {
    let addr = gate.addr;
    let one = move || async move {
        let answer = ask(addr, method, "/orders/7", &[("x-user", "alice")], body).await;
        (answer.status != 200).then(|| format!("{} {}", answer.status, answer.body))
    };
    let mut failed = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..many {
        if running.len() >= 16 {
            failed.extend(running.join_next().await.unwrap().unwrap());
        }
        running.spawn(one());
    }
    while let Some(ended) = running.join_next().await {
        failed.extend(ended.unwrap());
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_of_nginx_fails_no_post() {
    let server = "keepalive_requests 20; server { listen 127.0.0.1:PORT http2; \
                  location / { return 200 ok; } }";
    let Some(nginx) = Nginx::start(server).await else { return };
    let gate = TestGate::with(&Draft::orders(), &nginx.url, |config| {
        config.upstream_protocol = Protocol::Http2;
    })
    .await;
    assert_eq!(failures(&gate, "POST", "a body of some bytes", 2_000).await, [""; 0]);
    let opened = gate.metric("keepgate_gate_upstream_opened_total").await;
    assert!(opened >= 90.0, "there were as many connections as GOAWAYs: {opened}");
    drop(nginx);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_after_each_few_requests_fails_no_get() {
    let server = "keepalive_requests 3; keepalive_timeout 2ms; server { listen 127.0.0.1:PORT; \
                  location / { return 200 ok; } }";
    let Some(nginx) = Nginx::start(server).await else { return };
    let gate = TestGate::start(&Draft::orders(), &nginx.url).await;
    assert_eq!(failures(&gate, "GET", "", 2_000).await, [""; 0]);
    drop(nginx);
}

/// An upstream that closes 2 ms after each answer, without a word.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_2_ms_after_its_answer_fails_no_get() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            });
        }
    });
    let gate = TestGate::start(&Draft::orders(), &url).await;
    assert_eq!(failures(&gate, "GET", "", 3_000).await, [""; 0]);
    upstream.abort();
}
