//! Dial, connection pool and replica: what other programs may embed.
//!
//! Three parts, each of use without the others:
//!
//! - [`dial`]: the one door for outgoing connections. Every failure is named at the system call
//!   that reported it, so that a full port range never travels under another name.
//! - [`pool`]: reused, bounded and counted HTTP connections to upstreams.
//! - [`replica`]: a center's permissions in this process, with a measured age.
//!
//! What this crate deliberately does not know: HTTP semantics of a gateway (who may send what),
//! how a center stores anything, and how metrics are exposed.

pub mod dial;
pub mod pool;
#[doc(hidden)]
pub mod proto;
pub mod replica;
