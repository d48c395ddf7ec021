//! Rows in and out of the tables: what both kinds of transactions read and write.

use keepgate_policy::{Digest, ItemKey, Kind, Revision};
use keepgate_record::AuditAnchor;
use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, params};

use super::super::past::{self as bounds, Noted};
use super::super::values::{self, LEFT_OUT, digest_of, origin_of, signed, sized, stored_kind};
use super::super::{
    AuditRow, AuditState, Brought, ChangeRow, Changes, Fork, LogHeadRow, LogKeyRow, Meta, PastHead,
    PastRow, Reading, RequestChange, RequestRow, RequestsOf, Retention, RevisionRow, Row, ScopeRow,
    SessionBounds, SessionChange, SessionRow, SessionsOf, StoreError, Sum, SumRow, TokenRow,
    TokenUse, Tombstone, Writing,
};
use super::audit::{self, OF_ID, audit_rows};
use super::{IDLE_READERS, SqliteStore, failed, lock_of};
use super::{logs, meta, past, requests, sessions, tokens};

/// A read transaction on a connection that goes back to the pool.
pub(super) struct Reader<'a> {
    pub(super) store: &'a SqliteStore,
    pub(super) connection: Option<Connection>,
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

pub(super) struct Writer<'a> {
    pub(super) connection: &'a Connection,
    pub(super) seq: i64,
    /// Whether the transaction made a revision.
    pub(super) advanced: bool,
    /// What it noted of the past.
    pub(super) past: Noted,
    pub(super) audit_from: Option<(u64, [u8; 32])>,
}

/// A transaction before a store is made of it.
pub(super) struct Plain<'a>(pub(super) &'a Connection);

impl Connected for Plain<'_> {
    fn connection(&self) -> Result<&Connection, StoreError> {
        Ok(self.0)
    }
}

/// What both transactions read with.
pub(super) trait Connected {
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

const ITEM: &str =
    "SELECT service, kind, id, body, revision, digest, source, needs, brought, base FROM items";

/// A page of items. Some ids are empty (a service, its schema): "after nothing" must include them. By
/// the first condition on the id the index is entered; by the other alone all before the page is read.
const OF_PAGE: &str = "WHERE service = ?1 AND kind = ?2 AND id >= ?3 AND (id > ?3 OR ?3 = '') \
    ORDER BY id LIMIT ?4";

const REVISION: &str =
    "SELECT revision, previous, chain, changed, others, write_id, unix_ms FROM revisions";

const TOMBSTONE: &str =
    "SELECT service, kind, id, revision, unix_ms, actor, action, was FROM tombstones";

impl<T: Connected> Reading for T {
    fn head(&self) -> Result<Revision, StoreError> {
        Ok(head(self.connection()?)?.0)
    }

    fn meta(&self) -> Result<Meta, StoreError> {
        meta::read_meta(self.connection()?)
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        let doing = "reading a revision";
        self.connection()?
            .prepare_cached(&format!("{REVISION} WHERE revision = ?1"))
            .and_then(|mut statement| {
                statement.query_row(params![signed(revision.0)], revision_row).optional()
            })
            .map_err(failed(doing))?
            .transpose()
    }

