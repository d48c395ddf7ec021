//! A plan in the forms it is used in.

use std::fmt::Write as _;

use super::plan::{REUSE_KEY, Step, TunePlan};
use crate::budget::Interval;

/// Of these a pod may set its own without the kubelet's leave (Kubernetes, "Using sysctls in a
/// Kubernetes cluster").
const SAFE_IN_PODS: &[&str] = &["net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"];

/// For people.
pub fn text(plan: &TunePlan) -> String {
    let mut text = String::new();
    if plan.steps.is_empty() {
        text.push_str("Nothing to change: no setting helps here.\n");
    } else {
        let _ = writeln!(text, "{} to change in namespace {}:\n", settings(plan), plan.netns);
    }
    for step in &plan.steps {
        let _ = writeln!(text, "  {}", step.key);
        let from = if step.from.is_empty() { "(nothing)" } else { &step.from };
        let _ = writeln!(text, "    from  {from}\n    to    {}", step.to);
        let _ = writeln!(text, "    why   {}\n    risk  {}\n", step.why, step.risk);
    }
    if !plan.steps.is_empty() {
        for gain in &plan.gains {
            let _ = writeln!(
                text,
                "  {} -> {}: {} to {} ports, {} to {} more connections now, {:.0} to {:.0} a second sustained",
                gain.src,
                std::net::SocketAddr::new(gain.dst, gain.dport),
                gain.usable.0,
                gain.usable.1,
                interval(gain.remaining_before),
                interval(gain.remaining_after),
                gain.sustainable_per_s.0,
                gain.sustainable_per_s.1,
            );
        }
        if !plan.gains.is_empty() {
            text.push('\n');
        }
    }
    for line in &plan.beyond_settings {
        let _ = writeln!(text, "Beyond settings: {line}.");
    }
    text
}

fn settings(plan: &TunePlan) -> String {
    match plan.steps.len() {
        1 => "1 setting".to_owned(),
        n => format!("{n} settings"),
    }
}

fn interval(interval: Interval) -> String {
    if interval.is_exact() {
        interval.min.to_string()
    } else {
        format!("{}-{}", interval.min, interval.max)
    }
}

/// A file for `/etc/sysctl.d/`.
pub fn sysctl(steps: &[Step]) -> String {
    let mut text = "# Written by `keepgate tune`; `keepgate tune undo` takes it back.\n".to_owned();
    for step in steps {
        let _ = writeln!(text, "# {}", step.why);
        let _ = writeln!(text, "{} = {}", step.key, step.to);
    }
    text
}

/// A snippet for a pod's specification.
pub fn kubernetes(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "# nothing to change\n".to_owned();
    }
    let mut text = "securityContext:\n  sysctls:\n".to_owned();
    for step in steps {
        if !SAFE_IN_PODS.contains(&step.key.as_str()) {
            let _ =
                writeln!(text, "    # needs the kubelet's --allowed-unsafe-sysctls={}", step.key);
        }
        let _ = writeln!(text, "    - name: {}\n      value: \"{}\"", step.key, step.to);
    }
    text
}

/// A drop-in for a unit: `/etc/systemd/system/NAME.service.d/ports.conf`. The settings apply to
/// the namespace the unit runs in.
pub fn systemd(steps: &[Step]) -> String {
    let mut text = "[Service]\n".to_owned();
    for step in steps {
        let _ = writeln!(text, "# {}", step.why);
        let _ = writeln!(text, "ExecStartPre=+/sbin/sysctl -w \"{}={}\"", step.key, step.to);
    }
    if steps.iter().any(|step| step.key == REUSE_KEY) {
        text.push_str("# TIME_WAIT reuse needs timestamps, which are on by default.\n");
    }
    text
}
