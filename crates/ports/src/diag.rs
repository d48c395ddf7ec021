//! The wire format of `NETLINK_SOCK_DIAG` for TCP: requests written, answers parsed.
//!
//! Pure: bytes in, values out, nothing else. Parsing never fails as a whole; a message that is cut
//! short ends the iteration (the kernel never sends one, a fuzzer does).
//! Source: `include/uapi/linux/{netlink,sock_diag,inet_diag}.h`, `net/ipv4/inet_diag.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `TCPDIAG_GETSOCK`: the old request, still the only one that walks IPv4 and IPv6 in one go.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const BYTECODE_JMP: u8 = 1;
const BYTECODE_D_COND: u8 = 8;
const BYTECODE_S_GE: u8 = 2;
const BYTECODE_S_LE: u8 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_PREFSRC: u16 = 7;
const HEADER: usize = 16;
const TCP_INFO_OPTIONS: usize = 5;

/// The TCP states as the kernel numbers them (`include/net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[expect(missing_docs, reason = "the states of RFC 9293, under their usual names")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    NewSynRecv = 12,
    /// Bound to a port, neither listening nor connected (visible since Linux 6.8).
    BoundInactive = 13,
}

impl TcpState {
    /// All states, in the kernel's order.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
        Self::BoundInactive,
    ];

    /// The state of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its bit in a states mask.
    pub const fn bit(self) -> u32 {
        1 << (self as u8)
    }

    /// The name used in JSON and metrics, such as `time_wait`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynRecv => "new_syn_recv",
            Self::BoundInactive => "bound_inactive",
        }
    }

    /// True for a state in which a socket holds a four-tuple.
    pub const fn holds_tuple(self) -> bool {
        !matches!(self, Self::Listen | Self::Close | Self::BoundInactive)
    }
}

/// Every state but idle bound sockets (asking for those walks one more table).
pub const ALL_BUT_BOUND: u32 = 0xfff << 1 & !(1 << 13);
/// Every state. Together they cost one walk of the kernel's table less than one after the other.
pub const ALL: u32 = ALL_BUT_BOUND | BOUND_INACTIVE;
/// Listeners only.
pub const LISTENERS: u32 = TcpState::Listen.bit();
/// Idle bound sockets only.
pub const BOUND_INACTIVE: u32 = TcpState::BoundInactive.bit();
/// Connected sockets with a process behind them.
pub const LIVE: u32 = TcpState::Established.bit()
    | TcpState::SynSent.bit()
    | TcpState::FinWait1.bit()
    | TcpState::FinWait2.bit()
    | TcpState::CloseWait.bit()
    | TcpState::LastAck.bit()
    | TcpState::Closing.bit();

/// One TCP socket as the kernel describes it. IPv4-mapped addresses are given as IPv4, because
/// that is how port allocation counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its state; a FIN_WAIT2 mini-socket is `FinWait2` here.
    pub state: TcpState,
    /// Own address and port.
    pub local: SocketAddr,
    /// The other end's; unspecified and 0 for a listener.
    pub remote: SocketAddr,
    /// The device it is bound to, 0 for none.
    pub interface: u32,
    /// Names the socket as long as the kernel runs, TIME_WAIT included; 0 when unknown.
    pub cookie: u64,
    /// Milliseconds until its timer fires; for TIME_WAIT, until it is gone.
    pub expires_ms: u32,
    /// The owner's user id (0 in TIME_WAIT).
    pub uid: u32,
    /// The inode, by which `/proc/PID/fd` names it (0 in TIME_WAIT or once orphaned).
    pub inode: u32,
    /// Whether TCP timestamps were negotiated; known only when asked for and alive.
    pub timestamps: Option<bool>,
}

/// What a netlink datagram can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A socket.
    Socket(Socket),
    /// The end of a dump; 0 or a negated errno.
    Done(i32),
    /// A refusal, with the errno (positive).
    Error(i32),
    /// Anything else, or a socket in a shape we do not know.
    Other,
}

/// Which sockets a dump shall contain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only sockets toward this address and port (mapped ones included).
    pub remote: Option<SocketAddr>,
    /// Only sockets whose own port lies in this range.
    pub local_ports: Option<(u16, u16)>,
}

