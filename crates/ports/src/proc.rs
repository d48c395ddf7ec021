//! Parsers for the text files under `/proc`.
//!
//! Pure: text in, values out. A line that does not parse is skipped, because a new kernel may add
//! some; a file that is not what it should be gives an empty result, never a panic.
//! Source: `fs/proc/`, `net/ipv4/tcp_ipv4.c`, `net/ipv6/addrconf.c`, `net/ipv4/proc.c`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::diag::{Socket, TcpState, unmapped};
use crate::ranges::PortRange;

/// One line of `/proc/net/tcp` or `/proc/net/tcp6`. `tick_ms` is the length of a timer tick.
pub fn tcp_line(line: &str, tick_ms: u32) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = TcpState::from_number(u8::from_str_radix(fields.next()?, 16).ok()?)?;
    let _queues = fields.next()?;
    let (_, timer) = fields.next()?.split_once(':')?;
    let ticks = u32::from_str_radix(timer, 16).ok()?;
    let _retransmits = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let _timeout = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    Some(Socket {
        state,
        local,
        remote,
        interface: 0,
        cookie: 0,
        expires_ms: ticks.saturating_mul(tick_ms),
        uid,
        inode,
        timestamps: None,
    })
}

/// `0100007F:1F90`, each word of the address in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(addr.get(at..at + 8)?, 16).ok();
    let ip = match addr.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0u8; 16];
            for (index, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            unmapped(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// An address in `/proc/net/if_inet6`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ipv6Address {
    /// The address.
    pub address: Ipv6Addr,
    /// The device that has it.
    pub interface: String,
    /// `IFA_F_TENTATIVE`: still being checked for duplicates, not usable yet.
    pub tentative: bool,
    /// Scope: true for an address that reaches beyond the link.
    pub global: bool,
}

/// `/proc/net/if_inet6`; empty when IPv6 has no address (or is switched off).
pub fn if_inet6(text: &str) -> Vec<Ipv6Address> {
    const TENTATIVE: u32 = 0x40;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let address = u128::from_str_radix(fields.next()?, 16).ok()?;
            let _index = fields.next()?;
            let _prefix = fields.next()?;
            let scope = u32::from_str_radix(fields.next()?, 16).ok()?;
            let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
            Some(Ipv6Address {
                address: Ipv6Addr::from(address),
                interface: fields.next()?.to_owned(),
                tentative: flags & TENTATIVE != 0,
                global: scope == 0,
            })
        })
        .collect()
}

/// `/proc/net/sockstat`: `TCP: inuse 5 orphan 0 tw 3`, as `("TCP", "tw") -> 3`.
pub fn sockstat(text: &str) -> BTreeMap<(String, String), u64> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let mut fields = rest.split_ascii_whitespace();
        while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
            if let Ok(value) = value.parse() {
                out.insert((name.to_owned(), key.to_owned()), value);
            }
        }
    }
    out
}

/// `/proc/net/netstat` and `/proc/net/snmp`: pairs of lines, names first, values second.
pub fn counters(text: &str) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in
            names.split_ascii_whitespace().zip(values.split_ascii_whitespace()).skip(1)
        {
            if let Ok(value) = value.parse() {
                out.insert(name.to_owned(), value);
            }
        }
    }
    out
}

/// `ip_local_port_range`: two numbers. A reversed range is none.
pub fn port_range(text: &str) -> Option<PortRange> {
    let mut fields = text.split_ascii_whitespace();
    let range = PortRange { low: fields.next()?.parse().ok()?, high: fields.next()?.parse().ok()? };
    (!range.is_empty()).then_some(range)
}

/// A file that holds one number.
pub fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

/// The soft limit of `Max open files` in `/proc/PID/limits`; `u64::MAX` for unlimited.
pub fn open_files_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The inode in the target of `/proc/PID/fd/N`: `socket:[12345]`.
pub fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The addresses a hosts file gives a name, in the file's order.
pub fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("");
        let mut fields = line.split_ascii_whitespace();
        let Some(Ok(address)) = fields.next().map(str::parse::<IpAddr>) else { continue };
        if fields.any(|alias| alias.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Major and minor of a kernel release such as `6.18.44-generic`.
pub fn kernel_version(text: &str) -> Option<(u16, u16)> {
    let mut parts = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `/proc/sys/fs/file-nr`: allocated and allowed files of the host.
pub fn file_nr(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    let used = fields.next()?.parse().ok()?;
    let _unused = fields.next()?;
    Some((used, fields.next()?.parse().ok()?))
}
