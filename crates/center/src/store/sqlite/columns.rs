//! Columns of the audit log.

use keepgate_policy::Revision;
use rusqlite::Connection;

use super::super::{AuditRow, StoreError};
use super::failed;
use super::rows::unsigned;

/// What happened to the things of an id, the newest first.
pub(super) const OF_ID: &str = "WHERE id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

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

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    /// What happened to one item costs what there is of it, in a log of a million entries.
    #[test]
    fn the_log_of_an_item_is_entered_by_its_id() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::layout::create(&mut connection).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN SELECT seq, before FROM audit {OF_ID}");
        let values = params!["a", 7, 10];
        let plan: String = connection.query_row(&plan, values, |row| row.get(3)).unwrap();
        assert!(plan.contains("audit_by_id (id=? AND rowid<?)"), "{plan}");
    }
}
