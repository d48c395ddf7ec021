//! A WebSocket: bytes both ways until one side ends, nothing moves for too long, or it may not go
//! on.
//!
//! The gate reads no message, but it knows where frames begin: when it ends a WebSocket, the caller
//! gets what was under way of a frame, then a close frame that says why. Where that takes longer
//! than [`CLOSING`] the connection is reset.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};

use crate::exchange::ongoing::{Ending, Listed};
use crate::observe::metrics::WorkerMetrics;
use crate::phase::forward::Upgrade;
use crate::wire::peer::Peer;
use crate::wire::websocket::{self, Frames};

/// From the decision to end it to the close frame, and from there to the caller's own.
const CLOSING: Duration = Duration::from_secs(1);
/// What is read at once.
const BUFFER: usize = 8 * 1024;

/// Carries bytes once both sides have upgraded.
pub(crate) fn spawn(peer: Arc<Peer>, upgrade: Upgrade) {
    tokio::spawn(async move {
        // Held until it ends: the connection's place, and the caller's places among the requests.
        let Upgrade { caller, upstream, idle, listed, permits: _permits, metrics, held: _held } =
            upgrade;
        let _busy = peer.seat.busy();
        let Ok((caller, upstream)) = tokio::try_join!(caller, upstream) else { return };
        metrics.tunnels.rise();
        let _open = OpenTunnel(&metrics);
        let mut tunnel = Tunnel::new(caller, upstream);
        let ending = tunnel.carry(&listed, idle).await;
        let Some(ending) = ending else {
            // It ended by itself, unless the caller took nothing for too long.
            if let Some(cut) = peer.shared.was_cut() {
                listed.cut(cut);
            }
            return;
        };
        listed.cut(ending.cut());
        let closed = tokio::time::timeout(CLOSING, tunnel.close(ending)).await;
        if !matches!(closed, Ok(Ok(()))) {
            peer.shared.reset();
            return;
        }
        // Else what the caller still sends would reset the connection, and lose the close frame.
        let _ = tokio::time::timeout(CLOSING, tunnel.drain()).await;
    });
}

/// Returns its count by `Drop`.
struct OpenTunnel<'m>(&'m WorkerMetrics);

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.tunnels.fall();
    }
}

type Io = TokioIo<Upgraded>;

struct Tunnel {
    down: Pump<ReadHalf<Io>, WriteHalf<Io>>,
    up: Pump<ReadHalf<Io>, WriteHalf<Io>>,
    moved: Arc<AtomicU64>,
}

impl Tunnel {
    fn new(caller: Upgraded, upstream: Upgraded) -> Tunnel {
        let (from_caller, to_caller) = tokio::io::split(TokioIo::new(caller));
        let (from_upstream, to_upstream) = tokio::io::split(TokioIo::new(upstream));
        let moved = Arc::default();
        Tunnel {
            down: Pump::new(from_upstream, to_caller, &moved),
            up: Pump::new(from_caller, to_upstream, &moved),
            moved,
        }
    }

    /// Until it ends, or is to be ended.
    async fn carry(&mut self, listed: &Listed, idle: Duration) -> Option<Ending> {
        let Tunnel { down, up, moved } = self;
        tokio::select! {
            // Bytes that are there do not get ahead of a decision that is there.
            biased;
            ending = listed.ended() => Some(ending),
            // Either end closing is how a tunnel ends; there is nobody left to tell.
            _ = async { tokio::try_join!(down.run(), up.run()) } => None,
            () = still_for(idle, moved) => Some(Ending::Idle),
        }
    }

    /// Lets the frames that have begun end, then closes both sides.
    async fn close(&mut self, ending: Ending) -> io::Result<()> {
        let (code, reason) = ending.websocket();
        self.down.finish_frame().await?;
        self.down.to.write_all(&websocket::close(code, reason, false)).await?;
        self.down.to.flush().await?;
        self.down.to.shutdown().await?;
        if self.up.frames.at_boundary() {
            // The upstream hears it too, if it listens; the caller's close does not wait for that.
            let close = websocket::close(code, reason, true);
            let _ = tokio::time::timeout(CLOSING / 10, async {
                self.up.to.write_all(&close).await?;
                self.up.to.flush().await
            })
            .await;
        }
        Ok(())
    }

    /// Reads what the caller still sends, up to its end.
    async fn drain(&mut self) {
        while matches!(self.up.from.read(&mut self.up.buffer).await, Ok(1..)) {}
    }
}

/// One direction. What it holds outlives a run that is given up in the middle.
struct Pump<R, W> {
    from: R,
    to: W,
    buffer: Box<[u8]>,
    /// What of `buffer` was read and not written yet.
    start: usize,
    end: usize,
    /// As of the bytes written.
    frames: Frames,
    moved: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pump<R, W> {
    fn new(from: R, to: W, moved: &Arc<AtomicU64>) -> Pump<R, W> {
        Pump {
            from,
            to,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            frames: Frames::default(),
            moved: Arc::clone(moved),
        }
    }

    /// Carries all there is, then ends the other side too.
    async fn run(&mut self) -> io::Result<()> {
        loop {
            while self.start < self.end {
                self.write(usize::MAX).await?;
            }
            self.to.flush().await?;
            if self.read().await? == 0 {
                return self.to.shutdown().await;
            }
        }
    }

    /// Carries what is left of a frame that has begun.
    async fn finish_frame(&mut self) -> io::Result<()> {
        while !self.frames.at_boundary() {
            if self.start == self.end && self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
            let left = self.frames.left_of_frame(bytes);
            self.write(left).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<usize> {
        let n = self.from.read(&mut self.buffer).await?;
        (self.start, self.end) = (0, n);
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(n)
    }

    /// Writes some of what was read, at most so much.
    async fn write(&mut self, most: usize) -> io::Result<()> {
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        let bytes = bytes.get(..most.min(bytes.len())).unwrap_or_default();
        let n = self.to.write(bytes).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.advance(bytes.get(..n).unwrap_or_default());
        self.start += n;
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Ends when the count stood still for `idle`, up to a quarter of it more.
async fn still_for(idle: Duration, moved: &AtomicU64) {
    let mut before = (moved.load(Ordering::Relaxed), tokio::time::Instant::now());
    loop {
        tokio::time::sleep((idle / 4).max(Duration::from_millis(1))).await;
        let (now, at) = (moved.load(Ordering::Relaxed), tokio::time::Instant::now());
        if now != before.0 {
            before = (now, at);
        } else if at - before.1 >= idle {
            return;
        }
    }
}
