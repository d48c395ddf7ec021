//! Rules over made-up snapshots: what no test machine can be brought to, or not quickly.

use std::net::IpAddr;

use keepgate_ports::diag::{Socket, TcpState};
use keepgate_ports::ranges::PortRange;
use keepgate_ports::report::{Cause, Finding, Report, Severity, Verdict};
use keepgate_ports::rules::judge;
use keepgate_ports::snapshot::{Asked, FileUse, HostSnapshot, Rate, SourceAnswer, TimestampUse};
use keepgate_ports::table::{BucketKey, Entry, changes};
use proptest::prelude::*;

fn key() -> BucketKey {
    BucketKey {
        src: "10.0.0.1".parse().unwrap(),
        dst: "10.0.0.2".parse().unwrap(),
        dport: 8443,
        interface: 0,
    }
}

fn socket(port: u16, state: TcpState, expires_ms: u32) -> Socket {
    let key = key();
    Socket {
        state,
        local: (key.src, port).into(),
        remote: key.destination(),
        interface: 0,
        cookie: 0,
        expires_ms,
        uid: 0,
        inode: 0,
        timestamps: None,
    }
}

/// A host with `count` sockets in a state, the TIME_WAITs spread evenly over the last minute.
fn host(count: u16, state: TcpState) -> HostSnapshot {
    let mut host = HostSnapshot { version: 1, ..HostSnapshot::default() };
    for i in 0..count {
        let expires_ms = u32::from(i) * 60_000 / u32::from(count);
        host.sockets.add(&socket(32_768 + i, state, expires_ms));
    }
    host.sockets.sort();
    host
}

fn rate(host: &mut HostSnapshot, opens_per_s: f64, closes_per_s: f64) {
    host.interval_ms = 1000;
    host.rates.insert(key(), Rate { opens_per_s, closes_per_s });
}

fn finding<'a>(report: &'a Report, id: &str) -> &'a Finding {
    report.findings.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no {id}: {report:#?}"))
}

/// The kernel's scan of an odd range leaves one port to chance: with all others taken, connections
/// fail, and nobody is to wait for the last.
#[test]
fn an_odd_range_with_one_port_left_is_exhausted() {
    // The scan hardly ever reaches the lowest port of an odd-sized range, and nearly always the highest.
    for (used, low, verdict) in [
        (99, 32_767, Verdict::AtRisk),
        (100, 32_767, Verdict::Exhausted),
        (100, 32_768, Verdict::AtRisk),
    ] {
        let mut host = host(used, TcpState::TimeWait);
        host.settings.range = PortRange { low, high: low + 100 };
        rate(&mut host, 0.0, 0.0);
        let report = judge(&host);
        assert_eq!(report.verdict, verdict, "{used} of 101: {report:#?}");
        if verdict == Verdict::Exhausted {
            assert_eq!(report.buckets[0].exhausted_in_s, Some(0));
            assert!(report.findings[0].evidence.contains("at most one port left"), "{report:#?}");
        }
    }
}

#[test]
fn an_idle_host_is_healthy() {
    let report = judge(&HostSnapshot::default());
    assert_eq!(report.verdict, Verdict::Healthy);
    assert!(report.findings.is_empty(), "{report:#?}");
    assert!(!report.has_trouble());
}

#[test]
fn below_the_cliff_nothing_is_said() {
    let mut host = host(14_000, TcpState::TimeWait);
    rate(&mut host, 230.0, 230.0);
    let report = judge(&host);
    assert_eq!(report.verdict, Verdict::Healthy, "{report:#?}");
    assert_eq!(report.buckets[0].exhausted_in_s, None);
    assert_eq!(report.buckets[0].cause, Cause::None);
}

#[test]
fn above_the_cliff_connects_are_slow() {
    let mut host = host(14_200, TcpState::TimeWait);
    rate(&mut host, 236.0, 236.0);
    let report = judge(&host);
    assert_eq!(report.verdict, Verdict::AtRisk);
    let filling = finding(&report, "filling");
    assert_eq!((filling.severity, filling.cause), (Severity::Warning, Cause::TimeWaitChurn));
    assert!(filling.evidence.contains("searches for milliseconds"));
    let reuse = finding(&report, "reuse_off");
    assert!(reuse.remedies[0].command.as_deref().unwrap().contains("tcp_tw_reuse=1"));
}

#[test]
fn churn_beyond_what_can_be_sustained() {
    let mut host = host(10_000, TcpState::TimeWait);
    rate(&mut host, 900.0, 900.0);
    let report = judge(&host);
    assert!(finding(&report, "churn").evidence.contains("sustain 471"));
    // Freshly made TIME_WAITs are 167 a second here, far fewer than opens: the rest is not ours.
    assert_eq!(report.verdict, Verdict::AtRisk);
    // Where TIME_WAITs are reused after a second, 28,232 a second are fine.
    host.settings.tw_reuse = 1;
    host.evidence.timestamps.insert(key().dst, TimestampUse::On);
    let report = judge(&host);
    assert_eq!(report.verdict, Verdict::Healthy, "{report:#?}");
}

