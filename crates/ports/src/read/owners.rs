//! Which process has a socket: inode -> process, and who is short of open files.
//!
//! Only sockets that are asked for are looked up, and the processes of the namespace in question
//! come first: a host may have tens of thousands of open files elsewhere. A TIME_WAIT has no owner
//! any more, but keeps the *cookie* of the socket it was. So the cookies of live sockets are
//! remembered together with their process, and recognized later.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::BuildHasherDefault;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::netns::pids;
use crate::proc;
use crate::snapshot::{Confidence, FileUse, Owner};
use crate::sys;
use crate::table::KeyHasher;

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
/// How many open files are looked at while watching, all together (about 1 us each).
const MAX_WATCH_LINKS: usize = 65_536;
/// A quick look finds the owners of so many sockets all the same.
const MANY_WANTED: usize = 4096;
/// Of more it looks at so many open files, and at so many of one process.
const QUICK_LINKS: usize = 1024;
const QUICK_LINKS_EACH: usize = 256;
/// A process that was caught with so many new sockets opens them all the time.
const CAUGHT: usize = 2;

/// Inodes of sockets: the kernel numbers them, so a cheap hash does.
pub(crate) type Inodes = HashSet<u32, BuildHasherDefault<KeyHasher>>;

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
    by_inode: HashMap<u32, u32, BuildHasherDefault<KeyHasher>>,
    by_cookie: HashMap<u64, u32, BuildHasherDefault<KeyHasher>>,
    watched: BTreeMap<u32, Inodes>,
    watch_links: usize,
    /// After a single look: how many more open files may be looked at.
    quick: Option<usize>,
}

impl Owners {
    pub(crate) fn new(root: &Path) -> Self {
        Self { proc: root.join("proc"), ..Self::default() }
    }

    /// Where the owners of many sockets are wanted, looks at few open files only, for a look that is
    /// meant to be quick: of a process with many sockets some are found, which names it.
    pub(crate) fn quickly(mut self) -> Self {
        self.quick = Some(QUICK_LINKS);
        self
    }

    /// Looks for the processes that have the sockets with these inodes: those known already, then
    /// the others of this namespace, then (a socket may be passed on, a thread may have left its
    /// namespace) all others. Ends as soon as each is found.
    pub(crate) fn find(&mut self, wanted: &Inodes) {
        let mut missing = self.unknown(wanted);
        if missing.is_empty() {
            return;
        }
        let known: BTreeSet<u32> = self.processes.keys().copied().collect();
        for pid in &known {
            self.look_through(*pid, &mut missing);
        }
        let own = namespace(&self.proc.join("thread-self"));
        let proc = self.proc.clone();
        let (here, elsewhere): (Vec<u32>, Vec<u32>) = pids(&proc)
            .filter(|pid| !known.contains(pid))
            .partition(|pid| own.is_some() && namespace(&proc.join(pid.to_string())) == own);
        for pid in here.into_iter().chain(elsewhere) {
            if missing.is_empty() {
                return;
            }
            self.look_through(pid, &mut missing);
        }
    }

    /// The same among the processes already known to own sockets: cheap enough to do several times
    /// a second.
    pub(crate) fn find_again(&mut self, wanted: &Inodes) {
        let mut missing = self.unknown(wanted);
        let known: Vec<u32> = self.processes.keys().copied().collect();
        for pid in known {
            if missing.is_empty() {
                return;
            }
            self.look_through(pid, &mut missing);
        }
    }

    fn unknown(&self, wanted: &Inodes) -> Inodes {
        // Room from the start: one table poured into a growing one of the same hash clusters.
        let mut unknown = Inodes::with_capacity_and_hasher(wanted.len(), Default::default());
        unknown.extend(wanted.iter().filter(|inode| !self.by_inode.contains_key(inode)));
        unknown
    }

    fn look_through(&mut self, pid: u32, missing: &mut Inodes) {
        let dir = self.proc.join(pid.to_string());
        let quick = self.quick.filter(|_| missing.len() > MANY_WANTED);
        let most = quick.map_or(usize::MAX, |left| left.min(QUICK_LINKS_EACH));
        let (mut found, by_inode) = (false, &mut self.by_inode);
        let looked_at = sockets_in(&dir, most, |inode| {
            if missing.remove(&inode) {
                by_inode.insert(inode, pid);
                found = true;
            }
            !missing.is_empty()
        });
        self.quick = self.quick.map(|left| left.saturating_sub(looked_at));
        if found {
            self.processes.entry(pid).or_insert_with(|| Process { command: command(&dir) });
        }
    }

    /// How many processes do not show their open files to us.
    pub(crate) fn hidden(&self) -> usize {
        pids(&self.proc)
            .filter(|pid| {
                std::fs::read_dir(self.proc.join(format!("{pid}/fd")))
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            })
            .count()
    }

