//! The gateway: identify, route, limit, decide, forward, record.
//!
//! A [`Gate`] stands before one upstream and lets a request through when the policies of its
//! service permit it. The life of a request is the list in `phase`. Permissions come from a
//! [`DecisionSource`], by habit the replica of a center; decisions are made in process.
//!
//! It deliberately does not know: how permissions get here (`keepgate_client`), what they mean
//! (`keepgate_policy`), how connections are opened and kept (`keepgate_client::{dial, pool}`),
//! and where its configuration was written.
//!
//! Invariants:
//! - 403 is an answer of the policies and of nothing else.
//! - The bytes of the path that were decided on are the bytes that are forwarded, or (exact paths)
//!   what the bytes that are forwarded mean to every reader.
//! - A credential that is shown and does not hold is 401, on every route.
//! - Nothing waits without a deadline, nothing grows without a bound.
//! - What was allowed goes on only as long as it is: an open exchange is decided again when
//!   permissions change.
//! - No lock or counter on a request's way is contended between workers, but for the upstream
//!   pool's, a shard of the limits' stores and, of a request with a body, the list of uploads.

mod admin;
mod body;
pub mod config;
mod conn;
mod cut;
mod dropped;
pub mod forwarding;
mod gate;
mod headers;
pub mod identify;
mod limits;
mod listen;
mod methods;
mod metrics;
mod ongoing;
pub mod path;
mod phase;
pub mod problem;
mod report;
mod request_id;
mod revoke;
pub mod source;
mod table;
mod tunnel;
mod uploads;
pub mod wire;
mod worker;

pub use config::{Bounds, GateConfig, Listen, Peers, UpstreamHost};
pub use gate::{Gate, RunError, StartError};
pub use keepgate_serve::TlsFiles;
pub use listen::ListenError;
pub use source::{DecisionSource, FixedSource};
