//! Rows of the console's sessions.

use tokio_postgres::types::Type;

use super::super::values::{signed, sized};
use super::super::{SessionBounds, SessionChange, SessionRow, StoreError};
use super::session::{Session, Values};

pub(super) fn find(session: &Session, sha256: &[u8; 32]) -> Result<Option<SessionRow>, StoreError> {
    let sql = "SELECT sha256, token, created_unix_s, expires_unix_s, ends_unix_s FROM sessions \
               WHERE sha256 = $1";
    let found = session.query("reading a session", sql, &[(&sha256.as_slice(), Type::BYTEA)])?;
    let Some(row) = found.first() else { return Ok(None) };
    Ok(Some(SessionRow {
        sha256: sized("the hash of a session", super::get::<&[u8]>(row, 0)?)?,
        token: super::get(row, 1)?,
        created_unix_s: super::number(row, 2)?,
        expires_unix_s: super::number(row, 3)?,
        ends_unix_s: super::number(row, 4)?,
    }))
}

pub(super) fn change(
    session: &Session,
    change: &SessionChange,
    bounds: SessionBounds,
) -> Result<bool, StoreError> {
    let run = |sql: &str, values: Values<'_>| session.execute("writing a session", sql, values);
    match change {
        SessionChange::Begin(row) => {
            let (created, all) = (signed(row.created_unix_s), i64::from(bounds.all));
            let kept = i64::from(bounds.of_token.saturating_sub(1));
            run("DELETE FROM sessions WHERE expires_unix_s <= $1", &[(&created, Type::INT8)])?;
            run(
                "DELETE FROM sessions WHERE token = $1 AND sha256 NOT IN (SELECT sha256 FROM \
                 sessions WHERE token = $1 ORDER BY created_unix_s DESC, sha256 LIMIT $2)",
                &[(&row.token, Type::TEXT), (&kept, Type::INT8)],
            )?;
            let begun = run(
                "INSERT INTO sessions (sha256, token, created_unix_s, expires_unix_s, \
                 ends_unix_s) SELECT $1, $2, $3, $4, $5 \
                 WHERE (SELECT count(*) FROM sessions) < $6",
                &[
                    (&row.sha256.as_slice(), Type::BYTEA),
                    (&row.token, Type::TEXT),
                    (&created, Type::INT8),
                    (&signed(row.expires_unix_s), Type::INT8),
                    (&signed(row.ends_unix_s), Type::INT8),
                    (&all, Type::INT8),
                ],
            )?;
            Ok(begun > 0)
        }
        SessionChange::Extend(sha256, until) => Ok(run(
            "UPDATE sessions SET expires_unix_s = greatest(expires_unix_s, \
             least(ends_unix_s, $2)) WHERE sha256 = $1",
            &[(&sha256.as_slice(), Type::BYTEA), (&signed(*until), Type::INT8)],
        )? > 0),
        SessionChange::End(sha256) => {
            Ok(run("DELETE FROM sessions WHERE sha256 = $1", &[(&sha256.as_slice(), Type::BYTEA)])?
                > 0)
        }
    }
}

/// Ends all sessions of a token.
pub(super) fn end_of(session: &Session, token: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM sessions WHERE token = $1";
    session.execute("ending sessions", sql, &[(&token, Type::TEXT)]).map(|_| ())
}
