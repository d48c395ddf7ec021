//! The rules for methods, hosts and paths on HTTP/2, frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{Draft, Echo, PATIENCE, TestGate, connect, route};

/// A connection on which header blocks are written by hand.
struct Raw {
    stream: TcpStream,
    next: u32,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that goes into the table of both sides, so that a block that was not seen whole shows.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let len = |text: &str| u8::try_from(text.len()).unwrap();
    let mut bytes = vec![0x40, len(name)];
    bytes.extend(name.as_bytes());
    bytes.push(len(value));
    bytes.extend(value.as_bytes());
    bytes
}

fn block(method: &str, path: &str, authority: &str) -> Vec<u8> {
    let fields =
        [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

impl Raw {
    async fn open(gate: &TestGate) -> Raw {
        let mut stream = connect(gate.addr).await;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(4, 0, 0, &[]));
        stream.write_all(&hello).await.unwrap();
        Raw { stream, next: 1 }
    }

    /// Sends a block, in two frames, and waits for the answer's status; none: the stream was reset.
    async fn ask(&mut self, block: &[u8]) -> Option<u16> {
        let stream = self.next;
        self.next += 2;
        let (a, b) = block.split_at(block.len() / 2);
        let mut bytes = frame(1, 1, stream, a);
        bytes.extend(frame(9, 4, stream, b));
        self.stream.write_all(&bytes).await.unwrap();
        loop {
            let mut head = [0; 9];
            self.read(&mut head).await;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; len];
            self.read(&mut payload).await;
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                1 if of == stream => return Some(status(&payload)),
                3 if of == stream => return None,
                4 if head[4] == 0 => {
                    self.stream.write_all(&frame(4, 1, 0, &[])).await.unwrap();
                }
                7 => panic!("the connection was given up: {payload:?}"),
                _ => {}
            }
        }
    }

    async fn read(&mut self, into: &mut [u8]) {
        let read = self.stream.read_exact(into);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").unwrap();
    }
}

/// `:status` is the first field; the server library writes it indexed, or as three digits, plain or
/// in the code of RFC 7541.
fn status(block: &[u8]) -> u16 {
    let block = match block {
        // An update of the table's size.
        [0x20..=0x3f, rest @ ..] => rest,
        _ => block,
    };
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [_, 0x03, a, b, c, ..] => [a, b, c].iter().fold(0, |n, d| n * 10 + u16::from(**d - b'0')),
        [_, coded, rest @ ..] if coded & 0x80 != 0 => {
            let bits: Vec<u8> = rest
                .iter()
                .take(usize::from(coded & 0x7f))
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
                .collect();
            digits(&bits)
        }
        _ => panic!("no status in {block:?}"),
    }
}

/// Digits in the code of RFC 7541: 0, 1 and 2 have five bits, 3 to 9 six.
fn digits(mut bits: &[u8]) -> u16 {
    let mut number = 0;
    for _ in 0..3 {
        let value = |n: usize| bits[..n].iter().fold(0u16, |v, bit| v << 1 | u16::from(*bit));
        let (digit, len) = if value(5) <= 2 { (value(5), 5) } else { (value(6) - 0x19 + 3, 6) };
        number = number * 10 + digit;
        bits = &bits[len..];
    }
    number
}

fn open() -> Draft {
    let mut draft = Draft::orders();
    let mut all = route("*", "/{*rest}");
    all.anonymous = true;
    let mut orders = route("GET", "/orders");
    orders.anonymous = true;
    draft.routes = vec![all, orders];
    draft.policies = vec![("all".to_owned(), "permit (principal, action, resource);".to_owned())];
    draft.settings.hosts = vec!["a.example".parse().unwrap()];
    draft
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_is_400() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&open(), &echo.url).await;
    let mut raw = Raw::open(&gate).await;
    for _ in 0..3 {
        // The tables of both sides stay the same: what follows is read as it is.
        assert_eq!(raw.ask(&block("GET", "/orders#x", "a.example")).await, Some(400));
        assert_eq!(raw.ask(&block("GET", "/orders", "a.example")).await, Some(200));
        assert_eq!(raw.ask(&block("GET", "/#", "a.example")).await, Some(400));
        assert_eq!(raw.ask(&block("GET", "/orders?a=1#x", "a.example")).await, Some(400));
    }
    // From the table, without its text. The newest entries are the last block's.
    assert_eq!(raw.ask(&block("GET", "/x#y", "a.example")).await, Some(400));
    assert_eq!(raw.ask(&[0xc1, 0xc0, 0xbf, 0xbe]).await, Some(400));
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rules_hold() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&open(), &echo.url).await;
    for (method, path, authority, expected) in [
        ("GET", "/x", "a.example", Some(200)),
        ("QUERY", "/x", "a.example:80", Some(200)),
        ("GET", "/x", "A.EXAMPLE.", Some(200)),
        ("GET", "/x", "a.example:", Some(200)),
        ("delete", "/x", "a.example", Some(501)),
        ("TRACE", "/x", "a.example", Some(501)),
        ("MKCOL", "/x", "a.example", Some(501)),
        ("GET", "/x", "b.example", Some(421)),
        ("GET", "/x", "u@a.example", Some(400)),
        ("GET", "/a;b", "a.example", Some(400)),
        ("GET", "/a%2Fb", "a.example", Some(400)),
        ("GET", "/a/../../b", "a.example", Some(400)),
    ] {
        // A connection each: the server, too, puts a status into its table.
        let found = Raw::open(&gate).await.ask(&block(method, path, authority)).await;
        assert_eq!(found, expected, "{method} {path} {authority}");
    }
    let mut raw = Raw::open(&gate).await;
    // A Host beside `:authority` says the same or is refused.
    for (host, expected) in [("a.example", 200), ("b.example", 400)] {
        let mut both = block("GET", "/x", "a.example");
        both.extend(field("host", host));
        assert_eq!(raw.ask(&both).await, Some(expected), "{host}");
    }
    // Frames one byte at a time.
    let mut bytes = frame(1, 5, raw.next, &block("GET", "/slow#", "a.example"));
    raw.next += 2;
    let last = bytes.pop().unwrap();
    for byte in bytes {
        raw.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>())
        .await
        .unwrap_err();
    raw.stream.write_all(&[last]).await.unwrap();
    assert_eq!(raw.ask(&block("GET", "/x", "a.example")).await, Some(200));
    gate.stop().await;
}
