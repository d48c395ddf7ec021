//! What a center keeps, behind a trait: items, changes, tokens, audit, and its history.
//!
//! A store knows rows, never their meaning: bodies are opaque bytes, policies are not parsed
//! here, and no clock is read (times are arguments, in milliseconds or seconds since the Unix
//! epoch as the field says). All calls block; the [`crate::desk`] makes them off the runtime.
//!
//! INVARIANT: one committed write transaction is one revision. Whatever a [`Reading`] returns is
//! the state at the one revision it was opened at. Within one history a revision never means two
//! states: each has a row with its chain ([`keepgate_policy::mark`]). A second engine joins by
//! passing the conformance suite in `tests/it/store_conformance.rs`.

mod audit;
mod error;
mod history;
pub mod hours;
mod origin;
mod past;
mod postgres;
mod requests;
mod sessions;
mod sqlite;
mod values;

use std::time::{Duration, Instant};

use keepgate_policy::{Digest, ItemKey, Kind, Mark, Revision};
use keepgate_record::AuditAnchor;
use serde::de::DeserializeOwned;

pub use audit::AuditState;
pub use error::{Fault, StoreError};
pub use history::{Fork, Meta, RevisionRow, Standing, Sum, SumRow, Tombstone};
pub use hours::{HourHeard, SpanRow};
pub(crate) use origin::unsaid;
pub use origin::{APPLY, Brought, Origin};
pub use past::{PastHead, PastItem, PastRow};
pub use postgres::{Address, AddressError, PostgresStore};
pub use requests::{
    RequestBody, RequestBounds, RequestChange, RequestRow, RequestState, RequestsOf,
};
pub use sessions::{Person, SessionBounds, SessionChange, SessionRow, SessionsOf};
pub use sqlite::SqliteStore;
pub(crate) use sqlite::layout::decides_authzen;
pub(crate) use values::{new_meta, random};

use crate::token::Role;

/// An item as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: ItemKey,
    /// Canonical JSON.
    pub body: Vec<u8>,
    /// The revision that last changed it.
    pub revision: Revision,
    /// Its contribution to the digest of its scope.
    pub digest: Digest,
    /// The service whose `apply` brought it into the directory; empty for all others.
    pub source: String,
    /// The lowest format that understands the body (see [`keepgate_policy::mark::FORMAT`]).
    pub needs: u32,
    /// Who brought it.
    pub origin: Origin,
}

impl Row {
    /// The body as this type. What is stored was checked before: one that does not parse is damage.
    pub(crate) fn parsed<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.body).map_err(|e| StoreError::Corrupt { what: e.to_string() })
    }
}

/// One step of a past revision; no body: the item was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// The revision it belongs to.
    pub revision: Revision,
    /// What changed.
    pub key: ItemKey,
    /// Its new canonical JSON.
    pub body: Option<Vec<u8>>,
    /// The lowest format that understands the body; 1 for a deletion.
    pub needs: u32,
}

/// What [`Reading::changes_after`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The store no longer keeps (or never had) the change rows right after that revision.
    Pruned,
    /// More rows than asked for: a snapshot is cheaper.
    TooMany,
    /// All of them, in order.
    Rows(Vec<ChangeRow>),
}

/// A scope (a service, or the directory under the empty name) and what it sums up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRow {
    /// The service's name; empty for the directory.
    pub service: String,
    /// Digest of its items.
    pub digest: Digest,
    /// How many items it has.
    pub items: u64,
}

/// A token as stored: never the token itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The readable part by which it is found and talked about.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// The service it is bound to; empty for none.
    pub service: String,
    /// SHA-256 of the whole token text.
    pub sha256: [u8; 32],
    /// A note for people.
    pub note: String,
    /// Seconds since the Unix epoch.
    pub created_unix_s: u64,
    /// Seconds since the Unix epoch, exact to about half a minute; none: never used.
    pub last_used_unix_s: Option<u64>,
    /// The address of that use; empty: none, or not known.
    pub last_used_from: String,
    /// Seconds since the Unix epoch; none: it was not revoked.
    pub revoked_unix_s: Option<u64>,
    /// Seconds since the Unix epoch from which on it is refused; none: never.
    pub expires_unix_s: Option<u64>,
}

