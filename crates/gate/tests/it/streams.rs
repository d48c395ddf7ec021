//! Long and uneven exchanges: what pauses is not cut, what stands still is, by a bound that has a
//! name.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepgate_client::pool::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, connect, eventually, get, read_to_close, read_until,
    route, serve,
};

const ALICE: (&str, &str) = ("x-user", "alice");
const SHORT: Duration = Duration::from_millis(300);

type Parts = mpsc::Receiver<Result<Frame<Bytes>, Infallible>>;

type Feed = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// A body that the test feeds.
fn fed() -> (Feed, UnsyncBoxBody<Bytes, Infallible>) {
    let (feed, parts) = mpsc::channel(16);
    let stream = futures_util::stream::unfold(parts, |mut parts: Parts| async move {
        parts.recv().await.map(|part| (part, parts))
    });
    (feed, StreamBody::new(stream).boxed_unsync())
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn cut(gate: &TestGate, bound: &str) -> f64 {
    gate.metric(&format!("keepgate_gate_cut_total{{bound=\"{bound}\"}}")).await
}

/// Begins a POST of so many bytes.
async fn post(gate: &TestGate, bytes: usize) -> tokio::net::TcpStream {
    let mut stream = connect(gate.addr).await;
    let head = format!(
        "POST /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nConnection: close\r\n\
         Content-Length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_pauses_arrives_and_one_that_stops_is_cut_by_name() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.body_idle = 4 * SHORT;
    })
    .await;
    let mut stream = post(&gate, 6).await;
    for part in ["ab", "cd", "ef"] {
        tokio::time::sleep(SHORT).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    let answer = Answer::parse(&read_to_close(&mut stream).await);
    assert!(answer.status == 200 && answer.body.contains("abcdef"), "{answer:?}");
    let mut stream = post(&gate, 6).await;
    stream.write_all(b"ab").await.unwrap();
    let answer = Answer::parse(&read_to_close(&mut stream).await);
    assert_eq!(answer.is_problem(408, "too-slow")["reason"], "body_idle");
    assert_eq!(cut(&gate, "body_idle").await, 1.0);
}

/// The answer begins before the body has ended: from then on the body may take its time.
#[tokio::test(flavor = "multi_thread")]
async fn once_the_answer_has_begun_the_body_may_take_its_time() {
    let echo = serve(|request: Request<Incoming>| async move {
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.send(data("begun ")).await.unwrap();
            let _ = request.into_body().collect().await;
            let _ = feed.send(data("whole")).await;
        });
        Response::new(body)
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.body_idle = SHORT;
        config.bounds.body_window = SHORT;
    })
    .await;
    let mut stream = post(&gate, 2).await;
    stream.write_all(b"a").await.unwrap();
    read_until(&mut stream, "begun").await;
    tokio::time::sleep(3 * SHORT).await;
    stream.write_all(b"b").await.unwrap();
    let rest = read_to_close(&mut stream).await;
    assert!(rest.contains("whole"), "{rest}");
}

/// An HTTP/2 exchange with bodies on both sides that the test feeds and reads.
struct Call {
    feed: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    answer: tokio::task::JoinHandle<Result<Response<Incoming>, hyper::Error>>,
}

