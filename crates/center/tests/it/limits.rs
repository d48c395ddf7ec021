//! Slow, many and large clients. Bounds are shortened; each test waits for the state it expects.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::{Dir, Running, config, connect, patiently};

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = patiently("the end of the connection", stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn metric(center: &Running, name: &str) -> u64 {
    let page = center.ask("GET", "/metrics", None).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let name = format!("keepgate_center_{name} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.handshake = Duration::from_millis(100);
    config.bounds.header = Duration::from_secs(3600);
    let center = Running::with(config).await;
    for opening in ["", "GET / HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = connect(center.addr).await;
        stream.write_all(opening.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await;
    }
    assert_eq!(metric(&center, "connections_timed_out_total").await, 3);
    center.stop().await;
}

#[tokio::test]
async fn a_header_that_does_not_end_and_an_idle_connection_are_closed() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.header = Duration::from_millis(100);
    let center = Running::with(config).await;
    let mut stream = connect(center.addr).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let first = read_to_end(&mut stream).await;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let mut stream = connect(center.addr).await;
    let opening = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nho";
    stream.write_all(opening).await.unwrap();
    let first = read_to_end(&mut stream).await;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    center.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.body = Duration::from_millis(100);
    let center = Running::with(config).await;
    let mut stream = connect(center.addr).await;
    let head = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{",
        center.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("urn:keepgate:problem:too-slow"), "{answer}");
    center.stop().await;
}

#[tokio::test]
async fn without_a_token_no_body_is_waited_for() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut stream = connect(center.addr).await;
    let head = "PUT /v1/services/x/schema HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\
                connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    center.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.connections = 2;
    let center = Running::with(config).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(center.addr).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut some = [0; 12];
        patiently("an answer", stream.read_exact(&mut some)).await.unwrap();
        held.push(stream);
    }
    assert_eq!(read_to_end(&mut connect(center.addr).await).await, "");
    drop(held.pop());
    // The place is free as soon as the center has seen the end.
    patiently("a free place", async {
        loop {
            let mut stream = connect(center.addr).await;
            let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            if stream.write_all(ask).await.is_ok()
                && read_to_end(&mut stream).await.starts_with("HTTP/1.1 200")
            {
                break;
            }
        }
    })
    .await;
    drop(held);
    center.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_at_shutdown() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut stream = connect(center.addr).await;
    let body = json!({ "role": "viewer" }).to_string();
    let head = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        center.admin,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The center has begun to read the body: the request is under way.
    let mut go = [0; 25];
    patiently("100 Continue", stream.read_exact(&mut go)).await.unwrap();
    assert!(go.starts_with(b"HTTP/1.1 100 Continue"));
    let addr = center.addr;
    let stopping = tokio::spawn(center.stop());
    patiently("the listener to close", async {
        #[expect(clippy::disallowed_methods, reason = "it is the refusal that is waited for")]
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    patiently("the stop", stopping).await.unwrap();
}
