//! Routes: which method and path template means which action on which resource.

use serde::{Deserialize, Serialize};

/// A route of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// An HTTP method in capitals, or `*` for any.
    pub method: String,
    /// An OpenAPI path template such as `/orders/{id}`; a last segment `{*rest}` takes all below.
    pub path: String,
    /// The Cedar action; none: `Action::"METHOD"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The Cedar resource; none: `route::"TEMPLATE"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceRule>,
    /// Callers without credentials are let through to the decision as `anonymous`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anonymous: bool,
    /// Oldest replica that may decide, in milliseconds; none: the service's.
    #[serde(
        rename = "max_age",
        default,
        with = "crate::duration::optional_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age_ms: Option<u64>,
    /// The OpenAPI `operationId`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What one request costs in tokens of the limits; none: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
}

/// A route's own resource: a type and the path parameter that holds the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceRule {
    /// The entity type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path parameter's name, without braces.
    pub param: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}
