//! How long a caller is asked to wait after a 503 (`Retry-After`).

use std::time::Instant;

use keepgate_serve::Outages;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::problem::Kind;

/// The outages that one worker's callers meet.
#[derive(Debug)]
pub(crate) struct Waits {
    began: Instant,
    outages: Outages,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits { began: Instant::now(), outages: Outages::default() }
    }
}

impl Waits {
    /// The seconds to wait after one more refusal of this kind.
    pub(crate) fn after(&self, kind: Kind) -> u32 {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut random = [0; 8];
        // Without random numbers, all wait for the same time.
        let _ = SystemRandom::new().fill(&mut random);
        let wait = self.outages.refused(kind.suffix(), now_ms, u64::from_le_bytes(random));
        u32::try_from(wait).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn callers_of_a_young_outage_wait_a_second_or_two() {
        let waits = Waits::default();
        let told: BTreeSet<u32> = (0..64).map(|_| waits.after(Kind::NoDecision)).collect();
        assert_eq!(told, BTreeSet::from([1, 2]));
    }
}
