#![doc = include_str!("../README.md")]
//!
//! This is the only crate that names `cedar_policy`. It is pure: it knows no clock, socket,
//! file or environment; time, where it matters, is an argument. Three parts:
//!
//! - the *model* ([`model`], [`item`], [`service`], [`route`]): the items that make up the world, their
//!   keys, and their canonical JSON bodies;
//! - the *world* ([`World`]): an immutable, indexed state at one [`Revision`], made from a
//!   [`Snapshot`] and moved on by [`Delta`]s, that answers [`Query`]s with [`Decision`]s;
//! - the *wire* ([`wire`], [`authzen`], [`json`]): the bytes both travel as.

mod address;
pub mod assertion;
pub mod authzen;
pub mod bundle;
pub mod caution;
mod cedar_text;
pub mod cors;
pub mod decision;
pub mod digest;
pub mod duration;
mod encoded;
pub mod host;
pub mod identify;
pub mod instant;
pub mod item;
pub mod json;
pub mod limits;
pub mod look_alike;
pub mod mark;
pub mod model;
mod naming;
pub mod openapi;
#[doc(hidden)]
pub mod proto;
pub mod route;
pub mod router;
pub mod sample;
pub mod service;
pub mod size;
pub mod spelling;
pub mod spot;
mod stack;
pub mod uid;
pub mod validate;
pub mod wire;
pub mod world;

pub use cedar_text::{
    MAX_DEPTH, MAX_ENVIRONMENTS, MAX_HIERARCHY, MAX_MEMBERS, MAX_TERMS, MAX_TOKENS, MAX_TYPES,
};
pub use decision::{
    Decision, DenyReason, Effect, EvaluationError, PolicyName, Query, QueryError, Verdict,
};
pub use digest::Digest;
pub use encoded::{Encoded, source_of};
pub use mark::{HistoryId, Mark};
pub use model::{Change, Delta, Item, ItemBody, ItemKey, Kind, Revision, Snapshot, Uid};
pub use naming::Naming;
pub use spot::{Span, Spot};
pub use stack::DECISION_STACK;
pub use world::{Resolved, World};
