//! Whom a chain of trusted proxies speaks for.
//!
//! Each proxy appends the address that it was connected from, so a list is true from its right end
//! up to the first address that is no trusted proxy's; all left of it is the caller's own word. So
//! it is read as bytes, from the right, as far as needed, and nothing further left can change
//! what is found: not other encodings, not a quote that is never closed.
//!
//! Pure.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use http::header::FORWARDED;

/// How a header lists addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Addresses with commas between them, as `X-Forwarded-For` has them.
    List,
    /// `for=` of each element (RFC 7239).
    Forwarded,
}

impl Syntax {
    /// The syntax of a header, by its name.
    pub fn of(header: &HeaderName) -> Syntax {
        if *header == FORWARDED { Syntax::Forwarded } else { Syntax::List }
    }
}

/// A hop that is needed and says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// Nothing between two commas, or no `for=`.
    #[error("an address in the forwarding header is missing")]
    Empty,
    /// A quote that is not closed, or one within an address.
    #[error("an address in the forwarding header is quoted wrongly")]
    Quoted,
    /// No address of either family.
    #[error("an address in the forwarding header cannot be read")]
    Unreadable,
}

/// The first address from the right that is no trusted proxy's, else the leftmost. None: there is
/// no such header, and the peer speaks for itself.
pub fn caller<'a>(
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    syntax: Syntax,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<IpAddr>, HopError> {
    let mut found = None;
    for line in lines.rev() {
        for hop in line.rsplit(|b| *b == b',') {
            let address = address(hop, syntax)?.to_canonical();
            found = Some(address);
            if !is_trusted(address) {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

fn address(hop: &[u8], syntax: Syntax) -> Result<IpAddr, HopError> {
    let hop = trimmed(hop);
    let hop = match syntax {
        Syntax::List => hop,
        Syntax::Forwarded => node(hop)?,
    };
    let text = unquoted(hop)?;
    if text.is_empty() {
        return Err(HopError::Empty);
    }
    let text = std::str::from_utf8(text).map_err(|_| HopError::Unreadable)?;
    read(text).ok_or(HopError::Unreadable)
}

/// The value of the one `for=` in an element of `Forwarded`.
fn node(element: &[u8]) -> Result<&[u8], HopError> {
    let mut found = None;
    for pair in element.split(|b| *b == b';') {
        let pair = trimmed(pair);
        let Some((name, value)) = pair.split_at_checked(4) else { continue };
        if name.eq_ignore_ascii_case(b"for=") && found.replace(value).is_some() {
            return Err(HopError::Unreadable);
        }
    }
    found.ok_or(HopError::Empty)
}

/// Without the quotes around it; a quote anywhere else is wrong. Commas end a hop before quotes
/// are looked at, so a quote never reaches into the next hop.
fn unquoted(hop: &[u8]) -> Result<&[u8], HopError> {
    let inner = match hop {
        [b'"', inner @ .., b'"'] => inner,
        _ => hop,
    };
    if inner.iter().any(|b| matches!(b, b'"' | b'\\')) {
        return Err(HopError::Quoted);
    }
    Ok(trimmed(inner))
}

/// An address, perhaps with a port, as proxies write it.
fn read(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(addr.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6)
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Trusted: 10.0.0.0/8 and fd00::/8.
    fn is_trusted(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
        }
    }

    fn check(lines: &[&[u8]], syntax: Syntax) -> String {
        match caller(lines.iter().copied(), syntax, is_trusted) {
            Ok(Some(ip)) => ip.to_string(),
            Ok(None) => "peer".to_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn lists() {
        for (lines, found) in [
            (&[][..], "peer"),
            (&[b"1.1.1.1".as_slice()], "1.1.1.1"),
            (&[b"6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (&[b"6.6.6.6, 1.1.1.1 ,10.0.0.1,\t10.0.0.2"], "1.1.1.1"),
            (&[b"6.6.6.6, 1.1.1.1", b"10.0.0.1"], "1.1.1.1"),
            (&[b"10.0.0.2,10.0.0.1"], "10.0.0.2"),
            (&[b"1.1.1.1:80"], "1.1.1.1"),
            (&[b"[2001:db8::1]:80"], "2001:db8::1"),
            (&[b"[2001:db8::1]"], "2001:db8::1"),
            (&[b"2001:db8::1"], "2001:db8::1"),
            (&[b"::ffff:1.1.1.1"], "1.1.1.1"),
            (&[b"1.1.1.1, ::ffff:10.0.0.1"], "1.1.1.1"),
            (&[b"\"1.1.1.1\""], "1.1.1.1"),
            (&[b"\"[2001:db8::1]:80\""], "2001:db8::1"),
            // What the caller wrote, left of what its proxy did.
            (&[b"\xff, 1.1.1.1"], "1.1.1.1"),
            (&[b"\", 1.1.1.1"], "1.1.1.1"),
            (&[b"\"6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (&[b"\"", b"1.1.1.1, 10.0.0.1"], "1.1.1.1"),
            // A needed hop that says nothing.
            (&[b""], "Empty"),
            (&[b"1.1.1.1,"], "Empty"),
            (&[b"1.1.1.1, \"\""], "Empty"),
            (&[b"1.1.1.1", b""], "Empty"),
            (&[b"1.1.1.1,,10.0.0.1"], "Empty"),
            (&[b"\xff"], "Unreadable"),
            (&[b"1.1.1.1, \xff, 10.0.0.1"], "Unreadable"),
            (&[b"unknown"], "Unreadable"),
            (&[b"1.1.1.256"], "Unreadable"),
            (&[b"01.1.1.1"], "Unreadable"),
            (&[b"1.1.1.1 10.0.0.1"], "Unreadable"),
            (&[b"[1.1.1.1]"], "Unreadable"),
            (&[b"fe80::1%eth0"], "Unreadable"),
            (&[b"\"1.1.1.1"], "Quoted"),
            (&[b"1.1.1.1\""], "Quoted"),
            (&[b"\"1.1.1.1, 10.0.0.1\""], "Quoted"),
            (&[b"\"1.1\\.1.1\""], "Quoted"),
        ] {
            assert_eq!(check(lines, Syntax::List), found, "{lines:?}");
        }
    }

    #[test]
    fn forwarded() {
        for (line, found) in [
            ("for=1.1.1.1", "1.1.1.1"),
            ("for=6.6.6.6, For=1.1.1.1;proto=https, proto=http; for=\"10.0.0.1:80\"", "1.1.1.1"),
            ("for=\"[2001:db8::1]:80\";by=10.0.0.1", "2001:db8::1"),
            ("for=\", for=1.1.1.1", "1.1.1.1"),
            ("proto=https", "Empty"),
            ("for=1.1.1.1, ", "Empty"),
            ("for=", "Empty"),
            ("for=_hidden", "Unreadable"),
            ("for=unknown", "Unreadable"),
            ("for=1.1.1.1;for=2.2.2.2", "Unreadable"),
            ("for=\"1.1.1.1", "Quoted"),
        ] {
            assert_eq!(check(&[line.as_bytes()], Syntax::Forwarded), found, "{line}");
        }
    }

    #[test]
    fn a_long_chain_is_read_to_its_end() {
        let line = format!("1.1.1.1{}", ", 10.0.0.1".repeat(3_000));
        assert_eq!(check(&[line.as_bytes()], Syntax::List), "1.1.1.1");
    }

    fn hop() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
            any::<[u8; 16]>().prop_map(|b| IpAddr::from(b).to_canonical()),
        ]
    }

    fn written(hop: IpAddr, form: u8) -> String {
        match (hop, form % 4) {
            (hop, 0) => hop.to_string(),
            (hop, 1) => SocketAddr::new(hop, 80).to_string(),
            (IpAddr::V6(hop), 2) => format!("[{hop}]"),
            (hop, _) => format!("\"{hop}\""),
        }
    }

    proptest! {
        /// Whatever a caller writes, and however its proxies append to it: the address is that of
        /// the last hop that no trusted proxy has, or the request is refused.
        #[test]
        fn the_address_is_never_a_trusted_proxys(
            junk in proptest::collection::vec(any::<u8>(), 0..40),
            chain in proptest::collection::vec((hop(), any::<u8>(), any::<bool>()), 1..6),
        ) {
            let mut lines = vec![junk];
            for (hop, form, new_line) in &chain {
                let text = written(*hop, *form);
                match lines.last_mut() {
                    Some(line) if !new_line => {
                        line.extend_from_slice(b", ");
                        line.extend_from_slice(text.as_bytes());
                    }
                    _ => lines.push(text.into_bytes()),
                }
            }
            let found = caller(lines.iter().map(Vec::as_slice), Syntax::List, is_trusted);
            let last = chain.iter().rev().map(|(hop, ..)| *hop).find(|hop| !is_trusted(*hop));
            match (last, found) {
                (Some(last), found) => prop_assert_eq!(found, Ok(Some(last))),
                // All that proxies wrote is trusted: only the caller's own word is left.
                (None, Ok(found)) => prop_assert!(found.is_some()),
                (None, Err(_)) => {}
            }
        }
    }
}
