//! One binary for all integration tests of the client crate.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests may fail loudly"
)]

mod age;
mod center;
mod centers;
mod depth;
mod dial;
mod disk;
mod embed;
mod fault;
mod goaway;
mod group;
mod history;
mod netns;
mod pool;
mod ports;
mod questions;
mod replica;
mod server;
