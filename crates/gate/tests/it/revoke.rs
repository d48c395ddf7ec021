//! What was allowed ends when it is not any more: WebSockets, event streams, gRPC calls, requests
//! that wait.

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_client::pool::Protocol;
use keepgate_policy::model::MemberBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::support::{
    Draft, Echo, PATIENCE, TestGate, connect, echo_websocket, eventually, get, read_to_close,
    read_until, serve, uid,
};

const BOB: (&str, &str) = ("x-user", "bob");
/// From the change to the end, as promised.
const PROMISED: Duration = Duration::from_millis(1200);

/// Bob may do all with orders as long as he is a clerk.
pub(crate) fn clerks() -> Draft {
    let mut draft = Draft::orders();
    let role = uid("role", "clerk");
    draft.policies.push((
        "clerks".to_owned(),
        "permit (principal in role::\"clerk\", action, resource in route::\"/orders\");".to_owned(),
    ));
    draft.members = vec![MemberBody {
        member: uid("user", "bob"),
        role,
        source: String::new(),
        until_unix_s: None,
    }];
    draft
}

pub(crate) async fn gate_of(draft: &Draft, upstream: &str, protocol: Protocol) -> TestGate {
    TestGate::with(draft, upstream, |config| {
        config.upstream_protocol = protocol;
        config.bounds.revoke_after = Duration::from_millis(50);
    })
    .await
}

/// Takes the role away.
fn fire_bob(gate: &TestGate, draft: &mut Draft) {
    draft.members.clear();
    draft.revision += 1;
    gate.source.replace(draft.world());
}

/// What ends by itself ends open exchanges, without a change; whoever stays is decided again and goes
/// on.
#[tokio::test]
async fn exchanges_end_with_the_membership_that_allows_them() {
    let upstream = events().await;
    let mut draft = clerks();
    draft.members.push(MemberBody {
        member: uid("user", "alice"),
        role: uid("role", "clerk"),
        source: String::new(),
        until_unix_s: None,
    });
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let mut bob = event_stream(&gate).await;
    let alice = event_stream_of(&gate, "x-user", "alice").await;
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 2;
    draft.members[0].until_unix_s = Some(until);
    draft.revision += 1;
    gate.source.replace(draft.world());
    read_to_close(&mut bob).await;
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(ended >= Duration::from_secs(until), "ended {ended:?}, until {until}");
    // From then on nobody gets in by it, and no revision was needed.
    assert_eq!(get(gate.addr, "/orders", &[BOB]).await.status, 403);
    assert_eq!(gate.metric("keepgate_gate_exchanges_open").await, 1.0, "alice goes on");
    assert!(gate.metric("keepgate_gate_exchanges_redecided_total").await >= 2.0);
    drop(alice);
}

/// An upstream of long answers: an event at once, then nothing; or a WebSocket that echoes.
pub(crate) async fn events() -> Echo {
    serve(|mut request: Request<Incoming>| async move {
        let mut response = Response::new(http_body_util::Either::Left(StreamBody::new(
            futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(
                Bytes::from_static(b"data: 1\n\n"),
            ))])
            .chain(futures_util::stream::pending()),
        )));
        if request.headers().contains_key("upgrade") {
            echo_websocket(&mut request, &mut response);
            *response.body_mut() = http_body_util::Either::Right(Full::<Bytes>::default());
        }
        response
    })
    .await
}

pub(crate) async fn websocket(gate: &TestGate) -> TcpStream {
    websocket_of(gate, "x-user", "bob").await
}

