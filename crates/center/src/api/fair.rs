//! Threads for decisions that take a while, shared out by token.
//!
//! So many run at once; a token has at most its share of these places, and where several tokens
//! wait, the next place goes to each of them in turn. So one token's batches wait for each other
//! and not another's for them. Snapshots for followers are shared out the same way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Requests of one token that may wait for a decision; one more is refused.
const WAITING: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Fair {
    places: usize,
    /// Of these, the share of one token.
    of_one: usize,
    /// How many of one token may wait.
    waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    tokens: HashMap<String, Token>,
    /// Tokens that wait and may have a place, the next one first.
    turns: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Token {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Seat>>,
    has_turn: bool,
}

/// Too many requests of this token wait already.
#[derive(Debug)]
pub(crate) struct Crowded;

/// A place; dropping it hands it on.
#[derive(Debug)]
pub(crate) struct Seat {
    fair: Arc<Fair>,
    token: Option<String>,
}

impl Default for Fair {
    /// For decisions: a place a core, at least two, half of them for one token.
    fn default() -> Fair {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Fair::of(cores.max(2), cores.max(2) / 2, WAITING)
    }
}

impl Fair {
    /// So many places, so many of them for one token, and so many that may wait of one.
    pub(crate) fn of(places: usize, of_one: usize, waiting: usize) -> Fair {
        Fair { places, of_one, waiting, state: Mutex::default() }
    }

    /// Waits for a place of this token.
    pub(crate) async fn seat(self: &Arc<Fair>, token: &str) -> Result<Seat, Crowded> {
        let place = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let held = state.tokens.entry(token.to_owned()).or_default();
            held.waiting.retain(|to| !to.is_closed());
            if held.waiting.len() >= self.waiting {
                return Err(Crowded);
            }
            let (to, place) = oneshot::channel();
            held.waiting.push_back(to);
            self.line_up(&mut state, token);
            self.hand_out(&mut state);
            place
        };
        place.await.map_err(|_| Crowded)
    }

    /// How many have a place.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).running
    }

    /// Gives a token a turn, where it waits for one and may have it.
    fn line_up(&self, state: &mut State, token: &str) {
        if let Some(held) = state.tokens.get_mut(token)
            && !held.has_turn
            && !held.waiting.is_empty()
            && held.running < self.of_one
        {
            held.has_turn = true;
            state.turns.push_back(token.to_owned());
        }
    }

    fn hand_out(self: &Arc<Fair>, state: &mut State) {
        while state.running < self.places {
            let Some(token) = state.turns.pop_front() else { return };
            let Some(held) = state.tokens.get_mut(&token) else { continue };
            held.has_turn = false;
            while let Some(to) = held.waiting.pop_front() {
                let seat = Seat { fair: Arc::clone(self), token: Some(token.clone()) };
                match to.send(seat) {
                    Ok(()) => {
                        held.running += 1;
                        state.running += 1;
                        break;
                    }
                    // Who waited has gone: this seat was never counted.
                    Err(mut seat) => seat.token = None,
                }
            }
            if held.running == 0 && held.waiting.is_empty() {
                state.tokens.remove(&token);
            }
            self.line_up(state, &token);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(token) = self.token.take() else { return };
        let mut state = self.fair.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = state.running.saturating_sub(1);
        if let Some(held) = state.tokens.get_mut(&token) {
            held.running = held.running.saturating_sub(1);
            if held.running == 0 && held.waiting.is_empty() {
                state.tokens.remove(&token);
            }
        }
        self.fair.line_up(&mut state, &token);
        self.fair.hand_out(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_take_turns() {
        let fair = Arc::new(Fair::of(2, 1, WAITING));
        let first = fair.seat("greedy").await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in 0..5 {
            let (fair, order) = (Arc::clone(&fair), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let seat = fair.seat("greedy").await.unwrap();
                order.lock().unwrap().push(format!("greedy {n}"));
                drop(seat);
            }));
        }
        tokio::task::yield_now().await;
        // The greedy token has its half; another one's place is free at once.
        let modest = fair.seat("modest").await.unwrap();
        assert_eq!((fair.running(), order.lock().unwrap().len()), (2, 0));
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(order.lock().unwrap().len(), 5);
        drop(modest);
        assert_eq!(fair.running(), 0);
        assert!(fair.state.lock().unwrap().tokens.is_empty());
    }

    #[tokio::test]
    async fn who_leaves_takes_no_place() {
        let fair = Arc::new(Fair::of(2, 1, WAITING));
        let held = fair.seat("a").await.unwrap();
        let left = tokio::spawn({
            let fair = Arc::clone(&fair);
            async move { fair.seat("a").await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        left.abort();
        let _ = left.await;
        drop(held);
        assert_eq!(fair.running(), 0);
        drop(fair.seat("a").await.unwrap());
        assert_eq!(fair.running(), 0);
    }

    #[tokio::test]
    async fn a_tokens_queue_is_bounded() {
        let fair = Arc::new(Fair::of(2, 1, WAITING));
        let _held = fair.seat("a").await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            let fair = Arc::clone(&fair);
            waiting.push(tokio::spawn(async move { fair.seat("a").await.map(|_| ()) }));
        }
        // The runtime polls some of its tasks between two turns of this one, not all.
        for _ in 0..WAITING {
            tokio::task::yield_now().await;
        }
        assert!(fair.seat("a").await.is_err());
        assert!(fair.seat("b").await.is_ok());
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
