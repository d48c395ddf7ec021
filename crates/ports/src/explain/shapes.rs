//! The table of shapes: how each program writes which call failed, and toward where.
//!
//! Source: what the programs print against a namespace without ports (`scripts/record-errors`
//! records it; `tests/it/data/errors.txt` holds it), and for those that cannot be started there,
//! their source text. The first shape that matches wins, so a program's more telling shape comes
//! first. The pattern language is described in [`super::template`].

use super::template::{self, Found};

/// One way of writing.
pub(super) struct Shape {
    /// The program or runtime.
    pub(super) program: &'static str,
    /// The call that fails; nothing where the rest of the text decides.
    pub(super) call: Option<&'static str>,
    pub(super) pattern: &'static str,
    /// The port where none is written; 0 where there is no such port.
    pub(super) port: u16,
}

const fn connect(program: &'static str, pattern: &'static str) -> Shape {
    Shape { program, call: Some("connect"), pattern, port: 0 }
}

const fn connect_by_default(program: &'static str, pattern: &'static str, port: u16) -> Shape {
    Shape { program, call: Some("connect"), pattern, port }
}

const fn bind(program: &'static str, pattern: &'static str) -> Shape {
    Shape { program, call: Some("bind"), pattern, port: 0 }
}

const fn either(program: &'static str, pattern: &'static str) -> Shape {
    Shape { program, call: None, pattern, port: 0 }
}

