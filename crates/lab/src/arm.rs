//! The arms: the subsystem as it was, each remedy alone, and all of them.

use serde::{Deserialize, Serialize};

/// One way to run the subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// A new connection to the center per request, no cache, no limit.
    Naive,
    /// The same with more ephemeral ports.
    WiderRange,
    /// The same with `net.ipv4.tcp_tw_reuse = 1`.
    TwReuse,
    /// The same with connections to the center kept and used again.
    ReuseConnections,
    /// The same with permissions cached for five seconds.
    Cache,
    /// The same with a limit per client address, on every method.
    Limit,
    /// The gate in front: reuse, replica, limits.
    Keepgate,
}

impl Arm {
    /// All, in the order they are played.
    pub const ALL: [Arm; 7] = [
        Arm::Naive,
        Arm::WiderRange,
        Arm::TwReuse,
        Arm::ReuseConnections,
        Arm::Cache,
        Arm::Limit,
        Arm::Keepgate,
    ];

    /// As on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Naive => "naive",
            Arm::WiderRange => "wider-range",
            Arm::TwReuse => "tw-reuse",
            Arm::ReuseConnections => "reuse-connections",
            Arm::Cache => "cache",
            Arm::Limit => "limit",
            Arm::Keepgate => "keepgate",
        }
    }

    /// One line for people.
    pub fn about(self) -> &'static str {
        match self {
            Arm::Naive => "a new connection to the center per request, no cache, no limit",
            Arm::WiderRange => "as naive, with a wider ip_local_port_range",
            Arm::TwReuse => "as naive, with tcp_tw_reuse = 1",
            Arm::ReuseConnections => "as naive, with connections to the center kept",
            Arm::Cache => "as naive, with permissions cached for 5 s",
            Arm::Limit => "as naive, with a limit per client address",
            Arm::Keepgate => "the gate: one connection, a replica, limits for every method",
        }
    }
}

impl std::str::FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Arm, String> {
        Arm::ALL.into_iter().find(|arm| arm.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Arm::ALL.iter().map(|arm| arm.name()).collect();
            format!("unknown arm `{text}`; the arms are {}", names.join(", "))
        })
    }
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
