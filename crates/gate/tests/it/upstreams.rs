//! Upstreams of every sort: HTTP/2, Unix sockets, WebSocket, gRPC trailers, TLS in front, nginx
//! behind; and those that fail.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_client::pool::Protocol;
use keepgate_gate::{Listen, TlsFiles, UpstreamHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

use super::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, connect, eventually, free_port, get, read_until,
    serve, skip,
};

const ALICE: (&str, &str) = ("x-user", "alice");

/// An HTTP/2 connection by prior knowledge.
pub(crate) async fn h2(addr: SocketAddr) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = connect(addr).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn h2_get(addr: SocketAddr, path: &str) -> http::request::Builder {
    Request::get(format!("http://{addr}{path}")).header("x-user", "alice")
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_on_both_sides() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.upstream_protocol = Protocol::Http2;
    })
    .await;
    let mut sender = h2(gate.addr).await;
    let request = h2_get(gate.addr, "/x/../orders?q")
        .header("te", "trailers")
        .header("keepgate-principal", "root")
        .body(Full::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    // `:authority` is set, and there is no Host beside it.
    assert!(text.starts_with(&format!("GET http://{}/orders?q\n", gate.addr)), "{text}");
    assert!(!text.contains("\nhost:"), "{text}");
    assert!(text.contains("\nte: trailers\n"), "{text}");
    assert!(!text.contains("root"), "{text}");
    // HTTP/1.1 in front, HTTP/2 behind.
    let answer = get(gate.addr, "/orders", &[ALICE, ("TE", "gzip, trailers")]).await;
    assert!(answer.body.starts_with("GET http://a.example/orders\n"), "{answer:?}");
    assert!(answer.body.contains("\nte: trailers\n"), "{answer:?}");
    assert!(!answer.body.contains("connection"), "{answer:?}");
    // Problems over HTTP/2.
    let request = Request::get(format!("http://{}/orders", gate.addr));
    let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
    // Two authorities.
    let request = h2_get(gate.addr, "/orders").header("host", "other");
    let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 400);
    // Too many headers, and too long a target.
    let mut many = h2_get(gate.addr, "/orders");
    for i in 0..101 {
        many = many.header(format!("x-{i}"), "1");
    }
    let response = sender.send_request(many.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 431);
    let long = h2_get(gate.addr, &format!("/{}", "a".repeat(9000)));
    let response = sender.send_request(long.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 414);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_trailers_arrive() {
    let echo = serve(|request: Request<Incoming>| async move {
        let te = request.headers().get("te").cloned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("grpc-message", HeaderValue::from_static("fine"));
        let frames = [Ok::<_, std::io::Error>(Frame::data(body)), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
        response.headers_mut().insert("x-te", te.unwrap_or(HeaderValue::from_static("none")));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.upstream_protocol = Protocol::Http2;
    })
    .await;
    let mut sender = h2(gate.addr).await;
    let request = Request::post(format!("http://{}/orders", gate.addr))
        .header("x-user", "alice")
        .header("te", "trailers")
        .body(Full::new(Bytes::from("message")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["x-te"], "trailers");
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "fine");
    assert_eq!(collected.to_bytes(), "message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_becomes_a_tunnel() {
    let echo = serve(|mut request: Request<Incoming>| async move {
        let headers = request.headers();
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut chunk = [0; 1024];
            while let Ok(n) = io.read(&mut chunk).await {
                if n == 0 || io.write_all(&chunk[..n]).await.is_err() {
                    break;
                }
            }
        });
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-accept", HeaderValue::from_static("x"));
        response
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| config.workers = 1).await;
    let mut stream = connect(gate.addr).await;
    let request = "GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // The first frame comes with the request; it is no second request.
    stream.write_all(format!("{request}GET / early").as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "GET / early").await;
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("upgrade: websocket\r\n"), "{text}");
    assert!(text.contains("sec-websocket-accept: x\r\n"), "{text}");
    for n in 0..100 {
        let frame = format!("[{n:03}]\r\n\r\n\0");
        stream.write_all(frame.as_bytes()).await.unwrap();
        let mut back = vec![0; frame.len()];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, frame.as_bytes());
    }
    assert_eq!(gate.metric("keepgate_gate_tunnels_open").await, 1.0);
    assert_eq!(gate.metric("keepgate_gate_upstream_connections_open").await, 1.0);
    drop(stream);
    // The tunnel's connection and its place go with it.
    eventually("the tunnel ends", async || {
        gate.metric("keepgate_gate_tunnels_open").await == 0.0
            && gate.metric("keepgate_gate_upstream_connections_open").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_unix_sockets_on_both_sides() {
    let dir = std::env::temp_dir().join(format!("keepgate-unix-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (behind, front) = (dir.join("up.sock"), dir.join("gate.sock"));
    let listener = UnixListener::bind(&behind).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.write_all(&chunk[..n]).await.unwrap();
    });
    let listen = front.clone();
    let upstream = format!("unix:{}", behind.display());
    let mut draft = Draft::orders();
    draft.settings.identify = Default::default();
    let gate =
        TestGate::with(&draft, &upstream, |config| config.listen = Listen::Unix(listen)).await;
    #[expect(clippy::disallowed_methods, reason = "the test is the caller")]
    let mut stream = tokio::net::UnixStream::connect(&front).await.unwrap();
    stream
        .write_all(b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let answer = Answer::parse(&text);
    assert_eq!(answer.status, 200, "{text}");
    assert!(answer.body.starts_with("GET /public HTTP/1.1\r\n"), "{text}");
    assert!(!answer.body.contains("x-forwarded-for"), "a socket has no address: {text}");
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_in_front_with_either_protocol() {
    use rustls::pki_types::ServerName;
    let dir = std::env::temp_dir().join(format!("keepgate-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.tls = Some(files);
        config.bounds.handshake = Duration::from_millis(200);
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    for protocol in ["h2", "http/1.1"] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("a.example").unwrap();
        let stream = connector.connect(name, connect(gate.addr).await).await.unwrap();
        let io = TokioIo::new(stream);
        let request = Request::get("https://a.example/orders")
            .header("x-user", "alice")
            .header("host", "a.example")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = if protocol == "h2" {
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("x-forwarded-proto: https\n"), "{protocol}: {text}");
        assert!(text.contains("host: a.example\n"), "{protocol}: {text}");
    }
    // Not TLS, and nothing at all: both end, within the handshake's bound.
    super::support::talk(gate.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    super::support::talk(gate.addr, "").await;
    eventually("both are counted", async || {
        gate.metric("keepgate_gate_handshake_failures_total").await == 2.0
    })
    .await;
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_that_fail_are_told_apart() {
    // Nobody there.
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let gate = TestGate::start(&Draft::orders(), &nobody).await;
    let json = get(gate.addr, "/orders", &[ALICE]).await.is_problem(502, "bad-upstream");
    assert_eq!(json["reason"], "refused");

    // Each connection gets these bytes, then its end.
    let sends = async |bytes: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut chunk = [0; 4096];
                let _ = stream.read(&mut chunk).await;
                let _ = stream.write_all(bytes).await;
            }
        });
        TestGate::start(&Draft::orders(), &url).await
    };
    let gate = sends(b"").await;
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(502, "bad-upstream");
    let gate = sends(b"SSH-2.0-x\r\n\r\n").await;
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(502, "bad-upstream");
    let gate =
        sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            .await;
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(502, "bad-upstream");

    // Silence.
    let silent = serve(|_: Request<Incoming>| async move {
        tokio::time::sleep(PATIENCE).await;
        Response::new(Full::<Bytes>::default())
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &silent.url, |config| {
        config.bounds.answer_timeout = Duration::from_millis(100);
    })
    .await;
    get(gate.addr, "/orders", &[ALICE]).await.is_problem(504, "upstream-timeout");

    // All connections in use, and nobody else may wait for long.
    let gate = TestGate::with(&Draft::orders(), &silent.url, |config| {
        config.pool.max_connections = Some(1);
        config.pool.queue_timeout = Duration::from_millis(100);
    })
    .await;
    let addr = gate.addr;
    let first = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await });
    eventually("the connection is in use", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
    })
    .await;
    let json = get(gate.addr, "/orders", &[ALICE]).await.is_problem(503, "upstream-saturated");
    assert_eq!(json["reason"], "queue_timeout");
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_may_want_its_own_host() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.upstream_host = UpstreamHost::Upstream;
    })
    .await;
    let answer = get(gate.addr, "/orders", &[ALICE]).await;
    assert!(answer.body.contains(&format!("\nhost: {}\n", echo.addr)), "{answer:?}");
    assert!(answer.body.contains("x-forwarded-host: a.example\n"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_speak_for_their_callers() {
    let echo = Echo::start().await;
    let trust = |config: &mut keepgate_gate::GateConfig| {
        config.trusted_proxies =
            vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()].into();
    };
    let gate = TestGate::with(&Draft::orders(), &echo.url, trust).await;
    let forwarded = [
        ALICE,
        ("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "outer.example"),
    ];
    let answer = get(gate.addr, "/orders", &forwarded).await;
    let chain = "x-forwarded-for: 6.6.6.6, 192.0.2.1, 10.0.0.9, 127.0.0.1\n";
    assert!(answer.body.contains(chain), "{answer:?}");
    assert!(answer.body.contains("x-forwarded-proto: https\n"), "{answer:?}");
    assert!(answer.body.contains("x-forwarded-host: outer.example\n"), "{answer:?}");

    // Policies see the last address that no trusted proxy has.
    let mut draft = Draft::orders();
    draft.policies.push((
        "ip".to_owned(),
        "forbid (principal, action, resource) when { context.ip == \"192.0.2.1\" };".to_owned(),
    ));
    let gate = TestGate::with(&draft, &echo.url, trust).await;
    get(gate.addr, "/orders", &forwarded).await.is_problem(403, "denied");
    let gate = TestGate::start(&draft, &echo.url).await;
    assert_eq!(get(gate.addr, "/orders", &forwarded).await.status, 200, "nobody is trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_names_the_caller() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.proxy_senders = vec!["127.0.0.1".parse().unwrap()].into();
    })
    .await;
    let request = "GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v1 = format!("PROXY TCP4 192.0.2.7 192.0.2.1 4 80\r\n{request}");
    let text = super::support::talk(gate.addr, v1).await;
    assert!(text.contains("x-forwarded-for: 192.0.2.7\n"), "{text}");
    let mut v2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xc0\0\x02\x01\0\x04\0\x50".to_vec();
    v2.extend(request.as_bytes());
    let text = super::support::talk(gate.addr, v2).await;
    assert!(text.contains("x-forwarded-for: 192.0.2.8\n"), "{text}");
    // Without the header there is no service.
    let text = super::support::talk(gate.addr, request).await;
    assert_eq!(text, "");
    eventually("it is counted", async || {
        gate.metric("keepgate_gate_handshake_failures_total").await == 1.0
    })
    .await;
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_a_real_nginx() {
    let Some(nginx) =
        ["/usr/sbin/nginx", "/usr/bin/nginx"].iter().find(|p| std::path::Path::new(p).exists())
    else {
        skip("nginx is not installed");
        return;
    };
    let dir = std::env::temp_dir().join(format!("keepgate-nginx-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("html/orders")).unwrap();
    std::fs::write(dir.join("html/orders/7"), "order seven").unwrap();
    let port = free_port();
    let at = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{}}\n\
         http {{ access_log {at}/access.log; client_body_temp_path {at}; proxy_temp_path {at};\n\
         fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
         server {{ listen 127.0.0.1:{port}; root {at}/html; }} }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let child = Command::new(nginx)
        .args(["-p", dir.to_str().unwrap(), "-c", "nginx.conf"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let gate = TestGate::start(&Draft::orders(), &format!("http://127.0.0.1:{port}")).await;
    eventually("nginx answers", async || get(gate.addr, "/orders/7", &[ALICE]).await.status == 200)
        .await;
    assert_eq!(get(gate.addr, "/orders/7", &[ALICE]).await.body, "order seven");
    assert_eq!(get(gate.addr, "/orders/8", &[ALICE]).await.status, 404);
    get(gate.addr, "/orders/7", &[("x-user", "bob")]).await.is_problem(403, "denied");
    drop(running);
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}
