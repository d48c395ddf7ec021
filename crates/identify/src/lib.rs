//! Tokens, the keys that verify them, and servers outside that are asked.
//!
//! [`jwt`] verifies tokens, [`id_token`] those of a sign-in, and [`key`] API keys (pure: the time is an argument),
//! [`jwks`] reads key sets (pure),
//! [`discovery`] reads where they are (pure), [`access`] says which files and servers may be read at
//! all, and [`ask`] asks one.
//!
//! INVARIANT: what an editor writes reaches no file and no address that the operator did not allow.

pub mod access;
pub mod ask;
pub mod discovery;
pub mod id_token;
pub mod jwks;
pub mod jwt;
pub mod key;
