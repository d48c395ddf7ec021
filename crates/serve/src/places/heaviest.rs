//! The search for idle connections of those who hold most.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::seat::Seat;
use super::{Peer, Row};

/// Of a search over many places more than one find is kept, so that a flood does not pay for a
/// search with each connection: one in so many.
const KEPT_OF: usize = 64;

/// Idle connections, the one to close first last: always the one that is idle longest, of the peer
/// that then holds most. Exempt peers come after all others.
pub(super) fn idle(peers: &HashMap<Peer, Row>, open: usize) -> Vec<Arc<Seat>> {
    let mut idle: BinaryHeap<_> = peers
        .iter()
        .filter_map(|(peer, row)| {
            let mut seats: Vec<_> = row.seats.values().filter(|seat| seat.is_idle()).collect();
            // The longest idle one last; their tickets make the order total.
            seats.sort_by_key(|seat| Reverse((seat.idle_since_ms(), seat.ticket())));
            let rank = (matches!(peer, Peer::Bound(_)), row.held(), Reverse(*peer));
            (!seats.is_empty()).then_some((rank, Seats(seats)))
        })
        .collect();
    let mut found = Vec::new();
    while found.len() < (open / KEPT_OF).max(1) {
        let Some(((bound, held, peer), Seats(mut seats))) = idle.pop() else { break };
        let Some(seat) = seats.pop() else { continue };
        found.push(Arc::clone(seat));
        if !seats.is_empty() {
            idle.push(((bound, held - 1, peer), Seats(seats)));
        }
    }
    found.reverse();
    found
}

/// Carried along; the rank before it, in which no two peers are equal, makes the order.
struct Seats<'a>(Vec<&'a Arc<Seat>>);

impl PartialEq for Seats<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Seats<'_> {}

impl PartialOrd for Seats<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seats<'_> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}
