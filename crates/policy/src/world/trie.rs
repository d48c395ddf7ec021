//! A persistent hash table: a clone shares everything, a change copies one path.
//!
//! Entries carry their hash; the caller brings hash and equality, so the table can hold ids
//! whose text lives elsewhere. Inner nodes branch 64 ways on bits below hashbrown's tag bits,
//! leaves are flat tables of at most [`MAX_LEAF`] entries (more only where hashes are equal).
//! It knows nothing of what it holds.

use std::sync::Arc;

use hashbrown::HashTable;

/// Entries of a leaf before it splits.
const MAX_LEAF: usize = 512;
const BITS: u32 = 6;
const FAN_OUT: usize = 1 << BITS;
/// The first level's shift: hashbrown tags entries with the top 7 bits and places them by the
/// low ones, so the levels take the bits between.
const FIRST_SHIFT: u32 = 50;

#[derive(Clone, Debug)]
pub(super) struct Trie<V> {
    root: Node<V>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Arc<HashTable<(u64, V)>>),
    Branch(Arc<[Option<Node<V>>; FAN_OUT]>),
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Trie { root: Node::Leaf(Arc::default()), len: 0 }
    }
}

fn slot_of(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize & (FAN_OUT - 1)
}

impl<V: Clone> Trie<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn find(&self, hash: u64, mut eq: impl FnMut(&V) -> bool) -> Option<&V> {
        let mut node = &self.root;
        let mut shift = FIRST_SHIFT;
        loop {
            match node {
                Node::Leaf(table) => {
                    return table
                        .find(hash, |(h, value)| *h == hash && eq(value))
                        .map(|(_, value)| value);
                }
                Node::Branch(children) => {
                    node = children.get(slot_of(hash, shift))?.as_ref()?;
                    shift = shift.saturating_sub(BITS);
                }
            }
        }
    }

    /// The entry to change in place; what it shares with other tables is copied first.
    pub(super) fn find_mut(&mut self, hash: u64, mut eq: impl FnMut(&V) -> bool) -> Option<&mut V> {
        // Look before copying: a miss must not unshare the path.
        self.find(hash, &mut eq)?;
        let mut node = &mut self.root;
        let mut shift = FIRST_SHIFT;
        loop {
            match node {
                Node::Leaf(table) => {
                    return Arc::make_mut(table)
                        .find_mut(hash, |(h, value)| *h == hash && eq(value))
                        .map(|(_, value)| value);
                }
                Node::Branch(children) => {
                    let children = Arc::make_mut(children);
                    node = children.get_mut(slot_of(hash, shift))?.as_mut()?;
                    shift = shift.saturating_sub(BITS);
                }
            }
        }
    }

    /// Adds an entry; the caller has made sure that no equal one is there.
    pub(super) fn insert(&mut self, hash: u64, value: V) {
        self.len += 1;
        let mut node = &mut self.root;
        let mut shift = FIRST_SHIFT;
        loop {
            if let Node::Leaf(table) = node
                && table.len() >= MAX_LEAF
                && shift >= BITS
            {
                *node = split(table, shift);
            }
            match node {
                Node::Leaf(table) => {
                    Arc::make_mut(table).insert_unique(hash, (hash, value), |(h, _)| *h);
                    return;
                }
                Node::Branch(children) => {
                    let children = Arc::make_mut(children);
                    let Some(child) = children.get_mut(slot_of(hash, shift)) else { return };
                    node = child.get_or_insert_with(|| Node::Leaf(Arc::default()));
                    shift = shift.saturating_sub(BITS);
                }
            }
        }
    }

    /// Takes an entry out; emptied leaves stay, they are small and soon refilled.
    pub(super) fn remove(&mut self, hash: u64, mut eq: impl FnMut(&V) -> bool) -> Option<V> {
        self.find(hash, &mut eq)?;
        let mut node = &mut self.root;
        let mut shift = FIRST_SHIFT;
        loop {
            match node {
                Node::Leaf(table) => {
                    let entry = Arc::make_mut(table)
                        .find_entry(hash, |(h, value)| *h == hash && eq(value))
                        .ok()?;
                    let ((_, value), _) = entry.remove();
                    self.len -= 1;
                    return Some(value);
                }
                Node::Branch(children) => {
                    let children = Arc::make_mut(children);
                    node = children.get_mut(slot_of(hash, shift))?.as_mut()?;
                    shift = shift.saturating_sub(BITS);
                }
            }
        }
    }

    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a V)) {
        fn walk<'a, V>(node: &'a Node<V>, visit: &mut impl FnMut(&'a V)) {
            match node {
                Node::Leaf(table) => table.iter().for_each(|(_, value)| visit(value)),
                Node::Branch(children) => {
                    children.iter().flatten().for_each(|child| walk(child, visit));
                }
            }
        }
        walk(&self.root, visit);
    }
}

fn split<V: Clone>(table: &HashTable<(u64, V)>, shift: u32) -> Node<V> {
    let mut tables: [HashTable<(u64, V)>; FAN_OUT] = std::array::from_fn(|_| HashTable::new());
    for (hash, value) in table {
        if let Some(child) = tables.get_mut(slot_of(*hash, shift)) {
            child.insert_unique(*hash, (*hash, value.clone()), |(h, _)| *h);
        }
    }
    Node::Branch(Arc::new(
        tables.map(|table| (!table.is_empty()).then(|| Node::Leaf(Arc::new(table)))),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A clone keeps what it had while the original changes, through splits and hash collisions.
    #[test]
    fn clones_are_independent() {
        for mask in [u64::MAX, 0xff00_0000_0000_0000, 0] {
            let hash = |key: u64| foldhash_of(key) & mask;
            let mut trie = Trie::default();
            let mut model = HashMap::new();
            let mut old = None;
            for step in 0..4000u64 {
                let key = step % 1700;
                if step % 7 == 3 {
                    let removed = trie.remove(hash(key), |(k, _)| *k == key);
                    assert_eq!(removed.map(|(_, v)| v), model.remove(&key));
                } else if let Some((_, value)) = trie.find_mut(hash(key), |(k, _)| *k == key) {
                    *value = step;
                    model.insert(key, step);
                } else {
                    trie.insert(hash(key), (key, step));
                    model.insert(key, step);
                }
                if step == 2000 {
                    old = Some((trie.clone(), model.clone()));
                }
            }
            for (trie, model) in old.into_iter().chain([(trie, model)]) {
                assert_eq!(trie.len(), model.len());
                for key in 0..1700 {
                    let held = trie.find(hash(key), |(k, _)| *k == key).map(|(_, v)| *v);
                    assert_eq!(held, model.get(&key).copied());
                }
                let mut seen = 0;
                trie.for_each(&mut |_| seen += 1);
                assert_eq!(seen, model.len());
            }
        }
    }

    fn foldhash_of(key: u64) -> u64 {
        use std::hash::BuildHasher;
        foldhash::fast::FixedState::default().hash_one(key)
    }
}
