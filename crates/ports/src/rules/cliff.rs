//! `filling`: a bucket is above half, where each connect() becomes slow, or will be used up soon.
//!
//! The kernel tries the ports of one parity first. Once half of a bucket is taken, every connect
//! scans all of that half in vain: from some microseconds to milliseconds.

use crate::report::{Finding, Remedy, Severity};

use super::{CLIFF, Facts, exhausted};

/// A bucket that will be used up within this time is a finding even while it is half empty.
const SOON_S: u64 = 120;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let budget = &bucket.budget;
        if budget.remaining.max == 0 {
            continue;
        }
        let soon = bucket.exhausted_in_s.filter(|s| *s <= SOON_S);
        let past_cliff = budget.pressure() >= CLIFF;
        if !past_cliff && soon.is_none() {
            continue;
        }
        let mut evidence =
            format!("{} has {} of {} ports left", bucket.name(), budget.remaining, budget.usable);
        if past_cliff {
            evidence.push_str("; above half, each connect() there searches for milliseconds");
        }
        if let Some(seconds) = soon {
            evidence.push_str(&format!("; at this rate none is left in {seconds} s"));
        }
        let mut remedies = exhausted::remedies(facts, bucket);
        if past_cliff {
            remedies.push(Remedy::then(
                "setting IP_LOCAL_PORT_RANGE on the socket (Linux 6.8 and later), even to the \
                 whole range, avoids the slow search",
            ));
        }
        out.push(Finding {
            id: "filling".to_owned(),
            severity: Severity::Warning,
            cause: bucket.cause,
            bucket: Some(index),
            evidence,
            remedies,
        });
    }
}
