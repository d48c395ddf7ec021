//! The embedded store: one SQLite file in the data directory.
//!
//! WAL with `synchronous = FULL`: a revision is acknowledged after its fsync, so neither a
//! killed process nor a lost power supply takes it back. One write connection; a bounded number
//! of read connections, each read transaction on one WAL snapshot. The directory is 0700 and
//! locked by `center.lock` for as long as the store lives.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepgate_policy::{Digest, ItemKey, Kind, Revision};
use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, params};

use super::{
    AuditRow, ChangeRow, Changes, Reading, Retention, Row, ScopeRow, Store, StoreError, TokenRow,
    Verdict, Writing,
};
use crate::token::Role;

/// The layout this release reads and writes.
const LAYOUT: i64 = 1;

/// Read connections kept open for reuse; more may be open for a moment.
const IDLE_READERS: usize = 4;

const TABLES: &str = "
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,
    oldest_change INTEGER NOT NULL, unix_ms INTEGER NOT NULL);
INSERT INTO head VALUES (1, 0, 1, 0);
CREATE TABLE items (service TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL, revision INTEGER NOT NULL, digest BLOB NOT NULL, source TEXT NOT NULL,
    PRIMARY KEY (service, kind, id)) WITHOUT ROWID;
CREATE INDEX items_by_source ON items (source, kind, id) WHERE source <> '';
CREATE TABLE scopes (service TEXT PRIMARY KEY, digest BLOB NOT NULL, items INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE changes (revision INTEGER NOT NULL, seq INTEGER NOT NULL, service TEXT NOT NULL,
    kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB, PRIMARY KEY (revision, seq)) WITHOUT ROWID;
CREATE TABLE tokens (id TEXT PRIMARY KEY, role TEXT NOT NULL, service TEXT NOT NULL,
    sha256 BLOB NOT NULL, note TEXT NOT NULL, created_unix_s INTEGER NOT NULL,
    last_used_unix_s INTEGER, revoked_unix_s INTEGER) WITHOUT ROWID;
CREATE TABLE audit (seq INTEGER PRIMARY KEY, revision INTEGER NOT NULL, unix_ms INTEGER NOT NULL,
    actor TEXT NOT NULL, action TEXT NOT NULL, service TEXT NOT NULL, kind TEXT NOT NULL,
    id TEXT NOT NULL, before TEXT, after TEXT);
";

/// The store in a data directory.
#[derive(Debug)]
pub struct SqliteStore {
    file: std::path::PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Held, never read: the lock lives as long as the file is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens or creates the store in `dir`; refused while another center has it.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        let shown = dir.display().to_string();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| StoreError::Io { what: "create", path: shown.clone(), source })?;
        let lock = lock(dir)?;
        let file = dir.join("center.db");
        // SQLite creates its files with the umask; the database holds hashes, so it is made first.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(|source| {
            StoreError::Io { what: "create", path: file.display().to_string(), source }
        })?;
        let mut connection = connect(&file)?;
        lay_out(&mut connection)?;
        Ok(SqliteStore {
            file,
            writer: Mutex::new(connection),
            readers: Mutex::new(Vec::new()),
            _lock: lock,
        })
    }
}

impl Store for SqliteStore {
    fn read(&self) -> Result<Box<dyn Reading + '_>, StoreError> {
        let pooled = lock_of(&self.readers).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(&self.file)?,
        };
        connection.execute_batch("BEGIN").map_err(failed("beginning to read"))?;
        // A deferred transaction takes its snapshot at the first read.
        head(&connection)?;
        Ok(Box::new(Reader { store: self, connection: Some(connection) }))
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<Verdict, StoreError>,
    ) -> Result<(), StoreError> {
        let connection = lock_of(&self.writer);
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed("beginning to write"))?;
        let mut writer = Writer { connection: &connection, seq: 0 };
        match work(&mut writer) {
            Ok(Verdict::Commit) => match connection.execute_batch("COMMIT") {
                Ok(()) => Ok(()),
                Err(e) => {
                    roll_back(&connection);
                    Err(failed("committing")(e))
                }
            },
            Ok(Verdict::Rollback) => {
                roll_back(&connection);
                Ok(())
            }
            Err(e) => {
                roll_back(&connection);
                Err(e)
            }
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        lock_of(&self.readers).clear();
        lock_of(&self.writer)
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(failed("checkpointing"))
    }
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
    move |source| StoreError::Database { doing, source: Box::new(source) }
}

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

