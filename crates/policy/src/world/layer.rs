//! Entities of one layer (the directory, or one service): parents, memberships, attributes.
//!
//! A slot is 40 bytes; up to three parents are inline. Closures are walked per request (see
//! `closure.rs`), so a changed membership touches one slot, however many entities are below it.

use std::sync::Arc;

use super::conditions::Attributes;
use super::ends::NEVER;
use super::names::{Id, hash_number};
use super::paged::Paged;
use super::trie::Trie;
use crate::digest::Digest;

/// Parents of an entity, in the order its item has them.
#[derive(Clone, Debug, Default)]
pub(super) enum Parents {
    #[default]
    None,
    One([Id; 1]),
    Two([Id; 2]),
    Three([Id; 3]),
    // A thin pointer, so that the whole is 16 bytes.
    Many(Arc<Vec<Id>>),
}

impl Parents {
    pub(super) fn new(ids: Vec<Id>) -> Parents {
        match *ids.as_slice() {
            [] => Parents::None,
            [a] => Parents::One([a]),
            [a, b] => Parents::Two([a, b]),
            [a, b, c] => Parents::Three([a, b, c]),
            _ => Parents::Many(Arc::new(ids)),
        }
    }

    pub(super) fn as_slice(&self) -> &[Id] {
        match self {
            Parents::None => &[],
            Parents::One(ids) => ids,
            Parents::Two(ids) => ids,
            Parents::Three(ids) => ids,
            Parents::Many(ids) => ids,
        }
    }
}

/// A parent edge that is an item of its own (a membership), or that a schema brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) to: Id,
    /// The interned source of the membership.
    pub(super) source: Id,
}

/// What few entities have.
#[derive(Debug)]
pub(super) struct Extra {
    /// The item's digest; of an entity without attributes it is computed anew when needed.
    pub(super) digest: Digest,
    pub(super) attributes: Attributes,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) parents: Parents,
    pub(super) edges: Option<Arc<Vec<Edge>>>,
    pub(super) extra: Option<Arc<Extra>>,
    /// Whether there is an entity item.
    pub(super) stored: bool,
}

impl Slot {
    pub(super) fn edges(&self) -> &[Edge] {
        self.edges.as_ref().map_or(&[], |edges| edges)
    }

    /// Whether the layer knows the entity at all.
    pub(super) fn is_known(&self) -> bool {
        self.stored || self.edges.is_some()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) slots: Paged<Slot>,
    /// When memberships end; those that do not are not here.
    untils: Trie<Until>,
}

/// When the membership between two entities ends.
#[derive(Clone, Copy, Debug)]
struct Until {
    from: Id,
    to: Id,
    unix_s: u64,
}

fn edge_hash(from: Id, to: Id) -> u64 {
    hash_number(u64::from(from) << 32 | u64::from(to))
}

impl Layer {
    /// Whether nothing was ever in it.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn slot(&self, id: Id) -> Option<&Slot> {
        self.slots.get(id).filter(|slot| slot.is_known())
    }

    pub(super) fn parents(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let slot = self.slots.get(id);
        let parents = slot.map_or(&[] as &[Id], |slot| slot.parents.as_slice());
        let edges = slot.map_or(&[] as &[Edge], Slot::edges);
        parents.iter().copied().chain(edges.iter().map(|edge| edge.to))
    }

    /// Whether some membership ends.
    pub(super) fn has_ends(&self) -> bool {
        !self.untils.is_empty()
    }

    /// When the membership ends.
    pub(super) fn until(&self, from: Id, to: Id) -> Option<u64> {
        let found =
            self.untils.find(edge_hash(from, to), |held| held.from == from && held.to == to);
        found.map(|held| held.unix_s)
    }

    /// Sets when the membership ends, or that it does not.
    pub(super) fn set_until(&mut self, from: Id, to: Id, until: Option<u64>) {
        match until {
            Some(unix_s) => self.untils.insert(edge_hash(from, to), Until { from, to, unix_s }),
            None if self.untils.is_empty() => {}
            None => {
                let is_it = |held: &Until| held.from == from && held.to == to;
                self.untils.remove(edge_hash(from, to), is_it);
            }
        }
    }

    /// The same as [`Layer::parents`], without the memberships that have ended at this time.
    pub(super) fn parents_at(&self, id: Id, now: u64) -> impl Iterator<Item = Id> + '_ {
        let slot = self.slots.get(id);
        let parents = slot.map_or(&[] as &[Id], |slot| slot.parents.as_slice());
        let edges = slot.map_or(&[] as &[Edge], Slot::edges);
        let held = edges.iter().map(|edge| edge.to).filter(move |to| self.holds(id, *to, now));
        parents.iter().copied().chain(held)
    }

    /// The same as [`Layer::slot`], of an entity that is not known by ended memberships alone.
    pub(super) fn slot_at(&self, id: Id, now: u64) -> Option<&Slot> {
        let slot = self.slot(id)?;
        let known = !self.has_ends()
            || slot.stored
            || slot.edges().iter().any(|edge| self.holds(id, edge.to, now));
        known.then_some(slot)
    }

    fn holds(&self, from: Id, to: Id, now: u64) -> bool {
        self.until(from, to).unwrap_or(NEVER) > now
    }

    pub(super) fn set_edge(&mut self, from: Id, edge: Edge) -> Option<Edge> {
        let edges = Arc::make_mut(self.slots.at_mut(from).edges.get_or_insert_default());
        match edges.iter_mut().find(|held| held.to == edge.to) {
            Some(held) => Some(std::mem::replace(held, edge)),
            None => {
                edges.push(edge);
                None
            }
        }
    }

    pub(super) fn remove_edge(&mut self, from: Id, to: Id) -> Option<Edge> {
        let at = self.slot(from)?.edges().iter().position(|edge| edge.to == to)?;
        let slot = self.slots.at_mut(from);
        let edges = Arc::make_mut(slot.edges.as_mut()?);
        let edge = edges.swap_remove(at);
        if edges.is_empty() {
            slot.edges = None;
        }
        Some(edge)
    }
}
