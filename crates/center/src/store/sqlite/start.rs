//! What a data directory holds at a start, and whether it may be served: the table of
//! `docs/backup.md`, row by row.
//!
//! INVARIANT: nothing is created or overwritten before the row is known. A directory that may not
//! be served is left as it was found.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use keepgate_policy::{Mark, Revision};
use rusqlite::Connection;

use super::super::error::Fault;
use super::super::{Meta, Reading, RevisionRow, Standing, StoreError};
use super::high::{self, Found, High};
use super::{FIRST_LAYOUT, LAYOUT, failed};

/// What lies in a data directory, looked at before anything is opened.
#[derive(Clone, Debug)]
pub(super) struct Inventory {
    pub(super) dir: PathBuf,
    /// The size of `center.db`; none: there is no such file.
    pub(super) database: Option<u64>,
    /// Other files of a center that has run before.
    others: Vec<&'static str>,
}

impl Inventory {
    pub(super) fn take(dir: &Path) -> Result<Inventory, StoreError> {
        let mut inventory = Inventory { dir: dir.to_owned(), database: None, others: Vec::new() };
        let names = [
            "center.db",
            "center.db-wal",
            "center.db-shm",
            "center.high",
            "center.lock",
            "admin.token",
        ];
        for name in names {
            let path = dir.join(name);
            let meta = match path.symlink_metadata() {
                Ok(meta) => meta,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => {
                    let path = path.display().to_string();
                    return Err(StoreError::Io { what: "look at", path, source });
                }
            };
            // Nothing is read or written elsewhere; who may read the token may have it elsewhere.
            if name != "admin.token" && !meta.file_type().is_file() {
                return Err(refused(
                    Fault::Mixed,
                    &path,
                    "a regular file",
                    "a link or something else that is not a file",
                    format!(
                        "put the file itself into the data directory, or restore a backup \
                         (`keepgate center restore FILE --data {}`)",
                        dir.display()
                    ),
                ));
            }
            match name {
                "center.db" => inventory.database = Some(meta.len()),
                "center.db-wal" if meta.len() == 0 => {}
                // No trace of a store: the lock is made by every command that looks at it.
                "center.db-shm" | "center.lock" => {}
                _ => inventory.others.push(name),
            }
        }
        Ok(inventory)
    }

    /// No database and no trace of one: a first start. A trace of one: refused.
    pub(super) fn first(&self) -> Result<bool, StoreError> {
        if self.database.is_some_and(|bytes| bytes > 0) {
            return Ok(false);
        }
        if self.others.is_empty() {
            return Ok(true);
        }
        let found = if self.database.is_some() { "an empty file" } else { "no such file" };
        let expected = format!("the database that belongs to {}", named(&self.others));
        Err(self.lost("center.db", expected, found))
    }

    /// The same for a database in which nothing is laid out.
    pub(super) fn blank(&self) -> Result<(), StoreError> {
        if self.others.is_empty() {
            return Ok(());
        }
        let expected = format!("the database that belongs to {}", named(&self.others));
        Err(self.lost("center.db", expected, "a database without tables"))
    }

    pub(super) fn has_admin_token(&self) -> bool {
        self.others.contains(&"admin.token")
    }

    pub(super) fn lost(
        &self,
        file: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> StoreError {
        let dir = self.dir.display();
        refused(
            Fault::Lost,
            &self.dir.join(file),
            expected,
            found,
            format!(
                "put the missing file back, or restore a backup (`keepgate center restore FILE \
                 --data {dir}`), or take a replica from a gate's host (`keepgate center recover \
                 --from FILE --data {dir}`), or accept the loss (`keepgate center accept-loss \
                 --data {dir}`)"
            ),
        )
    }

    pub(super) fn damaged(&self, file: &str, found: impl Into<String>) -> StoreError {
        let dir = self.dir.display();
        refused(
            Fault::Damaged,
            &self.dir.join(file),
            "what the center wrote",
            found,
            format!(
                "restore a backup (`keepgate center restore FILE --data {dir}`), or take a replica \
                 from a gate's host (`keepgate center recover --from FILE --data {dir}`)"
            ),
        )
    }
}

pub(super) fn refused(
    fault: Fault,
    file: &Path,
    expected: impl Into<String>,
    found: impl Into<String>,
    way_out: impl Into<String>,
) -> StoreError {
    StoreError::Refused {
        fault,
        file: file.display().to_string(),
        expected: expected.into(),
        found: found.into(),
        way_out: way_out.into(),
    }
}

fn named(files: &[&str]) -> String {
    files.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The layout of a database that is not empty; 0 where nothing is laid out.
pub(super) fn layout(connection: &Connection, inventory: &Inventory) -> Result<i64, StoreError> {
    let read = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = read("SELECT count(*) FROM sqlite_schema");
    let (layout, tables) = match (read("PRAGMA user_version"), tables) {
        (Ok(layout), Ok(tables)) => (layout, tables),
        (Err(e), _) | (_, Err(e)) => return Err(unreadable(inventory, e)),
    };
    match (layout, tables) {
        (0, 0) => Ok(0),
        (FIRST_LAYOUT..=LAYOUT, 1..) => Ok(layout),
        (found, 1..) if found > LAYOUT && found < 1000 => {
            Err(StoreError::Layout { found, known: LAYOUT })
        }
        (found, _) => Err(inventory.damaged("center.db", format!("layout number {found}"))),
    }
}

/// An error of the engine that means that the file is not a good database.
pub(super) fn unreadable(inventory: &Inventory, error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, PermissionDenied, ReadOnly};
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | PermissionDenied | ReadOnly) => {
            failed("opening the file")(error)
        }
        _ => inventory.damaged("center.db", error.to_string()),
    }
}

