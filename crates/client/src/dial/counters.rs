//! How dials ended, counted by name.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// How a dial ended. The label is the metric's and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DialOutcome { $($(#[$doc])* $name,)* }

        impl DialOutcome {
            /// Every outcome, in declaration order.
            pub const ALL: &[DialOutcome] = &[$(DialOutcome::$name,)*];

            /// The value of the metric's label `outcome`.
            pub fn label(self) -> &'static str {
                match self { $(DialOutcome::$name => $label,)* }
            }
        }

        /// Dials by outcome since the start.
        #[derive(Debug, Default)]
        #[expect(non_snake_case, reason = "one field an outcome, named like it")]
        pub struct DialCounters { $($name: AtomicU64,)* }

        impl DialCounters {
            /// How many dials ended so.
            pub fn of(&self, outcome: DialOutcome) -> u64 {
                match outcome { $(DialOutcome::$name => &self.$name,)* }.load(Ordering::Relaxed)
            }

            pub(super) fn add(&self, outcome: DialOutcome) {
                let counter = match outcome { $(DialOutcome::$name => &self.$name,)* };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
}

outcomes! {
    /// A connection.
    Connected = "connected",
    /// A connection on a port that was set aside, because no other was free.
    ConnectedAside = "connected_aside",
    /// The caller went away before it was decided.
    Abandoned = "abandoned",
    /// No free local port toward the destination.
    PortsExhausted = "ports_exhausted",
    /// The source address is not configured on this host.
    SourceNotLocal = "source_not_local",
    /// The source address is of the other family.
    SourceFamily = "source_family",
    /// An IPv6 destination where there is no IPv6.
    NoIpv6 = "no_ipv6",
    /// A route, but no address of ours that may use it.
    NoSourceAddress = "no_source_address",
    /// Nobody listens there.
    Refused = "refused",
    /// No route to the destination.
    Unreachable = "unreachable",
    /// The deadline passed.
    Timeout = "timeout",
    /// The connection was reset while it was opened.
    Reset = "reset",
    /// This process, or the host, has no file descriptor left.
    FdLimit = "fd_limit",
    /// A local rule (firewall, permissions) forbids it.
    Forbidden = "forbidden",
    /// There is no socket at that path.
    SocketMissing = "socket_missing",
    /// The name does not resolve.
    Resolve = "resolve",
    /// The TLS handshake failed.
    Tls = "tls",
    /// Anything else; the error has the words.
    Io = "io",
}
