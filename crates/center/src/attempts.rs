//! Tries, counted by address: a few at once, then one now and then. Of sign-ins and of codes the wrong ones
//! count; of requests for access, and for their page, all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tries of an address at once, unless told otherwise.
const BURST: u32 = 10;

/// How long until one more.
const EVERY: Duration = Duration::from_secs(6);

/// Addresses that are remembered; those beyond share one count.
const ADDRESSES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// The moment at which all tries of an address are forgotten.
    until: Mutex<HashMap<Option<IpAddr>, Instant>>,
    burst: u32,
    every: Duration,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts::new(BURST, EVERY)
    }
}

impl Attempts {
    /// So many at once, and one more each time that this has passed.
    pub(crate) fn new(burst: u32, every: Duration) -> Attempts {
        Attempts { until: Mutex::default(), burst, every }
    }

    /// Whether this address may try.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn may(&self, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let until = {
            let held = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            held.get(&key(&held, from)).copied().unwrap_or(now)
        };
        let most = now + self.every * self.burst.saturating_sub(1);
        match until.checked_duration_since(most).filter(|wait| !wait.is_zero()) {
            None => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// Counts one, if it may be.
    ///
    /// # Errors
    /// How long the address has to wait.
    pub(crate) fn count(&self, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        self.may(from, now)?;
        self.wrong(from, now);
        Ok(())
    }

    /// Takes back one that was counted before it was known to be right.
    pub(crate) fn right(&self, from: Option<IpAddr>) {
        let mut held = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(&held, from);
        if let Some(until) = held.get_mut(&key) {
            *until = until.checked_sub(self.every).unwrap_or(*until);
        }
    }

    /// Counts a wrong one.
    pub(crate) fn wrong(&self, from: Option<IpAddr>, now: Instant) {
        let mut held = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= ADDRESSES {
            held.retain(|_, until| *until > now);
        }
        let key = key(&held, from);
        let until = held.entry(key).or_insert(now);
        *until = (*until).max(now) + self.every;
    }
}

/// By what an address is counted (IPv6: its /64).
fn key(held: &HashMap<Option<IpAddr>, Instant>, from: Option<IpAddr>) -> Option<IpAddr> {
    let from = match from?.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    };
    (held.len() < ADDRESSES || held.contains_key(&Some(from))).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_wrong_a_few_times_then_now_and_then() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let one: Option<IpAddr> = Some("10.0.0.1".parse().unwrap());
        for _ in 0..BURST {
            attempts.may(one, now).unwrap();
            attempts.wrong(one, now);
        }
        assert_eq!(attempts.may(one, now), Err(EVERY));
        attempts.may(Some("10.0.0.2".parse().unwrap()), now).unwrap();
        attempts.may(one, now + EVERY).unwrap();
        attempts.wrong(one, now + EVERY);
        assert_eq!(attempts.may(one, now + EVERY), Err(EVERY));
    }

    #[test]
    fn addresses_beyond_the_bound_share_a_count() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let address = |n: u128| Some(IpAddr::V6(Ipv6Addr::from_bits(n << 64)));
        for n in 0..ADDRESSES as u128 {
            attempts.wrong(address(n), now);
        }
        for n in 0..u128::from(BURST) {
            attempts.wrong(address(100_000 + n), now);
        }
        assert!(attempts.may(address(200_000), now).is_err());
        attempts.may(address(7), now).unwrap();
        assert_eq!(attempts.until.lock().unwrap().len(), ADDRESSES + 1);
        // One /64 is one address.
        let same = Some(IpAddr::V6(Ipv6Addr::from_bits((7 << 64) + 1)));
        assert_eq!(key(&attempts.until.lock().unwrap(), same), address(7));
    }
}
