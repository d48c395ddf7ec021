//! `listeners`: services listen on ports of the range.
//!
//! Each costs every destination one port; worse, when such a service restarts, some connection may
//! have taken its port.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

/// This part of the range is worth a warning.
const MANY: f64 = 0.1;
/// How many are named.
const NAMED: usize = 6;

/// What helps where listeners take the range.
pub(super) fn remedies(facts: &Facts<'_>) -> Vec<Remedy> {
    let mut all: Vec<Remedy> = super::range::remedy(facts).into_iter().collect();
    all.push(Remedy::then(
        "move the listeners out of the range: each costs every destination one port",
    ));
    all
}

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let listening = facts.listening.len();
    if listening == 0 {
        return;
    }
    let many = f64::from(listening) >= f64::from(facts.pool.len()) * MANY;
    let names: Vec<String> = facts
        .listening
        .iter()
        .take(NAMED)
        .map(|port| match facts.snapshot.listeners.get(&port) {
            Some(owner) => format!("{port} (`{}`)", owner.command),
            None => port.to_string(),
        })
        .collect();
    let more = if listening as usize > NAMED { ", .." } else { "" };
    let mut reserved = facts.snapshot.settings.reserved.clone();
    reserved.union_with(&facts.listening);
    let range = facts.snapshot.settings.range;
    out.push(Finding {
        id: "listeners".to_owned(),
        severity: if many { Severity::Warning } else { Severity::Info },
        cause: Cause::ListenersInRange,
        bucket: None,
        evidence: format!(
            "{listening} listening port{} within {range}: {}{more}; once such a service stops, a \
             connection can take its port and it cannot start again",
            if listening == 1 { " lies" } else { "s lie" },
            names.join(", "),
        ),
        remedies: vec![Remedy::now(
            "reserve them, so that no connection takes them",
            facts.command(&format!("sysctl -w net.ipv4.ip_local_reserved_ports={reserved}")),
        )],
    });
}
