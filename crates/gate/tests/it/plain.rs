//! Plain requests are read, sent on, and answered without hyper; all others with it. An answer is the
//! same both ways, whatever the upstream sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Draft, TestGate, connect, eventually, read_to_close, read_until};

/// An upstream that answers by the request's query with one of these, and closes after those that say so.
/// What a path asks for that is not among them is never answered.
async fn upstream(answers: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers.clone()));
        }
    });
    url
}

async fn answer(mut stream: TcpStream, answers: Vec<(&'static str, String)>) {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_exact(&mut byte).await.is_err() {
                return;
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let asked = text.split(' ').nth(1).and_then(|target| target.split_once('?'));
        let name = asked.map(|(_, name)| name).unwrap_or_default();
        let Some((_, answer)) = answers.iter().find(|(known, _)| *known == name) else {
            // Until the gate closes.
            let _ = stream.read(&mut byte).await;
            return;
        };
        let is_head = text.starts_with("HEAD ");
        let sent = if is_head { answer.split_inclusive("\r\n\r\n").next() } else { None };
        let sent = sent.unwrap_or(answer).as_bytes();
        // In two parts, so that the head may go on before the body.
        let (first, second) = sent.split_at(sent.len() * 2 / 3);
        stream.write_all(first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let _ = stream.write_all(second).await;
        if name.starts_with("close") {
            return;
        }
    }
}

fn answers() -> Vec<(&'static str, String)> {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let large = "0123456789".repeat(20_000);
    let mut in_chunks = format!("HTTP/1.1 200 OK\r\n{chunked}");
    for part in large.as_bytes().chunks(7_777) {
        let part = std::str::from_utf8(part).unwrap();
        in_chunks.push_str(&format!("{:x}\r\n{part}\r\n", part.len()));
    }
    in_chunks.push_str("0\r\n\r\n");
    let fields: String = (0..300).map(|n| format!("x-{n}: v\r\n")).collect();
    vec![
        ("sized", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Up: a\r\nx-up: b\r\n\r\nhello".to_owned()),
        ("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("none", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("same", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n".to_owned()),
        ("odd", "HTTP/1.1 299 Rather Good\r\nContent-Length: 1\r\n\r\na".to_owned()),
        ("early", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_owned()),
        ("chunked", format!("HTTP/1.1 200 OK\r\n{chunked}2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")),
        ("no-chunks", format!("HTTP/1.1 200 OK\r\n{chunked}0\r\n\r\n")),
        ("large", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())),
        ("large-chunks", in_chunks),
        ("fields", format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\na")),
        ("dated", "HTTP/1.1 200 OK\r\nDate: Fri, 01 Jan 2027 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("close", "HTTP/1.1 200 OK\r\n\r\nuntil the end".to_owned()),
        ("close-sized", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na".to_owned()),
        ("close-short", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nonly this".to_owned()),
        ("close-torn", format!("HTTP/1.1 200 OK\r\n{chunked}5\r\nab")),
        ("bad", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_owned()),
    ]
}

/// An answer as a caller reads it that does not care for chunks' sizes: without what differs from request
/// to request.
fn settled(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let differs = ["x-request-id:", "ratelimit", "date: "];
    let mut lines: Vec<_> = head
        .lines()
        .filter(|line| line.contains("2027") || !differs.iter().any(|name| line.starts_with(name)))
        .collect();
    // Where a field stands among the others says nothing.
    if let Some((_, fields)) = lines.split_first_mut() {
        fields.sort_unstable();
    }
    let is_chunked = lines.iter().any(|line| line.starts_with("transfer-encoding"));
    let body = if is_chunked { joined(body) } else { body.to_owned() };
    // The gate's own answers name their request.
    if head.starts_with("HTTP/1.1 502") {
        return lines.first().map(|line| (*line).to_owned()).unwrap_or_default();
    }
    format!("{}\n\n{body}", lines.join("\n"))
}

/// The parts of a chunked body, and whether it came to its end.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return format!("{whole} to its end, then {rest:?}");
        }
        let Some((part, rest)) = rest.split_at_checked(size) else { break };
        whole.push_str(part);
        body = rest.strip_prefix("\r\n").unwrap_or_default();
    }
    format!("{whole} torn")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_with_and_without_hyper() {
    let answers = answers();
    let gate = TestGate::start(&Draft::orders(), &upstream(answers.clone()).await).await;
    for (name, _) in &answers {
        for method in ["GET", "HEAD"] {
            // The upstream answers HEAD with the first head alone, and a HEAD has no use for a length.
            if matches!((*name, method), ("early" | "bad", "HEAD")) {
                continue;
            }
            let mut both = Vec::new();
            // With `TE`, hyper serves the connection; `Upgrade` is for hyper at the upstream's side too.
            for more in ["", "TE: trailers\r\n", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
                let mut stream = connect(gate.addr).await;
                let request = format!(
                    "{method} /orders?{name} HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n{more}\r\n"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                // The second one on the connection is the last.
                let last = "GET /no/route HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                stream.write_all(last.as_bytes()).await.unwrap();
                let got = read_to_close(&mut stream).await;
                let end = got.rfind("HTTP/1.1 404").unwrap_or(got.len());
                let mut first = settled(&got[..end]);
                if method == "GET" && matches!(*name, "close-short" | "close-torn") {
                    // How much of it arrives, be it nothing, is up to when it broke off; that it did is told.
                    first.clear();
                    assert_eq!(end, got.len(), "{name}");
                }
                both.push((first, got.len() > end));
            }
            assert_eq!(both[0], both[1], "{method} {name}");
            assert_eq!(both[0], both[2], "{method} {name}");
        }
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_takes_its_exchange_along() {
    let gate = TestGate::start(&Draft::orders(), &upstream(answers()).await).await;
    let head = "GET /orders?never HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n";
    // The second one waits behind the first, which must not hide that the caller has left.
    for pipelined in [false, true] {
        let mut stream = connect(gate.addr).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        eventually("it is under way", async || {
            gate.metric("keepgate_gate_upstream_connections_open").await == 1.0
        })
        .await;
        if pipelined {
            drop(stream);
        } else {
            stream.shutdown().await.unwrap();
            assert_eq!(read_to_close(&mut stream).await, "");
        }
        eventually("its connection to the upstream is closed", async || {
            gate.metric("keepgate_gate_upstream_connections_open").await == 0.0
        })
        .await;
    }
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_other_requests_follow_each_other_on_a_connection() {
    let gate = TestGate::start(&Draft::orders(), &upstream(answers()).await).await;
    let mut stream = connect(gate.addr).await;
    let get = |name: &str| format!("GET /orders?{name} HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n");
    // All at once: each is answered in its turn, also where the connection goes over to hyper.
    let all = [
        format!("{}\r\n", get("sized")),
        format!("{}\r\n", get("chunked")),
        format!("{}TE: trailers\r\n\r\n", get("odd")),
        format!("\r\n{}\r\n", get("empty")),
        format!("{}Connection: close\r\n\r\n", get("sized")),
    ];
    stream.write_all(all.concat().as_bytes()).await.unwrap();
    let got = read_to_close(&mut stream).await;
    let statuses: Vec<_> =
        got.match_indices("HTTP/1.1 ").filter_map(|(at, _)| got.get(at + 9..at + 12)).collect();
    assert_eq!(statuses, ["200", "200", "299", "200", "200"], "{got}");
    assert!(got.ends_with("hello") && got.contains("connection: close"), "{got}");
    // A head in pieces, after which nothing more comes for a while.
    let mut stream = connect(gate.addr).await;
    for piece in format!("{}\r\n", get("sized")).as_bytes().chunks(9) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_until(&mut stream, "hello").await.contains("200 OK"));
    gate.stop().await;
}
