//! Taking on snapshots and deltas: what comes is checked, and published whole or not at all.
//!
//! A snapshot may be older than what is held (centers serve one of the last few hundred revisions,
//! and deltas after it). Such a one is *staged* until deltas have brought it to what is held.
//!
//! A service that has settings which only a newer release understands is *held back*: the last
//! state that was understood goes on deciding for it and grows old, while the other services go on.
//! Where it is the only one, or the directory, nothing of what comes is published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepgate_policy::mark::FORMAT;
use keepgate_policy::wire::{self, SnapshotDecoder};
use keepgate_policy::{Digest, HistoryId, Mark, Revision, proto};

use super::Published;
use super::age::Currency;
use super::follow::{Follower, Resync};
use super::received::{Received, Unusable};
use super::say::Applied;
use super::standing::Standing;

/// A delta with more changes is applied on a thread where that may take a while.
const MAX_INLINE_CHANGES: usize = 64;
/// Deltas kept for the disk while a snapshot is staged; beyond, the disk asks for another.
const MAX_STAGED_DELTAS: usize = 1024;
/// What was not understood is asked for again after this many of the longest pauses (a minute).
const RETRY_PAUSES: u32 = 60;

/// What a stream has brought so far.
pub(super) struct Taking {
    /// The stream's history, fixed by its Welcome.
    history: HistoryId,
    staged: Option<Staged>,
    /// Services that need a newer release, as of the last snapshot or delta; the format they need.
    beyond: BTreeMap<String, u32>,
    /// Since when changes to them were left out; none: there were none.
    left_out: Option<Instant>,
}

/// A snapshot that is behind what is published.
struct Staged {
    published: Published,
    mark: Mark,
    /// For the disk.
    begin: proto::SnapshotBegin,
    chunks: Vec<Vec<u8>>,
    deltas: Vec<(Vec<u8>, Mark, Digest)>,
}

impl Taking {
    /// At the beginning of a stream that goes on from `held`: what is held back stays so until a
    /// snapshot shows that all is understood.
    pub(super) fn new(history: HistoryId, held: &Published) -> Taking {
        let beyond = held.held_back.keys().map(|service| (service.clone(), FORMAT + 1)).collect();
        Taking { history, staged: None, beyond, left_out: None }
    }

    /// Whether a snapshot may show that all is understood again.
    pub(super) fn is_retry_due(&mut self, pause: Duration) -> bool {
        self.left_out.is_some_and(|since| since.elapsed() >= pause * RETRY_PAUSES)
    }

    fn leave_out(&mut self) {
        self.left_out.get_or_insert_with(Instant::now);
    }

    /// The mark of a message of this stream.
    fn mark(&self, mark: Option<&proto::Mark>, revision: u64) -> Result<Mark, Unusable> {
        let mark = mark.ok_or(Unusable::Mark)?;
        let mark = Mark::from_proto(mark).map_err(|_| Unusable::Mark)?;
        let fits = mark.history == self.history && mark.revision.0 == revision;
        if fits { Ok(mark) } else { Err(Unusable::Mark) }
    }
}

impl Follower {
    pub(super) async fn finish(
        &mut self,
        taking: &mut Taking,
        incoming: Incoming,
        end: proto::SnapshotEnd,
    ) -> Result<Option<Applied>, Resync> {
        let Incoming { begin, decoder, chunks } = incoming;
        let mark = taking.mark(begin.mark.as_ref(), begin.revision).map_err(Resync::Snapshot)?;
        let beyond = decoder.beyond().clone();
        taking.beyond.clone_from(&beyond);
        let left_out = beyond.clone();
        let built = self.shared.mason.build(move || {
            let snapshot = decoder.finish(&end)?;
            Ok((Received::from_snapshot(snapshot, &chunks, &left_out)?, chunks))
        });
        let (state, chunks) = built.await.map_err(Resync::Snapshot)?;
        taking.left_out = None;
        if self.block(taking) {
            return Ok(None);
        }

        let before = self.shared.published.load_full();
        let held = before.state.world.revision();
        let published = Published {
            state,
            received: true,
            mark: Some(mark),
            currency: Currency::default(),
            held_back: held_back(&before, &beyond),
        };
        let continues = match before.mark {
            Some(held) => held.history == taking.history,
            None => true,
        };
        if before.received
            && before.mark.is_some_and(|held| {
                held.revision == mark.revision && continues && held.chain != mark.chain
            })
        {
            return Err(Resync::Regression { head: mark.revision, held });
        }
        let staged = Staged { published, mark, begin, chunks, deltas: Vec::new() };
        if before.received && mark.revision < held && continues {
            taking.staged = Some(staged);
            return Ok(None);
        }
        if before.received && !continues {
            // A declared successor continues above everything that was ever told.
            if mark.revision <= held {
                return Err(Resync::Regression { head: mark.revision, held });
            }
            let (from, to) = (before.mark.map(|mark| mark.to_string()), mark);
            tracing::warn!(from, %to, "the center declared a successor of its history; following it");
        }
        Ok(Some(self.show(staged, &before, continues)))
    }

