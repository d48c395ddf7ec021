//! The ancestors of an entity, walked over both layers and along route paths.
//!
//! A cycle ends the walk instead of looping; the result holds each id once.

use std::collections::HashSet;

use super::layer::{Layer, Slot};
use super::names::{Id, Names};
use crate::model::Uid;

/// The entity type whose members are in each other by their paths.
pub(super) const ROUTE: &str = "route";

/// Up to this length a list is searched from end to end.
const LINEAR: usize = 48;

/// What a closure is walked over.
#[derive(Clone, Copy)]
pub(super) struct Graph<'a> {
    pub(super) names: &'a Names,
    pub(super) directory: &'a Layer,
    pub(super) service: &'a Layer,
    /// The interned type [`ROUTE`], if anything has it.
    pub(super) route: Option<Id>,
    /// Seconds since the Unix epoch: memberships that end up to then do not count.
    pub(super) now: u64,
    /// Parents that one entity has for this request alone.
    pub(super) given: Option<Given<'a>>,
}

/// Parents that an entity has besides those that are stored.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) uid: &'a Uid,
    /// Its number; none: nothing stored names it.
    id: Option<Id>,
    parents: &'a [Uid],
}

/// A reusable list of ids without repetition.
#[derive(Default)]
pub(super) struct IdSet {
    ids: Vec<Id>,
    large: HashSet<Id, foldhash::fast::FixedState>,
}

impl IdSet {
    pub(super) fn as_slice(&self) -> &[Id] {
        &self.ids
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        if !self.large.is_empty() {
            self.large.clear();
        }
    }

    pub(super) fn contains(&self, id: Id) -> bool {
        if self.large.is_empty() { self.ids.contains(&id) } else { self.large.contains(&id) }
    }

    pub(super) fn insert(&mut self, id: Id) {
        if self.contains(id) {
            return;
        }
        self.ids.push(id);
        if !self.large.is_empty() {
            self.large.insert(id);
        } else if self.ids.len() > LINEAR {
            self.large.extend(&self.ids);
        }
    }
}

impl<'a> Graph<'a> {
    /// The same graph, in which an entity has these parents too.
    /// `id`: the entity's number.
    pub(super) fn giving(self, uid: &'a Uid, id: Option<Id>, parents: &'a [Uid]) -> Graph<'a> {
        if parents.is_empty() {
            return self;
        }
        Graph { given: Some(Given { uid, id, parents }), ..self }
    }
}

impl<'a> Given<'a> {
    /// Whether the parents that are given do not matter to this closure of another entity.
    pub(super) fn is_apart(&self, uid: &Uid, closure: &[Id]) -> bool {
        !self.is(&uid.kind, &uid.id) && self.id.is_none_or(|own| !closure.contains(&own))
    }

    pub(super) fn is(&self, kind: &str, id: &str) -> bool {
        self.uid.id == id && self.uid.kind == kind
    }

    /// Whether an entity is this one, or in it. `set`: the entity's closure.
    pub(super) fn is_above(&self, kind: &str, id: &str, set: &IdSet) -> bool {
        self.is(kind, id) || self.id.is_some_and(|own| set.contains(own))
    }

    pub(super) fn parents(&self) -> impl Iterator<Item = &'a Uid> + use<'a> {
        self.parents.iter()
    }
}

impl Graph<'_> {
    /// The entity itself (where it is interned) and all its ancestors, into an empty set.
    /// `is_given`: it is the one that [`Graph::giving`] named.
    pub(super) fn close(
        &self,
        kind: Option<Id>,
        text: &str,
        id: Option<Id>,
        is_given: bool,
        into: &mut IdSet,
    ) {
        match id {
            Some(id) => into.insert(id),
            // An entity that nothing names still has a path.
            None if kind.is_some() && kind == self.route => {
                if let Some(above) = self.route_above(text) {
                    into.insert(above);
                }
            }
            None if is_given => {}
            None => return,
        }
        if is_given && id.is_none() {
            self.give(into);
        }
        let mut at = 0;
        while let Some(&id) = into.ids.get(at) {
            at += 1;
            if self.given.is_some_and(|given| given.id == Some(id)) {
                self.give(into);
            }
            if self.directory.has_ends() {
                self.directory.parents_at(id, self.now).for_each(|parent| into.insert(parent));
            } else {
                let slot = self.directory.slots.get(id);
                slot.map_or(&[][..], |slot| slot.parents.as_slice())
                    .iter()
                    .for_each(|parent| into.insert(*parent));
                slot.map_or(&[][..], Slot::edges).iter().for_each(|edge| into.insert(edge.to));
            }
            // A service has no memberships of its own, and most have no entities.
            if !self.service.is_empty() {
                self.service.parents(id).for_each(|parent| into.insert(parent));
            }
            if self.route.is_some()
                && Some(self.names.kind(id)) == self.route
                && let Some(above) = self.route_above(self.names.text(id))
            {
                into.insert(above);
            }
        }
    }

    /// Adds the parents that are given, as far as anything names them.
    fn give(&self, into: &mut IdSet) {
        for parent in self.given.iter().flat_map(Given::parents) {
            match self.names.entity(&parent.kind, &parent.id) {
                Some((id, _)) => into.insert(id),
                None if parent.kind == ROUTE => {
                    if let Some(above) = self.route_above(&parent.id) {
                        into.insert(above);
                    }
                }
                // Nothing is said of it, and nothing that is stored is above it.
                None => {}
            }
        }
    }

    /// The nearest route above this path that anything names.
    pub(super) fn route_above(&self, path: &str) -> Option<Id> {
        paths_above(path).find_map(|above| Some(self.names.entity(ROUTE, above)?.0))
    }
}

/// The paths that a path is below, nearest first: of `/orders/{id}` they are `/orders` and `/`.
pub(super) fn paths_above(path: &str) -> impl Iterator<Item = &str> {
    let first = if path.starts_with('/') && path.len() > 1 { Some(path) } else { None };
    std::iter::successors(first, |path| above(path)).skip(1)
}

fn above(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(0) | None => None,
        Some(at) => path.get(..at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_their_prefixes() {
        let above = |path| paths_above(path).collect::<Vec<_>>();
        assert_eq!(above("/orders/{id}/items"), ["/orders/{id}", "/orders", "/"]);
        assert_eq!(above("/orders"), ["/"]);
        assert_eq!(above("/orders/"), ["/orders", "/"]);
        assert_eq!(above("/"), [""; 0]);
        assert_eq!(above("orders/x"), [""; 0]);
        assert_eq!(above(""), [""; 0]);
    }
}
