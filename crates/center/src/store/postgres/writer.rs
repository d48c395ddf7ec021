//! Rows into the tables. Most are kept back and written many at a time; whoever reads from their table
//! sees them all the same.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use keepgate_policy::{Digest, ItemKey, Revision};
use keepgate_record::AuditAnchor;
use tokio_postgres::types::Type;

use super::super::past::{self as bounds, Noted};
use super::super::values::{LEFT_OUT, signed};
use super::super::{
    AuditRow, Brought, ChangeRow, Fork, LogHeadRow, LogKeyRow, Meta, PastRow, RequestChange,
    Retention, RevisionRow, Row, ScopeRow, SessionBounds, SessionChange, Staged, StoreError, Sum,
    SumRow, TokenRow, TokenUse, Tombstone, Writing,
};
use super::address::Address;
use super::rows::{Connected, Table, Tx, each_tombstone, get, number};
use super::session::{Session, Values, reason};
use super::sessions;
use super::text::storable;
use super::{audit, meta, past, requests};

/// Rows that are kept back at most, and their bytes.
const ROWS: usize = 1000;
const BYTES: usize = 4 << 20;

/// Tombstones that are looked for one by one, and how many there may be to read all of them.
const ONE_BY_ONE: u32 = 100;
const TOMBSTONES: i64 = 200_000;

/// How long the server allows a statement of a small write, and how long it waits for the next one.
pub(super) const STATEMENT: Duration = Duration::from_secs(5);

/// A write of more rows than this says that it is long: others wait longer for it.
const LONG: usize = 5_000;

/// The lock that a long write holds beside that of the head, so that those who wait know.
pub(super) const LONG_LOCK: &str = "hashtext('keepgate long write'), hashtext($1)";

/// Rows that are not in their tables yet.
#[derive(Default)]
struct Kept {
    items: BTreeMap<ItemKey, Row>,
    settled: Vec<(ItemKey, Digest)>,
    changes: Vec<(i64, ChangeRow)>,
    audit: Vec<(i64, AuditRow, [u8; 32])>,
    tombstones: BTreeMap<ItemKey, Option<Tombstone>>,
    past: Vec<PastRow>,
    bytes: usize,
}

/// A write transaction that holds the lock of the head.
pub(super) type Writer<'a> = Tx<Batch<'a>>;

/// What it has of its own.
pub(super) struct Batch<'a> {
    session: &'a Session,
    address: &'a Address,
    head: Cell<(Revision, Revision)>,
    timeline: String,
    kept: RefCell<Kept>,
    /// How often a tombstone was looked for, and all of them, once that was often.
    asked: Cell<u32>,
    tombstones: RefCell<Option<HashMap<ItemKey, Tombstone>>>,
    /// The last change row of the revision.
    seq: i64,
    /// The last row of the audit log, and the chain there; none: not looked up yet.
    audit_at: Cell<Option<(u64, [u8; 32])>>,
    /// Where it was before the first row of the transaction.
    audit_from: Option<(u64, [u8; 32])>,
    /// Rows that were written or kept back.
    rows: usize,
    long: bool,
    /// What was noted of the past.
    noted: Noted,
    /// That of the revision that the transaction made.
    pub(super) write_id: Option<[u8; 16]>,
}

