//! The tables, and how a store of an earlier release becomes one of this release, layout by layout.

use std::collections::{BTreeMap, HashSet};

use keepgate_policy::mark::change_digest;
use keepgate_policy::service::{Authzen, ServiceSettings};
use keepgate_policy::{Digest, ItemKey, Revision};
use rusqlite::{Connection, params};

use super::super::values::{signed, stored_kind};
use super::super::{APPLY, Meta, RevisionRow, StoreError, SumRow, new_meta, random};
use super::audit;
use super::meta;
use super::rows::{self, unsigned};
use super::tokens;
use super::{FIRST_LAYOUT, LAYOUT, SECOND_LAYOUT, THIRD_LAYOUT, failed};

const TABLES: &str = "
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,
    oldest_change INTEGER NOT NULL, unix_ms INTEGER NOT NULL);
INSERT INTO head VALUES (1, 0, 1, 0);
CREATE TABLE items (service TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL, revision INTEGER NOT NULL, digest BLOB NOT NULL, source TEXT NOT NULL,
    needs INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (service, kind, id)) WITHOUT ROWID;
CREATE INDEX items_by_source ON items (source, kind, id) WHERE source <> '';
CREATE TABLE scopes (service TEXT PRIMARY KEY, digest BLOB NOT NULL, items INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE changes (revision INTEGER NOT NULL, seq INTEGER NOT NULL, service TEXT NOT NULL,
    kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB, needs INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (revision, seq)) WITHOUT ROWID;
CREATE TABLE tokens (id TEXT PRIMARY KEY, role TEXT NOT NULL, service TEXT NOT NULL,
    sha256 BLOB NOT NULL, note TEXT NOT NULL, created_unix_s INTEGER NOT NULL,
    last_used_unix_s INTEGER, revoked_unix_s INTEGER) WITHOUT ROWID;
CREATE TABLE audit (seq INTEGER PRIMARY KEY, revision INTEGER NOT NULL, unix_ms INTEGER NOT NULL,
    actor TEXT NOT NULL, action TEXT NOT NULL, service TEXT NOT NULL, kind TEXT NOT NULL,
    id TEXT NOT NULL, before TEXT, after TEXT);
";

/// What layout 2 adds.
const HISTORY_TABLES: &str = "
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), history BLOB NOT NULL,
    key BLOB NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL, witnessed INTEGER NOT NULL,
    ancestors BLOB NOT NULL, timeline TEXT NOT NULL, fresh INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE revisions (revision INTEGER PRIMARY KEY, previous INTEGER NOT NULL,
    chain BLOB NOT NULL, changed BLOB NOT NULL, others BLOB NOT NULL,
    write_id BLOB NOT NULL UNIQUE, unix_ms INTEGER NOT NULL);
