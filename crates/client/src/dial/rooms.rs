//! Which source address has most ports left, as somebody saw it who looks at the buckets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// Buckets that are known at most; others are used in turn.
const MAX_ROOMS: usize = 4096;

/// How many ports a bucket has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The source address.
    pub src: IpAddr,
    /// The destination.
    pub dst: SocketAddr,
    /// Ports that may be used.
    pub ports: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    known: Mutex<HashMap<(IpAddr, SocketAddr), u32>>,
}

impl Rooms {
    pub(super) fn note(&self, rooms: &[Room]) {
        // Where there is one source there is no choice.
        if rooms.len() < 2 {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + rooms.len() > MAX_ROOMS {
            known.clear();
        }
        known.extend(rooms.iter().map(|room| ((room.src, room.dst), room.ports)));
    }

    /// Puts the source with most room first. The first is taken to be used.
    pub(super) fn order(&self, sources: &mut [IpAddr], to: SocketAddr) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return;
        }
        let room = |source: &IpAddr| known.get(&(*source, to)).copied();
        if sources.iter().any(|source| room(source).is_none()) {
            return;
        }
        sources.sort_by_key(|source| std::cmp::Reverse(room(source)));
        if let Some(left) = sources.first().and_then(|first| known.get_mut(&(*first, to))) {
            *left = left.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_with_most_room_comes_first() {
        let rooms = Rooms::default();
        let sources = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let to: SocketAddr = "10.1.0.1:80".parse().unwrap();
        let mut order = sources;
        rooms.order(&mut order, to);
        assert_eq!(order, sources, "nothing is known");
        let note = |ports: [u32; 3]| {
            let each = sources.iter().zip(ports);
            let all: Vec<Room> =
                each.map(|(src, ports)| Room { src: *src, dst: to, ports }).collect();
            rooms.note(&all);
        };
        note([1, 5, 3]);
        let mut used = HashMap::new();
        for _ in 0..9 {
            let mut order = sources;
            rooms.order(&mut order, to);
            *used.entry(order[0]).or_insert(0) += 1;
        }
        assert_eq!(sources.map(|source| used[&source]), [1, 5, 3], "as many as each has");
    }
}
