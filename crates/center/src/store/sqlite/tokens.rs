//! Rows of tokens.

use rusqlite::{Connection, Row as SqlRow, params};

use super::super::values::signed;
use super::super::{StoreError, TokenRow, TokenUse};
use super::failed;
use super::rows::unsigned;
use crate::token::Role;

const TOKENS: &str = "SELECT id, role, service, sha256, note, created_unix_s, \
    last_used_unix_s, revoked_unix_s, expires_unix_s, last_used_from FROM tokens ORDER BY id";

/// All tokens, by id.
pub(super) fn all(connection: &Connection) -> Result<Vec<TokenRow>, StoreError> {
    let doing = "reading tokens";
    let mut statement = connection.prepare_cached(TOKENS).map_err(failed(doing))?;
    let rows = statement.query_map([], token_row).map_err(failed(doing))?;
    rows.map(|row| row.map_err(failed(doing))?).collect()
}

/// Creates or replaces a token; what is noted of a later use stays.
pub(super) fn write(connection: &Connection, row: &TokenRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO tokens (id, role, service, sha256, note, created_unix_s, \
             last_used_unix_s, revoked_unix_s, expires_unix_s, last_used_from) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT (id) DO UPDATE SET role = ?2, service = ?3, sha256 = ?4, note = ?5, \
             created_unix_s = ?6, revoked_unix_s = ?8, expires_unix_s = ?9, \
             last_used_unix_s = nullif(max(coalesce(last_used_unix_s, -1), coalesce(?7, -1)), -1), \
             last_used_from = CASE WHEN coalesce(last_used_unix_s, -1) > coalesce(?7, -1) \
             THEN last_used_from ELSE ?10 END",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                row.id,
                row.role.name(),
                row.service,
                row.sha256,
                row.note,
                signed(row.created_unix_s),
                row.last_used_unix_s.map(signed),
                row.revoked_unix_s.map(signed),
                row.expires_unix_s.map(signed),
                row.last_used_from
            ])
        })
        .map(|_| ())
        .map_err(failed("writing a token"))
}

/// Notes when tokens were used last, and from where.
pub(super) fn touch(connection: &Connection, used: &[TokenUse]) -> Result<(), StoreError> {
    let doing = "noting token use";
    let mut statement = connection
        .prepare_cached(
            "UPDATE tokens SET last_used_unix_s = ?2, last_used_from = ?3 \
             WHERE id = ?1 AND coalesce(last_used_unix_s, 0) <= ?2",
        )
        .map_err(failed(doing))?;
    for TokenUse { id, unix_s, from } in used {
        statement.execute(params![id, signed(*unix_s), from]).map_err(failed(doing))?;
    }
    Ok(())
}

fn token_row(row: &SqlRow<'_>) -> rusqlite::Result<Result<TokenRow, StoreError>> {
    let (id, role): (String, String) = (row.get(0)?, row.get(1)?);
    let Some(role) = Role::from_name(&role) else {
        return Ok(Err(StoreError::Corrupt { what: format!("token `{id}` has role `{role}`") }));
    };
    Ok(Ok(TokenRow {
        id,
        role,
        service: row.get(2)?,
        sha256: row.get(3)?,
        note: row.get(4)?,
        created_unix_s: unsigned(row, 5)?,
        last_used_unix_s: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
        revoked_unix_s: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
        expires_unix_s: row.get::<_, Option<i64>>(8)?.map(i64::unsigned_abs),
        last_used_from: row.get(9)?,
    }))
}
