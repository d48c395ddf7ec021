//! Ports that are set aside for connections that must be made when no other port is free.
//!
//! Each is held by a socket that is bound to it, and never connects: as long as that is open, the
//! kernel gives the port to nobody who lets it choose. A connection shares the port with it
//! (SO_REUSEADDR at both). Two, because a new connection may have to be made before the last one is
//! gone. INVARIANT: a connection on such a port is closed with a reset (SO_LINGER 0, and no FIN before
//! it), so it leaves no TIME_WAIT.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::error::DialError;
use super::socket;

/// How many there are of a family.
const PORTS: usize = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside {
    held: Mutex<Vec<Held>>,
}

#[derive(Debug)]
struct Held {
    is_v4: bool,
    port: u16,
    /// What holds the port.
    _socket: Socket,
}

impl Aside {
    /// Sets ports aside for destinations of this family, where there are too few yet and any is free.
    pub(super) fn fill(&self, is_v4: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.iter().filter(|one| one.is_v4 == is_v4).count() < PORTS {
            // None is free, or there is no such family: the next dial tries again.
            let Ok(one) = hold(is_v4) else { return };
            held.push(one);
        }
    }

    /// Connects from one of the ports; none: there is none, or all have a connection to there.
    pub(super) async fn connect(
        &self,
        source: Option<IpAddr>,
        to: SocketAddr,
    ) -> Option<Result<TcpStream, DialError>> {
        for port in self.ports(to.is_ipv4()) {
            let from = SocketAddr::new(source.unwrap_or_else(|| any(to.is_ipv4())), port);
            match socket::connect_tcp_from(from, to).await {
                Err(DialError::PortsExhausted { .. }) => {}
                other => return Some(other),
            }
        }
        None
    }

    fn ports(&self, is_v4: bool) -> Vec<u16> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter(|one| one.is_v4 == is_v4).map(|one| one.port).collect()
    }
}

fn any(is_v4: bool) -> IpAddr {
    if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn hold(is_v4: bool) -> io::Result<Held> {
    let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    if !is_v4 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(any(is_v4), 0).into())?;
    // Not before it has a port: one that others share would be no use.
    socket.set_reuse_address(true)?;
    let local = socket.local_addr()?.as_socket();
    let port = local.map(|local| local.port()).ok_or_else(|| io::Error::other("no port"))?;
    Ok(Held { is_v4, port, _socket: socket })
}
