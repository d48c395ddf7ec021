//! A service's settings, as in `service.toml`.
//!
//! The same shape in TOML and in JSON: unknown keys are refused by name, durations are texts
//! (`5s`, see [`crate::duration`]), and what has its default is not written. Files and URLs are
//! only named here; the gate reads them.

use keepgate_limit::rules::{Defaults, Dialect};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cors::Cors;
use crate::host::HostPattern;
use crate::identify::Identify;

/// Headers that some frameworks take for the method, path or host of a request in place of the
/// real one. A gate removes them unless the service keeps them ([`ServiceSettings::keep_headers`]).
pub const OVERRIDE_HEADERS: [&str; 16] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-rewrite-url",
    "x-rewrite-uri",
    "x-override-url",
    "x-http-path-override",
    "x-http-destinationurl",
    "x-original-host",
    "x-http-host-override",
    "x-host",
    "x-script-name",
];

/// What a service says about itself. Unknown keys are refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// The service's name: letters, digits, `-`, `_`, `.`, at most 64 bytes.
    #[serde(deserialize_with = "service_name")]
    pub name: String,
    /// Whether it decides AuthZEN requests that name no service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authzen: Authzen,
    /// What happens to requests that match no route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unmatched: Unmatched,
    /// The hosts that it answers for; empty: any. Others get 421.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Which forms of a path are taken, and in which one they are forwarded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths: Paths,
    /// What happens to empty segments (`//`) within a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub empty_segments: EmptySegments,
    /// What happens to `;` in a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path_parameters: Doubtful,
    /// What happens to `%2F` in a path. Release 0.1 said `keep_encoded_slash = true`.
    #[serde(
        default,
        alias = "keep_encoded_slash",
        deserialize_with = "encoded_slash",
        skip_serializing_if = "is_default"
    )]
    pub encoded_slash: Doubtful,
    /// In what paths are alike for the upstream although their bytes differ.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths_fold: PathsFold,
    /// Headers, in lower case, that override a method, path or host and that the upstream gets all
    /// the same; see [`OVERRIDE_HEADERS`].
    #[serde(default, deserialize_with = "kept_headers", skip_serializing_if = "Vec::is_empty")]
    pub keep_headers: Vec<String>,
    /// Oldest replica that may decide, in milliseconds.
    #[serde(
        rename = "max_age",
        default = "hour_ms",
        with = "crate::duration::ms",
        skip_serializing_if = "is_hour_ms"
    )]
    #[schemars(with = "String")]
    pub max_age_ms: u64,
    /// Where a caller finds the service's API document and how to get a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// How limits answer; the rules themselves are items of their own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitSettings,
    /// How callers are identified.
    #[serde(
        default,
        deserialize_with = "crate::identify::checked",
        skip_serializing_if = "is_default"
    )]
    pub identify: Identify,
    /// How long the upstream may take to begin its answer, counted from the last byte of the request
    /// that was forwarded, in milliseconds; none: the gate's.
    #[serde(
        rename = "answer_timeout",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub answer_timeout_ms: Option<u64>,
    /// How long nothing may move within an answer, in milliseconds; none: the gate's.
    #[serde(
        rename = "answer_idle",
        default,
        with = "crate::duration::wait_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub answer_idle_ms: Option<u64>,
    /// How many bytes a request body may have; none: the gate's.
    #[serde(default, with = "crate::size::body", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub body_bytes: Option<u64>,
    /// What happens to an open exchange when the credential that it began with expires.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_token_expiry: OnTokenExpiry,
    /// The upstream gets a signed assertion about each caller (`Keepgate-Assertion`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub assertion: bool,
    /// Which pages of other origins may call it from a browser; none: the gate knows nothing of CORS.
    #[serde(
        default,
        deserialize_with = "crate::cors::checked",
        skip_serializing_if = "Option::is_none"
    )]
    pub cors: Option<Cors>,
    /// The page for callers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub callers_page: CallersPage,
}

impl ServiceSettings {
    /// The settings of a service that says nothing but its name.
    pub fn named(name: impl Into<String>) -> ServiceSettings {
        ServiceSettings {
            name: name.into(),
            authzen: Authzen::default(),
            unmatched: Unmatched::default(),
            hosts: Vec::new(),
            paths: Paths::default(),
            empty_segments: EmptySegments::default(),
            path_parameters: Doubtful::default(),
            encoded_slash: Doubtful::default(),
            paths_fold: PathsFold::default(),
            keep_headers: Vec::new(),
            max_age_ms: hour_ms(),
            help: None,
            limits: LimitSettings::default(),
            identify: Identify::default(),
            answer_timeout_ms: None,
            answer_idle_ms: None,
            body_bytes: None,
            on_token_expiry: OnTokenExpiry::default(),
            assertion: false,
            cors: None,
            callers_page: CallersPage::default(),
        }
    }

    /// The format of items that a reader must know to take these settings: 3 where they say what
    /// release 0.2 refuses, 2 where they say what release 0.1 refuses, else 1.
    pub fn needs(&self) -> u32 {
        if self.authzen == Authzen::Default
            || self.cors.is_some()
            || self.body_bytes.is_some()
            || self.assertion
            || !is_default(&self.callers_page)
            || self.identify.is_new()
        {
            return 3;
        }
        let new = self.answer_timeout_ms.is_some()
            || self.answer_idle_ms.is_some()
            || self.on_token_expiry != OnTokenExpiry::default()
            || !self.hosts.is_empty()
            || matches!(self.paths, Paths::Strict | Paths::Exact)
            || !is_default(&self.empty_segments)
            || !is_default(&self.path_parameters)
            || !is_default(&self.encoded_slash)
            || !is_default(&self.paths_fold)
            || !self.keep_headers.is_empty();
        if new { 2 } else { 1 }
    }
}

