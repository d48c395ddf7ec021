//! A world, and the digest of the bytes that it came in.
//!
//! A center's digest is over the bytes that it sends. Another release may write an item in another
//! way that means the same; the digest of what is encoded anew here would then differ, and every
//! snapshot would be refused for good. So what is compared is the digest of what came.
//!
//! Nearly always both are the same and nothing more is kept. Of an item that differs (*odd*), the
//! difference is.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepgate_policy::mark::FORMAT;
use keepgate_policy::wire::{self, MAX_CHUNK_BYTES, WireError};
use keepgate_policy::world::WorldError;
use keepgate_policy::{Change, Digest, Item, ItemKey, Revision, Snapshot, World, proto};
use prost::Message as _;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    pub(super) world: World,
    /// Of the bytes that came.
    pub(super) digest: Digest,
    /// By how much the bytes' digest is ahead of that of the item encoded anew.
    odd: Arc<BTreeMap<ItemKey, Digest>>,
}

/// Why a snapshot or delta is not a world.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it does not decode")]
    Wire(#[from] WireError),
    #[error("it does not fit together")]
    World(#[from] WorldError),
    #[error("it became revision {came} with another digest, announced was {announced}")]
    Other { announced: Revision, came: Revision },
    #[error("its mark is missing or of another history than the stream's")]
    Mark,
    #[error("the work was lost with its thread")]
    Thread,
}

impl Received {
    /// A world that came as it is.
    pub(super) fn of(world: World) -> Received {
        Received { digest: world.digest(), world, odd: Arc::default() }
    }

    /// A snapshot that was decoded from these zstd frames. Services in `beyond` are left out.
    pub(super) fn from_snapshot(
        mut snapshot: Snapshot,
        frames: &[Vec<u8>],
        beyond: &BTreeMap<String, u32>,
    ) -> Result<Received, Unusable> {
        let digest = snapshot.digest;
        if !beyond.is_empty() {
            snapshot.items.retain(|item| !beyond.contains_key(&item.key.service));
        } else {
            match World::from_snapshot(&snapshot) {
                Ok(world) => {
                    let world = at(world, snapshot.revision)?;
                    return Ok(Received { world, digest, odd: Arc::default() });
                }
                Err(WorldError::Digest(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let own = Digest::of_all(&snapshot.items);
        let world = World::from_items(snapshot.revision, own, &snapshot.items)?;
        let world = at(world, snapshot.revision)?;
        let odd = odd_of(frames, beyond)?;
        if beyond.is_empty() && sum(&odd).plus(own) != digest {
            return Err(WorldError::Digest(snapshot.revision).into());
        }
        Ok(Received { world, digest, odd: Arc::new(odd) })
    }

    /// The state after a delta. Without `whole`, what is announced is believed: parts of what came
    /// were left out.
    pub(super) fn apply(&self, mut delta: proto::Delta, whole: bool) -> Result<Received, Unusable> {
        let announced = Digest::from_bytes(&delta.digest);
        delta.digest.clear();
        let mut came = Vec::new();
        for change in &delta.changes {
            if let Some(proto::change::Change::Put(item)) = &change.change {
                came.push(Digest::of_encoded(&wire::key_from_proto(item.key.clone())?, &item.body));
            }
        }
        let delta = wire::delta_from_proto(delta)?;
        let mut odd = Arc::clone(&self.odd);
        let mut came = came.into_iter();
        for change in &delta.changes {
            let (key, difference) = match change {
                Change::Put(item) => {
                    let came = came.next().unwrap_or_default();
                    (&item.key, came.minus(Digest::of(item)))
                }
                Change::Delete(key) => (key, Digest::default()),
            };
            if difference != Digest::default() {
                Arc::make_mut(&mut odd).insert(key.clone(), difference);
            } else if odd.contains_key(key) {
                Arc::make_mut(&mut odd).remove(key);
            }
        }
        let world = at(self.world.apply(&delta)?, delta.revision)?;
        let own = world.digest().plus(sum(&odd));
        let digest = match announced {
            Some(announced) if whole && announced != own => {
                return Err(WorldError::Digest(delta.revision).into());
            }
            Some(announced) => announced,
            None if whole => own,
            None => self.digest,
        };
        Ok(Received { world, digest, odd })
    }
}

fn at(world: World, announced: Revision) -> Result<World, Unusable> {
    let came = world.revision();
    if came == announced { Ok(world) } else { Err(Unusable::Other { announced, came }) }
}

fn sum(odd: &BTreeMap<ItemKey, Digest>) -> Digest {
    odd.values().fold(Digest::default(), |sum, one| sum.plus(*one))
}

fn odd_of(
    frames: &[Vec<u8>],
    beyond: &BTreeMap<String, u32>,
) -> Result<BTreeMap<ItemKey, Digest>, WireError> {
    let mut odd = BTreeMap::new();
    for (chunk, frame) in frames.iter().enumerate() {
        let bytes = zstd::bulk::decompress(frame, MAX_CHUNK_BYTES)
            .map_err(|source| WireError::Zstd { chunk: chunk as u64, source })?;
        for item in proto::Items::decode(bytes.as_slice())?.items {
            let key = wire::key_from_proto(item.key)?;
            if item.needs > FORMAT || beyond.contains_key(&key.service) {
                continue;
            }
            let came = Digest::of_encoded(&key, &item.body);
            let own = Digest::of(&Item::decode(key.clone(), &item.body)?);
            if came != own {
                odd.insert(key, came.minus(own));
            }
        }
    }
    Ok(odd)
}
