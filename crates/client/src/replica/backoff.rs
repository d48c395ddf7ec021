//! The pause between two attempts: exponential, with full jitter, bounded at both ends.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new((min, max): (Duration, Duration)) -> Backoff {
        Backoff { min, max: max.max(min), ceiling: min }
    }

    /// Something worked: begin again at the lower end.
    pub(super) fn reset(&mut self) {
        self.ceiling = self.min;
    }

    /// The next pause: between the lower end and a ceiling that doubles each time.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.min + (self.ceiling - self.min).mul_f64(random());
        self.ceiling = (self.ceiling * 2).min(self.max);
        pause
    }
}

/// A number below `n`; 0 where that is 0.
pub(super) fn random_below(n: usize) -> usize {
    let bits = RandomState::new().build_hasher().finish();
    // INVARIANT: less than `n`, which is a usize.
    let scaled = (u128::from(bits) * n as u128) >> 64;
    usize::try_from(scaled).unwrap_or_default()
}

/// A pause from `min` up to eight times that, and `max` at most: between two centers of a list.
pub(super) fn short((min, max): (Duration, Duration)) -> Duration {
    (min + (min * 7).mul_f64(random())).min(max.max(min))
}

/// At least 0, less than 1; from the keys of a fresh hash map, which the standard library seeds
/// from the system.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let random = bits as f64 / (1_u64 << 53) as f64;
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_within_its_bounds() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new((min, max));
        let mut pauses = Vec::new();
        for _ in 0..1000 {
            let pause = backoff.next();
            assert!(pause >= min && pause <= max, "{pause:?}");
            pauses.push(pause);
        }
        assert_eq!(pauses[0], min);
        pauses.sort();
        assert!(
            pauses[10] < Duration::from_millis(300) && pauses[990] > Duration::from_millis(700)
        );
        backoff.reset();
        assert_eq!(backoff.next(), min);
    }

    #[test]
    fn pauses_between_centers_are_short_and_numbers_are_spread() {
        let bounds = (Duration::from_millis(50), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..1000).map(|_| short(bounds)).collect();
        assert!(pauses.iter().all(|pause| (50..=400).contains(&pause.as_millis())));
        assert!(pauses.iter().any(|pause| pause.as_millis() < 150));
        assert!(pauses.iter().any(|pause| pause.as_millis() > 300));
        let mut counts = [0; 3];
        (0..3000).for_each(|_| counts[random_below(3)] += 1);
        assert!(counts.iter().all(|count| *count > 500), "{counts:?}");
        assert_eq!((random_below(0), random_below(1)), (0, 0));
    }
}
