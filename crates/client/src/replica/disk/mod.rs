//! The last good state, kept over restarts.
//!
//! Three files in a directory that one replica has to itself: the snapshot ([`base`]), the deltas
//! since ([`log`]) and a note when the replica was last current ([`seen`]). Everything is checked
//! by SHA-256 when it is read; what does not check is named in the log, counted and ignored, and
//! comes again from the center. A thread of its own writes; the follower never waits for a disk, and
//! a disk that fails, is full or is read-only costs the cache and nothing else.
//!
//! INVARIANT: a log belongs to one snapshot (its records chain from the snapshot's hash), and a
//! snapshot to one owner (centers and services). State of the same services that came from a center
//! under another URL is only used once a center's Welcome accepts it. Several centers are one owner,
//! in any order: it says nothing which of them was followed. What came from one center is used at
//! once where that one is in the list; what came from a list, only with the same list.
//!
//! INVARIANT: nothing is read or written through a link, or in a directory that others may write.

mod base;
pub(super) mod files;
mod log;
mod seen;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use keepgate_observe::chain;
use keepgate_policy::{Digest, Mark, Snapshot, proto};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::age::{Moment, Note, RestartAge};
use super::received::Received;
use super::{Shared, StartError};
use files::DirectoryError;

/// Writes that may wait for the disk.
const QUEUE: usize = 1024;
/// A log larger than this, and than half of its snapshot, is merged into it.
const MIN_COMPACT_BYTES: u64 = 1 << 20;
/// The note of the last heartbeat is renewed at most this often.
const SEEN_INTERVAL: Duration = Duration::from_secs(1);
/// How often a disk that failed is tried again, at first and at most: each time that it has room
/// again costs one snapshot from the center.
const REPAIR: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Room that must be there beside the last snapshot before another one is asked for.
const ROOM: u64 = 1 << 20;

/// Who a state belongs to.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// Hash of the centers' URLs, sorted; of one center it is that of its URL.
    center: log::Hash,
    /// Hash of each one's URL.
    members: Vec<log::Hash>,
    /// Sorted.
    services: Vec<String>,
    /// As release 0.1 said it: hash of URL and services, for each center.
    legacy: Vec<log::Hash>,
}

impl Owner {
    /// Whether state of this center, or of this list of centers, may be used before a Welcome.
    fn is_center(&self, center: &log::Hash) -> bool {
        self.center == *center || self.members.contains(center)
    }
}

pub(super) fn owner(centers: &[String], services: &[String]) -> Owner {
    let mut services = services.to_vec();
    services.sort_unstable();
    let mut centers: Vec<&str> = centers.iter().map(String::as_str).collect();
    centers.sort_unstable();
    let hash_of = |parts: &[&str]| -> log::Hash {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    };
    let legacy = |center: &&str| {
        let services = services.iter().map(String::as_str);
        hash_of(&[*center].into_iter().chain(services).collect::<Vec<_>>())
    };
    Owner {
        center: hash_of(&centers),
        members: centers.iter().map(|center| hash_of(&[center])).collect(),
        legacy: centers.iter().map(legacy).collect(),
        services,
    }
}

/// What was found.
pub(super) struct Kept {
    pub(super) state: Received,
    /// None: release 0.1 kept it.
    pub(super) mark: Option<Mark>,
    /// When it was last current.
    pub(super) current: Option<Moment>,
    /// It came from the center under the URL that is used now.
    pub(super) same_center: bool,
}

/// Hands writes to the thread that does them.
pub(super) struct Disk {
    to: SyncSender<Write>,
    state: Arc<State>,
    /// When the next look is due, and how long after that the one after it.
    repair: Option<(Instant, Duration)>,
    noted: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    /// Writes were lost or failed: what is on disk is an older state until the next snapshot.
    broken: AtomicBool,
    /// A disk that failed has room for a snapshot again.
    has_room: AtomicBool,
    /// The size of the last snapshot, in bytes.
    bytes: AtomicU64,
}

enum Write {
    Snapshot {
        about: base::About,
        chunks: Vec<Vec<u8>>,
    },
    Delta(log::Record),
    Seen {
        mark: Mark,
        note: Note,
    },
    /// Is there room for a snapshot?
    Probe,
}

