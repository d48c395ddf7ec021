//! The report as Prometheus metrics.
//!
//! Bounded: the buckets are those of the report (the fullest ten), everything else has labels from
//! fixed lists.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::diag::TcpState;
use crate::report::{BucketReport, Cause, Report, Severity, Verdict};

const SEVERITIES: [Severity; 3] = [Severity::Critical, Severity::Warning, Severity::Info];

/// How the looking itself goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looks {
    /// Looks taken.
    pub taken: u64,
    /// Looks that failed.
    pub failed: u64,
    /// Unix time of the last good one, in seconds.
    pub last_unix_s: u64,
}

/// One metric of the buckets: name, help, value.
type BucketMetric = (&'static str, &'static str, fn(&BucketReport) -> Option<f64>);

const BUCKETS: [BucketMetric; 7] = [
    ("ports_usable", "Ports that exist toward a destination.", |b| Some(f64::from(b.usable))),
    ("ports_used", "Ports taken toward a destination.", |b| Some(f64::from(b.used))),
    ("ports_remaining_min", "At least so many connections can still be opened.", |b| {
        Some(f64::from(b.remaining.min))
    }),
    ("ports_remaining_max", "At most so many connections can still be opened.", |b| {
        Some(f64::from(b.remaining.max))
    }),
    ("opens_per_second", "Connections opened per second.", |b| b.opens_per_s),
    ("sustainable_opens_per_second", "Opens per second that can go on for ever.", |b| {
        b.sustainable_per_s
    }),
    (
        "exhausted_in_seconds",
        "Seconds until no port is left; absent when it will not happen.",
        |b| b.exhausted_in_s.map(|s| s as f64),
    ),
];

/// The text of `/metrics`.
pub fn render(report: Option<&Report>, looks: Looks) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP keepgate_doctor_{name} {help}");
        let _ = writeln!(out, "# TYPE keepgate_doctor_{name} {kind}");
    };
    head(&mut out, "looks_total", "counter", "Looks taken.");
    let _ = writeln!(out, "keepgate_doctor_looks_total {}", looks.taken);
    head(&mut out, "looks_failed_total", "counter", "Looks that failed.");
    let _ = writeln!(out, "keepgate_doctor_looks_failed_total {}", looks.failed);
    head(&mut out, "last_look_timestamp_seconds", "gauge", "When the last good look was taken.");
    let _ = writeln!(out, "keepgate_doctor_last_look_timestamp_seconds {}", looks.last_unix_s);
    let Some(report) = report else { return out };
    head(&mut out, "verdict", "gauge", "1 for the present verdict, 0 for the others.");
    for verdict in Verdict::ALL {
        let on = u8::from(report.verdict == verdict);
        let _ = writeln!(out, "keepgate_doctor_verdict{{verdict=\"{}\"}} {on}", verdict.name());
    }
    head(&mut out, "findings", "gauge", "Findings by severity and cause.");
    for severity in SEVERITIES {
        for cause in Cause::ALL {
            let count = report
                .findings
                .iter()
                .filter(|f| f.severity == severity && f.cause == cause)
                .count();
            let (severity, cause) = (severity.name(), cause.name());
            let _ = writeln!(
                out,
                "keepgate_doctor_findings{{severity=\"{severity}\",cause=\"{cause}\"}} {count}"
            );
        }
    }
    head(&mut out, "range_ports_usable", "gauge", "Ports of the range that are not reserved.");
    let _ = writeln!(out, "keepgate_doctor_range_ports_usable {}", report.range.usable);
    head(&mut out, "range_ports_reserved", "gauge", "Ports of the range that are reserved.");
    let _ = writeln!(out, "keepgate_doctor_range_ports_reserved {}", report.range.reserved);
    head(&mut out, "sockets", "gauge", "TCP sockets of the namespace.");
    let sockets = report.sockets;
    for (state, count) in [
        (TcpState::TimeWait, sockets.time_wait),
        (TcpState::Established, sockets.established),
        (TcpState::CloseWait, sockets.close_wait),
    ] {
        let _ = writeln!(out, "keepgate_doctor_sockets{{state=\"{}\"}} {count}", state.name());
    }
    head(&mut out, "sockets_all", "gauge", "All TCP sockets of the namespace.");
    let _ = writeln!(out, "keepgate_doctor_sockets_all {}", sockets.total);
    for (name, help, value) in BUCKETS {
        head(&mut out, &format!("bucket_{name}"), "gauge", help);
        for bucket in &report.buckets {
            let Some(value) = value(bucket) else { continue };
            let dst = SocketAddr::new(bucket.dst, bucket.dport);
            let _ = writeln!(
                out,
                "keepgate_doctor_bucket_{name}{{src=\"{}\",dst=\"{dst}\",cause=\"{}\"}} {value}",
                bucket.src,
                bucket.cause.name()
            );
        }
    }
    out
}
