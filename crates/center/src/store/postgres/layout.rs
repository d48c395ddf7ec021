//! The tables, and how a database of an earlier release becomes one of this release: numbered steps,
//! forward only, under a lock of their own so that several centers may start at once.

use tokio_postgres::types::Type;

use super::super::{Meta, RevisionRow, StoreError, Sum, SumRow, new_meta};
use super::address::Address;
use super::session::{Committed, Session};
use super::writer;
use super::{audit, meta};

/// The layout that this release reads and writes: the number of [`STEPS`].
const LAYOUT: i64 = 2;

/// What each layout adds to the one before: what is done, in words, and the statements.
const STEPS: [(&str, &str); 2] = [
    ("create the tables of a center", TABLES),
    ("keep past states, the keys of access logs, and sessions of the console", NEW),
];

/// The past begins with the head.
const NEW: &str = r#"
CREATE TABLE past (revision bigint NOT NULL, service text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, body bytea, digest bytea,
    since bigint NOT NULL, bytes bigint NOT NULL, PRIMARY KEY (revision, service, kind, id));
CREATE TABLE past_head (one int PRIMARY KEY CHECK (one = 1), oldest bigint NOT NULL,
    through bigint NOT NULL, bytes bigint NOT NULL) WITH (fillfactor = 20);
INSERT INTO past_head SELECT 1, revision, revision, 0 FROM head;
CREATE TABLE log_keys (id text PRIMARY KEY, seed bytea NOT NULL, public bytea NOT NULL,
    unix_ms bigint NOT NULL);
CREATE TABLE log_heads (log bytea PRIMARY KEY, token text NOT NULL, gate text NOT NULL,
    seq bigint NOT NULL, chain bytea NOT NULL, unix_ms bigint NOT NULL) WITH (fillfactor = 50);
CREATE INDEX log_heads_by_token ON log_heads (token);
CREATE INDEX audit_by_id ON audit (id, seq);
CREATE TABLE sessions (sha256 bytea PRIMARY KEY, holder text COLLATE "C" NOT NULL,
    person text NOT NULL, created_unix_s bigint NOT NULL, expires_unix_s bigint NOT NULL,
    ends_unix_s bigint NOT NULL);
CREATE INDEX sessions_by_holder ON sessions (holder);
CREATE TABLE requests (id text COLLATE "C" PRIMARY KEY, service text COLLATE "C" NOT NULL,
    state text NOT NULL, code bytea NOT NULL UNIQUE, address text NOT NULL,
    created_unix_s bigint NOT NULL, changed_unix_s bigint NOT NULL, told boolean NOT NULL,
    body text NOT NULL);
CREATE INDEX requests_by_service ON requests (service, id);
CREATE INDEX requests_by_state ON requests (state, id);
ALTER TABLE audit ADD COLUMN chain bytea NOT NULL DEFAULT '';
CREATE TABLE audit_log (one int PRIMARY KEY CHECK (one = 1), log bytea NOT NULL,
    removed_through bigint NOT NULL, chain bytea NOT NULL, anchor text NOT NULL) WITH (fillfactor = 20);
CREATE TABLE hour (center text NOT NULL, span bigint NOT NULL, service text COLLATE "C" NOT NULL,
    rule text COLLATE "C" NOT NULL, requests bigint NOT NULL, refused bigint NOT NULL,
    limited bigint NOT NULL, denied bigint NOT NULL, undecided bigint NOT NULL, told boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (center, span, service, rule));
CREATE INDEX hour_by_span ON hour (span);
CREATE INDEX hour_by_time ON hour (at);
"#;

/// Ids come in the order of their bytes, as everywhere else.
const TABLES: &str = r#"
CREATE TABLE meta (one int PRIMARY KEY CHECK (one = 1), history bytea NOT NULL, key bytea NOT NULL,
    state text NOT NULL, why text NOT NULL, witnessed bigint NOT NULL, ancestors bytea NOT NULL,
    timeline text NOT NULL, fresh boolean NOT NULL, authzen_together boolean NOT NULL,
    digest bytea NOT NULL);