impl Connected for Batch<'_> {
    fn session(&self, of: Table) -> Result<&Session, StoreError> {
        match of {
            Table::Items => self.flush_items()?,
            Table::Changes => self.flush_changes()?,
            Table::Audit => self.flush_audit()?,
            Table::Tombstones => self.flush_tombstones()?,
            Table::Past => self.flush_past()?,
            Table::Other => {}
        }
        Ok(self.session)
    }

    fn standing(&self) -> (Revision, Revision) {
        self.head.get()
    }

    fn pending_item(&self, key: &ItemKey) -> Option<Option<Row>> {
        self.kept.borrow().items.get(key).map(|row| Some(row.clone()))
    }

    /// One asks for many where many items come anew: rather than one by one they are read all at once.
    fn look_for_tombstone(&self) -> Result<(), StoreError> {
        self.asked.set(self.asked.get().saturating_add(1));
        if self.asked.get() != ONE_BY_ONE {
            return Ok(());
        }
        let doing = "counting tombstones";
        let sql = "SELECT count(*) FROM (SELECT FROM tombstones LIMIT $1) AS found";
        let values: Values<'_> = &[(&(TOMBSTONES + 1), Type::INT8)];
        if signed(number(&self.session.one(doing, sql, values)?, 0)?) > TOMBSTONES {
            return Ok(());
        }
        self.flush_tombstones()?;
        let mut all = HashMap::new();
        each_tombstone(self.session, &mut |row| {
            all.insert(row.key.clone(), row);
            Ok(())
        })?;
        *self.tombstones.borrow_mut() = Some(all);
        Ok(())
    }

    fn pending_tombstone(&self, key: &ItemKey) -> Option<Option<Tombstone>> {
        if let Some(all) = &*self.tombstones.borrow() {
            return Some(all.get(key).cloned());
        }
        self.kept.borrow().tombstones.get(key).cloned()
    }

    fn timeline(&self) -> Result<String, StoreError> {
        Ok(self.timeline.clone())
    }

    fn beside(&self) -> Result<&Session, StoreError> {
        // What is settled is no row of its own: the item must say so.
        if !self.kept.borrow().settled.is_empty() {
            self.flush_items()?;
        }
        Ok(self.session)
    }
}

impl<'a> Batch<'a> {
    /// In a transaction that holds the lock and found this.
    pub(super) fn begin(
        session: &'a Session,
        address: &'a Address,
        head: (Revision, Revision),
        timeline: String,
    ) -> Writer<'a> {
        Tx(Batch {
            session,
            address,
            head: Cell::new(head),
            timeline,
            kept: RefCell::default(),
            asked: Cell::new(0),
            tombstones: RefCell::default(),
            seq: 0,
            audit_at: Cell::new(None),
            audit_from: None,
            rows: 0,
            long: false,
            noted: Noted::default(),
            write_id: None,
        })
    }

    /// Writes all that was kept back.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        self.flush_items()?;
        self.flush_changes()?;
        self.flush_audit()?;
        self.flush_past()?;
        self.flush_tombstones()
    }

    /// One row more is kept back, of about so many bytes.
    fn kept_one(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.rows += 1;
        let full = {
            let mut kept = self.kept.borrow_mut();
            kept.bytes += bytes;
            kept.bytes >= BYTES
                || kept.items.len() >= ROWS
                || kept.settled.len() >= ROWS
                || kept.changes.len() >= ROWS
                || kept.audit.len() >= ROWS
                || kept.tombstones.len() >= ROWS
                || kept.past.len() >= ROWS
        };
        if full {
            self.finish()?;
            self.kept.borrow_mut().bytes = 0;
            self.lengthen()?;
        }
        Ok(())
    }

    /// The times of a write grow with its rows: a second for each thousand.
    fn lengthen(&mut self) -> Result<(), StoreError> {
        let doing = "writing many rows";
        let allowed = STATEMENT + Duration::from_millis(self.rows as u64);
        let ms = allowed.as_millis();
        self.session.allow(allowed);
        self.session.batch(
            doing,
            &format!(
                "SET LOCAL statement_timeout = {ms}; \
                 SET LOCAL idle_in_transaction_session_timeout = {ms}"
            ),
        )?;
        if self.rows > LONG && !self.long {
            self.long = true;
            let sql = format!("SELECT pg_advisory_xact_lock({LONG_LOCK})");
            self.session.query(doing, &sql, &[(&self.address.schema, Type::TEXT)])?;
        }
        Ok(())
    }

    fn flush_items(&self) -> Result<(), StoreError> {
        let (rows, settled) = {
            let mut kept = self.kept.borrow_mut();
            (std::mem::take(&mut kept.items), std::mem::take(&mut kept.settled))
        };
        if !rows.is_empty() {
            write_items(self.session, "items", REPLACING, rows.values())?;
        }
        if !settled.is_empty() {
            write_settled(self.session, &settled)?;
        }
        Ok(())
    }

    fn flush_changes(&self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.kept.borrow_mut().changes);
        if rows.is_empty() { Ok(()) } else { write_changes(self.session, &rows) }
    }

    fn flush_audit(&self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.kept.borrow_mut().audit);
        if rows.is_empty() { Ok(()) } else { audit::write(self.session, &rows) }
    }

    fn flush_past(&self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.kept.borrow_mut().past);
        if rows.is_empty() { Ok(()) } else { past::write(self.session, &rows) }
    }

    fn flush_tombstones(&self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.kept.borrow_mut().tombstones);
        if rows.is_empty() { Ok(()) } else { write_tombstones(self.session, &rows) }
    }
}

