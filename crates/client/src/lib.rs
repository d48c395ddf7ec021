//! Dial, connection pool and replica: what other programs may embed.
#[doc(hidden)]
pub mod proto;