/// Whether a service decides AuthZEN requests that name no service. Requests that name it are decided
/// by it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authzen {
    /// `true`: if it is the only service, and none is the default. In a store of a release before
    /// 0.3 that has several such services, they decide together until one is the default.
    #[default]
    Yes,
    /// `false`: never.
    No,
    /// `"default"`: always. At most one service of a center.
    Default,
}

impl Serialize for Authzen {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Authzen::Yes => to.serialize_bool(true),
            Authzen::No => to.serialize_bool(false),
            Authzen::Default => to.serialize_str("default"),
        }
    }
}

impl<'de> Deserialize<'de> for Authzen {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Authzen, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Default,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `true`, `false` or `\"default\"`")]
        enum Written {
            Takes(bool),
            Word(Word),
        }
        Ok(match Written::deserialize(from)? {
            Written::Takes(true) => Authzen::Yes,
            Written::Takes(false) => Authzen::No,
            Written::Word(Word::Default) => Authzen::Default,
        })
    }
}

impl JsonSchema for Authzen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Authzen".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Whether it decides AuthZEN requests that name no service: `true` if it is the only service, `false` never, `\"default\"` always. One service of a center may be the default.",
            "anyOf": [{ "type": "boolean" }, { "type": "string", "enum": ["default"] }],
        })
    }
}

/// The page for callers: what of it is not up to each gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallersPage {
    /// Whether the center serves it, too, at `/apis/NAME`, to everybody who reaches the center.
    #[serde(default, skip_serializing_if = "is_default")]
    pub center: bool,
    /// How callers reach the API, for the center's page: a URL such as `https://shop.example/orders`.
    #[serde(default, deserialize_with = "base_url", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Bytes of [`CallersPage::url`].
pub const MAX_URL_BYTES: usize = 256;

fn base_url<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let Some(url) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let url = url.trim_end_matches('/');
    let is_good = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&()*+,;=:@/".contains(&b);
        let is_host = crate::host::normal(authority).is_ok();
        (matches!(scheme, "http" | "https") && is_host && path.bytes().all(is_plain)).then_some(())
    };
    if url.len() <= MAX_URL_BYTES && is_good(url).is_some() {
        return Ok(Some(url.to_owned()));
    }
    let shown: String = url.chars().take(MAX_URL_BYTES).collect();
    Err(serde::de::Error::custom(format!(
        "`{}` is not the address of an API: expected `https://HOST` or `http://HOST`, with a port and a \
         path where there are any, and at most {MAX_URL_BYTES} bytes",
        shown.escape_debug()
    )))
}

/// What happens to an open exchange when the credential that it began with expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTokenExpiry {
    /// It goes on: the credential was good when the request came.
    #[default]
    Keep,
    /// It is closed, as if the caller had been denied.
    Close,
}

/// Requests that match no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// 404.
    #[default]
    Refuse,
    /// Decided with the resource `route::"/"` and, if allowed, forwarded.
    Forward,
}

/// Which forms of a path are taken. The bytes that are decided on are the bytes forwarded, except
/// with [`Paths::Exact`], which forwards the bytes that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// Brought to their normal form once. Release 0.1 said `normalize`.
    #[default]
    #[serde(alias = "normalize")]
    Normal,
    /// 400 unless they are in normal form already, without encoded reserved characters and without
    /// segments that end in a dot or space.
    Strict,
    /// `strict`, as release 0.1 said it. Kept apart so that an item is written as it was read.
    Refuse,
    /// Forwarded byte for byte, for signed URLs; what has no single reading is 400.
    Exact,
}

/// Empty segments in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptySegments {
    /// Repeated slashes become one (400 where paths are strict or exact).
    #[default]
    Collapse,
    /// They stay, for URLs within paths. An upstream that merges slashes itself then reads another
    /// path than the one decided on.
    Keep,
}

/// A part of a path that upstreams read differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Doubtful {
    /// 400.
    #[default]
    Refuse,
    /// It stays as it is.
    Keep,
}

/// In what paths are alike for an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathsFold {
    /// In nothing: other bytes are another path.
    #[default]
    None,
    /// In case, as for Express and ASP.NET Core: literal text of routes matches without case.
    Case,
}

/// How limits answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Which headers tell a caller what is left.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: Dialect,
    /// Whether the built-in limits for every method apply.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: Defaults,
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

/// `keep` and `refuse`, or release 0.1's `true` and `false`.
fn encoded_slash<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Doubtful, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected `keep` or `refuse`")]
    enum Written {
        Now(Doubtful),
        Before(bool),
    }
    Ok(match Written::deserialize(from)? {
        Written::Now(now) => now,
        Written::Before(true) => Doubtful::Keep,
        Written::Before(false) => Doubtful::Refuse,
    })
}

fn kept_headers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut names = Vec::<String>::deserialize(from)?;
    for name in &mut names {
        name.make_ascii_lowercase();
        if !OVERRIDE_HEADERS.contains(&name.as_str()) {
            return Err(serde::de::Error::custom(format!(
                "`{name}` needs no keeping: expected one of {}",
                OVERRIDE_HEADERS.join(", ")
            )));
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn hour_ms() -> u64 {
    3_600_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_hour_ms(ms: &u64) -> bool {
    *ms == hour_ms()
}
