//! The last good state, kept over restarts.
//!
//! Three files in a directory that one replica has to itself: the snapshot ([`base`]), the deltas
//! since ([`log`]) and a note when the replica was last current ([`seen`]). Everything is checked
//! by SHA-256 when it is read; what does not check is named in the log, counted and ignored, and
//! comes again from the center. A thread of its own writes; the follower never waits for a disk, and
//! a disk that fails or is slow costs the cache and nothing else.
//!
//! INVARIANT: a log belongs to one snapshot (its records chain from the snapshot's hash), and a
//! snapshot to one owner (center and services).

mod base;
mod log;
mod seen;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use keepgate_policy::{Digest, Revision, World, proto};
use sha2::{Digest as _, Sha256};

use super::follow::chain;
use super::{Shared, StartError};

/// Writes that may wait for the disk.
const QUEUE: usize = 1024;
/// A log larger than this, and than half of its snapshot, is merged into it.
const MIN_COMPACT_BYTES: u64 = 1 << 20;
/// The note of the last heartbeat is renewed at most this often.
const SEEN_INTERVAL: Duration = Duration::from_secs(1);

/// Who a state belongs to.
pub(super) type Owner = [u8; 32];

pub(super) fn owner(center_url: &str, services: &[String]) -> Owner {
    let mut services: Vec<&str> = services.iter().map(String::as_str).collect();
    services.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(center_url).chain(services) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What was found.
pub(super) struct Kept {
    pub(super) world: World,
    /// When it was last current, in milliseconds since the Unix epoch, by the wall clock of then.
    pub(super) current_unix_ms: Option<u64>,
}

/// Hands writes to the thread that does them.
pub(super) struct Disk {
    to: SyncSender<Write>,
    /// Writes were lost or failed: what is on disk is an older state until the next snapshot.
    broken: Arc<AtomicBool>,
    repaired: Option<Instant>,
    noted: Option<Instant>,
}

enum Write {
    Snapshot { begin: proto::SnapshotBegin, chunks: Vec<Vec<u8>>, current_unix_ms: Option<u64> },
    Delta(log::Record),
    Seen { revision: Revision, unix_ms: u64 },
}

/// Opens the directory (making it if it is not there), loads what it has, and starts the writer.
pub(super) fn open(
    path: &Path,
    owner: Owner,
    shared: &Arc<Shared>,
) -> Result<(Disk, Option<Kept>), StartError> {
    let failed = |source| StartError::DataDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
        .open(path.join("replica.lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(StartError::Locked { path: path.to_owned() });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    let files = Files { dir: path.to_owned(), owner };
    let loaded = load(&files, shared);
    let broken = Arc::new(AtomicBool::new(false));
    let (to, writes) = sync_channel(QUEUE);
    let writer = Writer {
        files,
        open: loaded.as_ref().and_then(|loaded| loaded.log.clone()),
        seen: None,
        broken: broken.clone(),
        shared: shared.clone(),
        _lock: lock,
    };
    std::thread::Builder::new()
        .name("replica-disk".to_owned())
        .spawn(move || writer.run(&writes))
        .map_err(failed)?;
    let disk = Disk { to, broken, repaired: None, noted: None };
    Ok((disk, loaded.map(|loaded| loaded.kept)))
}

impl Disk {
    pub(super) fn snapshot(
        &mut self,
        begin: proto::SnapshotBegin,
        chunks: Vec<Vec<u8>>,
        current_unix_ms: Option<u64>,
    ) {
        self.write(Write::Snapshot { begin, chunks, current_unix_ms });
    }

    /// A delta that was applied, as it came, and the state it led to.
    pub(super) fn delta(
        &mut self,
        bytes: Vec<u8>,
        revision: Revision,
        digest: Digest,
        current_unix_ms: Option<u64>,
    ) {
        self.write(Write::Delta(log::Record { revision, digest, current_unix_ms, delta: bytes }));
    }

    /// The replica was current at that time.
    pub(super) fn seen(&mut self, revision: Revision, unix_ms: u64) {
        let now = Instant::now();
        if self.noted.is_none_or(|noted| now.duration_since(noted) >= SEEN_INTERVAL) {
            self.noted = Some(now);
            // A lost note makes the next start's age larger than it is, and harms nothing.
            let _ = self.to.try_send(Write::Seen { revision, unix_ms });
        }
    }

    /// Whether only a new snapshot can bring the directory up to date; says so at most once in
    /// `interval`.
    pub(super) fn needs_snapshot(&mut self, interval: Duration, now: Instant) -> bool {
        let due = self.repaired.is_none_or(|at| now.duration_since(at) >= interval);
        let needed = due && self.broken.load(Ordering::Acquire);
        if needed {
            self.repaired = Some(now);
        }
        needed
    }

    fn write(&self, write: Write) {
        if self.to.try_send(write).is_err() {
            self.broken.store(true, Ordering::Release);
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

fn load(files: &Files, shared: &Shared) -> Option<Loaded> {
    let reject = |path: &Path, error: &dyn std::error::Error| {
        shared.counters.disk_rejected.add();
        let (file, error) = (path.display(), chain(error));
        tracing::warn!(%file, error, "kept state ignored; the center sends it again");
    };
    let path = files.base();
    let base = match base::read(&path, &files.owner) {
        Ok(base) => base?,
        Err(error) => {
            reject(&path, &error);
            return None;
        }
    };
    let mut world = match World::from_snapshot(&base.snapshot) {
        Ok(world) if world.revision() == base.snapshot.revision => world,
        Ok(_) => {
            reject(&path, &base::BaseError::Digest);
            return None;
        }
        Err(error) => {
            reject(&path, &error);
            return None;
        }
    };
    drop(base.snapshot);
    let mut current_unix_ms = base.current_unix_ms;
    let path = files.log();
    let (end, trouble) = log::replay(&path, base.hash, base.bytes, |record| {
        world = record.apply(&world)?;
        current_unix_ms = record.current_unix_ms.max(current_unix_ms);
        Ok(())
    });
    if let Some(error) = trouble {
        reject(&path, &error);
    }
    match seen::read(&files.seen()) {
        // A note about a later state says nothing about this one.
        Ok(Some(seen)) if seen.revision <= world.revision() => {
            current_unix_ms = current_unix_ms.max(Some(seen.unix_ms));
        }
        Ok(_) => {}
        Err(error) => reject(&files.seen(), &error),
    }
    tracing::info!(revision = %world.revision(), "kept state loaded");
    Some(Loaded { kept: Kept { world, current_unix_ms }, log: end })
}

struct Writer {
    files: Files,
    open: Option<log::End>,
    seen: Option<File>,
    broken: Arc<AtomicBool>,
    shared: Arc<Shared>,
    _lock: File,
}

impl Writer {
    fn run(mut self, writes: &Receiver<Write>) {
        while let Ok(write) = writes.recv() {
            let (what, result) = match write {
                Write::Snapshot { begin, chunks, current_unix_ms } => {
                    ("snapshot", self.snapshot(&begin, &chunks, current_unix_ms))
                }
                Write::Delta(record) => ("log", self.delta(&record)),
                Write::Seen { revision, unix_ms } => ("note", self.seen(revision, unix_ms)),
            };
            if let Err(error) = result {
                // A note is renewed each second; all else leaves a hole.
                if what != "note" {
                    self.broken.store(true, Ordering::Release);
                }
                self.shared.counters.disk_failures.add();
                let directory = self.files.dir.display();
                tracing::warn!(%directory, %error, what, "the replica's state cannot be kept");
            }
        }
    }

    fn snapshot(
        &mut self,
        begin: &proto::SnapshotBegin,
        chunks: &[Vec<u8>],
        current_unix_ms: Option<u64>,
    ) -> io::Result<()> {
        self.open = None;
        let mut writer = base::Writer::create(&self.files.base())?;
        for chunk in chunks {
            writer.chunk(chunk)?;
        }
        let about = base::About {
            revision: begin.revision,
            digest: begin.digest.clone(),
            items: begin.items,
            current_unix_ms,
        };
        self.begin_log(writer, &about)
    }

    fn begin_log(&mut self, writer: base::Writer, about: &base::About) -> io::Result<()> {
        let (hash, bytes) = writer.finish(about, &self.files.owner)?;
        self.open = Some(log::create(&self.files.log(), hash, bytes, Revision(about.revision))?);
        self.broken.store(false, Ordering::Release);
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

    fn seen(&mut self, revision: Revision, unix_ms: u64) -> io::Result<()> {
        let file = match &mut self.seen {
            Some(file) => file,
            none => none.insert(
                private(OpenOptions::new().write(true).create(true).truncate(false))
                    .open(self.files.seen())?,
            ),
        };
        seen::write(file, seen::Seen { revision, unix_ms })
    }
}

/// Files that only this user may read: they hold who may do what.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}
