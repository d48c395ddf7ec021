//! One session with the database: statements in, rows out, each within a time of its own.
//!
//! The library is asynchronous and the store is not: calls wait on the store's own runtime. A session
//! on which an answer did not come in time is never used again.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{
    AsyncMessage, Client, Connection, Row as SqlRow, SimpleQueryMessage, Socket, Statement,
};

use super::super::StoreError;
use super::super::error::Fault;
use super::address::Address;
use super::lock_of;
use super::tls::{Encrypted, Tls};

/// How long an answer may take beyond what the server itself allows a statement.
const GRACE: Duration = Duration::from_secs(5);

/// How long the answer to COMMIT may take; longer for a write of many rows.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// Statements that a session keeps prepared; there are fewer.
const STATEMENTS: usize = 256;

/// Values of a statement, each with its type.
pub(super) type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// See the module.
pub(super) struct Session {
    client: Client,
    handle: Handle,
    prepared: bool,
    statements: Mutex<HashMap<String, Statement>>,
    shared: Arc<Shared>,
    /// How long the server allows a statement, in milliseconds.
    allowed_ms: AtomicU64,
    /// An answer did not come in time.
    broken: AtomicBool,
    /// A statement of the transaction failed, which ends it on the server.
    failed: AtomicBool,
    task: AbortHandle,
}

/// What the connection says by itself.
#[derive(Default)]
struct Shared {
    warnings: AtomicU64,
    /// Why the connection ended.
    end: Mutex<Option<tokio_postgres::Error>>,
    /// Told of notifications, and of the end.
    told: Notify,
}

/// What became of a COMMIT.
pub(super) enum Committed {
    /// It is durable.
    Done,
    /// It did not happen.
    Failed(StoreError),
    /// Nobody knows.
    Unknown(Box<dyn std::error::Error + Send + Sync>),
}

/// A reason without an error of the library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

pub(super) fn reason(text: impl Into<String>) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(Reason(text.into()))
}

impl Session {
    /// Opens a session with the first of the address's hosts that takes writes. Blocks.
    pub(super) fn open(address: &Address, handle: &Handle) -> Result<Session, StoreError> {
        handle.block_on(Session::connect(address, handle))
    }

    /// The same, inside of the runtime.
    pub(super) async fn connect(address: &Address, handle: &Handle) -> Result<Session, StoreError> {
        let doing = "connecting";
        let mut last = None;
        let mut said = Vec::new();
        // The host that was good last comes first: one that is gone for good is not waited for each time.
        let good = address.good.load(Ordering::Relaxed);
        let hosts = address.hosts.iter().enumerate();
        for (at, (host, config)) in hosts.clone().skip(good).chain(hosts.take(good)) {
            let tls = Tls(address.tls.clone());
            let error = match timeout(address.attempt, config.connect(tls)).await {
                Ok(Ok((client, connection))) => {
                    address.good.store(at, Ordering::Relaxed);
                    let shared = Arc::new(Shared::default());
                    let task = handle.spawn(drive(connection, Arc::clone(&shared)));
                    return Ok(Session {
                        client,
                        handle: handle.clone(),
                        prepared: address.prepared,
                        statements: Mutex::default(),
                        shared,
                        allowed_ms: AtomicU64::new(30_000),
                        broken: AtomicBool::new(false),
                        failed: AtomicBool::new(false),
                        task: task.abort_handle(),
                    });
                }
                Ok(Err(e)) => failed(doing, e),
                Err(_) => {
                    let wait = address.attempt.as_secs();
                    let source = reason(format!("no answer within {wait} s"));
                    StoreError::Database { doing, source }
                }
            };
            said.push(format!("`{host}`: {}", cause(&error)));
            last = Some(error);
        }
        let source = reason(said.join("; "));
        Err(match last {
            Some(StoreError::Server { says, .. }) => StoreError::Server { doing, says, source },
            _ => StoreError::Database { doing, source },
        })
    }