#[test]
fn time_to_exhaustion_counts_what_comes_back() {
    // 200 TIME_WAITs, all young; 1000 more a second; 28,032 ports left.
    let mut host = HostSnapshot { version: 1, ..HostSnapshot::default() };
    for i in 0..1000 {
        host.sockets.add(&socket(32_768 + i, TcpState::TimeWait, 59_500));
    }
    rate(&mut host, 1000.0, 1000.0);
    let report = judge(&host);
    assert_eq!(report.buckets[0].exhausted_in_s, Some(28));
    // Half the rate of that fills 28,232 ports only when nothing came back.
    let mut host = HostSnapshot { version: 1, ..HostSnapshot::default() };
    for i in 0..400 {
        host.sockets.add(&socket(32_768 + i, TcpState::TimeWait, 59_500));
    }
    rate(&mut host, 400.0, 400.0);
    assert_eq!(judge(&host).buckets[0].exhausted_in_s, None);
}

#[test]
fn a_leak_grows_until_the_end() {
    let mut host = host(2_000, TcpState::Established);
    rate(&mut host, 10.0, 0.0);
    let report = judge(&host);
    let left = 28_232 - 2_000;
    assert_eq!(report.buckets[0].exhausted_in_s, Some(left / 10));
    let leak = finding(&report, "leak");
    assert_eq!((leak.cause, leak.severity), (Cause::EstablishedLeak, Severity::Info));
}

#[test]
fn states_that_pile_up() {
    for (state, count, cause) in [
        (TcpState::CloseWait, 150, Cause::CloseWaitLeak),
        (TcpState::FinWait2, 600, Cause::FinWait2),
        (TcpState::SynSent, 80, Cause::SynSent),
    ] {
        let report = judge(&host(count, state));
        let leak = finding(&report, "leak");
        assert_eq!((leak.cause, leak.severity), (cause, Severity::Warning));
        assert_eq!(report.verdict, Verdict::AtRisk);
        assert!(!leak.remedies.is_empty());
    }
}

#[test]
fn not_ports() {
    let mut full = HostSnapshot::default();
    full.counts.conntrack = Some((262_144, 262_144));
    let mut nearly = HostSnapshot::default();
    nearly.counts.conntrack = Some((250_000, 262_144));
    let mut files = HostSnapshot::default();
    files.short_of_files.push(FileUse { pid: 7, command: "java".into(), open: 1024, limit: 1024 });
    let mut udp = HostSnapshot::default();
    udp.counts.udp = 20_000;
    let mut recycle = HostSnapshot::default();
    recycle.settings.tw_recycle = true;
    for (host, id, cause, severity) in [
        (full, "conntrack_full", Cause::ConntrackFull, Severity::Critical),
        (nearly, "conntrack_full", Cause::ConntrackFull, Severity::Warning),
        (files, "fd_limit", Cause::FdLimit, Severity::Critical),
        (udp, "udp", Cause::None, Severity::Warning),
        (recycle, "setting", Cause::None, Severity::Warning),
    ] {
        let report = judge(&host);
        let found = finding(&report, id);
        assert_eq!((found.cause, found.severity), (cause, severity));
        assert_eq!(report.verdict, Verdict::NotPorts, "{id}");
        assert!(report.headline.contains(&found.evidence));
    }
}

#[test]
fn exhaustion_is_said_before_anything_else() {
    let mut host = host(28_232, TcpState::TimeWait);
    host.counts.conntrack = Some((262_144, 262_144));
    assert_eq!(judge(&host).verdict, Verdict::Exhausted);
}

#[test]
fn settings_that_do_not_help() {
    let mut host = HostSnapshot::default();
    host.settings.fin_timeout_s = 30;
    let report = judge(&host);
    assert!(finding(&report, "setting").evidence.contains("does not shorten TIME_WAIT"));
    assert_eq!(report.verdict, Verdict::Healthy, "useless, but it harms nobody");
    host.settings.fin_timeout_s = 60;
    host.settings.range = PortRange { low: 1024, high: 65_535 };
    assert!(finding(&judge(&host), "setting").evidence.contains("nothing is reserved"));
    host.settings.range = PortRange { low: 32_768, high: 60_999 };
    host.settings.timestamps = 0;
    assert!(finding(&judge(&host), "setting").evidence.contains("tcp_timestamps is 0"));
    host.settings.timestamps = 1;
    host.counts.time_wait_overflow = 5;
    assert_eq!(finding(&judge(&host), "time_wait_overflow").severity, Severity::Info);
    host.counts.time_wait_overflow_grew = 5;
    assert_eq!(finding(&judge(&host), "time_wait_overflow").severity, Severity::Warning);
}

