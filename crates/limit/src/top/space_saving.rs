//! The space-saving summary: the most frequent keys of a stream, in a fixed number of entries.
//!
//! With `m` entries after `n` records:
//! - each entry's `count - error <= true count <= count`;
//! - `error <= n / m`;
//! - every key recorded more than `n / m` times has an entry.
//!
//! What is kept beside an entry (its `value`) began when the key got its entry: it saw at least
//! `count - error` of the key's records.
//!
//! Source: Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k
//! elements in data streams" (2005).

use crate::hash::{Fingerprint, FingerprintMap};

/// One key that is, or may be, frequent.
#[derive(Debug, Clone)]
pub struct Entry<V> {
    /// The key.
    pub key: Fingerprint,
    /// Its name, for people.
    pub name: String,
    /// At most this many records were its own or its predecessors'.
    pub count: u64,
    /// How many of `count` may be those of the keys that had the entry before.
    pub error: u64,
    /// What is kept beside it.
    pub value: V,
    place: usize,
}

/// The most frequent keys of a stream.
#[derive(Debug, Clone)]
pub struct SpaceSaving<V> {
    capacity: usize,
    total: u64,
    entries: Vec<Entry<V>>,
    by_key: FingerprintMap<usize>,
    /// Indices of entries as a binary heap, the smallest count first.
    heap: Vec<usize>,
}

impl<V: Default> SpaceSaving<V> {
    /// An empty summary of at most `capacity` entries (at least one).
    pub fn new(capacity: usize) -> SpaceSaving<V> {
        SpaceSaving {
            capacity: capacity.max(1),
            total: 0,
            entries: Vec::new(),
            by_key: FingerprintMap::default(),
            heap: Vec::new(),
        }
    }

    /// Records one occurrence of `key`. A key that had no entry gets one, and with it `name()` and a
    /// new value.
    pub fn record(&mut self, key: Fingerprint, name: impl FnOnce() -> String) -> Option<&mut V> {
        self.total += 1;
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None if self.entries.len() < self.capacity => {
                let (index, place) = (self.entries.len(), self.heap.len());
                let value = V::default();
                self.entries.push(Entry { key, name: name(), count: 0, error: 0, value, place });
                self.heap.push(index);
                self.rise(place);
                self.by_key.insert(key, index);
                index
            }
            None => {
                let index = *self.heap.first()?;
                let entry = self.entries.get_mut(index)?;
                self.by_key.remove(&entry.key);
                entry.error = entry.count;
                entry.key = key;
                entry.name = name();
                entry.value = V::default();
                self.by_key.insert(key, index);
                index
            }
        };
        let entry = self.entries.get_mut(index)?;
        entry.count += 1;
        let place = entry.place;
        self.sink(place);
        self.entries.get_mut(index).map(|entry| &mut entry.value)
    }

    /// All records so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The entries, in no order.
    pub fn entries(&self) -> &[Entry<V>] {
        &self.entries
    }

    /// The entry of `key`.
    pub fn entry(&self, key: Fingerprint) -> Option<&Entry<V>> {
        self.entries.get(*self.by_key.get(&key)?)
    }

    /// At most how often a key without an entry was recorded: 0 until the summary is full.
    pub fn most_of_the_unseen(&self) -> u64 {
        if self.entries.len() < self.capacity {
            return 0;
        }
        self.heap.first().map_or(0, |index| self.count_of(*index))
    }

    fn count_of(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.count)
    }

    fn count_at(&self, place: usize) -> Option<u64> {
        self.heap.get(place).map(|index| self.count_of(*index))
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.count_at(parent) <= self.count_at(place) {
                return;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(left_count) = self.count_at(left) else { return };
            let child = match self.count_at(right) {
                Some(right_count) if right_count < left_count => right,
                _ => left,
            };
            if self.count_at(place) <= self.count_at(child) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            if let Some(entry) = self.heap.get(place).and_then(|i| self.entries.get_mut(*i)) {
                entry.place = place;
            }
        }
    }
}
