//! The embedded store: one SQLite file in the data directory.
//!
//! WAL with `synchronous = FULL`: a revision is acknowledged after its fsync, so neither a
//! killed process nor a lost power supply takes it back. What SQLite cannot see (a log that lost
//! its end, a file that was deleted, copied or put back) is seen by the high-water mark beside it
//! ([`high`]) and by the checks of a start ([`start`]). One write connection; a bounded number of
//! read connections, each read transaction on one WAL snapshot. The directory is 0700 and locked
//! by `center.lock` for as long as the store lives.

mod audit;
mod high;
pub(in crate::store) mod layout;
mod logs;
mod meta;
mod past;
mod requests;
mod rows;
mod sessions;
mod start;
mod tokens;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepgate_policy::Mark;
use rusqlite::{Connection, OpenFlags};

use super::error::Fault;
use super::past::Noted;
use super::{EditVerdict, Reading, Store, StoreError, Writing};
use high::High;
use rows::{Plain, Reader, Writer};
use start::{Inventory, inode};

/// The layout this release reads and writes.
const LAYOUT: i64 = 4;

/// That of release 0.1, which is migrated.
const FIRST_LAYOUT: i64 = 1;

/// That of the first releases with a history, which is migrated.
const SECOND_LAYOUT: i64 = 2;

/// That of the releases before past states were kept, which is migrated.
const THIRD_LAYOUT: i64 = 3;

/// Read connections kept open for reuse; more may be open for a moment.
const IDLE_READERS: usize = 4;

/// A log that has grown beyond this many bytes is brought into the database after a commit.
const WAL_BYTES: u64 = 4 << 20;

/// One beyond this is brought there by a thread of its own: other commits do not wait for it.
const WAL_LARGE: u64 = 64 << 20;

/// What must fit on the disk before a full one counts as cleared.
const PROBE_BYTES: usize = 256 << 10;

