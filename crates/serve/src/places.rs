//! Places: who may hold how many connections, and which one gives way to the next.
//!
//! There is a bound over all, and one for each peer's address (IPv6: its /64), so that one
//! address cannot take every place. At a bound, a connection that carries no exchange is closed
//! for the sake of the new one: of the same address where that address is at its bound, else of
//! the address that holds most. Only where nobody is idle is the new one refused.
//!
//! INVARIANT: there are never more than a bound and its [`slack`] places at once; those above the
//! bound were told to close.
//! INVARIANT: a connection with an exchange is never told to close.
//!
//! Whether a connection is idle is a counter of its own, which its exchanges change without a
//! lock and without any other connection noticing. Units: milliseconds on the caller's monotonic
//! clock, of which only differences count.

mod heaviest;
mod seat;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::seat::{Busy, Seat};

/// After a search in which nobody was idle: how long none is made. A search looks at every place.
const FRUITLESS_MS: u64 = 50;
/// How many connections of an address at its bound are looked at for one that is idle. Those that
/// are not go to the end of the row, so that the next search begins behind them.
const LOOKS: usize = 64;
/// The most places above the bound whose connections were told to close and have not yet.
const MAX_SLACK: usize = 256;

/// The most [`slack`] of a bound of at most 64.
pub const MAX_SLACK_OF_FEW: usize = 4;

/// How many closing connections there may be above a bound.
#[must_use]
pub fn slack(bound: usize) -> usize {
    (bound / 16).clamp(1, MAX_SLACK)
}

/// Bounds on connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacesConfig {
    /// Over all addresses; at least 1.
    pub bound: usize,
    /// For one address; none: a quarter of `bound`.
    pub per_peer: Option<usize>,
    /// Addresses without a bound of their own: proxies that speak for many.
    pub exempt: Vec<Network>,
}

impl PlacesConfig {
    /// So many places, a quarter of them for one address, nobody exempt.
    #[must_use]
    pub fn new(bound: usize) -> PlacesConfig {
        PlacesConfig { bound, per_peer: None, exempt: Vec::new() }
    }
}

/// An address range: the addresses whose first `prefix` bits are those of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the range.
    pub address: IpAddr,
    /// How many leading bits are fixed; beyond the address's own bits: all of them.
    pub prefix: u8,
}

impl Network {
    /// Whether the range holds the address; an IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let host = |bits: u32| bits.saturating_sub(u32::from(self.prefix));
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(of), IpAddr::V4(it)) => {
                of.to_bits().checked_shr(host(32)) == it.to_bits().checked_shr(host(32))
            }
            (IpAddr::V6(of), IpAddr::V6(it)) => {
                of.to_bits().checked_shr(host(128)) == it.to_bits().checked_shr(host(128))
            }
            _ => false,
        }
    }
}

/// Why a connection gets no place. Close it; nothing else is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its address holds as many as one address may, all of them with an exchange.
    #[error("the address holds as many connections as one address may")]
    Peer,
    /// All places are taken by connections with an exchange, or by ones that are still closing.
    #[error("all places are taken")]
    Full,
}

/// What there is and was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Places taken now, closing ones included.
    pub open: usize,
    /// Of these, told to close.
    pub closing: usize,
    /// Addresses that hold a place now.
    pub peers: usize,
    /// Idle connections that were told to close, so far.
    pub closed_idle: u64,
    /// Connections refused for their address's bound, so far.
    pub refused_peer: u64,
    /// Connections refused because all places are taken, so far.
    pub refused_full: u64,
}

/// All places of a server. A clone is the same places.
#[derive(Clone, Debug)]
pub struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: PlacesConfig,
    per_peer: usize,
    state: Mutex<State>,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Peer {
    Bound(IpAddr),
    /// A proxy, or, without an address, a Unix socket.
    Exempt(Option<IpAddr>),
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    peers: HashMap<Peer, Row>,
    /// INVARIANT: no ticket is given twice.
    next_ticket: u64,
    /// Whom the last search found, the next one last.
    found: Vec<Arc<Seat>>,
    /// Until then no search is made.
    fruitless_until_ms: u64,
}

/// The places of one peer, by ticket: the longest not looked at first.
#[derive(Debug, Default)]
struct Row {
    seats: BTreeMap<u64, Arc<Seat>>,
    /// How many of them were told to close.
    closing: usize,
}

/// A place; given back by `Drop`, when the connection has ended.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
}

impl Places {
    /// Places within these bounds.
    #[must_use]
    pub fn new(config: PlacesConfig) -> Places {
        let config = PlacesConfig { bound: config.bound.max(1), ..config };
        let per_peer = config.per_peer.unwrap_or(config.bound / 4).clamp(1, config.bound);
        let state = Mutex::default();
        Places { shared: Arc::new(Shared { config, per_peer, state }) }
    }

