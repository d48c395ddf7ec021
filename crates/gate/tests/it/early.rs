//! Informational answers: dropped, however many there are and whatever comes with them, without harm to the
//! answer after them. (The HTTP library reads 103 and cannot send it.)

use std::time::Duration;

use keepgate_client::pool::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::http2::{field, frame};
use super::support::{Draft, TestGate, get, read_until};

const ALICE: (&str, &str) = ("x-user", "alice");

/// 103 is dropped, whatever comes with it, and the answer after it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn early_hints_do_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for body in ["one", "two"] {
            read_until(&mut stream, "\r\n\r\n").await;
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
            stream.write_all(hints.as_bytes()).await.unwrap();
            stream.write_all(hints.as_bytes()).await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        stream
    });
    let gate = TestGate::start(&Draft::orders(), &url).await;
    for body in ["one", "two"] {
        let answer = get(gate.addr, "/orders", &[ALICE]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        assert!(!answer.headers.contains_key("link"));
    }
    drop(upstream.await.unwrap());
}

/// An upstream that sends 103s without end does not keep the worker from its deadlines.
#[tokio::test(flavor = "multi_thread")]
async fn hints_without_end_are_cut_at_the_answer_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n".repeat(256);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(hints.as_bytes()).await.is_ok() {}
        }
    });
    let mut draft = Draft::orders();
    draft.settings.answer_timeout_ms = Some(500);
    let gate = TestGate::start(&draft, &url).await;
    let asked = get(gate.addr, "/orders", &[ALICE]);
    let answer = tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap();
    // The HTTP library may find the head too large before that.
    assert!([502, 504].contains(&answer.status), "{answer:?}");
    upstream.abort();
}

/// Answers requests on an HTTP/2 connection with so many 103s each, then with 200.
async fn hinting(mut stream: TcpStream, hints: usize) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await?;
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            // Settings, which are acknowledged.
            4 if head[4] == 0 => stream.write_all(&frame(4, 1, 0, &[])).await?,
            1 => {
                // Not into the table, so that each block says all.
                let mut hint = b"\x08\x03103".to_vec();
                hint.extend(field("link", "</a.css>; rel=preload"));
                hint[5] = 0;
                for _ in 0..hints {
                    stream.write_all(&frame(1, 4, of, &hint)).await?;
                }
                stream.write_all(&frame(1, 4, of, &[0x88])).await?;
                stream.write_all(&frame(0, 1, of, b"one")).await?;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_they_do_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(hinting(stream, 100));
        }
    });
    let gate = TestGate::with(&Draft::orders(), &url, |config| {
        config.upstream_protocol = Protocol::Http2;
    })
    .await;
    for _ in 0..3 {
        let answer = get(gate.addr, "/orders", &[ALICE]).await;
        assert!(answer.status == 200 && answer.body.contains("one"), "{answer:?}");
        assert!(!answer.headers.contains_key("link"));
    }
    upstream.abort();
}
