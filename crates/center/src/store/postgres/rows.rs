//! Rows out of the tables: what both kinds of transactions read. Visits go by pages, so that a million
//! rows are never in memory at once, and a visitor may read on the same session.

use std::sync::Arc;

use keepgate_policy::{ItemKey, Kind, Revision};
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{FromSql, Type};

use super::super::values::{
    LEFT_OUT, RawMeta, digest_of, origin_of, signed, sized, stored_kind, unsigned,
};
use super::super::{
    AuditRow, AuditState, ChangeRow, Changes, Fork, LogHeadRow, LogKeyRow, Meta, PastHead, PastRow,
    Reading, RequestRow, RequestsOf, RevisionRow, Row, ScopeRow, SessionRow, SessionsOf,
    StoreError, Sum, SumRow, TokenRow, Tombstone,
};
use super::pool::Pool;
use super::session::{Session, Values, failed};
use super::sessions;
use super::text::{readable, storable};
use super::{audit, logs, past, requests};
use crate::token::Role;

/// Rows of a page.
const PAGE: i64 = 512;

/// A read transaction on a session that goes back to the pool.
pub(super) struct Reader {
    pub(super) pool: Arc<Pool>,
    pub(super) session: Option<Session>,
    pub(super) head: (Revision, Revision),
    pub(super) _place: OwnedSemaphorePermit,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if !session.is_closed() {
            session.give_up();
            self.pool.put_back(session);
        }
    }
}

/// The tables whose rows a writer keeps back for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Items,
    Changes,
    Audit,
    Tombstones,
    Past,
    /// Any other: its rows are written at once.
    Other,
}

/// What both transactions read with.
pub(super) trait Connected {
    /// The session, on which all rows of the table can be seen.
    fn session(&self, of: Table) -> Result<&Session, StoreError>;
    /// The head and the oldest revision whose change rows are kept.
    fn standing(&self) -> (Revision, Revision);
    /// The line of time, now.
    fn timeline(&self) -> Result<String, StoreError> {
        super::timeline(self.beside()?)
    }
    /// An item that is written and not in its table yet.
    fn pending_item(&self, _key: &ItemKey) -> Option<Option<Row>> {
        None
    }
    /// A tombstone is about to be looked for.
    fn look_for_tombstone(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// The same for a tombstone.
    fn pending_tombstone(&self, _key: &ItemKey) -> Option<Option<Tombstone>> {
        None
    }
    /// The session, for what [`Connected::pending_item`] and the like say nothing of.
    fn beside(&self) -> Result<&Session, StoreError>;
}

impl Connected for Reader {
    fn session(&self, _of: Table) -> Result<&Session, StoreError> {
        self.session
            .as_ref()
            .ok_or_else(|| StoreError::Corrupt { what: "the reader has ended".to_owned() })
    }

    fn standing(&self) -> (Revision, Revision) {
        self.head
    }

    fn beside(&self) -> Result<&Session, StoreError> {
        self.session(Table::Other)
    }
}

const ITEM: &str =
    "SELECT service, kind, id, body, revision, digest, source, needs, brought, base FROM items";

const REVISION: &str =
    "SELECT revision, previous, chain, changed, others, write_id, unix_ms FROM revisions";

const TOMBSTONE: &str =
    "SELECT service, kind, id, revision, unix_ms, actor, action, was FROM tombstones";

const CHANGE: &str = "SELECT revision, service, kind, id, body, needs, seq FROM changes";

pub(super) const AUDIT: &str = "SELECT seq, revision, unix_ms, actor, action, service, kind, id, before, after, chain FROM audit";

/// A transaction, of either kind.
pub(super) struct Tx<C>(pub(super) C);

impl<C> std::ops::Deref for Tx<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> std::ops::DerefMut for Tx<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.0
    }
}

impl<C: Connected> Reading for Tx<C> {
    fn head(&self) -> Result<Revision, StoreError> {
        Ok(self.standing().0)
    }

    fn meta(&self) -> Result<Meta, StoreError> {
        read_meta(self.session(Table::Other)?)
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        let sql = format!("{REVISION} WHERE revision = $1");
        let values: Values<'_> = &[(&signed(revision.0), Type::INT8)];
        let found = self.session(Table::Other)?.query("reading a revision", &sql, values)?;
        found.first().map(revision_row).transpose()
    }

