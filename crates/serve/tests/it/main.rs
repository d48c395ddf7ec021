//! The tests of `serve`: properties against a naive model, and the bounds themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod descriptors;
mod places;
