//! The host setting that helps: planned with reasons, applied so that it cannot hurt, undone.
//!
//! [`lint`] and [`fix`] look at sysctl files and are pure.

mod fix;
mod keys;
mod lint;
mod render;

pub use fix::fix;
pub use keys::{NODE_PORTS, SERVICE_PORTS};
pub use lint::{Code, Level, LintFinding, Source, Span, lint};
pub use render::render;
