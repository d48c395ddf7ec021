//! How often an address may ask for the page for callers, and send its forms. Not the service's limits:
//! whoever is over those must be able to read how to get more.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Instant;

use keepgate_limit::headers::retry_after_s;
use keepgate_limit::rules::{Defaults, Key, RoutePattern, Rule};
use keepgate_limit::{AddressKey, Limiter, Limits, Nanos, Seed, ServiceFacts};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// The page and its style: 120 a minute.
    Page,
    /// Requests for access: 10 a minute.
    Asks,
    /// Codes and keys that are shown: 10 a minute.
    Secrets,
}

impl Counted {
    const ALL: [(Counted, &'static str, &'static str); 3] = [
        (Counted::Page, "/page", "120/min"),
        (Counted::Asks, "/asks", "10/min"),
        (Counted::Secrets, "/secrets", "10/min"),
    ];

    fn route(self) -> &'static str {
        let row = Counted::ALL.into_iter().find(|(counted, ..)| *counted == self);
        row.map_or("", |(_, route, _)| route)
    }
}

/// See the module.
pub(crate) struct PageLimits {
    /// None: nothing is let through.
    limiter: Option<Limiter>,
    origin: Instant,
}

/// MiB for the addresses of each limit.
const MEMORY_MIB: u32 = 1;

impl PageLimits {
    pub(crate) fn new() -> PageLimits {
        let rules = Counted::ALL.into_iter().filter_map(|(_, route, rate)| {
            let rule = Rule::new(route.trim_start_matches('/'), Key::Address, rate.parse().ok()?);
            let route = Some(RoutePattern::Exact(route.to_owned()));
            Some(Rule { route, memory_mib: Some(MEMORY_MIB), ..rule })
        });
        let limits =
            Limits { defaults: Defaults::Off, rules: rules.collect(), ..Limits::default() };
        let mut bytes = [0; 16];
        for half in bytes.chunks_exact_mut(8) {
            half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        let limiter = Limiter::compile(&limits, &ServiceFacts::default(), Seed::new(bytes), None);
        PageLimits { limiter: limiter.ok(), origin: Instant::now() }
    }

    /// Counts one; seconds to wait where it is one too many.
    pub(crate) fn count(&self, counted: Counted, address: &AddressKey) -> Result<(), u32> {
        let Some(limiter) = &self.limiter else { return Err(60) };
        let now = Nanos::since_origin(self.origin.elapsed());
        let said = limiter.check_address(address, "GET", Some(counted.route()), now);
        if said.is_admitted() {
            return Ok(());
        }
        Err(retry_after_s(&[&said]).and_then(|s| u32::try_from(s).ok()).unwrap_or(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_itself() {
        let limits = PageLimits::new();
        let [one, other] = [1, 2].map(|n| AddressKey::V4([192, 0, 2, n].into()));
        let passed = |counted, address: &AddressKey| {
            let counts = (0..200).map(|_| limits.count(counted, address));
            counts.take_while(Result::is_ok).count()
        };
        // A few come back while the test runs.
        assert!((10..15).contains(&passed(Counted::Asks, &one)));
        assert!((10..15).contains(&passed(Counted::Asks, &other)));
        assert!((10..15).contains(&passed(Counted::Secrets, &one)));
        assert!((120..150).contains(&passed(Counted::Page, &one)));
        assert!(limits.count(Counted::Asks, &one).is_err_and(|wait| (1..=6).contains(&wait)));
    }
}
