//! Values of the chain.

use ring::digest::{SHA256, digest};

/// A value of the chain.
pub type Hash = [u8; 32];
/// The name of a log, 16 random bytes.
pub type LogId = [u8; 16];

/// SHA-256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}
