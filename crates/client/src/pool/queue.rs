//! Who waits for a connection of one upstream, in order.
//!
//! It knows neither what is granted (`T`) nor when there is something to grant.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// The requests that wait. Who had its turn already waits at the front.
pub(super) struct Queue<T> {
    waiters: VecDeque<Waiter<T>>,
    /// INVARIANT: no ticket is given twice, and those in the queue ascend.
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
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        Queue { waiters: VecDeque::new(), first_ticket: 0, last_ticket: 0, settling: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// What the next one asks for.
    pub(super) fn front(&self) -> Option<Wish> {
        self.waiters.front().map(|waiter| waiter.wish)
    }

    /// Takes a place at the end, or with `first` at the front. Returns the ticket to leave with, and
    /// where the grant will come.
    pub(super) fn join(&mut self, wish: Wish, first: bool) -> (i64, oneshot::Receiver<T>) {
        let (grant, granted) = oneshot::channel();
        if first {
            self.first_ticket -= 1;
            let ticket = self.first_ticket;
            self.waiters.push_front(Waiter { ticket, wish, grant });
            (ticket, granted)
        } else {
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            self.waiters.push_back(Waiter { ticket, wish, grant });
            (ticket, granted)
        }
    }

    /// Takes the next one out of the queue.
    pub(super) fn pop(&mut self) -> Option<Waiter<T>> {
        self.waiters.pop_front()
    }

    /// Takes this one out of the queue, if it still waits.
    pub(super) fn leave(&mut self, ticket: i64) -> Option<Waiter<T>> {
        let place = self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        place.ok().and_then(|place| self.waiters.remove(place))
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
        self.waiters.len() + more > self.settling
    }
}

impl<T> Waiter<T> {
    /// To be called without a lock: if this one just left, the grant is dropped, which brings back
    /// what it holds.
    pub(super) fn grant(self, grant: T) {
        drop(self.grant.send(grant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Wish = Wish { shard: 0, fresh: false };

    /// Against a plain list, by any sequence of joins at either end, grants and leaves.
    #[test]
    fn the_order_is_that_of_a_list() {
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
                    let (ticket, mut granted) = model.remove(at % model.len());
                    drop(queue.leave(ticket).expect("it waits"));
                    assert!(queue.leave(ticket).is_none(), "left once");
                    assert!(granted.try_recv().is_err());
                }
                _ => assert!(queue.pop().is_none()),
            }
            assert_eq!(queue.len(), model.len());
        }
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
