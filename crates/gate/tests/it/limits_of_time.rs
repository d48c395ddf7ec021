//! Slow callers: each kind of waiting ends, and the right answer comes first where one can.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::support::{
    Answer, Draft, Echo, PATIENCE, TestGate, connect, eventually, get, read_to_close, read_until,
    serve,
};

const ALICE: (&str, &str) = ("x-user", "alice");
const SHORT: Duration = Duration::from_millis(150);

/// All else is patient, so that only the deadline under test can end the wait.
async fn gate_with(echo: &Echo, change: impl FnOnce(&mut keepgate_gate::Bounds)) -> TestGate {
    TestGate::with(&Draft::orders(), &echo.url, |config| {
        let bounds = &mut config.bounds;
        for deadline in [
            &mut bounds.first_byte,
            &mut bounds.header,
            &mut bounds.idle,
            &mut bounds.body_idle,
            &mut bounds.body_window,
            &mut bounds.write_stall,
        ] {
            *deadline = 4 * PATIENCE;
        }
        change(bounds);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_sends_nothing() {
    let echo = Echo::start().await;
    let gate = gate_with(&echo, |bounds| bounds.first_byte = SHORT).await;
    let mut stream = connect(gate.addr).await;
    assert_eq!(read_to_close(&mut stream).await, "");
    eventually("it is counted", async || {
        gate.metric("keepgate_gate_first_byte_late_total").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_end() {
    let echo = Echo::start().await;
    let gate = gate_with(&echo, |bounds| bounds.header = SHORT).await;
    let mut stream = connect(gate.addr).await;
    stream.write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    // Byte by byte does not help: the deadline is of the whole head.
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut text = String::new();
    let reading = tokio::io::AsyncReadExt::read_to_string(&mut read, &mut text);
    // The drip may meet a closed socket: then the reset ends the reading.
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("it is closed");
    Answer::parse(&text).is_problem(408, "too-slow");
    drip.abort();
    eventually("it is counted", async || {
        gate.metric("keepgate_gate_cut_total{bound=\"header\"}").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request() {
    let echo = Echo::start().await;
    let gate = gate_with(&echo, |bounds| bounds.idle = SHORT).await;
    let mut stream = connect(gate.addr).await;
    let request = b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n";
    for _ in 0..3 {
        stream.write_all(request).await.unwrap();
        read_until(&mut stream, "x-forwarded-for").await;
    }
    // No answer is owed: nothing is said.
    let rest = read_to_close(&mut stream).await;
    assert!(!rest.contains("HTTP/1.1 4"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_without_a_request() {
    let echo = Echo::start().await;
    let gate = gate_with(&echo, |bounds| bounds.idle = SHORT).await;
    let mut stream = connect(gate.addr).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    read_to_close(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_deadline_does_not_cut_a_slow_answer() {
    let echo = serve(|_: Request<Incoming>| async move {
        tokio::time::sleep(4 * SHORT).await;
        Response::new(Full::new(Bytes::from("late")))
    })
    .await;
    let gate = gate_with(&echo, |bounds| {
        bounds.idle = SHORT;
        bounds.header = SHORT;
    })
    .await;
    assert!(get(gate.addr, "/orders", &[ALICE]).await.body.contains("late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly() {
    let echo = Echo::start().await;
    let gate = gate_with(&echo, |bounds| {
        bounds.body_window = SHORT;
    })
    .await;
    let mut stream = connect(gate.addr).await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 900\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut text = String::new();
    let reading = tokio::io::AsyncReadExt::read_to_string(&mut read, &mut text);
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("it is closed");
    Answer::parse(&text).is_problem(408, "too-slow");
    drip.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_takes_nothing() {
    // Far more than all socket buffers between here and there.
    let echo = serve(|_: Request<Incoming>| async move {
        Response::new(Full::new(Bytes::from(vec![b'x'; 64 << 20])))
    })
    .await;
    let gate = gate_with(&echo, |bounds| bounds.write_stall = SHORT).await;
    let mut stream = connect(gate.addr).await;
    stream.write_all(b"GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n").await.unwrap();
    eventually("the answer is under way", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
    })
    .await;
    eventually("the caller is given up, and the upstream's connection with it", async || {
        gate.metric("keepgate_gate_connections_open").await == 0.0
            && gate.metric("keepgate_gate_upstream_connections_open").await == 0.0
    })
    .await;
    assert_eq!(gate.metric("keepgate_gate_cut_total{bound=\"write_stall\"}").await, 1.0);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_caller_that_takes_nothing() {
    let echo = serve(|_: Request<Incoming>| async move {
        Response::new(Full::new(Bytes::from(vec![b'x'; 4 << 20])))
    })
    .await;
    let gate = gate_with(&echo, |bounds| bounds.write_stall = SHORT).await;
    let io = hyper_util::rt::TokioIo::new(connect(gate.addr).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(executor)
        .initial_stream_window_size(1024)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{}/orders", gate.addr))
        .header("x-user", "alice")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    // The body is held and not read: its window stays shut.
    eventually("the caller is given up", async || {
        gate.metric("keepgate_gate_connections_open").await == 0.0
    })
    .await;
    assert_eq!(gate.metric("keepgate_gate_cut_total{bound=\"write_stall\"}").await, 1.0);
    drop(response);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.max_connections = 2;
        config.bounds.max_connections_per_address = Some(2);
        config.bounds.body_idle = 4 * PATIENCE;
        config.bounds.body_window = 4 * PATIENCE;
    })
    .await;
    // Each has an exchange: none of them makes room.
    let (mut a, mut b) = (connect(gate.addr).await, connect(gate.addr).await);
    let head = b"POST /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 9\r\n\r\n";
    a.write_all(head).await.unwrap();
    b.write_all(head).await.unwrap();
    eventually("two are under way", async || {
        gate.metric("keepgate_gate_exchanges_open").await == 2.0
    })
    .await;
    let mut third = connect(gate.addr).await;
    assert_eq!(read_to_close(&mut third).await, "");
    eventually("it is counted", async || {
        gate.metric("keepgate_gate_connections_over_bound_total").await == 1.0
    })
    .await;
    drop((a, b));
    eventually("their places are free", async || {
        gate.metric("keepgate_gate_connections_open").await == 0.0
    })
    .await;
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_lets_exchanges_end_and_idle_connections_go() {
    let echo = serve(|_: Request<Incoming>| async move {
        tokio::time::sleep(2 * SHORT).await;
        Response::new(Full::new(Bytes::from("late")))
    })
    .await;
    let gate = gate_with(&echo, |_| {}).await;
    let addr = gate.addr;
    let mut idle = connect(addr).await;
    let begun = tokio::spawn(async move { get(addr, "/orders", &[ALICE]).await });
    eventually("the exchange is under way", async || {
        gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
    })
    .await;
    let started = Instant::now();
    gate.stop().await;
    assert!(started.elapsed() < PATIENCE);
    let answer = begun.await.unwrap();
    assert_eq!((answer.status, answer.body.contains("late")), (200, true), "{answer:?}");
    assert_eq!(read_to_close(&mut idle).await, "");
}
