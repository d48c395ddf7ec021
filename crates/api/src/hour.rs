//! What happened in the last hour.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What gates did with the requests of a service in the last hour, as far as that is known. A number
/// that is null is not known, which is not zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceHour {
    /// The service.
    pub service: String,
    /// Of how many of the last 60 minutes something is known.
    pub minutes: u64,
    /// Requests.
    pub requests: Option<u64>,
    /// Of these, refused for any reason.
    pub refused: Option<u64>,
    /// Over a limit (429).
    pub limited: Option<u64>,
    /// Denied (403).
    pub denied: Option<u64>,
    /// Not decided (503), which is no denial.
    pub undecided: Option<u64>,
    /// The service's limits, those of its plans and the gates' defaults, by name, at most 4,096; one
    /// that is not listed did nothing. Null: it is not known what they did.
    pub limits: Option<Vec<LimitHour>>,
}

/// What one limit did in the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitHour {
    /// Its name.
    pub name: String,
    /// Requests that it let through or refused.
    pub requests: u64,
    /// Of these, refused (429); of a limit in shadow mode, those that it would have refused.
    pub refused: u64,
}
