//! Rows of the console's sessions.

use tokio_postgres::types::Type;

use super::super::sessions::{person_of, person_text};
use super::super::values::{signed, sized};
use super::super::{SessionBounds, SessionChange, SessionRow, SessionsOf, StoreError};
use super::session::{Session, Values};

pub(super) fn find(session: &Session, of: SessionsOf<'_>) -> Result<Vec<SessionRow>, StoreError> {
    const COLUMNS: &str = "SELECT holder, person, created_unix_s, expires_unix_s, ends_unix_s, \
                           sha256 FROM sessions";
    let all = |sql: &str, values: Values<'_>| {
        session.query("reading sessions", &format!("{COLUMNS} {sql}"), values)
    };
    let found = match of {
        SessionsOf::Secret(sha256) => {
            all("WHERE sha256 = $1", &[(&sha256.as_slice(), Type::BYTEA)])?
        }
        SessionsOf::Good(now) => all(
            "WHERE expires_unix_s > $1 ORDER BY holder, created_unix_s, sha256",
            &[(&signed(now), Type::INT8)],
        )?,
    };
    let read = |row| {
        Ok(SessionRow {
            holder: super::get(row, 0)?,
            person: person_of(super::get(row, 1)?)?,
            created_unix_s: super::number(row, 2)?,
            expires_unix_s: super::number(row, 3)?,
            ends_unix_s: super::number(row, 4)?,
            sha256: sized("the hash of a session", super::get::<&[u8]>(row, 5)?)?,
        })
    };
    found.iter().map(read).collect()
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
            let kept = i64::from(bounds.of_holder.saturating_sub(1));
            run("DELETE FROM sessions WHERE expires_unix_s <= $1", &[(&created, Type::INT8)])?;
            run(
                "DELETE FROM sessions WHERE holder = $1 AND sha256 NOT IN (SELECT sha256 FROM \
                 sessions WHERE holder = $1 ORDER BY created_unix_s DESC, sha256 LIMIT $2)",
                &[(&row.holder, Type::TEXT), (&kept, Type::INT8)],
            )?;
            let begun = run(
                "INSERT INTO sessions (sha256, holder, person, created_unix_s, expires_unix_s, \
                 ends_unix_s) SELECT $1, $2, $3, $4, $5, $6 \
                 WHERE (SELECT count(*) FROM sessions) < $7",
                &[
                    (&row.sha256.as_slice(), Type::BYTEA),
                    (&row.holder, Type::TEXT),
                    (&person_text(row.person.as_ref()), Type::TEXT),
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
        SessionChange::EndOf(holder) => end_of(session, holder),
    }
}

/// Ends all sessions of a holder; false: there are none.
pub(super) fn end_of(session: &Session, holder: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM sessions WHERE holder = $1";
    Ok(session.execute("ending sessions", sql, &[(&holder, Type::TEXT)])? > 0)
}
