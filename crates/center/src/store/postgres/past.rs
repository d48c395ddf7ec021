//! The rows of the past.

use keepgate_policy::Revision;
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::Type;

use super::super::past::{DROPPED, Engine, Following};
use super::super::values::{digest_of, signed};
use super::super::{PastHead, PastItem, PastRow, StoreError};
use super::rows::{get, key_of, number};
use super::session::{Session, Values};
use super::text::storable;

const DOING: &str = "reading the past";

/// Rows of a page; each may have a MiB.
const PAGE: i64 = 64;

pub(super) fn head(session: &Session) -> Result<PastHead, StoreError> {
    let row = session.one(DOING, "SELECT oldest, through, bytes FROM past_head", &[])?;
    let (oldest, through) = (Revision(number(&row, 0)?), Revision(number(&row, 1)?));
    Ok(PastHead { oldest, through, bytes: number(&row, 2)? })
}

pub(super) fn write(session: &Session, rows: &[PastRow]) -> Result<(), StoreError> {
    let revisions: Vec<i64> = rows.iter().map(|row| signed(row.revision.0)).collect();
    let services: Vec<&str> = rows.iter().map(|row| row.key.service.as_str()).collect();
    let kinds: Vec<&str> = rows.iter().map(|row| row.key.kind.as_str()).collect();
    let ids: Vec<_> = rows.iter().map(|row| storable(&row.key.id)).collect();
    let before = || rows.iter().map(|row| row.before.as_ref());
    let bodies: Vec<Option<&[u8]>> =
        before().map(|before| before.map(|before| before.body.as_slice())).collect();
    let digests: Vec<Option<Vec<u8>>> =
        before().map(|before| before.map(|before| before.digest.to_bytes().to_vec())).collect();
    let sinces: Vec<i64> =
        before().map(|before| signed(before.map_or(0, |before| before.since.0))).collect();
    let bytes: Vec<i64> = rows.iter().map(|row| signed(row.bytes())).collect();
    session
        .execute(
            "writing the past",
            "INSERT INTO past (revision, service, kind, id, body, digest, since, bytes) \
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], \
             $6::bytea[], $7::bigint[], $8::bigint[])",
            &[
                (&revisions, Type::INT8_ARRAY),
                (&services, Type::TEXT_ARRAY),
                (&kinds, Type::TEXT_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&bodies, Type::BYTEA_ARRAY),
                (&digests, Type::BYTEA_ARRAY),
                (&sinces, Type::INT8_ARRAY),
                (&bytes, Type::INT8_ARRAY),
            ],
        )
        .map(|_| ())
}

pub(super) fn after(
    session: &Session,
    revision: Revision,
    visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let sql = "SELECT revision, service, kind, id, body, digest, since FROM past \
               WHERE (revision, service, kind, id) > ($1, $2, $3, $4) \
               ORDER BY revision, service, kind, id LIMIT $5";
    // No row has an empty kind: all of the next revision come after this.
    let mut at =
        (signed(revision.0.saturating_add(1)), String::new(), String::new(), String::new());
    loop {
        let page = session.query(
            DOING,
            sql,
            &[
                (&at.0, Type::INT8),
                (&at.1, Type::TEXT),
                (&at.2, Type::TEXT),
                (&at.3, Type::TEXT),
                (&PAGE, Type::INT8),
            ],
        )?;
        for row in &page {
            if !visit(past_row(row)?)? {
                return Ok(());
            }
        }
        match page.last() {
            Some(last) if page.len() as i64 == PAGE => {
                at = (get(last, 0)?, get(last, 1)?, get(last, 2)?, get(last, 3)?);
            }
            _ => return Ok(()),
        }
    }
}

fn past_row(row: &SqlRow) -> Result<PastRow, StoreError> {
    let (body, digest): (Option<Vec<u8>>, Option<Vec<u8>>) = (get(row, 4)?, get(row, 5)?);
    let before = match (body, digest) {
        (Some(body), Some(digest)) => {
            Some(PastItem { body, digest: digest_of(&digest)?, since: Revision(number(row, 6)?) })
        }
        _ => None,
    };
    Ok(PastRow { revision: Revision(number(row, 0)?), key: key_of(row, 1)?, before })
}

/// The past as a write transaction keeps it.
pub(super) struct Kept<'a>(pub(super) &'a Session);

impl Engine for Kept<'_> {
    fn standing(&self) -> Result<(PastHead, Option<Following>), StoreError> {
        // In one round trip.
        let row = self.0.one(
            DOING,
            "SELECT oldest, through, bytes, next.revision, next.unix_ms, \
             (SELECT coalesce(sum(bytes), 0)::bigint FROM past \
             WHERE past.revision > oldest AND past.revision <= next.revision) \
             FROM past_head LEFT JOIN LATERAL (SELECT revision, unix_ms FROM revisions \
             WHERE revision > oldest ORDER BY revision LIMIT 1) AS next ON true",
            &[],
        )?;
        let (oldest, through) = (Revision(number(&row, 0)?), Revision(number(&row, 1)?));
        let head = PastHead { oldest, through, bytes: number(&row, 2)? };
        let next = match get::<Option<i64>>(&row, 3)? {
            None => None,
            Some(_) => Some(Following {
                revision: Revision(number(&row, 3)?),
                unix_ms: number(&row, 4)?,
                bytes: number(&row, 5)?,
            }),
        };
        Ok((head, next))
    }

    fn set_past_head(&self, head: &PastHead) -> Result<(), StoreError> {
        let values: Values<'_> = &[
            (&signed(head.oldest.0), Type::INT8),
            (&signed(head.through.0), Type::INT8),
            (&signed(head.bytes), Type::INT8),
        ];
        let sql = "UPDATE past_head SET oldest = $1, through = $2, bytes = $3";
        self.0.execute("writing the past", sql, values).map(|_| ())
    }

    fn following(&self, after: Revision) -> Result<Option<Following>, StoreError> {
        let found = self.0.query(
            DOING,
            "SELECT revision, unix_ms, (SELECT coalesce(sum(bytes), 0)::bigint FROM past \
             WHERE past.revision > $1 AND past.revision <= revisions.revision) \
             FROM revisions WHERE revision > $1 ORDER BY revision LIMIT 1",
            &[(&signed(after.0), Type::INT8)],
        )?;
        let Some(row) = found.first() else { return Ok(None) };
        let revision = Revision(number(row, 0)?);
        Ok(Some(Following { revision, unix_ms: number(row, 1)?, bytes: number(row, 2)? }))
    }

    fn drop_past(&self, through: Revision) -> Result<(), StoreError> {
        let values: Values<'_> = &[(&signed(through.0), Type::INT8), (&DROPPED, Type::INT8)];
        self.0
            .execute(
                "letting go of the past",
                "DELETE FROM past WHERE revision <= $1 AND revision <= (SELECT max(revision) \
                 FROM (SELECT revision FROM past ORDER BY revision LIMIT $2) AS first)",
                values,
            )
            .map(|_| ())
    }
}
