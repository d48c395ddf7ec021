//! Parsers and wire format, without a kernel.

use std::collections::BTreeSet;

use keepgate_ports::diag::{self, Message, TcpState};
use keepgate_ports::proc;
use keepgate_ports::ranges::{PortRange, PortSet};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_port_set_is_a_set(
        ports in prop::collection::btree_set(any::<u16>(), 0..200),
        others in prop::collection::btree_set(any::<u16>(), 0..200),
    ) {
        let set: PortSet = ports.iter().copied().collect();
        let other: PortSet = others.iter().copied().collect();
        prop_assert_eq!(set.len() as usize, ports.len());
        prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), ports.clone());
        let text = set.to_string();
        prop_assert_eq!(text.parse::<PortSet>().unwrap(), set.clone());
        let mut difference = set.clone();
        difference.subtract(&other);
        prop_assert_eq!(difference.iter().collect::<BTreeSet<_>>(), &ports - &others);
        let mut both = set.clone();
        both.intersect_with(&other);
        prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), &ports & &others);
        let mut all = set;
        all.union_with(&other);
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>(), &ports | &others);
    }

    #[test]
    fn no_bytes_break_the_netlink_parser(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(diag::messages(&bytes).count() <= bytes.len() / 16);
    }

    #[test]
    fn no_text_breaks_the_proc_parsers(text in ".{0,300}") {
        let _ = proc::tcp_line(&text, 10);
        let _ = proc::if_inet6(&text);
        let _ = proc::sockstat(&text);
        let _ = proc::counters(&text);
        let _ = proc::hosts(&text, "localhost");
        let _ = proc::kernel_version(&text);
        if let Some(range) = proc::port_range(&text) {
            prop_assert!(range.low <= range.high);
        }
    }
}

#[test]
fn reserved_ports_as_the_kernel_writes_them() {
    let set: PortSet = "8080,9000-9002,65535\n".parse().unwrap();
    assert_eq!(set.ranges().len(), 3);
    assert_eq!(set.len(), 5);
    assert!(set.contains(65535) && !set.contains(9003));
    assert!("".parse::<PortSet>().unwrap().is_empty());
    assert_eq!(PortRange { low: 0, high: 65535 }.len(), 65536);
    for wrong in ["9-8", "x", "70000", "1-2-3"] {
        assert!(wrong.parse::<PortSet>().is_err(), "{wrong}");
    }
}

#[test]
fn proc_net_tcp_lines() {
    let line = "   3: 0200000A:C350 0300000A:20FB 06 00000000:00000000 03:000012D6 00000000     \
                0        0 0 3 0000000000000000";
    let socket = proc::tcp_line(line, 10).unwrap();
    assert_eq!(socket.state, TcpState::TimeWait);
    assert_eq!(socket.local, "10.0.0.2:50000".parse().unwrap());
    assert_eq!(socket.remote, "10.0.0.3:8443".parse().unwrap());
    assert_eq!(socket.expires_ms, 48_220);
    let mapped = "   0: 0000000000000000FFFF00000200000A:9C40 \
                  0000000000000000FFFF00000300000A:0050 01 00000000:00000000 00:00000000 00000000 \
                  1000        0 4711 1 0000000000000000 20 4 30 10 -1";
    let socket = proc::tcp_line(mapped, 10).unwrap();
    assert_eq!(socket.local, "10.0.0.2:40000".parse().unwrap());
    assert_eq!((socket.uid, socket.inode), (1000, 4711));
    assert!(proc::tcp_line("  sl  local_address rem_address   st", 10).is_none());
}

/// A TIME_WAIT toward 10.0.0.3:8443 as Linux 6.18 sent it, then the end of the dump.
#[test]
fn a_netlink_answer() {
    let mut bytes = Vec::new();
    let mut body = vec![2u8, 6, 3, 0];
    body.extend_from_slice(&50_000u16.to_be_bytes());
    body.extend_from_slice(&8443u16.to_be_bytes());
    body.extend_from_slice(&[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&[10, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for word in [0u32, 77, 0, 48_220, 0, 0, 0, 0] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&18u16.to_ne_bytes());
    bytes.extend_from_slice(&[0; 10]);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&20u32.to_ne_bytes());
    bytes.extend_from_slice(&3u16.to_ne_bytes());
    bytes.extend_from_slice(&[0; 14]);
    let found: Vec<Message> = diag::messages(&bytes).collect();
    let [Message::Socket(socket), Message::Done(0)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(socket.state, TcpState::TimeWait);
    assert_eq!(socket.local, "10.0.0.2:50000".parse().unwrap());
    assert_eq!((socket.cookie, socket.expires_ms), (77, 48_220));
    // Cut short anywhere, it yields no more than what was whole.
    for length in 0..bytes.len() {
        let cut = diag::messages(&bytes[..length]).filter(|m| matches!(m, Message::Socket(_)));
        assert_eq!(cut.count(), usize::from(length >= 88), "{length}");
    }
}

#[test]
fn hosts_and_limits() {
    let hosts = "127.0.0.1 localhost # v4\n::1\tip6-localhost LOCALHOST\n#::2 localhost\n";
    let found = proc::hosts(hosts, "localhost");
    assert_eq!(found, ["127.0.0.1", "::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n";
    assert_eq!(proc::open_files_limit(limits), Some(1024));
    assert_eq!(proc::kernel_version("6.18.44-generic"), Some((6, 18)));
    assert_eq!(proc::file_nr("815\t0\t2466170\n"), Some((815, 2_466_170)));
    assert_eq!(proc::socket_inode("socket:[42]"), Some(42));
    assert_eq!(proc::socket_inode("pipe:[42]"), None);
}