fn connect(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(file).map_err(failed("opening the file"))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed("configuring"))?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )
        .map_err(failed("configuring"))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn lay_out(connection: &mut Connection) -> Result<(), StoreError> {
    let doing = "laying out the tables";
    let tx = connection.transaction().map_err(failed(doing))?;
    let found: i64 =
        tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed(doing))?;
    match found {
        0 => {
            tx.execute_batch(TABLES).map_err(failed(doing))?;
            tx.pragma_update(None, "user_version", LAYOUT).map_err(failed(doing))?;
        }
        LAYOUT => {}
        found => return Err(StoreError::Layout { found, known: LAYOUT }),
    }
    tx.commit().map_err(failed(doing))
}

/// A read transaction on a connection that goes back to the pool.
struct Reader<'a> {
    store: &'a SqliteStore,
    connection: Option<Connection>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if connection.execute_batch("ROLLBACK").is_ok() {
            let mut idle = lock_of(&self.store.readers);
            if idle.len() < IDLE_READERS {
                idle.push(connection);
            }
        }
    }
}

struct Writer<'a> {
    connection: &'a Connection,
    seq: i64,
}

/// What both transactions read with.
trait Connected {
    fn connection(&self) -> Result<&Connection, StoreError>;
}

impl Connected for Reader<'_> {
    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection
            .as_ref()
            .ok_or_else(|| StoreError::Corrupt { what: "the reader has ended".to_owned() })
    }
}

impl Connected for Writer<'_> {
    fn connection(&self) -> Result<&Connection, StoreError> {
        Ok(self.connection)
    }
}

const ITEM: &str = "SELECT service, kind, id, body, revision, digest, source FROM items";

impl<T: Connected> Reading for T {
    fn head(&self) -> Result<Revision, StoreError> {
        Ok(head(self.connection()?)?.0)
    }

    fn item(&self, key: &ItemKey) -> Result<Option<Row>, StoreError> {
        let doing = "reading an item";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{ITEM} WHERE service = ?1 AND kind = ?2 AND id = ?3"))
            .map_err(failed(doing))?;
        statement
            .query_row(params![key.service, key.kind.as_str(), key.id], item_row)
            .optional()
            .map_err(failed(doing))?
            .transpose()
    }

    fn list(
        &self,
        service: &str,
        kind: Kind,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let doing = "listing items";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // Some ids are empty (a service, its schema): "after nothing" must include them.
        let mut statement = self
            .connection()?
            .prepare_cached(&format!(
                "{ITEM} WHERE service = ?1 AND kind = ?2 AND (id > ?3 OR ?3 = '') ORDER BY id \
                 LIMIT ?4"
            ))
            .map_err(failed(doing))?;
        let rows = statement
            .query_map(params![service, kind.as_str(), after, limit], item_row)
            .map_err(failed(doing))?;
        rows.map(|row| row.map_err(failed(doing))?).collect()
    }

