//! How a gate leaves: it says so first, asks callers to go, lets exchanges end, and ends the rest.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use keepgate_client::pool::Protocol;
use tokio::io::AsyncWriteExt as _;

use super::revoke::{call, clerks, closed, cut, event_stream, events, grpc_status, websocket};
use super::support::{
    Draft, Echo, PATIENCE, TestGate, connect, eventually, get, read_to_close, read_until,
};
use super::upstreams::{h2, h2_get};

const REQUEST: &str = "GET /orders HTTP/1.1\r\nHost: a.example\r\nx-user: alice\r\n\r\n";

async fn is_ready(gate: &TestGate) -> bool {
    get(gate.admin, "/readyz", &[]).await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_leaves_says_so_and_serves_on_until_its_listeners_close() {
    let echo = Echo::start().await;
    let mut gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        // Longer than the test: it ends with it.
        config.bounds.drain_delay = Duration::from_secs(300);
    })
    .await;
    assert!(is_ready(&gate).await);
    let mut kept = connect(gate.addr).await;
    kept.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_until(&mut kept, "host: a.example").await;
    assert!(!answer.to_lowercase().contains("\r\nconnection: close"), "{answer}");
    let mut multiplexed = h2(gate.addr).await;
    // Once it was used it is no connection that comes while the gate leaves.
    let request = h2_get(gate.addr, "/orders").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(multiplexed.send_request(request).await.unwrap().status(), 200);

    gate.tell_to_stop();
    eventually("it says so", async || !is_ready(&gate).await).await;
    // A kept connection is answered once more, and told to go.
    kept.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_to_close(&mut kept).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("\r\nconnection: close"),
        "{answer}"
    );
    // HTTP/2 gets a GOAWAY: the connection takes no more requests.
    let gone = async {
        while multiplexed.ready().await.is_ok() {
            let request = h2_get(gate.addr, "/orders").body(Full::<Bytes>::default()).unwrap();
            if multiplexed.send_request(request).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a GOAWAY");
    // New callers are served until the listeners close.
    let answer = get(gate.addr, "/orders", &[("x-user", "alice")]).await;
    assert_eq!(answer.status, 200);
    let mut late = h2(gate.addr).await;
    let request = h2_get(gate.addr, "/orders").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(late.send_request(request).await.unwrap().status(), 200);
}

/// A connection without an exchange is not closed at once: its caller may be about to send.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_on_an_idle_connection_of_a_draining_gate_is_answered() {
    let echo = Echo::start().await;
    let mut gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.drain = Duration::from_secs(40);
    })
    .await;
    let mut kept = connect(gate.addr).await;
    kept.write_all(REQUEST.as_bytes()).await.unwrap();
    read_until(&mut kept, "host: a.example").await;
    gate.tell_to_stop();
    let addr = gate.addr;
    eventually("the listeners are closed", async || {
        #[expect(clippy::disallowed_methods, reason = "the test is the caller")]
        let refused = tokio::net::TcpStream::connect(addr).await;
        refused.is_err()
    })
    .await;
    kept.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_to_close(&mut kept).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("\r\nconnection: close"),
        "{answer}"
    );
    // Nothing is open any more: it waits for nothing, and so ends within the test's patience.
    gate.stop().await;
}

/// What is open when the time is over: a WebSocket is closed with 1001, a gRPC call with UNAVAILABLE,
/// an event stream breaks off. Each is counted, apart from all else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_at_the_end_is_ended_by_name_and_not_before() {
    let upstream = events().await;
    let gate = async |protocol| {
        TestGate::with(&clerks(), &upstream.url, |config| {
            config.upstream_protocol = protocol;
            config.bounds.drain = Duration::from_secs(6);
        })
        .await
    };
    let (mut one, mut two) = (gate(Protocol::Http1).await, gate(Protocol::Http2).await);
    let (mut ws, mut sse) = (websocket(&one).await, event_stream(&one).await);
    // Its caller does not close it: the gate waits a moment for that, and its metrics with it.
    let _held = websocket(&one).await;
    let grpc = call(&two, "application/grpc").await;
    one.tell_to_stop();
    two.tell_to_stop();
    eventually("it says so", async || !is_ready(&one).await).await;
    // Until then it goes on.
    ws.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    let read = tokio::io::AsyncReadExt::read_exact(&mut ws, &mut frame);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
    assert_eq!(cut(&one, "stopping").await, 0.0);
    let counted = async {
        eventually("all are counted", async || cut(&one, "stopping").await == 3.0).await;
    };
    let (code, (), rest) = tokio::join!(closed(ws), counted, read_to_close(&mut sse));
    assert_eq!(code, 1001);
    assert!(!rest.ends_with("0\r\n\r\n"), "it is not made to look complete");
    assert_eq!(grpc_status(grpc).await, "14");
    one.stop().await;
    two.stop().await;
}
