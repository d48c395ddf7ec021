//! `port_in_use`: a service cannot bind its port, and who has it.
//!
//! Asked only with the error message (`bind: address already in use`). An outgoing connection that
//! got the port from the range is the case nobody thinks of: the service is gone, nobody listens,
//! and the port is taken all the same.

use crate::diag::TcpState;
use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

/// How many connections are named.
const NAMED: usize = 3;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let snapshot = facts.snapshot;
    let Some(port) = snapshot.bind_asked else { return };
    let range = snapshot.settings.range;
    let automatic = range.contains(port) && !snapshot.settings.reserved.contains(port);
    let mut reserved = snapshot.settings.reserved.clone();
    reserved.insert(port);
    let reserve = Remedy::now(
        format!(
            "new connections no longer get port {port}; those that have it keep it until closed"
        ),
        facts.command(&format!("sysctl -w net.ipv4.ip_local_reserved_ports={reserved}")),
    );
    let listener = snapshot.sockets.bound.iter().find(|bound| bound.local.port() == port);
    // A port that connect() did not choose was bound, or the service itself listened on it: then these
    // are connections that it accepted before it ended.
    let chosen = automatic && !snapshot.evidence.bound.contains(port);
    let (severity, cause, evidence, remedies) = if !snapshot.holders.is_empty() {
        let names: Vec<String> = snapshot
            .holders
            .iter()
            .take(NAMED)
            .map(|holder| {
                let owner = holder.owner.as_ref().map_or_else(String::new, |owner| {
                    format!(", `{}` (pid {})", owner.command, owner.pid)
                });
                format!("{} -> {} ({}{owner})", holder.local, holder.remote, holder.state.name())
            })
            .collect();
        let more = snapshot.holders.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let waits = snapshot.holders.iter().all(|holder| holder.state == TcpState::TimeWait);
        let way_out = if waits {
            "wait: the last of these TIME_WAITs is over in 60 s at most; or let the service set \
             SO_REUSEADDR"
                .to_owned()
        } else {
            let owner = snapshot.holders.iter().find_map(|holder| holder.owner.as_ref());
            let program =
                owner.map_or_else(|| "the program".to_owned(), |o| format!("`{}`", o.command));
            format!("let {program} close that connection, then start the service")
        };
        let names = names.join(", ");
        if chosen {
            let evidence = format!(
                "no service listens on port {port}: an outgoing connection has it, {names}{more}; it \
                 got the port from ip_local_port_range {range}"
            );
            let remedies = vec![Remedy::now_by_hand(way_out), reserve];
            (Severity::Warning, Cause::ListenersInRange, evidence, remedies)
        } else {
            let evidence = format!(
                "no service listens on port {port}: connections that it accepted before, or that were \
                 bound to it, still have it, {names}{more}"
            );
            let reuse = Remedy::then("let the service set SO_REUSEADDR before bind()");
            (Severity::Warning, Cause::None, evidence, vec![Remedy::now_by_hand(way_out), reuse])
        }
    } else if let Some(listener) = listener {
        let owner = snapshot.listeners.get(&port).map_or_else(
            || "a program that could not be seen (run as root)".to_owned(),
            |owner| format!("`{}` (pid {})", owner.command, owner.pid),
        );
        let does = if listener.state == TcpState::Listen { "listens on" } else { "is bound to" };
        (
            Severity::Warning,
            Cause::None,
            format!("{owner} {does} {}: the port is taken", listener.local),
            vec![Remedy::now_by_hand(
                "stop that program, or give one of the two another port or address",
            )],
        )
    } else {
        (
            Severity::Info,
            Cause::ListenersInRange,
            if automatic {
                format!(
                    "nobody has port {port} now; it lies in ip_local_port_range {range}, so a \
                     connection may have had it"
                )
            } else {
                format!("nobody has port {port} now")
            },
            if automatic { vec![reserve] } else { Vec::new() },
        )
    };
    out.push(Finding {
        id: "port_in_use".to_owned(),
        severity,
        cause,
        bucket: None,
        evidence,
        remedies,
    });
}