/// In the failing line.
pub(super) const LINE: &[Shape] = &[
    // Servers and proxies.
    connect("nginx", "connect() to {at} failed ("),
    bind("nginx", "bind() to {at} failed ("),
    bind("nginx", "bind({ip}) failed ("),
    connect("nginx", "while connecting to upstream,{..}upstream: \"{url}\""),
    connect("Apache httpd", "attempt to connect to {at}"),
    bind("Apache httpd", "could not bind to address {at}"),
    bind("HAProxy", "cannot bind socket{..}[{at}]"),
    bind("HAProxy", "cannot bind to source address before connect()"),
    bind("HAProxy", "cannot bind to tproxy source address before connect()"),
    bind("HAProxy", "can't bind to source address"),
    bind("HAProxy", "local source address already in use"),
    connect("HAProxy", "connect() failed for backend "),
    connect("HAProxy", "out of local source ports"),
    connect("HAProxy", "source port range exhausted"),
    bind("Envoy", "cannot bind '{at}'"),
    bind("Envoy", "cannot bind to {at}"),
    connect("Envoy", "immediate connect error: {..}remote address:{at}"),
    // An access log has no spaces in it.
    connect("Envoy", "immediate_connect_error:{..}remote_address:{at}"),
    // Istio's access log: authority, upstream host, cluster.
    connect("Envoy", "immediate_connect_error:{..}\"{at}\" outbound|"),
    connect("Envoy", "immediate connect error: "),
    connect("Envoy", "delayed connect error: "),
    // `C-0x..: db/user@10.0.0.2:6432 closing because: ..`, with brackets for IPv6.
    connect("pgbouncer", "{word}@{at} closing because: connect failed"),
    connect("pgbouncer", "{word}@{at} {..}connect failed"),
    connect("Postfix", "connect to {host}[{ip}]:{port}"),
    connect("Dovecot", "connect({host}, {port}) failed"),
    connect("Zabbix", "connect to [[{host}]:{port}]"),
    connect("librdkafka", "ipv4#{at}"),
    connect("librdkafka", "ipv6#{at}"),
    connect("Squid", "tcp connection to {host}/{port} failed"),
    bind("Squid", "commbind: cannot bind socket "),
    either("Varnish", "fail errno "),
    connect("ActiveMQ", "could not connect to broker url: {url}. reason"),
    connect("Linux (Ceph)", "libceph: connect ({word}){at} error -"),
    connect("Linux (Ceph)", "libceph: connect {at} error -"),
    connect("Linux (NFS)", "connect returned unhandled error -"),
    connect("GlusterFS", "connection attempt on {at} failed"),
    bind("OpenVPN", "socket bind failed on local address [{..}]{at}"),
    bind("OpenSSH", "bind to port {port} on {host} failed"),
    bind("OpenSSH", "bind [{ip}]:{port}: "),
    bind("systemd", "failed to create listening socket ({at})"),
    bind("ntpd", " af_inet6 {ip}#{port} "),
    bind("ntpd", " af_inet {ip}#{port} "),
    bind("Hadoop", "problem binding to [{at}]"),
    connect("Hadoop", "call from {word} to {at} failed on connection exception"),
    connect("gRPC", "ipv4:{at}"),
    connect("gRPC", "ipv6:{at}"),
    // Go names the local address first, if it was given.
    bind("Go", "dial {word} {at}->{word}: bind: "),
    connect("Go", "dial {word} {word}->{at}: "),
    connect("Go", "dial {word} {at}: "),
    bind("Go", "listen {word} {at}: "),
    // Databases and their clients.
    connect("libpq", "\"{host}\" ({ip}), {word} {port}"),
    connect("libpq", "\"{host}\", {word} {port}"),
    connect("libpq", "\u{ab} {host} \u{bb} ({ip}), {word} {port}"),
    connect("libpq", "\u{ab} {host} \u{bb}, {word} {port}"),
    connect("libpq", "\u{ab}{host}\u{bb} ({ip}), {word} {port}"),
    connect("libpq", "\u{ab}{host}\u{bb}, {word} {port}"),
    connect("libpq", "\u{bb}{host}\u{ab} ({ip}), {word} {port}"),
    connect("libpq", "\u{bb}{host}\u{ab}, {word} {port}"),
    connect("libpq", "\u{201e}{host}\u{201c} ({ip}), {word} {port}"),
    connect("libpq", "\u{201e}{host}\u{201c}, {word} {port}"),
    connect("libpq", "\u{201c}{host}\u{201d} ({ip}), {word} {port}"),
    connect("libpq", "\u{201c}{host}\u{201d}, {word} {port}"),
    connect(
        "libpq",
        "running on host \"{host}\" ({ip}) and accepting TCP/IP connections on port {port}",
    ),
    connect("libpq", "running on host \"{host}\" and accepting TCP/IP connections on port {port}"),
    connect("Redis", "could not connect to redis at {at}: "),
    connect("Python", "error {port} connecting to {at}. "),
    connect("MySQL client", "can't connect to {..}server on '{host}:{port}'"),
    connect_by_default("MySQL client", "can't connect to {..}server on '{host}'", 3306),
    // Tools.
    connect("curl", "failed to connect to {host} port {port}"),
    connect("curl", "connect to {host} port {port} from "),
    connect("curl", "connect to {host} port {port} failed: "),
    bind("curl", "couldn't bind to '{host}'"),
    bind("curl", "bind failed with errno "),
    connect("OpenSSH", "connect to host {host} port {port}: "),
    connect("netcat", "connect to {host} port {port} ("),
    connect("netcat", "connect to {host} ({ip}) port {port} ("),
    bind("Ncat", "ncat: bind to {at}: "),
    connect("socat", "connect({..}AF={port} {at}, "),
    bind("socat", "bind({..}AF={port} {at}"),
    connect("wget", "|{ip}|:{port}... "),
    connect("wget", "connecting to {at}... "),
    connect("Bash", "/dev/tcp/{host}/{port}: "),
    connect("gawk", "/inet/{word}/0/{host}/{port}'"),
    connect("lftp", "connecting to {host} ({ip}) port {port}"),
    connect_by_default("git", "{host}[{..}: {ip}]: errno=", 9418),
    connect_by_default("rsync", "rsync: {..}failed to connect to {host} ({ip}): ", 873),
    connect("strace", "connect({..}sin_port=htons({port}),{..}inet_addr(\"{ip}\")"),
    connect("strace", "connect({..}sin6_port=htons({port}),{..}AF_INET6, \"{ip}\""),
    bind("strace", "bind({..}sin_port=htons({port}),{..}inet_addr(\"{ip}\")"),
    // Languages and their libraries.
    bind("Redis", "create server TCP listening socket {at}: bind: "),
    connect("Node", "connect {code} {at}"),
    bind("Node", "bind {code} {..}{at}"),
    bind("Node", "bind {code} {host}"),
    bind("Node", "listen {code}{..}{at}"),
    connect("Ruby", "connect(2) for \"{host}\" port {port}"),
    connect("Ruby", "connect(2) for {at}"),
    bind("Ruby", "bind(2) for \"{host}\" port {port}"),
    bind("Ruby", "bind(2) for {at}"),
    bind("PHP", "stream_socket_server(): {..}connect to {url}"),
    bind("PHP", "socket_bind("),
    connect("PHP", "stream_socket_client(): {..}connect to {url}"),
    connect("PHP", "file_get_contents({url})"),
    connect("PHP", "fopen({url})"),
    connect("PHP", "fsockopen(){..}connect to {at}"),
    connect("PHP", "pfsockopen(){..}connect to {at}"),
    connect("Python", "cannot connect to host {at} ssl"),
    connect("Python", "connect call failed ('{host}', {port}"),
    bind("Python", "bind on address ('{host}', {port}"),
    bind("Python", "bind(('{host}', {port}"),
    connect("Python", "host='{host}', port={port}"),
    connect("Python", "connect(('{host}', {port}"),
    connect("Python", "create_connection(('{host}', {port}"),
    either("Python", "('{host}', {port}"),
    connect("Java (Netty)", "connect(..) failed: {..}: {word}/{at}"),
    connect("Java (Netty)", "connect(..) failed: {..}: /{at}"),
    bind("Java (Netty)", "bind(..) failed: "),
    connect("Java", "connect to {host}/<unresolved>:{port}"),
    connect("Java", "connect to {url} [{..}] failed"),
    connect("Java", "request for \"{url}\": "),
    connect("Java", " executing {word} {url}"),
    connect("Ruby", "connecting to redis on {at} ("),
    connect("Java", "connect to {at} [{..}] failed"),
    bind(".NET", "failed to bind to address {url}"),
    connect("Erlang", "to_address,{(}\"{host}\",{port}{)}"),
    connect("Erlang", "tcp connect ({at})"),
    connect("Rust", "for url ({url})"),
    connect("Rust", "host: some(ipv4({ip})), port: some({port})"),
    connect("Rust", "host: some(ipv6({ip})), port: some({port})"),
    connect("Rust", "host: some(domain(\"{host}\")), port: some({port})"),
    connect_by_default(
        "Rust",
        "scheme: \"https\"{..}host: some(domain(\"{host}\")), port: none",
        443,
    ),
    connect_by_default(
        "Rust",
        "scheme: \"http\"{..}host: some(domain(\"{host}\")), port: none",
        80,
    ),
    connect("Rust", "error sending request{..}url: \"{url}\""),
    connect("Haskell", "network.socket.connect: "),
    bind("Haskell", "network.socket.bind: "),
    connect("OCaml", "unix_error(unix.{code}, \"connect\""),
    bind("OCaml", "unix_error(unix.{code}, \"bind\""),
    connect("Perl", "could not connect to '{at}': "),
    connect("Perl", "can't connect to {at} ("),
    connect("", "connect to {url}"),
    connect("", "connect to {at} ("),
    either("", "for \"{host}\" port {port}"),
    either("", "(\"{host}\", {port})"),
    either("Erlang", "{erl},{port}"),
    either("Erlang", "{erl}, {port}"),
    either("", "{host} port {port}"),
];

