//! States of many keys, in bounded memory, without locks on the way of a known key.
//!
//! A [`Store`] is a tree of sets. A set is two cache lines: seven slots of 16 bytes
//! (a key's fingerprint and its state, see [`crate::gcra`]) and an insertion lock. A key belongs
//! to one set, by its keyed hash ([`crate::hash`]), so nobody outside can aim at a set.
//!
//! A set all of whose slots were used within a minute *splits* when a new key comes: its
//! keys go to sixteen sets of the next level, up to three levels. So ten thousand callers live in
//! one megabyte, which a processor keeps close, and a million in as much as they need. Memory is
//! taken sixteen sets at a time, and never more than the bound given at the start.
//!
//! # Why forgetting a key gives nothing back
//!
//! A new key takes the slot of the *smallest* state in its set, and starts from that
//! state instead of a full bucket, so its own state is greater. An empty slot has the state of
//! a full bucket, or its set's floor (below). States never fall, and a slot's state is only replaced by a greater one, so the
//! smallest state of a set never falls either. Therefore:
//!
//! INVARIANT: for each key without a slot, its true state is at most the smallest state in its set.
//!
//! It holds at first (nobody was charged); when a key is evicted, since it had the smallest
//! state; and forever after, since the smallest only grows. A set keeps the greatest state that was
//! evicted from it, its *floor*; when it splits, the empty slots of the sets it becomes start with
//! that, and the invariant holds for them. So no flood, however large, gives
//! a limited key a token it would not have had. A smallest state in the past (a full
//! bucket) costs the new key nothing; one in the future makes *unknown* keys of this one set
//! stricter until that moment. The slots kept are those deepest in debt: a blocked crawler is the
//! last to be evicted, and even then its set remembers.
//!
//! # How others fare in a flood
//!
//! A slot is *held* only while its key's bucket is not full: one token's time after one
//! request (0.6 s at 100 a minute). As long as a set has a slot that is not held, a new key
//! loses nothing. To hold all `S` slots a flood needs `S` admitted requests a token's time:
//! with the default 16 MiB, 830,000 slots, and 100 a minute, 1.4 million requests
//! a second; with 10 an hour, 2,300 (give such a rule more
//! memory). Beyond that rate new keys share what their set has
//! left: seven times the rate, together. Keys that are in the table keep their own state.
//! Below it, sets fill by chance (a Poisson tail): at half load about 2 % of the new keys find
//! no free slot, and lose the tokens of the least indebted of the seven holders: usually one.
//!
//! # Concurrency
//!
//! A known key is charged by one compare-and-swap of its state. A new key takes its set's
//! insertion lock (one of hundreds of thousands), so that no key can get two slots.
//! A state of `BUSY` marks a slot whose key is being exchanged. Since a slot's state
//! grows strictly with each change, also when its key changes, a swap that succeeds
//! proves that the slot still belonged to the key: there is no ABA.
//! A set splits under its lock: each state is taken out by one swap that leaves `MOVED` for good,
//! and only when the next level holds them all does the level say that the set has split.
//! Whoever meets `MOVED` looks the key's set up again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::gcra::{Answer, FULL, Nanos, Quota};
use crate::hash::Fingerprint;

const WAYS: usize = 7;
/// How many sets one becomes, and how many share a segment of memory.
const FANOUT: usize = 16;
/// The first level has at most so many sets (64 KiB), and the fewest levels that this allows.
const MAX_ROOTS: usize = 512;
const MAX_LEVELS: u32 = 3;
/// A full bucket that nobody drew from for so long makes room for a new key.
const IDLE: Duration = Duration::from_secs(60);
const EMPTY: u64 = 0;
const BUSY: u64 = u64::MAX;
const MOVED: u64 = u64::MAX - 1;
/// Turns of a spinning wait before the thread gives its time slice away.
const SPINS: u32 = 64;

/// A key's slot is in the first of the two lines as long as there is room.
#[derive(Default)]
#[repr(C, align(128))]
struct Set {
    slots: [Slot; WAYS],
    lock: AtomicU32,
    /// Keys evicted while in debt; wraps.
    evicted_in_debt: AtomicU32,
    /// The greatest state with which a key was evicted, or the set's parent had: the state of empty
    /// slots.
    floor: AtomicU64,
}

#[derive(Default)]
#[repr(C)]
struct Slot {
    key: AtomicU64,
    state: AtomicU64,
}

/// Sixteen sets; below the first level, those that one set became.
type Segment = Box<[Set; FANOUT]>;

