//! Rates and concurrency: how many requests a caller may make.
//!
//! Pure: no clock, no socket, no environment. Every call that depends on time takes
//! `now` ([`Nanos`]); the randomness of the key hash is passed in once ([`Seed`]). It
//! sees no other crate of Keepgate: routes, methods, principals and plans are strings here.
//!
//! - [`gcra`]: the algorithm, exact, one `u64` a key.
//! - [`store`]: states of many keys within a bound of bytes; forgetting gives nothing back.
//! - [`concurrency`]: requests under way, as permits whose `Drop` returns them.
//! - [`rules`]: what an operator writes (`limits.toml`), and its validation.
//! - [`limiter`]: rules compiled; the two phases, by address and by principal.
//! - [`headers`]: verdicts as HTTP fields and problem members.
//! - [`top`]: who is making the requests: heavy hitters and crawls, bounded.

pub mod concurrency;
pub mod gcra;
pub mod hash;
pub mod headers;
pub mod limiter;
pub mod rules;
pub mod store;
pub mod top;

pub use concurrency::Permit;
pub use gcra::{Nanos, Quota};
pub use hash::Seed;
pub use limiter::{AddressKey, Caller, LimitVerdict, Limiter};
pub use rules::{Limits, RuleError, ServiceFacts};
