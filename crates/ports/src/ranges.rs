//! Sets of ports: `ip_local_port_range`, `ip_local_reserved_ports` and what is taken.
//!
//! A [`PortSet`] is a bitmap of all 65,536 ports (8 KiB). It is written the way the kernel writes
//! `ip_local_reserved_ports`: `8080,9000-9010`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const WORDS: usize = 1024;

/// An inclusive range of ports, `low <= high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub low: u16,
    /// The last port, included.
    pub high: u16,
}

impl PortRange {
    /// How many ports; 0 for a reversed range.
    pub fn len(self) -> u32 {
        (u32::from(self.high) + 1).saturating_sub(u32::from(self.low))
    }

    /// True for a reversed range.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// True when `port` lies in it.
    pub fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    /// The ports both have, or nothing.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (!both.is_empty()).then_some(both)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// A set of ports.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    words: Box<[u64]>,
}

impl PortSet {
    /// The empty set.
    pub fn new() -> Self {
        Self { words: vec![0; WORDS].into_boxed_slice() }
    }

    /// Adds a port; true when it was not there yet.
    pub fn insert(&mut self, port: u16) -> bool {
        let bit = 1u64 << (port & 63);
        match self.words.get_mut(usize::from(port >> 6)) {
            Some(word) => {
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }

    /// Adds all ports of a range.
    pub fn insert_range(&mut self, range: PortRange) {
        for port in range.low..=range.high {
            self.insert(port);
        }
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: u16) {
        if let Some(word) = self.words.get_mut(usize::from(port >> 6)) {
            *word &= !(1u64 << (port & 63));
        }
    }

    /// True when `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.words.get(usize::from(port >> 6)).is_some_and(|w| w & (1u64 << (port & 63)) != 0)
    }

    /// How many ports.
    pub fn len(&self) -> u32 {
        self.words.iter().map(|w| w.count_ones()).sum()
    }

    /// True when no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// The set of one range.
    pub fn of(range: PortRange) -> Self {
        let mut set = Self::new();
        set.insert_range(range);
        set
    }

    /// Adds all of `other`.
    pub fn union_with(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(other.words.iter()) {
            *a |= b;
        }
    }

    /// Takes all of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(other.words.iter()) {
            *a &= !b;
        }
    }

    /// Keeps only what `other` has too.
    pub fn intersect_with(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(other.words.iter()) {
            *a &= b;
        }
    }

    /// All ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.words.iter().zip(0u16..).flat_map(|(word, index)| {
            (0u16..64).filter(move |bit| word & (1u64 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }

    /// The set as ascending ranges that do not touch.
    pub fn ranges(&self) -> Vec<PortRange> {
        let mut out: Vec<PortRange> = Vec::new();
        for port in self.iter() {
            match out.last_mut() {
                Some(last) if u32::from(last.high) + 1 == u32::from(port) => last.high = port,
                _ => out.push(PortRange { low: port, high: port }),
            }
        }
        out
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::new();
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if range.low == range.high {
                write!(f, "{}", range.low)?;
            } else {
                write!(f, "{range}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

/// A text that is no list of ports.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a port or a range of ports such as `8080,9000-9010`")]
pub struct ParsePortsError {
    /// The part that did not parse.
    pub text: String,
}

impl FromStr for PortSet {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::new();
        for part in text.trim().split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let error = || ParsePortsError { text: part.chars().take(40).collect() };
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let low = low.trim().parse().map_err(|_| error())?;
            let high = high.trim().parse().map_err(|_| error())?;
            let range = PortRange { low, high };
            if range.is_empty() {
                return Err(error());
            }
            set.insert_range(range);
        }
        Ok(set)
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
