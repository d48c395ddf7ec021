//! `tune lint`: what each line of a sysctl file really does.

use expect_test::{Expect, expect, expect_file};
use keepgate_ports::tune::{Level, Source, fix, lint, render};
use proptest::prelude::*;

/// A kernel that has what its tables know and no other key under `net.`.
fn kernel(key: &str) -> Option<bool> {
    let known = keepgate_ports::tune::values::known_keys().any(|known| known == key);
    key.starts_with("net.").then_some(known)
}

fn check(text: &str, expected: &Expect) {
    let sources = [Source { name: "sysctl.conf", text }];
    let found: String = lint(&sources, &kernel)
        .iter()
        .map(|f| format!("{} {} {}: {}\n", f.line, f.level.name(), f.code.name(), f.message))
        .collect();
    expected.assert_eq(&found);
}

#[test]
fn the_incident_s_file() {
    for (name, text) in [
        ("incident-zh", include_str!("data/incident-zh.conf")),
        ("incident-en", include_str!("data/incident-en.conf")),
    ] {
        let file = format!("{name}.conf");
        let sources = [Source { name: &file, text }];
        let findings = lint(&sources, &kernel);
        let shown = render(&sources, &findings, false);
        expect_file![format!("data/{name}.lint")].assert_eq(&shown);
        expect_file![format!("data/{name}.fixed")].assert_eq(&fix(text));
    }
}

#[test]
fn values() {
    check(
        "net.ipv4.ip_local_port_range = 1024-65535\n\
         net.ipv4.ip_local_port_range = 40000\n\
         net.ipv4.ip_local_port_range = 60000 50000\n\
         net.ipv4.ip_local_port_range = 50000 65000\n\
         net.ipv4.tcp_tw_reuse = 3\n\
         net.ipv4.tcp_timestamps = 0\n\
         net.ipv4.tcp_tw_reuse = 1\n\
         net.ipv4.tcp_tw_reusee = 1\n\
         hello\n\
         \t; a comment\n\
         -net/ipv4/tcp_sack = 0\n\
         net.ipv4.ip_local_reserved_ports = 80,x\n\
         vm.swappiness = 1\n",
        &expect![[r#"
            1 error out-of-range: the kernel refuses `1024-65535`
            2 warning overridden: sysctl.conf:4 overrides it: `50000 65000`
            2 warning no-effect: one number alone sets at most the first port, 40000; the last one stays
            3 error out-of-range: the kernel refuses a reversed range
            4 note no-effect: of an odd number of ports (15001) one is used only by chance
            5 error out-of-range: the kernel refuses 3
            6 error harmful: without timestamps no TIME_WAIT can be reused, and fast connections lose the protection against old packets
            7 error dangerous-together: reuse needs timestamps, and another line switches them off: it does nothing
            7 note useful: this helps: outgoing connections may take a TIME_WAIT of the same four-tuple over after a second
            8 error unknown-key: this kernel has no `net.ipv4.tcp_tw_reusee`
            9 error not-a-setting: neither a comment nor `key = value`; `sysctl -p` complains about it and skips it
            11 warning harmful: this slows down every connection that loses a packet or has a long way to go
            12 error out-of-range: `80,x` is not a list of ports such as `8080,9000-9010`
        "#]],
    );
}

#[test]
fn later_files_have_the_last_word() {
    let first = Source { name: "10-a.conf", text: "net.ipv4.tcp_tw_reuse = 1\n" };
    let second = Source { name: "90-b.conf", text: "net.ipv4.tcp_tw_reuse = 2\n" };
    let findings = lint(&[first, second], &kernel);
    let overridden = findings.iter().find(|f| f.code.name() == "overridden").unwrap();
    assert_eq!((overridden.source, overridden.line), (0, 1));
    assert!(overridden.message.starts_with("90-b.conf:1"), "{}", overridden.message);
}

proptest! {
    /// A fixed file has no errors, and fixing it again changes nothing.
    #[test]
    fn fixing_is_final(lines in proptest::collection::vec(
        prop_oneof![
            "(//|#|;|)[a-z ]{0,12}",
            "-?(//)?net[./]ipv4[./](tcp_tw_recycle|tcp_tw_reuse|tcp_timestamps|tcp_fin_timeout) = ?[0-9]{0,3}",
            "net.ipv4.ip_local_port_range ?= [0-9]{1,5}[ -][0-9]{0,5}",
            "net.ipv4.ip_local_reserved_ports = [0-9,-]{0,12}",
            "\\PC{0,20}",
        ], 0..12)) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let fixed = fix(&text);
        let sources = [Source { name: "fixed", text: &fixed }];
        let errors: Vec<_> =
            lint(&sources, &|_| None).into_iter().filter(|f| f.level == Level::Error).collect();
        prop_assert!(errors.is_empty(), "{fixed}\n{errors:?}");
        prop_assert_eq!(fix(&fixed), fixed);
        // And whatever it is, it can be shown.
        let raw = [Source { name: "raw", text: &text }];
        render(&raw, &lint(&raw, &kernel), true);
    }
}
