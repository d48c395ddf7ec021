//! What the limits say to one request in one phase.

use super::admits;
use crate::concurrency::Permit;
use crate::gcra::{Answer, Nanos, Quota};
use crate::store::Charge;

/// The most policies a verdict reports on; it is decided by all of them.
pub const MAX_REPORTS: usize = 4;

/// What the limits say to one request in one phase.
///
/// It owns the request's concurrency permits: keep it, or what [`LimitVerdict::take_permits`]
/// returns, until the answer's body has ended.
#[derive(Debug)]
#[must_use = "dropping a verdict gives its concurrency permits back"]
pub struct LimitVerdict {
    pub(crate) limiter: u64,
    admitted: bool,
    len: u8,
    reports: [PolicyReport; MAX_REPORTS],
    permits: Vec<Permit>,
}

/// What one policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyReport {
    pub(crate) policy: u16,
    /// What is counted.
    pub unit: Unit,
    /// Its answer.
    pub outcome: Outcome,
    /// It counts but does not refuse.
    pub shadow: bool,
    /// Tokens (or places) left to the caller.
    pub remaining: u32,
    /// Nanoseconds until the bucket is full; 0 for places.
    pub reset_ns: u64,
    /// Nanoseconds until a request may pass again: the same request if this one was refused,
    /// any if nothing remains; otherwise 0. For places it is not known and 0.
    pub retry_after_ns: u64,
}

/// What a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests (their costs) over time.
    Rate,
    /// Requests under way.
    Concurrency,
}

/// A policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Within the limit.
    Admitted,
    /// Above it.
    Refused,
}

const NOTHING: PolicyReport = PolicyReport {
    policy: 0,
    unit: Unit::Rate,
    outcome: Outcome::Admitted,
    shadow: false,
    remaining: 0,
    reset_ns: 0,
    retry_after_ns: 0,
};

impl LimitVerdict {
    pub(super) fn new(limiter: u64) -> LimitVerdict {
        LimitVerdict {
            limiter,
            admitted: true,
            len: 0,
            reports: [NOTHING; MAX_REPORTS],
            permits: Vec::new(),
        }
    }

    /// For a request that no limit was asked about.
    pub fn unasked() -> LimitVerdict {
        LimitVerdict::new(0)
    }

    /// Whether the request may go on.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// What the policies said; if more than [`MAX_REPORTS`] applied, refusals first.
    pub fn reports(&self) -> &[PolicyReport] {
        self.reports.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// The reports that refuse the request (not those in shadow mode).
    pub fn refusals(&self) -> impl Iterator<Item = &PolicyReport> {
        self.reports().iter().filter(|r| r.outcome == Outcome::Refused && !r.shadow)
    }

    /// The reports that would have refused it, were they not in shadow mode.
    pub fn shadow_refusals(&self) -> impl Iterator<Item = &PolicyReport> {
        self.reports().iter().filter(|r| r.outcome == Outcome::Refused && r.shadow)
    }

    /// Takes the concurrency permits out; dropping them gives the places back.
    pub fn take_permits(&mut self) -> Vec<Permit> {
        std::mem::take(&mut self.permits)
    }

    pub(super) fn release(&mut self) {
        self.permits.clear();
    }

    pub(super) fn concurrency(
        &mut self,
        policy: u16,
        shadow: bool,
        limit: u32,
        acquired: Result<(Permit, u32), u32>,
    ) {
        let (outcome, under_way) = match acquired {
            Ok((permit, under_way)) => {
                self.permits.push(permit);
                (Outcome::Admitted, under_way)
            }
            Err(under_way) => (Outcome::Refused, under_way),
        };
        let remaining = limit.saturating_sub(under_way);
        let unit = Unit::Concurrency;
        self.push(PolicyReport { policy, unit, outcome, shadow, remaining, ..NOTHING });
    }

    /// A look at places, of which none is taken.
    pub(super) fn places(&mut self, policy: u16, shadow: bool, limit: u32, under_way: u32) {
        let remaining = limit.saturating_sub(under_way);
        let outcome = if remaining > 0 { Outcome::Admitted } else { Outcome::Refused };
        let unit = Unit::Concurrency;
        self.push(PolicyReport { policy, unit, outcome, shadow, remaining, ..NOTHING });
    }

    #[inline]
    pub(super) fn rate(
        &mut self,
        policy: u16,
        shadow: bool,
        quota: &Quota,
        charge: Charge,
        now: Nanos,
    ) {
        let remaining = quota.remaining(charge.state, now);
        let outcome = if admits(charge.answer) { Outcome::Admitted } else { Outcome::Refused };
        let retry_after_ns = match charge.answer {
            Answer::Refused { retry_after_ns } => retry_after_ns,
            Answer::NeverFits => u64::MAX,
            Answer::Admitted { .. } if remaining > 0 => 0,
            Answer::Admitted { .. } => match quota.decide(charge.state, 1, now) {
                Answer::Refused { retry_after_ns } => retry_after_ns,
                Answer::Admitted { .. } | Answer::NeverFits => 0,
            },
        };
        let reset_ns = quota.reset_ns(charge.state, now);
        let unit = Unit::Rate;
        self.push(PolicyReport {
            policy,
            unit,
            outcome,
            shadow,
            remaining,
            reset_ns,
            retry_after_ns,
        });
    }

    #[inline]
    fn push(&mut self, report: PolicyReport) {
        let refuses = report.outcome == Outcome::Refused && !report.shadow;
        self.admitted &= !refuses;
        if let Some(free) = self.reports.get_mut(usize::from(self.len)) {
            *free = report;
            self.len += 1;
        } else if refuses
            && let Some(last) = self.reports.iter_mut().rfind(|r| r.outcome == Outcome::Admitted)
        {
            *last = report;
        }
    }
}
