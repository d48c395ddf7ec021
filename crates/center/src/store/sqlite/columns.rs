//! Columns that take more than a look: who brought an item, and the audit log.

use keepgate_policy::{ItemKey, Revision};
use rusqlite::Connection;

use super::super::{AuditRow, Brought, Origin, StoreError};
use super::failed;
use super::rows::unsigned;

/// Who brought an item, checked.
pub(super) fn origin_of(
    key: &ItemKey,
    brought: &str,
    base: Option<&[u8]>,
) -> Result<Origin, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt { what: format!("{key} has {what}") };
    let brought = Brought::from_name(brought).ok_or_else(|| corrupt("an unknown source"))?;
    let base = base
        .map(|bytes| Origin::base_of(key, bytes).ok_or_else(|| corrupt("a base that is damaged")))
        .transpose()?;
    Ok(Origin { brought, base })
}

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
