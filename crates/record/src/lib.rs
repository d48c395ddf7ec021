//! One record a request, and what is needed to believe it later.
//!
//! - [`Draft`]: what is known of a request, written as a line of JSON, or of the Common or Combined Log
//!   Format. Members can be left out or hashed ([`Shape`]).
//! - [`Log`]: the writer. A worker offers lines to its [`Queue`] and never waits; what does not fit is a
//!   number in the log, at its place.
//! - [`Link`]: the chain of lines; [`Anchor`]: a center's signature on it.
//! - [`files`], [`Record`], [`Filter`]: the files as they are read.
//! - [`verify`]: whether a log is whole. [`verify_audit`]: the same of a center's audit log.
//!
//! It names no other crate of Keepgate and opens no connection but to the Unix socket that lines are sent
//! to. Times are milliseconds since the Unix epoch.

mod anchor;
mod audit;
mod chain;
mod config;
mod draft;
pub mod files;
mod hash;
pub mod hex;
mod queue;
mod record;
mod shape;
mod sink;
mod store;
pub mod time;
mod verify;
mod writer;

pub use anchor::{Anchor, Head, MAX_GATE, PublicKey};
pub use audit::{
    AuditAnchor, AuditHead, AuditLine, AuditMark, AuditStart, AuditWitness, BEGUN_ANEW,
    MAX_AUDIT_LINE, verify_audit,
};
pub use chain::{Begins, Link, Mark, Removed, Resumed, Sealed, sealed};
pub use config::{Destination, LogConfig};
pub use draft::{Draft, Ended, Inputs, Line, MAX_INPUTS, MAX_TEXT, Outcome};
pub use hash::{Hash, LogId};
pub use queue::Queue;
pub use record::{Entry, Filter, Record};
pub use shape::{Format, HashKey, Member, Members, Shape};
pub use store::OpenError;
pub use verify::{Finding, FindingKind, MAX_FINDINGS, Report, Witness, verify};
pub use writer::{Log, LogStats, Position};
