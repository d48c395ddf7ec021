//! What is known about kernel settings: defaults, limits, and what people think they do.
//!
//! Source: `Documentation/networking/ip-sysctl.rst` and `net/ipv4/sysctl_net_ipv4.c` of Linux,
//! and, for ports and TIME_WAIT, what was measured on Linux 6.18 (see `budget`).

/// What the values of a key look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One number between these, both included, is taken by the kernel.
    Number(i64, i64),
    /// `ip_local_port_range`: two ports.
    Range,
    /// `ip_local_reserved_ports`: a list of ports and ranges.
    Ports,
}

/// One known key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// The kernel's default, as it is read back; empty where it depends on the host.
    pub(super) default: &'static str,
    /// What it does not do, where that is what people set it for.
    pub(super) misread: Option<&'static str>,
}

/// The key of the range.
pub(super) const RANGE: &str = "net.ipv4.ip_local_port_range";
/// The key of the first port that anybody may bind.
pub(super) const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";

const fn key(
    name: &'static str,
    shape: Shape,
    default: &'static str,
    misread: Option<&'static str>,
) -> Key {
    Key { name, shape, default, misread }
}

/// Kept in one byte; any value of it is taken, and all but 0 mean "on" where it is a switch.
const BYTE: Shape = Shape::Number(0, 255);
const LARGE: i64 = i32::MAX as i64;
const INT: Shape = Shape::Number(i32::MIN as i64, LARGE);
/// Seconds that become the kernel's ticks, which must fit in an `int`: 100 to 1,000 of them a second,
/// as the kernel was built. What only some kernels take is not called refused.
const SECONDS: Shape = Shape::Number(-LARGE / 100, LARGE / 100);

/// The values that mean something, where the kernel takes others too.
pub(super) fn sensible(key: &str) -> Option<(i64, i64)> {
    let range = match key {
        "net.ipv4.tcp_timestamps" | "net.ipv4.tcp_syncookies" => (0, 2),
        "net.ipv4.tcp_sack"
        | "net.ipv4.tcp_window_scaling"
        | "net.ipv4.tcp_abort_on_overflow"
        | "net.ipv4.tcp_rfc1337"
        | "net.ipv4.ip_nonlocal_bind"
        | "net.ipv4.ip_forward"
        | "net.ipv4.tcp_low_latency"
        | "net.ipv4.tcp_fack" => (0, 1),
        "net.ipv4.tcp_fin_timeout"
        | "net.ipv4.tcp_keepalive_time"
        | "net.ipv4.tcp_keepalive_intvl" => (1, 32_767),
        "net.ipv4.tcp_keepalive_probes" => (1, 127),
        "net.ipv4.tcp_max_syn_backlog" | "net.core.somaxconn" => (1, LARGE),
        "net.ipv4.tcp_max_tw_buckets" | "net.ipv4.tcp_max_orphans" | "net.ipv4.tcp_fastopen" => {
            (0, LARGE)
        }
        _ => return None,
    };
    Some(range)
}

