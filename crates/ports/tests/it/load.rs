//! The price of a look: CPU time and memory on 200,000 TIME_WAITs, against `ss` and `netstat`.
//!
//! Heavy, so it runs only when asked for:
//! `cargo test --release -p keepgate-ports --test it -- --ignored load --nocapture`

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;

use keepgate_ports::diag::TcpState;

use crate::world::{SERVER, World, available};

const TIME_WAITS: usize = 200_000;
const DESTINATIONS: u16 = 8;
const ROUNDS: usize = 5;
const BATCH: usize = 5000;

#[derive(Clone)]
struct Cost {
    cpu_ms: f64,
    rss_kib: i64,
}

/// Runs a command in a namespace to its end; its CPU time and largest resident size.
#[expect(clippy::zombie_processes, reason = "waited for by wait4, which also counts its time")]
fn cost(namespace: &str, words: &[&str]) -> Cost {
    let child = std::process::Command::new("ip")
        .args(["netns", "exec", namespace])
        .args(words)
        .stdout(std::fs::File::create("/dev/null").unwrap())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: both pointers are valid for the call; the child is ours and waited for once.
    let (status, usage) = unsafe {
        let (mut status, mut usage) = (0, std::mem::zeroed::<libc::rusage>());
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        (status, usage)
    };
    let code = std::process::ExitStatus::from_raw(status).code().unwrap();
    assert!(code <= 1, "{words:?}: {code}");
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    Cost { cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime), rss_kib: usage.ru_maxrss }
}

/// CPU milliseconds of the one dump of all sockets, its answers thrown away unread: what nobody who
/// asks the kernel about each socket can do without.
fn bare_dump(world: &World) -> f64 {
    world.in_client(|| {
        // struct inet_diag_req of <linux/inet_diag.h> behind a struct nlmsghdr.
        let mut request = [0u8; 16 + 60];
        request[..4].copy_from_slice(&76u32.to_ne_bytes());
        request[4..6].copy_from_slice(&18u16.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        request[16] = libc::AF_INET as u8;
        request[68..72].copy_from_slice(&0xfffu32.to_ne_bytes());
        let mut buffer = vec![0u8; 32 * 1024];
        let before = thread_cpu_ms();
        // SAFETY: all pointers are valid for the lengths that are passed with them.
        unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
            assert!(fd >= 0);
            assert_eq!(libc::send(fd, request.as_ptr().cast(), request.len(), 0), 76);
            for datagram in 0.. {
                assert!(datagram < 100_000, "the dump does not end");
                let length = libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0);
                assert!(length >= 16, "recv: {length}");
                if buffer[4..6] == (libc::NLMSG_DONE as u16).to_ne_bytes() {
                    break;
                }
            }
            libc::close(fd);
        }
        thread_cpu_ms() - before
    })
}

fn thread_cpu_ms() -> f64 {
    // SAFETY: the pointer is valid for the call.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage
    };
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

#[test]
#[ignore = "heavy: 200,000 connections"]
fn a_look_at_200_000_time_waits() {
    if !available() {
        return;
    }
    let world = World::with_range(10_240, 65_535);
    world.sysctl("net.ipv4.tcp_max_tw_buckets", "1000000");
    world.server_sysctl("net.core.somaxconn", "65535");
    let each = TIME_WAITS / usize::from(DESTINATIONS);
    for port in 0..DESTINATIONS {
        let listener = world.listen(&format!("{SERVER}:{}", 7000 + port));
        for _ in 0..each / BATCH {
            crate::world::churn(&world, &listener, BATCH);
        }
    }
    let dst: SocketAddr = format!("{SERVER}:7000").parse().unwrap();
    let seen = world.look(dst, None).sockets.in_state(TcpState::TimeWait);
    println!("{seen} TIME_WAITs");
    // The first ones may have gone by now on a slow machine; the rest serve as well.
    assert!(seen >= TIME_WAITS as u64 / 4, "only {seen} left");
    let doctor = env!("CARGO_BIN_EXE_keepgate-doctor");
    let commands: [(&str, Vec<&str>); 6] = [
        ("true", vec!["true"]),
        ("ss -tan", vec!["ss", "-tan"]),
        ("netstat -ant", vec!["netstat", "-ant"]),
        ("doctor --once", vec![doctor, "--once"]),
        ("doctor --once --json", vec![doctor, "--once", "--json"]),
        ("doctor", vec![doctor]),
    ];
    let mut best = vec![Cost { cpu_ms: f64::MAX, rss_kib: 0 }; commands.len()];
    let mut floor = f64::MAX;
    for _ in 0..ROUNDS {
        floor = floor.min(bare_dump(&world));
        for ((_, words), best) in commands.iter().zip(&mut best) {
            let cost = cost(&world.client, words);
            best.cpu_ms = best.cpu_ms.min(cost.cpu_ms);
            best.rss_kib = best.rss_kib.max(cost.rss_kib);
        }
    }
    // `ip netns exec` itself costs a little; every command pays it.
    let entry = best[0].cpu_ms;
    for ((name, _), cost) in commands.iter().zip(&best) {
        println!("{name:<22} {:>8.1} ms CPU  {:>6} KiB", cost.cpu_ms - entry, cost.rss_kib);
    }
    let cpu = |index: usize| best[index].cpu_ms - entry;
    println!("{:<22} {floor:>8.1} ms CPU", "one dump, unread");
    println!("doctor / one dump: {:.2}", cpu(3) / floor);
    println!("ss / one dump: {:.1}, netstat / one dump: {:.1}", cpu(1) / floor, cpu(2) / floor);
    println!("ss / doctor: {:.1} (aim: 8)", cpu(1) / cpu(3));
    println!("netstat / doctor: {:.1} (aim: 15)", cpu(2) / cpu(3));
    // The aims are for a quiet machine and the release profile; anywhere it must be cheaper.
    assert!(cpu(3) < cpu(1) && cpu(3) < cpu(2), "dearer than what it replaces");
    // A second walk of the table would double it.
    assert!(cpu(3) < 2.0 * floor, "dearer than one dump: {:.1} ms, {floor:.1} ms", cpu(3));
    assert!(best[3].rss_kib < 10 * 1024, "more than 10 MiB");
    assert!(best[5].rss_kib < 10 * 1024, "two looks: more than 10 MiB");
}
