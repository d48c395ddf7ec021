//! Who a caller is, from what it shows.
//!
//! [`jwt`] verifies tokens (pure: the time is an argument), [`claims`] reads what they say beyond a
//! name (pure), [`jwks`] reads key sets (pure), `issuers` keeps them fresh, [`discovery`] reads where
//! they are (pure), [`introspection`] asks what opaque tokens mean, `cache` remembers tokens that were
//! verified, `key` checks API keys, [`assertion`] signs what an upstream is told of a caller. Which ways
//! a service takes is in its settings (`policy::identify`).
//!
//! INVARIANT: a credential that is shown and does not hold is a refusal; it never falls through
//! to the next way or to anonymity.

pub mod access;
pub mod assertion;
pub(crate) mod cache;
pub mod claims;
pub mod discovery;
pub mod introspection;
pub(crate) mod issuers;
pub mod jwks;
pub mod jwt;
pub(crate) mod key;
