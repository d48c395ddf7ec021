//! Listeners: bound early, one for each worker, and the accept loop.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::connection;
use super::front::Front;
use crate::config::Listen;
use crate::phase::worker::Worker;
use crate::wire::peer::CallerPlace;
use crate::wire::stream::Socket;

/// Connections the kernel may hold that were not accepted yet.
const BACKLOG: i32 = 1024;
/// After an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A TCP address.
    #[error("cannot listen on `{addr}`; is something else there?")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Unix socket.
    #[error("cannot listen on `{path}`")]
    Unix {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listeners for all workers.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) each: Vec<Listener>,
    /// Where they are; none for a Unix socket.
    pub(crate) addr: Option<SocketAddr>,
}

/// A worker's listener, not yet of a runtime.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Binds all of them.
pub(crate) fn bind(listen: &Listen, workers: usize) -> Result<Listeners, ListenError> {
    match listen {
        Listen::Tcp(addr) => {
            bind_tcp(*addr, workers).map_err(|source| ListenError::Tcp { addr: *addr, source })
        }
        Listen::Unix(path) => bind_unix(path, workers)
            .map_err(|source| ListenError::Unix { path: path.display().to_string(), source }),
    }
}

fn bind_tcp(addr: SocketAddr, workers: usize) -> io::Result<Listeners> {
    // With SO_REUSEPORT two gates would share a port without a word. Without it the second
    // one is told.
    let first = RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    first.set_reuse_address(true)?;
    first.bind(&SockAddr::from(addr))?;
    first.listen(1)?;
    let addr = first.local_addr()?.as_socket().unwrap_or(addr);
    drop(first);
    let each = (0..workers.max(1))
        .map(|_| {
            let socket =
                RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::from(addr))?;
            socket.listen(BACKLOG)?;
            Ok(Listener::Tcp(socket.into()))
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Listeners { each, addr: Some(addr) })
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Listeners> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "expected a socket or nothing at this path, got another kind of file",
            ));
        }
        Err(_) => {}
    }
    let first = std::os::unix::net::UnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let each = (0..workers.max(1))
        .map(|_| first.try_clone().map(Listener::Unix))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(Listeners { each, addr: None })
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Accepting::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Some(remote)))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), None))
            }
        }
    }
}

/// Accepts until the gate stops. Runs on the worker's runtime.
pub(crate) async fn accept(
    front: &Arc<Front>,
    worker: &Arc<Worker>,
    listener: Listener,
) -> io::Result<()> {
    let listener = match listener {
        Listener::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener)?),
        Listener::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
    };
    let mut stop = front.stop.subscribe();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match accepted {
            Ok((socket, remote)) => {
                failing = false;
                worker.metrics.accepted.add(1);
                match front.places.take(remote.map(|addr| addr.ip()), front.now_ms()) {
                    // The connection is closed.
                    Err(_) => worker.metrics.over_bound.add(1),
                    Ok(place) => {
                        let place = CallerPlace::new(place, &worker.metrics);
                        let (front, worker) = (Arc::clone(front), Arc::clone(worker));
                        tokio::spawn(connection::serve(front, worker, socket, remote, place));
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "connections cannot be accepted");
                    failing = true;
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}
