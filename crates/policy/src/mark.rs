//! Marks: which state of which history a revision number means.
//!
//! A store has a random [`HistoryId`]. Within one history a revision never means two states: each
//! revision's *chain* hashes the chain before it and what it changed, so equal marks mean equal
//! pasts. A center seals its marks with a key that it never sends. A follower can therefore repeat
//! a mark as a witness, but it cannot make one up. This module knows no key: only a center makes
//! and checks seals.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::model::Revision;
use crate::proto;

/// The newest format of items that this release reads and writes. Format 1 is that of release 0.1;
/// in format 2, items say which format they need; format 3 is that of release 0.3.
pub const FORMAT: u32 = 3;

/// Revisions stay below this, so that every JSON reader holds them exactly.
pub const MAX_REVISION: u64 = 1 << 53;

/// How far a declared successor continues above every revision that was ever told.
pub const SUCCESSOR_GAP: u64 = 1_000_000_000;

/// The chain of a revision; that of revision 0 is all zeros.
pub type Chain = [u8; 32];

/// Names one line of revisions. 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId(pub [u8; 16]);

impl HistoryId {
    /// The first 8 hexadecimal digits, as in `Keepgate-Min-Revision: REV@HISTORY`.
    pub fn short(&self) -> String {
        hex(self.0.get(..4).unwrap_or_default())
    }

    /// Reads 16 bytes; none for any other number.
    pub fn from_bytes(bytes: &[u8]) -> Option<HistoryId> {
        bytes.try_into().ok().map(HistoryId)
    }

    /// Reads the 32 hexadecimal digits of [`fmt::Display`].
    pub fn from_hex(text: &str) -> Option<HistoryId> {
        unhex(text).map(HistoryId)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A revision of one history, sealed by its center. Equal marks mean equal states.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The line of revisions.
    pub history: HistoryId,
    /// The revision, below [`MAX_REVISION`].
    pub revision: Revision,
    /// What the revision and all before it changed.
    pub chain: Chain,
    /// The first 16 bytes of HMAC-SHA256 with the history's key; see [`Mark::sealed_bytes`].
    pub seal: [u8; 16],
}

/// Bytes that are no mark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// A field has another size.
    #[error("expected {expected} bytes of {what}, got {got}")]
    Size {
        /// The field.
        what: &'static str,
        /// How many bytes it has.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// A revision at or above [`MAX_REVISION`].
    #[error("expected a revision below {MAX_REVISION}, got {0}")]
    Revision(u64),
}

/// Bytes in the form [`Mark::to_bytes`] has.
pub const MARK_BYTES: usize = 16 + 8 + 32 + 16;

impl Mark {
    /// What the seal is made over: history, revision (little-endian), chain.
    pub fn sealed_bytes(history: HistoryId, revision: Revision, chain: &Chain) -> [u8; 56] {
        let mut bytes = [0; 56];
        let revision = revision.0.to_le_bytes();
        let parts = history.0.iter().chain(&revision).chain(chain).copied();
        for (to, from) in bytes.iter_mut().zip(parts.collect::<Vec<u8>>()) {
            *to = from;
        }
        bytes
    }

    /// As it is kept in files: history, revision (little-endian), chain, seal.
    pub fn to_bytes(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        let sealed = Mark::sealed_bytes(self.history, self.revision, &self.chain);
        for (to, from) in bytes.iter_mut().zip(sealed.iter().chain(&self.seal)) {
            *to = *from;
        }
        bytes
    }

    /// Reads [`Mark::to_bytes`].
    ///
    /// # Errors
    /// Another number of bytes, or a revision out of bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Mark, MarkError> {
        let size = MarkError::Size { what: "a mark", expected: MARK_BYTES, got: bytes.len() };
        if bytes.len() != MARK_BYTES {
            return Err(size);
        }
        let (history, rest) = bytes.split_first_chunk::<16>().ok_or_else(|| size.clone())?;
        let (revision, rest) = rest.split_first_chunk::<8>().ok_or_else(|| size.clone())?;
        let (chain, rest) = rest.split_first_chunk::<32>().ok_or_else(|| size.clone())?;
        let (seal, _) = rest.split_first_chunk::<16>().ok_or(size)?;
        Ok(Mark {
            history: HistoryId(*history),
            revision: bounded(u64::from_le_bytes(*revision))?,
            chain: *chain,
            seal: *seal,
        })
    }

    /// The message of the follow protocol.
    pub fn to_proto(&self) -> proto::Mark {
        proto::Mark {
            history: self.history.0.to_vec(),
            revision: self.revision.0,
            chain: self.chain.to_vec(),
            seal: self.seal.to_vec(),
        }
    }