    fn revisions(
        &self,
        visit: &mut dyn FnMut(RevisionRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sql = format!("{REVISION} WHERE revision > $1 ORDER BY revision LIMIT $2");
        let session = self.session(Table::Other)?;
        let mut after = -1;
        loop {
            let values: Values<'_> = &[(&after, Type::INT8), (&PAGE, Type::INT8)];
            let page = session.query("reading the revisions", &sql, values)?;
            for row in &page {
                let row = revision_row(row)?;
                after = signed(row.revision.0);
                visit(row)?;
            }
            if is_last(&page) {
                return Ok(());
            }
        }
    }

    fn written(&self, write_id: &[u8; 16]) -> Result<Option<RevisionRow>, StoreError> {
        let sql = format!("{REVISION} WHERE write_id = $1");
        let values: Values<'_> = &[(&write_id.as_slice(), Type::BYTEA)];
        let found = self.session(Table::Other)?.query("looking up a commit", &sql, values)?;
        found.first().map(revision_row).transpose()
    }

    fn timeline(&self) -> Result<String, StoreError> {
        Connected::timeline(&self.0)
    }

    fn forks(&self) -> Result<Vec<Fork>, StoreError> {
        let sql = "SELECT at, resumed FROM forks ORDER BY resumed";
        let found = self.session(Table::Other)?.query("reading the forks", sql, &[])?;
        let fork = |row: &SqlRow| {
            Ok(Fork { at: Revision(number(row, 0)?), resumed: Revision(number(row, 1)?) })
        };
        found.iter().map(fork).collect()
    }

    fn sum(&self, of: Sum) -> Result<SumRow, StoreError> {
        let values: Values<'_> = &[(&of.name(), Type::TEXT)];
        let sql = "SELECT digest, rows FROM sums WHERE name = $1";
        let row = self.session(Table::Other)?.one("reading a digest", sql, values)?;
        Ok(SumRow { digest: digest_of(get(&row, 0)?)?, rows: number(&row, 1)? })
    }

    fn tombstone(&self, key: &ItemKey) -> Result<Option<Tombstone>, StoreError> {
        self.look_for_tombstone()?;
        if let Some(pending) = self.pending_tombstone(key) {
            return Ok(pending);
        }
        let sql = format!("{TOMBSTONE} WHERE service = $1 AND kind = $2 AND id = $3");
        let (kind, id) = (key.kind.as_str(), storable(&key.id));
        let values: Values<'_> =
            &[(&key.service, Type::TEXT), (&kind, Type::TEXT), (&id, Type::TEXT)];
        let found = self.beside()?.query("reading a tombstone", &sql, values)?;
        found.first().map(tombstone_row).transpose()
    }

    fn tombstones(
        &self,
        visit: &mut dyn FnMut(Tombstone) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        each_tombstone(self.session(Table::Tombstones)?, visit)
    }

    fn each_change(
        &self,
        visit: &mut dyn FnMut(ChangeRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sql =
            format!("{CHANGE} WHERE (revision, seq) > ($1, $2) ORDER BY revision, seq LIMIT $3");
        let session = self.session(Table::Changes)?;
        let mut after: (i64, i64) = (-1, 0);
        loop {
            let values: Values<'_> =
                &[(&after.0, Type::INT8), (&after.1, Type::INT8), (&PAGE, Type::INT8)];
            let page = session.query("reading changes", &sql, values)?;
            for row in &page {
                if let Some(row) = change_row(row)? {
                    visit(row)?;
                }
            }
            match page.last() {
                Some(last) if !is_last(&page) => after = (get(last, 0)?, get(last, 6)?),
                _ => return Ok(()),
            }
        }
    }

    fn item(&self, key: &ItemKey) -> Result<Option<Row>, StoreError> {
        let session = self.beside()?;
        if let Some(pending) = self.pending_item(key) {
            return Ok(pending);
        }
        let sql = format!("{ITEM} WHERE service = $1 AND kind = $2 AND id = $3");
        let (kind, id) = (key.kind.as_str(), storable(&key.id));
        let values: Values<'_> =
            &[(&key.service, Type::TEXT), (&kind, Type::TEXT), (&id, Type::TEXT)];
        let found = session.query("reading an item", &sql, values)?;
        found.first().map(item_row).transpose()
    }

    fn list(
        &self,
        service: &str,
        kind: Kind,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let session = self.session(Table::Items)?;
        page_of(session, "listing items", service, kind, (after, after.is_empty()), limit)?
            .iter()
            .map(item_row)
            .collect()
    }

    fn count(&self, service: &str, kind: Kind) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM items WHERE service = $1 AND kind = $2";
        let values: Values<'_> = &[(&service, Type::TEXT), (&kind.as_str(), Type::TEXT)];
        number(&self.session(Table::Items)?.one("counting items", sql, values)?, 0)
    }

    fn each_of(
        &self,
        service: &str,
        kind: Kind,
        visit: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let session = self.session(Table::Items)?;
        let (mut after, mut first) = (String::new(), true);
        loop {
            let doing = "reading items of a kind";
            let page = page_of(session, doing, service, kind, (&after, first), PAGE)?;
            let last = is_last(&page);
            for row in page {
                let row = item_row(&row)?;
                after.clone_from(&row.key.id);
                visit(row)?;
            }
            if last {
                return Ok(());
            }
            first = false;
        }
    }

    fn sourced(&self, source: &str) -> Result<Vec<Row>, StoreError> {
        if source.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{ITEM} WHERE source = $1 AND source <> '' AND service = '' AND kind = $2 ORDER BY id"
        );
        let session = self.session(Table::Items)?;
        let mut found = Vec::new();
        for kind in Kind::ALL {
            let values: Values<'_> = &[(&source, Type::TEXT), (&kind.as_str(), Type::TEXT)];
            for row in session.query("reading the items of a source", &sql, values)? {
                found.push(item_row(&row)?);
            }
        }
        Ok(found)
    }

