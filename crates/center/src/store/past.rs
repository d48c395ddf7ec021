//! What revisions found before they changed it: from the present state and these rows, the state of
//! any revision since [`PastHead::oldest`] can be made.
//!
//! INVARIANT: the rows are complete for every revision after `oldest` up to `through`. A revision
//! whose rows are not written makes itself the oldest, so that nothing is made from what is not there.

use keepgate_policy::{Digest, ItemKey, Revision};

use super::{Retention, RevisionRow, StoreError};

/// What a revision found of an item that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRow {
    /// The revision that changed it.
    pub revision: Revision,
    /// What was changed.
    pub key: ItemKey,
    /// As it was; none: it was not there.
    pub before: Option<PastItem>,
}

/// An item as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastItem {
    /// Canonical JSON.
    pub body: Vec<u8>,
    /// Its contribution to the digest of its scope.
    pub digest: Digest,
    /// The revision that had changed it last.
    pub since: Revision,
}

/// Bytes that a row costs besides its texts.
const OVERHEAD: u64 = 96;

impl PastRow {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> u64 {
        let body = self.before.as_ref().map_or(0, |before| before.body.len());
        (self.key.service.len() + self.key.id.len() + body) as u64 + OVERHEAD
    }
}

/// Which states can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PastHead {
    /// The oldest revision whose state can be made.
    pub oldest: Revision,
    /// The last revision whose rows are there; where that is not the head, no past state can be made.
    pub through: Revision,
    /// Bytes of the rows that are kept.
    pub bytes: u64,
}

impl PastHead {
    /// The oldest revision whose state can be made in a store with this head.
    pub fn reaches(&self, head: Revision) -> Revision {
        if self.through == head { self.oldest.min(head) } else { head }
    }
}

/// A revision that follows another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    pub(super) revision: Revision,
    pub(super) unix_ms: u64,
    /// Bytes of its rows.
    pub(super) bytes: u64,
}

/// What an engine does for [`advance`].
pub(super) trait Engine {
    /// What is kept, with what follows the oldest.
    fn standing(&self) -> Result<(PastHead, Option<Following>), StoreError>;
    fn set_past_head(&self, head: &PastHead) -> Result<(), StoreError>;
    /// The first revision after this one, with its row.
    fn following(&self, after: Revision) -> Result<Option<Following>, StoreError>;
    /// Removes rows of revisions up to this one, at least [`DROPPED`] where there are so many.
    fn drop_past(&self, through: Revision) -> Result<(), StoreError>;
}

/// Rows that are removed at a time: more than a revision writes, so that none are left for long.
pub(super) const DROPPED: i64 = 20_000;

/// Rows written by a transaction so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// Whether they are all.
    pub(super) complete: bool,
    pub(super) bytes: u64,
}

/// Goes on to a revision, after its row is written, and lets go what is beyond the bounds.
pub(super) fn advance(
    engine: &impl Engine,
    noted: Noted,
    row: &RevisionRow,
    keep: Retention,
) -> Result<(), StoreError> {
    let (mut head, mut next) = engine.standing()?;
    let was = head.oldest;
    if head.through != row.previous {
        // Something else wrote in between: what is there leads nowhere.
        head = PastHead { oldest: row.previous, through: row.previous, bytes: 0 };
    }
    head.through = row.revision;
    head.bytes = head.bytes.saturating_add(noted.bytes);
    if !noted.complete {
        (head.oldest, head.bytes) = (row.revision, 0);
    }
    let kept_from = row.revision.0.saturating_sub(keep.revisions).saturating_add(1);
    if head.oldest != was {
        next = engine.following(head.oldest)?;
    }
    while let Some(following) = next {
        // The state of a revision lasts until the next one.
        let too_old = following.unix_ms.saturating_add(keep.past_ms) <= row.unix_ms;
        if !(too_old || head.oldest.0 < kept_from || head.bytes > keep.past_bytes) {
            break;
        }
        head.oldest = following.revision;
        head.bytes = head.bytes.saturating_sub(following.bytes);
        next = engine.following(head.oldest)?;
    }
    engine.set_past_head(&head)?;
    if head.oldest > was {
        engine.drop_past(head.oldest)?;
    }
    Ok(())
}