CREATE TABLE forks (at INTEGER NOT NULL, resumed INTEGER PRIMARY KEY);
CREATE TABLE sums (name TEXT PRIMARY KEY, digest BLOB NOT NULL, rows INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE tombstones (service TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    revision INTEGER NOT NULL, unix_ms INTEGER NOT NULL, actor TEXT NOT NULL,
    action TEXT NOT NULL, was BLOB NOT NULL, PRIMARY KEY (service, kind, id)) WITHOUT ROWID;
CREATE INDEX tombstones_by_revision ON tombstones (revision);
";

/// What layout 3 adds: when tokens end and from where they were used; whether several services decide
/// AuthZEN requests together.
const TERMS: &str = "
ALTER TABLE tokens ADD COLUMN expires_unix_s INTEGER;
ALTER TABLE tokens ADD COLUMN last_used_from TEXT NOT NULL DEFAULT '';
ALTER TABLE meta ADD COLUMN authzen_together INTEGER NOT NULL DEFAULT 0;
";

/// What layout 3 adds: who brought each item and what the last apply wrote; the log by revision.
const ORIGINS: &str = "
ALTER TABLE items ADD COLUMN brought TEXT NOT NULL DEFAULT 'files';
ALTER TABLE items ADD COLUMN base BLOB;
CREATE INDEX audit_by_revision ON audit (revision);
";

/// What layout 4 adds: what revisions found before they changed it, where the past begins with the
/// head; the keys with which access logs are signed, and what was signed last; who has signed in
/// to the console; requests for access; the audit log by id, and its chain.
const PAST_LOGS_SESSIONS: &str = "
CREATE TABLE past (revision INTEGER NOT NULL, service TEXT NOT NULL,
    kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB, digest BLOB, since INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (revision, service, kind, id)) WITHOUT ROWID;
CREATE TABLE past_head (one INTEGER PRIMARY KEY CHECK (one = 1),
    oldest INTEGER NOT NULL, through INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO past_head SELECT 1, revision, revision, 0 FROM head;
CREATE TABLE log_keys (id TEXT PRIMARY KEY, seed BLOB NOT NULL, public BLOB NOT NULL,
    unix_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE log_heads (log BLOB PRIMARY KEY, token TEXT NOT NULL, gate TEXT NOT NULL,
    seq INTEGER NOT NULL, chain BLOB NOT NULL, unix_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX log_heads_by_token ON log_heads (token);
CREATE INDEX audit_by_id ON audit (id);
CREATE TABLE sessions (sha256 BLOB PRIMARY KEY, holder TEXT NOT NULL, person TEXT NOT NULL,
    created_unix_s INTEGER NOT NULL, expires_unix_s INTEGER NOT NULL, ends_unix_s INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE INDEX sessions_by_holder ON sessions (holder);
CREATE TABLE requests (id TEXT PRIMARY KEY, service TEXT NOT NULL, state TEXT NOT NULL,
    code BLOB NOT NULL UNIQUE, address TEXT NOT NULL, created_unix_s INTEGER NOT NULL,
    changed_unix_s INTEGER NOT NULL, told INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX requests_by_service ON requests (service, id);
CREATE INDEX requests_by_state ON requests (state, id);
ALTER TABLE audit ADD COLUMN chain BLOB NOT NULL DEFAULT x'';
CREATE TABLE audit_log (one INTEGER PRIMARY KEY CHECK (one = 1), log BLOB NOT NULL,
    removed_through INTEGER NOT NULL, chain BLOB NOT NULL, anchor TEXT NOT NULL);
";

/// Lays out an empty database, with a history of its own.
pub(super) fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let doing = "laying out the tables";
    let tx = connection.transaction().map_err(failed(doing))?;
    tx.execute_batch(TABLES).map_err(failed(doing))?;
    tx.execute_batch(HISTORY_TABLES).map_err(failed(doing))?;
    tx.execute_batch(TERMS).map_err(failed(doing))?;
    tx.execute_batch(ORIGINS).map_err(failed(doing))?;
    tx.execute_batch(PAST_LOGS_SESSIONS).map_err(failed(doing))?;
    audit::chain_all(&tx)?;
    begin_history(&tx, &new_meta(Vec::new())?, &RevisionRow::zero())?;
    tx.pragma_update(None, "user_version", LAYOUT).map_err(failed(doing))?;
    tx.commit().map_err(failed(doing))
}

/// Makes a store of an earlier release one of this release, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let doing = "migrating the store of an earlier release";
    let tx = connection.transaction().map_err(failed(doing))?;
    let found: i64 =
        tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed(doing))?;
    match found {
        FIRST_LAYOUT | SECOND_LAYOUT | THIRD_LAYOUT => {}
        found => return Err(StoreError::Layout { found, known: LAYOUT }),
    }
    if found == FIRST_LAYOUT {
        as_it_says(&tx)?;
        tx.execute_batch(HISTORY_TABLES).map_err(failed(doing))?;
    }
    if found < THIRD_LAYOUT {
        // Tokens are read by the columns of this release.
        add_terms(&tx)?;
        if found == FIRST_LAYOUT {
            add_history(&tx)?;
        }
        keep_authzen(&tx)?;
        add_origins(&tx)?;
    }
    tx.execute_batch(PAST_LOGS_SESSIONS).map_err(failed(doing))?;
    audit::chain_all(&tx)?;
    tx.pragma_update(None, "user_version", LAYOUT).map_err(failed(doing))?;
    tx.commit().map_err(failed(doing))
}

/// From layout 2 to 3: what this release knows of tokens, and of the store.
fn add_terms(tx: &Connection) -> Result<(), StoreError> {
    tx.execute_batch(TERMS).map_err(failed("noting when tokens end"))
}

/// Where several services decided AuthZEN requests together, they go on until one is the default.
fn keep_authzen(tx: &Connection) -> Result<(), StoreError> {
    let doing = "reading the settings of services";
    let mut settings =
        tx.prepare("SELECT body FROM items WHERE kind = 'service'").map_err(failed(doing))?;
    let mut found = settings.query([]).map_err(failed(doing))?;
    let mut deciding = 0;
    while let Some(row) = found.next().map_err(failed(doing))? {
        let body: Vec<u8> = row.get(0).map_err(failed(doing))?;
        deciding += usize::from(decides_authzen(&body)?);
    }
    if deciding > 1 {
        let meta = meta::read_meta(tx)?;
        meta::write_meta(tx, &Meta { authzen_together: true, ..meta })?;
    }
    Ok(())
}

/// From layout 2 to 3. What the audit log last saw changed by something else than an apply counts as
/// a command's: an apply that says otherwise names it.
fn add_origins(tx: &Connection) -> Result<(), StoreError> {
    let doing = "noting who brought each item";
    tx.execute_batch(ORIGINS).map_err(failed(doing))?;
    tx.execute(
        "UPDATE items SET brought = 'command' WHERE kind IN ('role', 'member') AND source = ''",
        [],
    )
    .map_err(failed(doing))?;
    let mut by_command: HashSet<(String, String, String)> = HashSet::new();
    let mut log = tx
        .prepare("SELECT service, kind, id, action FROM audit WHERE kind <> 'token' ORDER BY seq")
        .map_err(failed(doing))?;
    let mut rows = log.query([]).map_err(failed(doing))?;
    while let Some(row) = rows.next().map_err(failed(doing))? {
        let read = || rusqlite::Result::Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get(3)?));
        let (key, action): (_, String) = read().map_err(failed(doing))?;
        if action == APPLY {
            by_command.remove(&key);
        } else {
            by_command.insert(key);
        }
    }
    let mut note = tx
        .prepare(
            "UPDATE items SET brought = 'command' WHERE service = ?1 AND kind = ?2 AND id = ?3 \
             AND source = ''",
        )
        .map_err(failed(doing))?;
    for (service, kind, id) in by_command {
        note.execute(params![service, kind, id]).map_err(failed(doing))?;
    }
    Ok(())
}

/// Whether a service of an earlier release takes part in AuthZEN requests that name none.
pub(crate) fn decides_authzen(settings: &[u8]) -> Result<bool, StoreError> {
    let settings: ServiceSettings = serde_json::from_slice(settings)
        .map_err(|e| StoreError::Corrupt { what: format!("the settings of a service: {e}") })?;
    Ok(settings.authzen != Authzen::No)
}

/// From layout 1 to 2. The head of the store stays; the history begins with it.
fn add_history(tx: &Connection) -> Result<(), StoreError> {
    let doing = "migrating the store of release 0.1";
    tx.execute_batch(
        "ALTER TABLE items ADD COLUMN needs INTEGER NOT NULL DEFAULT 1;
         ALTER TABLE changes ADD COLUMN needs INTEGER NOT NULL DEFAULT 1;",
    )
    .map_err(failed(doing))?;
    let mut sum = SumRow::default();
    for token in tokens::all(tx)? {
        sum.add(token.digest());
    }
    let head: u64 = tx
        .query_row("SELECT revision FROM head", [], |row| unsigned(row, 0))
        .map_err(failed(doing))?;
    let meta = new_meta(Vec::new())?;
    // Followers of release 0.1 catch up from the change rows that are there; marks begin here.
    let others = sum.digest;
    let mut row = RevisionRow {
        revision: Revision(head),
        changed: changed_in(tx, head)?,
        others,
        write_id: random()?,
        ..RevisionRow::zero()
    };
    row.chain = row.chained(&[0; 32], meta.history);
    begin_history(tx, &meta, &row)?;
    meta::write_sum(tx, super::super::Sum::Tokens, sum)
}

/// The items of a store of release 0.1 have the digests that it says: what is damaged stays as it
/// is.
fn as_it_says(connection: &Connection) -> Result<(), StoreError> {
    let doing = "checking the store of release 0.1";
    let corrupt = |what: String| Err(StoreError::Corrupt { what });
    let mut sums: BTreeMap<String, SumRow> = BTreeMap::new();
    let mut items = connection
        .prepare("SELECT service, kind, id, body, digest FROM items")
        .map_err(failed(doing))?;
    let mut found = items.query([]).map_err(failed(doing))?;
    while let Some(row) = found.next().map_err(failed(doing))? {
        let read = || {
            let kind: String = row.get(1)?;
            let (body, digest): (Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(4)?);
            rusqlite::Result::Ok((row.get(0)?, kind, row.get(2)?, body, digest))
        };
        let (service, kind, id, body, said) = read().map_err(failed(doing))?;
        let key = ItemKey { service, kind: stored_kind(&kind)?, id };
        let digest = Digest::of_encoded(&key, &body);
        if Digest::from_bytes(&said) != Some(digest) {
            return corrupt(format!("{key} does not have the digest that its row says"));
        }
        sums.entry(key.service).or_default().add(digest);
    }
    let mut scopes =
        connection.prepare("SELECT service, digest, items FROM scopes").map_err(failed(doing))?;
    let mut found = scopes.query([]).map_err(failed(doing))?;
    while let Some(row) = found.next().map_err(failed(doing))? {
        let read = || {
            let said: Vec<u8> = row.get(1)?;
            rusqlite::Result::Ok((row.get::<_, String>(0)?, said, unsigned(row, 2)?))
        };
        let (service, said, items) = read().map_err(failed(doing))?;
        let sum = sums.remove(&service).unwrap_or_default();
        if Digest::from_bytes(&said) != Some(sum.digest) || items != sum.rows {
            return corrupt(format!("the items of scope `{service}` do not sum up to its digest"));
        }
    }
    match sums.keys().next() {
        Some(service) => corrupt(format!("there are items of `{service}`, and no such scope")),
        None => Ok(()),
    }
}

fn begin_history(
    connection: &Connection,
    meta: &Meta,
    row: &RevisionRow,
) -> Result<(), StoreError> {
    meta::write_meta(connection, meta)?;
    rows::write_revision(connection, row)?;
    for sum in [super::super::Sum::Tokens, super::super::Sum::Tombstones] {
        meta::write_sum(connection, sum, SumRow::default())?;
    }
    Ok(())
}

/// The digest of the change rows of one revision.
fn changed_in(connection: &Connection, revision: u64) -> Result<Digest, StoreError> {
    let doing = "reading changes";
    let mut statement = connection
        .prepare("SELECT service, kind, id, body FROM changes WHERE revision = ?1")
        .map_err(failed(doing))?;
    let found = statement
        .query_map(params![signed(revision)], |row| {
            let kind: String = row.get(1)?;
            Ok((row.get(0)?, kind, row.get(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        })
        .map_err(failed(doing))?;
    let mut sum = Digest::default();
    for row in found {
        let (service, kind, id, body) = row.map_err(failed(doing))?;
        let key = ItemKey { service, kind: stored_kind(&kind)?, id };
        sum = sum.plus(change_digest(&key, body.as_deref()));
    }
    Ok(sum)
}
