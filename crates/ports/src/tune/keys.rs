//! What is known about kernel settings: defaults, limits, and what people think they do.
//!
//! Source: `Documentation/networking/ip-sysctl.rst` and `net/ipv4/sysctl_net_ipv4.c` of Linux,
//! and, for ports and TIME_WAIT, what was measured on Linux 6.18 (see `budget`).

/// What the values of a key look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One number between these, both included.
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

const fn key(
    name: &'static str,
    shape: Shape,
    default: &'static str,
    misread: Option<&'static str>,
) -> Key {
    Key { name, shape, default, misread }
}

const SWITCH: Shape = Shape::Number(0, 1);
const LARGE: i64 = i32::MAX as i64;

pub(super) const KEYS: &[Key] = &[
    key("net.ipv4.ip_local_port_range", Shape::Range, "32768 60999", None),
    key("net.ipv4.ip_local_reserved_ports", Shape::Ports, "", None),
    key("net.ipv4.tcp_tw_reuse", Shape::Number(0, 2), "2", None),
    key("net.ipv4.tcp_tw_reuse_delay", Shape::Number(1, 60_000), "1000", None),
    key("net.ipv4.tcp_timestamps", Shape::Number(0, 2), "1", None),
    key(
        "net.ipv4.tcp_fin_timeout",
        Shape::Number(1, LARGE),
        "60",
        Some(
            "it does not shorten TIME_WAIT, which lasts 60 s whatever it says; it bounds \
             FIN_WAIT2 of sockets that the program has closed",
        ),
    ),
    key(
        "net.ipv4.tcp_syncookies",
        Shape::Number(0, 2),
        "1",
        Some("it is about listeners under a SYN flood; client ports are not touched by it"),
    ),
    key(
        "net.ipv4.tcp_max_syn_backlog",
        Shape::Number(1, LARGE),
        "",
        Some("it is about listeners; client ports are not touched by it"),
    ),
    key(
        "net.core.somaxconn",
        Shape::Number(1, LARGE),
        "4096",
        Some("it is about listeners; client ports are not touched by it"),
    ),
    key(
        "net.ipv4.tcp_keepalive_time",
        Shape::Number(1, 32_767),
        "7200",
        Some("only sockets whose program asked for SO_KEEPALIVE are probed; TIME_WAIT is not"),
    ),
    key("net.ipv4.tcp_keepalive_intvl", Shape::Number(1, 32_767), "75", None),
    key("net.ipv4.tcp_keepalive_probes", Shape::Number(1, 127), "9", None),
    key(
        "net.ipv4.tcp_max_tw_buckets",
        Shape::Number(0, LARGE),
        "",
        Some(
            "TIME_WAITs beyond it are dropped at once: a late packet of the old connection may \
             then meet a new one",
        ),
    ),
    key("net.ipv4.tcp_max_orphans", Shape::Number(0, LARGE), "", None),
    key("net.ipv4.tcp_syn_retries", Shape::Number(1, 127), "6", None),
    key("net.ipv4.tcp_synack_retries", Shape::Number(0, 255), "5", None),
    key("net.ipv4.tcp_retries2", Shape::Number(0, 255), "15", None),
    key("net.ipv4.tcp_orphan_retries", Shape::Number(0, 255), "0", None),
    key("net.ipv4.tcp_sack", SWITCH, "1", None),
    key("net.ipv4.tcp_window_scaling", SWITCH, "1", None),
    key("net.ipv4.tcp_abort_on_overflow", SWITCH, "0", None),
    key("net.ipv4.tcp_rfc1337", SWITCH, "0", None),
    key("net.ipv4.tcp_fastopen", Shape::Number(0, LARGE), "1", None),
    key("net.ipv4.ip_nonlocal_bind", SWITCH, "0", None),
    key("net.ipv4.ip_forward", SWITCH, "", None),
    key("net.ipv4.ip_unprivileged_port_start", Shape::Number(0, 65_535), "1024", None),
    key("net.ipv4.tcp_low_latency", SWITCH, "0", Some("it has had no effect since Linux 4.14")),
    key("net.ipv4.tcp_fack", SWITCH, "0", Some("it has had no effect since Linux 4.15")),
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
