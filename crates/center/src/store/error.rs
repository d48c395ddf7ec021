//! Why a store cannot do it, with the way out.

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
    #[error(
        "the store has layout {found}, expected {known}; a lower one is migrated by `keepgate center`, \
         a higher one needs a newer release"
    )]
    Layout {
        /// Found in the store.
        found: i64,
        /// What this release reads.
        known: i64,
    },
    /// A row does not say what it must.
    #[error(
        "the store is damaged: {what}; restore a backup (`keepgate center restore FILE`) or take a \
         replica from a gate's host (`keepgate center recover --from FILE`)"
    )]
    Corrupt {
        /// Which row and what about it.
        what: String,
    },
    /// No space is left. Nothing of the write is kept; space brings the store back.
    #[error("no space is left for the store while {doing}; free some space on its file system")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is on the disk is not what this center may serve.
    #[error("refused: {fault}: `{file}`: expected {expected}, found {found}; {way_out}")]
    Refused {
        /// In which way it is not.
        fault: Fault,
        /// The file.
        file: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
        /// The commands that lead out.
        way_out: String,
    },
    /// The store is not at the revision that was told last: it was rolled back, or written to by
    /// another program, while the center ran.
    #[error(
        "acknowledged state is lost: expected the store at revision {expected}, which was \
         acknowledged, found {found}: it was changed beneath the running center, or its server failed over \
         to one that had not received it; stop the center, then restore a backup (`keepgate center \
         restore FILE`), take a replica from a gate's host (`keepgate center recover --from FILE`), or \
         accept the loss (`keepgate center accept-loss`)"
    )]
    Moved {
        /// The newest acknowledged revision.
        expected: String,
        /// What the store has.
        found: String,
    },
    /// The commit is durable but could not be noted in `center.high`, so nobody may hear of it yet.
    #[error(
        "a revision is stored but could not be noted in `{path}`; no further change lands until it \
         is"
    )]
    HighWater {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The commit failed and was taken back. Should the process end before the next commit, its
    /// revision may be found at the next start all the same: nobody knows.
    #[error("the commit failed and was taken back")]
    Unknown {
        /// The engine's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The commit was sent, and whether it happened is not known: no answer came in time, the
    /// connection broke, or a standby did not confirm it. [`super::Reading::written`] tells, once the
    /// write lock can be had again: what is not found under the lock never happened.
    #[error(
        "the outcome of the commit is not known{}; look it up by its write id before you repeat it",
        named(.write_id.as_ref())
    )]
    Outcome {
        /// That of the revision; none: the transaction made no revision.
        write_id: Option<[u8; 16]>,
        /// Why it is not known.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database server refused, in a way that has a name.
    #[error("the database failed while {doing}: {says}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What it means and what leads out.
        says: &'static str,
        /// The server's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Prepared statements of one session met another server connection: there is a pooler between.
    #[error(
        "the database's pooler does not keep prepared statements while {doing}: add `prepared=false` \
         to the database URL, or let the pooler keep sessions (PgBouncer: `pool_mode = session`, or \
         release 1.21 with `max_prepared_statements`)"
    )]
    Pooler {
        /// What was being done.
        doing: &'static str,
        /// The server's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The write id of a commit, for a message.
fn named(write_id: Option<&[u8; 16]>) -> String {
    let Some(write_id) = write_id else { return String::new() };
    let hex: String = write_id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(" (write id {hex})")
}

impl StoreError {
    /// Whether it is for want of space.
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Full { .. } => true,
            StoreError::Io { source, .. } | StoreError::HighWater { source, .. } => {
                is_storage_full(source)
            }
            _ => false,
        }
    }

    /// Whether writing failed in a way that may pass.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            StoreError::HighWater { .. }
                | StoreError::Database { .. }
                | StoreError::Unknown { .. }
                | StoreError::Outcome { .. }
                | StoreError::Server { .. }
                | StoreError::Io { .. }
        )
    }

    /// Whether the store is not there any more: acknowledged state is lost.
    pub fn is_lost(&self) -> bool {
        matches!(self, StoreError::Refused { fault: Fault::Lost, .. } | StoreError::Moved { .. })
    }
}

pub(super) fn is_storage_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// In which way a store is not what a center may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Acknowledged revisions are not there.
    Lost,
    /// The files were copied from elsewhere, or restored file by file.
    Copied,
    /// Bytes were altered.
    Damaged,
    /// The files do not belong together.
    Mixed,
    /// The contents were moved to another center.
    Retired,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Lost => "acknowledged state is lost",
            Fault::Copied => "the data directory is a copy",
            Fault::Damaged => "the store is damaged",
            Fault::Mixed => "the files do not belong together",
            Fault::Retired => "this center was moved",
        })
    }
}

impl From<keepgate_policy::item::DecodeError> for StoreError {
    /// What is stored was checked before: one that cannot be read is damage.
    fn from(error: keepgate_policy::item::DecodeError) -> StoreError {
        StoreError::Corrupt { what: keepgate_observe::chain(&error) }
    }
}
