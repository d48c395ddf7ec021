//! The rows of the past.

use keepgate_policy::{ItemKey, Revision};
use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, params};

use super::super::past::{DROPPED, Engine, Following};
use super::super::values::{digest_of, signed, stored_kind};
use super::super::{PastHead, PastItem, PastRow, StoreError};
use super::failed;
use super::rows::{Writer, unsigned};

const DOING: &str = "reading the past";

pub(super) fn head(connection: &Connection) -> Result<PastHead, StoreError> {
    connection
        .prepare_cached("SELECT oldest, through, bytes FROM past_head")
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                let (oldest, through) = (unsigned(row, 0)?, unsigned(row, 1)?);
                let (oldest, through) = (Revision(oldest), Revision(through));
                Ok(PastHead { oldest, through, bytes: unsigned(row, 2)? })
            })
        })
        .map_err(failed(DOING))
}

pub(super) fn write(connection: &Connection, row: &PastRow) -> Result<(), StoreError> {
    let before = row.before.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO past (revision, service, kind, id, body, digest, since, bytes) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                signed(row.revision.0),
                row.key.service,
                row.key.kind.as_str(),
                row.key.id,
                before.map(|before| &before.body),
                before.map(|before| before.digest.to_bytes().to_vec()),
                signed(before.map_or(0, |before| before.since.0)),
                signed(row.bytes()),
            ])
        })
        .map(|_| ())
        .map_err(failed("writing the past"))
}

pub(super) fn after(
    connection: &Connection,
    revision: Revision,
    visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, service, kind, id, body, digest, since FROM past \
             WHERE revision > ?1 ORDER BY revision, service, kind, id",
        )
        .map_err(failed(DOING))?;
    let mut rows = statement.query(params![signed(revision.0)]).map_err(failed(DOING))?;
    while let Some(row) = rows.next().map_err(failed(DOING))? {
        if !visit(past_row(row).map_err(failed(DOING))??)? {
            break;
        }
    }
    Ok(())
}

fn past_row(row: &SqlRow<'_>) -> rusqlite::Result<Result<PastRow, StoreError>> {
    let revision = Revision(unsigned(row, 0)?);
    let (service, kind, id): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let (body, digest): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(4)?, row.get(5)?);
    let since = Revision(unsigned(row, 6)?);
    Ok(stored_kind(&kind).and_then(|kind| {
        let before = match (body, digest) {
            (Some(body), Some(digest)) => {
                Some(PastItem { body, digest: digest_of(&digest)?, since })
            }
            _ => None,
        };
        Ok(PastRow { revision, key: ItemKey { service, kind, id }, before })
    }))
}

impl Engine for Writer<'_> {
    fn standing(&self) -> Result<(PastHead, Option<Following>), StoreError> {
        let head = head(self.connection)?;
        Ok((head, self.following(head.oldest)?))
    }

    fn set_past_head(&self, head: &PastHead) -> Result<(), StoreError> {
        let values = params![signed(head.oldest.0), signed(head.through.0), signed(head.bytes)];
        self.connection
            .prepare_cached("UPDATE past_head SET oldest = ?1, through = ?2, bytes = ?3")
            .and_then(|mut statement| statement.execute(values))
            .map(|_| ())
            .map_err(failed("writing the past"))
    }

    fn following(&self, after: Revision) -> Result<Option<Following>, StoreError> {
        self.connection
            .prepare_cached(
                "SELECT revision, unix_ms, (SELECT coalesce(sum(bytes), 0) FROM past \
                 WHERE past.revision > ?1 AND past.revision <= revisions.revision) \
                 FROM revisions WHERE revision > ?1 ORDER BY revision LIMIT 1",
            )
            .and_then(|mut statement| {
                let following = statement.query_row(params![signed(after.0)], |row| {
                    let revision = Revision(unsigned(row, 0)?);
                    let (unix_ms, bytes) = (unsigned(row, 1)?, unsigned(row, 2)?);
                    Ok(Following { revision, unix_ms, bytes })
                });
                following.optional()
            })
            .map_err(failed(DOING))
    }

    fn drop_past(&self, through: Revision) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "DELETE FROM past WHERE revision <= ?1 AND revision <= (SELECT max(revision) \
                 FROM (SELECT revision FROM past ORDER BY revision LIMIT ?2))",
            )
            .and_then(|mut statement| statement.execute(params![signed(through.0), DROPPED]))
            .map(|_| ())
            .map_err(failed("letting go of the past"))
    }
}
