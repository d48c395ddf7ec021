//! A service's settings, as in `service.toml`.
//!
//! The same shape in TOML and in JSON: unknown keys are refused by name, durations are texts
//! (`5s`, see [`crate::duration`]), and what has its default is not written. Files and URLs are
//! only named here; the gate reads them.

use serde::{Deserialize, Serialize};

use crate::identify::Identify;

/// What a service says about itself. Unknown keys are refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// The service's name: letters, digits, `-`, `_`, `.`, at most 64 bytes.
    #[serde(deserialize_with = "service_name")]
    pub name: String,
    /// Whether AuthZEN requests that name no service are decided with this one's policies too.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub authzen: bool,
    /// What happens to requests that match no route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unmatched: Unmatched,
    /// What happens to paths that are not in their normal form.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths: Paths,
    /// Oldest replica that may decide, in milliseconds.
    #[serde(
        rename = "max_age",
        default = "hour_ms",
        with = "crate::duration::ms",
        skip_serializing_if = "is_hour_ms"
    )]
    pub max_age_ms: u64,
    /// Where a caller finds the service's API document and how to get a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// How limits answer; the rules themselves are items of their own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitSettings,
    /// How callers are identified.
    #[serde(default, skip_serializing_if = "is_default")]
    pub identify: Identify,
    /// How long the upstream may take to begin its answer, counted from the last byte of the request
    /// that was forwarded, in milliseconds; none: the gate's.
    #[serde(
        rename = "answer_timeout",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub answer_timeout_ms: Option<u64>,
    /// How long nothing may move within an answer, in milliseconds; none: the gate's.
    #[serde(
        rename = "answer_idle",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub answer_idle_ms: Option<u64>,
    /// What happens to an open exchange when the credential that it began with expires.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_token_expiry: OnTokenExpiry,
}

impl ServiceSettings {
    /// The settings of a service that says nothing but its name.
    pub fn named(name: impl Into<String>) -> ServiceSettings {
        ServiceSettings {
            name: name.into(),
            authzen: true,
            unmatched: Unmatched::default(),
            paths: Paths::default(),
            max_age_ms: hour_ms(),
            help: None,
            limits: LimitSettings::default(),
            identify: Identify::default(),
            answer_timeout_ms: None,
            answer_idle_ms: None,
            on_token_expiry: OnTokenExpiry::default(),
        }
    }

    /// The format of items that a reader must know to take these settings: 2 where they say what
    /// release 0.1 refuses, else 1.
    pub fn needs(&self) -> u32 {
        let new = self.answer_timeout_ms.is_some()
            || self.answer_idle_ms.is_some()
            || self.on_token_expiry != OnTokenExpiry::default();
        if new { 2 } else { 1 }
    }
}

/// What happens to an open exchange when the credential that it began with expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTokenExpiry {
    /// It goes on: the credential was good when the request came.
    #[default]
    Keep,
    /// It is closed, as if the caller had been denied.
    Close,
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

/// Paths that are not in their normal form (dot segments, repeated slashes, encoded unreserved
/// characters, and so on). Either way the bytes that were decided on are the bytes forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// Brought to their normal form once.
    #[default]
    Normalize,
    /// 400.
    Refuse,
}

/// How limits answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Which headers tell a caller what is left.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: LimitHeaders,
    /// Whether the built-in limits for every method apply.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: Switch,
}

/// Header dialects of rate limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11.
    #[default]
    #[serde(rename = "draft-11")]
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    #[serde(rename = "x-ratelimit")]
    XRateLimit,
    /// None but `Retry-After`.
    #[serde(rename = "off")]
    Off,
}

/// On or off, in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// On.
    #[default]
    On,
    /// Off.
    Off,
}

/// Whether a text can name a service: letters, digits, `-`, `_`, `.`, 1 to 64 bytes, the first
/// one a letter or digit.
pub fn is_service_name(name: &str) -> bool {
    name.len() <= 64
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn service_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if is_service_name(&name) {
        Ok(name)
    } else {
        Err(serde::de::Error::custom(format!(
            "`{name}` cannot name a service; use letters, digits, `-`, `_` and `.`, at most 64 \
             bytes, a letter or digit first"
        )))
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_yes(b: &bool) -> bool {
    *b
}

fn hour_ms() -> u64 {
    3_600_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_hour_ms(ms: &u64) -> bool {
    *ms == hour_ms()
}
