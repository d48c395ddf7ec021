//! TCP sockets, from netlink or, where that is refused, from `/proc/net/tcp{,6}`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::diag::{self, Filter, Message, Socket};
use crate::sys::{self, Netlink};

const BUFFER: usize = 32 * 1024;
/// How many datagrams one dump may have: far more than 16 million sockets.
const MAX_DATAGRAMS: usize = 200_000;

/// Calls `each` for every socket in one of `states` that passes `filter`. Listeners come first.
pub(crate) fn dump(
    netlink: &Netlink,
    states: u32,
    filter: Filter,
    each: impl FnMut(&Socket),
) -> io::Result<()> {
    netlink.send(&diag::dump_request(states, filter))?;
    receive(netlink, each)
}

/// Calls `each` for every socket in one of `states` toward one of `remotes`, with its own port within
/// `local_ports`.
pub(crate) fn dump_toward(
    netlink: &Netlink,
    states: u32,
    remotes: &[SocketAddr],
    local_ports: (u16, u16),
    each: impl FnMut(&Socket),
) -> io::Result<()> {
    netlink.send(&diag::toward_request(states, remotes, local_ports))?;
    receive(netlink, each)
}

fn receive(netlink: &Netlink, mut each: impl FnMut(&Socket)) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    for _ in 0..MAX_DATAGRAMS {
        let length = netlink.receive(&mut buffer)?;
        for message in diag::messages(buffer.get(..length).unwrap_or(&[])) {
            match message {
                Message::Socket(socket) => each(&socket),
                Message::Done(code) if code < 0 => {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                Message::Done(_) => return Ok(()),
                Message::Error(code) => return Err(io::Error::from_raw_os_error(code)),
                Message::Other => {}
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel's list of sockets does not end"))
}

/// The one socket with the same four-tuple, with what `tcp_info` says; nothing when it is gone.
pub(crate) fn exact(netlink: &Netlink, socket: &Socket) -> io::Result<Option<Socket>> {
    netlink.send(&diag::exact_request(socket.local, socket.remote))?;
    let mut buffer = vec![0u8; BUFFER];
    let length = netlink.receive(&mut buffer)?;
    match diag::messages(buffer.get(..length).unwrap_or(&[])).next() {
        Some(Message::Socket(socket)) => Ok(Some(socket)),
        _ => Ok(None),
    }
}

/// The same from the text files of one `net` directory.
pub(crate) fn from_files(net: &Path, mut each: impl FnMut(&Socket)) -> io::Result<()> {
    let tick_ms = sys::tick_ms();
    let mut lines: Vec<Socket> = Vec::new();
    let mut first_error = None;
    let mut read = 0;
    for name in ["tcp", "tcp6"] {
        match std::fs::File::open(net.join(name)) {
            Ok(file) => {
                read += 1;
                let mut reader = io::BufReader::new(file);
                let mut line = String::new();
                // The first line is the heading, which does not parse.
                while io::BufRead::read_line(&mut reader, &mut line)? > 0 {
                    if let Some(socket) = crate::proc::tcp_line(&line, tick_ms) {
                        if socket.state == diag::TcpState::Listen {
                            each(&socket);
                        } else {
                            lines.push(socket);
                        }
                    }
                    line.clear();
                }
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if read == 0
        && let Some(error) = first_error
    {
        return Err(error);
    }
    lines.iter().for_each(each);
    Ok(())
}
