//! The one row that says which history a database holds, and in which state it is; and digests of rows.

use tokio_postgres::types::Type;

use super::super::values::{RawMeta, signed};
use super::super::{Meta, StoreError, Sum, SumRow};
use super::session::Session;
use super::text::storable;

/// Digest and number of the rows of one sort.
pub(super) fn write_sum(session: &Session, of: Sum, row: SumRow) -> Result<(), StoreError> {
    session
        .execute(
            "writing a digest",
            "INSERT INTO sums (name, digest, rows) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET digest = $2, rows = $3",
            &[
                (&of.name(), Type::TEXT),
                (&row.digest.to_bytes().as_slice(), Type::BYTEA),
                (&signed(row.rows), Type::INT8),
            ],
        )
        .map(|_| ())
}

/// Writes the row, with a digest of its own.
pub(super) fn write_meta(session: &Session, meta: &Meta) -> Result<(), StoreError> {
    let raw = RawMeta::of(meta);
    session
        .execute(
            "writing the history",
            "INSERT INTO meta (one, history, key, state, why, witnessed, ancestors, timeline, \
             fresh, authzen_together, digest) VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (one) DO UPDATE SET history = $1, key = $2, state = $3, why = $4, \
             witnessed = $5, ancestors = $6, timeline = $7, fresh = $8, authzen_together = $9, \
             digest = $10",
            &[
                (&raw.history, Type::BYTEA),
                (&raw.key, Type::BYTEA),
                (&raw.state, Type::TEXT),
                (&storable(&raw.why), Type::TEXT),
                (&signed(raw.witnessed), Type::INT8),
                (&raw.ancestors, Type::BYTEA),
                (&raw.timeline, Type::TEXT),
                (&raw.fresh, Type::BOOL),
                (&raw.authzen_together, Type::BOOL),
                (&raw.digest().to_bytes().as_slice(), Type::BYTEA),
            ],
        )
        .map(|_| ())
}
