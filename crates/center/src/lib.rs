//! The authorization center: store, admin API, AuthZEN, follow protocol.
#[doc(hidden)]
pub mod proto;