CREATE TABLE head (one int PRIMARY KEY CHECK (one = 1), revision bigint NOT NULL,
    oldest_change bigint NOT NULL, unix_ms bigint NOT NULL) WITH (fillfactor = 20);
INSERT INTO head VALUES (1, 0, 1, 0);
CREATE TABLE revisions (revision bigint PRIMARY KEY, previous bigint NOT NULL,
    chain bytea NOT NULL, changed bytea NOT NULL, others bytea NOT NULL,
    write_id bytea NOT NULL UNIQUE, unix_ms bigint NOT NULL);
CREATE TABLE forks (at bigint NOT NULL, resumed bigint PRIMARY KEY);
CREATE TABLE items (service text COLLATE "C" NOT NULL, kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL, body bytea NOT NULL, revision bigint NOT NULL,
    digest bytea NOT NULL, source text COLLATE "C" NOT NULL, needs bigint NOT NULL,
    brought text NOT NULL, base bytea, PRIMARY KEY (service, kind, id));
CREATE INDEX items_by_source ON items (source, kind, id) WHERE source <> '';
CREATE TABLE changes (revision bigint NOT NULL, seq bigint NOT NULL, service text NOT NULL,
    kind text NOT NULL, id text NOT NULL, body bytea, needs bigint NOT NULL,
    PRIMARY KEY (revision, seq));
CREATE TABLE scopes (service text COLLATE "C" PRIMARY KEY, digest bytea NOT NULL,
    items bigint NOT NULL);
CREATE TABLE sums (name text PRIMARY KEY, digest bytea NOT NULL, rows bigint NOT NULL);
CREATE TABLE tombstones (service text COLLATE "C" NOT NULL, kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL, revision bigint NOT NULL, unix_ms bigint NOT NULL,
    actor text NOT NULL, action text NOT NULL, was bytea NOT NULL,
    PRIMARY KEY (service, kind, id));
CREATE TABLE tokens (id text COLLATE "C" PRIMARY KEY, role text NOT NULL, service text NOT NULL,
    sha256 bytea NOT NULL, note text NOT NULL, created_unix_s bigint NOT NULL,
    last_used_unix_s bigint, last_used_from text NOT NULL, revoked_unix_s bigint,
    expires_unix_s bigint);
CREATE TABLE audit (seq bigint PRIMARY KEY, revision bigint NOT NULL, unix_ms bigint NOT NULL,
    actor text NOT NULL, action text NOT NULL, service text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, before text, after text);
CREATE INDEX audit_by_revision ON audit (revision);
CREATE TABLE pulses (center text PRIMARY KEY, beat bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 20);
CREATE UNLOGGED TABLE notes (center text PRIMARY KEY, note bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now());
"#;

/// Where centers wait for each other while one lays out the tables.
pub(super) const LOCKED: &str =
    "SELECT pg_advisory_xact_lock(hashtext('keepgate layout'), hashtext($1))";

/// What a database of this layout still lacks; none: nothing.
fn steps_from(found: i64) -> Result<Vec<(&'static str, &'static str)>, StoreError> {
    match usize::try_from(found) {
        Ok(found) if found <= STEPS.len() => Ok(STEPS.into_iter().skip(found).collect()),
        _ => Err(StoreError::Layout { found, known: LAYOUT }),
    }
}

/// The layout of the schema; 0: there is none.
fn layout(session: &Session, schema: &str) -> Result<i64, StoreError> {
    let doing = "reading the layout";
    // From the catalog's rows: by name it would be looked up in what the session remembers, which
    // does not change while a lock is waited for.
    let there = session.one(
        doing,
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relname = 'layout' AND n.nspname = $1)",
        &[(&schema, Type::TEXT)],
    )?;
    if !super::get::<bool>(&there, 0)? {
        return Ok(0);
    }
    let row = session.one(doing, &format!("SELECT version, kind FROM {schema}.layout"), &[])?;
    let read = |e| super::session::failed(doing, e);
    let kind: String = row.try_get(1).map_err(read)?;
    if kind != "center" {
        return Err(StoreError::Corrupt {
            what: format!("schema `{schema}` is of a `{kind}`, not of a center"),
        });
    }
    row.try_get(0).map_err(read)
}

