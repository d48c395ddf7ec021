//! The sockets of one namespace, gathered while they stream by.
//!
//! A busy host has hundreds of thousands of sockets, so each keeps only eight bytes: its port, its
//! state and what is left of its timer. Connected sockets go to their *bucket* (source,
//! destination, destination port, device); the accepted children of a listener are only counted,
//! because their port is unusable anyway.
//!
//! INVARIANT: at most [`MAX_BUCKETS`] buckets are kept; what comes after is counted in
//! [`SocketTable::unlisted`], never dropped silently.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::diag::{Socket, TcpState};
use crate::ranges::PortSet;

/// How many buckets a table keeps.
pub const MAX_BUCKETS: usize = 32_768;
/// How many listeners and idle bound sockets a table keeps one by one.
pub const MAX_BOUND: usize = 8_192;
/// How many live sockets a bucket remembers by inode, for finding their owners.
pub const MAX_INODES: usize = 65_536;

/// What shares one supply of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BucketKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
    /// The device the sockets are bound to (by index); 0 for none.
    #[serde(default)]
    pub interface: u32,
}

impl BucketKey {
    /// The bucket of a connected socket.
    pub fn of(socket: &Socket) -> Self {
        Self {
            src: socket.local.ip(),
            dst: socket.remote.ip(),
            dport: socket.remote.port(),
            interface: socket.interface,
        }
    }

    /// The destination as one address.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.dport)
    }
}

/// One connected socket of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its own port.
    pub port: u16,
    /// Its state.
    pub state: TcpState,
    /// For TIME_WAIT: milliseconds until it is gone.
    pub expires_ms: u32,
}

// Written as `[port, state number, expires_ms]`: a recorded host may hold 200,000 of them.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.port, self.state as u8, self.expires_ms).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (port, state, expires_ms) = <(u16, u8, u32)>::deserialize(deserializer)?;
        let state = TcpState::from_number(state).ok_or_else(|| {
            serde::de::Error::custom(format!("expected a TCP state, got `{state}`"))
        })?;
        Ok(Self { port, state, expires_ms })
    }
}

/// The sockets of one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Which bucket.
    #[serde(flatten)]
    pub key: BucketKey,
    /// Its sockets.
    pub sockets: Vec<Entry>,
}

impl Bucket {
    /// How many sockets in each state.
    pub fn states(&self) -> StateCounts {
        let mut states = StateCounts::default();
        for entry in &self.sockets {
            states.add(entry.state);
        }
        states
    }
}

/// A listener, or a socket that is bound and idle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundSocket {
    /// Address and port.
    pub local: SocketAddr,
    /// `Listen` or `BoundInactive`.
    pub state: TcpState,
    /// Its inode, 0 when unknown.
    pub inode: u32,
}

/// How many sockets are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateCounts([u64; TcpState::ALL.len()]);

impl StateCounts {
    /// Counts one more.
    pub fn add(&mut self, state: TcpState) {
        if let Some(count) = self.0.get_mut(state as usize - 1) {
            *count += 1;
        }
    }

    /// How many in that state.
    pub fn of(&self, state: TcpState) -> u64 {
        self.0.get(state as usize - 1).copied().unwrap_or(0)
    }

    /// All states that occur.
    pub fn iter(&self) -> impl Iterator<Item = (TcpState, u64)> + '_ {
        TcpState::ALL.into_iter().zip(self.0).filter(|(_, n)| *n > 0)
    }
}

impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for StateCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<TcpState, u64>::deserialize(deserializer)?;
        let mut counts = Self::default();
        for (state, n) in map {
            if let Some(count) = counts.0.get_mut(state as usize - 1) {
                *count = n;
            }
        }
        Ok(counts)
    }
}

/// All TCP sockets of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketTable {
    /// Connected sockets, by bucket.
    pub buckets: Vec<Bucket>,
    /// Listeners and idle bound sockets.
    pub bound: Vec<BoundSocket>,
    /// All ports that a listener or an idle bound socket has.
    pub bound_ports: PortSet,
    /// All ports that some connected socket has (children of listeners apart).
    pub carried: PortSet,
    /// Sockets in each state, all of them.
    pub states: StateCounts,
    /// Sockets of the kept kinds that found no room.
    #[serde(default)]
    pub unlisted: u64,
    #[serde(skip)]
    index: HashMap<BucketKey, u32, BuildHasherDefault<KeyHasher>>,
    #[serde(skip)]
    last: Option<(BucketKey, u32)>,
}

