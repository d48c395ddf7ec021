//! An anchor: a center's word that a gate's log had this chain at this line.
//!
//! Each one also says what the center had signed before of the same log. So a chain that was made anew
//! cannot be signed over: the next anchor names what the old one was.

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::hash::{Hash, LogId, sha256};
use crate::hex;

/// Bytes of a gate's name at most.
pub const MAX_GATE: usize = 400;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The log.
    #[serde(with = "hex::member")]
    pub log: LogId,
    /// Who asked for it, by the center's word: the id of its token, and the name that it goes by.
    pub gate: String,
    /// The number of the line.
    pub seq: u64,
    /// The chain up to and with it.
    #[serde(with = "hex::member")]
    pub chain: Hash,
    /// The line that the center had signed before; 0: it had signed none of this log.
    pub previous_seq: u64,
    /// The chain there; zeros: none.
    #[serde(with = "hex::member")]
    pub previous_chain: Hash,
    /// When, by the center's clock, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The center's key, by name.
    pub key: String,
    /// Ed25519 over [`Anchor::signed`].
    #[serde(with = "hex::member")]
    pub signature: [u8; 64],
}

impl Anchor {
    /// The bytes that are signed.
    pub fn signed(&self) -> Vec<u8> {
        let mut out = b"keepgate log anchor\0".to_vec();
        for text in [&self.key, &self.gate] {
            out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.log);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.previous_seq.to_be_bytes());
        out.extend_from_slice(&self.previous_chain);
        out.extend_from_slice(&self.unix_ms.to_be_bytes());
        out
    }

    /// Whether this key has signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.key == key.id && key.has_signed(&self.signed(), &self.signature)
    }
}

/// A center's public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Its name: the first 16 hexadecimal digits of SHA-256 over it.
    pub id: String,
    /// 32 bytes (RFC 8032).
    #[serde(with = "hex::member")]
    pub public: [u8; 32],
}

impl PublicKey {
    /// With its name.
    pub fn new(public: [u8; 32]) -> PublicKey {
        let id = hex::text(sha256(&public).first_chunk::<8>().unwrap_or(&[0; 8]));
        PublicKey { id, public }
    }

    /// Whether these bytes have this signature of it.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(bytes, signature).is_ok()
    }

    /// Whether its name is its own.
    pub fn is_named_right(&self) -> bool {
        PublicKey::new(self.public).id == self.id
    }
}

/// What a center has signed last of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The log.
    #[serde(with = "hex::member")]
    pub log: LogId,
    /// As [`Anchor::gate`].
    pub gate: String,
    /// As [`Anchor::seq`].
    pub seq: u64,
    /// As [`Anchor::chain`].
    #[serde(with = "hex::member")]
    pub chain: Hash,
    /// As [`Anchor::unix_ms`].
    pub unix_ms: u64,
}