    fn revisions(
        &self,
        visit: &mut dyn FnMut(RevisionRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "reading the revisions";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{REVISION} ORDER BY revision"))
            .map_err(failed(doing))?;
        let rows = statement.query_map([], revision_row).map_err(failed(doing))?;
        for row in rows {
            visit(row.map_err(failed(doing))??)?;
        }
        Ok(())
    }

    fn written(&self, write_id: &[u8; 16]) -> Result<Option<RevisionRow>, StoreError> {
        let doing = "looking up a commit";
        self.connection()?
            .prepare_cached(&format!("{REVISION} WHERE write_id = ?1"))
            .and_then(|mut statement| {
                statement.query_row(params![write_id], revision_row).optional()
            })
            .map_err(failed(doing))?
            .transpose()
    }

    fn forks(&self) -> Result<Vec<Fork>, StoreError> {
        let doing = "reading the forks";
        let mut statement = self
            .connection()?
            .prepare_cached("SELECT at, resumed FROM forks ORDER BY resumed")
            .map_err(failed(doing))?;
        let rows = statement
            .query_map([], |row| {
                Ok(Fork { at: Revision(unsigned(row, 0)?), resumed: Revision(unsigned(row, 1)?) })
            })
            .map_err(failed(doing))?;
        rows.map(|row| row.map_err(failed(doing))).collect()
    }

    fn sum(&self, of: Sum) -> Result<SumRow, StoreError> {
        let doing = "reading a digest";
        let (digest, rows) = self
            .connection()?
            .prepare_cached("SELECT digest, rows FROM sums WHERE name = ?1")
            .and_then(|mut statement| {
                statement.query_row(params![of.name()], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, unsigned(row, 1)?))
                })
            })
            .map_err(failed(doing))?;
        Ok(SumRow { digest: digest_of(&digest)?, rows })
    }

    fn tombstone(&self, key: &ItemKey) -> Result<Option<Tombstone>, StoreError> {
        let doing = "reading a tombstone";
        self.connection()?
            .prepare_cached(&format!("{TOMBSTONE} WHERE service = ?1 AND kind = ?2 AND id = ?3"))
            .and_then(|mut statement| {
                statement
                    .query_row(params![key.service, key.kind.as_str(), key.id], tombstone_row)
                    .optional()
            })
            .map_err(failed(doing))?
            .transpose()
    }

    fn tombstones(
        &self,
        visit: &mut dyn FnMut(Tombstone) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "reading the tombstones";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{TOMBSTONE} ORDER BY service, kind, id"))
            .map_err(failed(doing))?;
        let rows = statement.query_map([], tombstone_row).map_err(failed(doing))?;
        for row in rows {
            visit(row.map_err(failed(doing))??)?;
        }
        Ok(())
    }

    fn each_change(
        &self,
        visit: &mut dyn FnMut(ChangeRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "reading changes";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{CHANGE} ORDER BY revision, seq"))
            .map_err(failed(doing))?;
        let rows = statement.query_map([], change_row).map_err(failed(doing))?;
        for row in rows {
            if let Some(row) = row.map_err(failed(doing))?? {
                visit(row)?;
            }
        }
        Ok(())
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
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{ITEM} {OF_PAGE}"))
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

    fn each_of(
        &self,
        service: &str,
        kind: Kind,
        visit: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "reading items of a kind";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!("{ITEM} WHERE service = ?1 AND kind = ?2 ORDER BY id"))
            .map_err(failed(doing))?;
        let rows = statement
            .query_map(params![service, kind.as_str()], item_row)
            .map_err(failed(doing))?;
        for row in rows {
            visit(row.map_err(failed(doing))??)?;
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
            .prepare_cached(&format!(
                "{CHANGE} WHERE revision > ?1 ORDER BY revision, seq LIMIT ?2"
            ))
            .map_err(failed(doing))?;
        let bound = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![signed(revision.0), bound], change_row)
            .map_err(failed(doing))?;
        let mut found = Vec::new();
        for row in rows {
            match row.map_err(failed(doing))?? {
                Some(row) => found.push(row),
                None => return Ok(Changes::TooMany),
            }
        }
        Ok(if found.len() > limit { Changes::TooMany } else { Changes::Rows(found) })
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        tokens::all(self.connection()?)
    }

    fn console_sessions(&self, of: SessionsOf<'_>) -> Result<Vec<SessionRow>, StoreError> {
        sessions::find(self.connection()?, of)
    }

    fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let bound = params![signed(seq), limit];
        audit_rows(self.connection()?, "WHERE seq > ?1 ORDER BY seq LIMIT ?2", bound)
    }

    fn audit_before(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = if seq == 0 { i64::MAX } else { signed(seq) };
        let bound = params![before, limit];
        audit_rows(self.connection()?, "WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", bound)
    }

    fn audit_of_id(&self, id: &str, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = if seq == 0 { i64::MAX } else { signed(seq) };
        audit_rows(self.connection()?, OF_ID, params![id, before, limit])
    }

    fn audit_state(&self) -> Result<AuditState, StoreError> {
        audit::state(self.connection()?)
    }

    fn audit_sealed(
        &self,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<(AuditRow, [u8; 32])>, StoreError> {
        audit::sealed(self.connection()?, seq, limit)
    }

    fn requests(&self, of: RequestsOf<'_>) -> Result<Vec<RequestRow>, StoreError> {
        requests::find(self.connection()?, of)
    }

    fn log_keys(&self) -> Result<Vec<LogKeyRow>, StoreError> {
        logs::keys(self.connection()?)
    }

    fn log_head(&self, log: &[u8; 16]) -> Result<Option<LogHeadRow>, StoreError> {
        logs::head(self.connection()?, log)
    }

    fn log_heads(&self, token: Option<&str>, limit: usize) -> Result<Vec<LogHeadRow>, StoreError> {
        logs::heads(self.connection()?, token, limit)
    }

    fn audit_of(&self, revision: Revision, key: &ItemKey) -> Result<Option<AuditRow>, StoreError> {
        let bound = params![signed(revision.0), key.service, key.kind.as_str(), key.id];
        let which = "WHERE revision = ?1 AND service = ?2 AND kind = ?3 AND id = ?4 LIMIT 1";
        Ok(audit_rows(self.connection()?, which, bound)?.pop())
    }

    fn audit_in(
        &self,
        revision: Revision,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let bound = params![signed(revision.0), signed(seq), limit];
        let which = "WHERE revision = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        audit_rows(self.connection()?, which, bound)
    }

    fn past_head(&self) -> Result<PastHead, StoreError> {
        past::head(self.connection()?)
    }

    fn past_after(
        &self,
        revision: Revision,
        visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        past::after(self.connection()?, revision, visit)
    }

    fn revision_at(&self, unix_ms: u64) -> Result<Option<RevisionRow>, StoreError> {
        let doing = "reading a revision";
        let mut statement = self
            .connection()?
            .prepare_cached(&format!(
                "{REVISION} WHERE unix_ms <= ?1 ORDER BY revision DESC LIMIT 1"
            ))
            .map_err(failed(doing))?;
        statement
            .query_row(params![signed(unix_ms)], revision_row)
            .optional()
            .map_err(failed(doing))?
            .transpose()
    }
}