#[test]
fn a_wider_range_keeps_what_is_reserved_and_reserves_what_listens() {
    let mut host = HostSnapshot::default();
    host.settings.range = PortRange { low: 50_000, high: 50_999 };
    host.settings.reserved = "20000,50100".parse().unwrap();
    let mut listener = socket(12_345, TcpState::Listen, 0);
    listener.remote = "0.0.0.0:0".parse().unwrap();
    host.sockets.add(&listener);
    let report = judge(&host);
    let command = finding(&report, "narrow_range").remedies[0].command.clone().unwrap();
    assert_eq!(
        command,
        "sysctl -w net.ipv4.ip_local_reserved_ports=12345,20000,50100 && sysctl -w \
         net.ipv4.ip_local_port_range=\"10240 65535\""
    );
}

#[test]
fn localhost_that_leads_to_nowhere() {
    let mut host = HostSnapshot::default();
    let v6: IpAddr = "::1".parse().unwrap();
    host.localhost = vec!["127.0.0.1".parse().unwrap(), v6];
    assert_eq!(finding(&judge(&host), "ipv6_unavailable").severity, Severity::Info);
    host.localhost = vec![v6];
    assert_eq!(judge(&host).verdict, Verdict::NotPorts);
    host.ipv6_addresses =
        keepgate_ports::proc::if_inet6("00000000000000000000000000000001 01 80 10 80       lo\n");
    assert_eq!(judge(&host).verdict, Verdict::Healthy);
    host.asked.push(Asked {
        name: "center:443".into(),
        destination: "[2001:db8::1]:443".parse().unwrap(),
        source: SourceAnswer::NoSource,
        from_given: false,
    });
    let report = judge(&host);
    let found = finding(&report, "ipv6_unavailable");
    assert!(found.evidence.contains("`center:443` (2001:db8::1)"), "{}", found.evidence);
    assert_eq!(found.severity, Severity::Critical);
}

proptest! {
    /// Two looks at random sockets: everything new or replaced is an open, nothing else is.
    #[test]
    fn changes_between_two_looks(
        before in prop::collection::btree_map(0u16..60, (any::<bool>(), 2_000u32..60_000), 0..40),
        kept in prop::collection::btree_set(0u16..60, 0..40),
        new in prop::collection::btree_set(0u16..60, 0..40),
    ) {
        let entry = |port: u16, live: bool, expires_ms: u32| Entry {
            port,
            state: if live { TcpState::Established } else { TcpState::TimeWait },
            expires_ms: if live { 0 } else { expires_ms },
        };
        let first: Vec<Entry> = before.iter().map(|(p, (l, e))| entry(*p, *l, *e)).collect();
        let mut second = Vec::new();
        let mut opened = 0;
        for port in 0..60 {
            if new.contains(&port) {
                // Opened, and over already: a TIME_WAIT as young as can be.
                second.push(entry(port, false, 59_990));
                let replaced_same = before.get(&port).is_some_and(|(live, _)| *live);
                let young = before.get(&port).is_some_and(|(l, e)| !*l && *e > 59_990 + 500);
                opened += u32::from(!replaced_same && !young);
            } else if kept.contains(&port) && let Some((live, expires)) = before.get(&port) {
                second.push(entry(port, *live, expires.saturating_sub(1000)));
            }
        }
        let found = changes(&first, &second, 1000);
        prop_assert_eq!(found.opened, opened);
    }

    /// Any snapshot that parses can be judged and printed.
    #[test]
    fn any_snapshot_can_be_judged(
        low in any::<u16>(), high in any::<u16>(),
        reserved in prop::collection::vec(any::<u16>(), 0..20),
        sockets in prop::collection::vec((any::<u16>(), 1u8..14, any::<u32>()), 0..200),
        opens in 0.0..1e6f64,
        delay in any::<u32>(), reuse in 0u8..4,
    ) {
        let mut host = HostSnapshot::default();
        host.settings.range = PortRange { low, high };
        host.settings.reserved = reserved.into_iter().collect();
        host.settings.tw_reuse = reuse;
        host.settings.tw_reuse_delay_ms = delay;
        for (port, state, expires) in sockets {
            host.sockets.add(&socket(port, TcpState::from_number(state).unwrap(), expires));
        }
        host.sockets.sort();
        rate(&mut host, opens, opens / 2.0);
        let json = serde_json::to_string(&host).unwrap();
        let back: HostSnapshot = serde_json::from_str(&json).unwrap();
        let report = judge(&host);
        prop_assert_eq!(&judge(&back), &report);
        for bucket in &report.buckets {
            prop_assert!(bucket.remaining.min <= bucket.remaining.max);
            prop_assert_eq!(bucket.used + bucket.remaining.max, bucket.usable);
        }
        let text = keepgate_ports::text::render(&report, Default::default());
        prop_assert!(!text.is_empty());
    }
}
