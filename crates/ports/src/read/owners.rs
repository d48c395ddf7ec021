//! Which process has a socket: inode -> process, and who is short of open files.
//!
//! A TIME_WAIT has no owner any more, but keeps the *cookie* of the socket it was. So the cookies
//! of live sockets are remembered together with their process, and recognised later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::netns::pids;
use crate::proc;
use crate::snapshot::{Confidence, FileUse, Owner};

/// How many cookies are remembered.
const MAX_COOKIES: usize = 131_072;
/// A process with fewer open files is not looked at twice.
const FEW_FILES: u64 = 200;
/// A process above this part of its limit is reported.
const SHORT_OF_FILES: f64 = 0.8;
/// How many such processes are reported.
const MAX_SHORT: usize = 32;
/// How many processes are watched for sockets they open and close.
const MAX_WATCHED: usize = 64;
/// How many open files of one process are looked at while watching.
const MAX_WATCHED_FILES: usize = 4096;
/// A process that was caught with so many new sockets opens them all the time.
const CAUGHT: usize = 2;

/// A process that owns sockets.
#[derive(Debug, Clone)]
struct Process {
    command: String,
}

/// What has been learnt so far.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    proc: PathBuf,
    processes: BTreeMap<u32, Process>,
    by_inode: HashMap<u32, u32>,
    by_cookie: HashMap<u64, u32>,
    watched: BTreeMap<u32, HashSet<u32>>,
    /// Processes whose open files we may not see.
    pub(crate) hidden: usize,
    /// Processes near their limit.
    pub(crate) short_of_files: Vec<FileUse>,
}

impl Owners {
    pub(crate) fn new(root: &Path) -> Self {
        Self { proc: root.join("proc"), ..Self::default() }
    }

    /// Looks through every process for the sockets with these inodes.
    pub(crate) fn scan(&mut self, wanted: &HashSet<u32>) {
        self.hidden = 0;
        self.short_of_files.clear();
        for pid in pids(&self.proc.clone()) {
            self.scan_process(pid, wanted, true);
        }
    }

    /// The same, but only through processes already known to own sockets: cheap enough to do
    /// several times a second.
    pub(crate) fn rescan(&mut self, wanted: &HashSet<u32>) {
        let known: Vec<u32> = self.processes.keys().copied().collect();
        for pid in known {
            self.scan_process(pid, wanted, false);
        }
    }

    fn scan_process(&mut self, pid: u32, wanted: &HashSet<u32>, count_files: bool) {
        let dir = self.proc.join(pid.to_string());
        let fds = dir.join("fd");
        let entries = match std::fs::read_dir(&fds) {
            Ok(entries) => entries,
            Err(error) => {
                self.hidden += usize::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                return;
            }
        };
        if count_files {
            self.check_files(pid, &dir, &fds);
        }
        if wanted.is_empty() {
            return;
        }
        for entry in entries.flatten() {
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let Some(inode) = link.to_str().and_then(proc::socket_inode) else { continue };
            if wanted.contains(&inode) {
                self.by_inode.insert(inode, pid);
                self.processes.entry(pid).or_insert_with(|| Process { command: command(&dir) });
            }
        }
    }

    fn check_files(&mut self, pid: u32, dir: &Path, fds: &Path) {
        // Since Linux 6.2 the size of the directory is the number of open files.
        let open = match std::fs::metadata(fds).map(|meta| meta.size()) {
            Ok(0) | Err(_) => std::fs::read_dir(fds).map_or(0, |entries| entries.count() as u64),
            Ok(open) => open,
        };
        if open < FEW_FILES || self.short_of_files.len() >= MAX_SHORT {
            return;
        }
        let limit = std::fs::read_to_string(dir.join("limits"))
            .ok()
            .and_then(|text| proc::open_files_limit(&text));
        if let Some(limit) = limit
            && open as f64 >= limit as f64 * SHORT_OF_FILES
        {
            self.short_of_files.push(FileUse { pid, command: command(dir), open, limit });
        }
    }

    /// Chooses processes to watch: those of this namespace, with the sockets they have now.
    pub(crate) fn start_watching(&mut self) {
        let namespace = |path: &Path| std::fs::metadata(path).map(|meta| meta.ino()).ok();
        let Some(own) = namespace(&self.proc.join("thread-self/ns/net")) else { return };
        for pid in pids(&self.proc.clone()) {
            if self.watched.len() >= MAX_WATCHED {
                return;
            }
            let dir = self.proc.join(pid.to_string());
            if pid != std::process::id() && namespace(&dir.join("ns/net")) == Some(own) {
                self.watched.insert(pid, sockets_of(&dir));
                self.processes.entry(pid).or_insert_with(|| Process { command: command(&dir) });
            }
        }
    }

    /// Looks at the watched processes again, and adds the sockets they opened since.
    pub(crate) fn keep_watching(&mut self, openers: &mut BTreeMap<u32, HashSet<u32>>) {
        for (pid, before) in &self.watched {
            let new = openers.entry(*pid).or_default();
            if new.len() < MAX_WATCHED_FILES {
                let now = sockets_of(&self.proc.join(pid.to_string()));
                new.extend(now.difference(before));
            }
        }
    }

    /// Remembers a live socket, once its inode is known to belong to somebody.
    pub(crate) fn remember(&mut self, cookie: u64, inode: u32) {
        if cookie != 0
            && self.by_cookie.len() < MAX_COOKIES
            && let Some(pid) = self.by_inode.get(&inode)
        {
            self.by_cookie.insert(cookie, *pid);
        }
    }

    /// True when there is anything to recognise.
    pub(crate) fn knows_cookies(&self) -> bool {
        !self.by_cookie.is_empty()
    }

    pub(crate) fn of_inode(&self, inode: u32) -> Option<u32> {
        self.by_inode.get(&inode).copied()
    }

    pub(crate) fn of_cookie(&self, cookie: u64) -> Option<u32> {
        self.by_cookie.get(&cookie).copied()
    }

    /// The owner value for a process.
    pub(crate) fn owner(&self, pid: u32, confidence: Confidence, sockets: u32) -> Owner {
        let command = self.processes.get(&pid).map_or_else(String::new, |p| p.command.clone());
        Owner { pid, command, confidence, sockets }
    }
}

/// Those that were caught opening sockets, and with how many.
pub(crate) fn caught(openers: &BTreeMap<u32, HashSet<u32>>) -> BTreeMap<u32, u32> {
    openers
        .iter()
        .filter(|(_, sockets)| sockets.len() >= CAUGHT)
        .map(|(pid, sockets)| (*pid, u32::try_from(sockets.len()).unwrap_or(u32::MAX)))
        .collect()
}

/// The inodes of a process's sockets.
fn sockets_of(dir: &Path) -> HashSet<u32> {
    std::fs::read_dir(dir.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_WATCHED_FILES)
        .filter_map(|entry| {
            std::fs::read_link(entry.path()).ok()?.to_str().and_then(proc::socket_inode)
        })
        .collect()
}

fn command(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("comm"))
        .map(|text| {
            text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(32).collect()
        })
        .unwrap_or_default()
}
