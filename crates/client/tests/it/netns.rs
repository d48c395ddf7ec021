//! A network namespace of one's own, for one test.
//!
//! The test body runs in a new thread that has left the host's namespace; threads it starts
//! inherit the new one, and the namespace is gone with the last of them.

use std::collections::BTreeSet;
use std::path::Path;

/// Runs `body` in a fresh namespace with loopback up. Skips loudly where that is not allowed.
pub fn isolated(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: no pointers; affects this new thread alone.
        #[expect(unsafe_code, reason = "std has no unshare")]
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            assert!(
                std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none(),
                "a network namespace is required here: {error}"
            );
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        run("ip", &["link", "set", "lo", "up"]);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Sets the namespace's automatic port range.
pub fn port_range(low: u16, high: u16) {
    write("ip_local_port_range", &format!("{low} {high}"));
}

/// Writes `/proc/sys/net/ipv4/NAME` of this thread's namespace.
pub fn write(name: &str, value: &str) {
    std::fs::write(Path::new("/proc/sys/net/ipv4").join(name), value).unwrap();
}

/// Runs a program to its end in this thread's namespace.
pub fn run(program: &str, args: &[&str]) {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
}

/// Local ports of this thread's namespace that hold a socket toward `port`, in any state, as the
/// kernel lists them. (Ports, not lines: the listing may show a socket twice while it changes.)
pub fn ports_toward(port: u16) -> usize {
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let mut ends = line
                .split_whitespace()
                .skip(1)
                .filter_map(|end| u16::from_str_radix(end.rsplit_once(':')?.1, 16).ok());
            if let (Some(local), Some(remote)) = (ends.next(), ends.next())
                && remote == port
            {
                ports.insert(local);
            }
        }
    }
    ports.len()
}
