//! How long a caller is asked to wait after a 503 or 429 (`Retry-After`).
//!
//! The wait grows with the outage, so that a long one is not met by everybody every second, and it is
//! jittered, so that callers do not come back together. Nobody tells when an outage is over: it is
//! when nothing was refused for twice as long as the last caller was asked to wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The longest wait before jitter, in seconds; with jitter it is at most twice that.
const MAX_WAIT_S: u64 = 30;
/// Of an outage's length so far, the part that a caller waits.
const PART: u64 = 4;
/// Kinds of outages that are told apart; beyond that they are taken together.
const MAX_KINDS: usize = 64;

/// The outages that go on, by kind.
#[derive(Debug, Default)]
pub struct Outages(Mutex<HashMap<&'static str, Outage>>);

#[derive(Clone, Copy, Debug)]
struct Outage {
    began_ms: u64,
    last_ms: u64,
    told_s: u64,
}

impl Outages {
    /// The seconds to wait after a refusal of this kind. `now_ms` is on any clock that does not go
    /// back; `random` is any number, another one each time.
    pub fn refused(&self, kind: &'static str, now_ms: u64, random: u64) -> u64 {
        let mut outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = outages.contains_key(kind);
        let kind = if is_known || outages.len() < MAX_KINDS { kind } else { "other" };
        let outage =
            outages.entry(kind).or_insert(Outage { began_ms: now_ms, last_ms: now_ms, told_s: 1 });
        if now_ms.saturating_sub(outage.last_ms) > 2_000 * outage.told_s {
            outage.began_ms = now_ms;
        }
        outage.last_ms = now_ms;
        outage.told_s = wait_s(now_ms.saturating_sub(outage.began_ms), random);
        outage.told_s
    }
}

/// The seconds to wait when an outage has lasted so long: a quarter of that, between 1 and
/// 30 s, and up to as much again.
pub fn wait_s(lasted_ms: u64, random: u64) -> u64 {
    let least = (lasted_ms / 1_000 / PART).clamp(1, MAX_WAIT_S);
    least + random % (least + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    #[test]
    fn the_wait_grows_with_the_outage_up_to_a_bound_and_is_jittered() {
        let mut seed = 1;
        let mut last = 0;
        for lasted_s in [0, 1, 8, 20, 60, 120, 3_600, u64::MAX / 1_000] {
            let waits: Vec<u64> =
                (0..200).map(|_| wait_s(lasted_s * 1_000, random(&mut seed))).collect();
            let (least, most) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
            assert_eq!(least, (lasted_s / 4).clamp(1, MAX_WAIT_S), "{lasted_s} s");
            assert_eq!(most, 2 * least, "{lasted_s} s");
            assert!(least >= last);
            last = least;
        }
        assert_eq!(last, MAX_WAIT_S);
    }

    #[test]
    fn an_outage_goes_on_while_callers_come_back_and_ends_when_none_is_refused() {
        let outages = Outages::default();
        let mut now = 5_000;
        assert_eq!(outages.refused("full", now, 0), 1);
        // Each comes back when it was asked to.
        for _ in 0..100 {
            now += 1_000 * outages.refused("full", now, 0);
        }
        assert_eq!(outages.refused("full", now, 0), MAX_WAIT_S);
        assert_eq!(outages.refused("busy", now, 0), 1, "another kind");
        now += 2_000 * MAX_WAIT_S;
        assert_eq!(outages.refused("full", now, 0), MAX_WAIT_S, "the last moment");
        now += 2_000 * MAX_WAIT_S + 1;
        assert_eq!(outages.refused("full", now, 0), 1, "a new outage");
    }

    #[test]
    fn kinds_are_bounded() {
        let outages = Outages::default();
        for n in 0..2 * MAX_KINDS {
            outages.refused(Box::leak(format!("kind {n}").into_boxed_str()), 0, 0);
        }
        assert!(outages.0.lock().unwrap().len() <= MAX_KINDS + 1);
    }
}
