//! Rows of the audit log, written many at a time.

use tokio_postgres::types::Type;

use super::super::values::signed;
use super::super::{AuditRow, StoreError};
use super::session::Session;
use super::text::storable;

pub(super) fn write(session: &Session, rows: &[(i64, AuditRow)]) -> Result<(), StoreError> {
    let seqs: Vec<i64> = rows.iter().map(|(seq, _)| *seq).collect();
    let number = |of: fn(&AuditRow) -> u64| -> Vec<i64> {
        rows.iter().map(|(_, row)| signed(of(row))).collect()
    };
    fn texts(rows: &[(i64, AuditRow)], of: fn(&AuditRow) -> &String) -> Vec<&str> {
        rows.iter().map(|(_, row)| of(row).as_str()).collect()
    }
    fn optional<'a>(
        rows: &'a [(i64, AuditRow)],
        of: fn(&AuditRow) -> &Option<String>,
    ) -> Vec<Option<std::borrow::Cow<'a, str>>> {
        rows.iter().map(|(_, row)| of(row).as_deref().map(storable)).collect()
    }
    let ids: Vec<_> = rows.iter().map(|(_, row)| storable(&row.id)).collect();
    session
        .execute(
            "writing the audit log",
            "INSERT INTO audit (seq, revision, unix_ms, actor, action, service, kind, id, before, \
             after) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], \
             $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])",
            &[
                (&seqs, Type::INT8_ARRAY),
                (&number(|row| row.revision.0), Type::INT8_ARRAY),
                (&number(|row| row.unix_ms), Type::INT8_ARRAY),
                (&texts(rows, |row| &row.actor), Type::TEXT_ARRAY),
                (&texts(rows, |row| &row.action), Type::TEXT_ARRAY),
                (&texts(rows, |row| &row.service), Type::TEXT_ARRAY),
                (&texts(rows, |row| &row.kind), Type::TEXT_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&optional(rows, |row| &row.before), Type::TEXT_ARRAY),
                (&optional(rows, |row| &row.after), Type::TEXT_ARRAY),
            ],
        )
        .map(|_| ())
}
