//! `churn`: connections are opened faster than their ports come back.

use crate::diag::TcpState;
use crate::report::{Cause, Finding, Remedy, Severity};

use super::{Facts, more_ports};

/// A warning needs this part of the sustainable rate.
const CLOSE_TO_IT: f64 = 0.8;
/// Below this rate, churn is no matter.
const SLOW_PER_S: f64 = 1.0;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let Some(opens) = bucket.opens_per_s else { continue };
        let time_waits = bucket.in_state(TcpState::TimeWait);
        let sustainable = bucket.sustainable_per_s;
        let leaves_time_waits = time_waits as f64 >= opens;
        if opens < SLOW_PER_S || opens < sustainable * CLOSE_TO_IT || !leaves_time_waits {
            continue;
        }
        let program = facts.program(&bucket.key);
        let mut remedies = more_ports(facts, bucket.key);
        remedies.push(Remedy::then(format!(
            "let {program} reuse its connections to {}; at most {sustainable:.0} new ones a second \
             can be sustained",
            bucket.key.destination()
        )));
        out.push(Finding {
            id: "churn".to_owned(),
            severity: Severity::Warning,
            cause: Cause::TimeWaitChurn,
            bucket: Some(index),
            evidence: format!(
                "{} opens {opens:.0} connections a second; its {} ports sustain {sustainable:.0}",
                bucket.name(),
                bucket.budget.usable
            ),
            remedies,
        });
    }
}
