//! Integration tests of the policy crate, one module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod access;
mod authzen;
mod bundle;
mod bundle_json;
mod deltas;
mod depth;
mod depth_table;
mod items;
mod openapi;
mod oracle;
mod random;
mod reads;
mod routes;
mod schema;
mod settings;
mod stock;
mod times;
mod uid;
mod validate;
mod wire;
