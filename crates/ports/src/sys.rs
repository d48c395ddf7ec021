//! Every system call of this crate, and all of its `unsafe`.
//!
//! Nothing here knows what the bytes mean; nothing here sends a packet. The two `connect`s are a
//! UDP one (which only asks the routing table) and the zero-packet probe (TCP Fast Open connect,
//! which allocates a port and defers the SYN to the first write, which never comes).

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::snapshot::Device;

const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
const TCP_FASTOPEN_CONNECT: libc::c_int = 30;
const TCP_FASTOPEN_NO_COOKIE: libc::c_int = 34;
/// How many network devices are listed.
const MAX_DEVICES: usize = 16_384;
const RECEIVE_TIMEOUT_S: libc::time_t = 10;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the new descriptor is owned by nobody else.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: `fd` was just opened by us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for `length` bytes for the duration of the call.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), length) })?;
    Ok(())
}

/// A socket address in the kernel's form.
fn raw_address(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than, and aligned for, `sockaddr_in`.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `sockaddr_storage` is larger than, and aligned for, `sockaddr_in6`.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

fn family(addr: IpAddr) -> libc::c_int {
    if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn connect(fd: RawFd, addr: SocketAddr) -> io::Result<()> {
    let (raw, length) = raw_address(addr);
    // SAFETY: `raw` is valid for `length` bytes.
    check(unsafe { libc::connect(fd, std::ptr::from_ref(&raw).cast(), length) })?;
    Ok(())
}

fn bind(fd: RawFd, addr: SocketAddr) -> io::Result<()> {
    let (raw, length) = raw_address(addr);
    // SAFETY: `raw` is valid for `length` bytes.
    check(unsafe { libc::bind(fd, std::ptr::from_ref(&raw).cast(), length) })?;
    Ok(())
}

/// A netlink socket of the namespace it was opened in.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Self::of(libc::NETLINK_SOCK_DIAG)
    }

    /// The same for questions about routes.
    pub(crate) fn open_route() -> io::Result<Self> {
        Self::of(libc::NETLINK_ROUTE)
    }

    fn of(protocol: libc::c_int) -> io::Result<Self> {
        let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        let timeout = libc::timeval { tv_sec: RECEIVE_TIMEOUT_S, tv_usec: 0 };
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
        Ok(Self(fd))
    }

    pub(crate) fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: `message` is valid for its length. An unconnected netlink socket sends to the
        // kernel (port id 0).
        let sent =
            unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one datagram of netlink messages; a datagram that did not fit is an error.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: `buffer` is valid and writable for its length.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_TRUNC,
                )
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            let got = got.unsigned_abs();
            if got > buffer.len() {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            return Ok(got);
        }
    }
}

