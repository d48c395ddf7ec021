//! Exchanges that are under way: what they share with their connection, what they were decided on,
//! and how they end before their own end.
//!
//! It knows no request and no answer; those hold what is here until they are over.

pub(crate) mod cut;
pub(crate) mod ongoing;
pub(crate) mod shared;
