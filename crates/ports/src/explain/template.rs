//! The small pattern language of the table of shapes.
//!
//! A pattern is literal text with places in braces. Literals match without regard to ASCII case;
//! a space matches any run of white space. The places:
//!
//! | place | matches |
//! |---|---|
//! | `{at}` | `host:port`, `[v6]:port`, or `v6:port`, where the last colon separates |
//! | `{host}` | a name or an address, with or without brackets |
//! | `{ip}` | an address, with or without brackets |
//! | `{port}` | a port from 0 to 65535 |
//! | `{url}` | `scheme://[user@]host[:port]`; without a port the scheme's |
//! | `{erl}` | an address as Erlang writes it: `{10,0,0,2}` |
//! | `{code}` | an error's name in capitals, such as `EADDRNOTAVAIL` |
//! | `{word}` | a run without white space, at least one character |
//! | `{..}` | anything in the same line, as little as possible |
//! | `{...}` | anything, lines included, as little as possible |
//! | `{(}`, `{)}` | the braces themselves |
//!
//! Work is bounded: a place tries at most [`MAX_SKIP`] lengths, and a match at most [`MAX_STEPS`]
//! steps.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The longest text that `{..}` and `{...}` stand for, in bytes.
const MAX_SKIP: usize = 2_000;
/// The longest host name (RFC 1035, 2.3.4), with room for a zone.
const MAX_HOST: usize = 300;
/// How many attempts one search may take.
const MAX_STEPS: u32 = 20_000;

/// Who a message is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
}

impl Found {
    /// As `host:port`; with `default` where no port was written.
    pub(super) fn address(&self, default: u16) -> Option<String> {
        let host = self.host.as_deref()?;
        let port = self.port.or((default > 0).then_some(default))?;
        joined(host, port)
    }

    /// The address of a destination, as `host:port`: port 0 is a source's.
    pub(super) fn destination(&self, default: u16) -> Option<String> {
        self.address(default).filter(|_| self.port != Some(0))
    }
}