impl Writing for Writer<'_> {
    fn put(&mut self, row: &Row) -> Result<(), StoreError> {
        self.run(
            "writing an item",
            "INSERT INTO items (service, kind, id, body, revision, digest, source, needs, brought, \
             base) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT (service, kind, id) DO UPDATE SET body = ?4, revision = ?5, digest = ?6, \
             source = ?7, needs = ?8, brought = ?9, base = ?10",
            params![
                row.key.service,
                row.key.kind.as_str(),
                row.key.id,
                row.body,
                signed(row.revision.0),
                row.digest.to_bytes(),
                row.source,
                row.needs,
                row.origin.brought.name(),
                row.origin.base_bytes(&row.key)
            ],
        )
        .map(|_| ())
    }

    fn settle_origin(&mut self, key: &ItemKey, digest: Digest) -> Result<(), StoreError> {
        self.run(
            "noting who brought an item",
            "UPDATE items SET brought = ?5, base = NULL \
             WHERE service = ?1 AND kind = ?2 AND id = ?3 AND digest = ?4",
            params![
                key.service,
                key.kind.as_str(),
                key.id,
                digest.to_bytes(),
                Brought::Files.name()
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
            "INSERT INTO changes (revision, seq, service, kind, id, body, needs) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                signed(row.revision.0),
                self.seq,
                row.key.service,
                row.key.kind.as_str(),
                row.key.id,
                row.body,
                row.needs
            ],
        )
        .map(|_| ())
    }

    fn changes_left_out(&mut self, revision: Revision, count: usize) -> Result<(), StoreError> {
        self.run(
            "writing a change",
            "INSERT INTO changes (revision, seq, service, kind, id, needs) \
             VALUES (?1, 0, '', ?2, ?3, 1)",
            params![signed(revision.0), LEFT_OUT, count.to_string()],
        )
        .map(|_| ())
    }

    fn past(&mut self, row: &PastRow) -> Result<(), StoreError> {
        self.past.bytes += row.bytes();
        past::write(self.connection, row)
    }

    fn past_complete(&mut self) -> Result<(), StoreError> {
        self.past.complete = true;
        Ok(())
    }

    fn token(&mut self, row: &TokenRow) -> Result<(), StoreError> {
        if row.revoked_unix_s.is_some() {
            sessions::end_of(self.connection, &row.id)?;
        }
        tokens::write(self.connection, row)
    }

    fn session_change(
        &mut self,
        change: &SessionChange,
        bounds: SessionBounds,
    ) -> Result<bool, StoreError> {
        sessions::change(self.connection, change, bounds)
    }

    fn request_change(&mut self, change: &RequestChange) -> Result<bool, StoreError> {
        requests::change(self.connection, change)
    }

    fn audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        audit::write(self.connection, row, &mut self.audit_from)
    }

    fn audit_begin(&mut self, log: &[u8; 16], at: u64, chain: &[u8; 32]) -> Result<(), StoreError> {
        audit::begin(self.connection, log, at, chain)
    }

    fn audit_from(&self) -> Option<(u64, [u8; 32])> {
        self.audit_from
    }

    fn put_audit_anchor(&mut self, anchor: &AuditAnchor) -> Result<(), StoreError> {
        audit::put_anchor(self.connection, anchor)
    }

    fn advance(&mut self, row: &RevisionRow, keep: Retention) -> Result<(), StoreError> {
        let doing = "advancing the revision";
        self.advanced = true;
        let revision = row.revision;
        write_revision(self.connection, row)?;
        let oldest = revision.0.saturating_sub(keep.revisions).saturating_add(1);
        self.run(
            doing,
            "UPDATE head SET revision = ?1, unix_ms = ?2, oldest_change = max(oldest_change, ?3)",
            params![signed(revision.0), signed(row.unix_ms), signed(oldest)],
        )?;
        self.run(doing, "DELETE FROM changes WHERE revision < ?1", params![signed(oldest)])?;
        self.run(
            doing,
            "DELETE FROM revisions WHERE revision < ?1 AND revision < ?2",
            params![signed(oldest), signed(revision.0)],
        )?;
        audit::keep(self.connection, keep.audit_rows)?;
        bounds::advance(self, self.past, row, keep)
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        meta::write_meta(self.connection, meta)
    }

    fn fork(&mut self, fork: Fork) -> Result<(), StoreError> {
        let doing = "noting a fork";
        self.run(
            doing,
            "INSERT INTO forks (at, resumed) VALUES (?1, ?2) ON CONFLICT (resumed) DO NOTHING",
            params![signed(fork.at.0), signed(fork.resumed.0)],
        )?;
        self.run(
            doing,
            "UPDATE head SET oldest_change = max(oldest_change, ?1)",
            params![signed(fork.resumed.0.saturating_add(1))],
        )
        .map(|_| ())
    }

    fn forget_revisions(&mut self) -> Result<(), StoreError> {
        let doing = "beginning a history";
        self.run(doing, "DELETE FROM revisions", &[])?;
        self.run(doing, "DELETE FROM changes", &[]).map(|_| ())
    }

    fn set_sum(&mut self, of: Sum, row: SumRow) -> Result<(), StoreError> {
        meta::write_sum(self.connection, of, row)
    }

    fn put_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.run(
            "writing a tombstone",
            "INSERT INTO tombstones (service, kind, id, revision, unix_ms, actor, action, was) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (service, kind, id) DO UPDATE \
             SET revision = ?4, unix_ms = ?5, actor = ?6, action = ?7, was = ?8",
            params![
                tombstone.key.service,
                tombstone.key.kind.as_str(),
                tombstone.key.id,
                signed(tombstone.revision.0),
                signed(tombstone.unix_ms),
                tombstone.actor,
                tombstone.action,
                tombstone.was.to_bytes()
            ],
        )
        .map(|_| ())
    }

    fn remove_tombstone(&mut self, key: &ItemKey) -> Result<(), StoreError> {
        self.run(
            "removing a tombstone",
            "DELETE FROM tombstones WHERE service = ?1 AND kind = ?2 AND id = ?3",
            params![key.service, key.kind.as_str(), key.id],
        )
        .map(|_| ())
    }

    fn put_log_key(&mut self, row: &LogKeyRow) -> Result<(), StoreError> {
        logs::put_key(self.connection, row)
    }

    fn put_log_head(&mut self, row: &LogHeadRow) -> Result<(), StoreError> {
        logs::put_head(self.connection, row)
    }

    fn touch(&mut self, used: &[TokenUse]) -> Result<(), StoreError> {
        tokens::touch(self.connection, used)
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
pub(super) fn head(connection: &Connection) -> Result<(Revision, Revision), StoreError> {
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
    let needs: u32 = row.get(7)?;
    let (brought, base): (String, Option<Vec<u8>>) = (row.get(8)?, row.get(9)?);
    Ok(stored_kind(&kind).and_then(|kind| {
        let digest = digest_of(&digest)?;
        let key = ItemKey { service, kind, id };
        let origin = origin_of(&key, &brought, base.as_deref())?;
        Ok(Row { key, body, revision: Revision(revision), digest, source, needs, origin })
    }))
}

pub(super) fn unsigned(row: &SqlRow<'_>, column: usize) -> Sql<u64> {
    row.get(column).map(values::unsigned)
}

const CHANGE: &str = "SELECT revision, service, kind, id, body, needs FROM changes";

/// A change; none: those of its revision are not kept.
fn change_row(row: &SqlRow<'_>) -> Sql<Result<Option<ChangeRow>, StoreError>> {
    let revision = Revision(unsigned(row, 0)?);
    let (service, kind, id): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let (body, needs) = (row.get(4)?, row.get(5)?);
    if kind == LEFT_OUT {
        return Ok(Ok(None));
    }
    Ok(stored_kind(&kind).map(|kind| {
        let key = ItemKey { service, kind, id };
        Some(ChangeRow { revision, key, body, needs })
    }))
}

fn revision_row(row: &SqlRow<'_>) -> Sql<Result<RevisionRow, StoreError>> {
    let (revision, previous) = (Revision(unsigned(row, 0)?), Revision(unsigned(row, 1)?));
    let (chain, changed, others): (Vec<u8>, Vec<u8>, Vec<u8>) =
        (row.get(2)?, row.get(3)?, row.get(4)?);
    let write_id: Vec<u8> = row.get(5)?;
    let unix_ms = unsigned(row, 6)?;
    let read = || {
        Ok(RevisionRow {
            revision,
            previous,
            chain: sized("the chain of a revision", &chain)?,
            changed: digest_of(&changed)?,
            others: digest_of(&others)?,
            write_id: sized("the write id of a revision", &write_id)?,
            unix_ms,
        })
    };
    Ok(read())
}

fn tombstone_row(row: &SqlRow<'_>) -> Sql<Result<Tombstone, StoreError>> {
    let (service, kind, id): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (revision, unix_ms) = (Revision(unsigned(row, 3)?), unsigned(row, 4)?);
    let (actor, action): (String, String) = (row.get(5)?, row.get(6)?);
    let was: Vec<u8> = row.get(7)?;
    Ok(stored_kind(&kind).and_then(|kind| {
        let key = ItemKey { service, kind, id };
        Ok(Tombstone { key, revision, unix_ms, actor, action, was: digest_of(&was)? })
    }))
}

pub(super) fn write_revision(connection: &Connection, row: &RevisionRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO revisions (revision, previous, chain, changed, others, write_id, unix_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                signed(row.revision.0),
                signed(row.previous.0),
                row.chain,
                row.changed.to_bytes(),
                row.others.to_bytes(),
                row.write_id,
                signed(row.unix_ms)
            ])
        })
        .map(|_| ())
        .map_err(failed("writing a revision"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page costs what it has, wherever it is.
    #[test]
    fn a_page_is_entered_by_its_first_id() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::layout::create(&mut connection).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {ITEM} {OF_PAGE}");
        let values = params!["s", "entity", "a", 10];
        let plan: String = connection.query_row(&plan, values, |row| row.get(3)).unwrap();
        assert!(plan.contains("(service=? AND kind=? AND id>?)"), "{plan}");
    }
}
