//! States of many keys, in bounded memory, without locks on the way of a known key.
//!
//! A [`Store`] is a table of sets. A set is two cache lines: seven slots of 16 bytes
//! (a key's fingerprint and its state, see [`crate::gcra`]) and an insertion lock. A key belongs
//! to one set, by its keyed hash ([`crate::hash`]), so nobody outside can aim at a set.
//! Memory is taken in segments of 16 sets when first used, and never more than the bound
//! given at the start.
//!
//! # Why forgetting a key gives nothing back
//!
//! A new key takes the slot of the *smallest* state in its set, and starts from that
//! state instead of a full bucket, so its own state is greater. An empty slot has the state of
//! a full bucket. States never fall, and a slot's state is only replaced by a greater one, so the
//! smallest state of a set never falls either. Therefore:
//!
//! INVARIANT: for each key without a slot, its true state is at most the smallest state in its set.
//!
//! It holds at first (nobody was charged); when a key is evicted, since it had the smallest
//! state; and forever after, since the smallest only grows. So no flood, however large, gives
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
//! with the default 16 MiB, 900,000 slots, and 100 a minute, 1.5 million requests
//! a second; with 10 an hour, 2,500 (give such a rule more
//! memory). Beyond that rate new keys share what their set has
//! left: seven times the rate, together. Keys that are in the table keep their own state.
//! Below it, sets fill by chance (a Poisson tail): at half load about 2 % of the new keys find
//! no free slot, and lose the tokens of the least indebted of the seven holders: usually one.
//!
//! # Concurrency
//!
//! A known key is charged by one compare-and-swap of its state. A new key takes its set's
//! insertion lock (one of hundreds of thousands), so that no key can get two slots.
//! A state of [`BUSY`] marks a slot whose key is being exchanged. Since a slot's state
//! grows strictly with each change, also when its key changes, a swap that succeeds
//! proves that the slot still belonged to the key: there is no ABA.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::gcra::{Answer, FULL, Nanos, Quota};
use crate::hash::Fingerprint;

const WAYS: usize = 7;
const SETS_PER_SEGMENT: usize = 16;
const EMPTY: u64 = 0;
const BUSY: u64 = u64::MAX;
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
}

#[derive(Default)]
#[repr(C)]
struct Slot {
    key: AtomicU64,
    state: AtomicU64,
}

type Segment = Box<[Set; SETS_PER_SEGMENT]>;

/// States of many keys under one quota, within a bound of bytes.
pub struct Store {
    segments: Box<[OnceLock<Segment>]>,
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

const SEGMENT_BYTES: usize = size_of::<[Set; SETS_PER_SEGMENT]>();
const BYTES_PER_SEGMENT: usize = SEGMENT_BYTES + size_of::<OnceLock<Segment>>();

/// The least a store may be bound to.
pub const SMALLEST_STORE_BYTES: usize = 2 * BYTES_PER_SEGMENT;

impl Store {
    /// An empty store that never takes more than `bytes` (at least [`SMALLEST_STORE_BYTES`]).
    pub fn new(bytes: usize) -> Store {
        let segments = (bytes / BYTES_PER_SEGMENT).max(1);
        Store { segments: (0..segments).map(|_| OnceLock::new()).collect() }
    }

    /// The most bytes it will ever take.
    pub fn byte_bound(&self) -> usize {
        self.segments.len() * BYTES_PER_SEGMENT
    }

    /// How many keys have a slot at best.
    pub fn slots(&self) -> usize {
        self.segments.len() * SETS_PER_SEGMENT * WAYS
    }

