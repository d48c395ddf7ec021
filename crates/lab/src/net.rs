//! Network namespaces joined by veth pairs.
//!
//! A namespace lives as long as a file descriptor or a process holds it; none is mounted under
//! a name. When this process ends, even by SIGKILL, its descriptors close, its children die
//! (PR_SET_PDEATHSIG) and the kernel removes namespaces, links and addresses.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

/// What an ordinary user can do who may not make namespaces.
const WAYS_IN: &str = "root, or a kernel that lets ordinary users have namespaces \
     (user.max_user_namespaces above 0, kernel.unprivileged_userns_clone = 1 on Debian, \
     kernel.apparmor_restrict_unprivileged_userns = 0 on Ubuntu)";

/// A network namespace of our own making.
#[derive(Debug)]
pub struct Namespace {
    /// For messages; the kernel does not know it.
    pub name: &'static str,
    fd: OwnedFd,
}

impl Namespace {
    /// A new, empty namespace with `lo` up.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN (in this user namespace), or without iproute2.
    pub fn create(name: &'static str) -> anyhow::Result<Namespace> {
        // A thread of its own: unshare moves the calling thread only.
        let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
            // SAFETY: unshare takes no pointers and affects this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        })
        .join();
        let fd = match made {
            Ok(made) => made.with_context(|| {
                format!("creating network namespace `{name}`; the lab needs {WAYS_IN}")
            })?,
            Err(_) => anyhow::bail!("the thread that creates namespaces died"),
        };
        let namespace = Namespace { name, fd };
        namespace.ip(["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A command that will run in this namespace and die with this process.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.fd.as_raw_fd();
        // SAFETY: between fork and exec only async-signal-safe system calls are made; the
        // descriptor outlives the command's start because `self` is borrowed until then by
        // every caller, and an invalid one would make setns fail, not misbehave.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Runs `work` on a thread inside this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the work's own.
    pub fn run<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let fd = self.fd.as_raw_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: setns takes no pointers; it moves this thread, which ends with `work`.
                if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error()).context("entering a namespace");
                }
                work()
            });
            thread.join().unwrap_or_else(|_| anyhow::bail!("work in a namespace died"))
        })
    }

    /// Runs `ip` with these arguments inside.
    ///
    /// # Errors
    /// When `ip` is missing or refuses; the message carries what it said.
    pub fn ip<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<()> {
        let output = self
            .command("ip")
            .args(arguments)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output()
            .context("starting `ip` (Debian package iproute2)")?;
        anyhow::ensure!(
            output.status.success(),
            "in namespace `{}`: ip {}: {}",
            self.name,
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Writes a sysctl such as `net.ipv4.tcp_tw_reuse` inside.
    ///
    /// # Errors
    /// When the kernel has no such key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| {
            std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
        })
    }

    /// A counter of the `Tcp:` lines of `/proc/net/snmp` inside, such as `ActiveOpens`.
    ///
    /// # Errors
    /// When the file or the counter is not there.
    pub fn tcp_counter(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.run(|| {
            std::fs::read_to_string("/proc/thread-self/net/snmp").context("reading net/snmp")
        })?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let at = names.split(' ').position(|found| found == name);
        at.and_then(|at| values.split(' ').nth(at)?.parse().ok())
            .with_context(|| format!("no counter `{name}` in net/snmp"))
    }

    /// The path under which another program can name this namespace while we live.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct End<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// The interface's name.
    pub interface: &'a str,
    /// Its addresses, each with prefix length 16.
    pub addresses: &'a [IpAddr],
}

/// Joins two namespaces by a veth pair and gives both ends their addresses.
///
/// # Errors
/// When a namespace refuses.
pub fn join(left: &End<'_>, right: &End<'_>) -> anyhow::Result<()> {
    let far = right.namespace.path();
    left.namespace.ip([
        "link",
        "add",
        left.interface,
        "type",
        "veth",
        "peer",
        "name",
        right.interface,
        "netns",
        &far,
    ])?;
    for end in [left, right] {
        for address in end.addresses {
            let address = format!("{address}/24");
            end.namespace.ip(["address", "add", &address, "dev", end.interface])?;
        }
        end.namespace.ip(["link", "set", end.interface, "up"])?;
    }
    Ok(())
}

/// Re-executes this program in a user namespace where the caller is root, where the kernel
/// allows that; returns only when already privileged or when it cannot be done.
///
/// # Errors
/// Where the kernel or its policy forbids user namespaces: a message that says what to do.
pub fn gain_privilege() -> anyhow::Result<()> {
    const MARK: &str = "KEEPGATE_LAB_USER_NAMESPACE";
    // SAFETY: these calls read the process's own credentials.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid == 0 || std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(std::env::args_os().skip(1)).env(MARK, "1");
    // SAFETY: runs in the forked child alone, before exec; the strings are made before.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    // SAFETY: as above: system calls only, on this child.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                return Err(io::Error::last_os_error());
            }
            for (path, text) in &maps {
                std::fs::write(path, text)?;
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let status = command
        .status()
        .with_context(|| format!("creating a user namespace; the lab needs {WAYS_IN}"))?;
    std::process::exit(status.code().unwrap_or(1));
}
