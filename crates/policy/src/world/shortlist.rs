//! The policies whose scope can match one principal, by what they say of the resource.
//!
//! A principal is in a few roles, each with a few policies. Here they are in one table: a request looks
//! for its resource, for each entity that it is in, and for its type, and sees nothing of the others.
//! What most policies are judged by is in the table itself. Roles with many policies stay apart, as the
//! index has them.

use std::sync::Arc;

use super::index::{Ask, Bucket, Key, Leaf, Mark, Policy};

/// Policies in the table; what is beyond stays apart.
const MAX_ENTRIES: usize = 255;

/// See the module.
#[derive(Debug)]
pub(super) struct Shortlist {
    /// Those that are in the table come last.
    doors: Box<[Arc<Bucket>]>,
    /// How many are not.
    apart: usize,
    /// How many entries there are of each sort of key.
    sorts: [u8; Key::SORTS],
    /// Where the entries of each row begin, and at last where they end.
    rows: Box<[u8]>,
    /// By row.
    entries: Box<[Entry]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    mark: Mark,
    /// The place of its door among those in the table, and its place behind it.
    door: u8,
    at: u8,
}

/// A policy that matches.
#[derive(Clone, Copy)]
pub(super) enum Hit<'a> {
    /// Its condition or its end may be against it.
    Leaf(&'a Leaf),
    /// It holds.
    Entry(&'a Shortlist, &'a Entry),
}

impl<'a> Hit<'a> {
    #[inline]
    pub(super) fn forbids(self) -> bool {
        match self {
            Hit::Leaf(leaf) => leaf.mark.forbid,
            Hit::Entry(_, entry) => entry.mark.forbid,
        }
    }

    pub(super) fn policy(self) -> Option<&'a Policy> {
        match self {
            Hit::Leaf(leaf) => Some(leaf.policy()),
            Hit::Entry(list, entry) => list.leaf(entry).map(Leaf::policy),
        }
    }
}

impl Shortlist {
    pub(super) fn new(doors: Vec<Arc<Bucket>>) -> Shortlist {
        let mut room = MAX_ENTRIES;
        let (listed, mut doors): (Vec<_>, Vec<_>) = doors.into_iter().partition(|door| {
            let leaves = door.few().map(<[_]>::len).filter(|leaves| *leaves <= room);
            room -= leaves.unwrap_or_default();
            leaves.is_some_and(|leaves| leaves > 0)
        });
        let apart = doors.len();
        let mut sorts = [0; Key::SORTS];
        let mut entries = Vec::with_capacity(MAX_ENTRIES - room);
        // Each door has a leaf: neither number exceeds `MAX_ENTRIES`.
        for (door, bucket) in (0..=u8::MAX).zip(&listed) {
            for (at, leaf) in (0..=u8::MAX).zip(bucket.few().into_iter().flatten()) {
                if let Some(count) = sorts.get_mut(leaf.mark.key().sort()) {
                    *count += 1;
                }
                entries.push(Entry { mark: leaf.mark, door, at });
            }
        }
        doors.extend(listed);
        let count = entries.len().next_power_of_two();
        let row = |entry: &Entry| entry.mark.key().row(count);
        entries.sort_unstable_by_key(row);
        let mut begins = 0;
        let mut rest = entries.iter().map(row).peekable();
        let rows = (0..=count).map(|at| {
            while rest.next_if(|row| *row < at).is_some() {
                begins += 1;
            }
            begins
        });
        let rows = rows.collect();
        Shortlist { doors: doors.into(), apart, sorts, rows, entries: entries.into() }
    }

    /// Visits every policy whose scope matches, each once.
    pub(super) fn visit<'a>(&'a self, ask: &Ask<'_>, mut found: impl FnMut(Hit<'a>)) {
        let bloom = ask.bloom();
        for door in self.doors.iter().take(self.apart) {
            door.visit(ask, bloom, &mut |leaf| found(Hit::Leaf(leaf)));
        }
        let mut look = |key: Key| {
            for entry in self.row(key) {
                if entry.mark.key() != key || !entry.mark.action_may_fit(ask, bloom) {
                    continue;
                }
                if entry.mark.is_all() {
                    found(Hit::Entry(self, entry));
                } else if let Some(leaf) = self.leaf(entry)
                    && leaf.fits(ask)
                {
                    found(Hit::Leaf(leaf));
                }
            }
        };
        let [any, is, eq, within] = self.sorts;
        if any > 0 {
            look(Key::ANY);
        }
        if is > 0
            && let Some(kind) = ask.resource.kind
        {
            look(Key::is(kind));
        }
        if eq > 0
            && let Some(id) = ask.resource.id
        {
            look(Key::eq(id));
        }
        if within > 0 {
            ask.resource.closure.iter().for_each(|id| look(Key::within(*id)));
        }
    }

    #[inline]
    fn row(&self, key: Key) -> &[Entry] {
        let row = key.row(self.rows.len() - 1);
        match self.rows.get(row..row + 2) {
            Some(&[from, to]) => self.entries.get(usize::from(from)..usize::from(to)),
            _ => None,
        }
        .unwrap_or_default()
    }

    fn leaf(&self, entry: &Entry) -> Option<&Leaf> {
        let door = self.doors.get(self.apart + usize::from(entry.door))?;
        door.few()?.get(usize::from(entry.at))
    }
}
