//! Sessions for reading: a few are kept, some more may be open, and further readers wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepgate_policy::Revision;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::StoreError;
use super::address::Address;
use super::lock_of;
use super::rows::{Reader, Tx, get, number};
use super::session::{Session, reason};

/// Read sessions that are kept open for reuse.
const IDLE: usize = 4;

/// Readers at a time.
const READERS: usize = 16;

/// How long one waits for a place.
const WAIT: Duration = Duration::from_secs(10);

/// How long the server allows a statement of a reader.
const STATEMENT: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Pool {
    address: Arc<Address>,
    handle: Handle,
    idle: Mutex<Vec<Session>>,
    places: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(address: Arc<Address>, handle: Handle) -> Pool {
        Pool { address, handle, idle: Mutex::default(), places: Arc::new(Semaphore::new(READERS)) }
    }

    /// Begins to read, at the head of this moment.
    pub(super) fn read(self: &Arc<Pool>) -> Result<Tx<Reader>, StoreError> {
        let place = self.place()?;
        loop {
            let kept = lock_of(&self.idle).pop();
            let fresh = kept.is_none();
            let session = match kept {
                Some(session) => session,
                None => Session::open(&self.address, &self.handle)?,
            };
            match self.begin(&session) {
                Ok(head) => {
                    let pool = Arc::clone(self);
                    return Ok(Tx(Reader { pool, session: Some(session), head, _place: place }));
                }
                Err(e) if fresh => return Err(e),
                // Its server has gone, or is not the primary any more: the next one is tried.
                Err(e) => tracing::debug!(error = %e, "a read session is given up"),
            }
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let places = Arc::clone(&self.places);
        let found = self.handle.block_on(async { timeout(WAIT, places.acquire_owned()).await });
        match found {
            Ok(Ok(place)) => Ok(place),
            _ => Err(StoreError::Database {
                doing: "waiting for a read session",
                source: reason(format!("all {READERS} were in use for {} s", WAIT.as_secs())),
            }),
        }
    }

    /// The head, and the oldest revision whose change rows are kept.
    fn begin(&self, session: &Session) -> Result<(Revision, Revision), StoreError> {
        let doing = "beginning to read";
        session.allow(STATEMENT);
        session.begin(
            doing,
            &format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SET LOCAL search_path TO {}, pg_temp; SET LOCAL statement_timeout = {}; \
                 SET LOCAL idle_in_transaction_session_timeout = '300s'",
                self.address.schema,
                STATEMENT.as_millis(),
            ),
        )?;
        let sql = "SELECT revision, oldest_change, pg_is_in_recovery() FROM head";
        let row = session.one("reading the revision", sql, &[])?;
        if get(&row, 2)? {
            let source = reason("the server is a standby now");
            return Err(StoreError::Database { doing, source });
        }
        Ok((Revision(number(&row, 0)?), Revision(number(&row, 1)?)))
    }

    /// Takes back a session on which no transaction is open, or its end has been sent.
    pub(super) fn put_back(&self, session: Session) {
        let mut idle = lock_of(&self.idle);
        if idle.len() < IDLE {
            idle.push(session);
        }
    }

    /// Closes what is not in use.
    pub(super) fn clear(&self) {
        lock_of(&self.idle).clear();
    }
}
