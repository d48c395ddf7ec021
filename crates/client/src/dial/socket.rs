//! Sockets: options, bind, connect. Errors are classified here, at the call.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpStream, UnixStream};

use super::error::{Call, DialError, classify_tcp, classify_unix};

/// `include/uapi/linux/in.h`; the libc crate lacks it.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
/// The kernel intersects this with the namespace's range, so it never widens or narrows
/// anything; that it is set at all makes the search a single pass.
const EVERY_PORT: u32 = (u16::MAX as u32) << 16 | 1;
/// A Unix listener whose backlog is full answers `EAGAIN`; there is no event to wait for.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn connect_tcp(
    source: Option<IpAddr>,
    to: SocketAddr,
) -> Result<TcpStream, DialError> {
    let classified = |call| move |error| classify_tcp(call, source, to, error);
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )
    .map_err(classified(Call::Socket))?;
    // Both options are comforts (kernels before 6.3 and 4.2 lack them): without them a dial is
    // slower or costs more ports, but right.
    let _ = set_ip_option(&socket, IP_LOCAL_PORT_RANGE, EVERY_PORT);
    let _ = socket.set_tcp_nodelay(true);
    if let Some(source) = source {
        let _ = set_ip_option(&socket, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(classified(Call::Bind))?;
    }
    connected(socket, source, to).await
}

/// Connects from a port that another socket of ours holds. When the connection is closed, it is reset.
pub(super) async fn connect_tcp_from(
    from: SocketAddr,
    to: SocketAddr,
) -> Result<TcpStream, DialError> {
    let source = Some(from.ip()).filter(|ip| !ip.is_unspecified());
    let classified = |call| move |error| classify_tcp(call, source, to, error);
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )
    .map_err(classified(Call::Socket))?;
    let _ = socket.set_tcp_nodelay(true);
    socket
        .set_linger(Some(Duration::ZERO))
        .and_then(|()| socket.set_reuse_address(true))
        .and_then(|()| if from.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) })
        .and_then(|()| socket.bind(&from.into()))
        .map_err(classified(Call::Bind))?;
    connected(socket, source, to).await
}

async fn connected(
    socket: Socket,
    source: Option<IpAddr>,
    to: SocketAddr,
) -> Result<TcpStream, DialError> {
    let classified = |call| move |error| classify_tcp(call, source, to, error);
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(classified(Call::Connect)(error)),
    }
    let stream = TcpStream::from_std(socket.into()).map_err(classified(Call::Connect))?;
    stream.writable().await.map_err(classified(Call::Connect))?;
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(error)) | Err(error) => Err(classified(Call::Connect)(error)),
    }
}

pub(super) async fn connect_unix(path: &Path) -> Result<UnixStream, DialError> {
    let classified = |call| move |error| classify_unix(path, call, error);
    let address = SockAddr::unix(path).map_err(classified(Call::Connect))?;
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
            .map_err(classified(Call::Socket))?;
        match socket.connect(&address) {
            Ok(()) => {
                return UnixStream::from_std(socket.into()).map_err(classified(Call::Connect));
            }
            // Bounded by the dial's deadline.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                drop(socket);
                tokio::time::sleep(BACKLOG_PAUSE).await;
            }
            Err(error) => return Err(classified(Call::Connect)(error)),
        }
    }
}

fn set_ip_option(socket: &Socket, option: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and the pointer and length describe
    // `value`, which outlives it.
    #[expect(unsafe_code, reason = "neither std nor socket2 knows these two options")]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