/// One level of the tree. Set `i` becomes the sets `16 i` to `16 i + 15` of the next.
struct Level {
    segments: Box<[OnceLock<Segment>]>,
    /// A bit a set: it has split. Empty on the last level.
    split: Box<[AtomicU64]>,
}

/// States of many keys under one quota, within a bound of bytes.
pub struct Store {
    levels: Box<[Level]>,
}

/// What the store says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The quota's answer; if admitted, the key has been charged.
    pub answer: Answer,
    /// The state the key is in now.
    pub state: u64,
}

impl Charge {
    /// Whether the request was admitted.
    pub fn is_admitted(&self) -> bool {
        matches!(self.answer, Answer::Admitted { .. })
    }
}

/// What a store holds, counted by walking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Keys that have a slot.
    pub keys: usize,
    /// Slots there are, whether their memory is taken or not.
    pub slots: usize,
    /// Bytes taken now.
    pub bytes: usize,
    /// Keys evicted while in debt since the start (their sets are stricter to new keys since).
    pub evicted_in_debt: u64,
}

const SEGMENT_BYTES: usize = size_of::<[Set; FANOUT]>();
const BYTES_PER_SEGMENT: usize = SEGMENT_BYTES + size_of::<OnceLock<Segment>>();

/// The least a store may be bound to.
pub const SMALLEST_STORE_BYTES: usize = 2 * BYTES_PER_SEGMENT;

impl Store {
    /// An empty store that never takes more than `bytes` (at least [`SMALLEST_STORE_BYTES`]).
    pub fn new(bytes: usize) -> Store {
        // What the words of bits may be longer than their bits.
        let bytes = bytes.saturating_sub(MAX_LEVELS as usize * size_of::<u64>());
        let tree = |levels: u32| (0..levels).map(|level| FANOUT.pow(level)).sum::<usize>();
        let roots = |levels: u32| {
            bytes / (tree(levels) * BYTES_PER_SEGMENT + tree(levels - 1) * FANOUT / 8)
        };
        let small = |levels: &u32| roots(*levels) <= MAX_ROOTS / FANOUT;
        let levels = (1..MAX_LEVELS).find(small).unwrap_or(MAX_LEVELS);
        Store::shaped(roots(levels), levels)
    }

    /// An empty store with so many levels, the first of so many times 16 sets.
    #[doc(hidden)]
    pub fn shaped(segments: usize, levels: u32) -> Store {
        let level =
            |level: u32| Level::new(segments.max(1) * FANOUT.pow(level), level + 1 == levels);
        Store { levels: (0..levels).map(level).collect() }
    }

    /// The most bytes it will ever take.
    pub fn byte_bound(&self) -> usize {
        let level =
            |level: &Level| level.segments.len() * BYTES_PER_SEGMENT + size_of_val(&*level.split);
        self.levels.iter().map(level).sum()
    }

    /// How many keys have a slot at best.
    pub fn slots(&self) -> usize {
        self.levels.last().map_or(0, Level::sets) * WAYS
    }