    fn scopes(&self) -> Result<Vec<ScopeRow>, StoreError> {
        let sql = "SELECT service, digest, items FROM scopes ORDER BY service";
        let found = self.session(Table::Other)?.query("reading the scopes", sql, &[])?;
        let scope = |row: &SqlRow| {
            Ok(ScopeRow {
                service: get(row, 0)?,
                digest: digest_of(get(row, 1)?)?,
                items: number(row, 2)?,
            })
        };
        found.iter().map(scope).collect()
    }

    fn changes_after(&self, revision: Revision, limit: usize) -> Result<Changes, StoreError> {
        let (head, oldest) = self.standing();
        if revision > head || revision.0.saturating_add(1) < oldest.0 {
            return Ok(Changes::Pruned);
        }
        let sql = format!("{CHANGE} WHERE revision > $1 ORDER BY revision, seq LIMIT $2");
        let bound = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let values: Values<'_> = &[(&signed(revision.0), Type::INT8), (&bound, Type::INT8)];
        let mut found = Vec::new();
        for row in self.session(Table::Changes)?.query("reading changes", &sql, values)? {
            match change_row(&row)? {
                Some(row) => found.push(row),
                None => return Ok(Changes::TooMany),
            }
        }
        Ok(if found.len() > limit { Changes::TooMany } else { Changes::Rows(found) })
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT id, role, service, sha256, note, created_unix_s, last_used_unix_s, \
                   revoked_unix_s, expires_unix_s, last_used_from FROM tokens ORDER BY id";
        let found = self.session(Table::Other)?.query("reading tokens", sql, &[])?;
        found.iter().map(token_row).collect()
    }

    fn console_sessions(&self, of: SessionsOf<'_>) -> Result<Vec<SessionRow>, StoreError> {
        sessions::find(self.session(Table::Other)?, of)
    }

    fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let sql = format!("{AUDIT} WHERE seq > $1 ORDER BY seq LIMIT $2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.audited(&sql, &[(&signed(seq), Type::INT8), (&limit, Type::INT8)])
    }

