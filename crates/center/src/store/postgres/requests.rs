//! Rows of requests for access.

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::Type;

use super::super::requests::{body_of, state_of};
use super::super::values::{signed, sized};
use super::super::{RequestChange, RequestRow, RequestsOf, StoreError};
use super::rows::{get, number};
use super::session::{Session, Values};
use super::text::{readable, storable};

const READING: &str = "reading requests for access";
const WRITING: &str = "writing a request for access";
const COLUMNS: &str =
    "id, service, state, code, address, created_unix_s, changed_unix_s, told, body";

pub(super) fn find(session: &Session, of: RequestsOf<'_>) -> Result<Vec<RequestRow>, StoreError> {
    let limited = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    match of {
        RequestsOf::Code(code) => {
            read(session, "WHERE code = $1", &[(&code.as_slice(), Type::BYTEA)])
        }
        RequestsOf::One(service, id) => read(
            session,
            "WHERE id = $1 AND service = $2",
            &[(&id, Type::TEXT), (&service, Type::TEXT)],
        ),
        RequestsOf::Service(service, state, after, limit) => read(
            session,
            "WHERE service = $1 AND ($2::text IS NULL OR state = $2) AND id > $3 ORDER BY id LIMIT $4",
            &[
                (&service, Type::TEXT),
                (&state.map(|state| state.name()), Type::TEXT),
                (&after, Type::TEXT),
                (&limited(limit), Type::INT8),
            ],
        ),
        RequestsOf::Untold(limit) => read(
            session,
            "WHERE NOT told AND state = 'pending' ORDER BY id LIMIT $1",
            &[(&limited(limit), Type::INT8)],
        ),
    }
}

fn read(session: &Session, which: &str, values: Values<'_>) -> Result<Vec<RequestRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM requests {which}");
    let found = session.query(READING, &sql, values)?;
    let row = |row: &SqlRow| {
        Ok(RequestRow {
            id: get(row, 0)?,
            service: get(row, 1)?,
            state: state_of(get(row, 2)?)?,
            code_sha256: sized("the hash of a code", get(row, 3)?)?,
            address: get(row, 4)?,
            created_unix_s: number(row, 5)?,
            changed_unix_s: number(row, 6)?,
            told: get(row, 7)?,
            body: body_of(&readable(get(row, 8)?))?,
        })
    };
    found.iter().map(row).collect()
}

pub(super) fn change(session: &Session, change: &RequestChange) -> Result<bool, StoreError> {
    let run = |sql: &str, values: Values<'_>| session.execute(WRITING, sql, values);
    match change {
        RequestChange::Ask(row, bounds) => {
            let old = |age: u64| signed(row.created_unix_s.saturating_sub(age));
            run(
                "DELETE FROM requests WHERE state IN ('pending', 'approved') AND changed_unix_s < $1 \
                 OR changed_unix_s < $2",
                &[(&old(bounds.waits_s), Type::INT8), (&old(bounds.done_s), Type::INT8)],
            )?;
            run(
                "DELETE FROM requests WHERE state IN ('declined', 'fetched') AND id NOT IN (SELECT id \
                 FROM requests WHERE state IN ('declined', 'fetched') ORDER BY id DESC LIMIT $1)",
                &[(&i64::from(bounds.done), Type::INT8)],
            )?;
            let (text, created, changed) =
                (row.text(), signed(row.created_unix_s), signed(row.changed_unix_s));
            let asked = run(
                &format!(
                    "INSERT INTO requests ({COLUMNS}) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE \
                     (SELECT count(*) FROM requests WHERE state = 'pending') < $10 AND \
                     (SELECT count(*) FROM requests WHERE state = 'pending' AND service = $2) < $11 AND \
                     ($5 = '' OR (SELECT count(*) FROM requests WHERE state = 'pending' AND address = $5) \
                     < $12)"
                ),
                &[
                    (&row.id, Type::TEXT),
                    (&row.service, Type::TEXT),
                    (&row.state.name(), Type::TEXT),
                    (&row.code_sha256.as_slice(), Type::BYTEA),
                    (&row.address, Type::TEXT),
                    (&created, Type::INT8),
                    (&changed, Type::INT8),
                    (&row.told, Type::BOOL),
                    (&storable(&text), Type::TEXT),
                    (&i64::from(bounds.pending), Type::INT8),
                    (&i64::from(bounds.of_service), Type::INT8),
                    (&i64::from(bounds.of_address), Type::INT8),
                ],
            )?;
            Ok(asked > 0)
        }
        RequestChange::Put(row) => {
            let text = row.text();
            Ok(run(
                "UPDATE requests SET state = $2, changed_unix_s = $3, body = $4 WHERE id = $1",
                &[
                    (&row.id, Type::TEXT),
                    (&row.state.name(), Type::TEXT),
                    (&signed(row.changed_unix_s), Type::INT8),
                    (&storable(&text), Type::TEXT),
                ],
            )? > 0)
        }
        RequestChange::Told(id) => {
            Ok(run("UPDATE requests SET told = true WHERE id = $1", &[(id, Type::TEXT)])? > 0)
        }
    }
}