impl Writing for Writer<'_> {
    fn put(&mut self, row: &Row) -> Result<(), StoreError> {
        if !self.kept.borrow().settled.is_empty() {
            self.flush_items()?;
        }
        let bytes = row.body.len() + row.key.id.len();
        self.kept.borrow_mut().items.insert(row.key.clone(), row.clone());
        self.kept_one(bytes)
    }

    fn put_staged(
        &mut self,
        staged: &Staged,
        revision: Revision,
        without: &[ItemKey],
    ) -> Result<(), StoreError> {
        let doing = "taking over the items that were laid aside";
        let (table, session) = (&staged.name, self.session);
        let gone = |found: &dyn std::fmt::Display, expected: usize| StoreError::Database {
            doing,
            source: reason(format!(
                "expected {expected} items, found {found}: the server was restarted or failed over; \
                 nothing was changed, try again"
            )),
        };
        self.flush_items()?;
        self.rows += staged.rows;
        self.lengthen()?;
        // Locked, it stays. Without it the statement would say that the tables of the store are gone.
        let there =
            session.one(doing, "SELECT to_regclass($1) IS NOT NULL", &[(table, Type::TEXT)])?;
        if !get::<bool>(&there, 0)? {
            return Err(gone(&"none", staged.rows));
        }
        session.batch(doing, &format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE")).map_err(
            |e| match e {
                StoreError::Refused { .. } => gone(&"none", staged.rows),
                e => e,
            },
        )?;
        let mut left = staged.rows;
        for some in without.chunks(ROWS) {
            let keys = Keys::of(some.iter());
            let sql = format!(
                "DELETE FROM {table} AS t USING unnest($1::text[], $2::text[], $3::text[]) \
                 AS g (service, kind, id) \
                 WHERE t.service = g.service AND t.kind = g.kind AND t.id = g.id"
            );
            let values: Values<'_> = &[
                (&keys.services, Type::TEXT_ARRAY),
                (&keys.kinds, Type::TEXT_ARRAY),
                (&keys.ids, Type::TEXT_ARRAY),
            ];
            if session.execute(doing, &sql, values)? != some.len() as u64 {
                return Err(gone(&"fewer", staged.rows));
            }
            left = left.saturating_sub(some.len());
        }
        // Half the work of one statement that replaces what is there: nobody else writes meanwhile, so
        // no row needs a conflict that is looked for.
        let sql = format!(
            "DELETE FROM items AS i USING {table} AS t \
             WHERE i.service = t.service AND i.kind = t.kind AND i.id = t.id"
        );
        session.execute(doing, &sql, &[])?;
        let sql = format!(
            "INSERT INTO items (service, kind, id, body, revision, digest, source, needs, brought, \
             base) SELECT service, kind, id, body, $1, digest, source, needs, brought, base \
             FROM {table}"
        );
        let taken = session.execute(doing, &sql, &[(&signed(revision.0), Type::INT8)])?;
        if taken != left as u64 {
            return Err(gone(&taken, left));
        }
        Ok(())
    }

    fn settle_origin(&mut self, key: &ItemKey, digest: Digest) -> Result<(), StoreError> {
        self.kept.borrow_mut().settled.push((key.clone(), digest));
        self.kept_one(key.id.len())
    }

    fn delete(&mut self, key: &ItemKey) -> Result<bool, StoreError> {
        self.rows += 1;
        let kept = {
            let mut kept = self.kept.borrow_mut();
            kept.items.remove(key).is_some()
        };
        let (kind, id) = (key.kind.as_str(), storable(&key.id));
        let rows = self.session.execute(
            "deleting an item",
            "DELETE FROM items WHERE service = $1 AND kind = $2 AND id = $3",
            &[(&key.service, Type::TEXT), (&kind, Type::TEXT), (&id, Type::TEXT)],
        )?;
        Ok(kept || rows > 0)
    }

    fn scope(&mut self, scope: &ScopeRow) -> Result<(), StoreError> {
        let doing = "writing a scope";
        if scope.items == 0 {
            let values: Values<'_> = &[(&scope.service, Type::TEXT)];
            let sql = "DELETE FROM scopes WHERE service = $1";
            return self.session.execute(doing, sql, values).map(|_| ());
        }
        self.session
            .execute(
                doing,
                "INSERT INTO scopes (service, digest, items) VALUES ($1, $2, $3) \
                 ON CONFLICT (service) DO UPDATE SET digest = $2, items = $3",
                &[
                    (&scope.service, Type::TEXT),
                    (&scope.digest.to_bytes().as_slice(), Type::BYTEA),
                    (&signed(scope.items), Type::INT8),
                ],
            )
            .map(|_| ())
    }

    fn change(&mut self, row: &ChangeRow) -> Result<(), StoreError> {
        self.seq += 1;
        let bytes = row.body.as_ref().map_or(0, Vec::len) + row.key.id.len();
        self.kept.borrow_mut().changes.push((self.seq, row.clone()));
        self.kept_one(bytes)
    }

    fn changes_left_out(&mut self, revision: Revision, count: usize) -> Result<(), StoreError> {
        self.session
            .execute(
                "writing a change",
                "INSERT INTO changes (revision, seq, service, kind, id, needs) \
                 VALUES ($1, 0, '', $2, $3, 1)",
                &[
                    (&signed(revision.0), Type::INT8),
                    (&LEFT_OUT, Type::TEXT),
                    (&count.to_string(), Type::TEXT),
                ],
            )
            .map(|_| ())
    }

    fn past(&mut self, row: &PastRow) -> Result<(), StoreError> {
        let bytes = row.bytes();
        self.noted.bytes += bytes;
        self.kept.borrow_mut().past.push(row.clone());
        self.kept_one(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn past_complete(&mut self) -> Result<(), StoreError> {
        self.noted.complete = true;
        Ok(())
    }

    fn token(&mut self, row: &TokenRow) -> Result<(), StoreError> {
        if row.revoked_unix_s.is_some() {
            sessions::end_of(self.session, &row.id)?;
        }
        self.session
            .execute(
                "writing a token",
                "INSERT INTO tokens AS t (id, role, service, sha256, note, created_unix_s, \
                 last_used_unix_s, revoked_unix_s, expires_unix_s, last_used_from) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
                 ON CONFLICT (id) DO UPDATE SET role = $2, service = $3, sha256 = $4, note = $5, \
                 created_unix_s = $6, revoked_unix_s = $8, expires_unix_s = $9, \
                 last_used_unix_s = greatest(t.last_used_unix_s, $7), \
                 last_used_from = CASE WHEN coalesce(t.last_used_unix_s, -1) > coalesce($7, -1) \
                 THEN t.last_used_from ELSE $10 END",
                &[
                    (&row.id, Type::TEXT),
                    (&row.role.name(), Type::TEXT),
                    (&row.service, Type::TEXT),
                    (&row.sha256.as_slice(), Type::BYTEA),
                    (&storable(&row.note), Type::TEXT),
                    (&signed(row.created_unix_s), Type::INT8),
                    (&row.last_used_unix_s.map(signed), Type::INT8),
                    (&row.revoked_unix_s.map(signed), Type::INT8),
                    (&row.expires_unix_s.map(signed), Type::INT8),
                    (&row.last_used_from, Type::TEXT),
                ],
            )
            .map(|_| ())
    }

    fn session_change(
        &mut self,
        change: &SessionChange,
        bounds: SessionBounds,
    ) -> Result<bool, StoreError> {
        sessions::change(self.session, change, bounds)
    }

    fn request_change(&mut self, change: &RequestChange) -> Result<bool, StoreError> {
        requests::change(self.session, change)
    }

    fn audit(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        let last = self.audit_at.get().map_or_else(|| audit::last(self.session), Ok)?;
        self.audit_from.get_or_insert(last);
        let (seq, chain) = row.linked(last);
        self.audit_at.set(Some((seq, chain)));
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = text(&row.before) + text(&row.after);
        self.kept.borrow_mut().audit.push((signed(seq), row.clone(), chain));
        self.kept_one(bytes)
    }

    fn audit_begin(&mut self, log: &[u8; 16], at: u64, chain: &[u8; 32]) -> Result<(), StoreError> {
        audit::begin(self.session, log, at, chain)
    }

    fn audit_from(&self) -> Option<(u64, [u8; 32])> {
        self.audit_from
    }

    fn put_audit_anchor(&mut self, anchor: &AuditAnchor) -> Result<(), StoreError> {
        audit::put_anchor(self.session, anchor)
    }

    fn advance(&mut self, row: &RevisionRow, keep: Retention) -> Result<(), StoreError> {
        self.finish()?;
        self.write_id = Some(row.write_id);
        let revision = row.revision;
        let oldest = revision.0.saturating_sub(keep.revisions).saturating_add(1);
        // In one round trip: the tables are not the same, and each sees its own as it was before.
        let made = self.session.one(
            "advancing the revision",
            "WITH made AS (INSERT INTO revisions (revision, previous, chain, changed, others, \
             write_id, unix_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)), \
             pruned AS (DELETE FROM changes WHERE revision < $8), \
             forgotten AS (DELETE FROM revisions WHERE revision < $8 AND revision < $1), \
             cut AS (SELECT seq, chain FROM audit \
             WHERE seq <= (SELECT coalesce(max(seq), 0) FROM audit) - $9 ORDER BY seq DESC LIMIT 1), \
             noted AS (UPDATE audit_log SET removed_through = cut.seq, chain = cut.chain FROM cut), \
             audited AS (DELETE FROM audit WHERE seq <= (SELECT seq FROM cut)), \
             moved AS (UPDATE head SET revision = $1, unix_ms = $7, \
             oldest_change = greatest(oldest_change, $8) RETURNING oldest_change) \
             SELECT moved.oldest_change, pg_notify($10, $11) FROM moved",
            &[
                (&signed(revision.0), Type::INT8),
                (&signed(row.previous.0), Type::INT8),
                (&row.chain.as_slice(), Type::BYTEA),
                (&row.changed.to_bytes().as_slice(), Type::BYTEA),
                (&row.others.to_bytes().as_slice(), Type::BYTEA),
                (&row.write_id.as_slice(), Type::BYTEA),
                (&signed(row.unix_ms), Type::INT8),
                (&signed(oldest), Type::INT8),
                (&signed(keep.audit_rows), Type::INT8),
                (&self.address.channel(), Type::TEXT),
                (&revision.0.to_string(), Type::TEXT),
            ],
        )?;
        self.head.set((revision, Revision(number(&made, 0)?)));
        bounds::advance(&past::Kept(self.session), self.noted, row, keep)
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        meta::write_meta(self.session, meta)
    }

    fn fork(&mut self, fork: Fork) -> Result<(), StoreError> {
        let doing = "noting a fork";
        self.session.execute(
            doing,
            "INSERT INTO forks (at, resumed) VALUES ($1, $2) ON CONFLICT (resumed) DO NOTHING",
            &[(&signed(fork.at.0), Type::INT8), (&signed(fork.resumed.0), Type::INT8)],
        )?;
        let row = self.session.one(
            doing,
            "UPDATE head SET oldest_change = greatest(oldest_change, $1) RETURNING oldest_change",
            &[(&signed(fork.resumed.0.saturating_add(1)), Type::INT8)],
        )?;
        self.head.set((self.head.get().0, Revision(number(&row, 0)?)));
        Ok(())
    }

    fn forget_revisions(&mut self) -> Result<(), StoreError> {
        let doing = "beginning a history";
        self.kept.borrow_mut().changes.clear();
        self.session.batch(doing, "DELETE FROM revisions; DELETE FROM changes")
    }

    fn set_sum(&mut self, of: Sum, row: SumRow) -> Result<(), StoreError> {
        meta::write_sum(self.session, of, row)
    }

    fn put_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let key = tombstone.key.clone();
        let bytes = key.id.len();
        if let Some(all) = self.tombstones.get_mut() {
            all.insert(key.clone(), tombstone.clone());
        }
        self.kept.borrow_mut().tombstones.insert(key, Some(tombstone.clone()));
        self.kept_one(bytes)
    }

    fn remove_tombstone(&mut self, key: &ItemKey) -> Result<(), StoreError> {
        if let Some(all) = self.tombstones.get_mut() {
            all.remove(key);
        }
        self.kept.borrow_mut().tombstones.insert(key.clone(), None);
        self.kept_one(key.id.len())
    }

    fn put_log_key(&mut self, row: &LogKeyRow) -> Result<(), StoreError> {
        super::logs::put_key(self.session, row)
    }

    fn put_log_head(&mut self, row: &LogHeadRow) -> Result<(), StoreError> {
        super::logs::put_head(self.session, row)
    }

    fn touch(&mut self, used: &[TokenUse]) -> Result<(), StoreError> {
        let ids: Vec<&str> = used.iter().map(|used| used.id.as_str()).collect();
        let times: Vec<i64> = used.iter().map(|used| signed(used.unix_s)).collect();
        let from: Vec<&str> = used.iter().map(|used| used.from.as_str()).collect();
        // Of several uses of one token the newest counts.
        self.session
            .execute(
                "noting token use",
                "UPDATE tokens SET last_used_unix_s = used.unix_s, last_used_from = used.place \
                 FROM (SELECT DISTINCT ON (id) id, unix_s, place FROM \
                 unnest($1::text[], $2::bigint[], $3::text[]) AS u (id, unix_s, place) \
                 ORDER BY id, unix_s DESC) AS used \
                 WHERE tokens.id = used.id AND coalesce(last_used_unix_s, 0) <= used.unix_s",
                &[(&ids, Type::TEXT_ARRAY), (&times, Type::INT8_ARRAY), (&from, Type::TEXT_ARRAY)],
            )
            .map(|_| ())
    }
}