/// `integrity_check`: pages, indexes and tables agree.
pub(super) fn check(connection: &Connection, inventory: &Inventory) -> Result<(), StoreError> {
    let said: Result<String, _> =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(said) => Err(inventory.damaged("center.db", said)),
        Err(e) => Err(unreadable(inventory, e)),
    }
}

/// The head of a store of layout 2, with its row.
pub(super) struct Stored {
    pub(super) meta: Meta,
    pub(super) head: RevisionRow,
}

/// Reads meta and head; whatever does not read is damage.
pub(super) fn stored(reading: &dyn Reading, inventory: &Inventory) -> Result<Stored, StoreError> {
    let read = || -> Result<Option<Stored>, StoreError> {
        let meta = reading.meta()?;
        let head = reading.head()?;
        Ok(reading.revision(head)?.map(|head| Stored { meta, head }))
    };
    match read() {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => Err(inventory.damaged("center.db", "a head without its revision")),
        Err(StoreError::Corrupt { what }) => Err(inventory.damaged("center.db", what)),
        Err(StoreError::Database { source, .. }) => {
            Err(inventory.damaged("center.db", source.to_string()))
        }
        Err(other) => Err(other),
    }
}

/// Compares the store with `center.high`: the rows of the table for layout 2. Returns the
/// high-water mark to go on from; none: it is to be made.
pub(super) fn against_high(
    stored: &Stored,
    reading: &dyn Reading,
    inode: u64,
    inventory: &Inventory,
) -> Result<Option<High>, StoreError> {
    let dir = inventory.dir.display();
    let path = high::path(&inventory.dir);
    let found = high::read(&path).map_err(|source| StoreError::Io {
        what: "read",
        path: path.display().to_string(),
        source,
    })?;
    if let Standing::Retired { to } = &stored.meta.standing {
        return Err(refused(
            Fault::Retired,
            &inventory.dir.join("center.db"),
            "a store that serves",
            format!("one that was moved to {to}"),
            "start the center there; this one must not serve again",
        ));
    }
    if stored.meta.fresh {
        return Ok(None);
    }
    let copied = |what: String| {
        refused(
            Fault::Copied,
            &path,
            "the file that was written with this database",
            what,
            format!(
                "start the center on the original directory, or make this copy a center of its \
                 own: `keepgate center adopt --data {dir}`"
            ),
        )
    };
    let high = match found {
        Found::Good(high, own) => {
            if high.own != own {
                return Err(copied(format!("a copy of it (inode {own}, not {})", high.own)));
            }
            if high.database != inode {
                let text = format!(
                    "one that was written with another database (inode {}, not \
                     {inode})",
                    high.database
                );
                return Err(copied(text));
            }
            high
        }
        // Nobody was ever told of anything: a first start that did not come to its end.
        Found::Nothing | Found::Unreadable
            if stored.head.revision == Revision(0) && !inventory.has_admin_token() =>
        {
            return Ok(None);
        }
        Found::Nothing => return Err(copied("no such file".to_owned())),
        Found::Unreadable => {
            let text = "no slot with a good checksum";
            return Err(refused(
                Fault::Damaged,
                &path,
                "the newest acknowledged revision",
                text,
                format!(
                    "if the database is the newest, go on with it as a new history: `keepgate \
                     center adopt --data {dir}`; else restore a backup: `keepgate center restore \
                     FILE --data {dir}`"
                ),
            ));
        }
    };
    let mark = high.mark;
    let head = &stored.head;
    if mark.history != stored.meta.history {
        return Err(mixed(inventory, &path, &stored.meta, &mark));
    }
    if head.revision < mark.revision {
        let expected = format!("revision {}, which was acknowledged", mark.revision);
        return Err(inventory.lost("center.db", expected, format!("revision {}", head.revision)));
    }
    let there = reading.revision(mark.revision)?;
    if there.as_ref().is_some_and(|row| row.chain != mark.chain) {
        let expected = format!("revision {} as it was acknowledged", mark.revision);
        return Err(inventory.lost("center.db", expected, "another revision of that number"));
    }
    if there.is_none() || (head.revision != mark.revision && head.previous != mark.revision) {
        return Err(mixed(inventory, &path, &stored.meta, &mark));
    }
    Ok(Some(high))
}

fn mixed(inventory: &Inventory, path: &Path, meta: &Meta, mark: &Mark) -> StoreError {
    let dir = inventory.dir.display();
    refused(
        Fault::Mixed,
        path,
        format!("the newest acknowledged revision of history {}", meta.history.short()),
        format!("{mark}, which is not the database's newest or the one before"),
        format!(
            "put back the two files that belong together, or restore a backup (`keepgate center \
             restore FILE --data {dir}`), or go on with this database as a new history (`keepgate \
             center adopt --data {dir}`)"
        ),
    )
}

/// The inode of a file that must be there.
pub(super) fn inode(path: &Path) -> std::io::Result<u64> {
    path.symlink_metadata().map(|meta| meta.ino())
}

/// Whether a layout 1 store lies beside files that release 0.1 did not write.
pub(super) fn old_beside_new(inventory: &Inventory) -> Result<(), StoreError> {
    if !inventory.others.contains(&"center.high") {
        return Ok(());
    }
    let dir = inventory.dir.display();
    Err(refused(
        Fault::Mixed,
        &inventory.dir.join("center.db"),
        "the database that belongs to `center.high`",
        "one of release 0.1",
        format!(
            "put the newer database back, or restore a backup (`keepgate center restore FILE \
             --data {dir}`)"
        ),
    ))
}