/// Whether the schema holds a store of this release's layout; false: it holds none.
///
/// # Errors
/// One that is to be migrated first, or is of a newer release.
pub(super) fn is_there(session: &Session, schema: &str) -> Result<bool, StoreError> {
    match layout(session, schema)? {
        0 => Ok(false),
        LAYOUT => Ok(true),
        found => Err(StoreError::Layout { found, known: LAYOUT }),
    }
}

/// What [`settle`] would do, in words; nothing is written.
pub(super) fn pending(session: &Session, schema: &str) -> Result<Vec<String>, StoreError> {
    let found = layout(session, schema)?;
    let steps = steps_from(found)?;
    let step = |(at, (what, _)): (usize, &(&str, &str))| {
        format!("schema `{schema}`, layout {}: {what}", found + 1 + at as i64)
    };
    Ok(steps.iter().enumerate().map(step).collect())
}

/// Lays out the tables, or brings them to this release's layout; true: there were none.
pub(super) fn settle(session: &Session, address: &Address) -> Result<bool, StoreError> {
    let doing = "laying out the tables";
    let schema = address.schema.as_str();
    session.allow(std::time::Duration::from_secs(600));
    // Of this layout already, as at nearly each start: nothing is locked then.
    if steps_from(layout(session, schema)?)?.is_empty() {
        return Ok(false);
    }
    session.begin(
        doing,
        "BEGIN; SET LOCAL lock_timeout = '600s'; SET LOCAL statement_timeout = '600s'",
    )?;
    let done = lay_out(session, schema);
    let first = match done {
        Ok(first) => first,
        Err(e) => {
            session.roll_back();
            return Err(e);
        }
    };
    match session.commit() {
        Committed::Done => Ok(first),
        Committed::Failed(e) => Err(e),
        // Begun again, it finds what became of it.
        Committed::Unknown(source) => Err(StoreError::Database { doing, source }),
    }
}

pub(super) fn lay_out(session: &Session, schema: &str) -> Result<bool, StoreError> {
    let doing = "laying out the tables";
    session.query(doing, LOCKED, &[(&schema, Type::TEXT)])?;
    let found = layout(session, schema)?;
    let steps = steps_from(found)?;
    if steps.is_empty() {
        // Another center was first.
        return Ok(false);
    }
    let there = session.query(
        doing,
        "SELECT FROM pg_namespace WHERE nspname = $1",
        &[(&schema, Type::TEXT)],
    )?;
    if there.is_empty() {
        session.batch(doing, &format!("CREATE SCHEMA {schema}"))?;
    }
    session.batch(doing, &format!("SET LOCAL search_path TO {schema}, pg_temp"))?;
    for (what, sql) in steps {
        tracing::info!(schema, what, "migrating the database");
        session.batch(doing, sql)?;
    }
    if found < LAYOUT {
        audit::chain_all(session)?;
    }
    if found == 0 {
        begin_history(session)?;
        let create = "CREATE TABLE layout (one int PRIMARY KEY CHECK (one = 1), \
                      kind text NOT NULL, version bigint NOT NULL)";
        session.batch(doing, create)?;
    }
    session.execute(
        doing,
        "INSERT INTO layout VALUES (1, 'center', $1) ON CONFLICT (one) DO UPDATE SET version = $1",
        &[(&LAYOUT, Type::INT8)],
    )?;
    Ok(found == 0)
}

/// A history of its own, at revision 0.
fn begin_history(session: &Session) -> Result<(), StoreError> {
    let timeline = super::timeline(session)?;
    let meta = Meta { timeline, fresh: false, ..new_meta(Vec::new())? };
    meta::write_meta(session, &meta)?;
    writer::write_revision(session, &RevisionRow::zero())?;
    for sum in [Sum::Tokens, Sum::Tombstones] {
        meta::write_sum(session, sum, SumRow::default())?;
    }
    Ok(())
}
