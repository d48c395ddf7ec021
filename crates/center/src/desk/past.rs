//! Past states: made from the present one and from what revisions found before they changed it.
//!
//! INVARIANT: a state is made whole or not at all. What is out of retention is refused by name, with what
//! there is; nothing is guessed.

use std::collections::BTreeMap;

use keepgate_policy::{Change, Digest, Item, ItemKey, Revision, World};

use super::Refusal;
use crate::store::{PastItem, Reading, RevisionRow, StoreError};

/// Items that may differ between a past state and the present one.
pub(crate) const MOST_ITEMS: usize = 200_000;

/// Bytes of their bodies.
pub(crate) const MOST_BYTES: usize = 128 << 20;

/// Which state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Revision(Revision),
    /// Milliseconds since the Unix epoch.
    UnixMs(u64),
}

/// Items as they were at a revision, of all that were changed after it; none: it was not there.
pub(crate) type Images = BTreeMap<ItemKey, Option<PastItem>>;

/// The revision of a state that can be made.
pub(crate) fn find(store: &dyn Reading, wanted: Wanted) -> Result<RevisionRow, Refusal> {
    let head = store.head()?;
    let oldest = store.past_head()?.reaches(head);
    let unfit = |what: String| Err(Refusal::Unfit(what));
    let kept = || -> Result<String, StoreError> {
        let at = store.revision(oldest)?.map_or(0, |row| row.unix_ms);
        let at = keepgate_policy::instant::to_text(at / 1_000);
        Ok(format!("past states are kept from revision {oldest} ({at}) to {head}"))
    };
    let row = match wanted {
        Wanted::Revision(wanted) if wanted > head => {
            return unfit(format!("there is no revision {wanted} yet: the newest is {head}"));
        }
        Wanted::Revision(wanted) if wanted < oldest => {
            return unfit(format!("revision {wanted} is out of retention: {}", kept()?));
        }
        Wanted::Revision(wanted) => match store.revision(wanted)? {
            Some(row) => row,
            None => {
                return unfit(format!("there was no revision {wanted}: {}", kept()?));
            }
        },
        Wanted::UnixMs(unix_ms) => {
            let shown = keepgate_policy::instant::to_text(unix_ms / 1_000);
            if unix_ms / 1_000 > keepgate_observe::unix_s() {
                return unfit(format!("{shown} has not come yet"));
            }
            match store.revision_at(unix_ms)?.filter(|row| row.revision >= oldest) {
                Some(row) => row,
                None => {
                    return unfit(format!("{shown} is out of retention: {}", kept()?));
                }
            }
        }
    };
    Ok(row)
}

/// What was changed after a revision, up to another one, as it was at the first. Which states can be
/// made has been asked before, in the same transaction.
pub(crate) fn images(
    store: &dyn Reading,
    after: Revision,
    through: Revision,
) -> Result<Images, Refusal> {
    let mut found = Images::new();
    let (mut bytes, mut too_many) = (0, false);
    store.past_after(after, &mut |row| {
        if row.revision > through {
            return Ok(false);
        }
        // The first change after it found the item as it was.
        if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(row.key) {
            bytes += row.before.as_ref().map_or(0, |before| before.body.len());
            entry.insert(row.before);
        }
        too_many = found.len() > MOST_ITEMS || bytes > MOST_BYTES;
        Ok(!too_many)
    })?;
    if too_many {
        return Err(Refusal::Unfit(format!(
            "more than {MOST_ITEMS} items, or {} MiB of them, were changed after revision {after}: \
             name a later one",
            MOST_BYTES >> 20
        )));
    }
    Ok(found)
}

/// The state of a revision, made from that of a later one; and since which revision the items were as
/// they were then that have changed meanwhile.
pub(crate) fn state(
    store: &dyn Reading,
    present: &World,
    revision: Revision,
) -> Result<(World, BTreeMap<ItemKey, Revision>), Refusal> {
    let mut since = BTreeMap::new();
    if revision >= present.revision() {
        return Ok((present.clone(), since));
    }
    let images = images(store, revision, present.revision())?;
    let changes = images.into_iter().map(|(key, was)| match was {
        None => Ok((Change::Delete(key), Digest::default())),
        Some(was) => {
            since.insert(key.clone(), was.since);
            let item = decoded(key, &was)?;
            Ok((Change::Put(item), was.digest))
        }
    });
    let world = present.changed::<Refusal>(revision, changes)?;
    Ok((world, since))
}

/// An item as it was. A row that does not have its digest is damaged.
pub(crate) fn decoded(key: ItemKey, was: &PastItem) -> Result<Item, Refusal> {
    if Digest::of_encoded(&key, &was.body) != was.digest {
        let what = format!("{key}, as it was at revision {}, does not have its digest", was.since);
        return Err(StoreError::Corrupt { what }.into());
    }
    Ok(Item::decode(key, &was.body).map_err(StoreError::from)?)
}
