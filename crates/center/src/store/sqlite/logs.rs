//! Rows of the keys with which access logs are signed, and of what was signed last.

use rusqlite::{Connection, Row as SqlRow, params};

use super::super::values::signed;
use super::super::{LogHeadRow, LogKeyRow, StoreError};
use super::failed;
use super::rows::unsigned;

const HEADS: &str = "SELECT log, token, gate, seq, chain, unix_ms FROM log_heads";

/// All keys, the oldest first.
pub(super) fn keys(connection: &Connection) -> Result<Vec<LogKeyRow>, StoreError> {
    let doing = "reading the keys of access logs";
    let mut statement = connection
        .prepare_cached("SELECT id, seed, public, unix_ms FROM log_keys ORDER BY unix_ms, id")
        .map_err(failed(doing))?;
    let row = |row: &SqlRow<'_>| {
        let (id, unix_ms) = (row.get(0)?, unsigned(row, 3)?);
        Ok(LogKeyRow { id, seed: row.get(1)?, public: row.get(2)?, unix_ms })
    };
    let rows = statement.query_map([], row).map_err(failed(doing))?;
    rows.map(|row| row.map_err(failed(doing))).collect()
}

/// What was signed last of a log.
pub(super) fn head(
    connection: &Connection,
    log: &[u8; 16],
) -> Result<Option<LogHeadRow>, StoreError> {
    let which = format!("{HEADS} WHERE log = ?1");
    Ok(read(connection, &which, params![log])?.pop())
}

/// The same of all logs, or of those of a token; the newest first.
pub(super) fn heads(
    connection: &Connection,
    token: Option<&str>,
    limit: usize,
) -> Result<Vec<LogHeadRow>, StoreError> {
    let which =
        format!("{HEADS} WHERE ?1 IS NULL OR token = ?1 ORDER BY unix_ms DESC, log LIMIT ?2");
    read(connection, &which, params![token, i64::try_from(limit).unwrap_or(i64::MAX)])
}

fn read(
    connection: &Connection,
    sql: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<LogHeadRow>, StoreError> {
    let doing = "reading what was signed of access logs";
    let mut statement = connection.prepare_cached(sql).map_err(failed(doing))?;
    let row = |row: &SqlRow<'_>| {
        let (seq, unix_ms) = (unsigned(row, 3)?, unsigned(row, 5)?);
        let (log, token, gate, chain) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(4)?);
        Ok(LogHeadRow { log, token, gate, seq, chain, unix_ms })
    };
    let rows = statement.query_map(values, row).map_err(failed(doing))?;
    rows.map(|row| row.map_err(failed(doing))).collect()
}

/// Adds a key.
pub(super) fn put_key(connection: &Connection, row: &LogKeyRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO log_keys (id, seed, public, unix_ms) VALUES (?1, ?2, ?3, ?4)";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![row.id, row.seed, row.public, signed(row.unix_ms)])
        })
        .map(|_| ())
        .map_err(failed("writing a key of access logs"))
}

/// Creates or replaces what was signed last of a log.
pub(super) fn put_head(connection: &Connection, row: &LogHeadRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO log_heads (log, token, gate, seq, chain, unix_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (log) DO UPDATE SET token = ?2, \
               gate = ?3, seq = ?4, chain = ?5, unix_ms = ?6";
    let LogHeadRow { log, token, gate, seq, chain, unix_ms } = row;
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![log, token, gate, signed(*seq), chain, signed(*unix_ms)])
        })
        .map(|_| ())
        .map_err(failed("writing what was signed of an access log"))
}
