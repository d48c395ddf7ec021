//! Names as a process in a container resolves them: `/etc/hosts`, `/etc/nsswitch.conf` and
//! `/etc/resolv.conf` below its root directory, and the name servers of its network namespace.
//!
//! The system's resolver is of no use there: it reads the files of the caller, and would load
//! modules of the container into a program that may run as root. Files are read without following a
//! link out of the container. This is the one part of the crate that sends packets: a question for
//! each family to the name servers, and only where `--pid` is asked about a name that is not in the
//! hosts file.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::netns::{self, Namespace};
use crate::{proc, sys};

/// How much of one file is read.
const MAX_FILE: u64 = 1024 * 1024;
/// As in glibc.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 6;
/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const PORT: u16 = 53;

/// What a process has to resolve names with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Its `/etc/hosts`.
    pub hosts: String,
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Suffixes to try.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is first.
    pub ndots: usize,
    /// In which order: `files`, `dns`; other services are left out.
    pub order: Vec<Service>,
}

/// A source of names in `nsswitch.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The hosts file.
    Files,
    /// Name servers.
    Dns,
}

impl Names {
    /// Those of a process: fails where its root directory is closed to us.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        let text = |name: &str| -> io::Result<String> {
            let file = match sys::open_in_root(&root, name) {
                // No such file is an answer: the container has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound && root.exists() => {
                    return Ok(String::new());
                }
                other => other?,
            };
            if !file.metadata()?.is_file() {
                return Ok(String::new());
            }
            let mut bytes = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self::parse(
            text("/etc/hosts")?,
            &text("/etc/resolv.conf")?,
            &text("/etc/nsswitch.conf")?,
        ))
    }

    /// The same from the texts of the three files.
    pub fn parse(hosts: String, resolv: &str, nsswitch: &str) -> Self {
        let mut names = Self { hosts, ndots: 1, ..Self::default() };
        for line in resolv.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if names.servers.len() < MAX_SERVERS => {
                    names.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    names.search = words.take(MAX_SEARCH).map(str::to_owned).collect();
                }
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    names.ndots = ndots.unwrap_or(names.ndots);
                }
                _ => {}
            }
        }
        if names.servers.is_empty() {
            names.servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let line = nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:"));
        names.order = match line {
            None => vec![Service::Files, Service::Dns],
            Some(line) => line
                .split('#')
                .next()
                .unwrap_or("")
                .split_ascii_whitespace()
                .filter_map(|word| match word {
                    "files" => Some(Service::Files),
                    // What asks a local daemon ends at the name servers as well.
                    "dns" | "resolve" => Some(Service::Dns),
                    _ => None,
                })
                .collect(),
        };
        names
    }

    /// Resolves a name in a namespace. An empty list: nobody knows it.
    pub fn resolve(&self, namespace: &Namespace, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut last = None;
        for service in &self.order {
            match service {
                Service::Files => {
                    let found = proc::hosts(&self.hosts, name);
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                // RFC 6761: no name server is asked for this name.
                Service::Dns if name.eq_ignore_ascii_case("localhost") => {
                    return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
                }
                Service::Dns => match netns::enter(namespace, || self.ask_servers(name)) {
                    Ok(Ok(found)) if found.is_empty() => {}
                    Ok(Ok(found)) => return Ok(found),
                    Ok(Err(error)) => last = Some(error),
                    Err(error) => last = Some(io::Error::other(error)),
                },
            }
        }
        last.map_or(Ok(Vec::new()), Err)
    }

    /// The names to ask for, in order: as it is, and with each suffix.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut all: Vec<String> = self
            .search
            .iter()
            .map(|suffix| format!("{name}.{}", suffix.trim_matches('.')))
            .collect();
        let dots = name.chars().filter(|c| *c == '.').count();
        let at = if dots >= self.ndots { 0 } else { all.len() };
        all.insert(at, name.to_owned());
        all
    }

    fn ask_servers(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server is configured");
        for candidate in self.candidates(name) {
            for server in &self.servers {
                let server = SocketAddr::new(*server, PORT);
                match (ask(server, &candidate, TYPE_A), ask(server, &candidate, TYPE_AAAA)) {
                    (Err(error), Err(_)) => last = error,
                    (v4, v6) => {
                        let mut found = v4.unwrap_or_default();
                        found.extend(v6.unwrap_or_default());
                        if !found.is_empty() {
                            return Ok(found);
                        }
                        last = io::Error::new(io::ErrorKind::NotFound, "no such name");
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // The port is random and the answer must repeat the question: enough for a diagnosis.
    let id = socket.local_addr()?.port() ^ kind.rotate_left(9);
    let question = question(id, name, kind)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a host name"))?;
    socket.send_to(&question, server)?;
    let mut buffer = [0u8; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let answer = buffer.get(..length).unwrap_or(&[]);
        if from == server && answer.get(..2) == Some(&id.to_be_bytes()[..]) {
            return answers(answer, kind)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a DNS answer"));
        }
    }
}

/// A question (RFC 1035, section 4); nothing when the name does not fit.
fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 18);
    out.extend_from_slice(&id.to_be_bytes());
    // Recursion desired, one question.
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    Some(out)
}

/// The addresses of an answer, of one kind; nothing when it is none or says that it failed. A name
/// that does not exist has no addresses.
pub fn answers(bytes: &[u8], kind: u16) -> Option<Vec<IpAddr>> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let flags = word(2)?;
    // An answer; no error, or "no such name".
    if flags & 0x8000 == 0 || !matches!(flags & 0xf, 0 | 3) {
        return None;
    }
    let (questions, records) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(bytes, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..records {
        at = after_name(bytes, at)?;
        let (this, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = bytes.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if this != kind {
            continue;
        }
        match kind {
            TYPE_A => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            _ => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
        }
    }
    Some(found)
}

/// Where a name ends; a pointer ends it.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += usize::from(length) + 1,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}
