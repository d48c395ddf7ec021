//! The store in PostgreSQL, which several centers may share.
//!
//! A write takes the lock of the one row of `head` before it reads anything, so the order of locks is
//! the order of commits and of revisions, and what it reads is current. A COMMIT whose answer does not
//! come is neither retried nor guessed about ([`StoreError::Outcome`]). Another line of time (a standby
//! was promoted, or the database was restored to an earlier point) shows in [`Reading::timeline`]; a
//! head below one that was seen here before is a loss ([`StoreError::Moved`]).
//!
//! Sessions: one that writes, one that confirms, one that listens, up to 16 that read, and
//! one more while a large write is prepared. The store has a
//! small runtime of its own; all calls block and are made outside of runtimes.

mod address;
mod audit;
mod hours;
mod layout;
mod listen;
mod logs;
mod meta;
mod past;
mod pool;
mod replace;
mod requests;
mod rows;
mod session;
mod sessions;
mod stage;
mod text;
mod tls;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use keepgate_policy::{Mark, Revision};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio_postgres::types::Type;

use super::{
    EditVerdict, HourHeard, Reading, Row, SpanRow, Staged, Store, StoreError, Told, Writing, random,
};
pub use address::{Address, AddressError};
use listen::Listener;
use pool::Pool;
use rows::{get, number};
use session::{Committed, Session, Values, reason};
use writer::Batch;

/// How long the lock of the head is waited for; longer while a long write holds it.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long a long write of another center is waited for.
const LONG_WAIT: Duration = Duration::from_secs(600);

/// How long telling and hearing the other centers may take.
const EXCHANGE_WAIT: Duration = Duration::from_secs(10);

/// How long the answer to a confirmation may take, on the server.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);

/// See the module.
pub struct PostgresStore {
    address: Arc<Address>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    readers: Arc<Pool>,
    writer: Mutex<Option<Session>>,
    confirming: Mutex<Option<Session>>,
    /// For the last hour, which nothing else waits for.
    hour: Mutex<Option<Session>>,
    listener: OnceLock<Listener>,
    /// One large write at a time has its items laid aside.
    staging: Arc<Semaphore>,
    /// The highest head that was seen here.
    highest: AtomicU64,
    /// Names this process among the centers.
    center: String,
    first: bool,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStore({})", self.address)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A store may be dropped inside of another runtime, which may not wait.
            runtime.shutdown_background();
        }
    }
}

impl PostgresStore {
    /// Connects, and creates the tables or brings them to this release's layout. Blocks; must not be
    /// called inside of a runtime.
    ///
    /// # Errors
    /// [`StoreError::Layout`] for tables of a newer release, [`StoreError::Pooler`] where `prepared=false`
    /// is missing, [`StoreError::Server`] where the server refuses.
    pub fn open(address: &Address) -> Result<PostgresStore, StoreError> {
        let mut store = PostgresStore::closed(address)?;
        let session = Session::open(&store.address, &store.handle)?;
        check_server(&session)?;
        store.probe_pooler(&session)?;
        store.first = layout::settle(&session, &store.address)?;
        if let Err(e) = store.drop_left_behind(&session) {
            tracing::debug!(error = %keepgate_observe::chain(&e), "staging tables were not dropped");
        }
        drop(session);
        store.tidy_pulses();
        Ok(store)
    }

    /// One without a session yet.
    fn closed(address: &Address) -> Result<PostgresStore, StoreError> {
        let (runtime, handle) = runtime()?;
        let address = Arc::new(address.clone());
        let center: [u8; 16] = random()?;
        Ok(PostgresStore {
            readers: Arc::new(Pool::new(Arc::clone(&address), handle.clone())),
            address,
            runtime: Some(runtime),
            handle,
            writer: Mutex::default(),
            confirming: Mutex::default(),
            hour: Mutex::default(),
            listener: OnceLock::new(),
            staging: Arc::new(Semaphore::new(1)),
            highest: AtomicU64::new(0),
            center: center.iter().map(|byte| format!("{byte:02x}")).collect(),
            first: false,
        })
    }

    /// What [`PostgresStore::open`] would do to the tables, in words; nothing is written. Blocks.
    ///
    /// # Errors
    /// Those of [`PostgresStore::open`].
    pub fn pending(address: &Address) -> Result<Vec<String>, StoreError> {
        let (runtime, handle) = runtime()?;
        let found = Session::open(address, &handle)
            .and_then(|session| layout::pending(&session, &address.schema));
        runtime.shutdown_background();
        found
    }

