//! Listeners: bound early, one for each worker, and the accept loop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::connection;
use super::front::{Door, Front};
use super::life::Life;
use super::takeover::Inherited;
use crate::config::{Listen, UnixAccess};
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
    /// Each worker's.
    pub(crate) each: Vec<Vec<Listener>>,
    /// Where those are that are no Unix sockets.
    pub(crate) addrs: Vec<SocketAddr>,
}

/// A worker's listener, not yet of a runtime.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Binds all of them.
pub(crate) fn bind(
    listens: &[Listen],
    access: UnixAccess,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Listeners, ListenError> {
    let mut all =
        Listeners { each: (0..workers.max(1)).map(|_| Vec::new()).collect(), addrs: Vec::new() };
    for listen in listens {
        match listen {
            Listen::Tcp(addr) => all.tcp(*addr, false, inherited)?,
            Listen::Localhost(port) => {
                all.both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, *port, inherited)?;
            }
            Listen::Any(port) => {
                all.both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, *port, inherited)?;
            }
            Listen::Nowhere => {}
            Listen::Unix(path) => {
                let path = path.as_path();
                let named = |source| ListenError::Unix { path: path.display().to_string(), source };
                let socket = match inherited.unix(path).pop() {
                    Some(socket) => socket,
                    None => bind_unix(path, access).map_err(named)?,
                };
                for each in &mut all.each {
                    each.push(Listener::Unix(socket.try_clone().map_err(named)?));
                }
            }
        }
    }
    Ok(all)
}

impl Listeners {
    /// The same port over IPv4 and, where the host has it, over IPv6.
    fn both(
        &mut self,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
        port: u16,
        inherited: &mut Inherited,
    ) -> Result<(), ListenError> {
        self.tcp(SocketAddr::from((v4, port)), false, inherited)?;
        let port = self.addrs.last().map_or(port, SocketAddr::port);
        match self.tcp(SocketAddr::from((v6, port)), true, inherited) {
            Err(ListenError::Tcp { source, .. }) if has_no_ipv6(&source) => Ok(()),
            other => other,
        }
    }

    fn tcp(
        &mut self,
        addr: SocketAddr,
        only_v6: bool,
        inherited: &mut Inherited,
    ) -> Result<(), ListenError> {
        let sockets = inherited.tcp(addr);
        if !sockets.is_empty() {
            return self.adopt(addr, &sockets).map_err(|source| ListenError::Tcp { addr, source });
        }
        let bound = bind_tcp(addr, only_v6, self.each.len());
        let (sockets, addr) = bound.map_err(|source| ListenError::Tcp { addr, source })?;
        for (each, socket) in self.each.iter_mut().zip(sockets) {
            each.push(socket);
        }
        self.addrs.push(addr);
        Ok(())
    }
}

impl Listeners {
    /// Sockets of another gate. Each worker gets one at least, and each socket a worker: a connection
    /// in a queue that nobody reads would wait for ever.
    fn adopt(&mut self, addr: SocketAddr, sockets: &[std::net::TcpListener]) -> io::Result<()> {
        let workers = self.each.len();
        let pairs = sockets.iter().cycle().zip((0..workers).cycle());
        for (socket, worker) in pairs.take(workers.max(sockets.len())) {
            let socket = Listener::Tcp(socket.try_clone()?);
            if let Some(each) = self.each.get_mut(worker) {
                each.push(socket);
            }
        }
        self.addrs.push(addr);
        Ok(())
    }

    /// A copy of each, to be passed on; of a Unix socket, which all workers share, one.
    pub(crate) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let mut copies = Vec::new();
        for (worker, each) in self.each.iter().enumerate() {
            for listener in each {
                match listener {
                    Listener::Tcp(listener) => copies.push(listener.try_clone()?.into()),
                    Listener::Unix(listener) if worker == 0 => {
                        copies.push(listener.try_clone()?.into());
                    }
                    Listener::Unix(_) => {}
                }
            }
        }
        Ok(copies)
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind_tcp(
    addr: SocketAddr,
    only_v6: bool,
    workers: usize,
) -> io::Result<(Vec<Listener>, SocketAddr)> {
    let socket = || {
        let socket = RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if only_v6 {
            socket.set_only_v6(true)?;
        }
        Ok::<_, io::Error>(socket)
    };
    // With SO_REUSEPORT two gates would share a port without a word. Without it the second
    // one is told.
    let first = socket()?;
    first.bind(&SockAddr::from(addr))?;
    first.listen(1)?;
    let addr = first.local_addr()?.as_socket().unwrap_or(addr);
    drop(first);
    let each = (0..workers)
        .map(|_| {
            let socket = socket()?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::from(addr))?;
            socket.listen(BACKLOG)?;
            Ok(Listener::Tcp(socket.into()))
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok((each, addr))
}

/// INVARIANT: nobody can connect before the socket has the mode and group that were asked for: it
/// listens only then.
fn bind_unix(path: &Path, access: UnixAccess) -> io::Result<std::os::unix::net::UnixListener> {
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
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if let Some(group) = access.group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    if let Some(mode) = access.mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    /// The connection, its peer's address, and over a Unix socket its peer's user.
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>, Option<u32>)> {
        match self {
            Accepting::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Some(remote), None))
            }
            Accepting::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Socket::Unix(stream), None, user))
            }
        }
    }
}

/// Accepts until the gate stops. Runs on the worker's runtime.
pub(crate) async fn accept(
    front: &Arc<Front>,
    worker: &Arc<Worker>,
    listener: Listener,
    door: Door,
) -> io::Result<()> {
    let listener = match listener {
        Listener::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener)?),
        Listener::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
    };
    let mut draining = pin!(front.life.reached(Life::Draining));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => return Ok(()),
        };
        match accepted {
            Ok((_, remote, user)) if !door.admits(front, remote, user) => {
                // It is closed without a word: an answer would be a status that callers may see.
                worker.metrics.check_refused.add(1);
                front.tell_stranger(remote, user);
            }
            Ok((socket, remote, _)) => {
                failing = false;
                worker.metrics.accepted.add(1);
                match door.places(front).take(remote.map(|addr| addr.ip()), front.now_ms()) {
                    // The connection is closed.
                    Err(_) => worker.metrics.over_bound.add(1),
                    Ok(place) => {
                        let place = CallerPlace::new(place, &worker.metrics);
                        let (front, worker) = (Arc::clone(front), Arc::clone(worker));
                        tokio::spawn(connection::serve(front, worker, socket, remote, place, door));
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
