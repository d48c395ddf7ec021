//! What many questions have in common, read once: the claims of a caller's token, and the properties
//! that they give its principal.

use std::collections::BTreeMap;

use serde_json::Value;

use super::conditions::{ESCAPES, Record, Shared, Trust};
use super::decide::value_error;
use crate::decision::QueryError;

/// A part of questions that is already in the evaluator's terms; see [`super::World::decide_prepared`].
/// A clone of what is in it costs a pointer a value.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub(super) claims: Option<Shared>,
    pub(super) properties: Record,
}

impl Prepared {
    /// What says nothing.
    pub fn nothing() -> &'static Prepared {
        static NOTHING: Prepared = Prepared { claims: None, properties: Record::EMPTY };
        &NOTHING
    }

    /// Reads claims, which become `context.claims`, and properties of the principal. Both are a
    /// request's: Cedar's `__entity` and `__extn` escapes are refused, as is a number that is neither
    /// a 64-bit integer nor a Cedar decimal; null is absent.
    pub fn new(
        claims: Option<&BTreeMap<String, Value>>,
        properties: &BTreeMap<String, Value>,
    ) -> Result<Prepared, QueryError> {
        let read = |json: &BTreeMap<String, Value>, path| {
            Record::of_request(json, Trust::Request, path).map_err(value_error)
        };
        // As in any record below, where an escape would be one.
        let escape =
            claims.and_then(|claims| ESCAPES.iter().find(|name| claims.contains_key(**name)));
        if let Some(escape) = escape {
            let reason = "is the name of one of Cedar's escapes, which no claim may have";
            return Err(QueryError::Value {
                path: format!("context.claims.{escape}"),
                reason: reason.to_owned(),
            });
        }
        Ok(Prepared {
            claims: claims
                .map(|claims| read(claims, "context.claims").map(Record::share))
                .transpose()?,
            properties: read(properties, "principal.properties")?,
        })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.claims.is_none() && self.properties.is_empty()
    }
}
