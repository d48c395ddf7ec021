//! Rows of the console's sessions.

use rusqlite::{Connection, Row, params};

use super::super::sessions::{person_of, person_text};
use super::super::values::{signed, sized};
use super::super::{SessionBounds, SessionChange, SessionRow, SessionsOf, StoreError};
use super::failed;
use super::rows::unsigned;

const COLUMNS: &str = "SELECT holder, person, created_unix_s, expires_unix_s, ends_unix_s, sha256 \
                       FROM sessions";

/// A row as read: the holder, who that is as JSON, the three times, the hash.
type Read = (String, String, [u64; 3], Vec<u8>);

pub(super) fn find(
    connection: &Connection,
    of: SessionsOf<'_>,
) -> Result<Vec<SessionRow>, StoreError> {
    let doing = "reading sessions";
    let read = |row: &Row<'_>| {
        let times = [unsigned(row, 2)?, unsigned(row, 3)?, unsigned(row, 4)?];
        Ok((row.get(0)?, row.get(1)?, times, row.get(5)?))
    };
    let all = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(&format!("{COLUMNS} {sql}"))
            .and_then(|mut statement| statement.query_map(values, read)?.collect())
            .map_err(failed(doing))
    };
    let found: Vec<Read> = match of {
        SessionsOf::Secret(sha256) => all("WHERE sha256 = ?1", &[sha256])?,
        SessionsOf::Good(now) => all(
            "WHERE expires_unix_s > ?1 ORDER BY holder, created_unix_s, sha256",
            &[&signed(now)],
        )?,
    };
    found
        .into_iter()
        .map(|(holder, person, [created_unix_s, expires_unix_s, ends_unix_s], sha256)| {
            let sha256 = sized("the hash of a session", &sha256)?;
            let person = person_of(&person)?;
            Ok(SessionRow { sha256, holder, person, created_unix_s, expires_unix_s, ends_unix_s })
        })
        .collect()
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
                "DELETE FROM sessions WHERE holder = ?1 AND sha256 NOT IN (SELECT sha256 FROM \
                 sessions WHERE holder = ?1 ORDER BY created_unix_s DESC, sha256 LIMIT ?2)",
                &[&row.holder, &i64::from(bounds.of_holder.saturating_sub(1))],
            )?;
            let begun = run(
                "INSERT INTO sessions (sha256, holder, person, created_unix_s, expires_unix_s, \
                 ends_unix_s) SELECT ?1, ?2, ?3, ?4, ?5, ?6 \
                 WHERE (SELECT count(*) FROM sessions) < ?7",
                &[
                    &row.sha256,
                    &row.holder,
                    &person_text(row.person.as_ref()),
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
        SessionChange::EndOf(holder) => end_of(connection, holder),
    }
}

/// Ends all sessions of a holder; false: there are none.
pub(super) fn end_of(connection: &Connection, holder: &str) -> Result<bool, StoreError> {
    connection
        .prepare_cached("DELETE FROM sessions WHERE holder = ?1")
        .and_then(|mut statement| statement.execute(params![holder]))
        .map(|ended| ended > 0)
        .map_err(failed("ending sessions"))
}
