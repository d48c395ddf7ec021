//! `leak`: sockets pile up in a state that a healthy program leaves quickly.

use crate::diag::TcpState;
use crate::report::{Cause, Finding, Remedy, Severity};

use super::{BucketFacts, Facts};

/// So many CLOSE_WAITs toward one destination are no accident.
const CLOSE_WAITS: u64 = 100;
/// So many half-closed connections.
const FIN_WAITS: u64 = 500;
/// So many unanswered connects.
const SYN_SENTS: u64 = 64;
/// So many established connections, still growing, are worth a look.
const ESTABLISHED: u64 = 1000;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for (index, bucket) in facts.buckets.iter().enumerate() {
        let fin_waits = bucket.in_state(TcpState::FinWait1)
            + bucket.in_state(TcpState::FinWait2)
            + bucket.in_state(TcpState::Closing);
        let established = bucket.in_state(TcpState::Established);
        let growing = match (bucket.opens_per_s, bucket.closes_per_s) {
            (Some(opens), Some(closes)) => opens - closes >= 2.0,
            _ => false,
        };
        let mut add = |cause: Cause, severity: Severity, evidence: String| {
            out.push(Finding {
                id: "leak".to_owned(),
                severity,
                cause,
                bucket: Some(index),
                evidence,
                remedies: remedies(facts, bucket, cause),
            });
        };
        let who = facts.owners(&bucket.key).map_or_else(String::new, |o| format!(", by {o}"));
        let name = bucket.name();
        let close_waits = bucket.in_state(TcpState::CloseWait);
        if close_waits >= CLOSE_WAITS {
            add(
                Cause::CloseWaitLeak,
                Severity::Warning,
                format!(
                    "{name} holds {close_waits} connections that the other side has closed{who}"
                ),
            );
        }
        if fin_waits >= FIN_WAITS {
            add(
                Cause::FinWait2,
                Severity::Warning,
                format!("{name} holds {fin_waits} connections the other side does not close{who}"),
            );
        }
        let syn_sents = bucket.in_state(TcpState::SynSent);
        if syn_sents >= SYN_SENTS {
            add(
                Cause::SynSent,
                Severity::Warning,
                format!("{name} has {syn_sents} connects without an answer{who}"),
            );
        }
        if established >= ESTABLISHED && growing {
            add(
                Cause::EstablishedLeak,
                Severity::Info,
                format!("{name} holds {established} connections, and the number grows{who}"),
            );
        }
    }
}

/// What helps against sockets that stay.
pub(super) fn remedies(facts: &Facts<'_>, bucket: &BucketFacts<'_>, cause: Cause) -> Vec<Remedy> {
    let program = facts.program(&bucket.key);
    let dst = bucket.key.destination();
    let restart = Remedy::now_by_hand(format!("restart {program}: that returns its ports"));
    match cause {
        Cause::CloseWaitLeak => vec![
            restart,
            Remedy::then(format!(
                "{program} does not close connections that {dst} has closed: close the response \
                 body or socket on every path, errors included"
            )),
        ],
        Cause::EstablishedLeak => vec![
            restart,
            Remedy::then(format!(
                "bound the number of connections {program} keeps to {dst} (one shared pool with a \
                 maximum), and close what is idle"
            )),
        ],
        Cause::FinWait2 => vec![
            Remedy::now(
                "orphaned half-closed connections end sooner",
                facts.command("sysctl -w net.ipv4.tcp_fin_timeout=15"),
            ),
            Remedy::then(format!(
                "{dst} does not close its side: look for CLOSE_WAIT there, or for a firewall that \
                 drops its FIN"
            )),
        ],
        Cause::SynSent => vec![
            Remedy::now_by_hand(format!(
                "{dst} does not answer: look whether it is up and whether a firewall drops packets"
            )),
            Remedy::then(format!(
                "give {program} a connect timeout of a few seconds and a bound on connects under way"
            )),
        ],
        _ => Vec::new(),
    }
}
