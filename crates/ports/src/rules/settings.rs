//! `setting`: settings that are wrong, or do not do what people set them for.

use crate::report::{Cause, Finding, Remedy, Severity};

use super::{CLIFF, Facts};

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let settings = &facts.snapshot.settings;
    let mut add = |severity: Severity, cause: Cause, evidence: String, remedies: Vec<Remedy>| {
        let id = "setting".to_owned();
        out.push(Finding { id, severity, cause, bucket: None, evidence, remedies });
    };
    if settings.tw_recycle {
        add(
            Severity::Warning,
            Cause::None,
            "tcp_tw_recycle is on: it drops connections of clients behind NAT, and Linux removed \
             it in 4.12"
                .to_owned(),
            vec![Remedy::now(
                "switch it off",
                facts.command("sysctl -w net.ipv4.tcp_tw_recycle=0"),
            )],
        );
    }
    if settings.timestamps == 0 && settings.tw_reuse > 0 {
        add(
            Severity::Info,
            Cause::TimeWaitChurn,
            "tcp_timestamps is 0: TIME_WAITs cannot be reused, with any value of tcp_tw_reuse"
                .to_owned(),
            vec![Remedy::now(
                "new connections will have timestamps again",
                facts.command("sysctl -w net.ipv4.tcp_timestamps=1"),
            )],
        );
    }
    if settings.fin_timeout_s < 60 {
        add(
            Severity::Info,
            Cause::None,
            format!(
                "tcp_fin_timeout is {} s: it does not shorten TIME_WAIT (60 s, fixed), only \
                 orphaned FIN_WAIT2",
                settings.fin_timeout_s
            ),
            Vec::new(),
        );
    }
    let scarce = facts.buckets.iter().any(|b| b.budget.pressure() >= CLIFF);
    if settings.range.len() % 2 == 1 && settings.range.len() > 1 && scarce {
        add(
            Severity::Info,
            Cause::None,
            format!(
                "ip_local_port_range {} has an odd number of ports: the kernel's search skips one",
                settings.range
            ),
            Vec::new(),
        );
    }
    let mut low = crate::ranges::PortSet::of(settings.range);
    low.subtract(&settings.reserved);
    let well_known = settings.range.low < 10_000 && settings.range.len() > 28_232;
    if well_known && settings.reserved.is_empty() {
        add(
            Severity::Info,
            Cause::ListenersInRange,
            format!(
                "ip_local_port_range {} reaches into service ports and nothing is reserved: a \
                 service that starts later can find its port taken",
                settings.range
            ),
            vec![Remedy::then(
                "list the ports of all services of this host in ip_local_reserved_ports",
            )],
        );
    }
}
