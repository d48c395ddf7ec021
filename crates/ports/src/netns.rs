//! Network namespaces: finding them and running a piece of code inside one.
//!
//! Entering happens in a short-lived thread, so the caller's own namespace never changes. It needs
//! `CAP_SYS_ADMIN`; some processes refuse even root (their `/proc/PID/ns/net` cannot be opened).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys;

/// How many processes a listing of namespaces looks at.
const MAX_PROCESSES: usize = 65_536;

/// A way to name a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// The caller's.
    #[default]
    Current,
    /// One made by `ip netns add NAME`.
    Named(String),
    /// The one a process lives in.
    Pid(u32),
}

impl Namespace {
    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Current => PathBuf::from("/proc/thread-self/ns/net"),
            Self::Named(name) => Path::new("/run/netns").join(name),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }

    /// What a person would call it.
    pub fn label(&self) -> String {
        match self {
            Self::Current => "current".to_owned(),
            Self::Named(name) => name.clone(),
            Self::Pid(pid) => format!("pid {pid}"),
        }
    }

    /// What to put before a shell command so that it runs there; empty for the caller's own.
    pub fn command_prefix(&self) -> String {
        match self {
            Self::Current => String::new(),
            Self::Named(name) => format!("ip netns exec {name} "),
            Self::Pid(pid) => format!("nsenter -t {pid} -n "),
        }
    }

    /// The inode that identifies it.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path())?.ino())
    }
}

/// Why a namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The name is not a plain file name.
    #[error("`{name}` is not a name of a network namespace (see `ip netns list`)")]
    Name {
        /// As given.
        name: String,
    },
    /// The kernel refused.
    #[error(
        "cannot enter the network namespace `{label}`: it needs to exist, and CAP_SYS_ADMIN (root)"
    )]
    Refused {
        /// Which namespace.
        label: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread to enter the network namespace")]
    Thread {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Runs `work` in a namespace, on a thread of its own.
pub fn enter<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> T + Send,
) -> Result<T, EnterError> {
    if let Namespace::Named(name) = namespace
        && (name.is_empty() || name.contains('/') || name == "." || name == "..")
    {
        return Err(EnterError::Name { name: name.clone() });
    }
    if *namespace == Namespace::Current {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                sys::set_namespace(&namespace.path())
                    .map_err(|source| EnterError::Refused { label: namespace.label(), source })?;
                Ok(work())
            })
            .map_err(|source| EnterError::Thread { source })?;
        match thread.join() {
            Ok(result) => result,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    })
}

/// A namespace that exists on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// How to enter it.
    pub namespace: Namespace,
    /// Its inode.
    pub inode: u64,
    /// How many processes live in it, as far as they can be seen.
    pub processes: usize,
}

/// All namespaces that can be named: those of visible processes and those under `/run/netns`, the
/// caller's own first. The second number is how many processes hid theirs.
pub fn list() -> (Vec<Listed>, usize) {
    let mut found: BTreeMap<u64, Listed> = BTreeMap::new();
    let own = Namespace::Current.inode().unwrap_or(0);
    found.insert(own, Listed { namespace: Namespace::Current, inode: own, processes: 0 });
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let namespace = Namespace::Named(entry.file_name().to_string_lossy().into_owned());
        if let Ok(inode) = namespace.inode() {
            found.entry(inode).or_insert(Listed { namespace, inode, processes: 0 });
        }
    }
    let mut hidden = 0;
    for pid in pids(Path::new("/proc")) {
        match Namespace::Pid(pid).inode() {
            Ok(inode) => {
                found
                    .entry(inode)
                    .or_insert(Listed { namespace: Namespace::Pid(pid), inode, processes: 0 })
                    .processes += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => hidden += 1,
        }
    }
    let mut all: Vec<_> = found.into_values().collect();
    all.sort_by_key(|listed| (listed.inode != own, listed.inode));
    (all, hidden)
}

/// The process numbers under a `/proc`.
pub(crate) fn pids(proc: &Path) -> impl Iterator<Item = u32> {
    std::fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(MAX_PROCESSES)
}
