//! API keys: `kgk_<prefix>_<secret>`, of which the world holds SHA-256.
//!
//! A key has 128 bits or more of randomness, so a plain hash is enough; it is compared in
//! constant time all the same.

use keepgate_policy::model::KeyBody;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The longest key that is looked at.
const MAX_KEY: usize = 256;

/// Why a key identifies nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `kgk_PREFIX_SECRET`, or too long.
    #[error("the API key is malformed")]
    Malformed,
    /// Unknown prefix or wrong secret: the same to the outside.
    #[error("the API key is not known")]
    Unknown,
    /// It was good once.
    #[error("the API key has expired")]
    Expired,
}

/// The prefix of a key, by which it is found.
///
/// # Errors
/// A key of another form.
pub fn prefix(key: &str) -> Result<&str, KeyError> {
    let rest = key.strip_prefix("kgk_").ok_or(KeyError::Malformed)?;
    match rest.split_once('_') {
        Some((prefix, secret))
            if key.len() <= MAX_KEY && !prefix.is_empty() && !secret.is_empty() =>
        {
            Ok(prefix)
        }
        _ => Err(KeyError::Malformed),
    }
}

/// Whether `key` is the one that `body` describes, and still good at this time in seconds since the Unix
/// epoch.
///
/// # Errors
/// It is another one, or has expired.
pub fn check(key: &str, body: &KeyBody, now_unix_s: u64) -> Result<(), KeyError> {
    let hash = Sha256::digest(key.as_bytes());
    let mut hex = [0u8; 64];
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in hex.chunks_exact_mut(2).zip(hash) {
        if let [high, low] = pair {
            *high = DIGITS.get(usize::from(byte >> 4)).copied().unwrap_or(b'0');
            *low = DIGITS.get(usize::from(byte & 15)).copied().unwrap_or(b'0');
        }
    }
    if !bool::from(hex.ct_eq(body.sha256.as_bytes())) {
        return Err(KeyError::Unknown);
    }
    match body.expires_unix_s {
        Some(until) if now_unix_s >= until => Err(KeyError::Expired),
        _ => Ok(()),
    }
}