/// A dump of TCP sockets of both families in one walk.
pub fn dump_request(states: u32, filter: Filter) -> Vec<u8> {
    let mut body = vec![0u8; 60];
    put(&mut body, 52, &states.to_ne_bytes());
    let code = bytecode(filter);
    if !code.is_empty() {
        let length = u16::try_from(code.len() + 4).unwrap_or(u16::MAX);
        body.extend_from_slice(&length.to_ne_bytes());
        body.extend_from_slice(&INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        body.extend_from_slice(&code);
    }
    message(TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, &body)
}

/// A dump of the sockets toward any of these destinations (mapped ones included) whose own port lies
/// in this range. With more than [`MAX_DESTINATIONS`], of all in the range.
pub fn toward_request(states: u32, remotes: &[SocketAddr], (low, high): (u16, u16)) -> Vec<u8> {
    let mut body = vec![0u8; 60];
    put(&mut body, 52, &states.to_ne_bytes());
    let mut steps = vec![port_step(BYTECODE_S_GE, low), port_step(BYTECODE_S_LE, high)];
    let each = if remotes.len() <= MAX_DESTINATIONS { remotes } else { &[] };
    for remote in each {
        steps.push(remote_step(*remote));
    }
    let ports = 2;
    let jumps = each.len().saturating_sub(1) * JUMP;
    let mut left: usize = steps.iter().map(Vec::len).sum::<usize>() + jumps;
    let mut code = Vec::with_capacity(left);
    let last = steps.len().saturating_sub(1);
    for (at, mut step) in steps.into_iter().enumerate() {
        let length = step.len();
        // One that does not hold: for a port, or for the last destination, the end; else the next
        // destination, behind the jump.
        let next = if at < ports || at == last { left + 4 } else { length + JUMP };
        put(&mut step, 2, &u16::try_from(next).unwrap_or(u16::MAX).to_ne_bytes());
        code.extend_from_slice(&step);
        left -= length;
        if at >= ports && at < last {
            let to_the_end = u16::try_from(left).unwrap_or(u16::MAX);
            code.extend_from_slice(&[BYTECODE_JMP, 4]);
            code.extend_from_slice(&to_the_end.to_ne_bytes());
            left -= JUMP;
        }
    }
    let length = u16::try_from(code.len() + 4).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend_from_slice(&code);
    message(TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, &body)
}

/// Destinations that one filter program names at most.
pub const MAX_DESTINATIONS: usize = 256;
/// The bytes of a jump in a filter program.
const JUMP: usize = 4;

/// The one socket with this four-tuple, with its `tcp_info`.
pub fn exact_request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut body = vec![0u8; 56];
    let (family, ext) = (if local.is_ipv4() { 2u8 } else { 10u8 }, 1u8 << (INET_DIAG_INFO - 1));
    put(&mut body, 0, &[family, 6, ext, 0]);
    put(&mut body, 4, &u32::MAX.to_ne_bytes());
    put(&mut body, 8, &local.port().to_be_bytes());
    put(&mut body, 10, &remote.port().to_be_bytes());
    put(&mut body, 12, &address_bytes(local.ip()));
    put(&mut body, 28, &address_bytes(remote.ip()));
    // Any cookie will do.
    put(&mut body, 48, &[0xff; 8]);
    message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, &body)
}

/// Asks for the route to an address (`RTM_GETROUTE`).
pub fn route_request(dst: IpAddr) -> Vec<u8> {
    let bytes = address_bytes(dst);
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(0);
    let mut body = vec![if dst.is_ipv4() { 2 } else { 10 }, bits];
    body.resize(12, 0);
    let length = u16::try_from(bytes.len() + 4).unwrap_or(0);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&RTA_DST.to_ne_bytes());
    body.extend_from_slice(&bytes);
    message(RTM_GETROUTE, NLM_F_REQUEST, &body)
}

/// The answer to [`route_request`]: the preferred source, or an errno.
pub fn route_source(datagram: &[u8]) -> Result<Option<IpAddr>, i32> {
    let body = datagram.get(HEADER..).unwrap_or(&[]);
    match u16_at(datagram, 4) {
        Some(NLMSG_ERROR) => Err(i32_at(body, 0).unwrap_or(0).saturating_neg()),
        Some(RTM_NEWROUTE) => {
            let source = attribute(body.get(12..).unwrap_or(&[]), RTA_PREFSRC);
            Ok(source.and_then(|bytes| match bytes.len() {
                4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
                _ => None,
            }))
        }
        _ => Ok(None),
    }
}

