//! An upgraded connection: bytes both ways until one side ends, or nothing moves for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keepgate_limit::Permit;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::worker::Worker;

/// Carries bytes once both sides have upgraded; `permits` are held until it ends.
pub(crate) fn spawn(
    worker: &Arc<Worker>,
    caller: OnUpgrade,
    upstream: OnUpgrade,
    permits: Vec<Permit>,
) {
    let worker = Arc::clone(worker);
    tokio::spawn(async move {
        let _permits = permits;
        let Ok((caller, upstream)) = tokio::try_join!(caller, upstream) else { return };
        let moved = Arc::new(AtomicU64::new(0));
        let mut caller = Counted { inner: TokioIo::new(caller), moved: Arc::clone(&moved) };
        let mut upstream = Counted { inner: TokioIo::new(upstream), moved: Arc::clone(&moved) };
        worker.metrics.tunnels.add(1);
        let _open = OpenTunnel(&worker);
        let idle = worker.settings.bounds.tunnel_idle;
        tokio::select! {
            // Either end closing is how a tunnel ends; there is nobody left to tell.
            _ = tokio::io::copy_bidirectional(&mut caller, &mut upstream) => {}
            () = still_for(idle, &moved) => {}
        }
    });
}

/// Returns its count by `Drop`.
struct OpenTunnel<'w>(&'w Worker);

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.metrics.tunnels.sub(1);
    }
}

/// Ends when the count stood still for `idle`.
async fn still_for(idle: Duration, moved: &AtomicU64) {
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(idle).await;
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Counts the reads that brought something.
struct Counted<T> {
    inner: T,
    moved: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if polled.is_ready() {
            this.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