/// The store in a data directory.
#[derive(Debug)]
pub struct SqliteStore {
    dir: PathBuf,
    file: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// None where the store was opened for repair: nothing is noted then.
    high: Mutex<Option<High>>,
    /// The inodes of the database and of its log as they were opened; 0: no log yet.
    inode: u64,
    wal_inode: AtomicU64,
    /// Whether such a thread is at work.
    copying: Arc<AtomicBool>,
    first: bool,
    /// Held, never read: the lock lives as long as the file is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens or creates the store in `dir`; refused while another center has it, and where what
    /// is there may not be served ([`StoreError::Refused`] says why and what leads out).
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        let shown = dir.display().to_string();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| StoreError::Io { what: "create", path: shown.clone(), source })?;
        let lock = lock(dir)?;
        let inventory = Inventory::take(dir)?;
        let file = dir.join("center.db");
        let mut first = inventory.first()?;
        if first {
            // SQLite creates its files with the umask; the database holds hashes, so it is made
            // first, by us.
            OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(
                |source| StoreError::Io {
                    what: "create",
                    path: file.display().to_string(),
                    source,
                },
            )?;
        }
        let mut connection = connect(&file).map_err(|e| start::unreadable(&inventory, e))?;
        let layout = if first { 0 } else { start::layout(&connection, &inventory)? };
        match layout {
            0 => {
                inventory.blank()?;
                first = true;
                layout::create(&mut connection)?;
            }
            FIRST_LAYOUT => {
                start::old_beside_new(&inventory)?;
                start::check(&connection, &inventory)?;
                layout::migrate(&mut connection)?;
                tracing::info!(%shown, "the store of release 0.1 was migrated");
            }
            SECOND_LAYOUT | THIRD_LAYOUT => {
                start::check(&connection, &inventory)?;
                layout::migrate(&mut connection)?;
                tracing::info!(%shown, "the store of an earlier release was migrated");
            }
            _ => {}
        }
        start::check(&connection, &inventory)?;
        let number = inode(&file).map_err(|source| StoreError::Io {
            what: "look at",
            path: file.display().to_string(),
            source,
        })?;
        let high = settle_high(&mut connection, &inventory, number)?;
        let store = SqliteStore {
            dir: dir.to_owned(),
            wal_inode: AtomicU64::new(inode(&wal(&file)).unwrap_or(0)),
            file,
            writer: Mutex::new(connection),
            readers: Mutex::new(Vec::new()),
            high: Mutex::new(Some(high)),
            inode: number,
            copying: Arc::default(),
            first,
            _lock: lock,
        };
        Ok(store)
    }

    /// Reads a store at one revision, while a center may serve it. Nothing is created, locked or
    /// migrated.
    pub fn peek(
        dir: &Path,
        work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let inventory = Inventory::take(dir)?;
        let file = dir.join("center.db");
        if inventory.database.is_none() {
            return Err(inventory.lost("center.db", "a database", "no such file"));
        }
        // What was acknowledged before the reading began must be in it.
        let known = Self::high_mark(dir)?;
        let mut connection = connect(&file).map_err(|e| start::unreadable(&inventory, e))?;
        Self::readable(&connection, &inventory)?;
        let tx = connection.transaction().map_err(failed("beginning to read"))?;
        let plain = Plain(&tx);
        let stored = start::stored(&plain, &inventory)?;
        if let Some(high) = known
            && high.history == stored.meta.history
            && stored.head.revision < high.revision
        {
            let expected = format!("revision {}, which was acknowledged", high.revision);
            let found = format!("revision {}", stored.head.revision);
            return Err(inventory.lost("center.db", expected, found));
        }
        work(&plain)
    }

    /// Opens a store to bring it out of what keeps it from being served, with what a start would
    /// say. Nothing is created or migrated, and the high-water mark is left alone.
    pub fn open_repair(dir: &Path) -> Result<(SqliteStore, Option<StoreError>), StoreError> {
        let lock = lock(dir)?;
        let inventory = Inventory::take(dir)?;
        let file = dir.join("center.db");
        if inventory.database.is_none_or(|bytes| bytes == 0) {
            let found = if inventory.database.is_some() { "an empty file" } else { "no such file" };
            return Err(inventory.lost("center.db", "a database", found));
        }
        let mut connection = connect(&file).map_err(|e| start::unreadable(&inventory, e))?;
        Self::readable(&connection, &inventory)?;
        let number = inode(&file).map_err(|source| StoreError::Io {
            what: "look at",
            path: file.display().to_string(),
            source,
        })?;
        let said = {
            let tx = connection.transaction().map_err(failed("beginning to read"))?;
            let plain = Plain(&tx);
            let stored = start::stored(&plain, &inventory)?;
            start::against_high(&stored, &plain, number, &inventory).err()
        };
        let store = SqliteStore {
            dir: dir.to_owned(),
            wal_inode: AtomicU64::new(inode(&wal(&file)).unwrap_or(0)),
            file,
            writer: Mutex::new(connection),
            readers: Mutex::new(Vec::new()),
            high: Mutex::new(None),
            inode: number,
            copying: Arc::default(),
            first: false,
            _lock: lock,
        };
        Ok((store, said))
    }

    fn readable(connection: &Connection, inventory: &Inventory) -> Result<(), StoreError> {
        match start::layout(connection, inventory)? {
            LAYOUT => start::check(connection, inventory),
            found @ FIRST_LAYOUT..LAYOUT => Err(StoreError::Layout { found, known: LAYOUT }),
            _ => Err(inventory.lost("center.db", "a database", "a database without tables")),
        }
    }

    /// What `center.high` says, whether or not it belongs to the database; none: nothing readable.
    pub fn high_mark(dir: &Path) -> Result<Option<Mark>, StoreError> {
        let path = high::path(dir);
        match high::read(&path) {
            Ok(high::Found::Good(high, _)) => Ok(Some(high.mark)),
            Ok(_) => Ok(None),
            Err(source) => {
                Err(StoreError::Io { what: "read", path: path.display().to_string(), source })
            }
        }
    }

    /// Holds the directory, so that no center starts on it meanwhile.
    pub(crate) fn hold(dir: &Path) -> Result<File, StoreError> {
        lock(dir)
    }

    /// Whether this start made the store.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Whether the files are still where they were opened.
    fn there(&self) -> Result<(), StoreError> {
        let expected = format!("the open file (inode {})", self.inode);
        let found = match inode(&self.file) {
            Ok(found) if found == self.inode => {
                return self.log_there();
            }
            Ok(found) => format!("another file (inode {found})"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => "no such file".to_owned(),
            Err(e) => format!("a file that cannot be looked at ({e})"),
        };
        Err(self.lost(&self.file, expected, found))
    }

    /// The log is made by the first write and stays the same file as long as a connection is open.
    fn log_there(&self) -> Result<(), StoreError> {
        let path = wal(&self.file);
        let known = self.wal_inode.load(Ordering::Relaxed);
        match inode(&path) {
            Ok(found) if found == known => Ok(()),
            Ok(found) if known == 0 => {
                self.wal_inode.store(found, Ordering::Relaxed);
                Ok(())
            }
            Err(_) if known == 0 => Ok(()),
            Ok(found) => {
                let expected = format!("the open log (inode {known})");
                Err(self.lost(&path, expected, format!("another file (inode {found})")))
            }
            Err(e) => {
                let expected = format!("the open log (inode {known})");
                Err(self.lost(&path, expected, e.to_string()))
            }
        }
    }

    fn lost(&self, file: &Path, expected: String, found: String) -> StoreError {
        let dir = self.dir.display();
        start::refused(
            Fault::Lost,
            file,
            expected,
            found,
            format!(
                "stop the center; then restore a backup (`keepgate center restore FILE --data \
                 {dir}`) or take a replica from a gate's host (`keepgate center recover --from \
                 FILE --data {dir}`)"
            ),
        )
    }

    /// Keeps the log small: a copy of the database alone is then nearly whole, and a start reads
    /// little.
    fn tidy_log(&self, connection: &Connection) {
        let bytes = wal(&self.file).symlink_metadata().map_or(0, |meta| meta.len());
        if bytes <= WAL_BYTES {
            return;
        }
        if bytes > WAL_LARGE {
            return self.copy_log();
        }
        // A reader that is under way is not waited for; the next commit tries again.
        let _ = connection.busy_timeout(Duration::ZERO);
        if let Err(e) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::debug!(error = %e, "the log was not brought into the database");
        }
        let _ = connection.busy_timeout(BUSY);
    }
}

