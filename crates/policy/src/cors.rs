//! Which pages of other origins may call a service from a browser (the CORS protocol, Fetch standard
//! section 3.2), as in `[cors]` of `service.toml`.
//!
//! The shape and the origins only; the answers are the gate's.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::host;
use crate::service::is_default;

/// The most origins, and the most headers of each list.
pub const MAX_ENTRIES: usize = 100;
/// The longest origin or header name, in bytes.
pub const MAX_ENTRY_BYTES: usize = 256;
/// The longest time that a browser may remember a preflight's answer: a day. Browsers have lower bounds.
pub const MAX_AGE_MS: u64 = 86_400_000;

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// The origins whose pages may call: `https://app.example`, `https://*.app.example` for all names
    /// below, or `*` for any.
    pub origins: Vec<Origin>,
    /// The headers that a page may send beside those that need no permission, in lower case; `*`: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// The headers of the upstream's answers that a page may read beside those that need no
    /// permission, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Whether browsers may send cookies and HTTP credentials. Not with `*`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub credentials: bool,
    /// How long a browser may remember a preflight's answer, in milliseconds; none: its own default.
    #[serde(
        rename = "max_age",
        default,
        with = "crate::duration::optional_ms",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub max_age_ms: Option<u64>,
    /// Who answers a preflight.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preflight: Preflight,
}

/// Who answers a preflight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preflight {
    /// The gate, with 204.
    #[default]
    Answer,
    /// The upstream: undecided, without body and credentials.
    Forward,
}

/// An origin, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Origin(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    /// As a browser writes it.
    One(String),
    /// All names below a host.
    Below {
        scheme: String,
        /// With the dot in front.
        host: String,
        port: Option<u16>,
    },
}

/// A text that is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin: expected `https://app.example`, with a port where it is not the usual \
     one and without a path, `https://*.app.example` for all names below, or `*`"
)]
pub struct OriginError(String);

impl Origin {
    /// Whether every origin is meant.
    pub fn is_any(&self) -> bool {
        self.0 == Kind::Any
    }

    /// Whether the value of an `Origin` header is meant.
    pub fn matches(&self, origin: &str) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::One(one) => one == origin,
            Kind::Below { scheme, host, port } => {
                let Some(rest) = origin.strip_prefix(scheme.as_str()) else { return false };
                let Some(rest) = rest.strip_prefix("://") else { return false };
                let Ok((name, found)) = host::normal(rest) else { return false };
                // What is not in its one form is not from a browser.
                let is_plain = match found {
                    None => *rest == *name,
                    Some(port) => *rest == format!("{name}:{port}"),
                };
                let below = name.strip_suffix(host.as_str());
                is_plain && found == *port && below.is_some_and(|below| !below.is_empty())
            }
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;

    fn try_from(text: String) -> Result<Origin, OriginError> {
        if text == "*" {
            return Ok(Origin(Kind::Any));
        }
        let kind = parse(&text);
        kind.map(Origin).ok_or(OriginError(text))
    }
}

fn parse(text: &str) -> Option<Kind> {
    if text.len() > MAX_ENTRY_BYTES {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
        return None;
    }
    let (is_below, rest) = match rest.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (name, port) = host::normal(rest).ok()?;
    // A browser leaves the usual port out.
    let usual = match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    };
    let port = port.filter(|port| Some(*port) != usual);
    if is_below {
        return (!name.starts_with('[')).then(|| Kind::Below {
            scheme,
            host: format!(".{name}"),
            port,
        });
    }
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(Kind::One(format!("{scheme}://{name}{port}")))
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        match origin.0 {
            Kind::Any => "*".to_owned(),
            Kind::One(one) => one,
            Kind::Below { scheme, host, port } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{scheme}://*{host}{port}")
            }
        }
    }
}

/// For `#[serde(deserialize_with = "..")]`: settings that can be used together.
pub(crate) fn checked<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cors>, D::Error> {
    let Some(mut cors) = Option::<Cors>::deserialize(from)? else { return Ok(None) };
    cors.check().map_err(serde::de::Error::custom)?;
    Ok(Some(cors))
}

impl Cors {
    /// Whether they can be used; brings lists of names to their one form.
    fn check(&mut self) -> Result<(), String> {
        if self.origins.is_empty() {
            return Err("`cors`: expected at least one origin in `origins`, found none".to_owned());
        }
        for (name, len) in [
            ("origins", self.origins.len()),
            ("headers", self.headers.len()),
            ("expose", self.expose.len()),
        ] {
            if len > MAX_ENTRIES {
                let expected = format!("expected at most {MAX_ENTRIES} entries in `{name}`");
                return Err(format!("`cors`: {expected}, found {len}"));
            }
        }
        self.headers = names("headers", std::mem::take(&mut self.headers), true)?;
        self.expose = names("expose", std::mem::take(&mut self.expose), false)?;
        if self.credentials {
            if self.origins.iter().any(Origin::is_any) {
                return Err(
                    "`cors`: `*` in `origins` with `credentials = true` would let every page \
                            act as its visitor; list the origins"
                        .to_owned(),
                );
            }
            if self.headers.iter().any(|name| name == "*") {
                return Err(
                    "`cors`: `*` in `headers` cannot be used with `credentials = true`; list \
                            the headers"
                        .to_owned(),
                );
            }
        }
        if let Some(ms) = self.max_age_ms.filter(|ms| *ms > MAX_AGE_MS) {
            let found = crate::duration::to_text(ms);
            return Err(format!("`cors`: expected a `max_age` of at most 1d, got `{found}`"));
        }
        Ok(())
    }
}

/// Names of headers in lower case, each once.
fn names(list: &str, mut names: Vec<String>, star: bool) -> Result<Vec<String>, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
    for name in &mut names {
        name.make_ascii_lowercase();
        let is_name = !name.is_empty() && name.len() <= MAX_ENTRY_BYTES && name.bytes().all(token);
        let is_any = star && name == "*";
        if !(is_name || is_any) {
            let shown: String = name.chars().take(100).collect();
            return Err(format!("`cors`: expected names of headers in `{list}`, got `{shown}`"));
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
