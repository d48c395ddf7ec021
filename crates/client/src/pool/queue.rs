//! Who waits for a connection of one upstream, in order: callers take turns, so that one with many
//! requests holds up no other for longer than one of its own.
//!
//! It knows neither what is granted (`T`) nor when there is something to grant.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use tokio::sync::oneshot;

/// The requests that wait. Who had its turn already waits at the front; among the others callers take
/// turns, and each caller's own wait in their order.
///
/// INVARIANT: `turns` has each caller of `lines` once, and no line is empty. So there are no more
/// callers than requests, which `Slots` bounds.
pub(super) struct Queue<T> {
    ahead: VecDeque<Waiter<T>>,
    lines: HashMap<u64, VecDeque<Waiter<T>>, BuildHasherDefault<KnownHash>>,
    turns: VecDeque<u64>,
    len: usize,
    /// INVARIANT: no ticket is given twice, and those of `ahead` and of each line ascend.
    first_ticket: i64,
    last_ticket: i64,
    /// Connections that came back but are not ready yet; each will go to a waiter.
    settling: usize,
}

/// One that waits.
pub(super) struct Waiter<T> {
    ticket: i64,
    wish: Wish,
    grant: oneshot::Sender<T>,
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// Its thread.
    pub(super) shard: usize,
    /// It takes only a connection that is new.
    pub(super) fresh: bool,
    /// A hash of who makes it; requests of one caller wait for each other.
    pub(super) caller: u64,
}

