//! When items of a part end: what a decision must know of time, and when the next one may differ.
//!
//! A world holds what has ended as what has not: it is the item's time that counts, and not a change.
//! Times are whole seconds since the Unix epoch. At its end an item does not count any more.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Never.
pub(super) const NEVER: u64 = u64::MAX;

/// Seconds of a block, as a power of two: about an hour.
const BLOCK: u32 = 12;

/// How many items end at which second. Two levels, so that a change copies few of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    blocks: Arc<BTreeMap<u64, Arc<BTreeMap<u64, usize>>>>,
}

impl Ends {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn add(&mut self, at: u64) {
        let block = Arc::make_mut(&mut self.blocks).entry(at >> BLOCK).or_default();
        *Arc::make_mut(block).entry(at).or_default() += 1;
    }

    pub(super) fn remove(&mut self, at: u64) {
        let blocks = Arc::make_mut(&mut self.blocks);
        let Some(block) = blocks.get_mut(&(at >> BLOCK)) else { return };
        let times = Arc::make_mut(block);
        if let Some(count) = times.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                times.remove(&at);
            }
        }
        if times.is_empty() {
            blocks.remove(&(at >> BLOCK));
        }
    }

    /// The first end after this time.
    pub(super) fn after(&self, now: u64) -> Option<u64> {
        let first = now.checked_add(1)?;
        let blocks = self.blocks.range(first >> BLOCK..);
        blocks.filter_map(|(_, times)| times.range(first..).next()).map(|(at, _)| *at).next()
    }

    /// The last end up to this time.
    pub(super) fn until(&self, now: u64) -> Option<u64> {
        let blocks = self.blocks.range(..=now >> BLOCK).rev();
        blocks.filter_map(|(_, times)| times.range(..=now).next_back()).map(|(at, _)| *at).next()
    }

    /// How many items have an end.
    pub(super) fn len(&self) -> usize {
        self.blocks.values().flat_map(|times| times.values()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_found_in_order_whatever_their_blocks() {
        let times = [0, 1, 4095, 4096, 4097, 10_000, 10_000, 1 << 40, NEVER];
        let mut ends = Ends::default();
        times.iter().for_each(|at| ends.add(*at));
        assert_eq!(ends.len(), times.len());
        for now in times.iter().flat_map(|at| [at.saturating_sub(1), *at, at.saturating_add(1)]) {
            let after = times.iter().copied().filter(|at| *at > now).min();
            let until = times.iter().copied().filter(|at| *at <= now).max();
            assert_eq!((ends.after(now), ends.until(now)), (after, until), "{now}");
        }
        ends.remove(10_000);
        assert_eq!(ends.after(4097), Some(10_000), "it was there twice");
        times.iter().for_each(|at| ends.remove(*at));
        assert!(ends.is_empty());
        assert_eq!((ends.after(0), ends.until(NEVER)), (None, None));
    }
}
