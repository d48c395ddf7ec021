//! A long answer, compressed while it is made. So a client that reads slowly holds up no reading of
//! the store, and costs a fraction of the answer's memory.

use std::convert::Infallible;
use std::io::{self, Write};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use serde::Serialize;

use crate::store::StoreError;

/// Bytes of a piece before it is compressed.
const PIECE: usize = 256 << 10;

/// Fast rather than small.
const LEVEL: i32 = 1;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    /// Compressed each on its own.
    pieces: Vec<Bytes>,
    /// Not compressed yet; less than a piece.
    rest: Vec<u8>,
    bytes: u64,
}

impl Write for Spool {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.rest.len());
        let taken = from.get(..room.min(from.len())).unwrap_or_default();
        self.rest.extend_from_slice(taken);
        self.bytes += taken.len() as u64;
        if self.rest.len() >= PIECE {
            self.pieces.push(zstd::bulk::compress(&self.rest, LEVEL)?.into());
            self.rest.clear();
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spool {
    /// Writes while a store is read. It fails only where there is no memory to compress in.
    pub(crate) fn with(
        &mut self,
        write: impl FnOnce(&mut Spool) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let path = || "the answer".to_owned();
        write(self).map_err(|source| StoreError::Io { what: "write", path: path(), source })
    }

    /// Writes a JSON value.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(self, value).map_err(io::Error::from)
    }

    /// Writes a part of a JSON text, without the quotes.
    pub(crate) fn text(&mut self, part: &str) -> io::Result<()> {
        let quoted = serde_json::to_vec(part)?;
        self.write_all(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default())
    }

    /// The answer, of JSON.
    pub(crate) fn into_response(self) -> Response {
        let whole = self.pieces.into_iter().map(|piece| {
            // It was compressed by this process: should it not be read, the answer ends early,
            // which its length tells.
            let plain = zstd::bulk::decompress(&piece, PIECE).unwrap_or_default();
            Ok::<_, Infallible>(Bytes::from(plain))
        });
        let rest = std::iter::once(Ok(Bytes::from(self.rest)));
        let mut response = Response::new(Body::from_stream(stream::iter(whole.chain(rest))));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.bytes));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_answered() {
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            let text: String = ('a'..='z').cycle().take(count).collect();
            let mut spool = Spool::default();
            spool.write_all(text.as_bytes()).unwrap();
            let response = spool.into_response();
            assert_eq!(response.headers()["content-length"], count.to_string());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body == text.as_bytes(), "{count}");
        }
    }

    #[test]
    fn parts_of_a_text_are_escaped() {
        let mut spool = Spool::default();
        for part in ["a\"b", "", "\n\\", "\u{1f600}\u{1}"] {
            spool.text(part).unwrap();
        }
        let text = format!("\"{}\"", String::from_utf8(spool.rest).unwrap());
        let read: String = serde_json::from_str(&text).unwrap();
        assert_eq!(read, "a\"b\n\\\u{1f600}\u{1}");
    }
}