    /// Whether it can be used no more.
    pub(super) fn is_closed(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// Whether a statement has failed since [`Session::begin`].
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The server allows each statement this long from now on.
    pub(super) fn allow(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.allowed_ms.store(ms, Ordering::Relaxed);
    }

    fn allowed(&self) -> Duration {
        Duration::from_millis(self.allowed_ms.load(Ordering::Relaxed))
    }

    /// Statements without values that begin a transaction.
    pub(super) fn begin(&self, doing: &'static str, sql: &str) -> Result<(), StoreError> {
        self.failed.store(false, Ordering::Relaxed);
        self.batch(doing, sql)
    }

    /// Statements without values, in one round trip.
    pub(super) fn batch(&self, doing: &'static str, sql: &str) -> Result<(), StoreError> {
        self.within(doing, self.client.batch_execute(sql))
    }

    /// A whole transaction without values, its commit included, in one round trip: the columns of the
    /// one row that it answers with. A warning counts as an error, see [`Session::commit`].
    pub(super) fn at_once<const N: usize>(
        &self,
        doing: &'static str,
        sql: &str,
    ) -> Result<[String; N], StoreError> {
        let before = self.shared.warnings.load(Ordering::Acquire);
        let answers = self.within(doing, self.client.simple_query(sql))?;
        if self.shared.warnings.load(Ordering::Acquire) != before {
            self.broken.store(true, Ordering::Relaxed);
            let source = reason("the server committed with a warning: no standby has confirmed it");
            return Err(StoreError::Database { doing, source });
        }
        let row = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) if row.len() == N => Some(row),
            _ => None,
        });
        let missing = || StoreError::Corrupt { what: format!("{doing}: the row is not there") };
        let row = row.ok_or_else(missing)?;
        let mut columns = [const { String::new() }; N];
        for (at, column) in columns.iter_mut().enumerate() {
            *column = row.try_get(at).ok().flatten().unwrap_or_default().to_owned();
        }
        Ok(columns)
    }

    pub(super) fn query(
        &self,
        doing: &'static str,
        sql: &str,
        values: Values<'_>,
    ) -> Result<Vec<SqlRow>, StoreError> {
        self.within(doing, self.rows(sql, values))
    }

    /// The one row that there must be.
    pub(super) fn one(
        &self,
        doing: &'static str,
        sql: &str,
        values: Values<'_>,
    ) -> Result<SqlRow, StoreError> {
        let found = self.query(doing, sql, values)?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| StoreError::Corrupt { what: format!("{doing}: the row is not there") })
    }

    /// Runs a statement; how many rows it wrote.
    pub(super) fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        values: Values<'_>,
    ) -> Result<u64, StoreError> {
        self.within(doing, async {
            if !self.prepared {
                return self.client.execute_typed(sql, values).await;
            }
            let statement = self.statement(sql, values).await?;
            self.client.execute(&statement, &bare(values)).await
        })
    }

    /// Copies rows of these types into a table, by a prepared statement; how many there were.
    pub(super) fn copy(
        &self,
        doing: &'static str,
        sql: &str,
        types: &[Type],
        write: impl AsyncFnOnce(Pin<&mut BinaryCopyInWriter>) -> Result<(), tokio_postgres::Error>,
    ) -> Result<u64, StoreError> {
        self.within(doing, async {
            let to = BinaryCopyInWriter::new(self.client.copy_in(sql).await?, types);
            let mut to = std::pin::pin!(to);
            write(to.as_mut()).await?;
            to.finish().await
        })
    }

    /// The rows of a query, inside of the runtime.
    pub(super) async fn rows(
        &self,
        sql: &str,
        values: Values<'_>,
    ) -> Result<Vec<SqlRow>, tokio_postgres::Error> {
        if !self.prepared {
            return self.client.query_typed(sql, values).await;
        }
        let statement = self.statement(sql, values).await?;
        self.client.query(&statement, &bare(values)).await
    }

    async fn statement(
        &self,
        sql: &str,
        values: Values<'_>,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = lock_of(&self.statements).get(sql) {
            return Ok(known.clone());
        }
        let types: Vec<Type> = values.iter().map(|(_, of)| of.clone()).collect();
        let statement = self.client.prepare_typed(sql, &types).await?;
        let mut statements = lock_of(&self.statements);
        if statements.len() < STATEMENTS {
            statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// Without values and outside of blocking calls.
    pub(super) async fn say(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(sql).await
    }

    /// Waits until the server tells something, or the connection ends.
    pub(super) async fn told(&self) {
        self.shared.told.notified().await;
    }

    /// Ends the transaction as if it had not been, without waiting: what is sent later comes after it.
    pub(super) fn give_up(&self) {
        // Sent when it is polled first; the answer is not waited for.
        let _ = self.client.batch_execute("ROLLBACK").now_or_never();
    }

    /// Ends the transaction as if it had not been; false: the session can be used no more.
    pub(super) fn roll_back(&self) -> bool {
        !self.is_closed() && self.batch("rolling back", "ROLLBACK").is_ok()
    }

    /// Commits, within a time of its own: one that waits for an absent standby never ends by itself.
    pub(super) fn commit(&self) -> Committed {
        let doing = "committing";
        let before = self.shared.warnings.load(Ordering::Acquire);
        let wait = COMMIT_WAIT.max(self.allowed());
        let commit = async { timeout(wait, self.client.batch_execute("COMMIT")).await };
        match self.handle.block_on(commit) {
            Ok(Ok(())) if self.shared.warnings.load(Ordering::Acquire) == before => Committed::Done,
            Ok(Ok(())) => {
                self.broken.store(true, Ordering::Relaxed);
                Committed::Unknown(reason(
                    "the server committed with a warning: no standby has confirmed it",
                ))
            }
            Ok(Err(e)) => {
                let refused = e.as_db_error().is_some_and(|e| {
                    e.parsed_severity() == Some(Severity::Error)
                        && *e.code() != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
                        && *e.code() != SqlState::TRANSACTION_RESOLUTION_UNKNOWN
                });
                self.broken.store(true, Ordering::Relaxed);
                match refused {
                    true => Committed::Failed(failed(doing, e)),
                    false => Committed::Unknown(Box::new(self.ended(e))),
                }
            }
            Err(_) => {
                self.broken.store(true, Ordering::Relaxed);
                let wait = wait.as_secs();
                Committed::Unknown(reason(format!("no answer to the commit within {wait} s")))
            }
        }
    }

    /// Why the connection ended, where the error only says that it did.
    fn ended(&self, error: tokio_postgres::Error) -> tokio_postgres::Error {
        match error.is_closed() {
            true => lock_of(&self.shared.end).take().unwrap_or(error),
            false => error,
        }
    }

    fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let limit = self.allowed().saturating_add(GRACE);
        let done = self.handle.block_on(async { timeout(limit, work).await });
        let error = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(e)) => failed(doing, self.ended(e)),
            Err(_) => {
                self.broken.store(true, Ordering::Relaxed);
                let source = reason(format!("no answer within {} s", limit.as_secs()));
                StoreError::Database { doing, source }
            }
        };
        self.failed.store(true, Ordering::Relaxed);
        Err(error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A whole one says goodbye by itself; one that waits for an answer would wait for ever.
        if self.broken.load(Ordering::Relaxed) {
            self.task.abort();
        }
    }
}

