//! The PROXY protocol, versions 1 and 2: the client's address as a load balancer saw it.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Pure; who may send it
//! is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest version 1 header, CR LF included.
const MAX_V1: usize = 107;
/// The most bytes after a version 2 header that are taken: addresses and a few TLVs.
const MAX_V2: usize = 4096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A header of this many bytes; the source where it names one (`LOCAL`, `UNKNOWN` do not).
    Complete {
        /// Bytes of the header.
        len: usize,
        /// The client's address.
        source: Option<SocketAddr>,
    },
}

/// Why it is no such header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    /// Neither signature.
    #[error("the connection does not begin with a PROXY protocol header")]
    NoSignature,
    /// A version 1 line that is not one.
    #[error("malformed PROXY protocol version 1 line")]
    Line,
    /// A version 2 header that is not one.
    #[error("malformed PROXY protocol version 2 header")]
    Binary,
    /// Longer than is taken.
    #[error("the PROXY protocol header is too long")]
    TooLong,
}

/// Reads the header at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let n = bytes.len().min(V2_SIGNATURE.len());
    if bytes.get(..n) == V2_SIGNATURE.get(..n) && n > 0 {
        return if n < V2_SIGNATURE.len() { Ok(Parsed::Partial) } else { parse_v2(bytes) };
    }
    let n = bytes.len().min(6);
    if bytes.get(..n) == b"PROXY ".get(..n) {
        return parse_v1(bytes);
    }
    Err(ProxyProtocolError::NoSignature)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let window = bytes.get(..bytes.len().min(MAX_V1)).unwrap_or_default();
    let Some(lf) = memchr::memchr(b'\n', window) else {
        return if bytes.len() >= MAX_V1 {
            Err(ProxyProtocolError::TooLong)
        } else {
            Ok(Parsed::Partial)
        };
    };
    let line = window.get(..lf).and_then(|l| l.strip_suffix(b"\r")).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| ProxyProtocolError::Line)?;
    let mut words = line.split(' ').skip(1);
    let len = lf + 1;
    let family = words.next().ok_or(ProxyProtocolError::Line)?;
    if family == "UNKNOWN" {
        return Ok(Parsed::Complete { len, source: None });
    }
    let (source, destination) = (words.next(), words.next());
    let (port, destination_port) = (words.next(), words.next());
    if words.next().is_some() {
        return Err(ProxyProtocolError::Line);
    }
    let ip = |text: Option<&str>| -> Option<IpAddr> {
        let text = text?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let number = |text: Option<&str>| -> Option<u16> {
        text.filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    match (ip(source), ip(destination), number(port), number(destination_port)) {
        (Some(ip), Some(_), Some(port), Some(_)) => {
            Ok(Parsed::Complete { len, source: Some(SocketAddr::new(ip, port)) })
        }
        _ => Err(ProxyProtocolError::Line),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let Some([version_command, family, high, low, body @ ..]) = bytes.get(V2_SIGNATURE.len()..)
    else {
        return Ok(Parsed::Partial);
    };
    if version_command >> 4 != 2 {
        return Err(ProxyProtocolError::Binary);
    }
    let body_len = usize::from(u16::from_be_bytes([*high, *low]));
    if body_len > MAX_V2 {
        return Err(ProxyProtocolError::TooLong);
    }
    let Some(body) = body.get(..body_len) else { return Ok(Parsed::Partial) };
    let len = V2_SIGNATURE.len() + 4 + body_len;
    let source = match version_command & 15 {
        0 => None,
        1 => v2_source(*family, body)?,
        _ => return Err(ProxyProtocolError::Binary),
    };
    Ok(Parsed::Complete { len, source })
}

fn v2_source(family: u8, body: &[u8]) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let port = |at: usize| -> Option<u16> {
        let pair: [u8; 2] = body.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(pair))
    };
    let source = match family >> 4 {
        1 => body
            .get(..4)
            .and_then(|ip| <[u8; 4]>::try_from(ip).ok())
            .zip(port(8).zip(port(10)))
            .map(|(ip, (port, _))| SocketAddr::new(IpAddr::from(ip), port)),
        2 => body
            .get(..16)
            .and_then(|ip| <[u8; 16]>::try_from(ip).ok())
            .zip(port(32).zip(port(34)))
            .map(|(ip, (port, _))| SocketAddr::new(IpAddr::from(ip), port)),
        // Unspecified and Unix sockets have no address of use here.
        0 | 3 => return Ok(None),
        _ => None,
    };
    source.map(Some).ok_or(ProxyProtocolError::Binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn lines() {
        use ProxyProtocolError as E;
        let complete = |len, source| Ok(Parsed::Complete { len, source });
        for (line, parsed) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 4 80\r\nGET", complete(37, source("192.0.2.1:4"))),
            ("PROXY TCP6 2001:db8::1 ::1 4 80\r\n", complete(33, source("[2001:db8::1]:4"))),
            ("PROXY UNKNOWN\r\n", complete(15, None)),
            ("PROXY UNKNOWN whatever follows\r\n", complete(32, None)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 4 80", Ok(Parsed::Partial)),
            ("PRO", Ok(Parsed::Partial)),
            ("", Ok(Parsed::Partial)),
            ("GET / HTTP/1.1\r\n", Err(E::NoSignature)),
            ("PROXY TCP4 ::1 ::1 4 80\r\n", Err(E::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 4 80 9\r\n", Err(E::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +4 80\r\n", Err(E::Line)),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 4 70000\r\n", Err(E::Line)),
            ("PROXY \n", Err(E::Line)),
        ] {
            assert_eq!(parse(line.as_bytes()), parsed, "{line:?}");
        }
        assert_eq!(parse(format!("PROXY {}", "a".repeat(200)).as_bytes()), Err(E::TooLong));
    }

    #[test]
    fn binary() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let mut bytes = V2_SIGNATURE.to_vec();
            bytes.extend([0x20 | command, family]);
            bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(body);
            bytes
        };
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0, 4, 0, 80];
        let bytes = header(1, 0x11, &v4);
        assert_eq!(parse(&bytes), Ok(Parsed::Complete { len: 28, source: source("192.0.2.1:4") }));
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]), Ok(Parsed::Partial), "{n} bytes");
        }
        assert_eq!(parse(&header(0, 0, &[])), Ok(Parsed::Complete { len: 16, source: None }));
        assert_eq!(parse(&header(1, 0x11, &v4[..8])), Err(ProxyProtocolError::Binary));
        assert_eq!(parse(&header(5, 0x11, &v4)), Err(ProxyProtocolError::Binary));
        assert_eq!(parse(&header(1, 0x11, &[0; 5000])), Err(ProxyProtocolError::TooLong));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 9;
        let parsed = parse(&header(1, 0x21, &v6));
        assert_eq!(parsed, Ok(Parsed::Complete { len: 52, source: source("[::1]:9") }));
    }
}
