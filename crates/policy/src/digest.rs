//! A digest of a set of items that can be moved on change by change.
//!
//! Each item hashes (SHA-256 of key and canonical body) to four 64-bit lanes; a set's digest is
//! the lane-wise wrapping sum. Adding and removing an item is one addition, the order of items
//! does not matter, and the digest of directory plus services is the sum of theirs. It detects
//! divergence (lost, doubled or altered changes); it is no signature.

/// See the module. 32 bytes on the wire, little-endian lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub [u64; 4]);

impl Digest {
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
}