/// Where a socket went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Into the bucket of that index.
    Bucket(usize),
    /// Among the bound ones.
    Bound,
    /// Counted only.
    Counted,
}

impl SocketTable {
    /// Adds a socket. Listeners must come before connected sockets, as in a kernel dump.
    pub fn add(&mut self, socket: &Socket) -> Placed {
        self.states.add(socket.state);
        let port = socket.local.port();
        match socket.state {
            TcpState::Listen | TcpState::BoundInactive => {
                self.bound_ports.insert(port);
                if self.bound.len() >= MAX_BOUND {
                    self.unlisted += 1;
                    return Placed::Counted;
                }
                let (local, state, inode) = (socket.local, socket.state, socket.inode);
                self.bound.push(BoundSocket { local, state, inode });
                Placed::Bound
            }
            TcpState::Close => Placed::Counted,
            _ if self.bound_ports.contains(port) => Placed::Counted,
            _ => self.add_connected(socket),
        }
    }

    fn add_connected(&mut self, socket: &Socket) -> Placed {
        let key = BucketKey::of(socket);
        self.carried.insert(socket.local.port());
        let Some(index) = self.index_of(key) else {
            self.unlisted += 1;
            return Placed::Counted;
        };
        let expires_ms = if socket.state == TcpState::TimeWait { socket.expires_ms } else { 0 };
        let entry = Entry { port: socket.local.port(), state: socket.state, expires_ms };
        let index = index as usize;
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.sockets.push(entry);
        }
        Placed::Bucket(index)
    }

    fn index_of(&mut self, key: BucketKey) -> Option<u32> {
        if let Some((last, index)) = self.last
            && last == key
        {
            return Some(index);
        }
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None => {
                if self.buckets.len() >= MAX_BUCKETS {
                    return None;
                }
                let index = u32::try_from(self.buckets.len()).ok()?;
                self.buckets.push(Bucket { key, sockets: Vec::new() });
                self.index.insert(key, index);
                index
            }
        };
        self.last = Some((key, index));
        Some(index)
    }

    /// The bucket of that key, if it holds anything.
    pub fn bucket(&self, key: &BucketKey) -> Option<&Bucket> {
        self.buckets.iter().find(|b| b.key == *key)
    }

    /// All sockets in a state.
    pub fn in_state(&self, state: TcpState) -> u64 {
        self.states.of(state)
    }

    /// All sockets.
    pub fn total(&self) -> u64 {
        self.states.iter().map(|(_, n)| n).sum()
    }

    /// Sorts each bucket by port: needed before [`changes`].
    pub fn sort(&mut self) {
        for bucket in &mut self.buckets {
            bucket.sockets.sort_unstable_by_key(|e| (e.port, e.state, e.expires_ms));
        }
    }
}

/// What happened in a bucket between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Changes {
    /// Connections that are new, or that replaced an old one on the same port.
    pub opened: u32,
    /// Connections that ended: live before and not now, or new and over already.
    pub closed: u32,
}

/// Compares a bucket with what it was `elapsed_ms` earlier. Both must be sorted.
pub fn changes(before: &[Entry], now: &[Entry], elapsed_ms: u32) -> Changes {
    let mut opened = 0;
    let (mut live_before, mut live_now) = (0u32, 0u32);
    let mut old = before.iter().peekable();
    for entry in now {
        while old.next_if(|o| o.port < entry.port).is_some() {}
        let earlier = old.next_if(|o| o.port == entry.port);
        let reopened = match earlier {
            None => true,
            Some(earlier) => match (earlier.state, entry.state) {
                // A TIME_WAIT that got younger is another connection's.
                (TcpState::TimeWait, TcpState::TimeWait) => {
                    entry.expires_ms > earlier.expires_ms.saturating_sub(elapsed_ms / 2)
                }
                (TcpState::TimeWait, _) => true,
                _ => false,
            },
        };
        opened += u32::from(reopened);
        live_now += u32::from(entry.state != TcpState::TimeWait);
    }
    for entry in before {
        live_before += u32::from(entry.state != TcpState::TimeWait);
    }
    Changes { opened, closed: (opened + live_before).saturating_sub(live_now) }
}

/// A small multiplicative hasher: keys come from the kernel's own table, so nobody can choose them
/// to collide at our expense beyond what they already do to the kernel, and the table is bounded.
#[derive(Debug, Default, Clone)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