/// Opens the directory (making it if it is not there), loads what it has, and starts the writer.
/// None: the directory cannot be used now; the replica goes on without.
pub(super) fn open(
    path: &Path,
    owner: Owner,
    shared: &Arc<Shared>,
    restart: RestartAge,
    ending: &Arc<watch::Sender<()>>,
) -> Result<(Option<Disk>, Option<Kept>), StartError> {
    let failed = |source| StartError::DataDir { path: path.to_owned(), source };
    let directory = match files::directory(path) {
        Ok(directory) => directory,
        Err(DirectoryError::Io(error)) if is_unwritable(&error) => {
            shared.counters.disk_failures.add(1);
            let directory = path.display();
            tracing::warn!(%directory, %error, "the data directory cannot be made; the replica is kept in memory alone");
            return Ok((None, None));
        }
        Err(DirectoryError::Io(source)) => return Err(failed(source)),
        Err(error) => return Err(failed(io::Error::other(error))),
    };
    let mut locks = vec![lock(directory, path)?];
    // Release 0.1 locks this file and not the directory.
    match files::write(&path.join("replica.lock")) {
        Ok(file) => locks.push(lock(file, path)?),
        Err(error) if is_unwritable(&error) => {
            shared.counters.disk_failures.add(1);
            let directory = path.display();
            tracing::warn!(%directory, %error, "the data directory cannot be written; what it has is used, and nothing new is kept");
        }
        Err(source) => return Err(failed(source)),
    }
    let files = Files { dir: path.to_owned(), owner };
    let loaded = load(&files, shared, restart);
    let state = Arc::new(State::default());
    if let Some(end) = loaded.as_ref().and_then(|loaded| loaded.log.as_ref()) {
        state.bytes.store(end.base_bytes, Ordering::Release);
    }
    let (to, writes) = sync_channel(QUEUE);
    let writer = Writer {
        files,
        open: loaded.as_ref().and_then(|loaded| loaded.log.clone()),
        seen: None,
        state: Arc::clone(&state),
        shared: shared.clone(),
        failing: false,
        _locks: locks,
        _ending: Arc::clone(ending),
    };
    std::thread::Builder::new()
        .name("replica-disk".to_owned())
        .spawn(move || writer.run(&writes))
        .map_err(failed)?;
    let disk = Disk { to, state, repair: None, noted: None };
    Ok((Some(disk), loaded.map(|loaded| loaded.kept)))
}

fn lock(file: File, path: &Path) -> Result<File, StartError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => {
            Err(StartError::DataDir { path: path.to_owned(), source })
        }
    }
}

/// Whether it says that nothing can be written there now, rather than that the path is wrong.
fn is_unwritable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::PermissionDenied
    )
}

impl Disk {
    pub(super) fn snapshot(
        &mut self,
        begin: &proto::SnapshotBegin,
        mark: Mark,
        chunks: Vec<Vec<u8>>,
    ) {
        let about = base::About {
            revision: mark.revision,
            digest: begin.digest.clone(),
            items: begin.items,
            mark: Some(mark),
            current_unix_ms: None,
        };
        self.write(Write::Snapshot { about, chunks });
    }

    /// A delta that was applied, as it came, and the state it led to.
    pub(super) fn delta(&mut self, bytes: Vec<u8>, mark: Mark, digest: Digest) {
        self.write(Write::Delta(log::Record {
            revision: mark.revision,
            mark: Some(mark),
            digest,
            current_unix_ms: None,
            delta: bytes,
        }));
    }

    /// The state of this mark was current at that time.
    pub(super) fn seen(&mut self, mark: Mark, note: impl FnOnce() -> Note) {
        let now = Instant::now();
        if self.noted.is_none_or(|noted| now.duration_since(noted) >= SEEN_INTERVAL) {
            self.noted = Some(now);
            // A lost note makes the next start's age larger than it is, and harms nothing.
            let _ = self.to.try_send(Write::Seen { mark, note: note() });
        }
    }

    /// Whether only a new snapshot can bring the directory up to date, and can be kept. Says so
    /// rarely, and only once the disk was found to have room again.
    pub(super) fn needs_snapshot(&mut self, now: Instant) -> bool {
        if !self.state.broken.load(Ordering::Acquire) {
            self.repair = None;
            return false;
        }
        let (due, pause) = *self.repair.get_or_insert((now + REPAIR.0, REPAIR.0));
        if self.state.has_room.swap(false, Ordering::AcqRel) {
            return true;
        }
        if now >= due {
            let pause = (pause * 2).min(REPAIR.1);
            self.repair = Some((now + pause, pause));
            let _ = self.to.try_send(Write::Probe);
        }
        false
    }

    fn write(&self, write: Write) {
        if self.to.try_send(write).is_err() {
            self.state.broken.store(true, Ordering::Release);
        }
    }
}

/// The files' names, and whose they are.
struct Files {
    dir: PathBuf,
    owner: Owner,
}

