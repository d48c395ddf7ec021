//! Principals that ask again and again, looked up once.
//!
//! A table of fixed size in which each principal has a few places. Who comes a second time soon is kept;
//! who comes once costs no more than a hash, so that many who come once do not make it slower.

use std::fmt;
use std::sync::Arc;

use super::names::hash_entity;
use super::{Resolved, World};
use crate::model::Uid;

/// Sets of places, and places in each. One who is kept takes about 700 bytes.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// One that is in more than this many others is looked up each time, to bound what is kept.
const MAX_CLOSURE: usize = 64;

/// The principals of one service in one world; for one thread. It keeps that world in memory.
pub struct Principals {
    world: World,
    service: Box<str>,
    /// Empty until one comes.
    sets: Box<[Set]>,
}

#[derive(Clone, Default)]
struct Set {
    /// Of those who came last.
    hashes: [u64; WAYS],
    kept: [Option<Arc<Resolved>>; WAYS],
}

impl Principals {
    /// Of nobody yet.
    pub fn new(world: &World, service: &str) -> Principals {
        Principals { world: world.clone(), service: service.into(), sets: Box::default() }
    }

    /// What is known of this principal with these parents besides those that are stored. None: nothing
    /// is kept, and the question is asked with the texts.
    pub fn of(&mut self, uid: &Uid, parents: &[Uid]) -> Option<Arc<Resolved>> {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS].into();
        }
        let hash = hash_entity(&uid.kind, &uid.id);
        let Set { hashes, kept } = self.sets.get_mut(hash as usize % SETS)?;
        let Some(way) = hashes.iter().position(|held| *held == hash) else {
            // Where all are taken, chance decides whose turn it is.
            let free = hashes.iter().position(|held| *held == 0);
            let way = free.unwrap_or((hash >> 32) as usize % WAYS);
            (*hashes.get_mut(way)?, *kept.get_mut(way)?) = (hash, None);
            return None;
        };
        let kept = kept.get_mut(way)?;
        if let Some(kept) = kept
            && kept.uid() == uid
            && kept.parents() == parents
        {
            return Some(Arc::clone(kept));
        }
        let found = self.world.resolve_principal(&self.service, uid, parents).ok()?;
        *kept = (found.reach() <= MAX_CLOSURE).then(|| Arc::new(found));
        kept.clone()
    }
}

impl fmt::Debug for Principals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.sets.iter().flat_map(|set| &set.kept).flatten().count();
        f.debug_struct("Principals").field("kept", &kept).finish_non_exhaustive()
    }
}
