//! Request ids: the caller's own where it is sane, else one made here.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use ring::rand::SecureRandom;

/// The longest id that is taken from a caller.
const MAX_LEN: usize = 128;

/// Makes ids: a random part for this maker, then a number. They are unique, not secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    /// A maker whose ids no other maker's ids are equal to.
    pub(crate) fn new() -> RequestIds {
        let mut seed = [0u8; 9];
        if ring::rand::SystemRandom::new().fill(&mut seed).is_err() {
            // Without randomness the clock has to tell makers apart.
            let ns = keepgate_observe::unix_now().as_nanos();
            for (to, from) in seed.iter_mut().zip(ns.to_le_bytes()) {
                *to = from;
            }
        }
        let mut prefix = String::with_capacity(2 * seed.len() + 1);
        for byte in seed {
            let _ = write!(prefix, "{byte:02x}");
        }
        prefix.push('-');
        RequestIds { prefix, next: AtomicU64::new(1) }
    }

    /// A new id.
    pub(crate) fn next(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(self.prefix.len() + 8);
        id.push_str(&self.prefix);
        let _ = write!(id, "{n:x}");
        id
    }

    /// The caller's id if it is one, else a new one.
    pub(crate) fn of(&self, theirs: Option<&HeaderValue>) -> HeaderValue {
        match theirs {
            Some(value) if is_sane(value.as_bytes()) => value.clone(),
            _ => HeaderValue::try_from(self.next())
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
        }
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=@".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_kept() {
        let ids = RequestIds::new();
        let keep = HeaderValue::from_static("0af7651916cd43dd-8448eb211c80319c");
        assert_eq!(ids.of(Some(&keep)), keep);
        for odd in ["", "a b", "x\"y", &"a".repeat(129)] {
            let value = HeaderValue::from_str(odd).unwrap();
            assert_ne!(ids.of(Some(&value)), value);
        }
        assert_ne!(ids.of(None), ids.of(None));
        assert_ne!(RequestIds::new().of(None), ids.of(None));
    }
}