    /// Decides a request of `cost` tokens for `key` at `now`, and charges it if admitted.
    ///
    /// A cost of 0 asks without charging.
    pub fn charge(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Charge {
        if cost == 0 {
            return self.peek(key, quota, 0, now);
        }
        loop {
            let Some(place) = self.place(key) else {
                return unreachable_set();
            };
            if let Some(slot) = place.set.find(key)
                && let Some(charge) = slot.charge(key, quota, cost, now)
            {
                return charge;
            }
            if let Some(charge) = place.insert(key, quota, cost, now) {
                return charge;
            }
        }
    }

    /// What [`Store::charge`] would say, without charging.
    pub fn peek(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Charge {
        let state = self.state(key);
        Charge { answer: quota.decide(state, cost, now), state }
    }

    /// The state a request of `key` would be judged by.
    pub fn state(&self, key: Fingerprint) -> u64 {
        let mut spins = 0;
        loop {
            let Some(Found { set, .. }) = self.place(key) else {
                return FULL;
            };
            let Some(slot) = set.find(key) else {
                let states = set.slots.iter().map(|slot| slot.state.load(Ordering::Acquire));
                // A state that is BUSY becomes one that is greater than the smallest; the next
                // level has what is MOVED.
                let smallest = states.filter(|state| *state != BUSY).min().unwrap_or(FULL);
                if smallest != MOVED && !set.slots.iter().any(Slot::is_moved) {
                    return smallest;
                }
                pause(&mut spins);
                continue;
            };
            let state = slot.state.load(Ordering::Acquire);
            if state != BUSY && state != MOVED && slot.key.load(Ordering::Acquire) == key.as_u64() {
                return state;
            }
            pause(&mut spins);
        }
    }

    /// Walks the whole store and counts.
    pub fn census(&self) -> Census {
        let mut census = Census { slots: self.slots(), ..Census::default() };
        for level in &self.levels {
            census.bytes += level.segments.len() * size_of::<OnceLock<Segment>>();
            census.bytes += size_of_val(&*level.split);
            for (index, segment) in level.segments.iter().enumerate() {
                let Some(segment) = segment.get() else { continue };
                census.bytes += SEGMENT_BYTES;
                for (set, number) in segment.iter().zip(index * FANOUT..) {
                    let held = |slot: &&Slot| slot.key.load(Ordering::Relaxed) != EMPTY;
                    if !level.has_split(number) {
                        census.keys += set.slots.iter().filter(held).count();
                    }
                    let evicted = set.evicted_in_debt.load(Ordering::Relaxed);
                    census.evicted_in_debt += u64::from(evicted);
                }
            }
        }
        census
    }

    /// The set a key belongs to now. It may split at any moment.
    #[inline]
    fn place(&self, key: Fingerprint) -> Option<Found<'_>> {
        let mut levels = self.levels.iter();
        let mut level = levels.next()?;
        loop {
            let index = level.index(key);
            if !level.has_split(index) {
                let set = level.set(index)?;
                return Some(Found { level, next: levels.as_slice().first(), index, set });
            }
            level = levels.next()?;
        }
    }
}

impl Level {
    fn new(segments: usize, is_last: bool) -> Level {
        let words = if is_last { 0 } else { (segments * FANOUT).div_ceil(64) };
        Level {
            segments: (0..segments).map(|_| OnceLock::new()).collect(),
            split: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn sets(&self) -> usize {
        self.segments.len() * FANOUT
    }

    /// The set of a key, if the levels before have none. Sixteen times as many sets make an index
    /// sixteen times as large, and less than sixteen more.
    #[inline]
    fn index(&self, key: Fingerprint) -> usize {
        // The high half of the product is uniform in 0..sets.
        ((u128::from(key.as_u64()) * self.sets() as u128) >> 64) as usize
    }

    #[inline]
    fn has_split(&self, set: usize) -> bool {
        let word = self.split.get(set / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (set % 64) & 1 == 1)
    }

    #[inline]
    fn set(&self, index: usize) -> Option<&Set> {
        self.segments.get(index / FANOUT)?.get_or_init(Segment::default).get(index % FANOUT)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("byte_bound", &self.byte_bound()).finish_non_exhaustive()
    }
}

/// A set index is below the number of sets by construction; should that ever break, the
/// answer is a refusal, not a free pass.
#[cold]
fn unreachable_set() -> Charge {
    Charge { answer: Answer::NeverFits, state: BUSY }
}

/// A set, and where it is.
struct Found<'a> {
    level: &'a Level,
    next: Option<&'a Level>,
    index: usize,
    set: &'a Set,
}

impl Found<'_> {
    /// Gives `key` a slot and charges it, or refuses it; `None` if it has a slot already, or its set
    /// has split.
    #[cold]
    #[inline(never)]
    fn insert(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Option<Charge> {
        let _locked = Locked::new(&self.set.lock);
        if self.level.has_split(self.index) || self.set.find(key).is_some() {
            return None;
        }
        if let Some(next) = self.next
            && self.set.is_crowded(now)
        {
            self.split(next);
            return None;
        }
        self.set.insert(key, quota, cost, now)
    }

    /// Moves all keys to the next level; under the set's lock.
    #[cold]
    fn split(&self, next: &Level) {
        // Nobody but the lock's holder changes keys, or makes a state BUSY.
        let taken = self.set.slots.each_ref().map(|slot| {
            let state = slot.state.swap(MOVED, Ordering::AcqRel);
            (Fingerprint::from_u64(slot.key.load(Ordering::Relaxed)), state)
        });
        let floor = self.set.floor.load(Ordering::Relaxed);
        let first = self.index * FANOUT;
        // Nobody else is there before the bit is set.
        for set in (first..first + FANOUT).filter_map(|index| next.set(index)) {
            set.floor.store(floor, Ordering::Relaxed);
            set.slots.iter().for_each(|slot| slot.state.store(floor, Ordering::Relaxed));
        }
        for (key, state) in taken {
            let to = key.and_then(|key| Some((key, next.set(next.index(key))?)));
            let Some((key, set)) = to else { continue };
            let free = |slot: &&Slot| slot.key.load(Ordering::Relaxed) == EMPTY;
            // There are as many slots as keys.
            if let Some(slot) = set.slots.iter().find(free) {
                slot.key.store(key.as_u64(), Ordering::Relaxed);
                slot.state.store(state, Ordering::Relaxed);
            }
        }
        if let Some(word) = self.level.split.get(self.index / 64) {
            word.fetch_or(1 << (self.index % 64), Ordering::Release);
        }
    }
}

impl Slot {
    fn is_moved(&self) -> bool {
        self.state.load(Ordering::Acquire) == MOVED
    }