impl Files {
    fn base(&self) -> PathBuf {
        self.dir.join("replica.snapshot")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("replica.log")
    }

    fn seen(&self) -> PathBuf {
        self.dir.join("replica.seen")
    }
}

struct Loaded {
    kept: Kept,
    /// Where the log goes on; none where it must begin anew.
    log: Option<log::End>,
}

fn load(files: &Files, shared: &Shared, restart: RestartAge) -> Option<Loaded> {
    let reject = |path: &Path, error: &dyn std::error::Error| {
        shared.counters.disk_rejected.add(1);
        let (file, error) = (path.display(), chain(error));
        tracing::warn!(%file, error, "kept state ignored; the center sends it again");
    };
    let path = files.base();
    let base = match base::read(&path, Some(&files.owner)) {
        Ok(base) => base?,
        Err(error) => {
            reject(&path, &error);
            return None;
        }
    };
    let built = Received::from_snapshot(base.snapshot, &base.frames, &BTreeMap::new());
    let mut state = match built {
        Ok(state) if state.world.revision() == base.about.revision => state,
        Ok(_) => {
            reject(&path, &base::BaseError::Digest);
            return None;
        }
        Err(error) => {
            reject(&path, &error);
            return None;
        }
    };
    drop(base.frames);
    let mut mark = base.about.mark;
    let mut current_unix_ms = base.about.current_unix_ms;
    let path = files.log();
    let (end, trouble) = log::replay(&path, base.version, base.hash, base.bytes, |record| {
        state = record.apply(&state)?;
        mark = record.mark;
        current_unix_ms = record.current_unix_ms.max(current_unix_ms);
        Ok(())
    });
    if let Some(error) = trouble {
        reject(&path, &error);
    }
    let mut current = None;
    match (seen::read(&files.seen()), &mark) {
        // A note about a later state says nothing about this one, nor does another history's.
        (Ok(Some(seen::Seen::At { mark: noted, note })), Some(mark))
            if noted.history == mark.history && noted.revision <= mark.revision =>
        {
            current = shared.clock.noted(&note, restart);
        }
        (Ok(Some(seen::Seen::Wall { revision, unix_ms })), None)
            if revision <= state.world.revision() =>
        {
            current_unix_ms = current_unix_ms.max(Some(unix_ms));
        }
        (Ok(_), _) => {}
        (Err(error), _) => reject(&files.seen(), &error),
    }
    if mark.is_none() && restart == RestartAge::WallClock {
        current = current_unix_ms.and_then(|unix_ms| shared.clock.noted_wall(unix_ms));
    }
    tracing::info!(revision = %state.world.revision(), "kept state loaded");
    // What release 0.1 wrote is not appended to: it has no marks.
    let log = end.filter(|_| base.version == log::Version::Two);
    let same_center = base.same_center;
    Some(Loaded { kept: Kept { state, mark, current, same_center }, log })
}

struct Writer {
    files: Files,
    open: Option<log::End>,
    seen: Option<File>,
    state: Arc<State>,
    shared: Arc<Shared>,
    /// The last write failed, and that was said.
    failing: bool,
    _locks: Vec<File>,
    /// After the locks: see [`super::Replica::close`].
    _ending: Arc<watch::Sender<()>>,
}

impl Writer {
    fn run(mut self, writes: &Receiver<Write>) {
        while let Ok(write) = writes.recv() {
            let is_note = matches!(write, Write::Seen { .. });
            let (what, result) = match write {
                Write::Snapshot { about, chunks } => ("snapshot", self.snapshot(&about, &chunks)),
                Write::Delta(record) => ("log", self.delta(&record)),
                Write::Seen { mark, note } => ("note", self.seen(&mark, &note)),
                Write::Probe => ("room", self.probe()),
            };
            let directory = self.files.dir.display();
            match result {
                Ok(()) if self.failing && what == "snapshot" => {
                    self.failing = false;
                    tracing::info!(%directory, "the replica's state is kept again");
                }
                Ok(()) => {}
                Err(error) => {
                    // A note is renewed each second; all else leaves a hole.
                    if !is_note {
                        self.state.broken.store(true, Ordering::Release);
                    }
                    self.shared.counters.disk_failures.add(1);
                    if self.failing {
                        tracing::debug!(%directory, %error, what, "the replica's state still cannot be kept");
                    } else {
                        self.failing = true;
                        tracing::warn!(%directory, %error, what, "the replica's state cannot be kept; decisions continue");
                    }
                }
            }
        }
    }

