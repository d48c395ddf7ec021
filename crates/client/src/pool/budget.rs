//! How many connections an upstream may have.

use std::sync::{Arc, LazyLock};

use crate::dial::{Endpoint, Target};

/// Sockets an upstream may have at most, whatever its budget.
pub const MAX_CONNECTIONS: usize = 1024;

/// Says how many sockets a target may have. Called off the request path, may block briefly.
pub type Budget = Arc<dyn Fn(&Target) -> usize + Send + Sync>;

/// The default budget: half of the ports that automatic selection may use in this network
/// namespace (in the range, not reserved, not bound by a listener or another explicit bind, as
/// [`keepgate_ports::budget`] has it), for each source address; [`MAX_CONNECTIONS`] for a Unix socket, which needs none.
///
/// Half, because other programs connect to the same destination, closed connections hold their
/// port for a minute, and above half `connect()` is slow on older kernels.
pub fn half_of_the_usable_ports(target: &Target) -> usize {
    if matches!(target.place, Endpoint::Unix(_)) {
        return MAX_CONNECTIONS;
    }
    let usable = match keepgate_ports::read::watch::supply() {
        Ok(supply) => usize::try_from(supply).unwrap_or(usize::MAX),
        // Where the kernel lists no sockets, the bound that holds anyway.
        Err(_) => 2 * MAX_CONNECTIONS,
    };
    (usable / 2 * target.sources.len().max(1)).clamp(1, MAX_CONNECTIONS)
}

/// [`half_of_the_usable_ports`]; always the same one, so that defaults are equal.
pub(super) fn default_budget() -> Budget {
    static DEFAULT: LazyLock<Budget> = LazyLock::new(|| Arc::new(half_of_the_usable_ports));
    Arc::clone(&DEFAULT)
}