impl TokenRow {
    /// Whether it is good at this time, in seconds since the Unix epoch.
    pub fn is_good(&self, now_unix_s: u64) -> bool {
        self.revoked_unix_s.is_none() && self.expires_unix_s.is_none_or(|at| now_unix_s < at)
    }
}

/// When a token was used last, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The token's id.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub unix_s: u64,
    /// The address; empty: not known.
    pub from: String,
}

/// One audited change: who did what, and what was there before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Position in the log; assigned by the store, ignored on writing.
    pub seq: u64,
    /// The revision it belongs to.
    pub revision: Revision,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The id of the token that did it, or `center` for the center itself.
    pub actor: String,
    /// What was asked for, such as `apply` or `token.create`.
    pub action: String,
    /// The service, empty for the directory.
    pub service: String,
    /// The kind of the thing: that of an item, or `token`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Canonical JSON before; none: it was not there.
    pub before: Option<String>,
    /// Canonical JSON after; none: it is gone.
    pub after: Option<String>,
}

/// A key with which the access logs of gates are signed.
#[derive(Clone, PartialEq, Eq)]
pub struct LogKeyRow {
    /// Its name.
    pub id: String,
    /// The seed of the private key (RFC 8032), 32 bytes; never sent, never shown.
    pub seed: [u8; 32],
    /// The public key.
    pub public: [u8; 32],
    /// When it was made, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl std::fmt::Debug for LogKeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogKeyRow").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What was signed last of an access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeadRow {
    /// The log, 16 bytes.
    pub log: [u8; 16],
    /// The id of the gate's token.
    pub token: String,
    /// Whose it is, as it is signed.
    pub gate: String,
    /// The number of its last line that is signed.
    pub seq: u64,
    /// The chain there, 32 bytes.
    pub chain: [u8; 32],
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// How much history a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Revisions whose change rows are kept; older followers get a snapshot.
    pub revisions: u64,
    /// Audit rows kept.
    pub audit_rows: u64,
    /// How long the state of a revision can be made again after the next one, in milliseconds.
    pub past_ms: u64,
    /// Bytes of what revisions found before they changed it.
    pub past_bytes: u64,
}

impl Retention {
    /// What is kept where nothing else is said: of the past 30 days, in 256 MiB.
    pub const DEFAULT: Retention = Retention {
        revisions: 10_000,
        audit_rows: 1_000_000,
        past_ms: 30 * 24 * 3600 * 1000,
        past_bytes: 256 << 20,
    };

    /// For a revision beside the center that knows what is to be kept: nothing of the past goes.
    pub const ALL_PAST: Retention =
        Retention { past_ms: u64::MAX, past_bytes: u64::MAX, ..Retention::DEFAULT };
}

impl Default for Retention {
    fn default() -> Retention {
        Retention::DEFAULT
    }
}

