//! What an error message means: which call, which errno, which destination, and which check
//! decides what it really was.
//!
//! Pure text matching: a table of shapes (`shapes`), one or more for each program, and for what
//! none of them fits a careful look at the failing line (`scan`). It never fails; what it does
//! not know it says.
//!
//! INVARIANT: a destination is that of the failing call, or none. A wrong one would be asked about
//! and found healthy.

mod catalog;
mod lines;
mod scan;
mod shapes;
mod template;
mod words;

use serde::{Deserialize, Serialize};

use self::lines::Window;
use self::shapes::Shape;
use self::template::Found;
use self::words::Errno;

/// How much of a message is looked at, in bytes.
pub const MAX_TEXT: usize = 1024 * 1024;

/// What a message means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The error's name, such as `EADDRNOTAVAIL`; nothing when none was recognized.
    pub errno: Option<String>,
    /// The call that failed: `connect`, `bind`, `socket`, `send`; nothing when the text leaves it
    /// open.
    pub call: Option<String>,
    /// The language or program whose wording it is.
    pub runtime: Option<String>,
    /// The address it names, as `host:port`: a destination, or for `bind` an own one (port 0 where
    /// it names none).
    pub address: Option<String>,
    /// The same as a short sentence.
    pub says: String,
    /// What it means.
    pub means: String,
    /// What decides, in the order of likelihood.
    pub checks: Vec<String>,
}

impl Explanation {
    /// Whether the error may be a want of ports: EADDRNOTAVAIL at any call, and EADDRINUSE where
    /// it is not a bind that failed (programs that bind before they connect report that).
    pub fn is_about_ports(&self) -> bool {
        match self.errno.as_deref() {
            Some("EADDRNOTAVAIL") => true,
            Some("EADDRINUSE") => self.call.as_deref().is_none_or(|call| call == "connect"),
            _ => false,
        }
    }

    /// Whether it is a `bind()` that failed.
    pub fn is_bind(&self) -> bool {
        self.call.as_deref() == Some("bind")
    }
}

/// Words in lower case, and whose they are. The first match wins.
const RUNTIMES: &[(&str, &str)] = &[
    ("caddy: ", "Go (Caddy)"),
    ("http.handlers.reverse_proxy", "Go (Caddy)"),
    ("while connecting to upstream", "nginx"),
    ("[crit]", "nginx"),
    ("[emerg]", "nginx"),
    ("nginx:", "nginx"),
    ("haproxy", "HAProxy"),
    ("upstream connect error", "Envoy"),
    ("envoy", "Envoy"),
    ("curl: (", "curl"),
    ("pgbouncer", "pgbouncer"),
    ("psql: ", "libpq"),
    ("sbuf_connect", "pgbouncer"),
    ("pq: ", "Go"),
    ("io.netty", "Java (Netty)"),
    ("stackexchange.redis", ".NET"),
    ("microsoft.data.", ".NET"),
    ("system.componentmodel.", ".NET"),
    ("network.socket.", "Haskell"),
    ("unix_error(", "OCaml"),
    ("varnish", "Varnish"),
    ("squid", "Squid"),
    ("kid1|", "Squid"),
    ("libceph: ", "Linux (Ceph)"),
    ("java.net.", "Java"),
    ("org.apache.h", "Java"),
    ("org.springframework", "Java"),
    ("feign.", "Java"),
    ("java.io.", "Java"),
    ("java.util.concurrent", "Java"),
    ("bindexception", "Java"),
    ("noroutetohostexception", "Java"),
    ("dial tcp", "Go"),
    ("dial udp", "Go"),
    ("listen tcp", "Go"),
    ("system.net.", ".NET"),
    ("socketexception (", ".NET"),
    ("errno::e", "Ruby"),
    ("connect(2) for", "Ruby"),
    ("aiohttp", "Python"),
    ("traceback (most recent call last)", "Python"),
    ("[errno ", "Python"),
    ("urllib3", "Python"),
    ("oserror", "Python"),
    ("(os error ", "Rust"),
    ("addrnotavailable", "Rust"),
    ("stream_socket_client", "PHP"),
    ("predis", "PHP"),
    ("guzzle", "PHP"),
    ("php ", "PHP"),
    ("sqlstate[", "PHP"),
    ("io::socket", "Perl"),
    ("tcpconnectwrap", "Node"),
    ("node:net", "Node"),
    ("eaddrnotavail}", "Erlang"),
    (":eaddrnotavail", "Erlang"),
    ("eaddrinuse}", "Erlang"),
    ("ncat: ", "Ncat"),
    ("nc: ", "netcat"),
    ("wget: ", "BusyBox"),
    ("telnet: ", "telnet"),
    ("ssh: ", "OpenSSH"),
    ("lua", "Lua"),
    ("bio_connect", "OpenSSL"),
    ("apr_socket_connect", "Apache httpd"),
    ("redis", "a Redis client"),
];