/// One whose caller shows this header.
pub(crate) async fn websocket_of(gate: &TestGate, name: &str, value: &str) -> TcpStream {
    let mut stream = connect(gate.addr).await;
    let request = format!(
        "GET /orders HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    // A text frame, masked with zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
    stream
}

pub(crate) async fn event_stream(gate: &TestGate) -> TcpStream {
    event_stream_of(gate, "x-user", "bob").await
}

pub(crate) async fn event_stream_of(gate: &TestGate, name: &str, value: &str) -> TcpStream {
    let mut stream = connect(gate.addr).await;
    let request = format!("GET /orders HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "data: 1").await;
    stream
}

pub(crate) async fn call(gate: &TestGate, kind: &str) -> Response<Incoming> {
    call_of(gate, kind, "x-user", "bob").await
}

async fn call_of(gate: &TestGate, kind: &str, name: &str, value: &str) -> Response<Incoming> {
    let io = TokioIo::new(connect(gate.addr).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{}/orders", gate.addr))
        .header(name, value)
        .header("content-type", kind)
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
    // Kept open by its stream.
    std::mem::forget(sender);
    answer
}

/// The close frame's code.
pub(crate) async fn closed(mut stream: TcpStream) -> u16 {
    let mut frame = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut frame)).await.unwrap().unwrap();
    assert!(frame.len() >= 4 && frame[0] == 0x88, "{frame:?}");
    assert_eq!(usize::from(frame[1]), frame.len() - 2, "one frame and nothing after it");
    u16::from_be_bytes([frame[2], frame[3]])
}

pub(crate) async fn grpc_status(answer: Response<Incoming>) -> String {
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.unwrap().unwrap();
    body.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned()
}

pub(crate) async fn cut(gate: &TestGate, bound: &str) -> f64 {
    gate.metric(&format!("keepgate_gate_cut_total{{bound=\"{bound}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_taken_away_ends_what_it_allowed() {
    let upstream = events().await;
    let mut draft = clerks();
    let one = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let two = gate_of(&draft, &upstream.url, Protocol::Http2).await;
    let (ws, sse) = (websocket(&one).await, event_stream(&one).await);
    let (grpc, h2) = (call(&two, "application/grpc").await, call(&two, "text/plain").await);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(one.metric("keepgate_gate_exchanges_open").await, 2.0);
    let begun = Instant::now();
    fire_bob(&one, &mut draft);
    two.source.replace(draft.world());
    let sse = tokio::spawn(async move {
        let mut sse = sse;
        read_to_close(&mut sse).await
    });
    let h2 = tokio::spawn(async move { h2.into_body().collect().await });
    assert_eq!(closed(ws).await, 1008);
    assert_eq!(grpc_status(grpc).await, "7");
    let rest = sse.await.unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "no last chunk: {rest:?}");
    let reset = h2.await.unwrap().unwrap_err();
    assert!(format!("{reset:?}").contains("Reset"), "{reset:?}");
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    assert_eq!((cut(&one, "revoked").await, cut(&two, "revoked").await), (2.0, 2.0));
    get(one.addr, "/orders", &[BOB]).await.is_problem(403, "denied");
    eventually("nothing is left of them", async || {
        one.metric("keepgate_gate_exchanges_open").await == 0.0
            && one.metric("keepgate_gate_tunnels_open").await == 0.0
            && one.metric("keepgate_gate_connections_open").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_any_more_ends_as_such() {
    let upstream = events().await;
    let mut draft = clerks();
    draft.settings.max_age_ms = 5_000;
    let one = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let two = gate_of(&draft, &upstream.url, Protocol::Http2).await;
    let (ws, sse) = (websocket(&one).await, event_stream(&one).await);
    let grpc = call(&two, "application/grpc").await;
    one.source.set_age(Duration::from_millis(4_900));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cut(&one, "undecided").await, 0.0);
    let begun = Instant::now();
    one.source.set_age(Duration::from_millis(5_100));
    two.source.set_age(Duration::from_millis(5_100));
    assert_eq!(closed(ws).await, 1013);
    assert_eq!(grpc_status(grpc).await, "14");
    let mut sse = sse;
    read_to_close(&mut sse).await;
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    assert_eq!((cut(&one, "undecided").await, cut(&one, "revoked").await), (2.0, 0.0));
}

/// Neither a change that leaves it allowed nor one of another service ends an exchange.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_allowed_goes_on() {
    let upstream = events().await;
    let mut draft = clerks();
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let mut ws = websocket(&gate).await;
    for n in 0..3 {
        draft.members.push(MemberBody {
            member: uid("user", &format!("carol{n}")),
            role: uid("role", "clerk"),
            source: String::new(),
            until_unix_s: None,
        });
        draft.revision += 1;
        gate.source.replace(draft.world());
        eventually("it was decided again", async || {
            gate.metric("keepgate_gate_exchanges_redecided_total").await == f64::from(n + 1)
        })
        .await;
    }
    ws.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    tokio::time::timeout(PATIENCE, ws.read_exact(&mut frame)).await.unwrap().unwrap();
    fire_bob(&gate, &mut draft);
    assert_eq!(closed(ws).await, 1008);
}

/// The close frame comes between frames: what was begun of one is finished first.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_has_begun_is_finished_or_the_connection_is_reset() {
    for finishes in [true, false] {
        frame_under_way(finishes).await;
    }
}

async fn frame_under_way(finishes: bool) {
    let (more, parts) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let parts = std::sync::Arc::new(tokio::sync::Mutex::new(parts));
    let upstream = serve(move |mut request: Request<Incoming>| {
        let parts = parts.clone();
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                while let Some(part) = parts.lock().await.recv().await {
                    io.write_all(&part).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert("connection", HeaderValue::from_static("Upgrade"));
            headers.insert("upgrade", HeaderValue::from_static("websocket"));
            response
        }
    })
    .await;
    let mut draft = clerks();
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let mut stream = connect(gate.addr).await;
    let request = "GET /orders HTTP/1.1\r\nHost: a\r\nx-user: bob\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    // Ten bytes are announced, four are there.
    more.send(vec![0x82, 10, 1, 2, 3, 4]).await.unwrap();
    let mut begun = [0; 6];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut begun)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    fire_bob(&gate, &mut draft);
    // Not "it was decided again": until the tunnel has heard of it, it carries what there is.
    eventually("the tunnel ends", async || cut(&gate, "revoked").await == 1.0).await;
    if finishes {
        // The rest, and a frame that is not begun any more.
        more.send(vec![5, 6, 7, 8, 9, 10, 0x81, 1, b'x']).await.unwrap();
        let mut rest = [0; 6];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, [5, 6, 7, 8, 9, 10]);
        assert_eq!(closed(stream).await, 1008);
    } else {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    gate.stop().await;
}

/// A request whose answer has not begun gets an answer that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_answer_is_denied_too() {
    let upstream = serve(|_: Request<Incoming>| async {
        std::future::pending::<()>().await;
        Response::new(Full::<Bytes>::default())
    })
    .await;
    let mut draft = clerks();
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let addr = gate.addr;
    let asked = tokio::spawn(async move { get(addr, "/orders", &[BOB]).await });
    eventually("it is under way", async || {
        gate.metric("keepgate_gate_exchanges_open").await == 1.0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    fire_bob(&gate, &mut draft);
    assert_eq!(asked.await.unwrap().is_problem(403, "denied")["reason"], "revoked");
}

/// A caller that takes nothing of its answer does not hear that it is over; its connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_is_cut_off() {
    let upstream = serve(|_: Request<Incoming>| async move {
        Response::new(Full::new(Bytes::from(vec![b'x'; 64 << 20])))
    })
    .await;
    let mut draft = clerks();
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let mut stream = connect(gate.addr).await;
    stream.write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: bob\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    fire_bob(&gate, &mut draft);
    eventually("the connection has ended", async || {
        gate.metric("keepgate_gate_connections_open").await == 0.0
            && gate.metric("keepgate_gate_upstream_connections_open").await == 0.0
    })
    .await;
}

/// An API key that is taken away ends what it began, whatever the policies say of its principal.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_taken_away_ends_what_it_began() {
    use sha2::{Digest as _, Sha256};
    let upstream = events().await;
    let mut draft = Draft::orders();
    let key = "kgk_test_0123456789abcdef0123456789abcdef";
    let sha256: String =
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    draft.settings.identify.api_key = Some(serde_json::from_value(serde_json::json!({})).unwrap());
    draft.keys = vec![
        serde_json::from_value(serde_json::json!({
            "prefix": "test", "sha256": sha256, "principal": {"type": "user", "id": "alice"},
        }))
        .unwrap(),
    ];
    let gate = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let mut stream = connect(gate.addr).await;
    let request = format!("GET /orders HTTP/1.1\r\nHost: a\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "data: 1").await;
    draft.keys.clear();
    draft.revision += 1;
    gate.source.replace(draft.world());
    read_to_close(&mut stream).await;
    assert_eq!(cut(&gate, "revoked").await, 1.0);
}

/// A credential that expires ends what it began only where the service says so, and not before:
/// an API key and a real token, an event stream, a WebSocket and a gRPC call.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_closes_where_the_service_says_so() {
    use keepgate_policy::service::OnTokenExpiry;
    tokio::join!(expiring(OnTokenExpiry::Close), expiring(OnTokenExpiry::Keep));
}

