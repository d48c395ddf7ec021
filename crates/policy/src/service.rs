//! A service's settings, as in `service.toml`.

use serde::{Deserialize, Serialize};

/// What a service says about itself. Unknown keys are refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// The service's name: letters, digits, `-`, `_`, `.`, at most 64 bytes.
    pub name: String,
    /// Whether AuthZEN requests that name no service are decided with this one's policies too.
    #[serde(default = "yes")]
    pub authzen: bool,
    /// What happens to requests that match no route.
    #[serde(default)]
    pub unmatched: Unmatched,
    /// Oldest replica that may decide, in milliseconds.
    #[serde(default = "hour_ms")]
    pub max_age_ms: u64,
    /// How callers are identified.
    #[serde(default)]
    pub identify: Identify,
    /// Where a caller finds the service's API document and how to get a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Requests that match no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// 404.
    #[default]
    Refuse,
    /// Decided with the resource `route::"/"` and, if allowed, forwarded.
    Forward,
}

/// How callers are identified; each way that is set is tried, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// Bearer tokens (RFC 7519), one entry an issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt: Vec<serde_json::Value>,
}

fn yes() -> bool {
    true
}

fn hour_ms() -> u64 {
    3_600_000
}
