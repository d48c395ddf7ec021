//! The followers that are connected, as operators see them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keepgate_policy::{HistoryId, Revision, proto};

use super::activity::{Activities, Dropped};
use super::figures::{Counted, Uncounted};
use super::keys::AssertionKeys;
use crate::desk::{Head, Scope};

/// A follower as operators see it.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Its own name.
    pub name: String,
    /// Where its connection comes from.
    pub peer: Option<SocketAddr>,
    /// The id of its token.
    pub token: String,
    /// What it follows.
    pub scope: Scope,
    /// The revision it was last sent.
    pub sent: Revision,
    /// The revision it last said it has published to its readers.
    pub applied: Revision,
    /// When it said so, in milliseconds since the Unix epoch; none: not yet.
    pub applied_unix_ms: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub connected_unix_ms: u64,
    /// The newest format of items that it understands; 1: it is of release 0.1.
    pub format: u32,
    /// Its release; empty: it did not say.
    pub release: String,
    /// The history of what it last applied; none: it did not say.
    pub history: Option<HistoryId>,
    /// Its age by its own count, as its newest pulse said.
    pub age_ms: Option<u64>,
    /// The newest pulse that came; 0: none.
    pub pulse: u64,
    /// When it came, in milliseconds since the Unix epoch; none: never.
    pub pulse_unix_ms: Option<u64>,
    /// Why it is told nothing more; none: it is.
    pub held_back: Option<&'static str>,
}

/// All followers that are connected, by connection number.
#[derive(Debug, Default)]
pub struct Followers {
    next: AtomicU64,
    connected: Mutex<BTreeMap<u64, Follower>>,
    activities: Activities,
    figures: Counted,
    keys: AssertionKeys,
}

impl Followers {
    /// A copy of the list, in order of arrival.
    pub fn list(&self) -> Vec<Follower> {
        self.lock().values().cloned().collect()
    }

    /// What they last said about who makes the requests.
    pub(crate) fn activities(&self) -> &Activities {
        &self.activities
    }

    /// What they said they did with requests.
    pub(crate) fn figures(&self) -> &Counted {
        &self.figures
    }

    /// The keys with which they sign what they assert.
    pub(crate) fn keys(&self) -> &AssertionKeys {
        &self.keys
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Follower>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Followers>, follower: Follower) -> Joined {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, follower);
        Joined { followers: Arc::clone(self), number }
    }
}

/// A place in the list of followers; dropping it leaves.
pub(super) struct Joined {
    pub(super) followers: Arc<Followers>,
    pub(super) number: u64,
}

impl Joined {
    pub(super) fn update(&self, f: impl FnOnce(&mut Follower)) {
        if let Some(follower) = self.followers.lock().get_mut(&self.number) {
            f(follower);
        }
    }

    /// Keeps what the follower says about a service that it follows.
    pub(super) fn tell(&self, scope: &Scope, activity: proto::Activity) -> Result<(), Dropped> {
        if activity.service.is_empty() || !scope.covers(&activity.service) {
            return Err(Dropped::Service);
        }
        let now = std::time::Instant::now();
        self.followers.activities.keep(self.number, &activity.service, activity.report, now)
    }

    /// Counts what the follower did with the requests of a service that it follows.
    pub(super) fn count(
        &self,
        scope: &Scope,
        figures: &proto::Figures,
        head: &Head,
    ) -> Result<(), Uncounted> {
        if figures.service.is_empty() || !scope.covers(&figures.service) {
            return Err(Uncounted::Service);
        }
        self.followers.figures.add(self.number, figures, head)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.followers.lock().remove(&self.number);
        self.followers.activities.forget(self.number);
        self.followers.figures.forget(self.number);
        self.followers.keys.leave(self.number, std::time::Instant::now());
    }
}
