//! What operators see of a gate: numbers, warnings, and who makes the requests.
//!
//! What is measured here has happened; nothing here decides about a request.

pub(crate) mod dropped;
pub(crate) mod hook;
pub(crate) mod metrics;
pub(crate) mod phase;
pub(crate) mod ports;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod timings;
pub(crate) mod trace;
pub(crate) mod warnings;
