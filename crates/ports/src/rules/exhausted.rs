//! `exhausted`: a bucket has no port left, or the whole namespace has none.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::{BucketFacts, Facts, leaks, more_ports};

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let mut free = facts.pool.clone();
    free.subtract(&facts.bound);
    if free.is_empty() && facts.buckets.is_empty() {
        out.push(nothing_usable(facts));
    }
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let remaining = bucket.budget.remaining;
        if remaining.min > 0 || (remaining.max > 0 && bucket.budget.usable > 0 && !worth(bucket)) {
            continue;
        }
        let certain = bucket.budget.is_used_up();
        let words = if certain {
            let (used, usable) = (bucket.budget.used, bucket.budget.usable);
            // The scan of an odd-sized range reaches one port by chance.
            let left = if used < usable { "at most one port left" } else { "no port left" };
            format!(
                "{} has {left} ({used} of {usable} used): each connect() there fails with \"Cannot \
                 assign requested address\"",
                bucket.name(),
            )
        } else {
            format!(
                "{} may have no port left: {remaining} of {} remain",
                bucket.name(),
                bucket.budget.usable
            )
        };
        out.push(Finding {
            id: "exhausted".to_owned(),
            severity: if certain { Severity::Critical } else { Severity::Warning },
            cause: bucket.cause,
            bucket: Some(index),
            evidence: words,
            remedies: remedies(facts, bucket),
        });
    }
}

/// An interval that begins at 0 counts only where most of the ports are taken for certain.
fn worth(bucket: &BucketFacts<'_>) -> bool {
    bucket.budget.pressure() >= super::CLIFF || bucket.budget.remaining.max <= 2
}

/// What helps against a lack of ports in this bucket, by its cause.
pub(super) fn remedies(facts: &Facts<'_>, bucket: &BucketFacts<'_>) -> Vec<Remedy> {
    let program = facts.program(&bucket.key);
    let dst = bucket.key.destination();
    match bucket.cause {
        Cause::TimeWaitChurn => {
            let mut all = more_ports(facts, bucket.key);
            all.push(Remedy::then(format!(
                "let {program} reuse its connections to {dst} (keep-alive, a connection pool) \
                 instead of opening one per request; a closed connection keeps its port for 60 s"
            )));
            all
        }
        Cause::ReservedPorts => vec![super::reserved::remedy(facts)],
        Cause::ListenersInRange => {
            let mut all: Vec<Remedy> = super::range::remedy(facts).into_iter().collect();
            all.push(Remedy::then(
                "move the listeners out of the range: each costs every destination one port",
            ));
            all
        }
        Cause::ExplicitBind => super::bind::remedies(facts),
        Cause::NarrowRange => {
            let mut all: Vec<Remedy> = super::range::remedy(facts).into_iter().collect();
            all.push(Remedy::then(format!("let {program} hold fewer connections to {dst}")));
            all
        }
        cause => {
            let mut all = leaks::remedies(facts, bucket, cause);
            all.extend(super::range::remedy(facts));
            all
        }
    }
}

fn nothing_usable(facts: &Facts<'_>) -> Finding {
    let range = facts.snapshot.settings.range;
    let reserved = range.len().saturating_sub(facts.pool.len());
    let by_reservation = reserved >= facts.bound.len();
    Finding {
        id: "exhausted".to_owned(),
        severity: Severity::Critical,
        cause: if by_reservation { Cause::ReservedPorts } else { Cause::ExplicitBind },
        bucket: None,
        evidence: format!(
            "no port of {range} can be chosen: {reserved} are reserved, {} are bound; each \
             connect() fails with \"Cannot assign requested address\"",
            facts.bound.len()
        ),
        remedies: if by_reservation {
            vec![super::reserved::remedy(facts)]
        } else {
            super::bind::remedies(facts)
        },
    }
}
