//! What `connect()` costs in a bucket that is 1, 25, 75 and 99 % full, with the options that `dial` sets and
//! without, and what one look of a gate at its ports costs then.
//!
//! Needs root: it makes a network namespace of its own. Run in release:
//! `cargo run --release -p keepgate-client --example connect_at_fill`

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::pool::{Pool, PoolConfig, PortWatch, Upstream};
use socket2::{Domain, Protocol, Socket, Type};

/// Those of 1024 to 65535, the widest range.
const PORTS: u32 = 64_512;
/// Connections that are measured, of each kind in turn.
const MEASURED: usize = 400;
const LOOKS: usize = 50;
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
const EVERY_PORT: u32 = (u16::MAX as u32) << 16 | 1;

fn main() -> io::Result<()> {
    // SAFETY: no pointers; nothing else runs yet.
    #[expect(unsafe_code, reason = "std has no unshare")]
    let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if left != 0 {
        return Err(io::Error::last_os_error());
    }
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    assert!(up.success(), "lo");
    for (name, value) in [
        ("ip_local_port_range", "1024 65535"),
        ("tcp_tw_reuse", "0"),
        ("tcp_max_tw_buckets", "1000000"),
    ] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)?;
    }
    // Below the range.
    let listener = TcpListener::bind("127.0.0.1:1000")?;
    let to = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever connects closes first, and is left with the TIME_WAIT.
            let _ = io::Read::read(&mut &stream, &mut [0; 1]);
        }
    });
    let target = Target::tcp("127.0.0.1", to.port());
    let upstream: Upstream<Full<Bytes>> =
        Pool::new(Dialer::default(), PoolConfig::default()).upstream(&target.into());
    let mut watch = PortWatch::open()?;
    println!(
        "| taken | plain p50 | plain p99 | with range p50 | with range p99 | ratio of p50 | one look |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut taken = 0;
    for percent in [1, 25, 75, 99] {
        while taken < PORTS * percent / 100 {
            // As plain sockets fill a bucket: one half of the ports first. The other half is filled with
            // the option, which is faster and chooses as evenly.
            let (socket, _) = connect(to, taken >= PORTS / 2)?;
            socket.shutdown(std::net::Shutdown::Write)?;
            let _ = io::Read::read(&mut &socket, &mut [0; 1]);
            taken += 1;
        }
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..MEASURED {
            for (with_range, times) in times.iter_mut().enumerate() {
                let (socket, took) = connect(to, with_range == 1)?;
                times.push(took);
                // It gives its port back.
                socket.set_linger(Some(Duration::ZERO))?;
            }
        }
        for times in &mut times {
            times.sort();
        }
        let at = |times: &[Duration], percent: usize| {
            times.get(times.len() * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e6
        };
        let [plain, ranged] = &times;
        let (cpu, mut looks) = (cpu(), 0);
        while looks < LOOKS {
            let seen = watch.look(std::slice::from_ref(&upstream))?;
            assert!(seen.first().is_some_and(|buckets| buckets.len() == 1), "{seen:?}");
            looks += 1;
        }
        let look_ms = (self::cpu() - cpu).as_secs_f64() * 1e3 / LOOKS as f64;
        println!(
            "| {taken} ({percent} %) | {:.1} us | {:.1} us | {:.1} us | {:.1} us | {:.1} | {look_ms:.2} ms CPU |",
            at(plain, 50),
            at(plain, 99),
            at(ranged, 50),
            at(ranged, 99),
            at(plain, 50) / at(ranged, 50),
        );
    }
    Ok(())
}

/// A connection, and how long its `connect()` took.
fn connect(to: SocketAddr, with_range: bool) -> io::Result<(Socket, Duration)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    if with_range {
        // SAFETY: the descriptor is open, and pointer and length describe a value that outlives the call.
        #[expect(unsafe_code, reason = "neither std nor socket2 knows this option")]
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_LOCAL_PORT_RANGE,
                std::ptr::from_ref(&EVERY_PORT).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let began = Instant::now();
    socket.connect(&to.into())?;
    Ok((socket, began.elapsed()))
}

/// The CPU time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to one whole timespec.
    #[expect(unsafe_code, reason = "std has no clock of a thread")]
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(read, 0, "clock_gettime");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
