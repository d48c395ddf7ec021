//! A connection that is closed without losing the answer.
//!
//! A socket that is closed while the peer still sends is reset, and the peer may never see the
//! answer that it was just sent (RFC 9112, section 9.6). So the center closes its own side first,
//! and reads for a moment what comes, without looking at it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long is read after an answer that came before the body.
const UNREAD: Duration = Duration::from_secs(5);

/// How long otherwise.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes read at most.
const BYTES: usize = 64 << 20;

/// See the module.
pub(super) struct Linger<S> {
    stream: S,
    unread: Arc<AtomicBool>,
    closing: Option<Closing>,
}

struct Closing {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> Linger<S> {
    /// `unread` is set when an answer comes before its request's body was read.
    pub(super) fn new(stream: S, unread: Arc<AtomicBool>) -> Linger<S> {
        Linger { stream, unread, closing: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let closing = match &mut this.closing {
            Some(closing) => closing,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                let unread = this.unread.load(Ordering::Relaxed);
                let patience = if unread { UNREAD } else { PATIENCE };
                let until = Box::pin(tokio::time::sleep(patience));
                this.closing.insert(Closing { until, bytes: 0 })
            }
        };
        let mut buffer = [0; 8 << 10];
        while closing.bytes < BYTES {
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut this.stream).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    closing.bytes += into.filled().len();
                }
                // The peer has closed its side, or is gone.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(closing.until.as_mut().poll(cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
