//! Rows of the keys with which access logs are signed, and of what was signed last.

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::Type;

use super::super::values::signed;
use super::super::{LogHeadRow, LogKeyRow, StoreError};
use super::rows::{get, number};
use super::session::{Session, Values};

const HEADS: &str = "SELECT log, token, gate, seq, chain, unix_ms FROM log_heads";

/// Bytes of a length that is known.
pub(super) fn bytes<const N: usize>(row: &SqlRow, column: usize) -> Result<[u8; N], StoreError> {
    let bytes: &[u8] = get(row, column)?;
    let what = || format!("{} bytes of an access log, expected {N}", bytes.len());
    bytes.try_into().map_err(|_| StoreError::Corrupt { what: what() })
}

/// All keys, the oldest first.
pub(super) fn keys(session: &Session) -> Result<Vec<LogKeyRow>, StoreError> {
    let sql = "SELECT id, seed, public, unix_ms FROM log_keys ORDER BY unix_ms, id";
    let found = session.query("reading the keys of access logs", sql, &[])?;
    let key = |row: &SqlRow| {
        let (id, unix_ms) = (get(row, 0)?, number(row, 3)?);
        Ok(LogKeyRow { id, seed: bytes(row, 1)?, public: bytes(row, 2)?, unix_ms })
    };
    found.iter().map(key).collect()
}

fn read(session: &Session, sql: &str, values: Values<'_>) -> Result<Vec<LogHeadRow>, StoreError> {
    let found = session.query("reading what was signed of access logs", sql, values)?;
    let head = |row: &SqlRow| {
        Ok(LogHeadRow {
            log: bytes(row, 0)?,
            token: get(row, 1)?,
            gate: get(row, 2)?,
            seq: number(row, 3)?,
            chain: bytes(row, 4)?,
            unix_ms: number(row, 5)?,
        })
    };
    found.iter().map(head).collect()
}

/// What was signed last of a log.
pub(super) fn head(session: &Session, log: &[u8; 16]) -> Result<Option<LogHeadRow>, StoreError> {
    let sql = format!("{HEADS} WHERE log = $1");
    Ok(read(session, &sql, &[(&log.as_slice(), Type::BYTEA)])?.pop())
}

/// The same of all logs, or of those of a token; the newest first.
pub(super) fn heads(
    session: &Session,
    token: Option<&str>,
    limit: usize,
) -> Result<Vec<LogHeadRow>, StoreError> {
    let sql =
        format!("{HEADS} WHERE $1::text IS NULL OR token = $1 ORDER BY unix_ms DESC, log LIMIT $2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    read(session, &sql, &[(&token, Type::TEXT), (&limit, Type::INT8)])
}

/// Adds a key.
pub(super) fn put_key(session: &Session, row: &LogKeyRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO log_keys (id, seed, public, unix_ms) VALUES ($1, $2, $3, $4)";
    let values: Values<'_> = &[
        (&row.id, Type::TEXT),
        (&row.seed.as_slice(), Type::BYTEA),
        (&row.public.as_slice(), Type::BYTEA),
        (&signed(row.unix_ms), Type::INT8),
    ];
    session.execute("writing a key of access logs", sql, values).map(|_| ())
}

/// Creates or replaces what was signed last of a log.
pub(super) fn put_head(session: &Session, row: &LogHeadRow) -> Result<(), StoreError> {
    let sql = "INSERT INTO log_heads (log, token, gate, seq, chain, unix_ms) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (log) DO UPDATE SET token = $2, \
               gate = $3, seq = $4, chain = $5, unix_ms = $6";
    let values: Values<'_> = &[
        (&row.log.as_slice(), Type::BYTEA),
        (&row.token, Type::TEXT),
        (&row.gate, Type::TEXT),
        (&signed(row.seq), Type::INT8),
        (&row.chain.as_slice(), Type::BYTEA),
        (&signed(row.unix_ms), Type::INT8),
    ];
    session.execute("writing what was signed of an access log", sql, values).map(|_| ())
}
