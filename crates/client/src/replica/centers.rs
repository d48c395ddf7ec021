//! The centers of a list, and which of them is asked next.
//!
//! A replica has one connection. When it ends, or its center is not one to follow, the next address
//! of the center's name is tried, and after the last one the next center. The order is the replica's
//! own: the followers of a center that dies do not all go to the same other one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::backoff::random_below;
use super::center::{Center, ConnectError, Connection};

/// Rounds in which a place that takes its time is left early. After those the way may be a slow one.
const HURRIED_ROUNDS: u32 = 2;

/// See the module.
pub(super) struct Centers {
    current: Center,
    /// Those that come after it, in turn.
    others: VecDeque<Center>,
    /// Centers of which every address failed in this round.
    given_up: usize,
    /// Rounds that have ended since a connection was current.
    rounds: u32,
}

impl Centers {
    /// In any order. None: there is no center.
    pub(super) fn new(mut all: Vec<Center>) -> Option<Centers> {
        let mut order = VecDeque::with_capacity(all.len());
        while !all.is_empty() {
            order.push_back(all.swap_remove(random_below(all.len())));
        }
        let current = order.pop_front()?;
        Some(Centers { current, others: order, given_up: 0, rounds: 0 })
    }

    /// The one that is followed, or is asked next.
    pub(super) fn current(&self) -> &Center {
        &self.current
    }

    /// Whether there is another place to go to.
    pub(super) fn has_others(&self) -> bool {
        !self.others.is_empty() || self.current.is_several()
    }

    /// Whether it is likely that there is a better place than one that takes its time.
    pub(super) fn is_hopeful(&self) -> bool {
        self.rounds < HURRIED_ROUNDS
    }

    pub(super) async fn connect(
        &mut self,
        within: Option<Duration>,
    ) -> Result<Connection, ConnectError> {
        self.current.connect(within).await
    }

    /// The connection was current until it ended: all other places are worth a try.
    pub(super) fn begin_round(&mut self) {
        self.given_up = 0;
        self.rounds = 0;
        self.current.forget_tried();
        self.others.iter_mut().for_each(Center::forget_tried);
    }

    /// The connection to this address, or all attempts to connect, failed. Goes on to the next place;
    /// whether all places have failed, so that a new round begins. `is_unfollowed`: the center is not
    /// one to follow.
    pub(super) fn give_up(&mut self, address: Option<SocketAddr>, is_unfollowed: bool) -> bool {
        if self.current.give_up(address, is_unfollowed) {
            return false;
        }
        self.given_up += 1;
        self.turn();
        let count = self.others.len() + 1;
        // One that wants to be left alone for a while is passed over.
        while self.given_up < count && !self.current.away().is_zero() {
            self.given_up += 1;
            self.turn();
        }
        if self.given_up < count {
            return false;
        }
        self.given_up = 0;
        self.rounds = self.rounds.saturating_add(1);
        let least = self.others.iter().map(Center::away).min().unwrap_or(Duration::MAX);
        for _ in 0..count {
            if self.current.away() <= least {
                break;
            }
            self.turn();
        }
        true
    }

    fn turn(&mut self) {
        if let Some(next) = self.others.pop_front() {
            self.others.push_back(std::mem::replace(&mut self.current, next));
        }
    }

    /// Takes the credentials of a list with the same centers.
    pub(super) fn renew(&mut self, with: Centers) {
        let mut with: Vec<Center> = with.others.into_iter().chain([with.current]).collect();
        for center in self.others.iter_mut().chain([&mut self.current]) {
            if let Some(at) = with.iter().position(|other| other.url() == center.url()) {
                center.renew(with.swap_remove(at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{Dialer, Target};

    fn centers(count: u16) -> Centers {
        let center = |n: u16| {
            let url = format!("http://127.0.0.1:{}", n + 1);
            Center::new(&url, Target::tcp("127.0.0.1", n + 1), Dialer::default(), "t").unwrap()
        };
        Centers::new((0..count).map(center).collect()).unwrap()
    }

    #[test]
    fn each_is_tried_once_in_a_round() {
        let mut all = centers(5);
        for round in 0..3 {
            let mut seen = std::collections::BTreeSet::new();
            for n in 0..5 {
                assert_eq!(all.is_hopeful(), round < 2);
                assert!(seen.insert(all.current().url().to_owned()), "twice in a round");
                assert_eq!(all.give_up(None, false), n == 4);
            }
        }
        all.begin_round();
        assert!(all.is_hopeful() && !all.give_up(None, false));
        assert!(Centers::new(Vec::new()).is_none());
        let mut one = centers(1);
        assert!(!one.has_others());
        assert!(one.give_up(None, false) && one.give_up(None, false));
    }

    #[test]
    fn the_first_one_is_any_of_them() {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for _ in 0..600 {
            *counts.entry(centers(3).current().url().to_owned()).or_default() += 1;
        }
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|count| *count > 100), "{counts:?}");
    }

    #[test]
    fn one_that_wants_to_be_left_alone_is_passed_over() {
        let mut all = centers(3);
        let next = all.others[0].url().to_owned();
        all.others[0].stay_away(Duration::from_secs(50));
        assert!(!all.give_up(None, false));
        assert_ne!(all.current().url(), next);
        assert!(all.give_up(None, false), "the round ends with the other one");
        assert!(all.current().away().is_zero(), "and begins with one that may be asked");
        for center in all.others.iter_mut().chain([&mut all.current]) {
            center.stay_away(Duration::from_secs(60));
        }
        all.others[1].stay_away(Duration::from_secs(20));
        let soonest = all.others[1].url().to_owned();
        assert!(all.give_up(None, false));
        assert_eq!(all.current().url(), soonest, "the one that may be asked first");
        assert!(all.current().away() <= Duration::from_secs(20));
    }
}
