//! Settings and sums from the text files under `/proc`.

use std::path::{Path, PathBuf};

use crate::names::Names;
use crate::proc;
use crate::ranges::PortSet;
use crate::snapshot::{Counts, HostSnapshot, Settings, Unknown};

/// How much of one small file is read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Longest text of a setting: a bitmap of all ports, each second one set, is 182 KiB.
const MAX_SETTING: usize = 256 * 1024;

/// The text of a setting under `/proc/sys`, byte for byte. In a single read: the kernel writes
/// a bitmap such as `ip_local_reserved_ports` from the beginning only, and cuts it off at the
/// end of the first buffer (`proc_do_large_bitmap`).
pub fn setting(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; MAX_SETTING];
    let length = file.read(&mut buffer)?;
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// The settings without which no number of ports can be told.
const RANGE: &str = "ip_local_port_range";
const RESERVED: &str = "ip_local_reserved_ports";
const REUSE: &str = "tcp_tw_reuse";

/// Where a namespace's files are.
pub(crate) struct Files {
    root: PathBuf,
    /// The directory with `tcp`, `sockstat` and so on.
    pub(crate) net: PathBuf,
    /// Whether `proc/sys/net` shows the namespace in question.
    sysctls_are_its_own: bool,
    /// Whose files are meant, where it is not our own.
    pid: Option<u32>,
}

impl Files {
    /// The calling thread's own namespace, or a recorded tree.
    pub(crate) fn here(root: &Path) -> Self {
        // `/proc/net` is the main thread's namespace, which is not the caller's after `setns`.
        let net = ["proc/thread-self/net", "proc/self/net", "proc/net"]
            .into_iter()
            .map(|dir| root.join(dir))
            .find(|dir| dir.join("sockstat").exists() || dir.join("tcp").exists())
            .unwrap_or_else(|| root.join("proc/net"));
        Self { root: root.to_owned(), net, sysctls_are_its_own: true, pid: None }
    }

    /// The namespace of a process, from outside: its settings cannot be seen.
    pub(crate) fn of_process(root: &Path, pid: u32) -> Self {
        let net = root.join(format!("proc/{pid}/net"));
        Self { root: root.to_owned(), net, sysctls_are_its_own: false, pid: Some(pid) }
    }

    fn text(path: &Path) -> Option<String> {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        setting(&self.root.join("proc/sys/net").join(name)).ok()
    }

    pub(crate) fn net(&self, name: &str) -> Option<String> {
        Self::text(&self.net.join(name))
    }

    /// The hosts file of the processes in question.
    fn hosts(&self) -> String {
        let own = || Self::text(&self.root.join("etc/hosts")).unwrap_or_default();
        match self.pid {
            Some(pid) => Names::of_process(pid).map(|names| names.hosts).unwrap_or_default(),
            None => own(),
        }
    }

    /// The same, with the hosts file as this process has it.
    pub(crate) fn for_process(self, pid: u32) -> Self {
        Self { pid: Some(pid), ..self }
    }

    /// True when the namespace counts no TCP socket.
    pub(crate) fn is_empty(&self) -> bool {
        let none = |file: &str, name: &str| {
            self.net(file).is_some_and(|text| {
                let stats = proc::sockstat(&text);
                ["inuse", "orphan", "tw"].into_iter().all(|key| {
                    stats.get(&(name.to_owned(), key.to_owned())).copied().unwrap_or(0) == 0
                })
            })
        };
        none("sockstat", "TCP") && (none("sockstat6", "TCP6") || self.net("sockstat6").is_none())
    }