/// The pieces of a pattern.
enum Piece<'p> {
    Literal(&'p str),
    Hole(&'p str),
}

fn pieces(pattern: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while let Some((literal, after)) = rest.split_once('{') {
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        match after.split_once('}') {
            Some(("(", tail)) => {
                pieces.push(Piece::Literal("{"));
                rest = tail;
            }
            Some((")", tail)) => {
                pieces.push(Piece::Literal("}"));
                rest = tail;
            }
            Some((place, tail)) => {
                pieces.push(Piece::Hole(place));
                rest = tail;
            }
            None => rest = "",
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    pieces
}

/// The first place in `text` where the pattern matches, and what it names.
pub(super) fn find(pattern: &str, text: &str) -> Option<Found> {
    find_before(pattern, text, usize::MAX)
}

/// The same for a match that begins before `limit`.
pub(super) fn find_before(pattern: &str, text: &str, limit: usize) -> Option<Found> {
    let pieces = pieces(pattern);
    let mut search = Search { text, steps: 0 };
    let mut at = 0;
    loop {
        // Most patterns begin with a literal: go from one occurrence to the next.
        if let Some(Piece::Literal(literal)) = pieces.first() {
            let word = literal.split(' ').next().unwrap_or(literal);
            at += position(text.get(at..)?, word)?;
        }
        if at >= limit {
            return None;
        }
        let mut found = Found::default();
        // A pattern that begins with a place begins where a word begins.
        let inside = text.as_bytes().get(at.wrapping_sub(1)).is_some_and(|b| is_host_byte(*b));
        let starts = !inside || matches!(pieces.first(), Some(Piece::Literal(_)));
        if starts && search.matches(&pieces, at, &mut found) {
            return Some(found);
        }
        at += text.get(at..)?.chars().next()?.len_utf8();
        if search.steps > MAX_STEPS {
            return None;
        }
    }
}

/// Where `word` is, without regard to ASCII case.
pub(super) fn position(text: &str, word: &str) -> Option<usize> {
    let (text, word) = (text.as_bytes(), word.as_bytes());
    if word.is_empty() {
        return Some(0);
    }
    text.windows(word.len()).position(|window| window.eq_ignore_ascii_case(word))
}

struct Search<'t> {
    text: &'t str,
    steps: u32,
}

impl Search<'_> {
    fn matches(&mut self, pieces: &[Piece<'_>], at: usize, found: &mut Found) -> bool {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return false;
        }
        let Some((piece, rest)) = pieces.split_first() else { return true };
        let text = self.text;
        let Some(here) = text.get(at..) else { return false };
        match piece {
            Piece::Literal(literal) => {
                after_literal(here, literal).is_some_and(|end| self.matches(rest, at + end, found))
            }
            Piece::Hole(".." | "...") => {
                let lines = matches!(piece, Piece::Hole("..."));
                let ends = here.char_indices().map(|(end, c)| (end, Some(c)));
                for (end, c) in ends.chain([(here.len(), None)]).take_while(|(e, _)| *e <= MAX_SKIP)
                {
                    if self.matches(rest, at + end, found) {
                        return true;
                    }
                    if c.is_none() || (c == Some('\n') && !lines) {
                        break;
                    }
                }
                false
            }
            Piece::Hole(place) => {
                // The longest run first, then shorter ones, as the rest of the pattern needs it.
                for end in ends(place, here) {
                    self.steps += 1;
                    if self.steps > MAX_STEPS {
                        return false;
                    }
                    let Some(token) = here.get(..end) else { continue };
                    let Some(read) = read(place, token) else { continue };
                    let before = found.clone();
                    found.host = read.host.or(found.host.take());
                    found.port = read.port.or(found.port.take());
                    if self.matches(rest, at + end, found) {
                        return true;
                    }
                    *found = before;
                }
                false
            }
        }
    }
}

/// The end of a literal at the start of `text`.
fn after_literal(text: &str, literal: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    for wanted in literal.bytes() {
        if wanted == b' ' {
            let spaces = bytes.get(at..)?.iter().take_while(|b| b.is_ascii_whitespace()).count();
            if spaces == 0 {
                return None;
            }
            at += spaces;
        } else {
            if !bytes.get(at)?.eq_ignore_ascii_case(&wanted) {
                return None;
            }
            at += 1;
        }
    }
    text.is_char_boundary(at).then_some(at)
}

/// Where a place may end, longest first.
fn ends(place: &str, text: &str) -> Vec<usize> {
    let run = |fits: fn(u8) -> bool| text.bytes().take(MAX_HOST).take_while(|b| fits(*b)).count();
    let longest = match place {
        "port" => run(|b| b.is_ascii_digit()),
        "code" => run(|b| b.is_ascii_uppercase() || b.is_ascii_digit()),
        "word" => text
            .char_indices()
            .take(MAX_HOST)
            .find(|(_, c)| c.is_whitespace())
            .map_or_else(|| text.len().min(MAX_HOST), |(end, _)| end),
        "url" => run(|b| !b.is_ascii_whitespace() && !b"\"'`<>,;()\\".contains(&b)),
        "erl" => run(|b| b.is_ascii_digit() || b"{},".contains(&b)),
        _ => run(is_host_byte),
    };
    (1..=longest).rev().filter(|end| text.is_char_boundary(*end)).collect()
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._-:%[]".contains(&b)
}

fn read(place: &str, token: &str) -> Option<Found> {
    match place {
        "port" => Some(Found { host: None, port: Some(token.parse().ok()?) }),
        "code" => (token.len() >= 4 && token.starts_with('E')).then(Found::default),
        "ip" => Some(Found { host: Some(address(token)?.to_string()), port: None }),
        "host" => Some(Found { host: Some(host(token)?), port: None }),
        "at" => host_port(token),
        "url" => url(token),
        "erl" => Some(Found { host: Some(erlang(token)?.to_string()), port: None }),
        _ => Some(Found::default()),
    }
}

/// An address, with or without brackets; a zone (`%eth0`) stays.
fn address(token: &str) -> Option<IpAddr> {
    let bare = token.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(token);
    bare.split('%').next()?.parse().ok()
}

/// A name or an address, without brackets.
pub(super) fn host(token: &str) -> Option<String> {
    let bare = token.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(token);
    if bare.contains(':') {
        let (v6, zone) = bare.split_once('%').map_or((bare, None), |(v6, zone)| (v6, Some(zone)));
        let v6: Ipv6Addr = v6.parse().ok()?;
        return Some(zone.map_or_else(|| v6.to_string(), |zone| format!("{v6}%{zone}")));
    }
    let name = bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let edges = bare.starts_with(['.', '-', '_']) || bare.ends_with(['.', '-']);
    (name && !edges && bare.bytes().any(|b| b.is_ascii_alphanumeric())).then(|| bare.to_owned())
}

/// `host:port`.
pub(super) fn host_port(token: &str) -> Option<Found> {
    let (left, right) = token.rsplit_once(':')?;
    let port = right.parse().ok()?;
    Some(Found { host: Some(host(left)?), port: Some(port) })
}

/// Where a URL leads; without a port the scheme's.
pub(super) fn url(token: &str) -> Option<Found> {
    let (scheme, rest) = token.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    if authority.is_empty() {
        return None;
    }
    let scheme = scheme.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '+')).next()?;
    if let Some(found) = host_port(authority).filter(|_| !authority.ends_with(']')) {
        return Some(found);
    }
    let port = default_port(scheme)?;
    Some(Found { host: Some(host(authority)?), port: Some(port) })
}

/// The port a scheme implies (IANA's registry, and what clients of these databases use).
fn default_port(scheme: &str) -> Option<u16> {
    let port = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => 80,
        "https" | "wss" | "grpcs" => 443,
        "ftp" => 21,
        "ssh" | "sftp" => 22,
        "git" => 9418,
        "ldap" => 389,
        "ldaps" => 636,
        "redis" | "rediss" => 6379,
        "mysql" | "mariadb" => 3306,
        "postgres" | "postgresql" => 5432,
        "mongodb" => 27_017,
        "amqp" => 5672,
        "amqps" => 5671,
        "mqtt" => 1883,
        "mqtts" => 8883,
        "nats" => 4222,
        "memcached" => 11_211,
        "rsync" => 873,
        "smtp" => 25,
        "bolt" | "neo4j" => 7687,
        "clickhouse" => 9000,
        _ => return None,
    };
    Some(port)
}

/// `{10,0,0,2}`, or eight numbers for IPv6.
fn erlang(token: &str) -> Option<IpAddr> {
    let inside = token.strip_prefix('{')?.strip_suffix('}')?;
    let parts: Vec<u16> =
        inside.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    if let Ok(four) = <[u16; 4]>::try_from(parts.clone()) {
        let mut octets = [0u8; 4];
        for (octet, part) in octets.iter_mut().zip(four) {
            *octet = part.try_into().ok()?;
        }
        return Some(IpAddr::from(octets));
    }
    <[u16; 8]>::try_from(parts).ok().map(IpAddr::from)
}

/// A host and a port as one text that `--to` takes.
pub(super) fn joined(host: &str, port: u16) -> Option<String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), port).to_string());
    }
    if host.contains(':') {
        return Some(format!("[{host}]:{port}"));
    }
    Some(format!("{host}:{port}"))
}
