//! What an error message means: which call, which errno, which destination, and which check
//! decides what it really was.
//!
//! Pure text matching over the messages of the common language runtimes and servers. It never
//! fails; what it does not know it says.

use serde::{Deserialize, Serialize};

/// How much of a message is looked at.
const MAX_TEXT: usize = 16 * 1024;

/// What a message means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The error's name, such as `EADDRNOTAVAIL`; nothing when none was recognised.
    pub errno: Option<String>,
    /// The call that failed: `connect`, `bind`, `socket`, `send`; nothing when the text leaves it
    /// open.
    pub call: Option<String>,
    /// The language or program whose wording it is.
    pub runtime: Option<String>,
    /// The address it names, as `host:port`: a destination, or for `bind` an own one.
    pub address: Option<String>,
    /// The same as a short sentence.
    pub says: String,
    /// What it means.
    pub means: String,
    /// What decides, in the order of likelihood.
    pub checks: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errno {
    AddrNotAvail,
    AddrInUse,
    Again,
    NetUnreach,
    HostUnreach,
    ManyFiles,
    TimedOut,
    Refused,
    NotPermitted,
    Reset,
}

/// Words in lower case, and the errno they stand for. The first match wins.
const WORDS: &[(&str, Errno)] = &[
    ("cannot assign requested address", Errno::AddrNotAvail),
    ("can't assign requested address", Errno::AddrNotAvail),
    ("cannot assign the requested address", Errno::AddrNotAvail),
    ("eaddrnotavail", Errno::AddrNotAvail),
    ("addrnotavail", Errno::AddrNotAvail),
    ("addressnotavailable", Errno::AddrNotAvail),
    ("address not available", Errno::AddrNotAvail),
    ("[errno 99]", Errno::AddrNotAvail),
    ("os error 99", Errno::AddrNotAvail),
    ("(99:", Errno::AddrNotAvail),
    ("exception (99)", Errno::AddrNotAvail),
    ("address already in use", Errno::AddrInUse),
    ("address in use", Errno::AddrInUse),
    ("eaddrinuse", Errno::AddrInUse),
    ("addrinuse", Errno::AddrInUse),
    ("[errno 98]", Errno::AddrInUse),
    ("os error 98", Errno::AddrInUse),
    ("(98:", Errno::AddrInUse),
    ("too many open files", Errno::ManyFiles),
    ("emfile", Errno::ManyFiles),
    ("enfile", Errno::ManyFiles),
    ("no file descriptors available", Errno::ManyFiles),
    ("network is unreachable", Errno::NetUnreach),
    ("network unreachable", Errno::NetUnreach),
    ("enetunreach", Errno::NetUnreach),
    ("no route to host", Errno::HostUnreach),
    ("host is unreachable", Errno::HostUnreach),
    ("ehostunreach", Errno::HostUnreach),
    ("connection timed out", Errno::TimedOut),
    ("connect timed out", Errno::TimedOut),
    ("operation timed out", Errno::TimedOut),
    ("i/o timeout", Errno::TimedOut),
    ("etimedout", Errno::TimedOut),
    ("timed out", Errno::TimedOut),
    ("connection refused", Errno::Refused),
    ("econnrefused", Errno::Refused),
    ("resource temporarily unavailable", Errno::Again),
    ("eagain", Errno::Again),
    ("os error 11)", Errno::Again),
    ("operation not permitted", Errno::NotPermitted),
    ("eperm", Errno::NotPermitted),
    ("connection reset", Errno::Reset),
    ("econnreset", Errno::Reset),
];

/// Words in lower case, and whose they are. The first match wins.
const RUNTIMES: &[(&str, &str)] = &[
    ("while connecting to upstream", "nginx"),
    ("[crit]", "nginx"),
    ("[emerg]", "nginx"),
    ("curl: (", "curl"),
    ("dial tcp", "Go"),
    ("dial udp", "Go"),
    ("listen tcp", "Go"),
    ("java.net.", "Java"),
    ("java.io.", "Java"),
    ("io.netty", "Java (Netty)"),
    ("errno::e", "Ruby"),
    ("[errno ", "Python"),
    ("urllib3", "Python"),
    ("oserror", "Python"),
    ("(os error ", "Rust"),
    ("system.net.", ".NET"),
    ("socketexception (", ".NET"),
    ("stream_socket_client", "PHP"),
    ("php ", "PHP"),
    ("connect eaddr", "Node"),
    ("connect e", "Node"),
    ("listen eaddr", "Node"),
    ("tcpconnectwrap", "Node"),
    ("upstream connect error", "Envoy"),
    ("haproxy", "HAProxy"),
    ("redis", "a Redis client"),
];