impl SqliteStore {
    /// Brings a large log into the database beside the writer; the next commit begins it anew.
    fn copy_log(&self) {
        if self.copying.swap(true, Ordering::Relaxed) {
            return;
        }
        let (file, copying) = (self.file.clone(), Arc::clone(&self.copying));
        let copy = move || {
            let copied = connect(&file).and_then(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            });
            copying.store(false, Ordering::Relaxed);
            if let Err(e) = copied {
                tracing::debug!(error = %e, "the log was not brought into the database");
            }
        };
        let thread = std::thread::Builder::new().name("center-log".to_owned());
        if let Err(e) = thread.spawn(copy) {
            self.copying.store(false, Ordering::Relaxed);
            tracing::debug!(error = %e, "the log was not brought into the database");
        }
    }
}

/// The high-water mark that belongs to the store, checked or, for a fresh one, made.
fn settle_high(
    connection: &mut Connection,
    inventory: &Inventory,
    inode: u64,
) -> Result<High, StoreError> {
    let doing = "checking the history";
    let tx = connection.transaction().map_err(failed(doing))?;
    let plain = Plain(&tx);
    let mut stored = start::stored(&plain, inventory)?;
    let known = start::against_high(&stored, &plain, inode, inventory)?;
    let mark = stored.meta.mark(stored.head.revision, stored.head.chain);
    let path = high::path(&inventory.dir);
    let io = |source| StoreError::HighWater { path: path.display().to_string(), source };
    let high = match known {
        Some(high) => high::write(&path, &high, &mark),
        None => high::create(&path, &mark, inode),
    }
    .map_err(io)?;
    if stored.meta.fresh {
        stored.meta.fresh = false;
        meta::write_meta(&tx, &stored.meta)?;
    }
    tx.commit().map_err(failed(doing))?;
    Ok(high)
}