    /// Which of these processes are near their limit of open files.
    pub(crate) fn short_of_files(&self, pids: impl IntoIterator<Item = u32>) -> Vec<FileUse> {
        pids.into_iter().filter_map(|pid| self.file_use(pid)).take(MAX_SHORT).collect()
    }

    fn file_use(&self, pid: u32) -> Option<FileUse> {
        let dir = self.proc.join(pid.to_string());
        let fds = dir.join("fd");
        // Since Linux 6.2 the size of the directory is the number of open files.
        let open = match std::fs::metadata(&fds).map(|meta| meta.size()) {
            Ok(0) | Err(_) => std::fs::read_dir(&fds).map_or(0, |entries| entries.count() as u64),
            Ok(open) => open,
        };
        if open < FEW_FILES {
            return None;
        }
        let limit = std::fs::read_to_string(dir.join("limits")).ok()?;
        let limit = proc::open_files_limit(&limit)?;
        (open as f64 >= limit as f64 * SHORT_OF_FILES).then(|| FileUse {
            pid,
            command: command(&dir),
            open,
            limit,
        })
    }

    /// The processes that have one of these sockets, as far as they were looked for.
    pub(crate) fn processes_with(&self, inodes: &Inodes) -> BTreeSet<u32> {
        inodes.iter().filter_map(|inode| self.by_inode.get(inode).copied()).collect()
    }

    /// Chooses processes to watch: those of this namespace, with the sockets they have now.
    pub(crate) fn start_watching(&mut self) {
        let Some(own) = namespace(&self.proc.join("thread-self")) else { return };
        self.watch_links = MAX_WATCH_LINKS;
        for pid in pids(&self.proc.clone()) {
            if self.watched.len() >= MAX_WATCHED {
                return;
            }
            let dir = self.proc.join(pid.to_string());
            if pid != std::process::id() && namespace(&dir) == Some(own) {
                let sockets = self.sockets_of(pid);
                self.watched.insert(pid, sockets);
                self.processes.entry(pid).or_insert_with(|| Process { command: command(&dir) });
            }
        }
    }

    /// Looks at the watched processes again, and adds the sockets they opened since.
    pub(crate) fn keep_watching(&mut self, openers: &mut BTreeMap<u32, Inodes>) {
        let watched = std::mem::take(&mut self.watched);
        for (pid, before) in &watched {
            let new = openers.entry(*pid).or_default();
            if new.len() < MAX_WATCHED_FILES && self.watch_links > 0 {
                let now = self.sockets_of(*pid);
                new.extend(now.difference(before));
            }
        }
        self.watched = watched;
    }

    /// The inodes of a process's sockets.
    fn sockets_of(&mut self, pid: u32) -> Inodes {
        let most = self.watch_links.min(MAX_WATCHED_FILES);
        let mut sockets = Inodes::default();
        let looked_at = sockets_in(&self.proc.join(pid.to_string()), most, |inode| {
            sockets.insert(inode);
            true
        });
        self.watch_links = self.watch_links.saturating_sub(looked_at);
        sockets
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

    /// True when there is anything to recognize.
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
pub(crate) fn caught(openers: &BTreeMap<u32, Inodes>) -> BTreeMap<u32, u32> {
    openers
        .iter()
        .filter(|(_, sockets)| sockets.len() >= CAUGHT)
        .map(|(pid, sockets)| (*pid, u32::try_from(sockets.len()).unwrap_or(u32::MAX)))
        .collect()
}

/// The network namespace of a process's directory, by its inode.
fn namespace(dir: &Path) -> Option<u64> {
    std::fs::metadata(dir.join("ns/net")).map(|meta| meta.ino()).ok()
}

/// Calls `each` with the inodes of a process's sockets until it says no, and says how many open
/// files were looked at.
fn sockets_in(dir: &Path, most: usize, mut each: impl FnMut(u32) -> bool) -> usize {
    let fds = dir.join("fd");
    let Ok(open) = std::fs::File::open(&fds) else { return 0 };
    // `socket:[4294967295]`; what is longer is no socket.
    let mut buffer = [0u8; 32];
    let mut goes_on = |name: &OsStr| {
        let link = sys::link_at(&open, name, &mut buffer).ok();
        let text = link.and_then(|link| std::str::from_utf8(link).ok());
        text.and_then(proc::socket_inode).is_none_or(&mut each)
    };
    // Of many open files the first numbers serve: listing a folder of thousands costs more than
    // they do. Since Linux 6.2 its size is their number.
    if open.metadata().is_ok_and(|about| about.size() > most as u64) {
        let count = (0..most).take_while(|number| goes_on(number.to_string().as_ref())).count();
        return most.min(count + 1);
    }
    let Ok(entries) = std::fs::read_dir(&fds) else { return 0 };
    let mut looked_at = 0;
    for entry in entries.flatten().take(most) {
        looked_at += 1;
        if !goes_on(&entry.file_name()) {
            break;
        }
    }
    looked_at
}

fn command(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("comm"))
        .map(|text| {
            text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(32).collect()
        })
        .unwrap_or_default()
}
