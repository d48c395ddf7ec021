//! The generic cell rate algorithm, in exact integers.
//!
//! A [`Quota`] is a rate (so many tokens each period) with a burst. The whole
//! state of one key is one `u64`: its *theoretical arrival time* (TAT), the moment
//! its bucket would be full again. A key whose TAT has passed has a full bucket,
//! so a key never seen has the state [`FULL`].
//!
//! It knows no clock: `now` is an argument, and may go backwards (then it only
//! refuses more).
//!
//! Units. Callers speak nanoseconds ([`Nanos`]). States are in *parts* of a nanosecond, as
//! many as make one token a whole number of them: 1 for most rates (100 a minute, 50 a second), 3
//! for 3 a second, at most [`MAX_PARTS`]. A rate that would need more (1009 a second) is
//! rounded down, by less than a 32nd of a nanosecond a token. A state means nothing under
//! a quota of another rate.
//!
//! INVARIANT: of the requests at moments `t1..=t2`, at most `burst + rate * (t2 - t1)`
//! tokens are admitted, for any two moments, without any rounding. Proof: an admitted request
//! of cost `c` at `t` leaves TAT at or after `t`, moved by at least `c` tokens' time; it
//! is admitted only if TAT then is at most `t` plus `burst` tokens' time.
//!
//! Source: ITU-T I.371 annex A (the virtual scheduling form).

use std::time::Duration;

/// A moment, in nanoseconds since an origin of the caller's choice.
///
/// Moments past 2^58 (nine years) are taken as 2^58: then no bucket refills, and limits refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(u64);

const LAST_MOMENT: u64 = 1 << 58;

/// The most parts a nanosecond is divided into. With it, no sum below overflows: a moment is
/// below 2^63 parts, and the longest refill below 2^61.
pub const MAX_PARTS: u64 = 32;

impl Nanos {
    /// The origin.
    pub const ZERO: Nanos = Nanos(0);

    /// A moment that many nanoseconds after the origin.
    pub const fn new(nanos: u64) -> Nanos {
        Nanos(if nanos > LAST_MOMENT { LAST_MOMENT } else { nanos })
    }

    /// A moment that long after the origin.
    pub fn since_origin(elapsed: Duration) -> Nanos {
        Nanos::new(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the origin.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The moment `later` after this one.
    #[must_use]
    pub fn plus(self, later: Duration) -> Nanos {
        let later = u64::try_from(later.as_nanos()).unwrap_or(u64::MAX);
        Nanos::new(self.0.saturating_add(later))
    }
}

/// The state of a key that was never charged: a full bucket.
pub const FULL: u64 = 0;

/// No quota may take longer than this to refill a whole burst.
pub const MAX_REFILL: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Why a rate and a burst are no quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// A count of 0 admits nothing ever.
    #[error("a rate of 0 admits nothing; give at least 1, or refuse the route in a policy")]
    ZeroRate,
    /// A period of 0 is no rate.
    #[error("a rate needs a period longer than 0")]
    ZeroPeriod,
    /// More than one token a nanosecond.
    #[error("{count} tokens in {period_ns} ns is more than one a nanosecond")]
    TooFast {
        /// Tokens a period.
        count: u64,
        /// The period, in nanoseconds.
        period_ns: u64,
    },
    /// A burst of 0 admits nothing ever.
    #[error("a burst of 0 admits nothing; give at least 1")]
    ZeroBurst,
    /// The bucket would take longer than [`MAX_REFILL`] to fill.
    #[error("a burst of {burst} at this rate takes more than 400 days to refill; lower the burst")]
    TooSlow {
        /// The burst asked for.
        burst: u32,
    },
}

/// So many tokens each period, with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    count: u64,
    period_ns: u64,
    burst: u32,
    /// Parts in a nanosecond.
    parts: u64,
    /// Parts one token takes.
    token: u64,
    /// Parts the whole bucket takes: `token * burst`.
    horizon: u64,
}

/// What the quota says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Admitted; the state to keep.
    Admitted {
        /// The new state.
        state: u64,
    },
    /// Refused; the state does not change.
    Refused {
        /// Nanoseconds until the same request would be admitted, if nobody else asks.
        retry_after_ns: u64,
    },
    /// The cost is more than the burst: it is never admitted.
    NeverFits,
}

impl Quota {
    /// `count` tokens each `period`, and a bucket of `burst` tokens.
    pub fn new(count: u64, period: Duration, burst: u32) -> Result<Quota, QuotaError> {
        let longest = u64::try_from(MAX_REFILL.as_nanos()).unwrap_or(u64::MAX);
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        if count == 0 {
            return Err(QuotaError::ZeroRate);
        }
        if period_ns == 0 {
            return Err(QuotaError::ZeroPeriod);
        }
        if burst == 0 {
            return Err(QuotaError::ZeroBurst);
        }
        if count > period_ns {
            return Err(QuotaError::TooFast { count, period_ns });
        }
        if period_ns > longest {
            return Err(QuotaError::TooSlow { burst });
        }
        let parts = (count / common_divisor(count, period_ns)).min(MAX_PARTS);
        // Rounded up: a token never takes less time than it should.
        let token = (u128::from(period_ns) * u128::from(parts)).div_ceil(u128::from(count));
        let horizon = token * u128::from(burst);
        if horizon > u128::from(longest) * u128::from(parts) {
            return Err(QuotaError::TooSlow { burst });
        }
        // Both are at most `longest * MAX_PARTS`, below 2^61.
        Ok(Quota { count, period_ns, burst, parts, token: token as u64, horizon: horizon as u64 })
    }

    /// Tokens each period.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The period.
    pub fn period(&self) -> Duration {
        Duration::from_nanos(self.period_ns)
    }

    /// The size of the bucket, in tokens.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Tokens a second, for comparing quotas (rounded).
    pub fn per_second(&self) -> f64 {
        self.count as f64 * 1e9 / self.period_ns as f64
    }

    /// Decides one request of `cost` tokens at `now`, for a key in state `state`.
    ///
    /// An admitted request of a cost above 0 always gives a state strictly greater
    /// than `state`.
    #[inline]
    pub fn decide(&self, state: u64, cost: u32, now: Nanos) -> Answer {
        if cost > self.burst {
            return Answer::NeverFits;
        }
        let now_parts = now.0 * self.parts;
        let after = state.max(now_parts).saturating_add(u64::from(cost) * self.token);
        let allowed_at = after.saturating_sub(self.horizon);
        if allowed_at <= now_parts {
            Answer::Admitted { state: after }
        } else {
            Answer::Refused { retry_after_ns: allowed_at.div_ceil(self.parts) - now.0 }
        }
    }

    /// Whole tokens a key in state `state` could still spend at `now`.
    #[inline]
    pub fn remaining(&self, state: u64, now: Nanos) -> u32 {
        let debt = state.saturating_sub(now.0 * self.parts);
        let left = self.horizon.saturating_sub(debt) / self.token;
        u32::try_from(left).unwrap_or(self.burst)
    }

    /// Nanoseconds from `now` until a key in state `state` has a full bucket.
    #[inline]
    pub fn reset_ns(&self, state: u64, now: Nanos) -> u64 {
        let at = if self.parts == 1 { state } else { state.div_ceil(self.parts) };
        at.saturating_sub(now.0)
    }
}

/// Euclid's.
fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