/// The columns of keys, as arrays.
struct Keys<'a> {
    services: Vec<&'a str>,
    kinds: Vec<&'static str>,
    ids: Vec<std::borrow::Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    fn of(keys: impl Iterator<Item = &'a ItemKey>) -> Keys<'a> {
        let mut columns = Keys { services: Vec::new(), kinds: Vec::new(), ids: Vec::new() };
        for key in keys {
            columns.services.push(&key.service);
            columns.kinds.push(key.kind.as_str());
            columns.ids.push(storable(&key.id));
        }
        columns
    }
}

/// What becomes of an item that is there.
const REPLACING: &str = "ON CONFLICT (service, kind, id) DO UPDATE SET body = excluded.body, \
    revision = excluded.revision, digest = excluded.digest, source = excluded.source, \
    needs = excluded.needs, brought = excluded.brought, base = excluded.base";

/// Items into a table of that shape.
pub(super) fn write_items<'a>(
    session: &Session,
    table: &str,
    replacing: &str,
    rows: impl Iterator<Item = &'a Row> + Clone,
) -> Result<(), StoreError> {
    let keys = Keys::of(rows.clone().map(|row| &row.key));
    let bodies: Vec<&[u8]> = rows.clone().map(|row| row.body.as_slice()).collect();
    let revisions: Vec<i64> = rows.clone().map(|row| signed(row.revision.0)).collect();
    let digests: Vec<Vec<u8>> = rows.clone().map(|row| row.digest.to_bytes().to_vec()).collect();
    let sources: Vec<&str> = rows.clone().map(|row| row.source.as_str()).collect();
    let needs: Vec<i64> = rows.clone().map(|row| i64::from(row.needs)).collect();
    let brought: Vec<&str> = rows.clone().map(|row| row.origin.brought.name()).collect();
    let bases: Vec<Option<Vec<u8>>> = rows.map(|row| row.origin.base_bytes(&row.key)).collect();
    session
        .execute(
            "writing items",
            &format!(
                "INSERT INTO {table} (service, kind, id, body, revision, digest, source, needs, \
                 brought, base) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], \
                 $4::bytea[], $5::bigint[], $6::bytea[], $7::text[], $8::bigint[], $9::text[], \
                 $10::bytea[]) {replacing}"
            ),
            &[
                (&keys.services, Type::TEXT_ARRAY),
                (&keys.kinds, Type::TEXT_ARRAY),
                (&keys.ids, Type::TEXT_ARRAY),
                (&bodies, Type::BYTEA_ARRAY),
                (&revisions, Type::INT8_ARRAY),
                (&digests, Type::BYTEA_ARRAY),
                (&sources, Type::TEXT_ARRAY),
                (&needs, Type::INT8_ARRAY),
                (&brought, Type::TEXT_ARRAY),
                (&bases, Type::BYTEA_ARRAY),
            ],
        )
        .map(|_| ())
}

