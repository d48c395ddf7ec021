//! `snat_full`: this host translates source addresses (masquerade, SNAT), and has no source port
//! left to translate to. The kernel then drops the first packet of a connection: connects hang in
//! SYN_SENT and time out, however many local ports there are.
//!
//! Source: `net/netfilter/nf_nat_core.c` (`get_unique_tuple` gives up after some attempts),
//! `nf_conntrack_core.c` (`__nf_conntrack_confirm` then counts `insert_failed` and drops).

use crate::diag::TcpState;
use crate::report::{Cause, Finding, Remedy, Severity};

use super::Facts;

/// After a single look nobody knows whether the counter grows; so many stuck connects and failed
/// insertions are enough for a warning.
const SEVERAL: u64 = 4;

pub(super) fn judge(facts: &Facts<'_>, out: &mut Vec<Finding>) {
    let snapshot = facts.snapshot;
    let (failed, grew) = (snapshot.counts.insert_failed, snapshot.counts.insert_failed_grew);
    let asked = snapshot.asked.iter().any(|asked| asked.destination.port() != 0);
    let stuck = if asked {
        facts.buckets.iter().map(|bucket| bucket.in_state(TcpState::SynSent)).sum()
    } else {
        snapshot.sockets.in_state(TcpState::SynSent)
    };
    let two_looks = snapshot.interval_ms > 0;
    let severity = if stuck > 0 && grew > 0 {
        Severity::Critical
    } else if !two_looks && stuck >= SEVERAL && failed >= SEVERAL {
        Severity::Warning
    } else {
        return;
    };
    let growth = if two_looks {
        format!("{grew} packets were dropped within {} ms", snapshot.interval_ms)
    } else {
        format!("{failed} packets have been dropped")
    };
    let bucket = facts.buckets.iter().position(|bucket| bucket.in_state(TcpState::SynSent) > 0);
    out.push(Finding {
        id: "snat_full".to_owned(),
        severity,
        cause: Cause::SnatFull,
        bucket,
        evidence: format!(
            "{stuck} connects hang in SYN_SENT, and {growth} because their translated source port \
             is taken (insert_failed in /proc/net/stat/nf_conntrack): a masquerade or SNAT rule of \
             this host has too few ports"
        ),
        remedies: vec![
            Remedy::now(
                "find the rule, and widen its ports (`masquerade to :1024-65535`, `--to-ports`) or \
                 add source addresses (`snat to ADDR-ADDR`)",
                facts.command("nft list ruleset"),
            ),
            Remedy::now(
                "entries of closed connections give their port back sooner (120 s by default)",
                facts.command("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=30"),
            ),
            Remedy::then(
                "let the programs reuse connections, or do not translate this traffic: each \
                 translated connection to one destination needs a source port of its own",
            ),
        ],
    });
}