    /// A place for a connection from this address; none: over a Unix socket. May tell another
    /// connection to close.
    pub fn take(&self, address: Option<IpAddr>, now_ms: u64) -> Result<Place, Refused> {
        let peer = self.peer(address);
        let mut state = self.lock();
        let (held, all) = state.peers.get(&peer).map_or((0, 0), |row| (row.held(), row.len()));
        let most = self.shared.per_peer;
        if matches!(peer, Peer::Bound(_))
            && (all >= most + slack(most) || held >= most && !state.make_room_in(peer))
        {
            state.counts.refused_peer += 1;
            return Err(Refused::Peer);
        }
        let bound = self.shared.config.bound;
        let room = bound + slack(bound);
        if state.counts.open >= room || state.held() >= bound && !state.make_room(now_ms) {
            state.counts.refused_full += 1;
            return Err(Refused::Full);
        }
        let ticket = state.ticket();
        let seat = Arc::new(Seat::new(peer, ticket, now_ms));
        state.counts.open += 1;
        state.peers.entry(peer).or_default().seats.insert(ticket, Arc::clone(&seat));
        Ok(Place { shared: Arc::clone(&self.shared), seat })
    }

    /// Whether connections from this address have no bound of their own.
    #[must_use]
    pub fn is_exempt(&self, address: Option<IpAddr>) -> bool {
        matches!(self.peer(address), Peer::Exempt(_))
    }

    /// The bound over all addresses.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.shared.config.bound
    }

    /// The bound for one address.
    #[must_use]
    pub fn per_peer(&self) -> usize {
        self.shared.per_peer
    }

    /// What there is and was.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { peers: state.peers.len(), ..state.counts }
    }

    fn peer(&self, address: Option<IpAddr>) -> Peer {
        let address = address.map(|address| address.to_canonical());
        match address {
            Some(ip) if !self.shared.config.exempt.iter().any(|range| range.contains(ip)) => {
                Peer::Bound(site(ip))
            }
            other => Peer::Exempt(other),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

/// The address as it is counted: whoever has an IPv6 address has its whole /64.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    /// Places that are not being given up already.
    fn held(&self) -> usize {
        self.seats.len() - self.closing
    }

    fn len(&self) -> usize {
        self.seats.len()
    }
}

impl State {
    fn held(&self) -> usize {
        self.counts.open - self.counts.closing
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Tells an idle connection of this peer to close, if it has one.
    fn make_room_in(&mut self, peer: Peer) -> bool {
        let looks = self.peers.get(&peer).map_or(0, Row::len).min(LOOKS);
        for _ in 0..looks {
            let ticket = self.ticket();
            let Some(row) = self.peers.get_mut(&peer) else { return false };
            let Some((_, seat)) = row.seats.pop_first() else { return false };
            seat.renumber(ticket);
            row.seats.insert(ticket, Arc::clone(&seat));
            if self.tell(&seat) {
                return true;
            }
        }
        false
    }

    /// Tells an idle connection of the heaviest peer that has one to close.
    fn make_room(&mut self, now_ms: u64) -> bool {
        loop {
            while let Some(seat) = self.found.pop() {
                if self.tell(&seat) {
                    return true;
                }
            }
            if now_ms < self.fruitless_until_ms {
                return false;
            }
            self.found = heaviest::idle(&self.peers, self.counts.open);
            if self.found.is_empty() {
                self.fruitless_until_ms = now_ms.saturating_add(FRUITLESS_MS);
                return false;
            }
        }
    }

    /// Tells a connection to close, if it is idle and was not told before.
    fn tell(&mut self, seat: &Arc<Seat>) -> bool {
        // One that has ended since it was found is in no row any more.
        let Some(row) = self.peers.get_mut(&seat.peer()) else { return false };
        if !row.seats.contains_key(&seat.ticket()) || !seat.tell() {
            return false;
        }
        row.closing += 1;
        self.counts.closing += 1;
        self.counts.closed_idle += 1;
        true
    }
}

impl Place {
    /// What the connection and the places tell each other.
    #[must_use]
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let peer = self.seat.peer();
        let mut state = self.shared.lock();
        state.counts.open -= 1;
        let told = self.seat.is_told();
        if told {
            state.counts.closing -= 1;
        }
        if let Some(row) = state.peers.get_mut(&peer) {
            row.seats.remove(&self.seat.ticket());
            row.closing -= usize::from(told);
            if row.seats.is_empty() {
                state.peers.remove(&peer);
            }
        }
    }
}
