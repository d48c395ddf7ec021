//! Items laid aside for a large write, in a table of their own: they are copied there before the write
//! begins with the lock of the head, and moved by two statements.
//!
//! Whoever lays them aside holds a lock on the table in an open transaction, so a table without that
//! lock was left behind by a center that is gone: it is dropped at each start, and before the next
//! table is made. The tables are not logged: a crash of the server empties them, and a standby has
//! none, so whoever takes the rows over counts them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::types::Type;

use super::super::{Row, Staged, StoreError, random};
use super::session::Session;
use super::text::storable;
use super::writer::{STATEMENT, write_items};
use super::{PostgresStore, get};

/// What the names of the tables begin with.
const PREFIX: &str = "staged_";

/// Rows of a statement where they cannot be copied.
const ROWS: usize = 1000;

/// How long they may wait for the writer, in milliseconds.
const HELD_MS: u32 = 3_600_000;

/// How long one that is still in use is waited for when it is dropped.
const DROP_WAIT: Duration = Duration::from_secs(30);

/// A table that is kept.
struct Held {
    /// None only while it is dropped.
    session: Option<Session>,
    handle: Handle,
    table: String,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let sql = format!(
            "ROLLBACK; BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL synchronous_commit = off; \
             DROP TABLE IF EXISTS {}; COMMIT",
            self.table
        );
        let place = self.place.take();
        // Nobody waits for it. What is left behind all the same goes before the next one is made.
        self.handle.spawn(async move {
            let dropped = tokio::time::timeout(DROP_WAIT, session.say(&sql)).await;
            if !matches!(dropped, Ok(Ok(()))) {
                tracing::debug!(?dropped, "a staging table was left behind");
            }
            drop((session, place));
        });
    }
}

impl PostgresStore {
    /// None: another large write has its items laid aside, and there is one session for such.
    pub(super) fn lay_aside(
        &self,
        rows: &mut dyn Iterator<Item = Row>,
        count: usize,
    ) -> Result<Option<Staged>, StoreError> {
        let doing = "laying items aside";
        let Ok(place) = Arc::clone(&self.staging).try_acquire_owned() else { return Ok(None) };
        let session = Session::open(&self.address, &self.handle)?;
        self.drop_left_behind(&session)?;
        let name: [u8; 16] = random()?;
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let table = format!("{}.{PREFIX}{name}", self.address.schema);
        let allowed = STATEMENT + Duration::from_millis(count as u64);
        session.allow(allowed);
        session.begin(
            doing,
            &format!(
                "BEGIN; SET LOCAL statement_timeout = {ms}; \
                 SET LOCAL idle_in_transaction_session_timeout = {ms}; \
                 SET LOCAL synchronous_commit = off; \
                 CREATE UNLOGGED TABLE {table} (service text COLLATE \"C\" NOT NULL, \
                 kind text COLLATE \"C\" NOT NULL, id text COLLATE \"C\" NOT NULL, \
                 body bytea NOT NULL, revision bigint NOT NULL, digest bytea NOT NULL, \
                 source text COLLATE \"C\" NOT NULL, needs bigint NOT NULL, brought text NOT NULL, \
                 base bytea) WITH (autovacuum_enabled = false)",
                ms = allowed.as_millis(),
            ),
        )?;
        let rows = match self.address.prepared {
            true => copied(&session, &table, rows)?,
            false => inserted(&session, &table, rows)?,
        };
        // Not open to guesses: what is not there is found missing when it is taken over.
        session.batch(doing, &format!("ANALYZE {table}; COMMIT"))?;
        session.begin(
            doing,
            &format!(
                "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {HELD_MS}; \
                 LOCK TABLE {table} IN ACCESS SHARE MODE"
            ),
        )?;
        let held = Held {
            session: Some(session),
            handle: self.handle.clone(),
            table: table.clone(),
            place: Some(place),
        };
        Ok(Some(Staged { name: table, rows, _held: Box::new(held) }))
    }

    /// Drops the tables that nobody holds.
    pub(super) fn drop_left_behind(&self, session: &Session) -> Result<(), StoreError> {
        let doing = "dropping staging tables";
        let sql = "SELECT relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
                   WHERE n.nspname = $1 AND relkind = 'r' AND starts_with(relname, $2)";
        let values = [(&self.address.schema as _, Type::TEXT), (&PREFIX as _, Type::TEXT)];
        for row in session.query(doing, sql, &values)? {
            let table = format!("{}.{}", self.address.schema, get::<&str>(&row, 0)?);
            let dropped = session.begin(
                doing,
                &format!(
                    "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT; \
                     DROP TABLE {table}; COMMIT"
                ),
            );
            match dropped {
                Ok(()) => tracing::info!(table, "dropped what a large write left behind"),
                // In use, or another center was faster.
                Err(e) => {
                    tracing::debug!(table, error = %keepgate_observe::chain(&e), "not dropped");
                    if !session.roll_back() {
                        return Err(e);
                    }
                }
            }
        }
        Ok(())
    }
}

const TYPES: [Type; 10] = [
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::BYTEA,
    Type::INT8,
    Type::BYTEA,
    Type::TEXT,
    Type::INT8,
    Type::TEXT,
    Type::BYTEA,
];

fn copied(
    session: &Session,
    table: &str,
    rows: &mut dyn Iterator<Item = Row>,
) -> Result<usize, StoreError> {
    let sql = format!("COPY {table} FROM STDIN (FORMAT binary)");
    let copied = session.copy("copying items", &sql, &TYPES, async |mut to| {
        for row in rows {
            to.as_mut()
                .write(&[
                    &row.key.service,
                    &row.key.kind.as_str(),
                    &storable(&row.key.id).as_ref(),
                    &row.body,
                    &0_i64,
                    &row.digest.to_bytes().as_slice(),
                    &row.source,
                    &i64::from(row.needs),
                    &row.origin.brought.name(),
                    &row.origin.base_bytes(&row.key),
                ])
                .await?;
        }
        Ok(())
    })?;
    Ok(usize::try_from(copied).unwrap_or(usize::MAX))
}

/// The same where a copy, which is a prepared statement to the library, may not be.
fn inserted(
    session: &Session,
    table: &str,
    rows: &mut dyn Iterator<Item = Row>,
) -> Result<usize, StoreError> {
    let mut all = 0;
    loop {
        let some: Vec<Row> = (&mut *rows).take(ROWS).collect();
        if some.is_empty() {
            return Ok(all);
        }
        all += some.len();
        write_items(session, table, "", some.iter())?;
    }
}
