//! A look at a connection before it is used: has the peer closed its side?
//!
//! The task that drives a connection hears of its end when its runtime gets to it, which may be
//! on another thread and a moment late. The kernel knows at once, and says so without a wait.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// See the module. Shared by a socket and those who may want to use it.
#[derive(Debug)]
pub(super) struct Look {
    /// INVARIANT: the descriptor is open as long as it is here; the socket takes it away first.
    fd: Mutex<Option<RawFd>>,
    /// Whether the connection, when it ends, is the peer's to close.
    is_peers: AtomicBool,
    ended: Notify,
}

impl Look {
    pub(super) fn at(stream: &impl AsRawFd) -> Look {
        Look {
            fd: Mutex::new(Some(stream.as_raw_fd())),
            is_peers: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// Whether the connection is the peer's to close: as long as we want to use it.
    pub(super) fn leave_to_peer(&self, is_peers: bool) {
        self.is_peers.store(is_peers, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(super) fn is_peers_to_close(&self) -> bool {
        self.is_peers.load(Ordering::Relaxed)
    }

    /// The socket is about to be closed.
    pub(super) fn gone(&self) {
        *self.fd.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.ended.notify_waiters();
    }

    /// Whether our side has closed it.
    pub(super) fn is_gone(&self) -> bool {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Ready if [`Look::gone`] comes from now on.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }

    /// Whether the peer has closed, or reset, the connection.
    pub(super) fn is_closed(&self) -> bool {
        let fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fd) = *fd else { return true };
        let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: the pointer is to one whole pollfd, and the descriptor is open while the lock
        // is held.
        #[expect(unsafe_code, reason = "neither std nor tokio looks without a wait")]
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        let over = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
        // An error says nothing about the peer; the request will.
        ready > 0 && poll.revents & over != 0
    }
}
