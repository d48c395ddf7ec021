//! What cannot be decided is 503: nobody is denied, the question cannot be put.

use std::time::Duration;

use super::stage::Found;
use crate::message::problem::{Kind, Problem};
use crate::service::table::Table;

/// The answer, with its machine-readable reason.
pub(crate) fn no_decision(reason: &'static str, detail: &'static str) -> Problem {
    Problem::new(Kind::NoDecision, detail).reason(reason)
}

/// Whether the world that this request took is young enough for its route. Asked when the request
/// is decided on, and again when it leaves the upstream's queue. It is the request's own world that
/// is asked: a younger one that came meanwhile may say no.
pub(crate) fn fresh(found: &Found) -> Result<(), Problem> {
    fresh_within(&found.table, found.max_age_ms)
}

/// Whether a world is young enough for a bound.
pub(crate) fn fresh_within(table: &Table, max_age_ms: u64) -> Result<(), Problem> {
    match table.age() {
        None => {
            let detail = "how old the gate's permissions are is not known";
            Err(no_decision("age_unknown", detail))
        }
        Some(age) if age > Duration::from_millis(max_age_ms) => {
            Err(no_decision("stale", "the gate's permissions are too old"))
        }
        Some(_) => Ok(()),
    }
}
