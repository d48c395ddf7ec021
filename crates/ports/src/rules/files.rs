//! `fd_limit`: a process (or the host) is out of file descriptors. Its connects fail at socket(),
//! with "Too many open files".

use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

const NEARLY: f64 = 0.95;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    for near in &facts.snapshot.near_file_limit {
        out.push(Finding {
            id: "fd_limit".to_owned(),
            severity: Severity::Info,
            cause: Cause::FdLimit,
            bucket: None,
            evidence: format!(
                "`{}` (pid {}) has {} of {} files open; at the limit its socket() fails with \"Too \
                 many open files\"",
                near.command, near.pid, near.open, near.limit
            ),
            remedies: Vec::new(),
        });
    }
    for file_use in &facts.snapshot.short_of_files {
        let full = file_use.open >= file_use.limit;
        out.push(Finding {
            id: "fd_limit".to_owned(),
            severity: if full { Severity::Critical } else { Severity::Warning },
            cause: Cause::FdLimit,
            bucket: None,
            evidence: format!(
                "`{}` (pid {}) has {} of {} files open: its next socket() {} with \"Too many open \
                 files\"",
                file_use.command,
                file_use.pid,
                file_use.open,
                file_use.limit,
                if full { "fails" } else { "may soon fail" }
            ),
            remedies: vec![
                Remedy::now(
                    "a higher limit for the running process",
                    format!("prlimit --pid {} --nofile=65536:65536", file_use.pid),
                ),
                Remedy::then("set LimitNOFILE= in its unit, and look for what it does not close"),
            ],
        });
    }
    if let Some((open, limit)) = facts.snapshot.counts.files
        && limit > 0
        && open as f64 >= limit as f64 * NEARLY
    {
        out.push(Finding {
            id: "fd_limit".to_owned(),
            severity: Severity::Critical,
            cause: Cause::FdLimit,
            bucket: None,
            evidence: format!("the host has {open} of {limit} files open"),
            remedies: vec![Remedy::now(
                "a higher limit for the host",
                format!("sysctl -w fs.file-max={}", limit.saturating_mul(2)),
            )],
        });
    }
}