/// A place in the queue.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    ticket: i64,
    caller: u64,
    ahead: bool,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        Queue {
            ahead: VecDeque::new(),
            lines: HashMap::default(),
            turns: VecDeque::new(),
            len: 0,
            first_ticket: 0,
            last_ticket: 0,
            settling: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the next one asks for.
    pub(super) fn front(&self) -> Option<Wish> {
        let next = || self.lines.get(self.turns.front()?)?.front();
        self.ahead.front().or_else(next).map(|waiter| waiter.wish)
    }

    /// Takes a place at the end of its caller's line, or with `first` at the front of all. Returns the
    /// place to leave, and where the grant will come.
    pub(super) fn join(&mut self, wish: Wish, first: bool) -> (Spot, oneshot::Receiver<T>) {
        let (grant, granted) = oneshot::channel();
        self.len += 1;
        let caller = wish.caller;
        if first {
            self.first_ticket -= 1;
            let ticket = self.first_ticket;
            self.ahead.push_front(Waiter { ticket, wish, grant });
            return (Spot { ticket, caller, ahead: true }, granted);
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let line = self.lines.entry(caller).or_insert_with(|| {
            self.turns.push_back(caller);
            VecDeque::new()
        });
        line.push_back(Waiter { ticket, wish, grant });
        (Spot { ticket, caller, ahead: false }, granted)
    }

    /// Takes the next one out of the queue. Its caller's turn comes again after all others'.
    pub(super) fn pop(&mut self) -> Option<Waiter<T>> {
        if let Some(waiter) = self.ahead.pop_front() {
            self.len -= 1;
            return Some(waiter);
        }
        let caller = self.turns.pop_front()?;
        let line = self.lines.get_mut(&caller)?;
        let waiter = line.pop_front()?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        Some(waiter)
    }

    /// Takes this one out of the queue, if it still waits.
    pub(super) fn leave(&mut self, spot: Spot) -> Option<Waiter<T>> {
        let line = if spot.ahead { &mut self.ahead } else { self.lines.get_mut(&spot.caller)? };
        let place = line.binary_search_by_key(&spot.ticket, |waiter| waiter.ticket).ok()?;
        let waiter = line.remove(place)?;
        self.len -= 1;
        if !spot.ahead && line.is_empty() {
            self.forget(spot.caller);
        }
        Some(waiter)
    }

    /// Makes room in a full queue for this caller: takes out the newest of the one who has most, if
    /// that is more than this one would have. To be dropped without a lock.
    pub(super) fn displace(&mut self, caller: u64) -> Option<Waiter<T>> {
        let own = self.lines.get(&caller).map_or(0, VecDeque::len);
        let (heaviest, line) = self.lines.iter_mut().max_by_key(|(_, line)| line.len())?;
        if line.len() <= own + 1 {
            return None;
        }
        let (heaviest, waiter) = (*heaviest, line.pop_back()?);
        self.len -= 1;
        if line.is_empty() {
            self.forget(heaviest);
        }
        Some(waiter)
    }

    fn forget(&mut self, caller: u64) {
        self.lines.remove(&caller);
        self.turns.retain(|other| *other != caller);
    }

    /// A connection will be ready soon.
    pub(super) fn settling(&mut self) {
        self.settling += 1;
    }

    /// It is ready, or never will be.
    pub(super) fn settled(&mut self) {
        self.settling -= 1;
    }

    /// Whether more wait, with so many who are about to, than connections will be ready soon.
    pub(super) fn exceeds_settling(&self, more: usize) -> bool {
        self.len + more > self.settling
    }
}

impl<T> Waiter<T> {
    /// To be called without a lock: if this one just left, the grant is dropped, which brings back
    /// what it holds.
    pub(super) fn grant(self, grant: T) {
        drop(self.grant.send(grant));
    }
}

/// A key that is a hash already.
#[derive(Default)]
pub(super) struct KnownHash(u64);

impl Hasher for KnownHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Wish = Wish { shard: 0, fresh: false, caller: 0 };

    fn of(caller: u64) -> Wish {
        Wish { caller, ..ANY }
    }

    /// Against a plain list, by any sequence of joins at either end, grants and leaves.
    #[test]
    fn the_order_of_one_caller_is_that_of_a_list() {
        let (mut queue, mut model) = (Queue::<u32>::new(), Vec::new());
        let mut random = 7_u64;
        for turn in 0..2_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize;
            match at % 5 {
                0 => model.insert(0, queue.join(ANY, true)),
                1 | 2 => model.push(queue.join(ANY, false)),
                3 if !model.is_empty() => {
                    let (_, mut granted) = model.remove(0);
                    queue.pop().expect("one waits").grant(turn);
                    assert_eq!(granted.try_recv(), Ok(turn));
                }
                _ if !model.is_empty() => {
                    let (spot, mut granted) = model.remove(at % model.len());
                    drop(queue.leave(spot).expect("it waits"));
                    assert!(queue.leave(spot).is_none(), "left once");
                    assert!(granted.try_recv().is_err());
                }
                _ => assert!(queue.pop().is_none()),
            }
            assert_eq!(queue.len(), model.len());
        }
    }

    /// Of many callers, by any sequence: none waits for more of another's requests than for one in each
    /// of its own turns, and nothing is lost or kept.
    #[test]
    fn callers_take_turns() {
        let mut queue = Queue::<u32>::new();
        let mut waiting: HashMap<u64, VecDeque<(Spot, oneshot::Receiver<u32>)>> = HashMap::new();
        // Grants of each caller since another one's turn began to be due.
        let mut passed: HashMap<(u64, u64), u32> = HashMap::new();
        let mut random = 11_u64;
        for turn in 0..20_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize;
            let caller = [1, 1, 1, 1, 2, 3, 4][at % 7];
            let line = waiting.entry(caller).or_default();
            match (at / 7) % 4 {
                0 | 1 => {
                    if line.is_empty() {
                        passed.retain(|(waits, _), _| *waits != caller);
                    }
                    line.push_back(queue.join(of(caller), false));
                }
                2 if !line.is_empty() => {
                    let (spot, _) = line.remove(at % line.len()).unwrap();
                    assert!(queue.leave(spot).is_some());
                }
                _ => {
                    let Some(wish) = queue.front() else {
                        assert!(queue.is_empty());
                        continue;
                    };
                    queue.pop().unwrap().grant(turn);
                    let (_, mut granted) =
                        waiting.get_mut(&wish.caller).unwrap().pop_front().unwrap();
                    assert_eq!(granted.try_recv(), Ok(turn), "the oldest of its caller");
                    passed.retain(|(waits, _), _| *waits != wish.caller);
                    for (waits, line) in &waiting {
                        if *waits != wish.caller && !line.is_empty() {
                            let times = passed.entry((*waits, wish.caller)).or_default();
                            *times += 1;
                            assert!(*times <= 1, "{} passed {waits} twice", wish.caller);
                        }
                    }
                }
            }
            assert_eq!(queue.len(), waiting.values().map(VecDeque::len).sum::<usize>());
            let lines = waiting.values().filter(|line| !line.is_empty()).count();
            assert_eq!((queue.lines.len(), queue.turns.len()), (lines, lines));
        }
    }

    #[test]
    fn a_full_queue_makes_room_for_who_has_less() {
        let mut queue = Queue::<()>::new();
        let mut crawler: Vec<_> = (0..5).map(|_| queue.join(of(1), false)).collect();
        let _other = queue.join(of(2), false);
        assert!(queue.displace(1).is_none(), "not for the one who has most");
        for left in [4, 3] {
            drop(queue.displace(2).expect("room"));
            assert!(crawler.pop().unwrap().1.try_recv().is_err(), "its newest");
            assert_eq!(crawler.len(), left);
            std::mem::forget(queue.join(of(2), false));
        }
        assert!(queue.displace(2).is_none(), "both have as many");
        drop(queue.displace(3).expect("room for a third"));
        assert_eq!(queue.len(), 5);
    }

    #[test]
    fn connections_that_settle_are_counted_for_those_who_wait() {
        let mut queue = Queue::<()>::new();
        assert!(!queue.exceeds_settling(0));
        assert!(queue.exceeds_settling(1));
        queue.settling();
        assert!(!queue.exceeds_settling(1));
        let _one = queue.join(ANY, false);
        assert!(!queue.exceeds_settling(0));
        assert!(queue.exceeds_settling(1));
        queue.settled();
        assert!(queue.exceeds_settling(0));
    }
}