    fn audit_before(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let sql = format!("{AUDIT} WHERE seq < $1 ORDER BY seq DESC LIMIT $2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = if seq == 0 { i64::MAX } else { signed(seq) };
        self.audited(&sql, &[(&before, Type::INT8), (&limit, Type::INT8)])
    }

    fn audit_of_id(&self, id: &str, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let sql = format!("{AUDIT} WHERE id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = if seq == 0 { i64::MAX } else { signed(seq) };
        let id = storable(id);
        self.audited(&sql, &[(&id, Type::TEXT), (&before, Type::INT8), (&limit, Type::INT8)])
    }

    fn audit_state(&self) -> Result<AuditState, StoreError> {
        audit::state(self.session(Table::Audit)?)
    }

    fn audit_sealed(
        &self,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<(AuditRow, [u8; 32])>, StoreError> {
        audit::sealed(self.session(Table::Audit)?, seq, limit)
    }

    fn requests(&self, of: RequestsOf<'_>) -> Result<Vec<RequestRow>, StoreError> {
        requests::find(self.beside()?, of)
    }

    fn log_keys(&self) -> Result<Vec<LogKeyRow>, StoreError> {
        logs::keys(self.session(Table::Other)?)
    }

    fn log_head(&self, log: &[u8; 16]) -> Result<Option<LogHeadRow>, StoreError> {
        logs::head(self.session(Table::Other)?, log)
    }

    fn log_heads(&self, token: Option<&str>, limit: usize) -> Result<Vec<LogHeadRow>, StoreError> {
        logs::heads(self.session(Table::Other)?, token, limit)
    }

    fn audit_of(&self, revision: Revision, key: &ItemKey) -> Result<Option<AuditRow>, StoreError> {
        let sql = format!(
            "{AUDIT} WHERE revision = $1 AND service = $2 AND kind = $3 AND id = $4 ORDER BY seq \
             LIMIT 1"
        );
        let found = self.audited(
            &sql,
            &[
                (&signed(revision.0), Type::INT8),
                (&key.service, Type::TEXT),
                (&key.kind.as_str(), Type::TEXT),
                (&storable(&key.id), Type::TEXT),
            ],
        )?;
        Ok(found.into_iter().next())
    }

    fn audit_in(
        &self,
        revision: Revision,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let sql = format!("{AUDIT} WHERE revision = $1 AND seq > $2 ORDER BY seq LIMIT $3");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.audited(
            &sql,
            &[(&signed(revision.0), Type::INT8), (&signed(seq), Type::INT8), (&limit, Type::INT8)],
        )
    }

    fn past_head(&self) -> Result<PastHead, StoreError> {
        past::head(self.session(Table::Other)?)
    }

    fn past_after(
        &self,
        revision: Revision,
        visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        past::after(self.session(Table::Past)?, revision, visit)
    }

    fn revision_at(&self, unix_ms: u64) -> Result<Option<RevisionRow>, StoreError> {
        let sql = format!("{REVISION} WHERE unix_ms <= $1 ORDER BY revision DESC LIMIT 1");
        let session = self.session(Table::Other)?;
        let found = session.query("reading a revision", &sql, &[(&signed(unix_ms), Type::INT8)])?;
        found.first().map(revision_row).transpose()
    }
}

impl<C: Connected> Tx<C> {
    /// Rows of the audit log.
    fn audited(&self, sql: &str, values: Values<'_>) -> Result<Vec<AuditRow>, StoreError> {
        let found = self.session(Table::Audit)?.query("reading the audit log", sql, values)?;
        found.iter().map(audit_row).collect()
    }
}

/// Visits all tombstones, in key order.
pub(super) fn each_tombstone(
    session: &Session,
    visit: &mut dyn FnMut(Tombstone) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let sql = format!(
        "{TOMBSTONE} WHERE (service, kind, id) > ($1, $2, $3) ORDER BY service, kind, id LIMIT $4"
    );
    // Before all keys: no kind is empty.
    let mut after = (String::new(), String::new(), String::new());
    loop {
        let page = session.query(
            "reading the tombstones",
            &sql,
            &[
                (&after.0, Type::TEXT),
                (&after.1, Type::TEXT),
                (&after.2, Type::TEXT),
                (&PAGE, Type::INT8),
            ],
        )?;
        for row in &page {
            visit(tombstone_row(row)?)?;
        }
        match page.last() {
            Some(last) if !is_last(&page) => after = (get(last, 0)?, get(last, 1)?, get(last, 2)?),
            _ => return Ok(()),
        }
    }
}

/// Items of a kind after this id; `true` beside it: with that id, too.
fn page_of(
    session: &Session,
    doing: &'static str,
    service: &str,
    kind: Kind,
    (after, with): (&str, bool),
    limit: i64,
) -> Result<Vec<SqlRow>, StoreError> {
    let over = if with { ">=" } else { ">" };
    let sql =
        format!("{ITEM} WHERE service = $1 AND kind = $2 AND id {over} $3 ORDER BY id LIMIT $4");
    session.query(
        doing,
        &sql,
        &[
            (&service, Type::TEXT),
            (&kind.as_str(), Type::TEXT),
            (&storable(after), Type::TEXT),
            (&limit, Type::INT8),
        ],
    )
}

fn is_last(page: &[SqlRow]) -> bool {
    (page.len() as i64) < PAGE
}

/// A column; what does not have the type that was written was altered.
pub(super) fn get<'a, V: FromSql<'a>>(row: &'a SqlRow, column: usize) -> Result<V, StoreError> {
    row.try_get(column).map_err(|e| match e.as_db_error() {
        Some(_) => failed("reading a column", e),
        None => StoreError::Corrupt { what: keepgate_observe::chain(&e) },
    })
}

/// An integer that counts up from zero.
pub(super) fn number(row: &SqlRow, column: usize) -> Result<u64, StoreError> {
    get::<i64>(row, column).map(unsigned)
}

fn number_or_none(row: &SqlRow, column: usize) -> Result<Option<u64>, StoreError> {
    Ok(get::<Option<i64>>(row, column)?.map(unsigned))
}

pub(super) fn key_of(row: &SqlRow, first: usize) -> Result<ItemKey, StoreError> {
    let kind = stored_kind(get(row, first + 1)?)?;
    Ok(ItemKey { service: get(row, first)?, kind, id: readable(get(row, first + 2)?) })
}

fn needs_of(row: &SqlRow, column: usize) -> Result<u32, StoreError> {
    let needs: i64 = get(row, column)?;
    u32::try_from(needs).map_err(|_| StoreError::Corrupt { what: format!("an item needs {needs}") })
}

fn item_row(row: &SqlRow) -> Result<Row, StoreError> {
    let key = key_of(row, 0)?;
    let origin = origin_of(&key, get(row, 8)?, get(row, 9)?)?;
    Ok(Row {
        body: get(row, 3)?,
        revision: Revision(number(row, 4)?),
        digest: digest_of(get(row, 5)?)?,
        source: get(row, 6)?,
        needs: needs_of(row, 7)?,
        origin,
        key,
    })
}

/// A change; none: those of its revision are not kept.
fn change_row(row: &SqlRow) -> Result<Option<ChangeRow>, StoreError> {
    if get::<&str>(row, 2)? == LEFT_OUT {
        return Ok(None);
    }
    Ok(Some(ChangeRow {
        revision: Revision(number(row, 0)?),
        key: key_of(row, 1)?,
        body: get(row, 4)?,
        needs: needs_of(row, 5)?,
    }))
}

fn revision_row(row: &SqlRow) -> Result<RevisionRow, StoreError> {
    Ok(RevisionRow {
        revision: Revision(number(row, 0)?),
        previous: Revision(number(row, 1)?),
        chain: sized("the chain of a revision", get(row, 2)?)?,
        changed: digest_of(get(row, 3)?)?,
        others: digest_of(get(row, 4)?)?,
        write_id: sized("the write id of a revision", get(row, 5)?)?,
        unix_ms: number(row, 6)?,
    })
}

fn tombstone_row(row: &SqlRow) -> Result<Tombstone, StoreError> {
    Ok(Tombstone {
        key: key_of(row, 0)?,
        revision: Revision(number(row, 3)?),
        unix_ms: number(row, 4)?,
        actor: get(row, 5)?,
        action: get(row, 6)?,
        was: digest_of(get(row, 7)?)?,
    })
}

pub(super) fn audit_row(row: &SqlRow) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        seq: number(row, 0)?,
        revision: Revision(number(row, 1)?),
        unix_ms: number(row, 2)?,
        actor: get(row, 3)?,
        action: get(row, 4)?,
        service: get(row, 5)?,
        kind: get(row, 6)?,
        id: readable(get(row, 7)?),
        before: get::<Option<String>>(row, 8)?.map(readable),
        after: get::<Option<String>>(row, 9)?.map(readable),
    })
}