    /// Reads the message of the follow protocol.
    ///
    /// # Errors
    /// A field of another size, or a revision out of bounds.
    pub fn from_proto(mark: &proto::Mark) -> Result<Mark, MarkError> {
        Ok(Mark {
            history: HistoryId(sized("a history", &mark.history)?),
            revision: bounded(mark.revision)?,
            chain: sized("a chain", &mark.chain)?,
            seal: sized("a seal", &mark.seal)?,
        })
    }
}

/// `REVISION@HISTORY`, with the first 8 hexadecimal digits of the history.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.revision, self.history.short())
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = hex(self.chain.get(..4).unwrap_or_default());
        write!(f, "{}@{}/{chain}", self.revision, self.history.short())
    }
}

/// The chain of revision `r`: SHA-256 over the chain before it, the history, `r` (little-endian)
/// and the digest of what it changed (rows, tokens and tombstones).
pub fn chain_next(previous: &Chain, history: HistoryId, r: Revision, changed: &[u8; 32]) -> Chain {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(history.0);
    hash.update(r.0.to_le_bytes());
    hash.update(changed);
    hash.finalize().into()
}

/// The digest of one change row of a revision, for its chain: key, whether it was put or deleted,
/// and the body. That of a put is the item's own.
pub fn change_digest(key: &crate::model::ItemKey, body: Option<&[u8]>) -> Digest {
    match body {
        Some(body) => Digest::of_encoded(key, body),
        None => {
            let gone = crate::model::ItemKey { id: format!("{}\0deleted", key.id), ..key.clone() };
            Digest::of_encoded(&gone, b"")
        }
    }
}

fn bounded(revision: u64) -> Result<Revision, MarkError> {
    if revision < MAX_REVISION {
        Ok(Revision(revision))
    } else {
        Err(MarkError::Revision(revision))
    }
}

fn sized<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], MarkError> {
    bytes.try_into().map_err(|_| MarkError::Size { what, expected: N, got: bytes.len() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (to, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(revision: u64) -> Mark {
        Mark {
            history: HistoryId([0xab; 16]),
            revision: Revision(revision),
            chain: [7; 32],
            seal: [9; 16],
        }
    }

    #[test]
    fn a_mark_travels_as_message_and_as_bytes() {
        for revision in [0, 1, MAX_REVISION - 1] {
            let mark = mark(revision);
            assert_eq!(Mark::from_proto(&mark.to_proto()), Ok(mark));
            assert_eq!(Mark::from_bytes(&mark.to_bytes()), Ok(mark));
        }
        assert_eq!(mark(5).to_string(), "5@abababab");
        let id = HistoryId([0xab; 16]);
        assert_eq!(HistoryId::from_hex(&id.to_string()), Some(id));
        assert_eq!(HistoryId::from_hex("abab"), None);
        assert_eq!(HistoryId::from_hex(&"+a".repeat(16)), None);
    }

    #[test]
    fn what_is_no_mark_is_refused() {
        let beyond = mark(MAX_REVISION);
        assert_eq!(Mark::from_proto(&beyond.to_proto()), Err(MarkError::Revision(MAX_REVISION)));
        assert_eq!(Mark::from_bytes(&beyond.to_bytes()), Err(MarkError::Revision(MAX_REVISION)));
        let good = mark(1).to_proto();
        for (what, bad) in [
            ("history", proto::Mark { history: vec![0; 15], ..good.clone() }),
            ("chain", proto::Mark { chain: vec![0; 33], ..good.clone() }),
            ("seal", proto::Mark { seal: Vec::new(), ..good.clone() }),
        ] {
            let error = Mark::from_proto(&bad).unwrap_err();
            assert!(matches!(error, MarkError::Size { .. }), "{what}: {error}");
        }
        assert!(Mark::from_bytes(&mark(1).to_bytes()[..71]).is_err());
    }

    #[test]
    fn the_chain_depends_on_all_that_it_is_made_of() {
        let (h, g) = (HistoryId([1; 16]), HistoryId([2; 16]));
        let base = chain_next(&[0; 32], h, Revision(1), &[0; 32]);
        assert_ne!(base, chain_next(&[1; 32], h, Revision(1), &[0; 32]));
        assert_ne!(base, chain_next(&[0; 32], g, Revision(1), &[0; 32]));
        assert_ne!(base, chain_next(&[0; 32], h, Revision(2), &[0; 32]));
        assert_ne!(base, chain_next(&[0; 32], h, Revision(1), &[1; 32]));
    }
}
