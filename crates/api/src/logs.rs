//! The keys with which the access logs of gates are signed, and what was signed last.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/log-keys`. Also the file of `keepgate log verify --keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogKeys {
    /// All keys, the oldest first; the last one signs.
    pub keys: Vec<LogKey>,
    /// The logs, the one that was signed last first; at most 10,000.
    pub logs: Vec<LogHead>,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogKey {
    /// The first 16 hexadecimal digits of SHA-256 over the key.
    pub id: String,
    /// Ed25519 (RFC 8032), 64 hexadecimal digits.
    pub public: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// What was signed last of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogHead {
    /// The log, 32 hexadecimal digits.
    pub log: String,
    /// The id of the gate's token, a slash, and the gate's name.
    pub gate: String,
    /// The number of the line.
    pub seq: u64,
    /// The chain up to and with it, 64 hexadecimal digits.
    pub chain: String,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}