    fn count(&self, service: &str, kind: Kind) -> Result<u64, StoreError> {
        let doing = "counting items";
        self.connection()?
            .prepare_cached("SELECT count(*) FROM items WHERE service = ?1 AND kind = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![service, kind.as_str()], |row| unsigned(row, 0))
            })
            .map_err(failed(doing))
    }

    fn each(
        &self,
        service: &str,
        visit: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "reading a scope";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{ITEM} WHERE service = ?1 AND kind = ?2 ORDER BY id"))
            .map_err(failed(doing))?;
        for kind in Kind::ALL {
            let rows = statement
                .query_map(params![service, kind.as_str()], item_row)
                .map_err(failed(doing))?;
            for row in rows {
                visit(row.map_err(failed(doing))??)?;
            }
        }
        Ok(())
    }

    fn sourced(&self, source: &str) -> Result<Vec<Row>, StoreError> {
        let doing = "reading the items of a source";
        if source.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = self
            .connection()?
            .prepare_cached(&format!(
                "{ITEM} WHERE source = ?1 AND source <> '' AND service = '' AND kind = ?2 \
                 ORDER BY id"
            ))
            .map_err(failed(doing))?;
        let mut found = Vec::new();
        for kind in Kind::ALL {
            let rows = statement
                .query_map(params![source, kind.as_str()], item_row)
                .map_err(failed(doing))?;
            for row in rows {
                found.push(row.map_err(failed(doing))??);
            }
        }
        Ok(found)
    }

    fn scopes(&self) -> Result<Vec<ScopeRow>, StoreError> {
        let doing = "reading the scopes";
        let mut statement = self
            .connection()?
            .prepare_cached("SELECT service, digest, items FROM scopes ORDER BY service")
            .map_err(failed(doing))?;
        let rows = statement
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, unsigned(row, 2)?))
            })
            .map_err(failed(doing))?;
        rows.map(|row| {
            let (service, digest, items) = row.map_err(failed(doing))?;
            Ok(ScopeRow { digest: digest_of(&digest)?, service, items })
        })
        .collect()
    }

    fn changes_after(&self, revision: Revision, limit: usize) -> Result<Changes, StoreError> {
        let doing = "reading changes";
        let connection = self.connection()?;
        let (head, oldest) = head(connection)?;
        if revision > head || revision.0.saturating_add(1) < oldest.0 {
            return Ok(Changes::Pruned);
        }
        let mut statement = connection
            .prepare_cached(
                "SELECT revision, service, kind, id, body FROM changes WHERE revision > ?1 \
                 ORDER BY revision, seq LIMIT ?2",
            )
            .map_err(failed(doing))?;
        let bound = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![signed(revision.0), bound], |row| {
                let kind: String = row.get(2)?;
                Ok((unsigned(row, 0)?, row.get(1)?, kind, row.get(3)?, row.get(4)?))
            })
            .map_err(failed(doing))?;
        let mut found = Vec::new();
        for row in rows {
            let (revision, service, kind, id, body) = row.map_err(failed(doing))?;
            let key = ItemKey { service, kind: stored_kind(&kind)?, id };
            found.push(ChangeRow { revision: Revision(revision), key, body });
        }
        Ok(if found.len() > limit { Changes::TooMany } else { Changes::Rows(found) })
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let doing = "reading tokens";
        let mut statement = self
            .connection()?
            .prepare_cached(
                "SELECT id, role, service, sha256, note, created_unix_s, last_used_unix_s, \
                 revoked_unix_s FROM tokens ORDER BY id",
            )
            .map_err(failed(doing))?;
        let rows = statement.query_map([], token_row).map_err(failed(doing))?;
        rows.map(|row| row.map_err(failed(doing))?).collect()
    }

    fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let doing = "reading the audit log";
        let mut statement = self
            .connection()?
            .prepare_cached(
                "SELECT seq, revision, unix_ms, actor, action, service, kind, id, before, after \
                 FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )
            .map_err(failed(doing))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![signed(seq), limit], |row| {
                Ok(AuditRow {
                    seq: unsigned(row, 0)?,
                    revision: Revision(unsigned(row, 1)?),
                    unix_ms: unsigned(row, 2)?,
                    actor: row.get(3)?,
                    action: row.get(4)?,
                    service: row.get(5)?,
                    kind: row.get(6)?,
                    id: row.get(7)?,
                    before: row.get(8)?,
                    after: row.get(9)?,
                })
            })
            .map_err(failed(doing))?;
        rows.map(|row| row.map_err(failed(doing))).collect()
    }
}

