//! What a center keeps, behind a trait: items, changes, tokens, audit.
//!
//! A store knows rows, never their meaning: bodies are opaque bytes, policies are not parsed
//! here, and no clock is read (times are arguments, in milliseconds or seconds since the Unix
//! epoch as the field says). All calls block; the [`crate::desk`] makes them off the runtime.
//!
//! INVARIANT: one committed write transaction is one revision. Whatever a [`Reading`] returns is
//! the state at the one revision it was opened at. A second engine joins by passing the
//! conformance suite in `tests/it/store_conformance.rs`.

mod sqlite;

use keepgate_policy::{Digest, ItemKey, Kind, Revision};

pub use sqlite::SqliteStore;

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
    /// Seconds since the Unix epoch; none: still good.
    pub revoked_unix_s: Option<u64>,
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

/// How much history a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Revisions whose change rows are kept; older followers get a snapshot.
    pub revisions: u64,
    /// Audit rows kept.
    pub audit_rows: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { revisions: 10_000, audit_rows: 1_000_000 }
    }
}

/// The store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another center holds the data directory.
    #[error(
        "data directory `{dir}` is in use by another center{holder}; stop it or choose another \
         directory"
    )]
    Locked {
        /// The directory.
        dir: String,
        /// ` (process N)` where known.
        holder: String,
    },
    /// A file operation failed.
    #[error("cannot {what} `{path}`")]
    Io {
        /// What was tried: `create`, `open`, `lock`.
        what: &'static str,
        /// The file or directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database engine failed.
    #[error("the database failed while {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// The engine's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store has another layout than this release knows.
    #[error("the store has layout {found}, this release knows {known}; use a newer release")]
    Layout {
        /// Found in the store.
        found: i64,
        /// What this release reads.
        known: i64,
    },
    /// A row does not say what it must.
    #[error("corrupt store: {what}")]
    Corrupt {
        /// Which row and what about it.
        what: String,
    },
}

/// A read transaction: everything it returns is the state at one revision.
pub trait Reading {
    /// That revision.
    fn head(&self) -> Result<Revision, StoreError>;
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
}

/// A write transaction: a [`Reading`] that sees its own writes.
pub trait Writing: Reading {
    /// Creates or replaces an item; the row's revision is that of the transaction.
    fn put(&mut self, row: &Row) -> Result<(), StoreError>;
    /// Removes an item; false: it was not there.
    fn delete(&mut self, key: &ItemKey) -> Result<bool, StoreError>;
    /// Sets a scope's digest and number of items; removes it at zero.
    fn scope(&mut self, scope: &ScopeRow) -> Result<(), StoreError>;
    /// Adds a change row of this transaction's revision.
    fn change(&mut self, row: &ChangeRow) -> Result<(), StoreError>;
    /// Creates or replaces a token.
    fn token(&mut self, row: &TokenRow) -> Result<(), StoreError>;
    /// Adds an audit row.
    fn audit(&mut self, row: &AuditRow) -> Result<(), StoreError>;
    /// Makes `revision` the head, at `unix_ms`, and drops history beyond `keep`.
    fn advance(
        &mut self,
        revision: Revision,
        unix_ms: u64,
        keep: Retention,
    ) -> Result<(), StoreError>;
    /// Notes when tokens were last used; no revision, no audit.
    fn touch(&mut self, used: &[(String, u64)]) -> Result<(), StoreError>;
}

/// What becomes of a write transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
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
        work: &mut dyn FnMut(&mut dyn Writing) -> Result<Verdict, StoreError>,
    ) -> Result<(), StoreError>;
    /// Brings everything into its resting place before a clean exit.
    fn settle(&self) -> Result<(), StoreError>;
}