    pub(super) async fn delta(
        &mut self,
        taking: &mut Taking,
        mut delta: proto::Delta,
    ) -> Result<Option<Applied>, Resync> {
        for (service, needs) in wire::delta_beyond(&delta) {
            let known = taking.beyond.entry(service).or_default();
            *known = needs.max(*known);
        }
        if self.block(taking) {
            taking.leave_out();
            return Ok(None);
        }
        let mark = taking.mark(delta.mark.as_ref(), delta.revision).map_err(Resync::Delta)?;
        let before = self.shared.published.load_full();
        let base = match &taking.staged {
            Some(staged) => staged.published.state.clone(),
            None => before.state.clone(),
        };
        let at = base.world.revision();
        if taking.staged.is_none() {
            if before.mark.is_some_and(|held| held.history != taking.history) {
                return Err(Resync::Order("a delta before the successor's snapshot"));
            }
            if !before.received {
                return Err(Resync::Gap { previous: Revision(delta.previous), held: at });
            }
        }
        if Revision(delta.previous) != at {
            return Err(Resync::Gap { previous: Revision(delta.previous), held: at });
        }
        let is_for_disk = self.disk.is_some();
        let encoded = |delta: &proto::Delta| prost::Message::encode_to_vec(delta);
        let is_whole = taking.beyond.is_empty() && before.held_back.is_empty();
        let mut bytes = None;
        if !is_whole {
            bytes = is_for_disk.then(|| encoded(&delta));
            let had = delta.changes.len();
            delta.changes.retain(|change| {
                let service = service_of(change);
                !taking.beyond.contains_key(service) && !before.held_back.contains_key(service)
            });
            if delta.changes.len() != had {
                taking.leave_out();
            }
        }
        let large = delta.changes.len() > MAX_INLINE_CHANGES;
        let apply = move || {
            let bytes = bytes.or_else(|| is_for_disk.then(|| encoded(&delta)));
            base.apply(delta, is_whole).map(|state| (state, bytes))
        };
        let after = if large { self.shared.mason.build(apply).await } else { apply() };
        let (state, bytes) = after.map_err(Resync::Delta)?;
        let digest = state.digest;
        self.shared.counters.deltas.add(1);

        if let Some(staged) = &mut taking.staged {
            staged.published.state = state;
            staged.published.mark = Some(mark);
            staged.mark = mark;
            if let Some(bytes) = bytes {
                staged.deltas.push((bytes, mark, digest));
            }
            if mark.revision < before.state.world.revision() {
                return Ok(None);
            }
            return Ok(taking.staged.take().map(|staged| self.show(staged, &before, true)));
        }
        let held_back = held_back(&before, &taking.beyond);
        self.note_held_back(held_back.len());
        let currency = Currency::new(before.currency.at());
        let is_kept = held_back.is_empty();
        self.shared.publish(Published {
            state,
            received: true,
            mark: Some(mark),
            currency,
            held_back,
        });
        tracing::debug!(%mark, "delta published");
        if let (Some(disk), Some(bytes), true) = (&mut self.disk, bytes, is_kept) {
            disk.delta(bytes, mark, digest);
        }
        Ok(Some(Applied { mark, digest }))
    }

    /// Publishes a snapshot and what was staged after it.
    fn show(&mut self, staged: Staged, before: &Published, continues: bool) -> Applied {
        let Staged { mut published, mark, begin, chunks, deltas } = staged;
        let digest = published.state.digest;
        if continues && before.received {
            // Along the line: what was in the world before is in this one.
            published.currency = Currency::new(before.currency.at());
        }
        let is_kept = published.held_back.is_empty();
        self.note_held_back(published.held_back.len());
        self.shared.publish(published);
        self.shared.counters.snapshots.add(1);
        tracing::info!(%mark, items = begin.items, "snapshot published");
        if let (Some(disk), true, true) =
            (&mut self.disk, is_kept, deltas.len() <= MAX_STAGED_DELTAS)
            && let Some(Ok(first)) = begin.mark.as_ref().map(Mark::from_proto)
        {
            disk.snapshot(&begin, first, chunks);
            for (bytes, mark, digest) in deltas {
                disk.delta(bytes, mark, digest);
            }
        }
        Applied { mark, digest }
    }

    /// Whether nothing can be taken on, because what needs a newer release is all there is.
    fn block(&self, taking: &Taking) -> bool {
        let Some((service, needs)) = taking.beyond.first_key_value() else {
            if matches!(**self.shared.standing.load(), Standing::NeedsUpgrade { .. }) {
                self.shared.standing.store(Arc::new(Standing::Following));
            }
            return false;
        };
        let standing = Standing::NeedsUpgrade { service: service.clone(), needs: *needs };
        if **self.shared.standing.load() != standing {
            tracing::error!(%standing, "the center has what this release does not understand");
            self.shared.standing.store(Arc::new(standing));
        }
        // The directory is part of every decision.
        let all = taking.beyond.contains_key("") || self.shared.services.len() == 1;
        if all {
            self.note_held_back(taking.beyond.len());
        }
        all
    }

    fn note_held_back(&self, services: usize) {
        self.shared.counters.set_held_back(services);
    }
}

/// The last understood state of each service that is held back now.
fn held_back(
    before: &Arc<Published>,
    beyond: &BTreeMap<String, u32>,
) -> BTreeMap<String, Arc<Published>> {
    let mut held = BTreeMap::new();
    for service in beyond.keys() {
        let older = match before.held_back.get(service) {
            Some(older) => Arc::clone(older),
            None => Arc::clone(before),
        };
        held.insert(service.clone(), older);
    }
    held
}

fn service_of(change: &proto::Change) -> &str {
    use proto::change::Change;
    let key = match &change.change {
        Some(Change::Put(item)) => item.key.as_ref(),
        Some(Change::Delete(key)) => Some(key),
        None => None,
    };
    key.map_or("", |key| &key.service)
}

/// A snapshot on its way.
pub(super) struct Incoming {
    pub(super) begin: proto::SnapshotBegin,
    pub(super) decoder: SnapshotDecoder,
    /// As they came.
    pub(super) chunks: Vec<Vec<u8>>,
}

impl Incoming {
    pub(super) fn chunk(mut self, chunk: proto::SnapshotChunk) -> Result<Incoming, Unusable> {
        self.decoder.chunk(&chunk)?;
        self.chunks.push(chunk.zstd);
        Ok(self)
    }
}
