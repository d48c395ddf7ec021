//! The interner: entity identifiers, their types and other repeated texts as 32-bit ids.
//!
//! An id lives as long as something in the world refers to it; counts are kept by the callers
//! ([`Names::intern`] and [`Names::keep`] add one, [`Names::release`] takes one), and a free id
//! is used again. Requests only look up, so no caller can make it grow.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::closure::ROUTE;
use super::conditions::TypeName;
use super::paged::Paged;
use super::trie::Trie;
use crate::model::Uid;

/// An interned text of some kind.
pub(super) type Id = u32;

/// The kind of entity types.
const TYPE: Id = Id::MAX;
/// The kind of texts that are no entities, such as the names of services.
const WORD: Id = Id::MAX - 1;
/// No id; the end of the free list.
const NONE: Id = Id::MAX - 2;

#[derive(Clone, Debug, Default)]
struct Record {
    /// None for a free id.
    text: Option<Arc<str>>,
    /// The id of the entity type, [`TYPE`] or [`WORD`]; of a free id the next free one.
    kind: Id,
    refs: u32,
}

/// An entry of the table; it repeats what a look-up compares.
#[derive(Clone, Debug)]
struct Entry {
    id: Id,
    kind: Id,
    text: Arc<str>,
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    records: Paged<Record>,
    table: Trie<Entry>,
    types: Trie<(Id, TypeName)>,
    /// The type of routes, while there is any.
    route: Option<Id>,
    next: Id,
    free: Id,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            records: Paged::default(),
            table: Trie::default(),
            types: Trie::default(),
            route: None,
            next: 0,
            free: NONE,
        }
    }
}

pub(super) fn hash_text(kind: u32, text: &str) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u32(kind);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Of an entity, by both texts, so that one look-up finds it.
#[inline]
pub(super) fn hash_entity(kind: &str, id: &str) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(kind.as_bytes());
    hasher.write(id.as_bytes());
    hasher.finish()
}

pub(super) fn hash_number(number: u64) -> u64 {
    FixedState::default().hash_one(number)
}

impl Names {
    /// How many ids are in use.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// A type or a word.
    fn find(&self, kind: Id, text: &str) -> Option<Id> {
        self.table
            .find(hash_text(kind, text), |entry| entry.kind == kind && &*entry.text == text)
            .map(|entry| entry.id)
    }

    pub(super) fn route(&self) -> Option<Id> {
        self.route
    }

    pub(super) fn type_id(&self, kind: &str) -> Option<Id> {
        self.find(TYPE, kind)
    }

    /// An entity and its type.
    pub(super) fn entity(&self, kind: &str, id: &str) -> Option<(Id, Id)> {
        self.table
            .find(hash_entity(kind, id), |entry| {
                entry.kind < NONE && &*entry.text == id && self.text(entry.kind) == kind
            })
            .map(|entry| (entry.id, entry.kind))
    }

    pub(super) fn uid(&self, uid: &Uid) -> Option<Id> {
        self.entity(&uid.kind, &uid.id).map(|(id, _)| id)
    }

    pub(super) fn text(&self, id: Id) -> &str {
        self.records.get(id).and_then(|r| r.text.as_deref()).unwrap_or_default()
    }

    /// The entity type's id of an entity.
    pub(super) fn kind(&self, id: Id) -> Id {
        self.records.get(id).map_or(NONE, |r| r.kind)
    }

    pub(super) fn type_name(&self, kind: Id) -> Option<&TypeName> {
        self.types.find(hash_number(kind.into()), |(id, _)| *id == kind).map(|(_, name)| name)
    }

    /// All entities that anything names.
    pub(super) fn entities(&self) -> impl Iterator<Item = Id> + '_ {
        (0..self.next).filter(|id| self.is_entity(*id))
    }

    /// One more than the highest id that was ever in use.
    pub(super) fn ids(&self) -> Id {
        self.next
    }

    /// Whether an id in use is an entity's.
    pub(super) fn is_entity(&self, id: Id) -> bool {
        self.records.get(id).is_some_and(|held| held.text.is_some() && held.kind < NONE)
    }

    /// Ids, from and to, that may not be what they are in the other; see [`Paged::differing`].
    pub(super) fn differing(&self, other: &Names, visit: &mut dyn FnMut(Id, Id) -> bool) -> bool {
        self.records.differing(&other.records, visit)
    }

    /// The entity's identifier in words.
    pub(super) fn to_uid(&self, id: Id) -> Uid {
        Uid::new(self.text(self.kind(id)), self.text(id))
    }

    /// The id of an entity, made if need be; one reference more. Fails on a type that is no
    /// Cedar name.
    pub(super) fn intern(&mut self, uid: &Uid) -> Result<Id, String> {
        if let Some((id, _)) = self.entity(&uid.kind, &uid.id) {
            self.keep(id);
            return Ok(id);
        }
        // Each entity holds one reference to its type.
        let kind = self.intern_type(&uid.kind)?;
        Ok(self.add(kind, &uid.id, hash_entity(&uid.kind, &uid.id)))
    }

    /// The id of an entity type, made if need be; one reference more.
    pub(super) fn intern_type(&mut self, kind: &str) -> Result<Id, String> {
        if let Some(id) = self.type_id(kind) {
            self.keep(id);
            return Ok(id);
        }
        let name = TypeName::parse(kind)?;
        let id = self.add(TYPE, kind, hash_text(TYPE, kind));
        self.types.insert(hash_number(id.into()), (id, name));
        if kind == ROUTE {
            self.route = Some(id);
        }
        Ok(id)
    }

    /// The id of a text that is no entity; one reference more.
    pub(super) fn intern_word(&mut self, word: &str) -> Id {
        match self.find(WORD, word) {
            Some(id) => {
                self.keep(id);
                id
            }
            None => self.add(WORD, word, hash_text(WORD, word)),
        }
    }

    /// One reference more to an id in use.
    pub(super) fn keep(&mut self, id: Id) {
        self.records.at_mut(id).refs += 1;
    }

    /// One reference less; at zero the id is free.
    pub(super) fn release(&mut self, id: Id) {
        let record = self.records.at_mut(id);
        record.refs = record.refs.saturating_sub(1);
        if record.refs > 0 {
            return;
        }
        let Some(text) = record.text.take() else { return };
        let kind = std::mem::replace(&mut record.kind, self.free);
        self.free = id;
        let hash = match kind {
            TYPE | WORD => hash_text(kind, &text),
            kind => hash_entity(self.text(kind), &text),
        };
        self.table.remove(hash, |entry| entry.id == id);
        match kind {
            TYPE => {
                self.types.remove(hash_number(id.into()), |(held, _)| *held == id);
                self.route = self.route.filter(|route| *route != id);
            }
            WORD => {}
            kind => self.release(kind),
        }
    }

    /// A new id with one reference.
    fn add(&mut self, kind: Id, text: &str, hash: u64) -> Id {
        let id = if self.free == NONE {
            self.next += 1;
            self.next - 1
        } else {
            self.free
        };
        let record = self.records.at_mut(id);
        if id == self.free {
            self.free = record.kind;
        }
        let text: Arc<str> = text.into();
        *record = Record { text: Some(Arc::clone(&text)), kind, refs: 1 };
        self.table.insert(hash, Entry { id, kind, text });
        id
    }
}
