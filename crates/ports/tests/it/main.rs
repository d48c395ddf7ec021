//! Integration tests of `ports`, one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics fails, which is its job"
)]

mod alerts;
mod command;
mod explain;
mod golden;
mod judgement;
mod lint;
mod load;
mod mixtures;
mod near;
mod oracle;
mod parsers;
mod situations;
mod sysctl;
mod world;
