//! Rows of the console's sessions.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::values::{signed, sized};
use super::super::{SessionBounds, SessionChange, SessionRow, StoreError};
use super::failed;
use super::rows::unsigned;

pub(super) fn find(
    connection: &Connection,
    sha256: &[u8; 32],
) -> Result<Option<SessionRow>, StoreError> {
    let doing = "reading a session";
    let found = connection
        .prepare_cached(
            "SELECT sha256, token, created_unix_s, expires_unix_s, ends_unix_s FROM sessions \
             WHERE sha256 = ?1",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![sha256], |row| {
                    let sha256: Vec<u8> = row.get(0)?;
                    let times = (unsigned(row, 2)?, unsigned(row, 3)?, unsigned(row, 4)?);
                    Ok((sha256, row.get::<_, String>(1)?, times))
                })
                .optional()
        })
        .map_err(failed(doing))?;
    let Some((sha256, token, (created_unix_s, expires_unix_s, ends_unix_s))) = found else {
        return Ok(None);
    };
    let sha256 = sized("the hash of a session", &sha256)?;
    Ok(Some(SessionRow { sha256, token, created_unix_s, expires_unix_s, ends_unix_s }))
}

pub(super) fn change(
    connection: &Connection,
    change: &SessionChange,
    bounds: SessionBounds,
) -> Result<bool, StoreError> {
    let doing = "writing a session";
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(failed(doing))
    };
    match change {
        SessionChange::Begin(row) => {
            run("DELETE FROM sessions WHERE expires_unix_s <= ?1", &[&signed(row.created_unix_s)])?;
            run(
                "DELETE FROM sessions WHERE token = ?1 AND sha256 NOT IN (SELECT sha256 FROM \
                 sessions WHERE token = ?1 ORDER BY created_unix_s DESC, sha256 LIMIT ?2)",
                &[&row.token, &i64::from(bounds.of_token.saturating_sub(1))],
            )?;
            let begun = run(
                "INSERT INTO sessions (sha256, token, created_unix_s, expires_unix_s, ends_unix_s) \
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT count(*) FROM sessions) < ?6",
                &[
                    &row.sha256,
                    &row.token,
                    &signed(row.created_unix_s),
                    &signed(row.expires_unix_s),
                    &signed(row.ends_unix_s),
                    &i64::from(bounds.all),
                ],
            )?;
            Ok(begun > 0)
        }
        SessionChange::Extend(sha256, until) => Ok(run(
            "UPDATE sessions SET expires_unix_s = max(expires_unix_s, min(ends_unix_s, ?2)) \
             WHERE sha256 = ?1",
            &[sha256, &signed(*until)],
        )? > 0),
        SessionChange::End(sha256) => {
            Ok(run("DELETE FROM sessions WHERE sha256 = ?1", &[sha256])? > 0)
        }
    }
}

/// Ends all sessions of a token.
pub(super) fn end_of(connection: &Connection, token: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM sessions WHERE token = ?1")
        .and_then(|mut statement| statement.execute(params![token]))
        .map(|_| ())
        .map_err(failed("ending the sessions of a token"))
}