/// The messages in one datagram.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// See [`messages`].
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl Iterator for Messages<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let length = usize::try_from(u32_at(self.rest, 0)?).ok()?;
        let kind = u16_at(self.rest, 4)?;
        let body = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or(&[]);
        Some(match kind {
            NLMSG_DONE => Message::Done(i32_at(body, 0).unwrap_or(0)),
            NLMSG_ERROR => Message::Error(i32_at(body, 0).unwrap_or(0).saturating_neg()),
            TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => {
                parse_socket(body).map_or(Message::Other, Message::Socket)
            }
            _ => Message::Other,
        })
    }
}

/// `struct inet_diag_msg` and its attributes.
fn parse_socket(body: &[u8]) -> Option<Socket> {
    let family = *body.first()?;
    // The kernel lists idle bound sockets under a pseudo-state, and then says "closed".
    let state = match TcpState::from_number(*body.get(1)?)? {
        TcpState::Close => TcpState::BoundInactive,
        state => state,
    };
    let address = |at: usize| -> Option<IpAddr> {
        match family {
            2 => {
                let bytes: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(bytes)))
            }
            10 => {
                let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
                Some(unmapped(IpAddr::V6(Ipv6Addr::from(bytes))))
            }
            _ => None,
        }
    };
    let cookie = u64::from(u32_at(body, 44)?) | (u64::from(u32_at(body, 48)?) << 32);
    Some(Socket {
        state,
        local: SocketAddr::new(address(8)?, u16_be_at(body, 4)?),
        remote: SocketAddr::new(address(24)?, u16_be_at(body, 6)?),
        interface: u32_at(body, 40)?,
        cookie,
        expires_ms: u32_at(body, 52)?,
        uid: u32_at(body, 64)?,
        inode: u32_at(body, 68)?,
        timestamps: attribute(body.get(72..)?, INET_DIAG_INFO)
            .and_then(|info| info.get(TCP_INFO_OPTIONS))
            .map(|options| options & 1 != 0),
    })
}

/// The payload of the first attribute of that kind.
fn attribute(mut rest: &[u8], kind: u16) -> Option<&[u8]> {
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let payload = rest.get(4..length)?;
        if u16_at(rest, 2)? == kind {
            return Some(payload);
        }
        rest = rest.get(aligned(length)..)?;
    }
    None
}

/// IPv4-mapped addresses as IPv4, everything else as it is.
pub fn unmapped(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, IpAddr::V4),
        IpAddr::V4(_) => addr,
    }
}

/// The filter program. Each step jumps past the end (a refusal) when it does not hold.
fn bytecode(filter: Filter) -> Vec<u8> {
    let mut steps: Vec<Vec<u8>> = Vec::new();
    if let Some((low, high)) = filter.local_ports {
        steps.push(port_step(BYTECODE_S_GE, low));
        steps.push(port_step(BYTECODE_S_LE, high));
    }
    steps.extend(filter.remote.map(remote_step));
    let mut left: usize = steps.iter().map(Vec::len).sum();
    let mut program = Vec::with_capacity(left);
    for mut step in steps {
        let length = step.len();
        let refuse = u16::try_from(left + 4).unwrap_or(u16::MAX);
        put(&mut step, 2, &refuse.to_ne_bytes());
        program.extend_from_slice(&step);
        left -= length;
    }
    program
}

/// Compares the own port. Where it goes when that does not hold is the caller's to fill in.
fn port_step(code: u8, port: u16) -> Vec<u8> {
    let mut step = vec![code, 8, 0, 0, 0, 0];
    step.extend_from_slice(&port.to_ne_bytes());
    step
}

/// Compares the other end. Where it goes when that does not hold is the caller's to fill in.
fn remote_step(remote: SocketAddr) -> Vec<u8> {
    let (family, bytes): (u8, Vec<u8>) = match remote.ip() {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    };
    let size = u8::try_from(12 + bytes.len()).unwrap_or(0);
    let mut step = vec![BYTECODE_D_COND, size, 0, 0];
    step.extend_from_slice(&[family, size.saturating_sub(12).saturating_mul(8), 0, 0]);
    step.extend_from_slice(&i32::from(remote.port()).to_ne_bytes());
    step.extend_from_slice(&bytes);
    step
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    out
}

fn address_bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = target.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u16_be_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