impl Store for SqliteStore {
    fn read(&self) -> Result<Box<dyn Reading + '_>, StoreError> {
        let pooled = lock_of(&self.readers).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(&self.file).map_err(failed("opening the file"))?,
        };
        connection.execute_batch("BEGIN").map_err(failed("beginning to read"))?;
        // A deferred transaction takes its snapshot at the first read.
        rows::head(&connection)?;
        Ok(Box::new(Reader { store: self, connection: Some(connection) }))
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<EditVerdict, StoreError>,
    ) -> Result<(), StoreError> {
        let connection = lock_of(&self.writer);
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed("beginning to write"))?;
        let mut writer = Writer {
            connection: &connection,
            seq: 0,
            advanced: false,
            past: Noted::default(),
            audit_from: None,
        };
        let done = self.there().and_then(|()| work(&mut writer));
        let advanced = writer.advanced;
        match done {
            Ok(EditVerdict::Commit) => match connection.execute_batch("COMMIT") {
                Ok(()) => {
                    // Deleted or replaced meanwhile: then nobody may hear that it is kept.
                    self.there()?;
                    self.tidy_log(&connection);
                    Ok(())
                }
                Err(e) => {
                    roll_back(&connection);
                    let error = failed("committing")(e);
                    match error {
                        StoreError::Database { source, .. } if advanced => {
                            Err(StoreError::Unknown { source })
                        }
                        error => Err(error),
                    }
                }
            },
            Ok(EditVerdict::Rollback) => {
                roll_back(&connection);
                Ok(())
            }
            Err(e) => {
                roll_back(&connection);
                Err(e)
            }
        }
    }

    fn confirm(&self) -> Result<(), StoreError> {
        self.there()
    }

    fn note_high(&self, mark: &Mark) -> Result<(), StoreError> {
        let mut high = lock_of(&self.high);
        let path = high::path(&self.dir);
        let Some(before) = *high else {
            return Err(StoreError::Corrupt { what: "the store is open for repair".to_owned() });
        };
        let written = high::write(&path, &before, mark)
            .map_err(|source| StoreError::HighWater { path: path.display().to_string(), source })?;
        *high = Some(written);
        Ok(())
    }

    fn has_room(&self) -> Result<(), StoreError> {
        let path = self.dir.join("center.probe");
        let tried = (|| {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)?;
            file.write_all(&[0; PROBE_BYTES])?;
            file.sync_data()
        })();
        let _ = std::fs::remove_file(&path);
        tried.map_err(|source| StoreError::Io {
            what: "write",
            path: path.display().to_string(),
            source,
        })
    }

    fn settle(&self) -> Result<(), StoreError> {
        lock_of(&self.readers).clear();
        lock_of(&self.writer)
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(failed("checkpointing"))
    }
}

fn wal(file: &Path) -> PathBuf {
    file.with_extension("db-wal")
}

/// A poisoned lock is taken all the same: what it guards is a connection, and an unfinished
/// transaction on it is rolled back before the next begins.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn roll_back(connection: &Connection) {
    // Fails only when SQLite has rolled back by itself already.
    let _ = connection.execute_batch("ROLLBACK");
}

fn failed(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| {
        if is_full(&source) {
            return StoreError::Full { doing, source: Box::new(source) };
        }
        if is_damage(&source) {
            return StoreError::Corrupt { what: format!("{doing}: {source}") };
        }
        StoreError::Database { doing, source: Box::new(source) }
    }
}

/// Whether the engine, or the types of what it found, say that bytes were altered. The statements
/// are fixed, so one that does not fit the tables found other tables than it was written for.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TypeMismatch, Unknown};
    match error {
        rusqlite::Error::SqliteFailure(code, _) => {
            matches!(code.code, DatabaseCorrupt | NotADatabase | TypeMismatch | Unknown)
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}

/// SQLite says "full" for a write, and "I/O error" where it cannot lay out its index of the log.
fn is_full(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(code, _) => {
            code.code == rusqlite::ErrorCode::DiskFull
                || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
                || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMMAP
        }
        _ => false,
    }
}

/// The lock file, locked: with the process id inside for the next one's message.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("center.lock");
    let io = |what| {
        let path = path.display().to_string();
        move |source| StoreError::Io { what, path, source }
    };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            return Err(StoreError::Locked { dir: dir.display().to_string(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    file.set_len(0).map_err(io("write"))?;
    file.rewind().map_err(io("write"))?;
    write!(file, "{}", std::process::id()).map_err(io("write"))?;
    Ok(file)
}

/// How long a lock of another connection is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the database; it is never created here.
fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA journal_size_limit = 4194304; PRAGMA wal_autocheckpoint = 0;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