fn token_row(row: &SqlRow) -> Result<TokenRow, StoreError> {
    let (id, role): (String, &str) = (get(row, 0)?, get(row, 1)?);
    let Some(role) = Role::from_name(role) else {
        return Err(StoreError::Corrupt { what: format!("token `{id}` has role `{role}`") });
    };
    Ok(TokenRow {
        id,
        role,
        service: get(row, 2)?,
        sha256: sized("the hash of a token", get(row, 3)?)?,
        note: readable(get(row, 4)?),
        created_unix_s: number(row, 5)?,
        last_used_unix_s: number_or_none(row, 6)?,
        revoked_unix_s: number_or_none(row, 7)?,
        expires_unix_s: number_or_none(row, 8)?,
        last_used_from: get(row, 9)?,
    })
}

/// The row that says which history this is.
pub(super) fn read_meta(session: &Session) -> Result<Meta, StoreError> {
    let sql = "SELECT history, key, state, why, witnessed, ancestors, timeline, fresh, \
               authzen_together, digest FROM meta";
    let row = session.one("reading the history", sql, &[])?;
    let raw = RawMeta {
        history: get(&row, 0)?,
        key: get(&row, 1)?,
        state: get(&row, 2)?,
        why: readable(get(&row, 3)?),
        witnessed: number(&row, 4)?,
        ancestors: get(&row, 5)?,
        timeline: get(&row, 6)?,
        fresh: get(&row, 7)?,
        authzen_together: get(&row, 8)?,
    };
    raw.checked(get(&row, 9)?)
}
