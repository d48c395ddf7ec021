//! The phases of a request, as labels.

/// The phases, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Accept,
    Route,
    LimitAddress,
    Identify,
    LimitPrincipal,
    Decide,
    Forward,
}

impl Phase {
    /// In order.
    pub(crate) const ALL: &'static [Phase] = &[
        Phase::Accept,
        Phase::Route,
        Phase::LimitAddress,
        Phase::Identify,
        Phase::LimitPrincipal,
        Phase::Decide,
        Phase::Forward,
    ];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Accept => "accept",
            Phase::Route => "route",
            Phase::LimitAddress => "limit_address",
            Phase::Identify => "identify",
            Phase::LimitPrincipal => "limit_principal",
            Phase::Decide => "decide",
            Phase::Forward => "forward",
        }
    }
}
