//! Rows of requests for access.

use rusqlite::{Connection, Row as SqlRow, params};

use super::super::requests::{body_of, state_of};
use super::super::values::signed;
use super::super::{RequestChange, RequestRow, RequestsOf, StoreError};
use super::failed;
use super::rows::unsigned;

const READING: &str = "reading requests for access";
const WRITING: &str = "writing a request for access";
const COLUMNS: &str =
    "id, service, state, code, address, created_unix_s, changed_unix_s, told, body";

pub(super) fn find(
    connection: &Connection,
    of: RequestsOf<'_>,
) -> Result<Vec<RequestRow>, StoreError> {
    let limited = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    match of {
        RequestsOf::Code(code) => read(connection, "WHERE code = ?1", params![code]),
        RequestsOf::One(service, id) => {
            read(connection, "WHERE id = ?1 AND service = ?2", params![id, service])
        }
        RequestsOf::Service(service, state, after, limit) => read(
            connection,
            "WHERE service = ?1 AND (?2 IS NULL OR state = ?2) AND id > ?3 ORDER BY id LIMIT ?4",
            params![service, state.map(|state| state.name()), after, limited(limit)],
        ),
        RequestsOf::Untold(limit) => read(
            connection,
            "WHERE told = 0 AND state = 'pending' ORDER BY id LIMIT ?1",
            params![limited(limit)],
        ),
    }
}

fn read(
    connection: &Connection,
    which: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<RequestRow>, StoreError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM requests {which}"))
        .map_err(failed(READING))?;
    let row = |row: &SqlRow<'_>| {
        let (state, body): (String, String) = (row.get(2)?, row.get(8)?);
        let (id, service, code_sha256) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let (created, changed) = (unsigned(row, 5)?, unsigned(row, 6)?);
        let (address, told) = (row.get(4)?, row.get(7)?);
        Ok(state_of(&state).and_then(|state| {
            Ok(RequestRow {
                id,
                service,
                state,
                code_sha256,
                address,
                created_unix_s: created,
                changed_unix_s: changed,
                told,
                body: body_of(&body)?,
            })
        }))
    };
    let rows = statement.query_map(values, row).map_err(failed(READING))?;
    rows.map(|row| row.map_err(failed(READING))?).collect()
}

pub(super) fn change(connection: &Connection, change: &RequestChange) -> Result<bool, StoreError> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(failed(WRITING))
    };
    match change {
        RequestChange::Ask(row, bounds) => {
            let old = |age: u64| signed(row.created_unix_s.saturating_sub(age));
            run(
                "DELETE FROM requests WHERE state IN ('pending', 'approved') AND changed_unix_s < ?1 \
                 OR changed_unix_s < ?2",
                &[&old(bounds.waits_s), &old(bounds.done_s)],
            )?;
            run(
                "DELETE FROM requests WHERE state IN ('declined', 'fetched') AND id NOT IN (SELECT id \
                 FROM requests WHERE state IN ('declined', 'fetched') ORDER BY id DESC LIMIT ?1)",
                &[&i64::from(bounds.done)],
            )?;
            let asked = run(
                &format!(
                    "INSERT INTO requests ({COLUMNS}) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE \
                     (SELECT count(*) FROM requests WHERE state = 'pending') < ?10 AND \
                     (SELECT count(*) FROM requests WHERE state = 'pending' AND service = ?2) < ?11 AND \
                     (?5 = '' OR (SELECT count(*) FROM requests WHERE state = 'pending' AND address = ?5) \
                     < ?12)"
                ),
                &[
                    &row.id,
                    &row.service,
                    &row.state.name(),
                    &row.code_sha256,
                    &row.address,
                    &signed(row.created_unix_s),
                    &signed(row.changed_unix_s),
                    &row.told,
                    &row.text(),
                    &i64::from(bounds.pending),
                    &i64::from(bounds.of_service),
                    &i64::from(bounds.of_address),
                ],
            )?;
            Ok(asked > 0)
        }
        RequestChange::Put(row) => Ok(run(
            "UPDATE requests SET state = ?2, changed_unix_s = ?3, body = ?4 WHERE id = ?1",
            &[&row.id, &row.state.name(), &signed(row.changed_unix_s), &row.text()],
        )? > 0),
        RequestChange::Told(id) => {
            Ok(run("UPDATE requests SET told = 1 WHERE id = ?1", &[id])? > 0)
        }
    }
}