/// In the lines around it: a program that tells the destination in a line of its own.
pub(super) const AROUND: &[Shape] = &[
    connect("Squid", "retrieve the url: {url} {...}connection to {ip} failed"),
    connect("Haskell", "host = \"{host}\" {...}port = {port} {...}network.socket.connect: "),
    connect("Java", "error connecting to node {at} "),
    connect("Java", "exception in monitor thread while connecting to server {at}"),
    bind("Java (Tomcat)", "failed to initialize connector ["),
    bind("curl", "name '{host}' family {...}bind failed with errno "),
    connect("curl", "trying {at}... {...}immediate connect fail"),
    connect("OpenLDAP", "ldap_connect_to_host: trying {at}"),
    connect("lftp", "connecting to {host} ({ip}) port {port}"),
    connect("BusyBox", "connecting to {host}:{port} ({at}) {...}can't connect to remote host"),
    connect("BusyBox", "connecting to {at} ({..}) {...}can't connect to remote host"),
    connect("Redis", "connecting to MASTER {at}"),
    connect("Bash", "/dev/tcp/{host}/{port}: "),
    connect(
        "libpq",
        "running on host \"{host}\" ({ip}) and accepting TCP/IP connections on port {port}",
    ),
    connect("libpq", "running on host \"{host}\" and accepting TCP/IP connections on port {port}"),
    connect("Python", "error {port} connecting to {at}. "),
    connect("Python", "cannot connect to host {at} ssl"),
    connect("Python", "host='{host}', port={port}"),
    connect("Python", "connect call failed ('{host}', {port}"),
    bind("Python", "bind(('{host}', {port}"),
    connect("PHP", "fsockopen(){..}connect to {at}"),
    either("Python", "connect(('{host}', {port}"),
    either("Python", "create_connection(('{host}', {port}"),
    connect("Node", "syscall: 'connect', address: '{host}', port: {port}"),
    bind("Node", "syscall: 'bind', address: '{host}'"),
    connect("Node", "connect {code} {at}"),
    connect("Envoy", "] connecting to {at}"),
    connect("Java", "connect to {at} [{..}] failed"),
    connect("PHP", "connect to {url}"),
    connect("pgbouncer", "{word}@{at} closing because: connect failed"),
    connect("curl", "failed to connect to {host} port {port}"),
];

/// The first shape of a table that matches, and what it found.
pub(super) fn first(table: &'static [Shape], text: &str) -> Option<(&'static Shape, Found)> {
    table.iter().find_map(|shape| Some((shape, template::find(shape.pattern, text)?)))
}

/// The same around the failing line: of several places in which a shape matches, the first one behind
/// the error, else the nearest before it; the nearest before it first where a shape is of several
/// lines, of which the error is the last. `starts` says where lines begin, the nearest first.
pub(super) fn nearest(
    table: &'static [Shape],
    around: &str,
    starts: &[usize],
) -> Option<(&'static Shape, Found)> {
    table.iter().find_map(|shape| {
        // Where it matches nowhere, it need not be tried from each line.
        template::find(shape.pattern, around)?;
        let behind = || template::find(shape.pattern, around.get(*starts.first()?..)?);
        let before = || {
            starts.windows(2).find_map(|two| {
                let [next, start] = two else { return None };
                template::find_before(shape.pattern, around.get(*start..)?, next - start)
            })
        };
        let found = match shape.pattern.contains("{...}") {
            true => before().or_else(behind),
            false => behind().or_else(before),
        };
        Some((shape, found?))
    })
}
