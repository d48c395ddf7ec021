//! `reuse_off`: `tcp_tw_reuse` would help, and is off (or its condition, timestamps, is missing).

use crate::budget::reuse_allowed;
use crate::diag::TcpState;
use crate::report::{Cause, Finding, Remedy, Severity};
use crate::snapshot::TimestampUse;
use crate::table::BucketKey;

use super::{CLIFF, Facts};

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for (index, bucket) in facts.buckets.iter().enumerate() {
        // Of a port that was bound before connect() no TIME_WAIT is ever reused.
        let time_waits = bucket.chosen_in_state(TcpState::TimeWait, &facts.bound);
        let part = time_waits as f64 / f64::from(bucket.budget.usable.max(1));
        if part < CLIFF / 2.0 {
            continue;
        }
        let settings = &facts.snapshot.settings;
        let timestamps = facts.snapshot.evidence.timestamps.get(&bucket.key.dst);
        if timestamps == Some(&TimestampUse::Off) {
            out.push(Finding {
                id: "no_timestamps".to_owned(),
                severity: Severity::Info,
                cause: Cause::TimeWaitChurn,
                bucket: Some(index),
                evidence: format!(
                    "connections to {} do not use TCP timestamps, so none of their {time_waits} \
                     TIME_WAITs can be reused",
                    bucket.key.dst
                ),
                remedies: if settings.timestamps == 0 {
                    vec![Remedy::now(
                        "new connections will have timestamps again",
                        facts.command("sysctl -w net.ipv4.tcp_timestamps=1"),
                    )]
                } else {
                    vec![Remedy::then(format!(
                        "switch tcp_timestamps on at {}, or at the middlebox that strips them",
                        bucket.key.dst
                    ))]
                },
            });
        } else if !reuse_allowed(settings, bucket.key) {
            out.push(Finding {
                id: "reuse_off".to_owned(),
                severity: Severity::Info,
                cause: Cause::TimeWaitChurn,
                bucket: Some(index),
                evidence: format!(
                    "tcp_tw_reuse is {}, so the {time_waits} TIME_WAITs of {} block their ports \
                     for 60 s",
                    settings.tw_reuse,
                    bucket.name()
                ),
                remedies: remedy(facts, bucket.key).into_iter().collect(),
            });
        }
    }
}

/// Switching reuse on, where it can help this bucket.
pub(super) fn remedy(facts: &Facts<'_>, key: BucketKey) -> Option<Remedy> {
    let settings = &facts.snapshot.settings;
    let timestamps = facts.snapshot.evidence.timestamps.get(&key.dst);
    let possible = timestamps != Some(&TimestampUse::Off) && settings.timestamps != 0;
    if reuse_allowed(settings, key) || !possible {
        return None;
    }
    let delay_s = f64::from(settings.tw_reuse_delay_ms) / 1000.0;
    let condition = match timestamps {
        Some(TimestampUse::On) => "",
        _ => ", if the other side has TCP timestamps on",
    };
    Some(Remedy::now(
        format!(
            "a TIME_WAIT is reused after {delay_s:.0} s instead of 60{condition}; safe for outgoing connections"
        ),
        facts.command("sysctl -w net.ipv4.tcp_tw_reuse=1"),
    ))
}
