//! Snapshots in the bytes that followers get, made at most once for many of them.
//!
//! A snapshot of a scope is kept and served again as long as the store still has all changes
//! since: its receiver catches up with deltas. So a fleet that restarts costs one reading of the
//! store a scope, not one a gate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keepgate_policy::wire::{ChunkWriter, WireError};
use keepgate_policy::{Digest, Mark, Revision};
use tokio::sync::Semaphore;

use super::frame;
use crate::desk::{Desk, Refusal, Scope};
use crate::store::{Reading, StoreError};

/// Scopes whose snapshot is kept.
const KEPT: usize = 16;

/// A kept snapshot is made anew when it is this many revisions old.
const STALE_REVISIONS: u64 = 512;

/// Snapshots that may be made at the same time: one reads while one compresses.
const MAKERS: usize = 2;

/// A snapshot, ready to send.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The revision it shows.
    pub(crate) revision: Revision,
    /// Whether its items need more than release 0.1 understands.
    pub(crate) newer: bool,
    /// Begin, chunks, end.
    pub(crate) frames: Vec<Bytes>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Snapshots {
    kept: Mutex<HashMap<Scope, Arc<Encoded>>>,
    makers: Semaphore,
}

impl Snapshots {
    pub(crate) fn new() -> Snapshots {
        Snapshots { kept: Mutex::default(), makers: Semaphore::new(MAKERS) }
    }

    /// A snapshot that is recent enough to be caught up from; one that is at `at_least`
    /// or later (as far as there is a later).
    pub(crate) async fn of(
        &self,
        desk: &Desk,
        scope: &Scope,
        at_least: Revision,
    ) -> Result<Arc<Encoded>, Refusal> {
        if let Some(kept) = self.kept(desk, scope, at_least) {
            return Ok(kept);
        }
        let _permit = self.makers.acquire().await.map_err(|_| Refusal::Closed)?;
        // Another follower may have made it while this one waited.
        if let Some(kept) = self.kept(desk, scope, at_least) {
            return Ok(kept);
        }
        let wanted = scope.clone();
        let made = Arc::new(desk.read(move |store| Ok(make(store, &wanted)?)).await?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT && !kept.contains_key(scope) {
            let oldest = kept.iter().min_by_key(|(_, encoded)| encoded.revision);
            if let Some(oldest) = oldest.map(|(scope, _)| scope.clone()) {
                kept.remove(&oldest);
            }
        }
        kept.insert(scope.clone(), Arc::clone(&made));
        Ok(made)
    }

    fn kept(&self, desk: &Desk, scope: &Scope, at_least: Revision) -> Option<Arc<Encoded>> {
        let head = desk.head().revision;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let encoded = kept.get(scope)?;
        let age = head.0.checked_sub(encoded.revision.0)?;
        let good = age <= STALE_REVISIONS && encoded.revision >= at_least.min(head);
        good.then(|| Arc::clone(encoded))
    }
}

/// The sealed mark of the revision that a reading shows.
pub(crate) fn head_mark(store: &dyn Reading) -> Result<Mark, StoreError> {
    let head = store.head()?;
    let row = store.revision(head)?.ok_or_else(|| StoreError::Corrupt {
        what: format!("there is no row of revision {head}"),
    })?;
    Ok(store.meta()?.mark(head, row.chain))
}

/// Reads and compresses a scope. Blocks.
fn make(store: &dyn Reading, scope: &Scope) -> Result<Encoded, StoreError> {
    let mark = head_mark(store)?;
    let revision = mark.revision;
    let mut newer = false;
    let scopes: Vec<_> =
        store.scopes()?.into_iter().filter(|row| scope.covers(&row.service)).collect();
    let digest = scopes.iter().fold(Digest::default(), |sum, row| sum.plus(row.digest));
    let items = scopes.iter().map(|row| row.items).sum();
    let mut frames = vec![frame::snapshot_begin(&mark, digest, items)];
    let mut writer = ChunkWriter::new();
    for row in &scopes {
        store.each(&row.service, &mut |row| {
            newer |= row.needs > 1;
            let full = writer.push_encoded(&row.key, row.body, row.needs).map_err(unsendable)?;
            frames.extend(full.map(frame::snapshot_chunk));
            Ok(())
        })?;
    }
    let (last, end) = writer.finish().map_err(unsendable)?;
    frames.extend(last.map(frame::snapshot_chunk));
    frames.push(frame::snapshot_end(end));
    Ok(Encoded { revision, newer, frames })
}

fn unsendable(e: WireError) -> StoreError {
    StoreError::Corrupt { what: keepgate_observe::chain(&e) }
}
