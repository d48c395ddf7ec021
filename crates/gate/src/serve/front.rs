//! What the listeners and connections of all workers share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keepgate_observe::Counter;
use keepgate_serve::{Loaded, Places};

use super::acme::Acme;
use super::life::{Clock, Life};
use super::ports::Ports;
use crate::exchange::ongoing::{Ending, List};
use crate::observe::metrics::WorkerMetrics;
use crate::phase::worker::Common;

/// The part of `drain` for which a connection without an exchange stays once listeners are closed: a
/// request may be on its way, and would be lost.
const LAST_CHANCE: u32 = 4;
/// Between two looks at what is still open at the end.
const AGAIN: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Front {
    /// What their requests share.
    pub(crate) common: Arc<Common>,
    /// Its own ports, and how its connections are opened.
    pub(crate) ports: Arc<Ports>,
    /// Obtains certificates toward callers; none: nobody does.
    pub(crate) acme: Option<Acme>,
    /// The certificates toward callers, and whose certificates they may show; none: plain.
    pub(crate) tls: Option<ArcSwap<Loaded>>,
    /// The clock of `places` counts from here.
    pub(crate) began: Instant,
    /// Connections of callers, over all workers.
    pub(crate) places: Places,
    /// Connections of proxies that ask.
    pub(crate) check_places: Places,
    /// As whom the gate runs; none: that is not known.
    pub(crate) user: Option<u32>,
    /// It was said that somebody may not ask.
    pub(crate) told_stranger: AtomicBool,
    /// Exchanges that are under way, by worker.
    pub(crate) ongoing: Box<[Arc<List>]>,
    /// Exchanges that were decided again.
    pub(crate) redecided: Counter,
    /// The workers' counters.
    pub(crate) workers: Arc<[Arc<WorkerMetrics>]>,
    /// How far the end of the gate has come.
    pub(crate) life: Clock,
}

impl Front {
    /// Brings the gate to its end, step by step, and keeps ending what is open then. For so long, its
    /// listeners stay open. Is dropped once all workers have ended.
    pub(crate) async fn leave(&self, delay: Duration) -> std::convert::Infallible {
        let bounds = &self.common.settings.bounds;
        self.life.advance(Life::Leaving);
        tokio::time::sleep(delay).await;
        self.life.advance(Life::Draining);
        let last_chance = bounds.drain / LAST_CHANCE;
        tokio::time::sleep(last_chance).await;
        self.life.advance(Life::Closing);
        tokio::time::sleep(bounds.drain.saturating_sub(last_chance)).await;
        self.life.advance(Life::Ended);
        loop {
            // Also what has begun since, on a connection that was still open.
            for list in &self.ongoing {
                list.end_all(Ending::Stopping);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Says once that a peer of the check listener is not answered.
    pub(crate) fn tell_stranger(&self, remote: Option<SocketAddr>, user: Option<u32>) {
        if self.told_stranger.swap(true, Ordering::Relaxed) {
            return;
        }
        match remote {
            Some(remote) => {
                let peer = remote.ip().to_canonical();
                tracing::warn!(
                    %peer,
                    "a connection to the check listener was closed: its peer may not ask; if it is \
                     your proxy, start the gate with --check-peer {peer}"
                );
            }
            None => tracing::warn!(
                user,
                "a connection to the check listener was closed: its peer is another user; if it is \
                 your proxy, start the gate with --check-peer unix, and see to who may connect with \
                 --unix-mode and --unix-group"
            ),
        }
    }

    /// Connections of callers, of all workers.
    pub(crate) fn open(&self) -> u64 {
        self.workers.iter().map(|worker| worker.open.value()).sum()
    }

    /// On the clock of the places.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Callers and their requests.
    Callers,
    /// Other proxies and their questions.
    Check,
}

impl Door {
    pub(super) fn places(self, front: &Front) -> &Places {
        match self {
            Door::Callers => &front.places,
            Door::Check => &front.check_places,
        }
    }

    /// Whether this peer is answered.
    pub(super) fn admits(
        self,
        front: &Front,
        remote: Option<SocketAddr>,
        user: Option<u32>,
    ) -> bool {
        let peers = match self {
            Door::Callers => return true,
            Door::Check => &front.common.settings.check_peers,
        };
        peers.contains(remote.map(|addr| addr.ip().to_canonical()))
            || (remote.is_none() && user.is_some() && user == front.user)
    }
}
