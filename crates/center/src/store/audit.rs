//! The chain of the audit log: the same line for an entry in every engine.
//!
//! Entries are numbered without gaps: a restore goes on with the numbers of the log that it restores.

use keepgate_record::{AuditAnchor, AuditLine, Link};

use super::{AuditRow, StoreError};

/// Where the audit log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditState {
    /// The log, 16 random bytes.
    pub log: [u8; 16],
    /// Entries up to this one were removed, because the store keeps so many; 0: none.
    pub removed_through: u64,
    /// The chain up to and with it.
    pub removed_chain: [u8; 32],
    /// The last entry; `removed_through` where there is none.
    pub seq: u64,
    /// The chain up to and with it.
    pub chain: [u8; 32],
    /// What was signed last; none: nothing yet.
    pub anchor: Option<AuditAnchor>,
}

impl AuditState {
    /// Whether all of it is signed.
    pub(crate) fn is_signed(&self) -> bool {
        let Some(anchor) = &self.anchor else { return false };
        (anchor.log, anchor.seq, anchor.chain, anchor.removed_through)
            == (self.log, self.seq, self.chain, self.removed_through)
    }
}

impl AuditRow {
    /// As a line of the exported log, without its seal and its end.
    pub(crate) fn line(&self) -> Vec<u8> {
        AuditLine {
            unix_ms: self.unix_ms,
            revision: self.revision.0,
            actor: &self.actor,
            action: &self.action,
            service: &self.service,
            kind: &self.kind,
            id: &self.id,
            before: self.before.as_deref(),
            after: self.after.as_deref(),
        }
        .text()
    }

    /// Its number and the chain after it, behind the last entry.
    pub(super) fn linked(&self, last: (u64, [u8; 32])) -> (u64, [u8; 32]) {
        let mut link = Link { next: last.0.saturating_add(1), chain: last.1 };
        let seq = link.next;
        link.seal(&self.line(), &mut Vec::new());
        (seq, link.chain)
    }
}

/// The chain before the first entry of a log.
pub(super) fn first(log: &[u8; 16]) -> [u8; 32] {
    Link::first(log).chain
}

/// The anchor as it is kept; empty: none.
pub(super) fn anchor_of(text: &str) -> Result<Option<AuditAnchor>, StoreError> {
    if text.is_empty() {
        return Ok(None);
    }
    let corrupt = |e: serde_json::Error| StoreError::Corrupt {
        what: format!("the signature on the audit log: {e}"),
    };
    serde_json::from_str(text).map(Some).map_err(corrupt)
}

/// The anchor as it is kept.
pub(super) fn anchor_text(anchor: &AuditAnchor) -> String {
    serde_json::to_string(anchor).unwrap_or_default()
}

/// A log that has entries cannot begin again.
pub(super) fn has_begun() -> StoreError {
    StoreError::Corrupt { what: "the audit log has begun".to_owned() }
}