/// Moves the calling thread into the network namespace behind `path`.
pub(crate) fn set_namespace(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    // SAFETY: no pointers.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// The network devices of the calling thread's namespace.
pub(crate) fn devices() -> io::Result<Vec<Device>> {
    let probe = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: no pointers; the list is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    for at in 0..MAX_DEVICES {
        // SAFETY: the list ends with an entry of index 0, which ends this loop.
        let entry = unsafe { &*list.add(at) };
        if entry.if_index == 0 || entry.if_name.is_null() {
            break;
        }
        // SAFETY: a zero-terminated name inside the list.
        let name = unsafe { std::ffi::CStr::from_ptr(entry.if_name) };
        let flags = device_flags(probe.as_raw_fd(), name).unwrap_or(0);
        found.push(Device {
            index: entry.if_index,
            name: name.to_string_lossy().into_owned(),
            up: flags & libc::IFF_UP != 0,
            loopback: flags & libc::IFF_LOOPBACK != 0,
        });
    }
    // SAFETY: it came from `if_nameindex` and is not used any more.
    unsafe { libc::if_freenameindex(list) };
    Ok(found)
}

fn device_flags(fd: RawFd, name: &std::ffi::CStr) -> io::Result<libc::c_int> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(last).zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is valid for the call, which reads the name and writes the flags.
    check(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call has written this member.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// What a link in an open directory leads to, as far as `buffer` holds it: cheaper than by the whole
/// path where a directory has thousands.
pub(crate) fn link_at<'a>(
    dir: &std::fs::File,
    name: &std::ffi::OsStr,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(name.as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the name is zero-terminated, the buffer writable for its length.
    let length = unsafe {
        libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    match usize::try_from(length) {
        Ok(length) => Ok(buffer.get(..length).unwrap_or(&[])),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Opens a file below `root` as a process sees it whose root that is: no link leads out of it.
pub(crate) fn open_in_root(root: &Path, name: &str) -> io::Result<std::fs::File> {
    use std::os::unix::ffi::OsStrExt;
    let text = |bytes: &[u8]| std::ffi::CString::new(bytes).map_err(io::Error::other);
    let path = text(root.as_os_str().as_bytes())?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path is zero-terminated and valid for the call.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: `fd` was just opened by us.
    let dir = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid `open_how`.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let name = text(name.as_bytes())?;
    // SAFETY: all pointers are valid for the call; the size is that of `how`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let fd = check(libc::c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: `fd` was just opened by us.
    Ok(std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Asks whether a program could bind to `addr` (port 0, no port taken).
pub(crate) fn can_bind(addr: IpAddr) -> io::Result<()> {
    let fd = socket(family(addr), libc::SOCK_STREAM, 0)?;
    set_option(fd.as_raw_fd(), libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &1i32)?;
    bind(fd.as_raw_fd(), SocketAddr::new(addr, 0))
}

/// Asks the routing table which source address leads to `dst`: a UDP `connect`, which sends
/// nothing. `EAGAIN` means that UDP has no port left to choose.
pub(crate) fn source_toward(dst: SocketAddr) -> io::Result<IpAddr> {
    let fd = socket(family(dst.ip()), libc::SOCK_DGRAM, 0)?;
    connect(fd.as_raw_fd(), dst)?;
    Ok(std::net::UdpSocket::from(fd).local_addr()?.ip())
}

/// The zero-packet probe: is a port bound by other means than `connect()`?
///
/// One socket serves all probes; each asks for exactly one port toward a dummy destination and
/// gives it back at once. While it has the port, the port counts as chosen by `connect()`, so that
/// a `connect()` of anybody else, to any other destination, may still choose it.
pub(crate) struct BoundProbe(OwnedFd);

impl BoundProbe {
    /// Fails with `EOPNOTSUPP` where the client side of TCP Fast Open is off, with `ENOPROTOOPT`
    /// before Linux 6.3.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let raw = fd.as_raw_fd();
        set_option(raw, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &1i32)?;
        set_option(raw, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &1i32)?;
        set_option(raw, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &0u32)?;
        Ok(Self(fd))
    }

    /// True when a `connect()` anywhere would skip `port` because somebody bound it.
    pub(crate) fn is_bound(&self, port: u16) -> io::Result<bool> {
        let raw = self.0.as_raw_fd();
        let range = u32::from(port) | (u32::from(port) << 16);
        set_option(raw, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range)?;
        // The dummy: loopback, a destination nobody uses. No SYN leaves (deferred to the first
        // write).
        let result = connect(raw, SocketAddr::from(([127, 0, 0, 2], 1)));
        if let Err(error) = &result
            && error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
        {
            return Ok(true);
        }
        // AF_UNSPEC dissolves the association and returns the port.
        // SAFETY: all-zero is a valid `sockaddr` with family AF_UNSPEC.
        let none: libc::sockaddr = unsafe { mem::zeroed() };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: `none` is valid for `length` bytes.
        let freed = check(unsafe { libc::connect(raw, std::ptr::from_ref(&none), length) });
        result.and(freed).map(|_| false)
    }
}

/// Milliseconds per tick of `/proc/net/tcp` timers.
pub(crate) fn tick_ms() -> u32 {
    // SAFETY: no pointers.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u32::try_from(hz).ok().filter(|hz| *hz > 0).map_or(10, |hz| 1000 / hz)
}

/// How many columns the terminal behind standard output has; nothing where there is none.
pub(crate) fn terminal_columns() -> Option<usize> {
    // SAFETY: all-zero is a valid `winsize`.
    let mut size: libc::winsize = unsafe { mem::zeroed() };
    // SAFETY: the request writes a `winsize`, and `size` is one for the duration of the call.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}
