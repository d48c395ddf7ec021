//! From what the user writes, or an error message names, to addresses: as the program in question
//! resolves it.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;

use crate::explain::Explanation;
use crate::names::Names;
use crate::netns::{self, Namespace};
use crate::proc;
use crate::sys;

use super::args::Args;
use super::{DoctorError, Program};

/// Addresses of `HOST:PORT`: an address as it is (`[fe80::1%eth0]:80` with its device), a name as
/// the processes of the namespace resolve it.
pub(super) fn resolve(
    program: &Program,
    args: &Args,
    name: &str,
) -> Result<Vec<SocketAddr>, DoctorError> {
    if let Ok(addr) = name.parse() {
        return Ok(vec![addr]);
    }
    let (host, port) = name.rsplit_once(':').unwrap_or((name, "0"));
    let port: u16 = port.parse().unwrap_or(0);
    let failed = |source| DoctorError::Resolve { name: host.to_owned(), source };
    if let Some(scoped) = scoped(&args.namespace, host, port) {
        return scoped.map(|addr| vec![addr]).map_err(failed);
    }
    let all = |found: Vec<IpAddr>| found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if let Namespace::Pid(pid) = args.namespace
        && !shares_our_files(pid)
    {
        let names = Names::of_process(pid).map_err(failed)?;
        let found = names.resolve(&args.namespace, host).map_err(failed)?;
        if found.is_empty() {
            return Err(failed(io::Error::new(
                io::ErrorKind::NotFound,
                "the process's /etc/hosts and name servers do not know it",
            )));
        }
        return Ok(all(found));
    }
    let found = proc::hosts(&hosts(&args.root, &args.namespace), host);
    if !found.is_empty() {
        return Ok(all(found));
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
    }
    let Some(resolve) = program.resolve else {
        return Err(DoctorError::NoResolver { name: host.to_owned() });
    };
    resolve(host, port).map_err(failed)
}

/// The hosts file in force: `ip netns exec` gives programs the one of the namespace.
fn hosts(root: &Path, namespace: &Namespace) -> String {
    if let Namespace::Named(name) = namespace
        && let Ok(text) = std::fs::read_to_string(Path::new("/etc/netns").join(name).join("hosts"))
    {
        return text;
    }
    std::fs::read_to_string(root.join("etc/hosts")).unwrap_or_default()
}

/// True when a process sees the files that we see: then the system's resolver answers for both.
fn shares_our_files(pid: u32) -> bool {
    let mounts = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let root = |who: &str| std::fs::read_link(format!("/proc/{who}/root")).ok();
    let who = pid.to_string();
    mounts(&who).is_some() && mounts(&who) == mounts("self") && root(&who) == root("self")
}

/// `[fe80::1%eth0]` or `fe80::1%2`: an address with its device, which is one of the namespace in
/// question; nothing when it is not of that shape.
fn scoped(namespace: &Namespace, host: &str, port: u16) -> Option<io::Result<SocketAddr>> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let (ip, device) = inner.split_once('%')?;
    let ip = ip.parse().ok()?;
    let index = match device.parse::<u32>() {
        Ok(index) => Ok(index),
        Err(_) => netns::enter(namespace, sys::devices)
            .map_err(io::Error::other)
            .and_then(|devices| devices)
            .and_then(|devices| {
                devices.iter().find(|d| d.name == device).map(|d| d.index).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("there is no device `{device}` (see `ip link`)"),
                    )
                })
            }),
    };
    Some(index.map(|index| SocketAddrV6::new(ip, port, 0, index).into()))
}

/// The local port that a message says could not be bound: only where it is in use, by somebody.
pub(super) fn port_in_use(text: &str, explanation: &Explanation) -> Option<u16> {
    if explanation.errno.as_deref() != Some("EADDRINUSE")
        || explanation.call.as_deref() != Some("bind")
    {
        return None;
    }
    let named = explanation.address.as_deref().and_then(|address| address.rsplit_once(':'));
    let port = |digits: &str| digits.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(found) = named.and_then(|(_, digits)| port(digits)) {
        return Some(found);
    }
    // `listen tcp :10254: bind: ..`, `:::8080`, `port 8080`, `('0.0.0.0', 8080)`.
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "\"'`,;()<>{}|=".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let after_colon = words.iter().find_map(|word| {
        let word = word.trim_end_matches([':', '.', ']']);
        let (host, digits) = word.rsplit_once(':')?;
        let address = host.is_empty()
            || host == "*"
            || host.contains("::")
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost");
        port(digits).filter(|_| address)
    });
    let after_word = words
        .windows(2)
        .find(|two| matches!(two, [word, _] if word.to_lowercase().ends_with("port")))
        .and_then(|two| port(two.get(1)?.trim_end_matches([':', '.'])));
    let after_address = words
        .windows(2)
        .find(|two| matches!(two, [ip, _] if ip.parse::<IpAddr>().is_ok()))
        .and_then(|two| port(two.get(1)?));
    after_colon.or(after_word).or(after_address)
}