fn write_settled(session: &Session, settled: &[(ItemKey, Digest)]) -> Result<(), StoreError> {
    let keys = Keys::of(settled.iter().map(|(key, _)| key));
    let digests: Vec<Vec<u8>> = settled.iter().map(|(_, d)| d.to_bytes().to_vec()).collect();
    session
        .execute(
            "noting who brought an item",
            "UPDATE items SET brought = $5, base = NULL FROM unnest($1::text[], $2::text[], \
             $3::text[], $4::bytea[]) AS s (service, kind, id, digest) \
             WHERE items.service = s.service AND items.kind = s.kind AND items.id = s.id \
             AND items.digest = s.digest",
            &[
                (&keys.services, Type::TEXT_ARRAY),
                (&keys.kinds, Type::TEXT_ARRAY),
                (&keys.ids, Type::TEXT_ARRAY),
                (&digests, Type::BYTEA_ARRAY),
                (&Brought::Files.name(), Type::TEXT),
            ],
        )
        .map(|_| ())
}

fn write_changes(session: &Session, rows: &[(i64, ChangeRow)]) -> Result<(), StoreError> {
    let keys = Keys::of(rows.iter().map(|(_, row)| &row.key));
    let revisions: Vec<i64> = rows.iter().map(|(_, row)| signed(row.revision.0)).collect();
    let seqs: Vec<i64> = rows.iter().map(|(seq, _)| *seq).collect();
    let bodies: Vec<Option<&[u8]>> = rows.iter().map(|(_, row)| row.body.as_deref()).collect();
    let needs: Vec<i64> = rows.iter().map(|(_, row)| i64::from(row.needs)).collect();
    session
        .execute(
            "writing changes",
            "INSERT INTO changes (revision, seq, service, kind, id, body, needs) \
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], \
             $6::bytea[], $7::bigint[])",
            &[
                (&revisions, Type::INT8_ARRAY),
                (&seqs, Type::INT8_ARRAY),
                (&keys.services, Type::TEXT_ARRAY),
                (&keys.kinds, Type::TEXT_ARRAY),
                (&keys.ids, Type::TEXT_ARRAY),
                (&bodies, Type::BYTEA_ARRAY),
                (&needs, Type::INT8_ARRAY),
            ],
        )
        .map(|_| ())
}

