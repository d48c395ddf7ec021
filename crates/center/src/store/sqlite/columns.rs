//! Columns of the audit log.

use keepgate_policy::Revision;
use rusqlite::Connection;

use super::super::{AuditRow, StoreError};
use super::failed;
use super::rows::unsigned;

/// Rows of the audit log.
pub(super) fn audit_rows(
    connection: &Connection,
    which: &str,
    bound: &[&dyn rusqlite::ToSql],
) -> Result<Vec<AuditRow>, StoreError> {
    let doing = "reading the audit log";
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT seq, revision, unix_ms, actor, action, service, kind, id, before, after \
             FROM audit {which}"
        ))
        .map_err(failed(doing))?;
    let rows = statement
        .query_map(bound, |row| {
            Ok(AuditRow {
                seq: unsigned(row, 0)?,
                revision: Revision(unsigned(row, 1)?),
                unix_ms: unsigned(row, 2)?,
                actor: row.get(3)?,
                action: row.get(4)?,
                service: row.get(5)?,
                kind: row.get(6)?,
                id: row.get(7)?,
                before: row.get(8)?,
                after: row.get(9)?,
            })
        })
        .map_err(failed(doing))?;
    rows.map(|row| row.map_err(failed(doing))).collect()
}
