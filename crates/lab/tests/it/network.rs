//! Namespaces and links, really made; they need root.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use keepgate_lab::net::{End, Namespace, join};

/// Whether namespaces can be made here; says so when not, and fails where all must run.
fn may_make_namespaces() -> bool {
    // SAFETY: reads the process's own credentials.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        assert!(std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(), "this test must run, as root");
        eprintln!("SKIPPED: making network namespaces needs root");
    }
    root
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 78, 0, last))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a plain client, to see that packets flow")]
fn packets_flow_and_settings_stay_inside() {
    if !may_make_namespaces() {
        return;
    }
    let (left, right) = (Namespace::create("left").unwrap(), Namespace::create("right").unwrap());
    let end = |namespace, interface, addresses| End { namespace, interface, addresses };
    join(&end(&left, "to-right", &[ip(1)]), &end(&right, "to-left", &[ip(2)])).unwrap();

    left.sysctl("net.ipv4.ip_local_port_range", "41000 41001").unwrap();
    let listener =
        right.run(|| Ok(TcpListener::bind(SocketAddr::new(ip(2), 0))?)).expect("listening inside");
    let to = listener.local_addr().unwrap();
    let before = left.tcp_counter("ActiveOpens").unwrap();
    let port = left
        .run(|| {
            let mut stream = std::net::TcpStream::connect(to)?;
            stream.write_all(b"hello")?;
            Ok(stream.local_addr()?.port())
        })
        .unwrap();
    let (mut accepted, from) = listener.accept().unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), from.ip()), ("hello", ip(1)));
    assert!((41_000..=41_001).contains(&port), "the range holds inside: {port}");
    assert_eq!(left.tcp_counter("ActiveOpens").unwrap(), before + 1);

    let here = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    assert!(!here.starts_with("41000"), "the setting leaked out");
}

#[test]
fn namespaces_vanish_with_their_holder() {
    if !may_make_namespaces() {
        return;
    }
    let namespace = Namespace::create("brief").unwrap();
    let inode = || {
        namespace
            .run(|| Ok(std::fs::read_link("/proc/thread-self/ns/net")?))
            .expect("reading the link")
    };
    let link = inode();
    let mut child = namespace.command("sleep").arg("60").spawn().unwrap();
    let held = std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
    assert_eq!(held, link, "a command runs inside");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(namespace);
    let holders = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|found| found == link)
    });
    assert_eq!(holders.count(), 0);
}
