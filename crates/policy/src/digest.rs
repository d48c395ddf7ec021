//! A digest of a set of items that can be moved on change by change.
//!
//! Each item hashes (SHA-256 of key and canonical body) to four 64-bit lanes; a set's digest is
//! the lane-wise wrapping sum. Adding and removing an item is one addition, the order of items
//! does not matter, and the digest of directory plus services is the sum of theirs. It detects
//! divergence (lost, doubled or altered changes); it is no signature.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::model::{Item, ItemKey};

/// See the module. 32 bytes on the wire, little-endian lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub [u64; 4]);

impl Digest {
    /// The digest of the set that holds this item alone.
    pub fn of(item: &Item) -> Digest {
        Digest::of_encoded(&item.key, &item.encode())
    }

    /// The same, where the canonical body is at hand (see [`Item::encode`]).
    pub fn of_encoded(key: &ItemKey, body: &[u8]) -> Digest {
        let mut hash = Sha256::new();
        // Each part with its length, so that no two keys read as the same bytes.
        for part in [key.service.as_bytes(), key.kind.as_str().as_bytes(), key.id.as_bytes(), body]
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Digest::from_bytes(&hash.finalize()).unwrap_or_default()
    }

    /// The digest of a set of items.
    pub fn of_all<'a>(items: impl IntoIterator<Item = &'a Item>) -> Digest {
        items.into_iter().fold(Digest::default(), |sum, item| sum.plus(Digest::of(item)))
    }

    /// The set with one more member of this hash.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Digest([a.wrapping_add(e), b.wrapping_add(f), c.wrapping_add(g), d.wrapping_add(h)])
    }

    /// The set without one member of this hash.
    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Digest([a.wrapping_sub(e), b.wrapping_sub(f), c.wrapping_sub(g), d.wrapping_sub(h)])
    }

    /// The 32 bytes of the wire.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    /// Reads the wire's bytes; none unless there are exactly 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Digest> {
        if bytes.len() != 32 {
            return None;
        }
        let mut lanes = [0; 4];
        for (lane, from) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = u64::from_le_bytes(from.try_into().ok()?);
        }
        Some(Digest(lanes))
    }
}

/// 64 hexadecimal digits, the bytes of the wire in order.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
