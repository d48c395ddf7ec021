//! Tokens that were verified a moment ago, per worker, bounded.
//!
//! A signature costs 30 to 80 microseconds to verify, a lookup one hash. An entry holds for one
//! state of the issuers' keys only: when any key set or any issuer's setting changes, the whole
//! cache is emptied, so a withdrawn key is withdrawn here too. Times are checked on each use. What a
//! token says beyond a name is kept with it, so that its claims are read once.

use std::collections::HashMap;
use std::sync::Arc;

use keepgate_policy::Uid;
use sha2::{Digest as _, Sha256};

use super::claims::{Said, Unsayable};

/// The most entries; at about 300 bytes each this is 1.2 MB a worker.
const CAPACITY: usize = 4096;
/// What the claims of all entries may take besides, in bytes.
const MAX_BYTES: usize = 8 << 20;
/// What one entry may take of it: a larger token is read each time.
const MAX_ENTRY: usize = MAX_BYTES / 16;

/// What a token was found to say.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) principal: Arc<Uid>,
    /// The value of `Keepgate-Principal`.
    pub(crate) header: http::HeaderValue,
    pub(crate) from_unix_s: u64,
    pub(crate) until_unix_s: u64,
    /// The client certificate that the connection must have (RFC 8705): asked on each use.
    pub(crate) bound: Option<[u8; 32]>,
    /// What it says beyond a name; none: nothing that is used. Or why that cannot be told.
    pub(crate) said: Result<Option<Arc<Said>>, Arc<Unsayable>>,
}

impl Known {
    fn bytes(&self) -> usize {
        match &self.said {
            Ok(Some(said)) => said.bytes,
            Ok(None) | Err(_) => 0,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    /// The state of the issuers that the entries were verified under.
    state: u64,
    entries: HashMap<[u8; 32], Known>,
    /// What the claims of the entries take.
    bytes: usize,
}

/// A token's name in the cache: all of SHA-256, so that no two tokens can share one.
pub(crate) fn name(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl TokenCache {
    /// What the token said, if it was verified under this state and still holds.
    pub(crate) fn find(&mut self, state: u64, name: &[u8; 32], now_unix_s: u64) -> Option<Known> {
        self.move_on(state);
        if self.state != state {
            return None;
        }
        let known = self.entries.get(name)?;
        if now_unix_s >= known.until_unix_s {
            self.remove(name);
            return None;
        }
        (now_unix_s >= known.from_unix_s).then(|| known.clone())
    }

    /// States only grow; whoever comes with an older one was verified under older keys.
    fn move_on(&mut self, state: u64) {
        if self.state < state {
            self.entries.clear();
            self.bytes = 0;
            self.state = state;
        }
    }

    /// Remembers a token that was verified under this state.
    pub(crate) fn keep(&mut self, state: u64, name: [u8; 32], known: Known) {
        self.move_on(state);
        let bytes = known.bytes();
        if self.state != state || bytes > MAX_ENTRY {
            return;
        }
        self.remove(&name);
        if self.entries.len() >= CAPACITY || self.bytes + bytes > MAX_BYTES {
            // Any entry will do: map order is random, and a wrong guess costs one verification.
            let half: Vec<_> = self.entries.keys().take(self.entries.len() / 2).copied().collect();
            for name in half {
                self.remove(&name);
            }
            // Those that stayed may be the large ones.
            if self.bytes + bytes > MAX_BYTES {
                self.entries.clear();
                self.bytes = 0;
            }
        }
        self.bytes += bytes;
        self.entries.insert(name, known);
    }

    fn remove(&mut self, name: &[u8; 32]) {
        if let Some(gone) = self.entries.remove(name) {
            self.bytes -= gone.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(until_unix_s: u64) -> Known {
        let principal = Arc::new(Uid::new("user", "a"));
        let header = http::HeaderValue::from_static("a");
        Known { principal, header, from_unix_s: 5, until_unix_s, bound: None, said: Ok(None) }
    }

    fn large(bytes: usize) -> Known {
        let (roles, headers) = (Box::default(), Box::default());
        let said = Said { roles, prepared: Default::default(), headers, bytes };
        Known { said: Ok(Some(Arc::new(said))), ..known(u64::MAX) }
    }

    #[test]
    fn holds_for_its_time_and_state() {
        let mut cache = TokenCache::default();
        let (a, b) = (name("a"), name("b"));
        cache.keep(0, a, known(10));
        assert!(cache.find(0, &a, 4).is_none(), "before its time");
        assert!(cache.find(0, &a, 9).is_some());
        assert!(cache.find(0, &b, 9).is_none());
        assert!(cache.find(0, &a, 10).is_none(), "expired");
        cache.keep(0, a, known(10));
        assert!(cache.find(1, &a, 9).is_none(), "the keys changed");
        cache.keep(0, a, known(10));
        assert!(cache.find(1, &a, 9).is_none(), "verified under older keys");
    }

    #[test]
    fn is_bounded() {
        let mut cache = TokenCache::default();
        for i in 0..3 * CAPACITY {
            cache.keep(0, name(&i.to_string()), known(u64::MAX));
        }
        assert!(cache.entries.len() <= CAPACITY);
    }

    #[test]
    fn is_bounded_in_bytes() {
        let mut cache = TokenCache::default();
        for i in 0..200 {
            cache.keep(0, name(&i.to_string()), large(MAX_ENTRY));
            let sum: usize = cache.entries.values().map(Known::bytes).sum();
            assert!(cache.bytes == sum && sum <= MAX_BYTES, "{i}");
            assert!(cache.find(0, &name(&i.to_string()), 9).is_some());
        }
        let (same, too_large) = (name("same"), name("too large"));
        let before = cache.entries.len();
        cache.keep(0, too_large, large(MAX_ENTRY + 1));
        assert!(cache.find(0, &too_large, 9).is_none() && cache.entries.len() == before);
        cache.keep(1, same, large(100));
        cache.keep(1, same, large(50));
        assert_eq!(cache.bytes, 50);
        cache.keep(2, same, known(9));
        assert_eq!((cache.bytes, cache.find(2, &same, 9).is_none()), (0, true));
    }
}