/// What became of an exchange that was to be ended at a time.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Early,
    /// With the WebSocket's or gRPC's code.
    Closed(String),
}

async fn expiring(says: keepgate_policy::service::OnTokenExpiry) {
    use keepgate_policy::service::OnTokenExpiry;
    use serde_json::json;
    use sha2::{Digest as _, Sha256};
    let upstream = events().await;
    let key = "kgk_test_0123456789abcdef0123456789abcdef";
    let sha256: String =
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = "a secret of 32 bytes or more, that expires nothing";
    let name = format!("keepgate-expiry-{}-{says:?}", std::process::id());
    let file = std::env::temp_dir().join(&name);
    std::fs::write(&file, secret).unwrap();
    let mut draft = Draft::orders();
    draft.settings.on_token_expiry = says;
    draft.settings.identify = serde_json::from_value(json!({
        "jwt": [{"issuer": "me", "audience": "orders", "secret_file": name, "leeway_s": 0}],
        "api_key": {},
    }))
    .unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expires = now.as_secs() + 4;
    draft.keys = vec![
        serde_json::from_value(json!({
            "prefix": "test", "sha256": sha256, "principal": {"type": "user", "id": "alice"},
            "expires_unix_s": expires,
        }))
        .unwrap(),
    ];
    let claims = json!({"iss": "me", "aud": "orders", "sub": "alice", "exp": expires});
    let token = super::identify::Signer::Hmac(secret.into()).token("k", &claims);
    let bearer = format!("Bearer {token}");
    let one = gate_of(&draft, &upstream.url, Protocol::Http1).await;
    let two = gate_of(&draft, &upstream.url, Protocol::Http2).await;
    let by_key = event_stream_of(&one, "x-api-key", key).await;
    let by_token = event_stream_of(&one, "authorization", &bearer).await;
    let ws = websocket_of(&one, "authorization", &bearer).await;
    let grpc = call_of(&two, "application/grpc", "authorization", &bearer).await;
    let expiry = UNIX_EPOCH + Duration::from_secs(expires);
    // What ends does so within a second or so; what goes on is waited for no longer.
    let end = async |ended: Pin<Box<dyn Future<Output = String> + Send>>| {
        let late = expiry + Duration::from_millis(1_500);
        let patience = if says == OnTokenExpiry::Close { PATIENCE } else { Duration::ZERO };
        let left = late.duration_since(SystemTime::now()).unwrap_or_default() + patience;
        match tokio::time::timeout(left, ended).await {
            Err(_) => End::Open,
            Ok(_) if SystemTime::now() < expiry => End::Early,
            Ok(code) => End::Closed(code),
        }
    };
    let stream = |mut stream: TcpStream| -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(async move {
            let rest = read_to_close(&mut stream).await;
            assert!(!rest.contains("0\r\n\r\n"), "no last chunk: {rest:?}");
            String::new()
        })
    };
    let ends = tokio::join!(
        end(stream(by_key)),
        end(stream(by_token)),
        end(Box::pin(async move { closed(ws).await.to_string() })),
        end(Box::pin(grpc_status(grpc))),
    );
    let closed = |code: &str| match says {
        OnTokenExpiry::Close => End::Closed(code.to_owned()),
        OnTokenExpiry::Keep => End::Open,
    };
    assert_eq!(ends, (closed(""), closed(""), closed("1008"), closed("16")), "{says:?}");
    let count = if says == OnTokenExpiry::Close { (3.0, 1.0) } else { (0.0, 0.0) };
    assert_eq!((cut(&one, "token_expiry").await, cut(&two, "token_expiry").await), count);
    // Whoever comes with it now is refused in either case.
    get(one.addr, "/orders", &[("authorization", &bearer)])
        .await
        .is_problem(401, "unauthenticated");
    std::fs::remove_file(&file).unwrap();
}

/// When the gate stops, WebSockets hear why.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_hears_that_the_gate_stops() {
    let upstream = events().await;
    let gate = gate_of(&clerks(), &upstream.url, Protocol::Http1).await;
    let ws = websocket(&gate).await;
    let code = tokio::spawn(closed(ws));
    gate.stop().await;
    assert_eq!(code.await.unwrap(), 1001);
}
