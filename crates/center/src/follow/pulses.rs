//! The pulses of a follower that may still be echoed, with the times at which they came.
//!
//! A heartbeat that echoes a pulse says that its head was current when the pulse came. Where other
//! centers write to the store, that is so only of pulses that came before the head was read.

use std::collections::VecDeque;
use std::time::Instant;

/// Pulses that are kept: a follower sends one a second.
const KEPT: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pulses(VecDeque<(u64, Instant)>);

impl Pulses {
    /// One came. False: not a newer one; nonces count up within a stream, and anything else is not
    /// echoed.
    pub(super) fn came(&mut self, nonce: u64, at: Instant) -> bool {
        if nonce <= self.newest() {
            return false;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((nonce, at));
        true
    }

    /// The newest; 0: none came.
    pub(super) fn newest(&self) -> u64 {
        self.0.back().map_or(0, |(nonce, _)| *nonce)
    }

    /// The newest that came up to this time; 0: none.
    pub(super) fn until(&self, at: Instant) -> u64 {
        self.0.iter().rev().find(|(_, came)| *came <= at).map_or(0, |(nonce, _)| *nonce)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pulse_is_echoed_by_looks_that_began_after_it() {
        let mut pulses = Pulses::default();
        let began = Instant::now();
        let at = |n: u64| began + Duration::from_secs(n);
        assert_eq!((pulses.newest(), pulses.until(at(9))), (0, 0));
        assert!(!pulses.came(0, at(0)));
        assert!(pulses.came(1, at(1)) && pulses.came(2, at(2)) && pulses.came(5, at(5)));
        assert!(!pulses.came(4, at(6)) && !pulses.came(5, at(6)));
        assert_eq!(pulses.newest(), 5);
        for (until, echo) in [(0, 0), (1, 1), (2, 2), (4, 2), (5, 5), (9, 5)] {
            assert_eq!(pulses.until(at(until)), echo, "{until}");
        }
    }

    #[test]
    fn few_pulses_are_kept() {
        let mut pulses = Pulses::default();
        let began = Instant::now();
        for nonce in 1..=1_000 {
            assert!(pulses.came(nonce, began + Duration::from_secs(nonce)));
        }
        assert_eq!(pulses.0.len(), KEPT);
        assert_eq!(pulses.until(began + Duration::from_secs(1_000 - KEPT as u64)), 0);
        assert_eq!(pulses.until(began + Duration::from_secs(999)), 999);
    }
}
