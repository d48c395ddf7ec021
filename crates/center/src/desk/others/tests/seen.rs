//! A store as one of several centers sees it: SQLite's, which says that it is shared, and that fails on
//! demand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use keepgate_policy::{Digest, ItemKey, Kind, Mark, Revision};
use keepgate_record::AuditAnchor;

use super::super::super::WriteId;
use crate::store::{
    AuditRow, AuditState, ChangeRow, Changes, EditVerdict, Fork, LogHeadRow, LogKeyRow, Meta,
    PastHead, PastRow, Reading, RequestChange, RequestRow, RequestsOf, Retention, RevisionRow, Row,
    ScopeRow, SessionBounds, SessionChange, SessionRow, SessionsOf, SqliteStore, Store, StoreError,
    Sum, SumRow, TokenRow, TokenUse, Told, Tombstone, Writing,
};

/// What happens to the next commit that makes a revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// Whether it is stored all the same.
    pub(super) stored: bool,
    /// Whether the store cannot be reached after it.
    pub(super) away: bool,
}

/// The store as one center sees it.
pub(crate) struct Seen {
    store: Arc<SqliteStore>,
    /// In whose place it is served, once there is one.
    pub(super) standby: OnceLock<Arc<SqliteStore>>,
    pub(super) fault: Mutex<Option<Fault>>,
    /// Which server of the database it is; empty: there is but one.
    pub(super) timeline: Mutex<String>,
    /// Nothing answers.
    away: AtomicBool,
    /// A reading shows what was there so many milliseconds before it is had.
    pub(crate) late_ms: AtomicU64,
    /// Whether somebody waits for such a reading.
    pub(crate) reading: AtomicBool,
    /// Nobody tells of new revisions: they are found at a look alone.
    pub(crate) deaf: AtomicBool,
    /// What this center told the others last, and what it hears of them.
    pub(crate) notes: Mutex<(Vec<u8>, Vec<Told>)>,
    /// An exchange of notes does not come to its end; how many have begun.
    pub(crate) stuck: AtomicBool,
    pub(crate) exchanges: AtomicU64,
}

impl Seen {
    pub(super) fn of(store: &Arc<SqliteStore>) -> Arc<Seen> {
        Arc::new(Seen {
            store: Arc::clone(store),
            standby: OnceLock::new(),
            fault: Mutex::default(),
            timeline: Mutex::default(),
            away: AtomicBool::default(),
            late_ms: AtomicU64::default(),
            reading: AtomicBool::default(),
            deaf: AtomicBool::default(),
            notes: Mutex::default(),
            stuck: AtomicBool::default(),
            exchanges: AtomicU64::default(),
        })
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn store(&self) -> Result<&SqliteStore, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Database { doing: "connecting", source: "it is away".into() });
        }
        Ok(self.standby.get().unwrap_or(&self.store))
    }
}

impl Store for Seen {
    fn read(&self) -> Result<Box<dyn Reading + '_>, StoreError> {
        let reading = self.store()?.read();
        let late = self.late_ms.load(Ordering::SeqCst);
        if late > 0 {
            self.reading.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(late));
            self.reading.store(false, Ordering::SeqCst);
        }
        reading
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<EditVerdict, StoreError>,
    ) -> Result<(), StoreError> {
        let mut fault = None;
        self.store()?.write(&mut |tx| {
            let before = tx.head()?;
            let timeline = self.timeline.lock().unwrap().clone();
            let verdict = work(&mut Timed { tx, timeline })?;
            if verdict == EditVerdict::Commit && tx.head()? != before {
                fault = self.fault.lock().unwrap().take();
            }
            Ok(if fault.is_some_and(|fault| !fault.stored) {
                EditVerdict::Rollback
            } else {
                verdict
            })
        })?;
        let Some(fault) = fault else { return Ok(()) };
        if fault.away {
            self.set_away(true);
        }
        Err(StoreError::Unknown { source: "the connection broke in COMMIT".into() })
    }

    fn confirm(&self) -> Result<(), StoreError> {
        self.store().map(drop)
    }

    fn note_high(&self, _: &Mark) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn exchange(&self, note: &[u8]) -> Result<Vec<Told>, StoreError> {
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        while self.stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut notes = self.notes.lock().unwrap();
        note.clone_into(&mut notes.0);
        Ok(notes.1.clone())
    }

    fn wait_head(&self, known: Revision, at_most: Duration) -> Result<Revision, StoreError> {
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            if !self.deaf.load(Ordering::SeqCst) {
                let head = self.read()?.head()?;
                if head != known {
                    return Ok(head);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(known)
    }
}

/// A write transaction of a server that says where its time has branched off.
struct Timed<'a> {
    tx: &'a mut dyn Writing,
    timeline: String,
}

