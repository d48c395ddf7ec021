//! The one row that says which history a store holds, and in which state it is; and digests of rows.

use rusqlite::{Connection, params};

use super::super::values::{RawMeta, signed};
use super::super::{Meta, StoreError, Sum, SumRow};
use super::failed;
use super::rows::unsigned;

/// Writes it, with a digest of its own.
pub(super) fn write_meta(connection: &Connection, meta: &Meta) -> Result<(), StoreError> {
    let raw = RawMeta::of(meta);
    connection
        .execute(
            "INSERT INTO meta (one, history, key, state, why, witnessed, ancestors, timeline, \
             fresh, digest, authzen_together) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT (one) DO UPDATE SET history = ?1, key = ?2, state = ?3, why = ?4, \
             witnessed = ?5, ancestors = ?6, timeline = ?7, fresh = ?8, digest = ?9, \
             authzen_together = ?10",
            params![
                raw.history,
                raw.key,
                raw.state,
                raw.why,
                signed(raw.witnessed),
                raw.ancestors,
                raw.timeline,
                raw.fresh,
                raw.digest().to_bytes(),
                raw.authzen_together
            ],
        )
        .map(|_| ())
        .map_err(failed("writing the history"))
}

pub(super) fn read_meta(connection: &Connection) -> Result<Meta, StoreError> {
    let (raw, digest) = connection
        .prepare_cached(
            "SELECT history, key, state, why, witnessed, ancestors, timeline, fresh, digest, \
             authzen_together FROM meta",
        )
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                let raw = RawMeta {
                    history: row.get(0)?,
                    key: row.get(1)?,
                    state: row.get(2)?,
                    why: row.get(3)?,
                    witnessed: unsigned(row, 4)?,
                    ancestors: row.get(5)?,
                    timeline: row.get(6)?,
                    fresh: row.get(7)?,
                    authzen_together: row.get(9)?,
                };
                Ok((raw, row.get::<_, Vec<u8>>(8)?))
            })
        })
        .map_err(failed("reading the history"))?;
    raw.checked(&digest)
}

/// Digest and number of the rows of one sort.
pub(super) fn write_sum(connection: &Connection, of: Sum, row: SumRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO sums (name, digest, rows) VALUES (?1, ?2, ?3) \
             ON CONFLICT (name) DO UPDATE SET digest = ?2, rows = ?3",
        )
        .and_then(|mut statement| {
            statement.execute(params![of.name(), row.digest.to_bytes(), signed(row.rows)])
        })
        .map(|_| ())
        .map_err(failed("writing a digest"))
}
