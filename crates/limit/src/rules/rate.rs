//! A rate as people write it: `100/min`, `50/s`, `1000/h`, `20/10s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// So many tokens each period of whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u64,
    period_s: u64,
}

/// A text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// It has another form.
    #[error(
        "expected a rate such as `100/min`, `50/s`, `1000/h`, `5000/day` or `20/10s`, got `{text}`"
    )]
    Form {
        /// The text.
        text: String,
    },
    /// It admits nothing, or its period is 0.
    #[error("expected a rate of at least 1, got `{text}`; to refuse a route, use a policy")]
    Zero {
        /// The text.
        text: String,
    },
}

impl Rate {
    /// `count` tokens each second.
    pub const fn each_second(count: std::num::NonZeroU32) -> Rate {
        Rate { count: count.get() as u64, period_s: 1 }
    }

    /// Tokens each period.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The period, in seconds.
    pub const fn period_s(self) -> u64 {
        self.period_s
    }

    /// The period.
    pub const fn period(self) -> Duration {
        Duration::from_secs(self.period_s)
    }

    /// Tokens a second (rounded).
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.period_s as f64
    }
}

const UNITS: [(&str, u64); 4] = [("day", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || RateError::Form { text: text.to_owned() };
        let (count, period) = text.split_once('/').ok_or_else(form)?;
        let digits = period.bytes().take_while(u8::is_ascii_digit).count();
        let (times, unit) = period.split_at(digits);
        let seconds = match unit {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3_600,
            "d" | "day" => 86_400,
            _ => return Err(form()),
        };
        // `parse` would take a leading `+`.
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(form());
        }
        let count: u64 = count.parse().map_err(|_| form())?;
        let times: u64 = if times.is_empty() { 1 } else { times.parse().map_err(|_| form())? };
        let period_s = times.checked_mul(seconds).ok_or_else(form)?;
        if count == 0 || period_s == 0 {
            return Err(RateError::Zero { text: text.to_owned() });
        }
        Ok(Rate { count, period_s })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |(_, seconds): &&(&str, u64)| self.period_s.is_multiple_of(*seconds);
        let (unit, seconds) = UNITS.iter().find(divides).copied().unwrap_or(("s", 1));
        match self.period_s / seconds {
            1 => write!(f, "{}/{unit}", self.count),
            times => write!(f, "{}/{times}{unit}", self.count),
        }
    }
}
