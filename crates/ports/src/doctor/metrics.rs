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
    ("ports_remaining_min", "Connections that can still be opened, at least.", |b| {
        Some(f64::from(b.remaining.min))
    }),
    ("ports_remaining_max", "Connections that can still be opened, at most.", |b| {
        Some(f64::from(b.remaining.max))
    }),
    ("opens_per_second", "Connections opened per second.", |b| b.opens_per_s),
    ("sustainable_opens_per_second", "Opens per second that can be sustained.", |b| {
        b.sustainable_per_s
    }),
    (
        "exhausted_in_seconds",
        "Seconds until no port is left; 0 while none is; +Inf when it will not happen.",
        // Unknown after a single look, which has no rates.
        |b| {
            let never = b.opens_per_s.map(|_| f64::INFINITY);
            b.exhausted_in_s.map(|s| s as f64).or(never)
        },
    ),
];

/// Names a bucket in a label; namespaces have names that people choose.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// As Prometheus writes it.
fn number(value: f64) -> String {
    if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() }
}

/// The text of `/metrics`: one report for each namespace.
pub fn render(reports: &[Report], looks: Looks) -> String {
    let mut out = String::new();
    head(&mut out, "looks_total", "counter", "Looks taken.");
    let _ = writeln!(out, "keepgate_doctor_looks_total {}", looks.taken);
    head(&mut out, "looks_failed_total", "counter", "Looks that failed.");
    let _ = writeln!(out, "keepgate_doctor_looks_failed_total {}", looks.failed);
    head(
        &mut out,
        "last_look_timestamp_seconds",
        "gauge",
        "When the last successful look was taken.",
    );
    let _ = writeln!(out, "keepgate_doctor_last_look_timestamp_seconds {}", looks.last_unix_s);
    if reports.is_empty() {
        return out;
    }
    let named: Vec<(String, &Report)> =
        reports.iter().map(|report| (escaped(&report.netns), report)).collect();
    namespaces(&mut out, &named);
    buckets(&mut out, &named);
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP keepgate_doctor_{name} {help}");
    let _ = writeln!(out, "# TYPE keepgate_doctor_{name} {kind}");
}

fn namespaces(out: &mut String, named: &[(String, &Report)]) {
    head(out, "verdict", "gauge", "1 for the present verdict, 0 for the others.");
    for (netns, report) in named {
        for verdict in Verdict::ALL {
            let on = u8::from(report.verdict == verdict);
            let verdict = verdict.name();
            let _ = writeln!(
                out,
                "keepgate_doctor_verdict{{netns=\"{netns}\",verdict=\"{verdict}\"}} {on}"
            );
        }
    }
    head(out, "findings", "gauge", "Findings by severity and cause.");
    for (netns, report) in named {
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
                    "keepgate_doctor_findings{{netns=\"{netns}\",severity=\"{severity}\",\
                     cause=\"{cause}\"}} {count}"
                );
            }
        }
    }
    type OfNamespace = (&'static str, &'static str, fn(&Report) -> u64);
    const SUMS: [OfNamespace; 3] = [
        ("range_ports_usable", "Ports of the range that are not reserved.", |r| {
            u64::from(r.range.usable)
        }),
        ("range_ports_reserved", "Ports of the range that are reserved.", |r| {
            u64::from(r.range.reserved)
        }),
        ("sockets_all", "All TCP sockets of the namespace.", |r| r.sockets.total),
    ];
    for (name, help, value) in SUMS {
        head(out, name, "gauge", help);
        for (netns, report) in named {
            let value = value(report);
            let _ = writeln!(out, "keepgate_doctor_{name}{{netns=\"{netns}\"}} {value}");
        }
    }
    head(out, "sockets", "gauge", "TCP sockets of the namespace.");
    for (netns, report) in named {
        for (state, count) in [
            (TcpState::TimeWait, report.sockets.time_wait),
            (TcpState::Established, report.sockets.established),
            (TcpState::CloseWait, report.sockets.close_wait),
        ] {
            let state = state.name();
            let _ = writeln!(
                out,
                "keepgate_doctor_sockets{{netns=\"{netns}\",state=\"{state}\"}} {count}"
            );
        }
    }
}

fn buckets(out: &mut String, named: &[(String, &Report)]) {
    let labels = |netns: &str, bucket: &BucketReport| {
        let dst = SocketAddr::new(bucket.dst, bucket.dport);
        // Sockets that are bound to a device are a bucket of their own.
        let device = bucket.device.as_deref().map(escaped);
        let device = device.map_or_else(String::new, |name| format!(",device=\"{name}\""));
        format!("netns=\"{netns}\",src=\"{}\",dst=\"{dst}\"{device}", bucket.src)
    };
    for (name, help, value) in BUCKETS {
        head(out, &format!("bucket_{name}"), "gauge", help);
        for (netns, report) in named {
            for bucket in &report.buckets {
                let Some(value) = value(bucket) else { continue };
                let (labels, value) = (labels(netns, bucket), number(value));
                let _ = writeln!(out, "keepgate_doctor_bucket_{name}{{{labels}}} {value}");
            }
        }
    }
    // A series of its own: a change of cause must not end the others.
    head(out, "bucket_cause", "gauge", "1 for what uses the ports up.");
    for (netns, report) in named {
        for bucket in &report.buckets {
            let (labels, cause) = (labels(netns, bucket), bucket.cause.name());
            let _ = writeln!(out, "keepgate_doctor_bucket_cause{{{labels},cause=\"{cause}\"}} 1");
        }
    }
}
