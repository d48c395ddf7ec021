//! GCRA against an independent token bucket of rational numbers, and its promise.

use std::time::Duration;

use keepgate_limit::gcra::{Answer, FULL, Nanos, Quota, QuotaError};
use proptest::prelude::*;

/// A token bucket in exact rationals: tokens are counted in units of 1 / period_ns, so a
/// nanosecond adds `count` units and a token is `period_ns` units.
struct Bucket {
    units: i128,
    full: i128,
    token: i128,
    count: i128,
    at: u64,
}

impl Bucket {
    fn new(count: u64, period_ns: u64, burst: u32) -> Bucket {
        let token = i128::from(period_ns);
        let full = token * i128::from(burst);
        Bucket { units: full, full, token, count: i128::from(count), at: 0 }
    }

    fn admits(&mut self, cost: u32, now: u64) -> bool {
        let gained = i128::from(now - self.at) * self.count;
        self.units = (self.units + gained).min(self.full);
        self.at = now;
        let price = self.token * i128::from(cost);
        let admitted = price <= self.units;
        if admitted {
            self.units -= price;
        }
        admitted
    }

    fn whole_tokens(&self) -> i128 {
        self.units / self.token
    }
}

fn quota(count: u64, period_ns: u64, burst: u32) -> Quota {
    Quota::new(count, Duration::from_nanos(period_ns), burst).expect("a quota")
}

