//! `exhausted`: a bucket has no port left, or the whole namespace has none.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::{BucketFacts, Facts, leaks, more_ports};

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let mut free = facts.pool.clone();
    free.subtract(&facts.bound);
    let nothing = free.is_empty();
    let asks = facts.buckets.iter().any(|bucket| bucket.asked);
    if nothing {
        out.push(nothing_usable(facts));
    }
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let remaining = bucket.budget.remaining;
        // Where no destination has a port, that is said once.
        if nothing && bucket.budget.usable == 0 {
            continue;
        }
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
            // Asked for a destination, nobody asked for those who bind to a device toward it.
            severity: match certain && (bucket.asked || !asks) {
                true => Severity::Critical,
                false => Severity::Warning,
            },
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
        Cause::ListenersInRange => super::listeners::remedies(facts),
        Cause::ExplicitBind => super::bind::remedies(facts, Some(bucket)),
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
    let listening = facts.listening.len();
    let explicit = facts.bound.len().saturating_sub(listening);
    let cause = if reserved >= listening.max(explicit) {
        Cause::ReservedPorts
    } else if listening >= explicit {
        Cause::ListenersInRange
    } else {
        Cause::ExplicitBind
    };
    Finding {
        id: "exhausted".to_owned(),
        severity: Severity::Critical,
        cause,
        bucket: None,
        evidence: format!(
            "no port of {range} can be chosen: {reserved} are reserved, {listening} have a \
             listener, {explicit} are bound explicitly (before connect()); each connect() of every \
             program, to any destination, fails with \"Cannot assign requested address\""
        ),
        remedies: match cause {
            Cause::ReservedPorts => vec![super::reserved::remedy(facts)],
            Cause::ListenersInRange => super::listeners::remedies(facts),
            _ => super::bind::remedies(facts, facts.buckets.first()),
        },
    }
}