fn bare<'a>(values: Values<'a>) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|(value, _)| *value).collect()
}

/// Runs the connection until it ends.
async fn drive(mut connection: Connection<Socket, Encrypted>, shared: Arc<Shared>) {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                if notice.parsed_severity() == Some(Severity::Warning) {
                    shared.warnings.fetch_add(1, Ordering::Release);
                    tracing::debug!(message = notice.message(), "the database warns");
                }
            }
            Some(Ok(AsyncMessage::Notification(_))) => shared.told.notify_one(),
            Some(Ok(_)) => {}
            Some(Err(e)) => {
                *lock_of(&shared.end) = Some(e);
                break;
            }
            None => break,
        }
    }
    shared.told.notify_one();
}

/// The sources of an error, without what it says itself.
fn cause(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => keepgate_observe::chain(source),
        None => error.to_string(),
    }
}

/// What an error of the server means.
pub(super) fn failed(doing: &'static str, error: tokio_postgres::Error) -> StoreError {
    let Some(code) = error.code().cloned() else {
        if is_read_only(&error) {
            return StoreError::Server { doing, says: READ_ONLY, source: Box::new(error) };
        }
        return StoreError::Database { doing, source: Box::new(error) };
    };
    let source = Box::new(error);
    let says = if code == SqlState::DISK_FULL {
        return StoreError::Full { doing, source };
    } else if code == SqlState::INVALID_SQL_STATEMENT_NAME
        || code == SqlState::DUPLICATE_PSTATEMENT
        // Another client's statement has the name: it takes other values.
        || code == SqlState::PROTOCOL_VIOLATION && is_other_statement(&source)
    {
        return StoreError::Pooler { doing, source };
    } else if code == SqlState::DATA_CORRUPTED || code == SqlState::INDEX_CORRUPTED {
        return StoreError::Corrupt {
            what: format!("{doing}: {}", keepgate_observe::chain(&source)),
        };
    } else if code == SqlState::UNDEFINED_TABLE || code == SqlState::INVALID_SCHEMA_NAME {
        return StoreError::Refused {
            fault: Fault::Lost,
            file: "the database".to_owned(),
            expected: "the tables of a center".to_owned(),
            found: keepgate_observe::chain(&source),
            way_out: "stop the center; then restore the database, or a backup of the center \
                      (`keepgate center restore FILE`)"
                .to_owned(),
        };
    } else if code == SqlState::READ_ONLY_SQL_TRANSACTION {
        READ_ONLY
    } else if code == SqlState::LOCK_NOT_AVAILABLE {
        "another center holds the write lock; try again"
    } else if code == SqlState::TOO_MANY_CONNECTIONS {
        "the server has no connection left: a center takes up to 20, raise `max_connections` or put a \
         pooler between"
    } else if code == SqlState::ADMIN_SHUTDOWN || code == SqlState::CRASH_SHUTDOWN {
        "the server ended the session"
    } else if code == SqlState::CANNOT_CONNECT_NOW {
        "the server is starting or stopping"
    } else if code == SqlState::QUERY_CANCELED {
        "the server ended the statement: it took too long"
    } else if code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT {
        "the server ended the session: the center was too slow inside of a transaction"
    } else if code == SqlState::INVALID_PASSWORD
        || code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
    {
        "the server refuses the user; see the user and password of the database URL \
         (`password_file=FILE` names a file)"
    } else if code == SqlState::INVALID_CATALOG_NAME {
        "there is no such database; create it (`createdb`)"
    } else if code == SqlState::INSUFFICIENT_PRIVILEGE {
        "the user may not; it needs a schema of its own, or the right to create one in the database"
    } else {
        return StoreError::Database { doing, source };
    };
    StoreError::Server { doing, says, source }
}

const READ_ONLY: &str = "the database takes no writes: it is a standby, or \
    `default_transaction_read_only` is set; name the primary, or all hosts, in the database URL";

/// What the library says of a server that takes no writes, when it looks for one that does.
fn is_read_only(error: &tokio_postgres::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied && e.get_ref().is_some())
}

fn is_other_statement(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|e| e.message().contains("prepared statement"))
}