/// A read transaction: everything it returns is the state at one revision.
pub trait Reading {
    /// That revision.
    fn head(&self) -> Result<Revision, StoreError>;
    /// Which history this is, and how it stands.
    fn meta(&self) -> Result<Meta, StoreError>;
    /// The row of a revision; none: it is not kept any more, or never was.
    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError>;
    /// All rows of revisions that are kept, the oldest first.
    fn revisions(
        &self,
        visit: &mut dyn FnMut(RevisionRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
    /// The row of the revision that a commit made; none: that commit never happened, or its row is
    /// not kept any more.
    fn written(&self, write_id: &[u8; 16]) -> Result<Option<RevisionRow>, StoreError>;
    /// Where the line of revisions jumped, the oldest first.
    fn forks(&self) -> Result<Vec<Fork>, StoreError>;
    /// Digest and number of the rows that belong to no service.
    fn sum(&self, of: Sum) -> Result<SumRow, StoreError>;
    /// One tombstone.
    fn tombstone(&self, key: &ItemKey) -> Result<Option<Tombstone>, StoreError>;
    /// All tombstones, in key order.
    fn tombstones(
        &self,
        visit: &mut dyn FnMut(Tombstone) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
    /// All change rows that are kept, in order.
    fn each_change(
        &self,
        visit: &mut dyn FnMut(ChangeRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
    /// One item.
    fn item(&self, key: &ItemKey) -> Result<Option<Row>, StoreError>;
    /// Items of one service and kind with ids after `after`, in id order, at most `limit`.
    fn list(
        &self,
        service: &str,
        kind: Kind,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;
    /// How many items of one service and kind there are.
    fn count(&self, service: &str, kind: Kind) -> Result<u64, StoreError>;
    /// All items of one scope, in kind order, then id order.
    fn each(
        &self,
        service: &str,
        visit: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        Kind::ALL.into_iter().try_for_each(|kind| self.each_of(service, kind, visit))
    }
    /// All items of one scope and kind, in id order.
    fn each_of(
        &self,
        service: &str,
        kind: Kind,
        visit: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
    /// Directory items that the apply of `source` brought, in kind order, then id order.
    fn sourced(&self, source: &str) -> Result<Vec<Row>, StoreError>;
    /// All scopes that have items, by name.
    fn scopes(&self) -> Result<Vec<ScopeRow>, StoreError>;
    /// All changes of the revisions after `revision`, at most `limit` rows.
    fn changes_after(&self, revision: Revision, limit: usize) -> Result<Changes, StoreError>;
    /// All tokens, revoked ones included, by id.
    fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;
    /// Audit rows after `seq`, in order, at most `limit`.
    fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// Audit rows before `seq` (0: from the newest on), the newest first, at most `limit`.
    fn audit_before(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// The same of the things of one id, whatever their kind and service; found by an index.
    fn audit_of_id(&self, id: &str, seq: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError>;
    /// Where the audit log stands.
    fn audit_state(&self) -> Result<AuditState, StoreError>;
    /// As [`Reading::audit_after`], with the chain after each.
    fn audit_sealed(&self, seq: u64, limit: usize)
    -> Result<Vec<(AuditRow, [u8; 32])>, StoreError>;
    /// Requests for access, in the order of their ids.
    fn requests(&self, of: RequestsOf<'_>) -> Result<Vec<RequestRow>, StoreError>;
    /// The keys with which access logs are signed, the oldest first.
    fn log_keys(&self) -> Result<Vec<LogKeyRow>, StoreError>;
    /// What was signed last of one log; none: nothing.
    fn log_head(&self, log: &[u8; 16]) -> Result<Option<LogHeadRow>, StoreError>;
    /// The same of all logs, the newest first, at most `limit`; of one token's where one is named.
    fn log_heads(&self, token: Option<&str>, limit: usize) -> Result<Vec<LogHeadRow>, StoreError>;
    /// The audit row of an item in a revision; none: it is not kept, or summed up with others.
    fn audit_of(&self, revision: Revision, key: &ItemKey) -> Result<Option<AuditRow>, StoreError>;
    /// Audit rows of a revision after `seq`, in order, at most `limit`.
    fn audit_in(
        &self,
        revision: Revision,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError>;
    /// Which past states can be made.
    fn past_head(&self) -> Result<PastHead, StoreError>;
    /// What the revisions after this one found of the items that they changed, the oldest revision
    /// first, by key within each; until `visit` says false.
    fn past_after(
        &self,
        revision: Revision,
        visit: &mut dyn FnMut(PastRow) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError>;
    /// The last revision up to this time, in milliseconds since the Unix epoch; none: it is not kept.
    fn revision_at(&self, unix_ms: u64) -> Result<Option<RevisionRow>, StoreError>;
    /// Sessions of the console.
    fn console_sessions(&self, of: SessionsOf<'_>) -> Result<Vec<SessionRow>, StoreError>;
    /// The engine's own line of time now, to compare with [`Meta::timeline`]; empty: it has none.
    fn timeline(&self) -> Result<String, StoreError> {
        Ok(String::new())
    }
}

/// A write transaction: a [`Reading`] that sees its own writes.
pub trait Writing: Reading {
    /// Creates or replaces an item; the row's revision is that of the transaction.
    fn put(&mut self, row: &Row) -> Result<(), StoreError>;
    /// Notes that files brought an item, and that nobody has changed it since; nothing where it has
    /// another digest.
    fn settle_origin(&mut self, key: &ItemKey, digest: Digest) -> Result<(), StoreError>;
    /// The same with all rows that [`Store::stage`] has laid aside, but for those of these keys.
    ///
    /// # Errors
    /// Rows that are not there any more: then nothing of the transaction may be kept.
    fn put_staged(
        &mut self,
        _staged: &Staged,
        _revision: Revision,
        _without: &[ItemKey],
    ) -> Result<(), StoreError> {
        Err(StoreError::Corrupt { what: "rows that were laid aside: none can be".to_owned() })
    }
    /// Removes an item; false: it was not there.
    fn delete(&mut self, key: &ItemKey) -> Result<bool, StoreError>;
    /// Sets a scope's digest and number of items; removes it at zero.
    fn scope(&mut self, scope: &ScopeRow) -> Result<(), StoreError>;
    /// Adds a change row of this transaction's revision.
    fn change(&mut self, row: &ChangeRow) -> Result<(), StoreError>;
    /// Notes that the revision's `count` change rows are not kept: [`Reading::changes_after`] a
    /// revision before it finds [`Changes::TooMany`].
    fn changes_left_out(&mut self, revision: Revision, count: usize) -> Result<(), StoreError>;
    /// Adds what this transaction's revision found of an item that it changes.
    fn past(&mut self, row: &PastRow) -> Result<(), StoreError>;
    /// Says that this is all of it. Without it, no state before the revision can be made any more.
    fn past_complete(&mut self) -> Result<(), StoreError>;
    /// Creates or replaces a token.
    fn token(&mut self, row: &TokenRow) -> Result<(), StoreError>;
    /// Goes on with an audit log of which the rows up to `at` are not here; `chain` is the one there. An
    /// error where it has rows.
    fn audit_begin(&mut self, log: &[u8; 16], at: u64, chain: &[u8; 32]) -> Result<(), StoreError>;
    /// Where the audit log was before this transaction's first row; none: it has added none.
    fn audit_from(&self) -> Option<(u64, [u8; 32])>;
    /// Keeps what was signed of the audit log, in place of what was signed before.
    fn put_audit_anchor(&mut self, anchor: &AuditAnchor) -> Result<(), StoreError>;
    /// Changes one request for access; no revision, no audit. False: it is not there, or there is no room.
    fn request_change(&mut self, change: &RequestChange) -> Result<bool, StoreError>;
    /// Adds an audit row, behind the last one.
    fn audit(&mut self, row: &AuditRow) -> Result<(), StoreError>;
    /// Makes this revision the head and drops change rows, revisions and audit beyond `keep`.
    fn advance(&mut self, row: &RevisionRow, keep: Retention) -> Result<(), StoreError>;
    /// Replaces what the store says about its history.
    fn set_meta(&mut self, meta: &Meta) -> Result<(), StoreError>;
    /// Notes where the line of revisions jumped; kept for ever. What is older than `resumed` is
    /// not caught up from any more.
    fn fork(&mut self, fork: Fork) -> Result<(), StoreError>;
    /// Sets the digest and number of the rows that belong to no service.
    fn set_sum(&mut self, of: Sum, row: SumRow) -> Result<(), StoreError>;
    /// Drops all rows of revisions and changes: a new history begins.
    fn forget_revisions(&mut self) -> Result<(), StoreError>;
    /// Creates or replaces a tombstone.
    fn put_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError>;
    /// Removes a tombstone, because its item is there again.
    fn remove_tombstone(&mut self, key: &ItemKey) -> Result<(), StoreError>;
    /// Adds a key with which access logs are signed; no revision, no audit.
    fn put_log_key(&mut self, row: &LogKeyRow) -> Result<(), StoreError>;
    /// Creates or replaces what was signed last of a log; no revision, no audit.
    fn put_log_head(&mut self, row: &LogHeadRow) -> Result<(), StoreError>;
    /// Notes when tokens were last used; no revision, no audit.
    fn touch(&mut self, used: &[TokenUse]) -> Result<(), StoreError>;
    /// Changes one session; no revision, no audit. False: it is not there, or there are too many. The
    /// sessions of a token end in the transaction that writes it as revoked ([`Writing::token`]).
    fn session_change(
        &mut self,
        change: &SessionChange,
        bounds: SessionBounds,
    ) -> Result<bool, StoreError>;
}

/// What another center told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How long ago, in milliseconds by the store's clock.
    pub age_ms: u64,
    /// As it was told.
    pub note: Vec<u8>,
}

/// Items laid aside in the engine, for a write transaction that begins later. Dropping it drops them.
pub struct Staged {
    /// What the engine calls them.
    name: String,
    rows: usize,
    /// Keeps them.
    _held: Box<dyn Send + Sync>,
}

impl Staged {
    /// How many items there are.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// What becomes of a write transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditVerdict {
    /// Durable when [`Store::write`] returns.
    Commit,
    /// As if nothing had been.
    Rollback,
}

/// The store of one or more centers.
pub trait Store: Send + Sync + 'static {
    /// Opens a read transaction. Dropping it ends it.
    fn read(&self) -> Result<Box<dyn Reading + '_>, StoreError>;
    /// Runs `work` in a write transaction, alone; an error rolls back.
    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<EditVerdict, StoreError>,
    ) -> Result<(), StoreError>;
    /// Lays many items aside, about `count`, in key order and each once, so that a later write
    /// transaction only has to take them over ([`Writing::put_staged`]): others wait for it less
    /// long. Their revisions are ignored. None: the engine has no use for it.
    fn stage(
        &self,
        _rows: &mut dyn Iterator<Item = Row>,
        _count: usize,
    ) -> Result<Option<Staged>, StoreError> {
        Ok(None)
    }
    /// Whether what is committed can still be found where it was: `Err` where the store was
    /// deleted or replaced beneath the center. Cheap; called at least once a second.
    fn confirm(&self) -> Result<(), StoreError>;
    /// Notes the newest acknowledged revision outside of the engine, durably. Called after each
    /// commit and before anyone hears of it; an engine that needs no such note does nothing.
    fn note_high(&self, mark: &Mark) -> Result<(), StoreError>;
    /// Whether there is room for more than the smallest write.
    fn has_room(&self) -> Result<(), StoreError>;
    /// Brings everything into its resting place before a clean exit.
    fn settle(&self) -> Result<(), StoreError>;
    /// Whether other centers may write to it, too: then a head that moved forward is normal.
    fn is_shared(&self) -> bool {
        false
    }
    /// Tells the other centers a note, in place of the last, until [`Store::settle`]; returns what each
    /// of them told last. Notes are not part of the state: a crash of the engine forgets them.
    fn exchange(&self, _note: &[u8]) -> Result<Vec<Told>, StoreError> {
        Ok(Vec::new())
    }
    /// Writes what this center saw of the last hour, in place of what it wrote of the same spans, and
    /// returns what others have written since this time, in milliseconds by the store's clock (0: all
    /// that is kept). In a transaction of its own, short or given up. None: the store is this center's
    /// alone, which keeps the hour in memory.
    fn exchange_hour(
        &self,
        _rows: &[SpanRow],
        _since_ms: u64,
    ) -> Result<Option<HourHeard>, StoreError> {
        Ok(None)
    }
    /// Waits until the head is another one than `known`, at most so long; returns the head that was
    /// read last.
    fn wait_head(&self, known: Revision, at_most: Duration) -> Result<Revision, StoreError> {
        let until = Instant::now() + at_most;
        loop {
            let head = self.read()?.head()?;
            let left = until.saturating_duration_since(Instant::now());
            if head != known || left.is_zero() {
                return Ok(head);
            }
            std::thread::sleep(left.min(HEAD_EVERY));
        }
    }
}

/// How often the head is read while it is waited for another one.
const HEAD_EVERY: Duration = Duration::from_millis(50);
