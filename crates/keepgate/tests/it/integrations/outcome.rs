//! What became of a request, as far as all proxies must agree about it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// The classes in which every way to the application must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The application was reached, and its 200 came back.
    Reached,
    Unauthenticated,
    Denied,
    Limited,
    /// The request is at fault: 400, 404, 405, 408, 413, 414, 421, 431, 501.
    Refused,
    /// 503: nobody can tell.
    CannotDecide,
    /// Anything else, which no way may have.
    Other(u16),
}

impl Outcome {
    pub(super) fn of(status: u16, reached: bool) -> Outcome {
        match (status, reached) {
            (200, true) => Outcome::Reached,
            (401, false) => Outcome::Unauthenticated,
            (403, false) => Outcome::Denied,
            (429, false) => Outcome::Limited,
            (400 | 404 | 405 | 408 | 413 | 414 | 421 | 431 | 501, false) => Outcome::Refused,
            (503, false) => Outcome::CannotDecide,
            _ => Outcome::Other(status),
        }
    }
}

/// An answer's status and its head, as text.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) head: String,
}

impl Told {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends these bytes on a connection of their own and reads the answer. The request must ask for
/// `Connection: close`.
pub(super) fn send(to: SocketAddr, from: IpAddr, request: &[u8]) -> Told {
    let mut stream = connect(to, from);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Some end a request before they have read all of it.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let (mut ended, mut told) = (None, None);
    while ended.is_none() && told.is_none() {
        match stream.read(&mut part) {
            Ok(0) => ended = Some("closed".to_owned()),
            Ok(count) => bytes.extend_from_slice(part.get(..count).unwrap()),
            Err(error) => ended = Some(error.to_string()),
        }
        told = answer(&bytes, ended.is_some());
    }
    told.unwrap_or_else(|| {
        let (sent, got) = (String::from_utf8_lossy(request), String::from_utf8_lossy(&bytes));
        panic!("{to}: no answer to {sent:?}: {ended:?} {got:?}")
    })
}

/// The answer, if it is there whole. Where its length is not said, that is known at the end alone:
/// Envoy keeps connections with errors open for a second, so all others are not read to theirs.
fn answer(bytes: &[u8], is_end: bool) -> Option<Told> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    // 100 Continue may come before.
    while rest.starts_with("HTTP/1.1 1") {
        rest = rest.split_once("\r\n\r\n")?.1;
    }
    let (head, body) = rest.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let told = Told { status, head: head.to_owned() };
    let length = told.header("content-length").and_then(|length| length.parse().ok());
    let is_whole = length.is_some_and(|length: usize| body.len() >= length);
    (is_whole || is_end).then_some(told)
}

/// From an address of the caller's own: all of 127.0.0.0/8 is this host.
#[expect(clippy::disallowed_methods, reason = "a test is not the product")]
pub(super) fn connect(to: SocketAddr, from: IpAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        socket.connect(to).await.unwrap_or_else(|e| panic!("{to}: {e}"))
    });
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}
