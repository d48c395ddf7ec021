//! The keyed hash under every keyed store: SipHash-1-3.
//!
//! It deliberately does not know where randomness comes from: the process passes a
//! [`Seed`] in, made once from its random source. Whoever does not know the seed can
//! neither aim keys at one set of a store nor make two keys collide on purpose.
//! Two different keys share a fingerprint by accident with a chance of 2^-64.
//!
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The secret under which a process hashes keys.
#[derive(Clone, Copy)]
pub struct Seed {
    k0: u64,
    k1: u64,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A key as a store knows it: 64 bits under the process's seed, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The 64 bits.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The key with these bits; 0 is none.
    pub(crate) fn from_u64(bits: u64) -> Option<Fingerprint> {
        (bits != 0).then_some(Fingerprint(bits))
    }
}

/// A map by fingerprint. They are keyed hashes already and are not hashed again.
pub type FingerprintMap<V> = HashMap<Fingerprint, V, BuildHasherDefault<AsIs>>;

/// The hasher of [`FingerprintMap`].
#[derive(Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// What sort of key a fingerprint stands for; keys of two sorts never collide by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Sort {
    /// A network address.
    Address = 1,
    /// A principal.
    Principal = 2,
    /// An API key.
    ApiKey = 3,
    /// A header's value.
    Header = 4,
    /// Anything else: what `top` counts.
    Text = 5,
}

impl Seed {
    /// A seed from 16 random bytes.
    pub fn new(random: [u8; 16]) -> Seed {
        let both = u128::from_le_bytes(random);
        Seed { k0: both as u64, k1: (both >> 64) as u64 }
    }

    /// The fingerprint of a key given as bytes.
    #[inline]
    pub fn bytes(&self, sort: Sort, key: &[u8]) -> Fingerprint {
        let mut sip = Sip::new(self);
        sip.word(sort as u64);
        Fingerprint::of(sip.finish(key))
    }

    /// The fingerprint of a key given as two parts; `("a", "bc")` is not `("ab", "c")`.
    #[inline]
    pub fn pair(&self, sort: Sort, first: &[u8], second: &[u8]) -> Fingerprint {
        let mut sip = Sip::new(self);
        sip.word(sort as u64);
        let inner = sip.finish(first);
        let mut sip = Sip::new(self);
        sip.word(sort as u64);
        sip.word(inner);
        Fingerprint::of(sip.finish(second))
    }

    /// The fingerprint of a key of 128 bits.
    #[inline]
    pub fn wide(&self, sort: Sort, key: u128) -> Fingerprint {
        let mut sip = Sip::new(self);
        sip.word(sort as u64);
        sip.word(key as u64);
        sip.word((key >> 64) as u64);
        Fingerprint::of(sip.finish(&[]))
    }
}

impl Fingerprint {
    fn of(hash: u64) -> Fingerprint {
        // 0 marks an empty slot.
        Fingerprint(if hash == 0 { 1 } else { hash })
    }
}

struct Sip {
    v: (u64, u64, u64, u64),
    words: u64,
}

impl Sip {
    #[inline]
    fn new(seed: &Seed) -> Sip {
        Sip {
            v: (
                seed.k0 ^ 0x736f_6d65_7073_6575,
                seed.k1 ^ 0x646f_7261_6e64_6f6d,
                seed.k0 ^ 0x6c79_6765_6e65_7261,
                seed.k1 ^ 0x7465_6462_7974_6573,
            ),
            words: 0,
        }
    }

    #[inline]
    fn round(&mut self) {
        let (mut a, mut b, mut c, mut d) = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = (a, b, c, d);
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.v.3 ^= word;
        self.round();
        self.v.0 ^= word;
        self.words += 1;
    }

    #[inline]
    fn finish(mut self, rest: &[u8]) -> u64 {
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0_u8; 8];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        let length = self.words.wrapping_mul(8).wrapping_add(tail.len() as u64);
        self.word(u64::from_le_bytes(last) | (length << 56));
        self.v.2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v.0 ^ self.v.1 ^ self.v.2 ^ self.v.3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard library's hasher is SipHash-1-3 under a seed of zeros: an
    /// independent implementation to be equal to, at every length.
    #[test]
    fn equals_the_standard_library_at_every_length() {
        let seed = Seed::new([0; 16]);
        for length in 0..200_u8 {
            let input: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37) ^ 0x5a).collect();
            let mut theirs = std::hash::DefaultHasher::new();
            theirs.write(&input);
            assert_eq!(Sip::new(&seed).finish(&input), theirs.finish(), "length {length}");
        }
    }

    #[test]
    fn the_seed_the_sort_and_the_cut_matter() {
        let (a, b) = (Seed::new([1; 16]), Seed::new([2; 16]));
        assert_ne!(a.bytes(Sort::Header, b"x"), b.bytes(Sort::Header, b"x"));
        assert_ne!(a.bytes(Sort::Header, b"x"), a.bytes(Sort::ApiKey, b"x"));
        assert_ne!(a.pair(Sort::Principal, b"a", b"bc"), a.pair(Sort::Principal, b"ab", b"c"));
        assert_ne!(a.wide(Sort::Address, 1), a.wide(Sort::Address, 1 << 64));
    }
}