    /// Whether this start made the store.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many centers, this one included, have confirmed the database within the last ten seconds.
    pub fn centers(&self) -> Result<u64, StoreError> {
        let doing = "counting centers";
        self.confirming(doing, |session| {
            let schema = &self.address.schema;
            let sql = format!(
                "SELECT count(*) FROM {schema}.pulses WHERE at > now() - interval '10 seconds' \
                 AND center <> $1"
            );
            number(&session.one(doing, &sql, &[(&self.center, Type::TEXT)])?, 0)
        })
        .map(|others| others + 1)
    }

    /// A statement that one session has prepared must be there when another one has been served
    /// meanwhile: a pooler that keeps no sessions has given its connection away by then.
    fn probe_pooler(&self, session: &Session) -> Result<(), StoreError> {
        if !self.address.prepared {
            return Ok(());
        }
        let doing = "looking for a pooler";
        let sql = "SELECT 'keepgate'";
        session.query(doing, sql, &[])?;
        let other = Session::open(&self.address, &self.handle)?;
        other.begin(doing, "BEGIN; SELECT pg_backend_pid()")?;
        let said = session.query(doing, sql, &[]);
        other.roll_back();
        said.map(|_| ())
    }

    /// Forgets centers that have long been gone.
    fn tidy_pulses(&self) {
        let schema = &self.address.schema;
        let sql = format!(
            "DELETE FROM {schema}.pulses WHERE at < now() - interval '1 day'; \
             DELETE FROM {schema}.notes WHERE at < now() - interval '1 day'"
        );
        let tidied = self
            .confirming("forgetting centers", |session| session.batch("forgetting centers", &sql));
        if let Err(e) = tidied {
            tracing::debug!(error = %keepgate_observe::chain(&e), "old pulses were not removed");
        }
    }

    /// The session that was kept, if it is still good, else a new one; true: it is new.
    fn session(&self, kept: &mut Option<Session>) -> Result<(Session, bool), StoreError> {
        match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => Ok((session, false)),
            None => Ok((Session::open(&self.address, &self.handle)?, true)),
        }
    }

    /// A session that holds the lock of the head, and what it found.
    fn begin(&self, kept: &mut Option<Session>) -> Result<(Session, Locked), StoreError> {
        let began = Instant::now();
        loop {
            let (session, fresh) = self.session(kept)?;
            let error = match self.lock_head(&session) {
                Ok(locked) => return Ok((session, locked)),
                Err(e) => e,
            };
            let busy = is_busy(&error);
            let whole = session.roll_back();
            if busy && whole && began.elapsed() < LONG_WAIT && self.is_long(&session)? {
                *kept = Some(session);
                continue;
            }
            if busy && whole {
                *kept = Some(session);
                return Err(error);
            }
            // Its server has gone, or takes no writes any more: another one may.
            if fresh || busy {
                return Err(error);
            }
            tracing::debug!(error = %keepgate_observe::chain(&error), "the write session is given up");
        }
    }

    /// Begins a transaction and takes the lock.
    fn lock_head(&self, session: &Session) -> Result<Locked, StoreError> {
        let doing = "beginning to write";
        let schema = &self.address.schema;
        // Beyond the wait for the lock.
        session.allow(LOCK_WAIT + writer::STATEMENT);
        let (lock, statement) = (LOCK_WAIT.as_millis(), writer::STATEMENT.as_millis());
        // A commit that a crash may take back is none; weaker settings than that are the operator's.
        session.begin(
            doing,
            &format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
                 SET LOCAL search_path TO {schema}, pg_temp; SET LOCAL lock_timeout = {lock}; \
                 SET LOCAL statement_timeout = {both}; \
                 SET LOCAL idle_in_transaction_session_timeout = {statement}; \
                 SELECT set_config('synchronous_commit', 'on', true) \
                 WHERE current_setting('synchronous_commit') = 'off'; \
                 SELECT revision FROM head FOR UPDATE; SET LOCAL statement_timeout = {statement}",
                both = lock + statement,
            ),
        )?;
        session.allow(writer::STATEMENT);
        // A statement of its own: it sees what the last holder of the lock wrote.
        let sql = format!("SELECT revision, oldest_change, {TIMELINE} FROM head");
        let row = session.one(doing, &sql, &[])?;
        Ok(Locked {
            head: (Revision(number(&row, 0)?), Revision(number(&row, 1)?)),
            timeline: get(&row, 2)?,
        })
    }

    /// Whether a write of many rows is what holds the lock.
    fn is_long(&self, session: &Session) -> Result<bool, StoreError> {
        let doing = "waiting for the write lock";
        let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND classid::bigint = hashtext('keepgate long write')::bigint & 4294967295 \
                   AND objid::bigint = hashtext($1)::bigint & 4294967295)";
        let row = session.one(doing, sql, &[(&self.address.schema, Type::TEXT)])?;
        get(&row, 0)
    }

    /// A head that may be told: a later one below it is a loss.
    fn seen(&self, head: Revision) {
        self.highest.fetch_max(head.0, Ordering::AcqRel);
    }

    /// Runs a statement on the session for such, which is opened anew where it has gone.
    fn confirming<T>(
        &self,
        doing: &'static str,
        work: impl Fn(&Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut kept = lock_of(&self.confirming);
        loop {
            let (session, fresh) = self.session(&mut kept)?;
            session.allow(CONFIRM_WAIT);
            match work(&session) {
                Ok(done) => {
                    *kept = Some(session);
                    return Ok(done);
                }
                Err(e) if fresh || is_busy(&e) => {
                    if session.roll_back() {
                        *kept = Some(session);
                    }
                    return Err(e);
                }
                Err(e) => {
                    tracing::debug!(doing, error = %keepgate_observe::chain(&e), "once more");
                }
            }
        }
    }
}

