//! Peers whose forwarding headers are dropped, for whoever forgot to name a proxy in front.
//!
//! Behind such a proxy all users count as one caller. So the first requests of that sort are
//! warned about, and `top clients` lists who sends them. Each worker counts by itself.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use keepgate_limit::top::Unheard;

/// Peers that a worker tells apart; the requests of others are counted in the metric alone.
const PEERS: usize = 16;
/// Peers that are warned about, over the gate's life: callers may send such headers themselves.
const WARNINGS: usize = 4;

/// Peers and their requests; none: a Unix socket's.
type Counts = Vec<(Option<IpAddr>, u64)>;

/// See the module.
pub(crate) struct Dropped {
    workers: Vec<Mutex<Counts>>,
    warned: AtomicUsize,
}

impl Dropped {
    pub(crate) fn new(workers: usize) -> Dropped {
        let workers = (0..workers).map(|_| Mutex::default()).collect();
        Dropped { workers, warned: AtomicUsize::new(0) }
    }

    /// Counts a request. Whether to warn about its peer.
    pub(crate) fn record(&self, worker: usize, peer: Option<IpAddr>) -> bool {
        let Some(own) = self.workers.get(worker) else { return false };
        {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, requests)) = own.iter_mut().find(|(known, _)| *known == peer) {
                *requests += 1;
                return false;
            }
            if own.len() == PEERS {
                return false;
            }
            own.push((peer, 1));
        }
        let known = |worker: &Mutex<Vec<(Option<IpAddr>, u64)>>| {
            let peers = worker.lock().unwrap_or_else(PoisonError::into_inner);
            peers.iter().any(|(known, _)| *known == peer)
        };
        let others = self.workers.iter().enumerate().filter(|(n, _)| *n != worker);
        !others.map(|(_, other)| other).any(known)
            && self.warned.fetch_add(1, Ordering::Relaxed) < WARNINGS
    }

    /// The peers, the heaviest first.
    pub(crate) fn peers(&self) -> Vec<Unheard> {
        let mut all: Vec<(Option<IpAddr>, u64)> = Vec::new();
        for worker in &self.workers {
            for (peer, requests) in &*worker.lock().unwrap_or_else(PoisonError::into_inner) {
                match all.iter_mut().find(|(known, _)| known == peer) {
                    Some((_, sum)) => *sum += requests,
                    None => all.push((*peer, *requests)),
                }
            }
        }
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(PEERS);
        all.into_iter().map(|(peer, requests)| Unheard { peer: shown(peer), requests }).collect()
    }
}

/// A peer as `--trusted-proxy` takes it.
pub(crate) fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "unix".to_owned(), |ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_counted_and_the_first_few_are_warned_about_once() {
        let dropped = Dropped::new(2);
        let ip = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
        assert!(dropped.record(0, ip(1)));
        assert!(!dropped.record(0, ip(1)) && !dropped.record(1, ip(1)));
        assert!(dropped.record(1, None));
        assert!(dropped.record(0, ip(2)) && dropped.record(0, ip(3)));
        assert!(!dropped.record(0, ip(4)), "warned about enough");
        for n in 5..200 {
            dropped.record(0, ip(n));
        }
        let peers = dropped.peers();
        assert_eq!(peers.len(), PEERS);
        assert_eq!((peers[0].peer.as_str(), peers[0].requests), ("10.0.0.1", 3));
        assert!(peers.iter().any(|peer| peer.peer == "unix"));
        assert!(!dropped.record(7, ip(1)), "there is no such worker");
    }
}