/// Words in lower case, and the call. The first match wins.
const CALLS: &[(&str, &str)] = &[
    ("connect: ", "connect"),
    ("connect()", "connect"),
    ("connect(", "connect"),
    ("connect eaddr", "connect"),
    ("bind failed", "bind"),
    ("bind()", "bind"),
    ("bind(", "bind"),
    ("bind: ", "bind"),
    ("bindexception", "bind"),
    ("listen eaddr", "bind"),
    ("listen tcp", "bind"),
    ("could not bind", "bind"),
    ("couldn't bind", "bind"),
    ("socket()", "socket"),
    ("socket: ", "socket"),
    ("sendto", "send"),
    ("write udp", "send"),
    ("connectexception", "connect"),
    ("failed to establish a new connection", "connect"),
    ("newconnectionerror", "connect"),
    ("failed to connect", "connect"),
    ("couldn't connect", "connect"),
    ("connect to", "connect"),
    ("connecting to", "connect"),
    ("dial ", "connect"),
    ("connect", "connect"),
    ("bind", "bind"),
];

/// Explains a message.
pub fn explain(text: &str) -> Explanation {
    let text: String = text.chars().take(MAX_TEXT).collect();
    let lower = text.to_lowercase();
    let find = |words: &[(&str, &'static str)]| {
        words.iter().find(|(word, _)| lower.contains(word)).map(|(_, value)| *value)
    };
    let errno = WORDS.iter().find(|(word, _)| lower.contains(word)).map(|(_, errno)| *errno);
    let call = find(CALLS);
    let (name, means, checks) = meaning(errno, call);
    let says = match (name, call) {
        (Some(name), Some(call)) => format!("{name} at {call}()"),
        (Some(name), None) => format!("{name}, at a call the message does not name"),
        (None, _) => "no error that this command knows".to_owned(),
    };
    Explanation {
        errno: name.map(str::to_owned),
        call: call.map(str::to_owned),
        runtime: find(RUNTIMES).map(str::to_owned),
        address: address(&text),
        says,
        means: means.to_owned(),
        checks: checks.iter().map(|check| (*check).to_owned()).collect(),
    }
}

type Meaning = (Option<&'static str>, &'static str, &'static [&'static str]);

fn meaning(errno: Option<Errno>, call: Option<&str>) -> Meaning {
    match (errno, call) {
        (Some(Errno::AddrNotAvail), Some("bind")) => (
            Some("EADDRNOTAVAIL"),
            "The source address is not one of this host (or not ready yet). Ports play no part.",
            &[
                "is the address configured? (--from ADDR decides)",
                "is it an IPv6 address still checked for duplicates? (--from ADDR)",
            ],
        ),
        (Some(Errno::AddrNotAvail), _) => (
            Some("EADDRNOTAVAIL"),
            "The kernel found no source address and port for this destination: mostly because all \
             ports toward it are taken, sometimes because there is no address at all.",
            &[
                "is there a port left toward that destination? (--to HOST:PORT decides)",
                "is the destination IPv6, and is there an IPv6 address here? (--to HOST:PORT)",
                "does the program bind to a source address first? (--from ADDR)",
            ],
        ),
        (Some(Errno::AddrInUse), Some("connect")) | (Some(Errno::AddrInUse), None) => (
            Some("EADDRINUSE"),
            "A port was asked for that somebody has: a second listener, or a client that binds \
             before it connects and found all ports bound.",
            &[
                "are the ports of the range bound explicitly? (finding explicit_bind)",
                "did a connection take a service's port? (finding listeners)",
            ],
        ),
        (Some(Errno::AddrInUse), _) => (
            Some("EADDRINUSE"),
            "The port is taken. For a service: another one listens there, or an outgoing \
             connection got its port from the range. For a client that binds to port 0: all ports \
             are bound.",
            &[
                "does the service's port lie in ip_local_port_range? (finding listeners)",
                "are the ports of the range bound explicitly? (finding explicit_bind)",
            ],
        ),
        (Some(Errno::Again), _) => (
            Some("EAGAIN"),
            "For UDP (name resolution, for instance): no port left in the range. For a Unix \
             socket: the listener's queue is full.",
            &["how many UDP sockets are there? (finding udp)"],
        ),
        (Some(Errno::NetUnreach), _) => (
            Some("ENETUNREACH"),
            "There is no route to the destination, or its source address was removed. Not ports.",
            &["is there a route? (--to HOST:PORT decides)"],
        ),
        (Some(Errno::HostUnreach), _) => (
            Some("EHOSTUNREACH"),
            "There is a route, and the destination (or a router) says it cannot be reached. Not \
             ports.",
            &["is the destination up, and does a firewall reject it?"],
        ),
        (Some(Errno::ManyFiles), _) => (
            Some("EMFILE"),
            "The process has no file descriptors left; each socket is one. Not ports, but often \
             the same leak.",
            &[
                "which process is near its limit? (finding fd_limit)",
                "in which state are its sockets? (finding leak)",
            ],
        ),
        (Some(Errno::TimedOut), _) => (
            Some("ETIMEDOUT"),
            "Packets were sent and nothing came back. Running out of ports looks different: it \
             fails at once. A full connection-tracking table or an exhausted NAT in between looks \
             like this.",
            &[
                "is the connection-tracking table full? (finding conntrack_full)",
                "do connects pile up in SYN_SENT? (finding leak)",
            ],
        ),
        (Some(Errno::Refused), _) => (
            Some("ECONNREFUSED"),
            "The destination answered that nobody listens there. Not ports.",
            &["is the service up, on that port, in that network namespace?"],
        ),
        (Some(Errno::NotPermitted), _) => (
            Some("EPERM"),
            "A firewall rule, a full connection-tracking table or a security module refused the \
             packet. Not ports.",
            &["is the connection-tracking table full? (finding conntrack_full)"],
        ),
        (Some(Errno::Reset), _) => (
            Some("ECONNRESET"),
            "The other side broke off an existing connection. Not ports.",
            &["what does the other side log?"],
        ),
        (None, _) => (
            None,
            "No known words in it. If it is about a connection, ask for its destination with --to \
             HOST:PORT.",
            &[],
        ),
    }
}

