//! The host setting that helps: planned with reasons, and existing files judged.
//!
//! Pure, like the rules: a [`plan()`] is made from a snapshot, [`lint()`] and [`fix()`] look at
//! texts. Nothing here writes a setting; the command that does is not part of this crate.

mod fix;
pub mod formats;
mod keys;
mod lint;
mod outcome;
mod parse;
mod plan;
mod render;
pub mod values;

pub use fix::{fix, fix_all};
pub use keys::{NODE_PORTS, SERVICE_PORTS};
pub use lint::{Code, FEWEST_PORTS, Level, LintFinding, Source, lint};
pub use outcome::{Exists, KeyValue, Outcome, outcome, settings_of};
pub use parse::{Span, fits, path_of_key};
pub use plan::{
    Ask, Gain, RANGE_KEY, RESERVED_KEY, REUSE_KEY, Refusal, Step, TIMESTAMPS_KEY, TunePlan, WIDE,
    plan, refusals,
};
pub use render::render;
