//! The indexed world at one revision.

use std::sync::Arc;

use crate::decision::{Decision, Query, QueryError};
use crate::digest::Digest;
use crate::model::{Delta, Revision, Snapshot};

/// An immutable, indexed state; a clone is cheap and shares everything.
#[derive(Clone, Debug, Default)]
pub struct World {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: Revision,
    digest: Digest,
}

/// A snapshot or delta that cannot become a world; the old world stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// The delta does not follow this revision.
    #[error("delta follows revision {expected}, the world is at {held}")]
    Gap {
        /// The delta's `previous`.
        expected: Revision,
        /// The world's revision.
        held: Revision,
    },
    /// The state after it has another digest than the center's.
    #[error("digest differs from the center's at revision {0}")]
    Digest(Revision),
    /// An item does not parse.
    #[error("{key}: {reason}")]
    Item {
        /// The item's kind and id.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl World {
    /// Builds the world of a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<World, WorldError> {
        let _ = snapshot;
        Ok(World::default())
    }

    /// The world after a delta; `self` is untouched and shares what did not change.
    pub fn apply(&self, delta: &Delta) -> Result<World, WorldError> {
        let _ = delta;
        Ok(self.clone())
    }

    /// The revision it shows.
    pub fn revision(&self) -> Revision {
        self.inner.revision
    }

    /// The digest of all its items.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Decides, exactly as Cedar's authorizer would on the same policies and entities.
    pub fn decide(&self, query: &Query<'_>) -> Result<Decision, QueryError> {
        Err(QueryError::UnknownService(query.service.to_owned()))
    }
}
