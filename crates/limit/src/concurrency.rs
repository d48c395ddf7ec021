//! Limits on how many requests of one key are under way at once.
//!
//! A [`Permit`] is one request's place; dropping it gives the place back, whatever
//! became of the request. Only keys with a request under way take memory, and at most
//! [`KEYS_PER_SHARD`] a shard: past that, new keys share one count for the shard, which
//! can only make them wait for each other. No clock is involved.
//!
//! INVARIANT: a key's count is the number of its permits alive; it leaves the table with
//! the last of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hash::{Fingerprint, FingerprintMap};

const SHARDS: usize = 64;
/// The most keys one of the 64 shards tells apart.
pub const KEYS_PER_SHARD: usize = 4096;

/// Counts of requests under way, by key.
#[derive(Debug)]
pub struct Concurrency {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    counts: FingerprintMap<u32>,
    /// Permits of keys that found the shard full.
    shared: u32,
}

/// One request's place; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping a permit gives the place back"]
pub struct Permit {
    table: Arc<Concurrency>,
    key: Fingerprint,
    shared: bool,
}

impl Default for Concurrency {
    fn default() -> Self {
        Concurrency { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Concurrency {
    /// An empty table.
    pub fn new() -> Arc<Concurrency> {
        Arc::default()
    }

    /// A place for one more request of `key`, if fewer than `limit` are under way; with
    /// the number under way, this one included. `Err` is the number under way.
    pub fn acquire(self: &Arc<Self>, key: Fingerprint, limit: u32) -> Result<(Permit, u32), u32> {
        let mut shard = self.shard(key);
        let full = shard.counts.len() >= KEYS_PER_SHARD;
        let shared = full && !shard.counts.contains_key(&key);
        let count = if shared { &mut shard.shared } else { shard.counts.entry(key).or_insert(0) };
        if *count >= limit {
            let under_way = *count;
            if under_way == 0 {
                shard.counts.remove(&key); // a limit of 0: leave no trace
            }
            return Err(under_way);
        }
        *count += 1;
        Ok((Permit { table: Arc::clone(self), key, shared }, *count))
    }

    /// Requests of `key` under way (those of keys told apart).
    pub fn under_way(&self, key: Fingerprint) -> u32 {
        self.shard(key).counts.get(&key).copied().unwrap_or(0)
    }

    /// Keys with a request under way (those told apart).
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| locked(shard).counts.len()).sum()
    }

    fn shard(&self, key: Fingerprint) -> MutexGuard<'_, Shard> {
        // The map inside uses the low and the very highest bits; the shard, others.
        let index = (key.as_u64() >> 32) as usize % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
        locked(&self.shards[index])
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.key);
        if self.shared {
            shard.shared = shard.shared.saturating_sub(1);
            return;
        }
        if let Some(count) = shard.counts.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                shard.counts.remove(&self.key);
            }
        }
    }
}

/// No code panics while it holds a shard; a poisoned one is as good as any.
fn locked(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
