//! The schema of a JSON value whose shape the API does not know.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Any JSON value, such as an attribute of a context. Only its schema is used: values are `serde_json`'s.
#[derive(Debug)]
pub enum Json {}

/// Not recursive, as generators of clients do not follow a type into itself.
impl JsonSchema for Json {
    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Any JSON value.",
            "anyOf": [
                { "type": "null" },
                { "type": "boolean" },
                { "type": "number" },
                { "type": "string" },
                { "type": "array", "items": {} },
                { "type": "object", "additionalProperties": {} },
            ],
        })
    }
}
