//! A store as those see it who bring it back, or put another in its place.

use keepgate_policy::Revision;
use tokio_postgres::types::Type;

use super::address::Address;
use super::session::{Committed, Session, reason};
use super::writer::Batch;
use super::{PostgresStore, check_server, layout, number, runtime};
use crate::store::{StoreError, Writing};

/// A center counts as running for so long after its last pulse.
const ALIVE: &str = "interval '10 seconds'";

impl PostgresStore {
    /// Connects to a store that is there already; none: the schema holds no store. Nothing is created,
    /// migrated, or noted. Blocks.
    ///
    /// # Errors
    /// Those of [`PostgresStore::open`], and [`StoreError::Layout`] for one that is to be migrated.
    pub fn attach(address: &Address) -> Result<Option<PostgresStore>, StoreError> {
        let store = PostgresStore::closed(address)?;
        let session = Session::open(&store.address, &store.handle)?;
        check_server(&session)?;
        let is_there = layout::is_there(&session, store.address.schema())?;
        drop(session);
        Ok(is_there.then_some(store))
    }

    /// Puts a new store in the place of the one that is there, if any, in one transaction; `fill` writes
    /// it. What was there is kept under the schema's name with `_replaced_TIME`, the time in milliseconds
    /// since the Unix epoch; returns that name. Blocks.
    ///
    /// # Errors
    /// A center that runs on it is refused; then nothing has changed.
    pub fn replace(
        address: &Address,
        unix_ms: u64,
        fill: &mut dyn FnMut(&mut dyn Writing) -> Result<(), StoreError>,
    ) -> Result<Option<String>, StoreError> {
        let doing = "putting a store in place";
        let (runtime, handle) = runtime()?;
        let session = Session::open(address, &handle)?;
        check_server(&session)?;
        session.allow(std::time::Duration::from_secs(3600));
        session.begin(
            doing,
            "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '3600s'",
        )?;
        let done = (|| {
            let schema = address.schema();
            session.query(doing, layout::LOCKED, &[(&schema, Type::TEXT)])?;
            let kept = if layout::is_there(&session, schema)? {
                let sql = format!(
                    "SELECT count(*) FROM {schema}.pulses WHERE at > clock_timestamp() - {ALIVE}"
                );
                let running = number(&session.one(doing, &sql, &[])?, 0)?;
                if running > 0 {
                    return Err(StoreError::Database {
                        doing,
                        source: reason(format!(
                            "expected no center that runs on it, found {running}: stop them, wait ten \
                             seconds, and try again; nothing was changed"
                        )),
                    });
                }
                let kept = format!("{schema}_replaced_{unix_ms}");
                session.batch(doing, &format!("ALTER SCHEMA {schema} RENAME TO {kept}"))?;
                Some(kept)
            } else {
                None
            };
            layout::lay_out(&session, schema)?;
            let head = (Revision(0), Revision(1));
            let timeline = super::timeline(&session)?;
            let mut writer = Batch::begin(&session, address, head, timeline);
            fill(&mut writer)?;
            writer.finish()?;
            Ok(kept)
        })();
        let kept = match done {
            Ok(kept) => kept,
            Err(e) => {
                session.roll_back();
                return Err(e);
            }
        };
        let committed = session.commit();
        drop(session);
        runtime.shutdown_background();
        match committed {
            Committed::Done => Ok(kept),
            Committed::Failed(e) => Err(e),
            Committed::Unknown(source) => Err(StoreError::Outcome { write_id: None, source }),
        }
    }
}
