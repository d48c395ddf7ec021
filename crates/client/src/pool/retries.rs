//! How many requests of an upstream may be sent a second time.
//!
//! A request that may have been processed already costs the upstream twice. Where many fail, sending
//! them all again would add load exactly when it is too much. So in each window at most a fifth of
//! the requests are sent again, and a few where there are few.
//!
//! What the upstream did not process costs nothing here: it never got it, or says so, or closed a kept
//! connection before a byte of the answer, as it does with one that was idle.
//!
//! Pure: the clock and the number of requests so far are arguments.

/// The length of a window.
const WINDOW_MS: u64 = 10_000;
/// Of so many requests, one may be sent again.
const SHARE: u64 = 5;
/// So many may be sent again in a window, however few requests there are.
const LEAST: u64 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    began_ms: u64,
    /// Requests until then.
    requests: u64,
    /// The allowance that the window before this one would have had by now.
    before: u64,
    spent: u64,
}

impl RetryBudget {
    /// Whether one more request may be sent again; if so, it counts. `requests`: of all time.
    pub(super) fn take(&mut self, now_ms: u64, requests: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.began_ms);
        if age_ms >= WINDOW_MS {
            // Nobody asked since; their average tells how many there were in one window.
            let since = requests.saturating_sub(self.requests);
            self.before = since.saturating_mul(WINDOW_MS) / age_ms / SHARE;
            self.began_ms = now_ms;
            self.requests = requests;
            self.spent = 0;
        }
        let now = requests.saturating_sub(self.requests) / SHARE;
        if self.spent >= self.before.max(now).max(LEAST) {
            return false;
        }
        self.spent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_may_always_be_sent_again() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..1_000).filter(|_| budget.take(5, 0)).count() as u64, LEAST);
        assert!(!budget.take(WINDOW_MS - 1, 0));
        assert!(budget.take(WINDOW_MS, 0), "a new window");
    }

    #[test]
    fn of_many_a_fifth() {
        let mut budget = RetryBudget::default();
        assert!(budget.take(0, 0));
        let taken = (0..20_000).filter(|n| budget.take(n / 10, *n)).count();
        assert!((3_900..=4_000).contains(&taken), "{taken}");
    }

    /// After an hour without a failure, the first moments of one may use what the hour earned a window.
    #[test]
    fn the_time_before_counts() {
        let mut budget = RetryBudget::default();
        let hour = 3_600_000;
        let requests = 3_600 * 1_000;
        let taken = (0..10_000).filter(|_| budget.take(hour, requests)).count();
        assert_eq!(taken, 2_000, "a fifth of 10 s at 1,000 a second");
    }

    proptest! {
        /// Over any time, retries are at most a fifth of the requests, and what each window has at
        /// least and from the one before it.
        #[test]
        fn never_more_than_the_budget(steps in proptest::collection::vec((0_u64..3_000, 0_u64..500, 0_u64..200), 1..200)) {
            let mut budget = RetryBudget::default();
            let (mut now, mut requests, mut taken) = (0, 0, 0_u64);
            for (wait, more, asked) in steps {
                now += wait;
                requests += more;
                taken += (0..asked).filter(|_| budget.take(now, requests)).count() as u64;
            }
            let windows = now / WINDOW_MS + 1;
            prop_assert!(taken <= 2 * requests / SHARE + windows * LEAST);
        }
    }
}
