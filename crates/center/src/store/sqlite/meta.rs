//! The one row that says which history a store holds, and in which state it is.

use keepgate_policy::{Digest, HistoryId, Revision};
use rusqlite::{Connection, params};

use super::super::history::of_parts;
use super::super::{Meta, Standing, StoreError};
use super::failed;
use super::rows::{digest_of, signed, sized, unsigned};

/// The row has a digest of its own: a flipped bit in a key or a state must not go unseen.
pub(super) fn write_meta(connection: &Connection, meta: &Meta) -> Result<(), StoreError> {
    let (state, why, witnessed) = match &meta.standing {
        Standing::Ok => ("ok", "", Revision(0)),
        Standing::Lost { why, witnessed } => ("lost", why.as_str(), *witnessed),
        Standing::Retired { to } => ("retired", to.as_str(), Revision(0)),
    };
    let ancestors: Vec<u8> = meta.ancestors.iter().flat_map(|history| history.0).collect();
    let raw = RawMeta {
        history: meta.history.0.to_vec(),
        key: meta.key.to_vec(),
        state: state.to_owned(),
        why: why.to_owned(),
        witnessed: witnessed.0,
        ancestors,
        timeline: meta.timeline.clone(),
        fresh: meta.fresh,
        authzen_together: meta.authzen_together,
    };
    connection
        .execute(
            "INSERT INTO meta (one, history, key, state, why, witnessed, ancestors, timeline, \
             fresh, digest, authzen_together) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT (one) DO UPDATE SET history = ?1, key = ?2, state = ?3, why = ?4, \
             witnessed = ?5, ancestors = ?6, timeline = ?7, fresh = ?8, digest = ?9, \
             authzen_together = ?10",
            params![
                raw.history,
                raw.key,
                raw.state,
                raw.why,
                signed(raw.witnessed),
                raw.ancestors,
                raw.timeline,
                raw.fresh,
                raw.digest().to_bytes(),
                raw.authzen_together
            ],
        )
        .map(|_| ())
        .map_err(failed("writing the history"))
}

struct RawMeta {
    history: Vec<u8>,
    key: Vec<u8>,
    state: String,
    why: String,
    witnessed: u64,
    ancestors: Vec<u8>,
    timeline: String,
    fresh: bool,
    authzen_together: bool,
}

impl RawMeta {
    /// That of stores before layout 3, unless there is something that they could not say.
    fn digest(&self) -> Digest {
        let witnessed = self.witnessed.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![
            b"meta",
            &self.history,
            &self.key,
            self.state.as_bytes(),
            self.why.as_bytes(),
            &witnessed,
            &self.ancestors,
            self.timeline.as_bytes(),
            if self.fresh { &[1] } else { &[0] },
        ];
        if self.authzen_together {
            parts.push(b"authzen together");
        }
        of_parts(&parts)
    }
}

pub(super) fn read_meta(connection: &Connection) -> Result<Meta, StoreError> {
    let (raw, digest) = connection
        .prepare_cached(
            "SELECT history, key, state, why, witnessed, ancestors, timeline, fresh, digest, \
             authzen_together FROM meta",
        )
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                let raw = RawMeta {
                    history: row.get(0)?,
                    key: row.get(1)?,
                    state: row.get(2)?,
                    why: row.get(3)?,
                    witnessed: unsigned(row, 4)?,
                    ancestors: row.get(5)?,
                    timeline: row.get(6)?,
                    fresh: row.get(7)?,
                    authzen_together: row.get(9)?,
                };
                Ok((raw, row.get::<_, Vec<u8>>(8)?))
            })
        })
        .map_err(failed("reading the history"))?;
    let corrupt = |what: &str| StoreError::Corrupt { what: what.to_owned() };
    if digest_of(&digest)? != raw.digest() {
        return Err(corrupt("the row of the history does not have its digest"));
    }
    let standing = match raw.state.as_str() {
        "ok" => Standing::Ok,
        "lost" => Standing::Lost { why: raw.why, witnessed: Revision(raw.witnessed) },
        "retired" => Standing::Retired { to: raw.why },
        _ => return Err(corrupt("the history has an unknown state")),
    };
    let ancestors = raw.ancestors.chunks(16).map(HistoryId::from_bytes).collect::<Option<Vec<_>>>();
    Ok(Meta {
        history: HistoryId(sized("the name of the history", &raw.history)?),
        key: sized("the key of the history", &raw.key)?,
        standing,
        ancestors: ancestors.ok_or_else(|| corrupt("an ancestor that is not 16 bytes"))?,
        timeline: raw.timeline,
        fresh: raw.fresh,
        authzen_together: raw.authzen_together,
    })
}