    fn snapshot(&mut self, about: &base::About, chunks: &[Vec<u8>]) -> io::Result<()> {
        self.open = None;
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.state.bytes.store(bytes, Ordering::Release);
        let written = self.write_snapshot(about, chunks);
        if written.is_err() {
            // A part of a snapshot is worth nothing, and the room is.
            let _ = std::fs::remove_file(base::temporary(&self.files.base()));
        }
        written
    }

    fn write_snapshot(&mut self, about: &base::About, chunks: &[Vec<u8>]) -> io::Result<()> {
        let mut writer = base::Writer::create(&self.files.base(), &self.files.owner)?;
        for chunk in chunks {
            writer.chunk(chunk)?;
        }
        self.begin_log(writer, about)
    }

    fn begin_log(&mut self, writer: base::Writer, about: &base::About) -> io::Result<()> {
        let (hash, bytes) = writer.finish(about, &self.files.owner)?;
        self.open = Some(log::create(&self.files.log(), hash, bytes, about.revision)?);
        self.state.broken.store(false, Ordering::Release);
        Ok(())
    }

    fn delta(&mut self, record: &log::Record) -> io::Result<()> {
        // Without a log, and with a hole in it, a delta is worth nothing.
        let Some(end) = &mut self.open else { return Ok(()) };
        if let Err(error) = log::append(&self.files.log(), end, record) {
            self.open = None;
            return Err(error);
        }
        if end.bytes > MIN_COMPACT_BYTES.max(end.base_bytes / 2) {
            return self.compact();
        }
        Ok(())
    }

    /// Merges the log into the snapshot, item by item: memory for the log's changes alone.
    fn compact(&mut self) -> io::Result<()> {
        self.open = None;
        let merged = base::merged(&self.files.base(), &self.files.log(), &self.files.owner);
        let (writer, about) = merged.map_err(|error| io::Error::other(chain(&error)))?;
        self.begin_log(writer, &about)
    }

    fn seen(&mut self, mark: &Mark, note: &Note) -> io::Result<()> {
        let file = match &mut self.seen {
            Some(file) => file,
            none => none.insert(files::write(&self.files.seen())?),
        };
        seen::write(file, mark, note)
    }

    /// Asks for a snapshot only where it could be kept.
    fn probe(&self) -> io::Result<()> {
        let bytes = self.state.bytes.load(Ordering::Acquire).saturating_add(ROOM);
        files::has_room(&self.files.dir.join("replica.probe"), bytes)?;
        self.state.has_room.store(true, Ordering::Release);
        Ok(())
    }
}

/// A replica file as `keepgate center recover` reads it.
#[derive(Debug)]
pub struct KeptState {
    /// Which state it is; none: release 0.1 wrote it.
    pub mark: Option<Mark>,
    /// The services that its gate followed, sorted; empty: all that its token could see (and of a
    /// file of release 0.1, which does not say).
    pub services: Vec<String>,
    /// The state.
    pub snapshot: Snapshot,
}

/// A replica file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is none.
    #[error("expected a replica file, found none")]
    Absent,
    /// It is damaged, or no replica file.
    #[error("the file cannot be used: {0}")]
    Damaged(String),
}

/// Reads `replica.snapshot` and, if it is beside it, `replica.log`, whoever's they are. Checks what
/// a replica checks. Records of the log behind a damaged one are left out.
///
/// # Errors
/// No file, or one that is damaged.
pub fn read_kept(path: &Path) -> Result<KeptState, KeptError> {
    let damaged = |error: &dyn std::error::Error| KeptError::Damaged(chain(error));
    let base = base::read(path, None).map_err(|error| damaged(&error))?.ok_or(KeptError::Absent)?;
    let mut mark = base.about.mark;
    let mut snapshot = base.snapshot;
    let mut items: BTreeMap<_, _> =
        snapshot.items.drain(..).map(|item| (item.key.clone(), item)).collect();
    let log = path.with_file_name("replica.log");
    let (_, trouble) = log::replay(&log, base.version, base.hash, base.bytes, |record| {
        let delta = record.decoded()?;
        for change in delta.changes {
            match change {
                keepgate_policy::Change::Put(item) => {
                    items.insert(item.key.clone(), item);
                }
                keepgate_policy::Change::Delete(key) => {
                    items.remove(&key);
                }
            }
        }
        mark = record.mark;
        snapshot.revision = record.revision;
        Ok(())
    });
    if let Some(error) = trouble {
        tracing::warn!(file = %log.display(), error = chain(&error), "the log is used up to here");
    }
    snapshot.items = items.into_values().collect();
    // Over the items as this release writes them: the file's own digest was checked above.
    snapshot.digest = Digest::of_all(&snapshot.items);
    Ok(KeptState { mark, services: base.services, snapshot })
}
