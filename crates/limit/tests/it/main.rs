//! The tests of `limit`: oracles, properties and golden answers.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod concurrency;
mod gcra;
mod headers;
mod limiter;
mod rules;
mod store;
mod top;

use keepgate_limit::Seed;

/// Any seed will do where a test asks nothing of the hash.
fn seed() -> Seed {
    Seed::new(*b"0123456789abcdef")
}
