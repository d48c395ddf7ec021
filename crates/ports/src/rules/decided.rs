//! The verdict, and what it could not be based on.
//!
//! INVARIANT: `healthy` and `not_ports` never rest on the better end of an interval, nor on a value
//! that was assumed. What the look could not decide is `unknown`, unless a port is short for certain
//! or somebody asked about something else.

use crate::budget::{Budget, Doubt};
use crate::report::{Finding, Severity, Verdict};
use crate::snapshot::{HostSnapshot, SourceAnswer, Unknown};

use super::{BucketFacts, Facts};

/// Exhaustion is said first; then a certain other reason; then risks. What is undecided outranks
/// every answer that is not proven.
pub(super) fn verdict(facts: &Facts<'_>, findings: &[Finding]) -> Verdict {
    let any = |severity: Severity, about_ports: bool| {
        findings.iter().any(|f| f.severity == severity && f.cause.is_about_ports() == about_ports)
    };
    let decided = facts.undecided.is_empty();
    if any(Severity::Critical, true) {
        Verdict::Exhausted
    } else if decided && any(Severity::Critical, false) {
        Verdict::NotPorts
    } else if any(Severity::Warning, true) {
        Verdict::AtRisk
    } else if !decided {
        Verdict::Unknown
    } else if any(Severity::Warning, false) {
        Verdict::NotPorts
    } else {
        Verdict::Healthy
    }
}

/// True where the range, the reserved ports or the reuse of TIME_WAIT are not known: no number of
/// ports can be told then, and no finding about ports stands.
pub(super) fn assumes(snapshot: &HostSnapshot) -> bool {
    !snapshot.settings.assumed.is_empty()
}

/// What a verdict depends on and the look could not decide.
pub(super) fn undecided(
    snapshot: &HostSnapshot,
    buckets: &[BucketFacts<'_>],
    fresh: &Budget,
) -> Vec<Unknown> {
    let mut open = Vec::new();
    let asked = !snapshot.asked.is_empty() || snapshot.bind_asked.is_some();
    let about_ports = snapshot
        .asked
        .iter()
        .any(|a| matches!(a.source, SourceAnswer::Local(_)) && a.destination.port() != 0);
    // An address that is not there, or a way that is not there: ports play no part in the answer.
    if asked && !about_ports {
        return open;
    }
    if assumes(snapshot) {
        open.push(Unknown {
            what: "whether ports are left".to_owned(),
            why: format!(
                "{} could not be read, and the kernel's defaults may not be the values of this \
                 namespace; look from inside it, as root",
                snapshot.settings.assumed.join(", ")
            ),
        });
    }
    let unlisted = snapshot.sockets.unlisted;
    if unlisted > 0 && unlisted.saturating_mul(2) >= u64::from(fresh.usable) {
        open.push(Unknown {
            what: format!("{unlisted} sockets"),
            why: "there are more destinations than this look keeps; ask for one with --to"
                .to_owned(),
        });
    }
    for bucket in buckets.iter().filter(|b| !b.budget.is_decided()) {
        let budget = &bucket.budget;
        open.push(Unknown {
            what: format!(
                "{} has {} of {} ports left",
                bucket.name(),
                budget.remaining,
                budget.usable
            ),
            why: reasons(snapshot, budget),
        });
    }
    // What holds for a new destination is said where there is no other to say it of.
    if !asked && buckets.is_empty() && !fresh.is_decided() {
        open.push(Unknown {
            what: format!("any destination has {} of {} ports left", fresh.remaining, fresh.usable),
            why: reasons(snapshot, fresh),
        });
    }
    open
}

fn reasons(snapshot: &HostSnapshot, budget: &Budget) -> String {
    let reasons: Vec<String> = budget
        .doubts
        .iter()
        .filter_map(|doubt| match doubt {
            Doubt::OddRange => None,
            Doubt::Timestamps(n) => Some(format!(
                "whether {n} TIME_WAITs may be reused depends on TCP timestamps, and no live \
                 connection to that address shows whether they are on"
            )),
            Doubt::Binding(n) => Some(format!(
                "{n} ports carry sockets that may have been bound explicitly, and could not be \
                 probed{}",
                why_not_probed(snapshot)
            )),
            Doubt::Sampled(n) => {
                Some(format!("up to {n} ports may be bound explicitly, as far as a sample shows"))
            }
            Doubt::Idle(u32::MAX) => Some(
                "sockets that are bound to a port and idle could neither be listed nor counted"
                    .to_owned(),
            ),
            Doubt::Idle(n) => Some(format!(
                "up to {n} sockets may be bound to a port and idle, and could not be listed"
            )),
        })
        .collect();
    reasons.join("; ")
}

fn why_not_probed(snapshot: &HostSnapshot) -> String {
    snapshot
        .unknown
        .iter()
        .find(|unknown| unknown.what.contains("bound explicitly"))
        .map_or_else(String::new, |unknown| format!(" ({})", unknown.why))
}
