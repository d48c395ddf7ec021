//! The service that a gate protects, as its requests need it.
//!
//! [`source`] is where permissions come from, `table` compiles one version of them, `limits` keeps
//! the limits in force from one version to the next, `methods` knows which methods are taken.

pub(crate) mod cors;
pub(crate) mod known;
pub(crate) mod limits;
pub(crate) mod methods;
pub(crate) mod page_limits;
pub mod source;
pub(crate) mod table;