/// What the lock of the head shows.
struct Locked {
    /// The head, and the oldest revision whose change rows are kept.
    head: (Revision, Revision),
    timeline: String,
}

/// The system and its line of time, such as `7431/00000001`.
const TIMELINE: &str = "(SELECT system_identifier FROM pg_control_system())::text || '/' || \
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

fn timeline(session: &Session) -> Result<String, StoreError> {
    get(&session.one("reading the timeline", &format!("SELECT {TIMELINE}"), &[])?, 0)
}

/// Texts must be kept as they are.
fn check_server(session: &Session) -> Result<(), StoreError> {
    let doing = "looking at the server";
    let row = session.one(doing, "SELECT current_setting('server_encoding')", &[])?;
    match get::<&str>(&row, 0)? {
        "UTF8" => Ok(()),
        other => Err(StoreError::Database {
            doing,
            source: reason(format!("expected a database with encoding UTF8, found {other}")),
        }),
    }
}

fn is_busy(error: &StoreError) -> bool {
    use tokio_postgres::error::SqlState;
    let StoreError::Server { source, .. } = error else { return false };
    let source = source.downcast_ref::<tokio_postgres::Error>();
    source.and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

fn runtime() -> Result<(Runtime, Handle), StoreError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("center-database")
        .enable_all()
        .build()
        .map_err(|source| StoreError::Database {
            doing: "starting its thread",
            source: Box::new(source),
        })?;
    let handle = runtime.handle().clone();
    Ok((runtime, handle))
}