/// The destination a message names.
fn address(text: &str) -> Option<String> {
    if let Some(pair) = python_pool(text).or_else(|| words_host_port(text)) {
        return Some(pair);
    }
    // `a->b` names the source first.
    let text = text.replace("->", " ");
    let split = |c: char| c.is_whitespace() || "\"'`,;()<>{}|=".contains(c);
    let mut found: Vec<String> = Vec::new();
    let mut local = false;
    for token in text.split(split) {
        // Node: `connect EADDRNOTAVAIL 10.0.0.2:80 - Local (0.0.0.0:0)`.
        local |= token.eq_ignore_ascii_case("local") || token.eq_ignore_ascii_case("from");
        // Of a URL only the authority counts; Java writes `name/10.0.0.2:80`.
        let pieces: Vec<&str> = match token.split_once("//") {
            Some((_, rest)) => rest.split('/').take(1).collect(),
            None => token.split('/').collect(),
        };
        for piece in pieces {
            if !local && let Some(pair) = host_port(piece.trim_end_matches([':', '.'])) {
                found.push(pair);
            }
        }
    }
    // A source with port 0 is no destination; of several the last is where it was going.
    found.into_iter().rev().find(|pair| !pair.ends_with(":0"))
}

/// `host='10.0.0.2', port=8443`.
fn python_pool(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("host='")?;
    let (host, rest) = rest.split_once('\'')?;
    let (_, rest) = rest.split_once("port=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    joined(host, &digits)
}

/// `to 10.0.0.2 port 8443`.
fn words_host_port(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(3).find_map(|three| match three {
        [host, "port", port] => {
            let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
            joined(host, &digits)
        }
        _ => None,
    })
}

fn joined(host: &str, port: &str) -> Option<String> {
    let host = host.trim_matches(['[', ']']);
    let v6 = host.contains(':');
    host_port(&if v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// A token that is an address and a port, or a name and a port.
fn host_port(token: &str) -> Option<String> {
    if let Ok(addr) = token.parse::<std::net::SocketAddr>() {
        return Some(addr.to_string());
    }
    // Node and others write `::1:8080`, which is `[::1]:8080`; `java.net` writes `host/1.2.3.4:80`.
    let (host, port) = token.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if host.contains(':') {
        let addr: std::net::Ipv6Addr = host.parse().ok()?;
        return Some(format!("[{addr}]:{port}"));
    }
    let name = host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let letters = host.chars().any(|c| c.is_ascii_alphabetic());
    let clock = host.len() <= 2;
    (name && letters && !clock && port > 0).then(|| format!("{host}:{port}"))
}
