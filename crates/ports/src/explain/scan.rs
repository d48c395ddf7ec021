//! The destination in a line that no known shape fits.
//!
//! A wrong destination is worse than none: it would be asked about, and found healthy. So of
//! several candidates one is taken only where the words before it say that it is the destination.

use super::template::{host_port, url};

/// Words before an address that is not the failing call's destination.
const ASIDE: &[&str] = &[
    "referrer",
    "referer",
    "client",
    "request",
    "local",
    "from",
    "source",
    "src",
    "laddr",
    "saddr",
    "origin",
    "for",
    "via",
    "remote_ip",
    "remote_addr",
    "client_ip",
    "x-forwarded-for",
    "authority",
    "listening",
    "listener",
    "user",
];

/// The same where a colon follows: `host: "shop:8080"` is what a request asked for.
const ASIDE_LABELS: &[&str] = &["host:", "server:", "peer:", "url:", "uri:"];

/// Words before an address that is the destination.
const CUES: &[&str] = &[
    "to",
    "at",
    "connect",
    "connecting",
    "dial",
    "tcp",
    "tcp4",
    "tcp6",
    "upstream",
    "dst",
    "dest",
    "destination",
    "target",
    "reach",
    "daddr",
    "raddr",
    "against",
    "connection",
    "endpoint",
];

/// Endings of source files: `NioSocketImpl.java:588` is no host.
const FILES: &[&str] = &[
    "java", "py", "rb", "go", "js", "mjs", "cjs", "ts", "tsx", "c", "cc", "cpp", "cxx", "h", "hpp",
    "rs", "php", "pl", "pm", "ex", "exs", "erl", "hrl", "beam", "scala", "kt", "kts", "groovy",
    "clj", "cs", "fs", "vb", "lua", "sh", "tcl", "swift", "ml", "hs", "conf", "log", "cfg", "yaml",
    "yml", "json", "html", "inc", "sql", "toml", "ini", "jar", "so", "tt", "erb", "rake",
];

/// Words before a colon and a number that are no hosts.
const NO_HOSTS: &[&str] = &[
    "errno", "code", "error", "err", "line", "pid", "status", "level", "port", "tcp", "udp", "id",
    "tid", "thread", "took", "ms", "size", "count", "retry", "attempt", "exit", "severity", "info",
    "warn", "debug", "crit", "fatal", "eof", "seq", "ts", "time", "timeout", "duration", "elapsed",
];

/// The destination that other lines tell, with a word that says so (`cannot reach orders at
/// 10.0.0.2:8443`); nothing where they tell of several.
pub(super) fn destination_told(around: &str) -> Option<String> {
    let mut told: Vec<String> = around
        .lines()
        .flat_map(candidates)
        .filter(|candidate| candidate.cued)
        .map(|candidate| candidate.address)
        .collect();
    told.sort_unstable();
    told.dedup();
    match told.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

#[derive(Debug)]
struct Candidate {
    address: String,
    cued: bool,
}

/// The destination that a line names; nothing where there is none or it is not certain.
pub(super) fn destination(line: &str) -> Option<String> {
    let found = candidates(line);
    let mut distinct: Vec<&str> = found.iter().map(|c| c.address.as_str()).collect();
    distinct.sort_unstable();
    distinct.dedup();
    if let [one] = distinct.as_slice() {
        return Some((*one).to_owned());
    }
    let mut cued: Vec<&str> = found.iter().filter(|c| c.cued).map(|c| c.address.as_str()).collect();
    cued.dedup();
    match cued.as_slice() {
        [one] => Some((*one).to_owned()),
        _ => None,
    }
}

fn candidates(line: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut before = String::new();
    let split = |c: char| c.is_whitespace() || "\"'`,;()<>|={}".contains(c);
    for token in line.split(split).filter(|token| !token.is_empty()) {
        let pair = pair(token);
        let label = before.to_ascii_lowercase();
        let word = label.trim_end_matches([':', '.']);
        let aside = ASIDE.contains(&word) || ASIDE_LABELS.contains(&label.as_str());
        if let Some(address) = pair.filter(|_| !aside) {
            found.push(Candidate { address, cued: CUES.contains(&word) });
        }
        before = token.to_owned();
    }
    found
}

/// The address and port that a token is.
fn pair(token: &str) -> Option<String> {
    // `a->b` names the source first.
    let token = token.rsplit("->").next().unwrap_or(token);
    let token = token.trim_end_matches(['.', ':', '!', '?', '\\']);
    if token.contains("://") {
        // `[tcp://10.0.0.2:6379]`.
        let bare = token.strip_prefix('[').map(|rest| rest.strip_suffix(']').unwrap_or(rest));
        let token = bare.unwrap_or(token);
        let found = url(token)?;
        return found.destination(0);
    }
    // Java writes `name/10.0.0.2:80`.
    for piece in token.rsplit('/') {
        let piece = piece.rsplit('@').next().unwrap_or(piece);
        if let Some(found) = host_port(piece)
            && let Some(host) = &found.host
            && is_host(host)
        {
            return found.destination(0);
        }
    }
    None
}

fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() || host.contains(':') {
        return true;
    }
    let lower = host.to_ascii_lowercase();
    let last = lower.rsplit('.').next().unwrap_or("");
    let file = lower.contains('.') && FILES.contains(&last);
    let letters = lower.bytes().any(|b| b.is_ascii_lowercase());
    letters && lower.len() > 2 && !file && !NO_HOSTS.contains(&lower.as_str())
}
