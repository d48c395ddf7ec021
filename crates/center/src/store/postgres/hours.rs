//! Rows of the last hour: each center writes its own, and reads the sums of all others'.
//!
//! A row is written whole, so it is the same whether a write that was not answered happened or not. A
//! center has a name of its own from each start, so no row is ever counted beside itself.

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::Type;

use super::super::StoreError;
use super::super::hours::{Counts, HourHeard, MinuteRow, Of, SPAN_S, SPANS, SpanRow};
use super::super::values::signed;
use super::rows::{get, number};
use super::session::{Committed, Session, Values};

const DOING: &str = "exchanging the last hour";

/// Statements here are short, or given up.
pub(super) const STATEMENT_MS: u64 = 5_000;

/// Rows of minutes that are read at once: of a thousand services each minute, and of limits.
const ROWS: i64 = 200_000;

/// Rows that are removed at once.
const REMOVED: i64 = 50_000;

/// A commit may be seen this much later than its rows say, in milliseconds.
const LATE_MS: u64 = 30_000;

/// Writes these rows of `center`, removes old ones, and reads what others have written since
/// `since_ms` by the store's clock (0: all of the hour).
pub(super) fn exchange(
    session: &Session,
    (schema, center): (&str, &str),
    rows: &[SpanRow],
    since_ms: u64,
) -> Result<HourHeard, StoreError> {
    session.begin(
        DOING,
        &format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             SET LOCAL search_path TO {schema}, pg_temp; SET LOCAL lock_timeout = '1s'; \
             SET LOCAL statement_timeout = {STATEMENT_MS}; SET LOCAL synchronous_commit = off"
        ),
    )?;
    write(session, center, rows)?;
    let heard = read(session, center, since_ms)?;
    match session.commit() {
        Committed::Done => Ok(heard),
        Committed::Failed(e) => Err(e),
        // Written again, it is the same.
        Committed::Unknown(source) => Err(StoreError::Database { doing: DOING, source }),
    }
}

fn write(session: &Session, center: &str, rows: &[SpanRow]) -> Result<(), StoreError> {
    let column = |of: fn(&SpanRow) -> u64| rows.iter().map(of).map(signed).collect::<Vec<i64>>();
    let count = |at: usize| {
        let each = rows.iter().map(|row| row.counts.all().get(at).copied().unwrap_or_default());
        each.map(signed).collect::<Vec<i64>>()
    };
    let spans = column(|row| row.span);
    let services: Vec<&str> = rows.iter().map(|row| row.of.service.as_str()).collect();
    let limits: Vec<&str> = rows.iter().map(|row| row.of.limit.as_str()).collect();
    let told: Vec<bool> = rows.iter().map(|row| row.is_told).collect();
    let [requests, refused, limited, denied, undecided] = [0, 1, 2, 3, 4].map(count);
    // What another center removes at this moment is left to it.
    let values: Values<'_> = &[
        (&center, Type::TEXT),
        (&spans, Type::INT8_ARRAY),
        (&services, Type::TEXT_ARRAY),
        (&limits, Type::TEXT_ARRAY),
        (&requests, Type::INT8_ARRAY),
        (&refused, Type::INT8_ARRAY),
        (&limited, Type::INT8_ARRAY),
        (&denied, Type::INT8_ARRAY),
        (&undecided, Type::INT8_ARRAY),
        (&told, Type::BOOL_ARRAY),
        (&REMOVED, Type::INT8),
    ];
    let sql = "WITH gone AS (DELETE FROM hour WHERE ctid = ANY (ARRAY(SELECT ctid FROM hour \
               WHERE at < now() - interval '61 minutes' LIMIT $11 FOR UPDATE SKIP LOCKED))) \
               INSERT INTO hour (center, span, service, rule, requests, refused, limited, denied, \
               undecided, told) SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::text[], \
               $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bool[]) \
               ON CONFLICT (center, span, service, rule) DO UPDATE SET requests = excluded.requests, \
               refused = excluded.refused, limited = excluded.limited, denied = excluded.denied, \
               undecided = excluded.undecided, told = excluded.told, at = now()";
    session.execute(DOING, sql, values).map(|_| ())
}

fn read(session: &Session, center: &str, since_ms: u64) -> Result<HourHeard, StoreError> {
    let since = signed(since_ms.saturating_sub(LATE_MS));
    // The oldest minute in which something is new, within the hour.
    let sql = "SELECT (1000 * extract(epoch FROM now()))::bigint, \
               (SELECT count(*) FROM pulses WHERE center <> $1 AND at > now() - interval '10 seconds'), \
               (SELECT min(span) / $3 FROM hour WHERE center <> $1 \
               AND at >= to_timestamp($2::bigint / 1000.0) \
               AND span >= extract(epoch FROM now())::bigint / $4 - 360)";
    let (in_minute, seconds) = (signed(SPANS), signed(SPAN_S));
    let values: Values<'_> = &[
        (&center, Type::TEXT),
        (&since, Type::INT8),
        (&in_minute, Type::INT8),
        (&seconds, Type::INT8),
    ];
    let row = session.one(DOING, sql, values)?;
    let from: Option<i64> = get(&row, 2)?;
    let from = from.and_then(|from| u64::try_from(from).ok());
    let mut heard = HourHeard {
        store_unix_ms: number(&row, 0)?,
        others: number(&row, 1)?,
        from,
        rows: Vec::new(),
    };
    let Some(from) = from else { return Ok(heard) };
    let first = signed(from.saturating_mul(SPANS));
    let last = signed(heard.store_unix_ms / 1000 / SPAN_S + SPANS);
    let sql = "SELECT span / $4, service, rule, sum(requests)::bigint, sum(refused)::bigint, \
               sum(limited)::bigint, sum(denied)::bigint, sum(undecided)::bigint, bool_and(told), \
               bit_or(1 << (span % $4)::int) FROM hour WHERE center <> $1 AND span >= $2 AND span <= $3 \
               GROUP BY 1, 2, 3 ORDER BY 1 DESC LIMIT $5";
    let values: Values<'_> = &[
        (&center, Type::TEXT),
        (&first, Type::INT8),
        (&last, Type::INT8),
        (&in_minute, Type::INT8),
        (&ROWS, Type::INT8),
    ];
    for row in session.query(DOING, sql, values)? {
        heard.rows.push(minute(&row)?);
    }
    Ok(heard)
}

fn minute(row: &SqlRow) -> Result<MinuteRow, StoreError> {
    let spans: i32 = get(row, 9)?;
    Ok(MinuteRow {
        minute: number(row, 0)?,
        of: Of { service: get(row, 1)?, limit: get(row, 2)? },
        counts: Counts {
            requests: number(row, 3)?,
            refused: number(row, 4)?,
            limited: number(row, 5)?,
            denied: number(row, 6)?,
            undecided: number(row, 7)?,
        },
        is_told: get(row, 8)?,
        spans: u8::try_from(spans).unwrap_or(u8::MAX),
    })
}
