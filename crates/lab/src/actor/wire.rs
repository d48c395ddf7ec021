//! HTTP/1.1 by hand, as much as the naive subsystem needs: one request, one answer with a
//! Content-Length, and a close that leaves the TIME_WAIT on our side, as the incident had it.
//!
//! A library's client would pool, retry or reset; here the order of the closing packets is the
//! very thing that is shown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest answer that is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// A connection to the center.
pub(super) type Connection = TlsStream<TcpStream>;

/// Opens a connection, as a client that binds nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "the naive subsystem is what the product is compared with; it must not share its door"
)]
pub(super) async fn open(
    center: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
) -> io::Result<Connection> {
    let stream = TcpStream::connect(center).await?;
    stream.set_nodelay(true)?;
    let name = rustls::pki_types::ServerName::IpAddress(center.ip().into());
    TlsConnector::from(Arc::clone(tls)).connect(name, stream).await
}

/// Sends one POST of JSON and reads the answer: status and body.
pub(super) async fn post(
    connection: &mut Connection,
    center: SocketAddr,
    path: &str,
    token: &str,
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {center}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    connection.write_all(&request).await?;
    connection.flush().await?;

    let mut answer = Vec::with_capacity(1024);
    loop {
        if let Some((status, start, length)) = head_of(&answer)? {
            let end = start + length;
            if answer.len() >= end {
                return Ok((status, answer.get(start..end).unwrap_or_default().to_vec()));
            }
        }
        if answer.len() > ANSWER_BYTES || connection.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no whole answer"));
        }
    }
}

/// Ends our side first, reads the other side's end, then closes, so that the TIME_WAIT is ours.
/// An early close would answer the center's last bytes by a reset, which leaves no TIME_WAIT at all.
/// TLS says no goodbye: the center may end its side on that before our FIN has left, the more often
/// the slower the machine, and the TIME_WAIT would be the center's.
pub(super) async fn close(connection: Connection) {
    let (mut stream, _) = connection.into_inner();
    let goodbye = async {
        stream.shutdown().await?;
        let mut rest = [0_u8; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Past this bound the kernel keeps the orphan; the lab counts it either way.
    let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
}

/// Status, start of the body and its length, once the head is whole.
fn head_of(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = bytes.get(..end).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| bad("expected a head in UTF-8"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4, length))),
        (Some(204), None) => Ok(Some((204, end + 4, 0))),
        _ => Err(bad("an answer without a length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(head_of(whole).unwrap(), Some((200, whole.len() - 2, 2)));
        assert_eq!(head_of(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        assert!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