    /// Decides a request of `cost` tokens for `key` at `now`, and charges it if admitted.
    ///
    /// A cost of 0 asks without charging.
    pub fn charge(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Charge {
        if cost == 0 {
            return self.peek(key, quota, 0, now);
        }
        let Some(set) = self.set(key) else {
            return unreachable_set();
        };
        loop {
            if let Some(slot) = set.find(key)
                && let Some(charge) = slot.charge(key, quota, cost, now)
            {
                return charge;
            }
            if let Some(charge) = set.insert(key, quota, cost, now) {
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
        let Some(set) = self.set(key) else {
            return FULL;
        };
        let mut spins = 0;
        loop {
            let Some(slot) = set.find(key) else {
                // A state that is BUSY becomes one that is greater than the smallest.
                let states = set.slots.iter().map(|slot| slot.state.load(Ordering::Acquire));
                return states.filter(|state| *state != BUSY).min().unwrap_or(FULL);
            };
            let state = slot.state.load(Ordering::Acquire);
            if state != BUSY && slot.key.load(Ordering::Acquire) == key.as_u64() {
                return state;
            }
            pause(&mut spins);
        }
    }

    /// Walks the whole store and counts.
    pub fn census(&self) -> Census {
        let mut census = Census {
            slots: self.slots(),
            bytes: self.segments.len() * size_of::<OnceLock<Segment>>(),
            ..Census::default()
        };
        for segment in self.segments.iter().filter_map(OnceLock::get) {
            census.bytes += SEGMENT_BYTES;
            for set in segment.iter() {
                let held = |slot: &&Slot| slot.key.load(Ordering::Relaxed) != EMPTY;
                census.keys += set.slots.iter().filter(held).count();
                census.evicted_in_debt += u64::from(set.evicted_in_debt.load(Ordering::Relaxed));
            }
        }
        census
    }

    #[inline]
    fn set(&self, key: Fingerprint) -> Option<&Set> {
        let sets = self.segments.len() * SETS_PER_SEGMENT;
        // The high half of the product is uniform in 0..sets.
        let index = ((u128::from(key.as_u64()) * sets as u128) >> 64) as usize;
        let segment = self.segments.get(index / SETS_PER_SEGMENT)?;
        segment.get_or_init(Segment::default).get(index % SETS_PER_SEGMENT)
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

impl Slot {
    /// Charges the key in this slot; `None` if the slot has gone to another key.
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
            if self.key.load(Ordering::Acquire) != key.as_u64() {
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

    /// Gives `key` a slot and charges it, or refuses it; `None` if it has a slot already.
    #[cold]
    #[inline(never)]
    fn insert(&self, key: Fingerprint, quota: &Quota, cost: u32, now: Nanos) -> Option<Charge> {
        let _locked = Locked::new(&self.lock);
        if self.find(key).is_some() {
            return None;
        }
        loop {
            // Under the lock no key changes; states may, upwards.
            let slots = self.slots.iter().map(|slot| (slot, slot.state.load(Ordering::Acquire)));
            let (victim, held) = slots.min_by_key(|(_, state)| *state)?;
            let answer = quota.decide(held, cost, now);
            let Answer::Admitted { state: next } = answer else {
                return Some(Charge { answer, state: held });
            };
            let taken =
                victim.state.compare_exchange(held, BUSY, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() {
                continue; // its key was charged just now: choose again
            }
            if quota.reset_ns(held, now) > 0 {
                self.evicted_in_debt.fetch_add(1, Ordering::Relaxed);
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
        let set = Set::default();
        assert!(set.insert(key(0), &quota, 1, now).is_some());
        let found = set.find(key(0)).unwrap();
        for number in 1..=WAYS as u128 {
            assert!(set.insert(key(number), &quota, 1, now).is_some());
        }
        assert!(set.find(key(0)).is_none(), "evicted: the smallest state");
        let states = || set.slots.each_ref().map(|slot| slot.state.load(Ordering::Relaxed));
        let before = states();
        assert_eq!(found.charge(key(0), &quota, 1, now), None);
        assert_eq!(before, states(), "nobody paid for it");
        assert!(set.insert(key(1), &quota, 1, now).is_none(), "a key gets no second slot");
    }
}
