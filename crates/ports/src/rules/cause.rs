//! What holds a bucket's ports: the largest of everything that takes some. `narrow_range` is the
//! cause only where normal use needs more than the range has; a leak or churn has its own name there
//! as well, with the range as a further finding.

use crate::diag::TcpState;
use crate::report::Cause;

use super::{BucketFacts, CLIFF, Facts};

/// A range below this many ports is narrow: no leak is needed to fill it.
pub(super) const NARROW: u32 = 1024;
/// Few programs mean to hold more connections than this to one destination: pools have some dozens
/// (HikariCP 10, PostgreSQL accepts 100, Go keeps 100). More that stay are a leak, however small the
/// range is.
const NORMAL: u64 = 256;
/// So many more opened than closed a second: the number grows.
const GROWING_PER_S: f64 = 2.0;

pub(super) fn of(facts: &Facts<'_>, bucket: &BucketFacts<'_>) -> Cause {
    let range = facts.snapshot.settings.range;
    let left = f64::from(bucket.budget.remaining.max);
    // Nothing is scarce: nothing has a cause.
    if left > f64::from(range.len()) * CLIFF && bucket.exhausted_in_s.is_none() {
        return Cause::None;
    }
    let state = |states: &[TcpState]| -> u64 {
        bucket.bucket.map_or(0, |b| {
            b.sockets
                .iter()
                .filter(|e| states.contains(&e.state) && facts.pool.contains(e.port))
                .filter(|e| !facts.bound.contains(e.port))
                .count() as u64
        })
    };
    let reserved = u64::from(range.len().saturating_sub(facts.pool.len()));
    let listening = u64::from(facts.listening.len());
    let explicit = u64::from(facts.bound.len()).saturating_sub(listening);
    let established = state(&[TcpState::Established]);
    let grows = match (bucket.opens_per_s, bucket.closes_per_s) {
        (Some(opens), Some(closes)) => opens - closes >= GROWING_PER_S,
        _ => false,
    };
    let normal = range.len() < NARROW && established < NORMAL && !grows;
    let kept = if normal { Cause::NarrowRange } else { Cause::EstablishedLeak };
    let takers = [
        (state(&[TcpState::TimeWait]), Cause::TimeWaitChurn),
        (established, kept),
        (state(&[TcpState::CloseWait]), Cause::CloseWaitLeak),
        (
            state(&[TcpState::FinWait1, TcpState::FinWait2, TcpState::Closing, TcpState::LastAck]),
            Cause::FinWait2,
        ),
        (state(&[TcpState::SynSent]), Cause::SynSent),
        (reserved, Cause::ReservedPorts),
        (listening, Cause::ListenersInRange),
        (explicit, Cause::ExplicitBind),
    ];
    takers
        .into_iter()
        .filter(|(ports, _)| *ports > 0)
        .max_by_key(|(ports, _)| *ports)
        .map_or(kept_or_none(range.len()), |(_, cause)| cause)
}

/// Scarce although nothing takes ports: the range itself is tiny.
fn kept_or_none(range: u32) -> Cause {
    if range < NARROW { Cause::NarrowRange } else { Cause::None }
}