/// Words in lower case, and the call. The first match wins.
const CALLS: &[(&str, &str)] = &[
    ("bind failed", "bind"),
    ("bind()", "bind"),
    ("bind(", "bind"),
    ("bind: ", "bind"),
    ("bind eaddr", "bind"),
    ("listen eaddr", "bind"),
    ("listen tcp", "bind"),
    ("could not bind", "bind"),
    ("couldn't bind", "bind"),
    ("cannot bind", "bind"),
    ("can't bind", "bind"),
    ("unable to bind", "bind"),
    ("failed to bind", "bind"),
    ("failed to listen", "bind"),
    ("could not create server", "bind"),
    ("connect: ", "connect"),
    ("connect()", "connect"),
    ("connect(", "connect"),
    ("connect eaddr", "connect"),
    ("unable to connect", "connect"),
    ("socket()", "socket"),
    ("socket: ", "socket"),
    ("sendto", "send"),
    ("write udp", "send"),
    ("connectexception", "connect"),
    ("java.net.connectexception", "connect"),
    ("noroutetohostexception", "connect"),
    ("failed to establish a new connection", "connect"),
    ("newconnectionerror", "connect"),
    ("failed to connect", "connect"),
    ("couldn't connect", "connect"),
    ("connect to", "connect"),
    ("connecting to", "connect"),
    ("connection to", "connect"),
    ("dial ", "connect"),
    ("connector initialization", "bind"),
    ("no free ports", "connect"),
    ("sbuf_connect", "connect"),
    ("apr_socket_connect", "connect"),
    ("bio_connect", "connect"),
    ("tcpconnect", "connect"),
    ("connect", "connect"),
    ("listen", "bind"),
    ("bind", "bind"),
];

/// Explains a message: one line, or a log of up to [`MAX_TEXT`] bytes.
pub fn explain(text: &str) -> Explanation {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    let window = lines::window(text.get(..end.unwrap_or(0)).unwrap_or(""));
    let line = window.line.to_lowercase();
    let shape = shapes::first(shapes::LINE, &window.line)
        .or_else(|| shapes::nearest(shapes::AROUND, &window.around, &window.starts));
    let call = call(&window, &line, shape.as_ref().and_then(|(shape, _)| shape.call));
    let address = address(&window, call, shape.as_ref());
    let runtime = runtime(&window, &line, shape.as_ref().map(|(shape, _)| shape.program));
    let (name, means, checks) = meaning(window.errno, call);
    let says = match (name, call) {
        (Some(name), Some(call)) => format!("{name} at {call}()"),
        (Some(name), None) => format!("{name}, at a call the message does not name"),
        (None, _) => "no error that this command knows".to_owned(),
    };
    Explanation {
        errno: name.map(str::to_owned),
        call: call.map(str::to_owned),
        runtime: runtime.map(str::to_owned),
        address,
        says,
        means: means.to_owned(),
        checks: checks.iter().map(|check| (*check).to_owned()).collect(),
    }
}

/// The destination of the failing call; for `bind` the own address.
fn address(
    window: &Window,
    call: Option<&str>,
    shape: Option<&(&'static Shape, Found)>,
) -> Option<String> {
    if call == Some("bind") {
        // A line that names a bind may name its destination too, which is no own address.
        let own = shape.filter(|(shape, _)| shape.call == Some("bind"));
        let told = own.and_then(|(shape, found)| {
            // An own address needs no port.
            found.address(shape.port).or_else(|| template::joined(found.host.as_deref()?, 0))
        });
        return told.or_else(|| scan::destination(&window.line).filter(|_| shape.is_none()));
    }
    shape
        .and_then(|(shape, found)| found.destination(shape.port))
        .or_else(|| told_beside(window, shape?.0.program))
        .or_else(|| scan::destination(&window.line))
        .or_else(|| scan::destination_told(&window.around))
}

/// The destination that the same program tells in a line of its own.
fn told_beside(window: &Window, program: &str) -> Option<String> {
    let (shape, found) = shapes::nearest(shapes::AROUND, &window.around, &window.starts)?;
    let same = !program.is_empty() && shape.program == program && shape.call != Some("bind");
    found.destination(shape.port).filter(|_| same)
}

fn find(words: &[(&str, &'static str)], lower: &str) -> Option<&'static str> {
    words.iter().find(|(word, _)| begins(lower, word)).map(|(_, value)| *value)
}

/// Whether a word begins with this: `Verbindung` has no `bind`.
fn begins(lower: &str, word: &str) -> bool {
    lower.match_indices(word).any(|(at, _)| {
        let before = lower.get(..at).and_then(|text| text.chars().next_back());
        before.is_none_or(|c| !c.is_alphabetic()) || !word.starts_with(char::is_alphabetic)
    })
}

/// The call that failed. Java's name for the error says `bind` for either call, so there the stack
/// decides, and without one it was a `connect()`: the bind of a listener is rare, and says so.
fn call(window: &Window, line: &str, shape: Option<&'static str>) -> Option<&'static str> {
    if let Some(call) = lines::java_call(&window.after) {
        return Some(call);
    }
    if shape.is_some() {
        return shape;
    }
    if let Some(call) = lines::python_call(&window.around) {
        return Some(call);
    }
    if line.contains("bindexception") {
        let used = window.errno == Some(Errno::AddrInUse);
        let failed = find(CALLS, &line.replace("bindexception", ""));
        return Some(failed.unwrap_or(if used { "bind" } else { "connect" }));
    }
    find(CALLS, line)
}

fn runtime(window: &Window, line: &str, shape: Option<&'static str>) -> Option<&'static str> {
    let shape = shape.filter(|program| !program.is_empty());
    // Caddy is a Go program, and says more than its error's wording.
    let said = find(RUNTIMES, line);
    if said == Some("Go (Caddy)") || (said == Some("Java (Netty)")) {
        return said;
    }
    // Wget's log begins with `--2026-01-05 10:00:00--`, in any language.
    let wget = window.around.starts_with("--20").then_some("wget");
    shape.or(said).or(wget).or_else(|| find(RUNTIMES, &window.around.to_lowercase()))
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
