//! Entities as bodies name them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Cedar entity type, as a JSON Schema pattern. Reserved words, such as `in`, are refused besides.
pub const TYPE: &str = r"^[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)*$";

/// An entity as Cedar text, as a JSON Schema pattern.
pub const UID: &str = concat!(
    r"^[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)*::",
    r#""([^"\\\x00-\x1f\x7f-\x9f]|\\(["'\\nrt0]|x[0-7][0-9A-Fa-f]|u\{[0-9A-Fa-f]{1,6}\}))*"$"#
);

/// An entity: a Cedar entity type and an id.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Uid {
    /// The entity type, such as `user` or `acme::user`.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = TYPE))]
    pub kind: String,
    /// The id, any text.
    pub id: String,
}

/// An entity in a request: Cedar text, or its parts, plain or within Cedar's escape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an entity is `kind::\"id\"` or {\"type\": .., \"id\": ..}")]
pub enum UidInput {
    /// `user::"alice"`.
    Text(#[schemars(regex(pattern = UID))] String),
    /// `{"type":"user","id":"alice"}`.
    Parts(Uid),
    /// `{"__entity":{"type":"user","id":"alice"}}`.
    Escaped(EscapedUid),
}

/// An entity as Cedar's JSON escapes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EscapedUid {
    /// The entity.
    #[serde(rename = "__entity")]
    pub entity: Uid,
}
