//! Entities as bodies name them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An entity: a Cedar entity type and an id.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Uid {
    /// The entity type, such as `user` or `acme::user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id, any text.
    pub id: String,
}

/// An entity in a request: Cedar text, or its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an entity is `kind::\"id\"` or {\"type\": .., \"id\": ..}")]
pub enum UidInput {
    /// `user::"alice"`.
    Text(String),
    /// `{"type":"user","id":"alice"}`.
    Parts(Uid),
}
