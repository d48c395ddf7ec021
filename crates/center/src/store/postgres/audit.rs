//! Rows of the audit log, written many at a time, and its chain.

use keepgate_record::AuditAnchor;
use tokio_postgres::types::Type;

use super::super::values::signed;
use super::super::{AuditRow, AuditState, StoreError, audit, random};
use super::logs::bytes;
use super::rows::{AUDIT, audit_row, get, number};
use super::session::Session;
use super::text::storable;

const READING: &str = "reading the audit log";
const WRITING: &str = "writing the audit log";
/// Entries of an earlier release that are chained at once.
const CHAINED: usize = 1_000;

pub(super) fn write(
    session: &Session,
    rows: &[(i64, AuditRow, [u8; 32])],
) -> Result<(), StoreError> {
    let seqs: Vec<i64> = rows.iter().map(|(seq, ..)| *seq).collect();
    let number = |of: fn(&AuditRow) -> u64| -> Vec<i64> {
        rows.iter().map(|(_, row, _)| signed(of(row))).collect()
    };
    fn texts(rows: &[(i64, AuditRow, [u8; 32])], of: fn(&AuditRow) -> &String) -> Vec<&str> {
        rows.iter().map(|(_, row, _)| of(row).as_str()).collect()
    }
    fn optional<'a>(
        rows: &'a [(i64, AuditRow, [u8; 32])],
        of: fn(&AuditRow) -> &Option<String>,
    ) -> Vec<Option<std::borrow::Cow<'a, str>>> {
        rows.iter().map(|(_, row, _)| of(row).as_deref().map(storable)).collect()
    }
    let chains: Vec<&[u8]> = rows.iter().map(|(.., chain)| chain.as_slice()).collect();
    let ids: Vec<_> = rows.iter().map(|(_, row, _)| storable(&row.id)).collect();
    session
        .execute(
            WRITING,
            "INSERT INTO audit (seq, revision, unix_ms, actor, action, service, kind, id, before, \
             after, chain) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], \
             $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])",
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
                (&chains, Type::BYTEA_ARRAY),
            ],
        )
        .map(|_| ())
}

/// The last entry, and the chain there; where the log begins, if there is none.
pub(super) fn last(session: &Session) -> Result<(u64, [u8; 32]), StoreError> {
    let state = state(session)?;
    Ok((state.seq, state.chain))
}

/// Where the log stands.
pub(super) fn state(session: &Session) -> Result<AuditState, StoreError> {
    let row = session.one(
        READING,
        "SELECT l.log, l.removed_through, l.chain, l.anchor, coalesce(a.seq, l.removed_through), \
         coalesce(a.chain, l.chain) FROM audit_log l \
         LEFT JOIN (SELECT seq, chain FROM audit ORDER BY seq DESC LIMIT 1) a ON true",
        &[],
    )?;
    let anchor: &str = get(&row, 3)?;
    Ok(AuditState {
        log: bytes(&row, 0)?,
        removed_through: number(&row, 1)?,
        removed_chain: bytes(&row, 2)?,
        seq: number(&row, 4)?,
        chain: bytes(&row, 5)?,
        anchor: audit::anchor_of(anchor)?,
    })
}

/// Goes on with a log of which entries up to `through` are elsewhere.
pub(super) fn begin(
    session: &Session,
    log: &[u8; 16],
    through: u64,
    chain: &[u8; 32],
) -> Result<(), StoreError> {
    let begun = session.execute(
        WRITING,
        "INSERT INTO audit_log (one, log, removed_through, chain, anchor) SELECT 1, $1, $2, $3, '' \
         WHERE NOT EXISTS (SELECT FROM audit) ON CONFLICT (one) DO UPDATE SET log = $1, \
         removed_through = $2, chain = $3, anchor = ''",
        &[
            (&log.as_slice(), Type::BYTEA),
            (&signed(through), Type::INT8),
            (&chain.as_slice(), Type::BYTEA),
        ],
    )?;
    if begun == 0 { Err(audit::has_begun()) } else { Ok(()) }
}

/// Keeps what was signed.
pub(super) fn put_anchor(session: &Session, anchor: &AuditAnchor) -> Result<(), StoreError> {
    let text = audit::anchor_text(anchor);
    let sql = "UPDATE audit_log SET anchor = $1";
    session.execute(WRITING, sql, &[(&text, Type::TEXT)]).map(|_| ())
}

/// A new log, of the entries that are there.
pub(super) fn chain_all(session: &Session) -> Result<(), StoreError> {
    let log = random()?;
    let sql = "SELECT coalesce(min(seq), 1) FROM audit";
    let first = number(&session.one(READING, sql, &[])?, 0)?;
    let mut at = (first.saturating_sub(1), audit::first(&log));
    session.execute(
        WRITING,
        "INSERT INTO audit_log (one, log, removed_through, chain, anchor) VALUES (1, $1, $2, $3, '')",
        &[
            (&log.as_slice(), Type::BYTEA),
            (&signed(at.0), Type::INT8),
            (&at.1.as_slice(), Type::BYTEA),
        ],
    )?;
    let limit = i64::try_from(CHAINED).unwrap_or(i64::MAX);
    loop {
        let sql = format!("{AUDIT} WHERE seq > $1 ORDER BY seq LIMIT $2");
        let found =
            session.query(READING, &sql, &[(&signed(at.0), Type::INT8), (&limit, Type::INT8)])?;
        let (mut seqs, mut chains) = (Vec::new(), Vec::new());
        for row in &found {
            let row = audit_row(row)?;
            at = row.linked((row.seq.saturating_sub(1), at.1));
            seqs.push(signed(at.0));
            chains.push(at.1.to_vec());
        }
        session.execute(
            WRITING,
            "UPDATE audit SET chain = new.chain FROM unnest($1::bigint[], $2::bytea[]) \
             AS new (seq, chain) WHERE audit.seq = new.seq",
            &[(&seqs, Type::INT8_ARRAY), (&chains, Type::BYTEA_ARRAY)],
        )?;
        if found.len() < CHAINED {
            return Ok(());
        }
    }
}

/// Entries in order after `seq`, with the chain after each.
pub(super) fn sealed(
    session: &Session,
    seq: u64,
    limit: usize,
) -> Result<Vec<(AuditRow, [u8; 32])>, StoreError> {
    let sql = format!("{AUDIT} WHERE seq > $1 ORDER BY seq LIMIT $2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found =
        session.query(READING, &sql, &[(&signed(seq), Type::INT8), (&limit, Type::INT8)])?;
    found.iter().map(|row| Ok((audit_row(row)?, bytes(row, 10)?))).collect()
}
