//! What a store says about its history: its name and key, the rows of its revisions, and the
//! rows that belong to no service.

use keepgate_policy::mark::{Chain, chain_next};
use keepgate_policy::{Digest, HistoryId, ItemKey, Mark, Revision};
use ring::hmac;
use sha2::{Digest as _, Sha256};

use super::TokenRow;

/// Which history a store holds, and how it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Meta {
    /// The name of the line of revisions.
    pub history: HistoryId,
    /// What its marks are sealed with; never sent, never shown.
    pub key: [u8; 32],
    /// Whether acknowledged state is there.
    pub standing: Standing,
    /// Histories that this one continues, the nearest first.
    pub ancestors: Vec<HistoryId>,
    /// The engine's own line of time (PostgreSQL's timeline); empty for SQLite.
    pub timeline: String,
    /// Made by a migration or a declared successor, and not started yet: the next start writes
    /// the high-water mark in place of checking it.
    pub fresh: bool,
    /// The store comes from a release in which several services decided AuthZEN requests together,
    /// and none has been named as the one that decides them since.
    pub authzen_together: bool,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("history", &self.history)
            .field("standing", &self.standing)
            .field("ancestors", &self.ancestors)
            .finish_non_exhaustive()
    }
}

impl Meta {
    /// The sealed mark of a revision of this history.
    pub fn mark(&self, revision: Revision, chain: Chain) -> Mark {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let tag = hmac::sign(&key, &Mark::sealed_bytes(self.history, revision, &chain));
        let mut seal = [0; 16];
        for (to, from) in seal.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        Mark { history: self.history, revision, chain, seal }
    }

    /// Whether a mark was made by this history.
    pub fn sealed(&self, mark: &Mark) -> bool {
        use subtle::ConstantTimeEq as _;
        let made = self.mark(mark.revision, mark.chain);
        mark.history == self.history && made.seal.ct_eq(&mark.seal).into()
    }
}

/// Whether a store still has all that it acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Ok,
    /// It does not; it stays so until `recover` or `accept-loss`.
    Lost {
        /// What showed it, for people.
        why: String,
        /// The highest revision of this history that a witness held.
        witnessed: Revision,
    },
    /// Its contents have moved elsewhere; it serves nobody any more.
    Retired {
        /// Where to.
        to: String,
    },
}

/// A revision of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRow {
    /// Its number.
    pub revision: Revision,
    /// The one before it; less than `revision - 1` after a jump.
    pub previous: Revision,
    /// Hashes everything up to it.
    pub chain: Chain,
    /// Digest of its change rows.
    pub changed: Digest,
    /// Digest of the tokens and tombstones that it wrote.
    pub others: Digest,
    /// Random; by it a commit whose outcome is unknown can be looked up.
    pub write_id: [u8; 16],
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl RevisionRow {
    /// The row of revision 0.
    pub fn zero() -> RevisionRow {
        RevisionRow {
            revision: Revision(0),
            previous: Revision(0),
            chain: [0; 32],
            changed: Digest::default(),
            others: Digest::default(),
            write_id: [0; 16],
            unix_ms: 0,
        }
    }

    /// The chain that follows from the chain before it.
    pub fn chained(&self, before: &Chain, history: HistoryId) -> Chain {
        let mut hash = Sha256::new();
        hash.update(self.changed.to_bytes());
        hash.update(self.others.to_bytes());
        chain_next(before, history, self.revision, &hash.finalize().into())
    }
}

/// A jump in the line of revisions: what was told between is not of this line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The last revision that stands.
    pub at: Revision,
    /// The first one after it.
    pub resumed: Revision,
}

/// Rows that belong to no service and have a digest of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Tokens.
    Tokens,
    /// Tombstones.
    Tombstones,
}

impl Sum {
    /// As stored.
    pub fn name(self) -> &'static str {
        match self {
            Sum::Tokens => "tokens",
            Sum::Tombstones => "tombstones",
        }
    }
}

/// What rows sum up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumRow {
    /// Their digest.
    pub digest: Digest,
    /// How many there are.
    pub rows: u64,
}

impl SumRow {
    /// With a row more.
    pub(crate) fn add(&mut self, digest: Digest) {
        self.digest = self.digest.plus(digest);
        self.rows += 1;
    }

    /// With a row less.
    pub(crate) fn remove(&mut self, digest: Digest) {
        self.digest = self.digest.minus(digest);
        self.rows = self.rows.saturating_sub(1);
    }
}

/// What is left of an item that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The item's key.
    pub key: ItemKey,
    /// The revision that deleted it.
    pub revision: Revision,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The id of the token that did it.
    pub actor: String,
    /// By what: `apply`, `role.revoke`, ...
    pub action: String,
    /// The digest of the item that was deleted.
    pub was: Digest,
}

impl Tombstone {
    /// Its contribution to [`Sum::Tombstones`].
    pub fn digest(&self) -> Digest {
        of_parts(&[
            b"tombstone",
            self.key.service.as_bytes(),
            self.key.kind.as_str().as_bytes(),
            self.key.id.as_bytes(),
            &self.revision.0.to_le_bytes(),
            &self.unix_ms.to_le_bytes(),
            self.actor.as_bytes(),
            self.action.as_bytes(),
            &self.was.to_bytes(),
        ])
    }
}

impl TokenRow {
    /// Its contribution to [`Sum::Tokens`]: everything but its last use. A token that never expires
    /// has the digest that it had in stores without such a time.
    pub fn digest(&self) -> Digest {
        let revoked = match self.revoked_unix_s {
            Some(at) => at.to_le_bytes().to_vec(),
            None => Vec::new(),
        };
        let created = self.created_unix_s.to_le_bytes();
        let expires = self.expires_unix_s.map(u64::to_le_bytes);
        let mut parts: Vec<&[u8]> = vec![
            b"token",
            self.id.as_bytes(),
            self.role.name().as_bytes(),
            self.service.as_bytes(),
            &self.sha256,
            self.note.as_bytes(),
            &created,
            &revoked,
        ];
        parts.extend(expires.as_ref().map(|at| at.as_slice()));
        of_parts(&parts)
    }
}

/// Each part with its length, so that no two rows read as the same bytes.
pub(super) fn of_parts(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Digest::from_bytes(&hash.finalize()).unwrap_or_default()
}