fn write_tombstones(
    session: &Session,
    rows: &BTreeMap<ItemKey, Option<Tombstone>>,
) -> Result<(), StoreError> {
    let gone = Keys::of(rows.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| key));
    if !gone.ids.is_empty() {
        session.execute(
            "removing tombstones",
            "DELETE FROM tombstones USING unnest($1::text[], $2::text[], $3::text[]) \
             AS g (service, kind, id) WHERE tombstones.service = g.service \
             AND tombstones.kind = g.kind AND tombstones.id = g.id",
            &[
                (&gone.services, Type::TEXT_ARRAY),
                (&gone.kinds, Type::TEXT_ARRAY),
                (&gone.ids, Type::TEXT_ARRAY),
            ],
        )?;
    }
    let rows: Vec<&Tombstone> = rows.values().flatten().collect();
    if rows.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(rows.iter().map(|row| &row.key));
    let revisions: Vec<i64> = rows.iter().map(|row| signed(row.revision.0)).collect();
    let times: Vec<i64> = rows.iter().map(|row| signed(row.unix_ms)).collect();
    let actors: Vec<&str> = rows.iter().map(|row| row.actor.as_str()).collect();
    let actions: Vec<&str> = rows.iter().map(|row| row.action.as_str()).collect();
    let was: Vec<Vec<u8>> = rows.iter().map(|row| row.was.to_bytes().to_vec()).collect();
    session
        .execute(
            "writing tombstones",
            "INSERT INTO tombstones (service, kind, id, revision, unix_ms, actor, action, was) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], \
             $6::text[], $7::text[], $8::bytea[]) ON CONFLICT (service, kind, id) DO UPDATE \
             SET revision = excluded.revision, unix_ms = excluded.unix_ms, \
             actor = excluded.actor, action = excluded.action, was = excluded.was",
            &[
                (&keys.services, Type::TEXT_ARRAY),
                (&keys.kinds, Type::TEXT_ARRAY),
                (&keys.ids, Type::TEXT_ARRAY),
                (&revisions, Type::INT8_ARRAY),
                (&times, Type::INT8_ARRAY),
                (&actors, Type::TEXT_ARRAY),
                (&actions, Type::TEXT_ARRAY),
                (&was, Type::BYTEA_ARRAY),
            ],
        )
        .map(|_| ())
}

pub(super) fn write_revision(session: &Session, row: &RevisionRow) -> Result<(), StoreError> {
    session
        .execute(
            "writing a revision",
            "INSERT INTO revisions (revision, previous, chain, changed, others, write_id, unix_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                (&signed(row.revision.0), Type::INT8),
                (&signed(row.previous.0), Type::INT8),
                (&row.chain.as_slice(), Type::BYTEA),
                (&row.changed.to_bytes().as_slice(), Type::BYTEA),
                (&row.others.to_bytes().as_slice(), Type::BYTEA),
                (&row.write_id.as_slice(), Type::BYTEA),
                (&signed(row.unix_ms), Type::INT8),
            ],
        )
        .map(|_| ())
}
