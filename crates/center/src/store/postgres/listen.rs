//! The head as other centers move it: a session of its own hears of it, and looks once a second all the
//! same. A notification only wakes: what is told is what is read after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_policy::Revision;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::super::StoreError;
use super::super::values::unsigned;
use super::address::Address;
use super::session::{Session, failed, reason};

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The same where nothing can be heard of: behind a pooler that keeps no sessions.
const LOOK_DEAF: Duration = Duration::from_millis(200);

/// The time between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(500);

/// How long a look may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Clone, Debug)]
struct Seen {
    head: Revision,
    /// When the look began.
    at: Instant,
}

/// See the module.
pub(super) struct Listener {
    seen: watch::Receiver<Option<Seen>>,
    why: watch::Receiver<Option<Arc<str>>>,
}

impl Listener {
    pub(super) fn start(address: Arc<Address>, handle: &Handle) -> Listener {
        let (seen, seen_by) = watch::channel(None);
        let (why, why_for) = watch::channel(None);
        let own = handle.clone();
        handle.spawn(async move {
            // Nobody asks any more: the store is gone.
            while !seen.is_closed() {
                let Err(e) = listen(&address, &own, &seen, &why).await else { continue };
                tracing::debug!(error = %keepgate_observe::chain(&e), "not listening");
                why.send_replace(Some(keepgate_observe::chain(&e).into()));
                sleep(AGAIN).await;
            }
        });
        Listener { seen: seen_by, why: why_for }
    }

    /// Waits for another head than `known`. A lower one counts only when it was seen after the call
    /// began: what was seen before may be older than `known`.
    pub(super) fn wait(
        &self,
        handle: &Handle,
        known: Revision,
        at_most: Duration,
    ) -> Result<Revision, StoreError> {
        let began = Instant::now();
        let mut seen = self.seen.clone();
        let other = seen.wait_for(|seen| {
            seen.as_ref()
                .is_some_and(|seen| seen.head > known || seen.head < known && seen.at > began)
        });
        let found = handle.block_on(async {
            timeout(at_most, other).await.ok().and_then(Result::ok).and_then(|seen| seen.clone())
        });
        match (found, &*self.why.borrow()) {
            (Some(seen), _) => Ok(seen.head),
            (None, None) => Ok(known),
            (None, Some(why)) => Err(StoreError::Database {
                doing: "waiting for another center's change",
                source: reason(why.as_ref()),
            }),
        }
    }
}

/// Listens until something fails or nobody asks any more.
async fn listen(
    address: &Address,
    handle: &Handle,
    seen: &watch::Sender<Option<Seen>>,
    why: &watch::Sender<Option<Arc<str>>>,
) -> Result<(), StoreError> {
    let doing = "listening";
    let session = Session::connect(address, handle).await?;
    // A pooler that keeps no sessions would give the notifications to somebody else.
    let hears = address.prepared;
    if hears {
        let listen = format!("LISTEN {}", address.channel());
        answered(session.say(&listen)).await?.map_err(|e| failed(doing, e))?;
    }
    let sql = format!("SELECT revision, pg_is_in_recovery() FROM {}.head", address.schema);
    while !seen.is_closed() {
        let at = Instant::now();
        let rows = answered(session.rows(&sql, &[])).await?.map_err(|e| failed(doing, e))?;
        let row = rows.first().map(|row| {
            let read = |e| failed(doing, e);
            let head: i64 = row.try_get(0).map_err(read)?;
            let standby: bool = row.try_get(1).map_err(read)?;
            Ok::<_, StoreError>((Revision(unsigned(head)), standby))
        });
        match row.transpose()? {
            Some((head, false)) => {
                why.send_if_modified(|why| why.take().is_some());
                seen.send_replace(Some(Seen { head, at }));
            }
            _ => {
                let source = reason("the server is a standby now, or has no head");
                return Err(StoreError::Database { doing, source });
            }
        }
        let wait = if hears { LOOK } else { LOOK_DEAF };
        let _ = timeout(wait, session.told()).await;
    }
    Ok(())
}

async fn answered<T>(work: impl Future<Output = T>) -> Result<T, StoreError> {
    timeout(ANSWER, work).await.map_err(|_| StoreError::Database {
        doing: "listening",
        source: reason(format!("no answer within {} s", ANSWER.as_secs())),
    })
}
