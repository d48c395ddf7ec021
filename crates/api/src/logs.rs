//! The keys with which logs are signed, and what was signed last; the lines of the audit log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Json;

/// `GET /v1/log-keys`. Also the file of `keepgate log verify --keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogKeys {
    /// All keys, the oldest first; the last one signs.
    pub keys: Vec<LogKey>,
    /// The logs, the one that was signed last first; at most 10,000.
    pub logs: Vec<LogHead>,
    /// Where the center's own audit log is. Absent: the center is of a release without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditHead>,
}

/// Where the audit log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditHead {
    /// The log, 32 hexadecimal digits.
    pub log: String,
    /// The number of its last line; 0: it has none.
    pub seq: u64,
    /// The chain up to and with it, 64 hexadecimal digits.
    pub chain: String,
    /// Lines up to this one were removed, because the center keeps so many; 0: none.
    pub removed_through: u64,
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

/// A line of `GET /v1/audit/log`: where a part of the log begins, or the signature at its end, or an
/// entry, which has all other members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLogLine {
    /// Where this part of the log begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<AuditStart>,
    /// The center's signature on all up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_anchor: Option<AuditAnchor>,
    /// When, as RFC 3339 has it, with milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The revision that the change landed as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The token that did it; `host`: a command on the center's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// By which action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The service; empty: the directory, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What kind of item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The item before; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Json>")]
    pub before: Option<Value>,
    /// The item after; absent: it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Json>")]
    pub after: Option<Value>,
    /// The number of the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// SHA-256 over the chain before and the line without this member, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

/// See [`AuditLogLine::audit_log`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditStart {
    /// The log, 32 hexadecimal digits.
    pub log: String,
    /// The line before the first one here; 0: none.
    pub after_seq: u64,
    /// The chain up to and with it, 64 hexadecimal digits.
    pub after_chain: String,
}

/// See [`AuditLogLine::audit_anchor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditAnchor {
    /// The log, 32 hexadecimal digits.
    pub log: String,
    /// The number of its last line.
    pub seq: u64,
    /// The chain up to and with it, 64 hexadecimal digits.
    pub chain: String,
    /// Lines up to this one were removed, because the center keeps so many; 0: none.
    pub removed_through: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The id of the key.
    pub key: String,
    /// Ed25519, 128 hexadecimal digits.
    pub signature: String,
}
