//! The host setting that helps: planned with reasons, and existing files judged.
//!
//! Pure, like the rules: a [`plan()`] is made from a snapshot, [`lint()`] and [`fix()`] look at
//! texts. Nothing here writes a setting; the command that does is not part of this crate.

mod fix;
pub mod formats;
mod keys;
mod lint;
mod plan;
mod render;

pub use fix::fix;
pub use keys::{NODE_PORTS, SERVICE_PORTS};
pub use lint::{Code, Level, LintFinding, Source, Span, lint};
pub use plan::{
    Ask, Gain, RANGE_KEY, RESERVED_KEY, REUSE_KEY, Refusal, Step, TIMESTAMPS_KEY, TunePlan, WIDE,
    plan, refusals,
};
pub use render::render;
