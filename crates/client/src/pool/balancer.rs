//! The balance of one upstream with its lock, its clock and its names; and one request's choice.
//!
//! It knows neither connections nor requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepgate_observe::Counter;

use super::balance::{Balance, BalanceConfig, Census, Change, Failure, Key, Pick};
use super::shared::Shared;

/// What has become of an address, or of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// The address gets no requests for so long.
    Ejected {
        /// The address.
        address: Arc<str>,
        /// Whether connects failed; else it answered 5xx, or not at all.
        connect: bool,
        /// For how long.
        lasts: Duration,
    },
    /// A request to it succeeded: it is in use again.
    Returned {
        /// The address.
        address: Arc<str>,
    },
    /// Active checks took it out.
    Down {
        /// The address.
        address: Arc<str>,
    },
    /// Active checks brought it back.
    Up {
        /// The address.
        address: Arc<str>,
    },
    /// A name leads to other addresses now.
    Moved {
        /// The name.
        host: Arc<str>,
        /// How many addresses it has.
        addresses: usize,
        /// How many more it has than are used.
        left_out: usize,
    },
    /// A name could not be looked up; its last addresses stay. Told once, until it can be again.
    NameFailed {
        /// The name.
        host: Arc<str>,
        /// Why.
        error: String,
    },
}

/// Is told what happens, on the thread where it does. Must not block.
pub type OnEvent = Arc<dyn Fn(&GroupEvent) + Send + Sync>;

/// See the module.
pub(super) struct Balancer {
    state: Mutex<State>,
    shared: Arc<Shared>,
    on_event: Option<OnEvent>,
    pub(super) counters: Counters,
}

struct State {
    balance: Balance,
    names: Vec<(Key, Arc<str>)>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) ejections: Counter,
    pub(super) failovers: Counter,
    pub(super) panics: Counter,
    pub(super) checks_failed: Counter,
    pub(super) lookups: Counter,
    pub(super) lookups_failed: Counter,
    pub(super) moves: Counter,
}

impl Balancer {
    pub(super) fn new(
        config: BalanceConfig,
        shared: Arc<Shared>,
        on_event: Option<OnEvent>,
    ) -> Balancer {
        // Gates that start together must not choose alike.
        let seed = u64::from(std::process::id())
            ^ std::time::UNIX_EPOCH.elapsed().map_or(0, |now| u64::from(now.subsec_nanos())) << 32;
        let state = Mutex::new(State { balance: Balance::new(config, seed), names: Vec::new() });
        Balancer { state, shared, on_event, counters: Counters::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps exactly these addresses.
    pub(super) fn keep(&self, present: Vec<(Key, Arc<str>)>) {
        let keys: Vec<(Key, u64)> = present
            .iter()
            .map(|(key, name)| (*key, super::balance::stable_hash(name.as_bytes())))
            .collect();
        let mut state = self.lock();
        state.balance.keep(&keys, self.shared.now_ms());
        state.names = present;
    }

    /// See [`Balance::pick`].
    pub(super) fn pick(self: &Arc<Self>, avoid: &[Key], sticky: Option<u64>) -> Option<Picked> {
        let now_ms = self.shared.now_ms();
        let pick = self.lock().balance.pick(now_ms, avoid, sticky)?;
        if pick.panic {
            self.counters.panics.add(1);
        }
        Some(Picked { balancer: Arc::clone(self), pick })
    }

    pub(super) fn census(&self) -> Census {
        self.lock().balance.census(self.shared.now_ms())
    }

    /// An active check has its result.
    pub(super) fn checked(&self, key: Key, healthy: bool) {
        if !healthy {
            self.counters.checks_failed.add(1);
        }
        let now_ms = self.shared.now_ms();
        self.note(key, |balance| balance.checked(key, healthy, now_ms));
    }

    /// Tells who wants to know.
    pub(super) fn tell(&self, event: &GroupEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    fn note(&self, key: Key, change: impl FnOnce(&mut Balance) -> Option<Change>) {
        let mut state = self.lock();
        let Some(change) = change(&mut state.balance) else { return };
        let name = state.names.iter().find(|(known, _)| *known == key).map(|(_, name)| name);
        let Some(address) = name.cloned() else { return };
        drop(state);
        let event = match change {
            Change::Ejected(failure, lasts) => {
                self.counters.ejections.add(1);
                let connect = failure == Failure::Connect;
                GroupEvent::Ejected { address, connect, lasts }
            }
            Change::Returned => GroupEvent::Returned { address },
            Change::Down => GroupEvent::Down { address },
            Change::Up => GroupEvent::Up { address },
        };
        self.tell(&event);
    }
}

/// One request's address. It counts as under way there until this is dropped.
pub(super) struct Picked {
    balancer: Arc<Balancer>,
    pick: Pick,
}

impl Picked {
    pub(super) fn key(&self) -> Key {
        self.pick.key
    }

    /// The address answered, and not with a 5xx.
    pub(super) fn succeeded(&self) {
        let now_ms = self.balancer.shared.now_ms();
        self.balancer.note(self.pick.key, |balance| balance.succeeded(self.pick, now_ms));
    }

    /// It failed.
    pub(super) fn failed(&self, failure: Failure) {
        let now_ms = self.balancer.shared.now_ms();
        self.balancer.note(self.pick.key, |balance| balance.failed(self.pick, failure, now_ms));
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.balancer.lock().balance.done(self.pick);
    }
}