async fn call(gate: &TestGate, path: &str, kind: &str) -> Call {
    let io = TokioIo::new(connect(gate.addr).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let (feed, body) = fed();
    let request = Request::post(format!("http://{}{path}", gate.addr))
        .header("x-user", "alice")
        .header("content-type", kind)
        .body(body)
        .unwrap();
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    Call { feed, answer }
}

async fn whole(answer: Response<Incoming>) -> (String, HeaderMap) {
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.unwrap();
    let body = body.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (String::from_utf8_lossy(&body.to_bytes()).into_owned(), trailers)
}

/// An upstream that answers each part of a body with the same part, over HTTP/2.
async fn mirror() -> Echo {
    serve(|request: Request<Incoming>| async move { Response::new(request.into_body()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_with_pauses_is_bounded_by_answer_idle_alone() {
    let echo = mirror().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.upstream_protocol = Protocol::Http2;
        config.bounds.body_idle = SHORT;
        config.bounds.body_window = SHORT;
        config.bounds.answer_timeout = SHORT;
        config.bounds.answer_idle = 4 * SHORT;
    })
    .await;
    // Traffic toward the upstream alone resets it, too: the answer says nothing for far longer.
    let Call { feed, answer } = call(&gate, "/orders", "application/grpc+proto").await;
    for part in ["a", "b", "c", "d"] {
        tokio::time::sleep(2 * SHORT).await;
        feed.send(data(part)).await.unwrap();
    }
    let answer = answer.await.unwrap().unwrap();
    drop(feed);
    assert_eq!(whole(answer).await.0, "abcd");
    // And one in which nothing moves ends with a status.
    let Call { feed, answer } = call(&gate, "/orders", "application/grpc").await;
    feed.send(data("a")).await.unwrap();
    let (text, trailers) = whole(answer.await.unwrap().unwrap()).await;
    assert!(text == "a" && trailers["grpc-status"] == "4", "{text} {trailers:?}");
    assert_eq!(cut(&gate, "answer_idle").await, 1.0);
    drop(feed);
}

/// The upstream's own: a pause before the answer, and one within it.
async fn sleeper() -> Echo {
    serve(|request: Request<Incoming>| async move {
        let ms = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            Duration::from_millis(value.and_then(|text| text.parse().ok()).unwrap_or(0))
        };
        let (before, within) = (ms("x-before"), ms("x-within"));
        tokio::time::sleep(before).await;
        let (feed, body) = fed();
        tokio::spawn(async move {
            let _ = feed.send(data("first ")).await;
            tokio::time::sleep(within).await;
            let _ = feed.send(data("last")).await;
        });
        Response::new(body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_an_answer_are_the_gates_the_services_and_the_routes() {
    let echo = sleeper().await;
    let mut draft = Draft::orders();
    draft.settings.answer_idle_ms = Some(300);
    let mut patient = route("GET", "/public/patient");
    (patient.anonymous, patient.answer_timeout_ms, patient.answer_idle_ms) =
        (true, Some(20_000), Some(20_000));
    draft.routes.push(patient);
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.bounds.answer_timeout = SHORT;
        config.bounds.answer_idle = PATIENCE;
    })
    .await;
    let slow = [("x-before", "900"), ("x-within", "900")];
    let answer = get(gate.addr, "/public/patient", &slow).await;
    assert!(answer.status == 200 && answer.body.contains("last"), "{answer:?}");
    let json = get(gate.addr, "/public", &slow[..1]).await.is_problem(504, "upstream-timeout");
    assert_eq!(json["reason"], "response_timeout");
    let answer = get(gate.addr, "/public", &slow[1..]).await;
    assert!(answer.status == 200 && answer.body.contains("first"), "{answer:?}");
    // The last chunk is missing: nobody takes it for a whole answer.
    assert!(!answer.body.contains("last") && !answer.body.ends_with("0\r\n\r\n"), "{answer:?}");
    assert_eq!((cut(&gate, "answer_timeout").await, cut(&gate, "answer_idle").await), (1.0, 1.0));
}

/// `answer_timeout` counts from the last byte of the request that was forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_take_its_time_after_the_last_byte() {
    let echo = serve(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        tokio::time::sleep(2 * SHORT).await;
        Response::new(Full::new(body))
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.answer_timeout = 3 * SHORT;
    })
    .await;
    let mut stream = post(&gate, 4).await;
    for part in ["a", "b", "c", "d"] {
        tokio::time::sleep(SHORT).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    let answer = Answer::parse(&read_to_close(&mut stream).await);
    assert!(answer.status == 200 && answer.body == "abcd", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_headers_of_an_answer_pass_and_too_many_bytes_do_not() {
    let echo = serve(|request: Request<Incoming>| async move {
        let mut response = Response::new(Full::new(Bytes::from("body")));
        let (count, size) = match request.uri().query().unwrap_or_default() {
            "many" => (1_000, 10),
            _ => (100, 2_000),
        };
        for n in 0..count {
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            let value = http::HeaderValue::try_from("v".repeat(size)).unwrap();
            response.headers_mut().insert(name, value);
        }
        response
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
            config.upstream_protocol = protocol;
        })
        .await;
        let answer = get(gate.addr, "/orders?many", &[ALICE]).await;
        assert_eq!(answer.status, 200, "{protocol:?}: {}", answer.body);
        assert!(answer.headers.contains_key("x-999") && answer.headers.len() >= 1_000);
        get(gate.addr, "/orders?large", &[ALICE]).await.is_problem(502, "bad-upstream");
        gate.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_holds_a_quarter_of_the_connections_with_bodies() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.pool.max_connections = Some(8);
        config.pool.queue_timeout = 2 * SHORT;
        config.bounds.pressure_rate = 0;
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut stream = post(&gate, 4).await;
        stream.write_all(b"ab").await.unwrap();
        slow.push(stream);
    }
    eventually("two of them have a connection", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 2.0
    })
    .await;
    // Two are under way, the others wait for their turn, and everybody else is served.
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    let mut refused = 0;
    let mut served = 0;
    eventually("four are refused", async || {
        gate.metric("keepgate_gate_cut_total{bound=\"body_share\"}").await == 4.0
    })
    .await;
    for mut stream in slow {
        let _ = stream.write_all(b"cd").await;
        let answer = Answer::parse(&read_to_close(&mut stream).await);
        match answer.status {
            200 => served += 1,
            _ => {
                assert_eq!(answer.is_problem(503, "no-connection")["reason"], "body_share");
                refused += 1;
            }
        }
    }
    assert_eq!((served, refused), (2, 4));
    // All turns came back.
    let mut stream = post(&gate, 2).await;
    stream.write_all(b"ab").await.unwrap();
    assert_eq!(Answer::parse(&read_to_close(&mut stream).await).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_pressure_the_slowest_body_goes_first() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.pool.max_connections = Some(1);
        config.pool.queue_timeout = PATIENCE;
    })
    .await;
    let mut stream = post(&gate, 4).await;
    stream.write_all(b"ab").await.unwrap();
    eventually("it holds the only connection", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
    })
    .await;
    // The request that waits is served, because the body that is slow makes room.
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
    let answer = Answer::parse(&read_to_close(&mut stream).await);
    assert_eq!(answer.is_problem(408, "too-slow")["reason"], "body_pressure");
    assert_eq!(cut(&gate, "body_pressure").await, 1.0);
}

/// A request that waited for its connection is not sent when the permissions that it was decided on
/// have become too old, whatever is known of others meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn age_is_checked_again_after_the_queue() {
    let (release, held) = tokio::sync::watch::channel(false);
    let echo = serve(move |_: Request<Incoming>| {
        let mut held = held.clone();
        async move {
            let _ = held.wait_for(|over| *over).await;
            Response::new(Full::new(Bytes::from("done")))
        }
    })
    .await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.pool.max_connections = Some(1);
        config.pool.queue_timeout = PATIENCE;
    })
    .await;
    let addr = gate.addr;
    let first = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await });
    eventually("the only connection is taken", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
    })
    .await;
    let queued = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await });
    eventually("the next waits", async || {
        gate.metric("keepgate_gate_upstream_queue_waiting").await == 1.0
    })
    .await;
    gate.source.set_age(Duration::from_secs(7_200));
    // A younger world comes, which would say the same; the request was decided on the older one.
    let mut draft = Draft::orders();
    draft.revision = 2;
    gate.source.replace(draft.world());
    gate.source.set_age(Duration::ZERO);
    assert_eq!(gate.metric("keepgate_gate_replica_age_seconds").await, 0.0);
    release.send_replace(true);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(queued.await.unwrap().is_problem(503, "no-decision")["reason"], "stale");
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_callers_are_refused_in_grpc() {
    let echo = mirror().await;
    let mut draft = Draft::orders();
    draft.limits = vec![serde_json::json!(
        {"name": "each", "key": "address", "rate": "1/h", "burst": 4}
    )];
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.upstream_protocol = Protocol::Http2;
    })
    .await;
    let refused = async |path: &str, user: Option<&str>| {
        let io = TokioIo::new(connect(gate.addr).await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::post(format!("http://{}{path}", gate.addr))
            .header("content-type", "application/grpc");
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let text = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        (text("grpc-status"), text("grpc-message"))
    };
    assert_eq!(refused("/orders", None).await.0, "16");
    let (status, message) = refused("/orders", Some("bob")).await;
    assert!(status == "7" && message.contains("no_permit"), "{status} {message}");
    assert_eq!(refused("/nowhere", Some("alice")).await.0, "12");
    gate.source.set_age(Duration::from_secs(7_200));
    let (status, message) = refused("/orders", Some("alice")).await;
    assert!(status == "14" && message.contains("stale"), "{status} {message}");
    let (status, message) = refused("/orders", Some("alice")).await;
    assert!(status == "8" && message.contains("Too many requests"), "{status} {message}");
}
