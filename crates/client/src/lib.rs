#![doc = include_str!("../README.md")]
//!
//! What this crate deliberately does not know: HTTP semantics of a gateway (who may send what),
//! how a center stores anything, and how metrics are exposed.

pub mod blocking;
pub mod dial;
pub mod pool;
#[cfg(feature = "replica")]
#[doc(hidden)]
pub mod proto;
#[cfg(feature = "replica")]
pub mod replica;

#[cfg(feature = "replica")]
pub use keepgate_policy::{Decision, DenyReason, Effect, Query, Revision, Uid, World, bundle};