impl Store for PostgresStore {
    fn read(&self) -> Result<Box<dyn Reading + '_>, StoreError> {
        let reader = self.readers.read()?;
        self.seen(reader.head()?);
        Ok(Box::new(reader))
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<EditVerdict, StoreError>,
    ) -> Result<(), StoreError> {
        let mut kept = lock_of(&self.writer);
        let (session, locked) = self.begin(&mut kept)?;
        let mut writer = Batch::begin(&session, &self.address, locked.head, locked.timeline);
        let done = work(&mut writer);
        let done = match done {
            Ok(EditVerdict::Commit) => writer.finish().map(|()| EditVerdict::Commit),
            done => done,
        };
        let (head, write_id) = (writer.head()?, writer.write_id);
        let done = match done {
            // On the server the transaction ended with the statement that failed.
            Ok(EditVerdict::Commit) if session.has_failed() => Err(StoreError::Database {
                doing: "committing",
                source: reason("a statement of the transaction failed"),
            }),
            Ok(EditVerdict::Commit) => match session.commit() {
                Committed::Done => {
                    self.seen(head);
                    *kept = Some(session);
                    return Ok(());
                }
                Committed::Failed(e) => Err(e),
                Committed::Unknown(source) => Err(StoreError::Outcome { write_id, source }),
            },
            Ok(EditVerdict::Rollback) => Ok(()),
            Err(e) => Err(e),
        };
        if session.roll_back() {
            *kept = Some(session);
        }
        done
    }

    fn stage(
        &self,
        rows: &mut dyn Iterator<Item = Row>,
        count: usize,
    ) -> Result<Option<Staged>, StoreError> {
        self.lay_aside(rows, count)
    }

    fn confirm(&self) -> Result<(), StoreError> {
        let doing = "confirming the state";
        let schema = &self.address.schema;
        // With a synchronous standby its commit waits for it, so a primary that was replaced does not
        // confirm. The wait never ends by itself, and leaves the lock of the row behind: the next ones
        // fail at that lock, rather than wait beside it.
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = {allowed}; \
             WITH pulse AS (INSERT INTO {schema}.pulses (center, beat) VALUES ('{center}', 1) \
             ON CONFLICT (center) DO UPDATE SET beat = pulses.beat + 1, at = now() RETURNING beat) \
             SELECT head.revision FROM {schema}.head, pulse; COMMIT",
            allowed = CONFIRM_WAIT.as_millis(),
            center = self.center,
        );
        // What was seen before this began must be there.
        let known = self.highest.load(Ordering::Acquire);
        let [found] = self.confirming(doing, |session| session.at_once(doing, &sql))?;
        match found.parse() {
            Ok(found) if found >= known => {
                self.seen(Revision(found));
                Ok(())
            }
            Ok(_) => Err(StoreError::Moved { expected: known.to_string(), found }),
            Err(_) => Err(StoreError::Corrupt { what: format!("the head is `{found}`") }),
        }
    }

    fn note_high(&self, _mark: &Mark) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_room(&self) -> Result<(), StoreError> {
        self.confirm()
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.readers.clear();
        let schema = &self.address.schema;
        let sql = format!(
            "WITH told AS (DELETE FROM {schema}.notes WHERE center = $1) \
             DELETE FROM {schema}.pulses WHERE center = $1"
        );
        let gone = self.confirming("leaving", |session| {
            session.execute("leaving", &sql, &[(&self.center, Type::TEXT)])
        });
        if let Err(e) = gone {
            tracing::debug!(error = %keepgate_observe::chain(&e), "the pulse was not removed");
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn exchange(&self, note: &[u8]) -> Result<Vec<Told>, StoreError> {
        let doing = "telling the other centers";
        let schema = &self.address.schema;
        let tell = format!(
            "INSERT INTO {schema}.notes (center, note) VALUES ($1, $2) \
             ON CONFLICT (center) DO UPDATE SET note = $2, at = now()"
        );
        let hear = format!(
            "SELECT (1000 * extract(epoch FROM now() - at))::bigint, note FROM {schema}.notes \
             WHERE center <> $1 AND at > now() - interval '1 day' LIMIT 64"
        );
        let rows = self.confirming(doing, |session| {
            session.allow(EXCHANGE_WAIT);
            let values: Values<'_> = &[(&self.center, Type::TEXT), (&note, Type::BYTEA)];
            session.execute(doing, &tell, values)?;
            session.query(doing, &hear, &[(&self.center, Type::TEXT)])
        })?;
        rows.iter()
            .map(|row| Ok(Told { age_ms: number(row, 0).unwrap_or(0), note: get(row, 1)? }))
            .collect()
    }

    fn exchange_hour(
        &self,
        rows: &[SpanRow],
        since_ms: u64,
    ) -> Result<Option<HourHeard>, StoreError> {
        let mut kept = lock_of(&self.hour);
        let (session, _) = self.session(&mut kept)?;
        session.allow(Duration::from_millis(hours::STATEMENT_MS));
        let place = (self.address.schema.as_str(), self.center.as_str());
        let done = hours::exchange(&session, place, rows, since_ms);
        // What failed is done in the next round.
        if done.is_ok() || session.roll_back() {
            *kept = Some(session);
        }
        done.map(Some)
    }

    fn wait_head(&self, known: Revision, at_most: Duration) -> Result<Revision, StoreError> {
        let start = || Listener::start(Arc::clone(&self.address), &self.handle);
        let head = self.listener.get_or_init(start).wait(&self.handle, known, at_most)?;
        self.seen(head);
        Ok(head)
    }
}

/// A poisoned lock is taken all the same: a session that was left in a transaction is never put back.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
