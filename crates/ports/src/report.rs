//! What `doctor` says, as a value: the JSON of `doctor --json` is exactly this, version 1.
//!
//! Fields may be added; none is renamed or removed within a version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::budget::{Doubt, Interval};
use crate::diag::TcpState;
use crate::snapshot::{Owner, Unknown};

/// The version of the JSON form.
pub const REPORT_VERSION: u32 = 1;

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Some bucket has no port left: connects there fail now.
    Exhausted,
    /// None is used up, but something at warning level or worse is wrong with ports.
    AtRisk,
    /// Nothing to report.
    Healthy,
    /// Ports are fine, and something else gives the same symptoms.
    NotPorts,
    /// The look could not decide: what it saw allows more than one of the others.
    Unknown,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] =
        [Self::Exhausted, Self::AtRisk, Self::Healthy, Self::NotPorts, Self::Unknown];

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::AtRisk => "at_risk",
            Self::Healthy => "healthy",
            Self::NotPorts => "not_ports",
            Self::Unknown => "unknown",
        }
    }
}

/// Why ports run out, or what else it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Connections are opened and closed faster than TIME_WAIT lets go of their ports.
    TimeWaitChurn,
    /// Connections stay open.
    EstablishedLeak,
    /// The program does not close connections that the other side has closed.
    CloseWaitLeak,
    /// The other side does not close connections this side has closed.
    FinWait2,
    /// The other side does not answer.
    SynSent,
    /// `ip_local_port_range` is small.
    NarrowRange,
    /// `ip_local_reserved_ports` takes the range.
    ReservedPorts,
    /// Listening sockets have ports of the range.
    ListenersInRange,
    /// Programs bind ports explicitly, which costs every destination.
    ExplicitBind,
    /// The source address is not configured here.
    NonlocalBind,
    /// There is no usable IPv6 address.
    Ipv6Unavailable,
    /// The connection-tracking table is full.
    ConntrackFull,
    /// Address translation on this host has no source port left.
    SnatFull,
    /// A process has no file descriptors left.
    FdLimit,
    /// None of these.
    None,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 15] = [
        Self::TimeWaitChurn,
        Self::EstablishedLeak,
        Self::CloseWaitLeak,
        Self::FinWait2,
        Self::SynSent,
        Self::NarrowRange,
        Self::ReservedPorts,
        Self::ListenersInRange,
        Self::ExplicitBind,
        Self::NonlocalBind,
        Self::Ipv6Unavailable,
        Self::ConntrackFull,
        Self::SnatFull,
        Self::FdLimit,
        Self::None,
    ];

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimeWaitChurn => "time_wait_churn",
            Self::EstablishedLeak => "established_leak",
            Self::CloseWaitLeak => "close_wait_leak",
            Self::FinWait2 => "fin_wait2",
            Self::SynSent => "syn_sent",
            Self::NarrowRange => "narrow_range",
            Self::ReservedPorts => "reserved_ports",
            Self::ListenersInRange => "listeners_in_range",
            Self::ExplicitBind => "explicit_bind",
            Self::NonlocalBind => "nonlocal_bind",
            Self::Ipv6Unavailable => "ipv6_unavailable",
            Self::ConntrackFull => "conntrack_full",
            Self::SnatFull => "snat_full",
            Self::FdLimit => "fd_limit",
            Self::None => "none",
        }
    }

    /// True where the supply of ports itself is the trouble.
    pub const fn is_about_ports(self) -> bool {
        !matches!(
            self,
            Self::NonlocalBind
                | Self::Ipv6Unavailable
                | Self::ConntrackFull
                | Self::SnatFull
                | Self::FdLimit
                | Self::None
        )
    }
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Failing now.
    Critical,
    /// Will fail, or costs now.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// When a remedy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyKind {
    /// Brings relief at once.
    Now,
    /// Removes the cause.
    Then,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// Now or then.
    pub kind: RemedyKind,
    /// What and why, as a sentence.
    pub text: String,
    /// The command, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

impl Remedy {
    /// Something to do now, by a command.
    pub fn now(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { kind: RemedyKind::Now, text: text.into(), command: Some(command.into()) }
    }

    /// Something to do now that no command does.
    pub fn now_by_hand(text: impl Into<String>) -> Self {
        Self { kind: RemedyKind::Now, text: text.into(), command: None }
    }

    /// Something to change.
    pub fn then(text: impl Into<String>) -> Self {
        Self { kind: RemedyKind::Then, text: text.into(), command: None }
    }
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule's name.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// Why.
    pub cause: Cause,
    /// Which of the report's buckets, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bucket: Option<usize>,
    /// What was seen, with numbers.
    pub evidence: String,
    /// What to do.
    pub remedies: Vec<Remedy>,
}

/// The range of automatically chosen ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReport {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
    /// Ports in it that are not reserved.
    pub usable: u32,
    /// Ports in it that are reserved.
    pub reserved: u32,
}

/// Sums over all TCP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsReport {
    /// All.
    pub total: u64,
    /// In TIME_WAIT.
    pub time_wait: u64,
    /// Established.
    pub established: u64,
    /// In CLOSE_WAIT.
    pub close_wait: u64,
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketReport {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
    /// The device its sockets are bound to (`SO_BINDTODEVICE`, or a link-local destination's).
    #[serde(default)]
    pub device: Option<String>,
    /// The same as the kernel's index; 0 for none.
    #[serde(skip)]
    pub interface: u32,
    /// Ports that exist for it.
    pub usable: u32,
    /// Those taken.
    pub used: u32,
    /// How many more connections will succeed.
    pub remaining: Interval,
    /// Why `remaining` is an interval.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub doubts: Vec<Doubt>,
    /// Sockets by state.
    pub states: BTreeMap<TcpState, u64>,
    /// Connections opened per second; null after a single look.
    pub opens_per_s: Option<f64>,
    /// Connections closed per second; null after a single look.
    #[serde(default)]
    pub closes_per_s: Option<f64>,
    /// How many opens per second this bucket can sustain.
    #[serde(default)]
    pub sustainable_per_s: Option<f64>,
    /// Seconds until no port is left, at this rate; 0 when none is; null when it will not happen
    /// within a day.
    pub exhausted_in_s: Option<u64>,
    /// What uses the ports up.
    pub cause: Cause,
    /// Who.
    pub owners: Vec<Owner>,
}

/// Everything `doctor` says about one namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The answer in one word.
    pub verdict: Verdict,
    /// The answer in one sentence.
    pub headline: String,
    /// The namespace.
    pub netns: String,
    /// The range.
    pub range: RangeReport,
    /// Sums.
    pub sockets: SocketsReport,
    /// The buckets asked for, or the fullest.
    pub buckets: Vec<BucketReport>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// What could not be seen; first what a verdict of `unknown` depends on.
    pub unknown: Vec<Unknown>,
    /// What the probe for explicitly bound ports cost; nothing where none was needed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe: Option<ProbeReport>,
}

/// Ports that were probed, without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// How many.
    pub ports: u32,
    /// How many of them are bound by other means than `connect()`.
    pub bound: u32,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

impl Report {
    /// True when something is at warning level or worse, or nobody can tell.
    pub fn has_trouble(&self) -> bool {
        self.verdict != Verdict::Healthy
            || self.findings.iter().any(|f| f.severity <= Severity::Warning)
    }
}