    /// Fills in everything but sockets.
    pub(crate) fn read_into(&self, snapshot: &mut HostSnapshot) {
        snapshot.kernel = Self::text(&self.root.join("proc/sys/kernel/osrelease"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        if self.sysctls_are_its_own {
            snapshot.settings = self.settings(&snapshot.kernel, &mut snapshot.unknown);
        } else {
            snapshot.settings.assumed =
                [RANGE, RESERVED, REUSE].into_iter().map(str::to_owned).collect();
            snapshot.unknown.push(Unknown {
                what: "the settings of that namespace".to_owned(),
                why: "they are visible only from inside, which needs CAP_SYS_ADMIN (run as root); \
                      the kernel's defaults are used instead, and nothing is concluded from them"
                    .to_owned(),
            });
        }
        snapshot.counts = self.counts();
        snapshot.ipv6_addresses =
            self.net("if_inet6").map(|text| proc::if_inet6(&text)).unwrap_or_default();
        snapshot.localhost = proc::hosts(&self.hosts(), "localhost");
    }

    pub(crate) fn settings(&self, kernel: &str, unknown: &mut Vec<Unknown>) -> Settings {
        let defaults = Settings::default();
        let number = |name: &str| self.sysctl(name).and_then(|t| proc::number::<u64>(&t));
        let mut assumed = Vec::new();
        let mut missing = |key: &str, default: &str| {
            assumed.push(key.to_owned());
            unknown.push(Unknown {
                what: format!("the setting {key}"),
                why: format!(
                    "/proc/sys/net/ipv4 cannot be read; the kernel's default ({default}) is used \
                     instead, and nothing is concluded from it"
                ),
            });
        };
        let range = self.sysctl("ipv4/ip_local_port_range").and_then(|t| proc::port_range(&t));
        if range.is_none() {
            missing(RANGE, &defaults.range.to_string());
        }
        let reserved: Option<PortSet> =
            self.sysctl("ipv4/ip_local_reserved_ports").and_then(|text| text.parse().ok());
        if reserved.is_none() {
            missing(RESERVED, "none");
        }
        if number("ipv4/tcp_tw_reuse").is_none() {
            missing(REUSE, "loopback only");
        }
        let small = |name: &str, default: u32| {
            number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
        };
        // Before 4.19 the value 2 did not exist and the default was 0.
        let reuse_default =
            if proc::kernel_version(kernel).is_some_and(|v| v < (4, 19)) { 0 } else { 2 };
        Settings {
            range: range.unwrap_or(defaults.range),
            reserved: reserved.unwrap_or_default(),
            tw_reuse: u8::try_from(small("ipv4/tcp_tw_reuse", reuse_default)).unwrap_or(2),
            tw_reuse_delay_ms: small("ipv4/tcp_tw_reuse_delay", defaults.tw_reuse_delay_ms),
            timestamps: u8::try_from(small("ipv4/tcp_timestamps", 1)).unwrap_or(1),
            fin_timeout_s: small("ipv4/tcp_fin_timeout", defaults.fin_timeout_s),
            max_tw_buckets: number("ipv4/tcp_max_tw_buckets"),
            fastopen: number("ipv4/tcp_fastopen").and_then(|n| u32::try_from(n).ok()),
            nonlocal_bind: number("ipv4/ip_nonlocal_bind") == Some(1),
            unprivileged_port_start: u16::try_from(small("ipv4/ip_unprivileged_port_start", 1024))
                .unwrap_or(1024),
            disable_ipv6: number("ipv6/conf/all/disable_ipv6").map(|n| n != 0),
            tw_recycle: number("ipv4/tcp_tw_recycle") == Some(1),
            assumed,
        }
    }

    fn conntrack_column(&self, name: &str) -> u64 {
        self.net("stat/nf_conntrack").map_or(0, |text| column_sum(&text, name))
    }

    /// The sums, which are also what is read a second time after the interval.
    pub(crate) fn counts(&self) -> Counts {
        let mut counters = self.net("netstat").map(|t| proc::counters(&t)).unwrap_or_default();
        counters.extend(self.net("snmp").map(|t| proc::counters(&t)).unwrap_or_default());
        let counter = |name: &str| {
            counters.get(name).copied().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
        };
        let stats = |file: &str, name: &str, key: &str| {
            self.net(file)
                .and_then(|t| proc::sockstat(&t).get(&(name.to_owned(), key.to_owned())).copied())
                .unwrap_or(0)
        };
        let stats_of_tcp6 = || stats("sockstat6", "TCP6", "inuse");
        let sys = |name: &str| self.sysctl(name).and_then(|t| proc::number::<u64>(&t));
        let conntrack =
            match (sys("netfilter/nf_conntrack_count"), sys("netfilter/nf_conntrack_max")) {
                (Some(count), Some(max)) if self.sysctls_are_its_own && max > 0 => {
                    Some((count, max))
                }
                _ => None,
            };
        Counts {
            udp: stats("sockstat", "UDP", "inuse") + stats("sockstat6", "UDP6", "inuse"),
            time_wait_overflow: counter("TCPTimeWaitOverflow"),
            time_wait_overflow_grew: 0,
            active_opens: counter("ActiveOpens"),
            conntrack,
            in_use: self.net("sockstat").map(|text| {
                let stats = proc::sockstat(&text);
                let of = |key: &str| {
                    stats.get(&("TCP".to_owned(), key.to_owned())).copied().unwrap_or(0)
                };
                of("inuse") + of("orphan") + of("tw") + stats_of_tcp6()
            }),
            allocated: self.net("sockstat").and_then(|t| {
                proc::sockstat(&t).get(&("TCP".to_owned(), "alloc".to_owned())).copied()
            }),
            conntrack_drops: self.conntrack_column("drop"),
            conntrack_drops_grew: 0,
            insert_failed: self.conntrack_column("insert_failed"),
            insert_failed_grew: 0,
            files: Self::text(&self.root.join("proc/sys/fs/file-nr"))
                .and_then(|t| proc::file_nr(&t)),
        }
    }
}

/// A column of `/proc/net/stat/nf_conntrack`, all processors together (hexadecimal).
fn column_sum(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let Some(column) = lines
        .next()
        .and_then(|heading| heading.split_ascii_whitespace().position(|column| column == name))
    else {
        return 0;
    };
    lines
        .filter_map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(column)?, 16).ok())
        .sum()
}
