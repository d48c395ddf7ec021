//! Sessions of people who have signed in to the console, as every engine keeps them.
//!
//! They are no part of the state: no revision, digest or backup has them.

/// A session as stored: never the secret that its cookie has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// The id of the token by which it began.
    pub token: String,
    /// Seconds since the Unix epoch.
    pub created_unix_s: u64,
    /// Seconds since the Unix epoch from which on it is refused, unless it is used before.
    pub expires_unix_s: u64,
    /// Seconds since the Unix epoch beyond which no use keeps it.
    pub ends_unix_s: u64,
}

/// How many sessions a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Of one token; one more ends the oldest.
    pub of_token: u32,
    /// In all; one more is refused.
    pub all: u32,
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
}