impl Writing for Writer<'_> {
    fn put(&mut self, row: &Row) -> Result<(), StoreError> {
        self.run(
            "writing an item",
            "INSERT INTO items (service, kind, id, body, revision, digest, source) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (service, kind, id) DO UPDATE SET \
             body = ?4, revision = ?5, digest = ?6, source = ?7",
            params![
                row.key.service,
                row.key.kind.as_str(),
                row.key.id,
                row.body,
                signed(row.revision.0),
                row.digest.to_bytes(),
                row.source
            ],
        )
        .map(|_| ())
    }

    fn delete(&mut self, key: &ItemKey) -> Result<bool, StoreError> {
        self.run(
            "deleting an item",
            "DELETE FROM items WHERE service = ?1 AND kind = ?2 AND id = ?3",
            params![key.service, key.kind.as_str(), key.id],
        )
        .map(|rows| rows > 0)
    }

    fn scope(&mut self, scope: &ScopeRow) -> Result<(), StoreError> {
        let doing = "writing a scope";
        if scope.items == 0 {
            let sql = "DELETE FROM scopes WHERE service = ?1";
            return self.run(doing, sql, params![scope.service]).map(|_| ());
        }
        self.run(
            doing,
            "INSERT INTO scopes (service, digest, items) VALUES (?1, ?2, ?3) \
             ON CONFLICT (service) DO UPDATE SET digest = ?2, items = ?3",
            params![scope.service, scope.digest.to_bytes(), signed(scope.items)],
        )
        .map(|_| ())
    }

    fn change(&mut self, row: &ChangeRow) -> Result<(), StoreError> {
        self.seq += 1;
        self.run(
            "writing a change",
            "INSERT INTO changes (revision, seq, service, kind, id, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                signed(row.revision.0),
                self.seq,
                row.key.service,
                row.key.kind.as_str(),
                row.key.id,
                row.body
            ],
        )
        .map(|_| ())
    }

    fn token(&mut self, row: &TokenRow) -> Result<(), StoreError> {
        self.run(
            "writing a token",
            "INSERT INTO tokens (id, role, service, sha256, note, created_unix_s, \
             last_used_unix_s, revoked_unix_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
             ON CONFLICT (id) DO UPDATE SET role = ?2, service = ?3, sha256 = ?4, note = ?5, \
             created_unix_s = ?6, last_used_unix_s = ?7, revoked_unix_s = ?8",
            params![
                row.id,
                row.role.name(),
                row.service,
                row.sha256,
                row.note,
                signed(row.created_unix_s),
                row.last_used_unix_s.map(signed),
                row.revoked_unix_s.map(signed)
            ],
        )
        .map(|_| ())
    }

    fn audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        self.run(
            "writing the audit log",
            "INSERT INTO audit (revision, unix_ms, actor, action, service, kind, id, before, \
             after) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                signed(row.revision.0),
                signed(row.unix_ms),
                row.actor,
                row.action,
                row.service,
                row.kind,
                row.id,
                row.before,
                row.after
            ],
        )
        .map(|_| ())
    }

    fn advance(
        &mut self,
        revision: Revision,
        unix_ms: u64,
        keep: Retention,
    ) -> Result<(), StoreError> {
        let doing = "advancing the revision";
        let oldest = revision.0.saturating_sub(keep.revisions).saturating_add(1);
        self.run(
            doing,
            "UPDATE head SET revision = ?1, unix_ms = ?2, oldest_change = max(oldest_change, ?3)",
            params![signed(revision.0), signed(unix_ms), signed(oldest)],
        )?;
        self.run(doing, "DELETE FROM changes WHERE revision < ?1", params![signed(oldest)])?;
        self.run(
            doing,
            "DELETE FROM audit WHERE seq <= (SELECT coalesce(max(seq), 0) FROM audit) - ?1",
            params![signed(keep.audit_rows)],
        )
        .map(|_| ())
    }

    fn touch(&mut self, used: &[(String, u64)]) -> Result<(), StoreError> {
        for (id, unix_s) in used {
            self.run(
                "noting token use",
                "UPDATE tokens SET last_used_unix_s = max(coalesce(last_used_unix_s, 0), ?2) \
                 WHERE id = ?1",
                params![id, signed(*unix_s)],
            )?;
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn run(
        &self,
        doing: &'static str,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(failed(doing))
    }
}

/// Head and the oldest revision whose change rows are kept.
fn head(connection: &Connection) -> Result<(Revision, Revision), StoreError> {
    connection
        .prepare_cached("SELECT revision, oldest_change FROM head")
        .and_then(|mut statement| {
            statement
                .query_row([], |row| Ok((Revision(unsigned(row, 0)?), Revision(unsigned(row, 1)?))))
        })
        .map_err(failed("reading the revision"))
}

type Sql<T> = rusqlite::Result<T>;

fn item_row(row: &SqlRow<'_>) -> Sql<Result<Row, StoreError>> {
    let (service, kind, id): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (body, revision, digest): (Vec<u8>, u64, Vec<u8>) =
        (row.get(3)?, unsigned(row, 4)?, row.get(5)?);
    let source: String = row.get(6)?;
    Ok(stored_kind(&kind).and_then(|kind| {
        let digest = digest_of(&digest)?;
        let key = ItemKey { service, kind, id };
        Ok(Row { key, body, revision: Revision(revision), digest, source })
    }))
}

fn token_row(row: &SqlRow<'_>) -> Sql<Result<TokenRow, StoreError>> {
    let (id, role): (String, String) = (row.get(0)?, row.get(1)?);
    let Some(role) = Role::from_name(&role) else {
        return Ok(Err(StoreError::Corrupt { what: format!("token `{id}` has role `{role}`") }));
    };
    Ok(Ok(TokenRow {
        id,
        role,
        service: row.get(2)?,
        sha256: row.get(3)?,
        note: row.get(4)?,
        created_unix_s: unsigned(row, 5)?,
        last_used_unix_s: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
        revoked_unix_s: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
    }))
}

fn stored_kind(name: &str) -> Result<Kind, StoreError> {
    Kind::from_name(name)
        .ok_or_else(|| StoreError::Corrupt { what: format!("an item of kind `{name}`") })
}

/// SQLite's integers are signed; ours count up from zero and never get that far.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(row: &SqlRow<'_>, column: usize) -> Sql<u64> {
    row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0))
}

fn digest_of(bytes: &[u8]) -> Result<Digest, StoreError> {
    Digest::from_bytes(bytes)
        .ok_or_else(|| StoreError::Corrupt { what: "a digest that is not 32 bytes".to_owned() })
}
