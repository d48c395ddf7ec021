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
    for _ in 0..ROUNDS {
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
    println!("ss / doctor: {:.1} (aim: 8)", cpu(1) / cpu(3));
    println!("netstat / doctor: {:.1} (aim: 15)", cpu(2) / cpu(3));
    // The aims are for a quiet machine and the release profile; anywhere it must be cheaper.
    assert!(cpu(3) < cpu(1) && cpu(3) < cpu(2), "dearer than what it replaces");
    assert!(best[3].rss_kib < 10 * 1024, "more than 10 MiB");
    assert!(best[5].rss_kib < 10 * 1024, "two looks: more than 10 MiB");
}