    /// Charges the key in this slot; `None` if the slot has gone to another key, or the key to
    /// another set.
    #[inline]
    fn charge(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Option<Charge> {
        let mut spins = 0;
        loop {
            // The order matters: the state first, then the key. The key changes only while
            // the state is BUSY, and the state after that is a greater one.
            let state = self.state.load(Ordering::Acquire);
            if state == BUSY {
                pause(&mut spins);
                continue;
            }
            if state == MOVED || self.key.load(Ordering::Acquire) != key.as_u64() {
                return None;
            }
            let answer = quota.decide(state, cost, now);
            let Answer::Admitted { state: next } = answer else {
                return Some(Charge { answer, state });
            };
            let swapped =
                self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                return Some(Charge { answer, state: next });
            }
        }
    }
}

impl Set {
    #[inline]
    fn find(&self, key: Fingerprint) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.key.load(Ordering::Acquire) == key.as_u64())
    }

    /// No slot is empty, and each was used of late.
    fn is_crowded(&self, now: Nanos) -> bool {
        let in_use = |slot: &Slot| {
            let idle_since = Nanos::new(slot.state.load(Ordering::Relaxed)).plus(IDLE);
            slot.key.load(Ordering::Relaxed) != EMPTY && idle_since >= now
        };
        self.slots.iter().all(in_use)
    }

    /// Gives `key`, which has no slot, one and charges it, or refuses it; under the lock.
    fn insert(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Option<Charge> {
        loop {
            // Under the lock no key changes; states may, upwards.
            let slots = self.slots.iter().map(|slot| (slot, slot.state.load(Ordering::Acquire)));
            let is_empty = |slot: &Slot| slot.key.load(Ordering::Relaxed) == EMPTY;
            let (victim, held) = slots.min_by_key(|(slot, state)| (*state, !is_empty(slot)))?;
            let answer = quota.decide(held, cost, now);
            let Answer::Admitted { state: next } = answer else {
                return Some(Charge { answer, state: held });
            };
            let taken =
                victim.state.compare_exchange(held, BUSY, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() {
                continue; // its key was charged just now: choose again
            }
            if !is_empty(victim) {
                self.floor.store(held, Ordering::Relaxed);
                let in_debt = quota.reset_ns(held, now) > 0;
                self.evicted_in_debt.fetch_add(u32::from(in_debt), Ordering::Relaxed);
            }
            victim.key.store(key.as_u64(), Ordering::Release);
            victim.state.store(next, Ordering::Release);
            return Some(Charge { answer, state: next });
        }
    }
}

/// The insertion lock of a set, held; `Drop` opens it.
struct Locked<'a>(&'a AtomicU32);

impl<'a> Locked<'a> {
    fn new(lock: &'a AtomicU32) -> Locked<'a> {
        let mut spins = 0;
        while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            pause(&mut spins);
        }
        Locked(lock)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

#[inline]
fn pause(spins: &mut u32) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hash::{Seed, Sort};

    /// The interleaving that no test of threads hits reliably: a key finds its slot, and before it is
    /// charged the slot goes to another key.
    #[test]
    fn a_slot_lost_between_finding_and_charging_is_not_charged() {
        let seed = Seed::new([7; 16]);
        let key = |number: u128| seed.wide(Sort::Address, number);
        let quota = Quota::new(1, Duration::from_secs(60), 100).unwrap();
        let now = Nanos::new(1);
        let (set, level) = (&Set::default(), &Level::new(1, true));
        let place = Found { level, next: None, index: 0, set };
        assert!(place.insert(key(0), &quota, 1, now).is_some());
        let found = set.find(key(0)).unwrap();
        for number in 1..=WAYS as u128 {
            assert!(place.insert(key(number), &quota, 1, now).is_some());
        }
        assert!(set.find(key(0)).is_none(), "evicted: the smallest state");
        let states = || set.slots.each_ref().map(|slot| slot.state.load(Ordering::Relaxed));
        let before = states();
        assert_eq!(found.charge(key(0), &quota, 1, now), None);
        assert_eq!(before, states(), "nobody paid for it");
        assert!(place.insert(key(1), &quota, 1, now).is_none(), "a key gets no second slot");
    }
}