/// Every schedule of six requests with gaps 0..=3 and costs 1..=2, for every small quota
/// whose token takes whole nanoseconds: the same answers, remaining and waits as the bucket.
#[test]
fn equals_the_bucket_on_every_small_schedule() {
    let mut compared = 0_u64;
    for token_ns in 1..=3_u64 {
        for count in 1..=2_u64 {
            for burst in 1..=3_u32 {
                let quota = quota(count, token_ns * count, burst);
                for schedule in 0..8_u64.pow(6) {
                    let mut bucket = Bucket::new(count, token_ns * count, burst);
                    let (mut state, mut now, mut rest) = (FULL, 5, schedule);
                    for _ in 0..6 {
                        let (gap, cost) = (rest % 4, 1 + (rest / 4 % 2) as u32);
                        rest /= 8;
                        now += gap;
                        let expected = bucket.admits(cost, now);
                        let at = Nanos::new(now);
                        let answer = quota.decide(state, cost, at);
                        match answer {
                            Answer::Admitted { state: next } => state = next,
                            Answer::Refused { retry_after_ns } => {
                                // Not a nanosecond early, not one late.
                                let due = now + retry_after_ns;
                                assert!(matches!(
                                    quota.decide(state, cost, Nanos::new(due)),
                                    Answer::Admitted { .. }
                                ));
                                assert!(!matches!(
                                    quota.decide(state, cost, Nanos::new(due - 1)),
                                    Answer::Admitted { .. }
                                ));
                            }
                            Answer::NeverFits => assert!(cost > burst),
                        }
                        assert_eq!(matches!(answer, Answer::Admitted { .. }), expected);
                        assert_eq!(i128::from(quota.remaining(state, at)), bucket.whole_tokens());
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 3 * 2 * 3 * 8_u64.pow(6) * 6);
}

/// Tokens of fractions of a nanosecond, drawn as fast as the quota lets them: never faster than
/// the ideal, and slower by less than two nanoseconds a token (a wait is whole nanoseconds).
#[test]
fn rates_with_a_remainder_are_never_faster_and_hardly_slower() {
    for (count, period_ns) in [(3, 1_000_000_000), (7, 60_000_000_000), (999_983, 1_000_000_000)] {
        let quota = quota(count, period_ns, 1);
        let start = Nanos::new(12_345);
        let (mut state, mut now) = (FULL, start);
        let tokens = count * 5;
        for _ in 0..tokens {
            if let Answer::Refused { retry_after_ns } = quota.decide(state, 1, now) {
                now = now.plus(Duration::from_nanos(retry_after_ns));
            }
            state = admitted(&quota, state, now);
        }
        let took = u128::from(now.as_u64() - start.as_u64());
        let ideal = u128::from(tokens - 1) * u128::from(period_ns);
        assert!(took * u128::from(count) >= ideal, "{count}: {took} ns is too fast");
        let late = took * u128::from(count) - ideal;
        assert!(late <= 2 * u128::from(tokens) * u128::from(count), "{count}: {took} ns");
    }
}

/// From a bucket that never idles, after any whole number of periods exactly so many have come back.
#[test]
fn a_rate_with_a_remainder_does_not_drift() {
    let quota = quota(7, 60_000_000_000, 7_000);
    let (mut state, start) = (FULL, 1_u64);
    for _ in 0..7_000 {
        state = admitted(&quota, state, Nanos::new(start));
    }
    for periods in 0..=1_000_u64 {
        let at = start + periods * 60_000_000_000;
        assert_eq!(u64::from(quota.remaining(state, Nanos::new(at))), 7 * periods);
        assert_eq!(
            u64::from(quota.remaining(state, Nanos::new(at - 1))),
            (7 * periods).saturating_sub(1)
        );
    }
}

/// The whole burst is there at any moment, whatever the rate.
#[test]
fn a_full_bucket_holds_its_whole_burst() {
    for count in 1..200 {
        for now in [1, 7, 1_000_003, 999_999_999_999] {
            let quota = quota(count, 1_000_000_000, 10);
            let mut state = FULL;
            for left in (0..10).rev() {
                state = admitted(&quota, state, Nanos::new(now));
                assert_eq!(quota.remaining(state, Nanos::new(now)), left);
            }
            assert!(matches!(quota.decide(state, 1, Nanos::new(now)), Answer::Refused { .. }));
        }
    }
}

fn admitted(quota: &Quota, state: u64, now: Nanos) -> u64 {
    match quota.decide(state, 1, now) {
        Answer::Admitted { state } => state,
        other => panic!("{other:?} where a token is there"),
    }
}

#[derive(Debug, Clone)]
struct Schedule {
    count: u64,
    period_ns: u64,
    burst: u32,
    /// Steps (forwards or backwards) and costs.
    steps: Vec<(i64, u32)>,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let quotas = prop_oneof![
        (1..2_000_u64, Just(1_000_000_000_u64), 1..100_u32),
        (1..500_u64, Just(60_000_000_000_u64), 1..500_u32),
        (1..50_u64, 50..5_000_u64, 1..20_u32),
    ];
    quotas.prop_flat_map(|(count, period_ns, burst)| {
        let token = (period_ns / count) as i64;
        let step = prop_oneof![
            4 => Just(0_i64),
            4 => 0..=2 * token,
            // Window edges: a whole period, give or take a nanosecond.
            2 => (-1..=1_i64).prop_map(move |off| period_ns as i64 + off),
            2 => (-1..=1_i64).prop_map(move |off| token + off),
            1 => 0..=3 * period_ns as i64,
            // The clock goes backwards.
            1 => -3 * token..=0,
        ];
        proptest::collection::vec((step, 1..=burst.min(5)), 1..200)
            .prop_map(move |steps| Schedule { count, period_ns, burst, steps })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// The promise: over any interval, at most `burst + rate * time`, in exact rationals,
    /// whatever the clock does.
    #[test]
    fn never_more_than_burst_and_rate(schedule in schedules()) {
        let Schedule { count, period_ns, burst, steps } = schedule;
        let quota = quota(count, period_ns, burst);
        let mut state = FULL;
        let mut now = 1_i64 << 40;
        let mut admitted: Vec<(i64, u32)> = Vec::new();
        for (step, cost) in steps {
            now += step;
            let at = Nanos::new(now as u64);
            match quota.decide(state, cost, at) {
                Answer::Admitted { state: next } => {
                    prop_assert!(next > state, "an admitted request moves the state up");
                    state = next;
                    admitted.push((now, cost));
                }
                Answer::Refused { retry_after_ns } => {
                    let due = at.plus(Duration::from_nanos(retry_after_ns));
                    let then = quota.decide(state, cost, due);
                    prop_assert!(matches!(then, Answer::Admitted { .. }), "kept its word");
                    let early = Nanos::new(due.as_u64() - 1);
                    let before = quota.decide(state, cost, early);
                    prop_assert!(!matches!(before, Answer::Admitted { .. }), "no later than needed");
                }
                Answer::NeverFits => prop_assert!(cost > burst),
            }
        }
        for (first, (from, _)) in admitted.iter().enumerate() {
            let mut tokens = 0_i128;
            for (until, cost) in &admitted[first..] {
                tokens += i128::from(*cost);
                // tokens <= burst + (until - from) * count / period, multiplied out. A clock that
                // went back gives no time.
                let elapsed = i128::from(*until - *from).max(0);
                let allowed = i128::from(burst) * i128::from(period_ns) + elapsed * i128::from(count);
                prop_assert!(
                    tokens * i128::from(period_ns) <= allowed,
                    "{tokens} tokens in {elapsed} ns"
                );
            }
        }
    }

    /// With tokens of whole nanoseconds and a clock that goes forwards, the very answers of the bucket.
    #[test]
    fn equals_the_bucket_on_random_schedules(
        token_ns in 1..10_000_u64, count in 1..100_u64, burst in 1..50_u32,
        steps in proptest::collection::vec((0..20_000_u64, 1..8_u32), 1..300),
    ) {
        let quota = quota(count, token_ns * count, burst);
        let mut bucket = Bucket::new(count, token_ns * count, burst);
        let (mut state, mut now) = (FULL, 1_u64);
        for (gap, cost) in steps {
            now += gap;
            let answer = quota.decide(state, cost, Nanos::new(now));
            if let Answer::Admitted { state: next } = answer {
                state = next;
            }
            prop_assert_eq!(matches!(answer, Answer::Admitted { .. }), bucket.admits(cost, now));
            prop_assert_eq!(i128::from(quota.remaining(state, Nanos::new(now))), bucket.whole_tokens());
        }
    }
}

#[test]
fn what_is_no_quota_is_refused() {
    let second = Duration::from_secs(1);
    assert_eq!(Quota::new(0, second, 1), Err(QuotaError::ZeroRate));
    assert_eq!(Quota::new(1, Duration::ZERO, 1), Err(QuotaError::ZeroPeriod));
    assert_eq!(Quota::new(1, second, 0), Err(QuotaError::ZeroBurst));
    let too_fast = QuotaError::TooFast { count: 1_000_000_001, period_ns: 1_000_000_000 };
    assert_eq!(Quota::new(1_000_000_001, second, 1), Err(too_fast));
    let day = Duration::from_secs(86_400);
    assert_eq!(Quota::new(1, day, 401), Err(QuotaError::TooSlow { burst: 401 }));
    assert!(Quota::new(1, day, 400).is_ok());
}

#[test]
fn the_last_moments_do_not_overflow() {
    let quota = quota(1, 86_400_000_000_000, 400);
    let end = Nanos::new(u64::MAX);
    let mut state = FULL;
    for _ in 0..400 {
        state = admitted(&quota, state, end);
    }
    assert!(matches!(quota.decide(state, 1, end), Answer::Refused { .. }));
}