pub(super) const KEYS: &[Key] = &[
    key("net.ipv4.ip_local_port_range", Shape::Range, "32768 60999", None),
    key("net.ipv4.ip_local_reserved_ports", Shape::Ports, "", None),
    key("net.ipv4.tcp_tw_reuse", Shape::Number(0, 2), "2", None),
    key("net.ipv4.tcp_tw_reuse_delay", Shape::Number(1, 60_000), "1000", None),
    key("net.ipv4.tcp_timestamps", BYTE, "1", None),
    key(
        "net.ipv4.tcp_fin_timeout",
        SECONDS,
        "60",
        Some(
            "it does not shorten TIME_WAIT, which always lasts 60 s; it bounds \
             FIN_WAIT2 of sockets that the program has closed",
        ),
    ),
    key(
        "net.ipv4.tcp_syncookies",
        BYTE,
        "1",
        Some("it is about listeners under a SYN flood; client ports are not touched by it"),
    ),
    key(
        "net.ipv4.tcp_max_syn_backlog",
        INT,
        "",
        Some("it is about listeners; client ports are not touched by it"),
    ),
    key(
        "net.core.somaxconn",
        Shape::Number(0, LARGE),
        "4096",
        Some("it is about listeners; client ports are not touched by it"),
    ),
    key(
        "net.ipv4.tcp_keepalive_time",
        SECONDS,
        "7200",
        Some("only sockets whose program asked for SO_KEEPALIVE are probed; TIME_WAIT is not"),
    ),
    key("net.ipv4.tcp_keepalive_intvl", SECONDS, "75", None),
    key("net.ipv4.tcp_keepalive_probes", BYTE, "9", None),
    key(
        "net.ipv4.tcp_max_tw_buckets",
        INT,
        "",
        Some(
            "TIME_WAITs beyond it are dropped at once: a late packet of the old connection may \
             then meet a new one",
        ),
    ),
    key("net.ipv4.tcp_max_orphans", INT, "", None),
    key("net.ipv4.tcp_syn_retries", Shape::Number(1, 127), "6", None),
    key("net.ipv4.tcp_synack_retries", BYTE, "5", None),
    key("net.ipv4.tcp_retries2", BYTE, "15", None),
    key("net.ipv4.tcp_orphan_retries", BYTE, "0", None),
    key("net.ipv4.tcp_sack", BYTE, "1", None),
    key("net.ipv4.tcp_window_scaling", BYTE, "1", None),
    key("net.ipv4.tcp_abort_on_overflow", BYTE, "0", None),
    key("net.ipv4.tcp_rfc1337", BYTE, "0", None),
    key("net.ipv4.tcp_fastopen", INT, "1", None),
    key("net.ipv4.ip_nonlocal_bind", BYTE, "0", None),
    key("net.ipv4.ip_forward", INT, "", None),
    key("net.ipv4.ip_unprivileged_port_start", Shape::Number(0, 65_535), "1024", None),
    key("net.ipv4.tcp_low_latency", BYTE, "0", Some("it has had no effect since Linux 4.14")),
    key("net.ipv4.tcp_fack", BYTE, "0", Some("it has had no effect since Linux 4.15")),
];

/// A key that is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removed {
    pub(super) name: &'static str,
    pub(super) since: &'static str,
    pub(super) instead: &'static str,
}

pub(super) const REMOVED: &[Removed] = &[
    Removed {
        name: "net.ipv4.tcp_tw_recycle",
        since: "4.12",
        instead: "it broke clients behind NAT; for outgoing connections use net.ipv4.tcp_tw_reuse",
    },
    Removed { name: "net.ipv4.tcp_frto_response", since: "3.10", instead: "nothing replaces it" },
    Removed { name: "net.ipv4.tcp_cookie_size", since: "3.10", instead: "nothing replaces it" },
    Removed { name: "net.ipv4.tcp_abc", since: "3.9", instead: "nothing replaces it" },
    Removed {
        name: "net.ipv4.ip_conntrack_max",
        since: "2.6.20",
        instead: "use net.netfilter.nf_conntrack_max",
    },
];

/// What is known about a key.
pub(super) fn known(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether, and since when, a key is gone.
pub(super) fn removed(name: &str) -> Option<&'static Removed> {
    REMOVED.iter().find(|key| key.name == name)
}

/// Ports above 1023 on which well-known services listen, so that a wide range must not give them
/// away: databases, caches, queues, registries, web servers, monitoring, Kubernetes.
pub const SERVICE_PORTS: &str = "1080,1194,1433,1521,1723,1883,2049,2181,2375-2380,3000,3128,3260,\
    3306,3389,4222,4369,5000,5044,5060-5061,5222,5432,5601,5671-5672,5900,5984-5986,6379-6380,6443,\
    7000-7001,7199,7474,7480,7687,8000,8008,8080-8081,8086,8088,8091,8123,8200-8201,8300-8302,8443,\
    8500,8600,8888,9000,9042,9090-9094,9100,9200,9300,9418,10050-10051,10250,10255-10259,11211,\
    15672,25672,26257,26379,27017-27019,28015,50051,61616";

/// Where Kubernetes puts services of type NodePort unless told otherwise.
pub const NODE_PORTS: &str = "30000-32767";
