//! Limits by principal, plan, route and method, once the caller is known.
//!
//! A seam: the rules and their stores are the `limit` crate's. Until they are wired in, every
//! request passes.

use super::{Exchange, Verdict};

/// What it reads: `x.principal`, `x.plan`, the method, and the matched route.
pub(crate) fn run(x: &mut Exchange) -> Verdict {
    let _ = x;
    Verdict::Continue
}