macro_rules! as_it_is {
    ($($name:ident($($arg:ident: $of:ty),*) -> $to:ty;)*) => {
        $(fn $name(&self, $($arg: $of),*) -> Result<$to, StoreError> { self.tx.$name($($arg),*) })*
    };
    (mut $($name:ident($($arg:ident: $of:ty),*) -> $to:ty;)*) => {
        $(fn $name(&mut self, $($arg: $of),*) -> Result<$to, StoreError> {
            self.tx.$name($($arg),*)
        })*
    };
}

type Visit<'v, T> = &'v mut dyn FnMut(T) -> Result<(), StoreError>;

impl Reading for Timed<'_> {
    as_it_is! {
        head() -> Revision;
        meta() -> Meta;
        revision(revision: Revision) -> Option<RevisionRow>;
        revisions(visit: Visit<'_, RevisionRow>) -> ();
        written(write_id: &WriteId) -> Option<RevisionRow>;
        forks() -> Vec<Fork>;
        sum(of: Sum) -> SumRow;
        tombstone(key: &ItemKey) -> Option<Tombstone>;
        tombstones(visit: Visit<'_, Tombstone>) -> ();
        each_change(visit: Visit<'_, ChangeRow>) -> ();
        item(key: &ItemKey) -> Option<Row>;
        list(service: &str, kind: Kind, after: &str, limit: usize) -> Vec<Row>;
        count(service: &str, kind: Kind) -> u64;
        each(service: &str, visit: Visit<'_, Row>) -> ();
        each_of(service: &str, kind: Kind, visit: Visit<'_, Row>) -> ();
        sourced(source: &str) -> Vec<Row>;
        scopes() -> Vec<ScopeRow>;
        changes_after(revision: Revision, limit: usize) -> Changes;
        tokens() -> Vec<TokenRow>;
        audit_after(seq: u64, limit: usize) -> Vec<AuditRow>;
        audit_before(seq: u64, limit: usize) -> Vec<AuditRow>;
        audit_of_id(id: &str, seq: u64, limit: usize) -> Vec<AuditRow>;
        audit_state() -> AuditState;
        audit_sealed(seq: u64, limit: usize) -> Vec<(AuditRow, [u8; 32])>;
        requests(of: RequestsOf<'_>) -> Vec<RequestRow>;
        log_keys() -> Vec<LogKeyRow>;
        log_head(log: &[u8; 16]) -> Option<LogHeadRow>;
        log_heads(token: Option<&str>, limit: usize) -> Vec<LogHeadRow>;
        console_sessions(of: SessionsOf<'_>) -> Vec<SessionRow>;
        audit_of(revision: Revision, key: &ItemKey) -> Option<AuditRow>;
        audit_in(revision: Revision, seq: u64, limit: usize) -> Vec<AuditRow>;
        past_head() -> PastHead;
        past_after(revision: Revision, visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>) -> ();
        revision_at(unix_ms: u64) -> Option<RevisionRow>;
    }

    fn timeline(&self) -> Result<String, StoreError> {
        Ok(self.timeline.clone())
    }
}

impl Writing for Timed<'_> {
    fn audit_from(&self) -> Option<(u64, [u8; 32])> {
        self.tx.audit_from()
    }

    as_it_is! { mut
        put(row: &Row) -> ();
        settle_origin(key: &ItemKey, digest: Digest) -> ();
        delete(key: &ItemKey) -> bool;
        scope(scope: &ScopeRow) -> ();
        change(row: &ChangeRow) -> ();
        changes_left_out(revision: Revision, count: usize) -> ();
        past(row: &PastRow) -> ();
        past_complete() -> ();
        token(row: &TokenRow) -> ();
        audit(row: &AuditRow) -> ();
        request_change(change: &RequestChange) -> bool;
        audit_begin(log: &[u8; 16], at: u64, chain: &[u8; 32]) -> ();
        put_audit_anchor(anchor: &AuditAnchor) -> ();
        advance(row: &RevisionRow, keep: Retention) -> ();
        set_meta(meta: &Meta) -> ();
        fork(fork: Fork) -> ();
        set_sum(of: Sum, row: SumRow) -> ();
        forget_revisions() -> ();
        put_tombstone(tombstone: &Tombstone) -> ();
        remove_tombstone(key: &ItemKey) -> ();
        put_log_key(row: &LogKeyRow) -> ();
        put_log_head(row: &LogHeadRow) -> ();
        touch(used: &[TokenUse]) -> ();
        session_change(change: &SessionChange, bounds: SessionBounds) -> bool;
    }
}
