//! Bodies stream in both directions, and who spoils one is told apart.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;

use super::support::{
    Answer, Draft, Echo, TestGate, ask, connect, get, read_to_close, read_until, serve, talk,
};

const ALICE: (&str, &str) = ("x-user", "alice");

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_goes_both_ways() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let body = "0123456789abcdef".repeat(256 * 1024);
    let answer = ask(gate.addr, "POST", "/orders", &[ALICE], &body).await;
    assert_eq!(answer.status, 200);
    let seen = answer.body.split_once("\n\n").unwrap().1;
    assert!(seen == body, "{} of {} bytes", seen.len(), body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_begins_before_the_request_ends_and_is_not_collected() {
    // Echoes each chunk as it comes.
    let echo = serve(|request: Request<Incoming>| async move {
        let frames = request.into_body().into_data_stream();
        let frames = frames.map(|data| data.map(Frame::data));
        Response::new(StreamBody::new(frames))
    })
    .await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let mut stream = connect(gate.addr).await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nConnection: close\r\n\
                Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "first").await;
    stream.write_all(b"6\r\nsecond\r\n").await.unwrap();
    read_until(&mut stream, "second").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    read_to_close(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_with_a_chunked_body_keeps_it() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let text = talk(
        gate.addr,
        "GET /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert!(text.contains("\n\nabc"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_breaks_off_is_no_fault_of_the_upstream() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let mut stream = connect(gate.addr).await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nx-user: alice\r\nContent-Length: 9\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = read_to_close(&mut stream).await;
    if !text.is_empty() {
        Answer::parse(&text).is_problem(400, "bad-body");
    }
    let bad =
        r#"keepgate_gate_requests_total{outcome="bad-upstream",phase="forward",status="502"}"#;
    assert_eq!(gate.metric(bad).await, 0.0);
    assert_eq!(get(gate.addr, "/orders", &[ALICE]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let one = |n: u32, last: &str| {
        format!(
            "POST /orders/{n} HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n{last}Content-Length: 2\r\n\r\n{n:02}"
        )
    };
    let all: String =
        (1..=20).map(|n| one(n, if n == 20 { "Connection: close\r\n" } else { "" })).collect();
    let text = talk(gate.addr, all).await;
    let seen: Vec<&str> = text.lines().filter(|line| line.starts_with("POST /orders/")).collect();
    let want: Vec<String> = (1..=20).map(|n| format!("POST /orders/{n}")).collect();
    assert_eq!(seen, want, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_waiting_for_the_body() {
    // Refused before a byte of the body is there; the connection ends, the answer arrives.
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let body = "x".repeat(4 << 20);
    let answer = ask(gate.addr, "POST", "/orders", &[("x-user", "bob")], &body).await;
    answer.is_problem(403, "denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_empty_answers() {
    let echo = serve(|request: Request<Incoming>| async move {
        let mut response = Response::new(Full::new(Bytes::from("twelve bytes")));
        if request.uri().path().ends_with("/gone") {
            *response.body_mut() = Full::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        response
    })
    .await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let head = ask(gate.addr, "HEAD", "/orders/7", &[ALICE], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
    assert_eq!(head.headers["content-length"], "12");
    let gone = get(gate.addr, "/orders/gone", &[ALICE]).await;
    assert_eq!((gone.status, gone.body.as_str()), (204, ""), "{gone:?}");
    assert!(!gone.headers.contains_key("content-length"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_breaks_off() {
    let echo = serve(|_: Request<Incoming>| async move {
        let frames = futures_util::stream::iter([
            Ok(Frame::data(Bytes::from("begun"))),
            Err(std::io::Error::other("broken")),
        ])
        .then(|frame| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            frame
        });
        Response::new(StreamBody::new(Box::pin(frames)))
    })
    .await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let answer = get(gate.addr, "/orders", &[ALICE]).await;
    assert_eq!(answer.status, 200);
    // The last chunk never comes: the caller can tell that this is not all.
    assert!(!answer.body.contains("\r\n0\r\n"), "{answer:?}");
}
