//! `explicit_bind`: programs bind ports of the range before they connect.
//!
//! Such a port is lost to every destination, and its TIME_WAIT is never reused. A client that
//! binds to an address with port 0 draws from one supply for all destinations, and its error is
//! EADDRINUSE at bind.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::{BucketFacts, CLIFF, Facts};

/// This part of the range bound explicitly is worth a warning.
const MANY: f64 = 0.1;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let mut explicit = facts.bound.clone();
    explicit.subtract(&facts.listening);
    let ports = explicit.len();
    if ports == 0 {
        return;
    }
    let part = f64::from(ports) / f64::from(facts.pool.len().max(1));
    let mut evidence = format!(
        "{ports} of {} ports are bound explicitly, which costs every destination",
        facts.pool.len()
    );
    let all_bound = facts.bound.len() >= facts.pool.len();
    if all_bound {
        evidence.push_str("; bind() to port 0 fails with \"Address already in use\"");
    } else if part >= CLIFF {
        evidence.push_str("; bind() to port 0 will soon fail with \"Address already in use\"");
    }
    let severity = if all_bound {
        Severity::Critical
    } else if part >= MANY {
        Severity::Warning
    } else {
        Severity::Info
    };
    let bucket = facts.buckets.iter().find(|b| b.cause == Cause::ExplicitBind);
    let mut remedies = remedies(facts, bucket);
    // Where a few such ports are not what ports are short of, more ports are more ports.
    if severity == Severity::Info {
        remedies.extend(super::range::remedy(facts));
    }
    out.push(Finding {
        id: "explicit_bind".to_owned(),
        severity,
        cause: Cause::ExplicitBind,
        bucket: None,
        evidence,
        remedies,
    });
}

/// What helps where ports are bound before connect(). A wider range does not: it fills in the same
/// way, because such a port serves one connection, whatever the destination.
pub(super) fn remedies(facts: &Facts<'_>, bucket: Option<&BucketFacts<'_>>) -> Vec<Remedy> {
    let program = bucket.map_or_else(|| "the program".to_owned(), |b| facts.program(&b.key));
    vec![
        Remedy::now_by_hand(format!(
            "restart {program} if it leaks connections: that returns its ports"
        )),
        Remedy::then(format!(
            "let {program} set IP_BIND_ADDRESS_NO_PORT before bind() to a source address, or not \
             bind at all (nginx: no `proxy_bind`; Envoy: no `upstream_bind_config`; HAProxy: \
             `source` with a port range)"
        )),
    ]
}
