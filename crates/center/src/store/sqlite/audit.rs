//! Rows of the audit log, and its chain.

use keepgate_policy::Revision;
use keepgate_record::AuditAnchor;
use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, params};

use super::super::values::signed;
use super::super::{AuditRow, AuditState, StoreError, audit, random};
use super::failed;
use super::rows::unsigned;

const READING: &str = "reading the audit log";
const WRITING: &str = "writing the audit log";
const COLUMNS: &str =
    "seq, revision, unix_ms, actor, action, service, kind, id, before, after, chain";
/// Entries of an earlier release that are chained at once.
const CHAINED: usize = 1_000;

/// What happened to the things of an id, the newest first.
pub(super) const OF_ID: &str = "WHERE id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

/// Rows of the audit log.
pub(super) fn audit_rows(
    connection: &Connection,
    which: &str,
    bound: &[&dyn rusqlite::ToSql],
) -> Result<Vec<AuditRow>, StoreError> {
    read(connection, which, bound, of_row)
}

/// The same in order after `seq`, with the chain after each.
pub(super) fn sealed(
    connection: &Connection,
    seq: u64,
    limit: usize,
) -> Result<Vec<(AuditRow, [u8; 32])>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let which = "WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    read(connection, which, params![signed(seq), limit], |row| Ok((of_row(row)?, row.get(10)?)))
}

fn read<T>(
    connection: &Connection,
    which: &str,
    bound: &[&dyn rusqlite::ToSql],
    of: impl FnMut(&SqlRow<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM audit {which}"))
        .map_err(failed(READING))?;
    let rows = statement.query_map(bound, of).map_err(failed(READING))?;
    rows.map(|row| row.map_err(failed(READING))).collect()
}

fn of_row(row: &SqlRow<'_>) -> rusqlite::Result<AuditRow> {
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
}

/// Where the log stands.
pub(super) fn state(connection: &Connection) -> Result<AuditState, StoreError> {
    let (mut state, anchor) = connection
        .prepare_cached("SELECT log, removed_through, chain, anchor FROM audit_log")
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                let (log, removed_through) = (row.get(0)?, unsigned(row, 1)?);
                let (chain, text): (_, String) = (row.get(2)?, row.get(3)?);
                let (seq, removed_chain, anchor) = (removed_through, chain, None);
                Ok((AuditState { log, removed_through, removed_chain, seq, chain, anchor }, text))
            })
        })
        .map_err(failed(READING))?;
    state.anchor = audit::anchor_of(&anchor)?;
    if let Some((seq, chain)) = last(connection)? {
        (state.seq, state.chain) = (seq, chain);
    }
    Ok(state)
}

fn last(connection: &Connection) -> Result<Option<(u64, [u8; 32])>, StoreError> {
    connection
        .prepare_cached("SELECT seq, chain FROM audit ORDER BY seq DESC LIMIT 1")
        .and_then(|mut statement| {
            let row = statement.query_row([], |row| Ok((unsigned(row, 0)?, row.get(1)?)));
            row.optional()
        })
        .map_err(failed(READING))
}

/// Adds an entry behind the last one. `from`: where the log was before the first one of a transaction.
pub(super) fn write(
    connection: &Connection,
    row: &AuditRow,
    from: &mut Option<(u64, [u8; 32])>,
) -> Result<(), StoreError> {
    let at = match last(connection)? {
        Some(last) => last,
        None => {
            let state = state(connection)?;
            (state.seq, state.chain)
        }
    };
    from.get_or_insert(at);
    let (seq, chain) = row.linked(at);
    let AuditRow { revision, unix_ms, actor, action, service, kind, id, before, after, .. } = row;
    connection
        .prepare_cached(&format!(
            "INSERT INTO audit ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        ))
        .and_then(|mut statement| {
            statement.execute(params![
                signed(seq),
                signed(revision.0),
                signed(*unix_ms),
                actor,
                action,
                service,
                kind,
                id,
                before,
                after,
                chain
            ])
        })
        .map(|_| ())
        .map_err(failed(WRITING))
}

/// Removes what is older than the last so many entries, and notes where the log begins then.
pub(super) fn keep(connection: &Connection, rows: u64) -> Result<(), StoreError> {
    let older = "seq <= (SELECT coalesce(max(seq), 0) FROM audit) - ?1";
    let note = format!(
        "UPDATE audit_log SET removed_through = cut.seq, chain = cut.chain \
         FROM (SELECT seq, chain FROM audit WHERE {older} ORDER BY seq DESC LIMIT 1) AS cut"
    );
    for sql in [note, format!("DELETE FROM audit WHERE {older}")] {
        connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.execute(params![signed(rows)]))
            .map_err(failed(WRITING))?;
    }
    Ok(())
}

/// Goes on with a log of which entries up to `through` are elsewhere.
pub(super) fn begin(
    connection: &Connection,
    log: &[u8; 16],
    through: u64,
    chain: &[u8; 32],
) -> Result<(), StoreError> {
    if last(connection)?.is_some() {
        return Err(audit::has_begun());
    }
    connection
        .execute(
            "INSERT INTO audit_log (one, log, removed_through, chain, anchor) VALUES (1, ?1, ?2, ?3, '') \
             ON CONFLICT (one) DO UPDATE SET log = ?1, removed_through = ?2, chain = ?3, anchor = ''",
            params![log, signed(through), chain],
        )
        .map(|_| ())
        .map_err(failed(WRITING))
}

/// Keeps what was signed.
pub(super) fn put_anchor(connection: &Connection, anchor: &AuditAnchor) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE audit_log SET anchor = ?1")
        .and_then(|mut statement| statement.execute(params![audit::anchor_text(anchor)]))
        .map(|_| ())
        .map_err(failed(WRITING))
}

/// A new log, of the entries that are there.
pub(super) fn chain_all(connection: &Connection) -> Result<(), StoreError> {
    let log = random()?;
    let first: Option<i64> = connection
        .query_row("SELECT min(seq) FROM audit", [], |row| row.get(0))
        .map_err(failed(READING))?;
    let mut at =
        (super::super::values::unsigned(first.unwrap_or(1)).saturating_sub(1), audit::first(&log));
    connection
        .execute(
            "INSERT INTO audit_log (one, log, removed_through, chain, anchor) VALUES (1, ?1, ?2, ?3, '')",
            params![log, signed(at.0), at.1],
        )
        .map_err(failed(WRITING))?;
    loop {
        let limit = i64::try_from(CHAINED).unwrap_or(i64::MAX);
        let bound = params![signed(at.0), limit];
        let rows = audit_rows(connection, "WHERE seq > ?1 ORDER BY seq LIMIT ?2", bound)?;
        for row in &rows {
            at = row.linked((row.seq.saturating_sub(1), at.1));
            connection
                .prepare_cached("UPDATE audit SET chain = ?1 WHERE seq = ?2")
                .and_then(|mut statement| statement.execute(params![at.1, signed(at.0)]))
                .map_err(failed(WRITING))?;
        }
        if rows.len() < CHAINED {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happened to one item costs what there is of it, in a log of a million entries.
    #[test]
    fn the_log_of_an_item_is_entered_by_its_id() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::layout::create(&mut connection).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN SELECT seq, before FROM audit {OF_ID}");
        let values = params!["a", 7, 10];
        let plan: String = connection.query_row(&plan, values, |row| row.get(3)).unwrap();
        assert!(plan.contains("audit_by_id (id=? AND rowid<?)"), "{plan}");
    }
}
