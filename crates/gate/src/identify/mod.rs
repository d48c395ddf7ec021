//! Who a caller is, from what it shows.
//!
//! Tokens, key sets and API keys are read in the crate `identify`. [`claims`] reads what tokens say beyond a
//! name (pure), `issuers` keeps their keys fresh, [`introspection`] asks what opaque tokens mean, `cache` remembers tokens that were
//! verified, [`assertion`] signs what an upstream is told of a caller. Which ways
//! a service takes is in its settings (`policy::identify`).
//!
//! INVARIANT: a credential that is shown and does not hold is a refusal; it never falls through
//! to the next way or to anonymity.

pub mod assertion;
pub(crate) mod cache;
pub mod claims;
pub mod introspection;
pub(crate) mod issuers;

pub use keepgate_identify::{access, discovery, jwks, jwt, key};
