//! Sessions of people who have signed in to the console, as every engine keeps them.
//!
//! They are no part of the state: no revision, digest or backup has them.

use serde::{Deserialize, Serialize};

use super::StoreError;

/// A session as stored: never the secret that its cookie has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// Whose it is, as the audit log names them: the id of the token by which it began, or what an
    /// identity provider said ([`Person`]).
    pub holder: String,
    /// Who signed in at an identity provider; none: it began by a token.
    pub person: Option<Person>,
    /// Seconds since the Unix epoch.
    pub created_unix_s: u64,
    /// Seconds since the Unix epoch from which on it is refused, unless it is used before.
    pub expires_unix_s: u64,
    /// Seconds since the Unix epoch beyond which no use keeps it.
    pub ends_unix_s: u64,
}

/// What an identity provider's word gave to one who signed in there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The identity provider.
    pub issuer: String,
    /// The setting that gave the role; the session is good while it is there.
    pub rule: String,
}

/// Which sessions are read.
#[derive(Clone, Copy, Debug)]
pub enum SessionsOf<'a> {
    /// The one whose secret has this SHA-256, good or not.
    Secret(&'a [u8; 32]),
    /// Those that have not expired at this time (seconds since the Unix epoch), by holder.
    Good(u64),
}

/// How many sessions a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Of one holder; one more ends the oldest.
    pub of_holder: u32,
    /// In all; one more is refused.
    pub all: u32,
}

impl SessionBounds {
    /// What the console keeps.
    pub const DEFAULT: SessionBounds = SessionBounds { of_holder: 16, all: 10_000 };
}

/// What becomes of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// It begins; those that have expired by then are forgotten.
    Begin(SessionRow),
    /// It was used, and is good until then (seconds since the Unix epoch), never beyond its end.
    Extend([u8; 32], u64),
    /// Its user signed out.
    End([u8; 32]),
    /// All of this holder end.
    EndOf(String),
}

/// Who signed in, as every engine keeps it; empty: a token's holder.
pub(super) fn person_text(person: Option<&Person>) -> String {
    person.map(|person| serde_json::json!(person).to_string()).unwrap_or_default()
}

/// The same, read back.
pub(super) fn person_of(text: &str) -> Result<Option<Person>, StoreError> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = serde_json::from_str(text);
    read.map(Some).map_err(|e| StoreError::Corrupt { what: format!("who has a session: {e}") })
}
