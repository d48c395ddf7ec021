//! How many connections an upstream may have.

use std::sync::{Arc, LazyLock};

use crate::dial::{Endpoint, Target};

/// Sockets an upstream may have at most, whatever its budget.
pub const MAX_CONNECTIONS: usize = 1024;

/// Says how many sockets a target may have. Called off the request path, may block briefly.
pub type Budget = Arc<dyn Fn(&Target) -> usize + Send + Sync>;

/// The default budget: half of the ports that automatic selection may use in this network
/// namespace, for each source address; [`MAX_CONNECTIONS`] for a Unix socket, which needs none.
///
/// Half, because other programs connect to the same destination, closed connections hold their
/// port for a minute, and above half `connect()` is slow on older kernels.
pub fn half_of_the_usable_ports(target: &Target) -> usize {
    if matches!(target.place, Endpoint::Unix(_)) {
        return MAX_CONNECTIONS;
    }
    let usable = usable_ports().unwrap_or(2 * MAX_CONNECTIONS);
    (usable / 2 * target.sources.len().max(1)).clamp(1, MAX_CONNECTIONS)
}

/// [`half_of_the_usable_ports`]; always the same one, so that defaults are equal.
pub(super) fn default_budget() -> Budget {
    static DEFAULT: LazyLock<Budget> = LazyLock::new(|| Arc::new(half_of_the_usable_ports));
    Arc::clone(&DEFAULT)
}

fn usable_ports() -> Option<usize> {
    let sys = "/proc/sys/net/ipv4/";
    let range = std::fs::read_to_string(format!("{sys}ip_local_port_range")).ok()?;
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let reserved = std::fs::read_to_string(format!("{sys}ip_local_reserved_ports"));
    let reserved = reserved.as_deref().unwrap_or_default();
    let taken: usize = reserved
        .trim()
        .split(',')
        .filter_map(|part| {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            let (a, b) = (a.trim().parse::<u16>().ok()?, b.trim().parse::<u16>().ok()?);
            let (a, b) = (a.max(low), b.min(high));
            (a <= b).then(|| usize::from(b - a) + 1)
        })
        .sum();
    Some((usize::from(high.checked_sub(low)?) + 1).saturating_sub(taken))
}
