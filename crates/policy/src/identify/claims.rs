//! What a verified token's claims are used for: context, roles, attributes, headers.
//!
//! Only the settings; the gate reads tokens by them.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::service::OVERRIDE_HEADERS;

/// Keys of a path at most.
const MAX_KEYS: usize = 8;
/// Bytes of a key, of an attribute's name, of a claim's name.
const MAX_NAME: usize = 256;
/// Paths of `roles_from`, and names of `claims`.
const MAX_LIST: usize = 100;
/// Entries of `attributes_from` and of `claim_headers`.
const MAX_TABLE: usize = 32;
/// Bytes of a prefix.
const MAX_PREFIX: usize = 64;

/// Where a value is in a token's claims: one key or several, from the outside in.
///
/// Written as a text with dots (`realm_access.roles`), or as a list of keys where a key has dots itself.
/// A text that starts with `https://` or `http://` is one key: so some issuers name their own claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct ClaimPath(Vec<String>);

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a claim, such as `groups`, `realm_access.roles` or [\"a.b\", \"c\"]"
)]
enum Written {
    Text(String),
    Keys(Vec<String>),
}

impl ClaimPath {
    fn of_text(text: &str) -> Vec<String> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return vec![text.to_owned()];
        }
        text.split('.').map(str::to_owned).collect()
    }

    /// The keys; never empty.
    pub fn keys(&self) -> &[String] {
        &self.0
    }

    /// The claim that it is in.
    pub fn claim(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// The value; none: it is not there, or null. An error where something on the way to it is no
    /// object, so that what is meant cannot be told.
    pub fn find<'v>(
        &self,
        claims: &'v Map<String, Value>,
    ) -> Result<Option<&'v Value>, NotAnObject> {
        let mut keys = self.0.iter();
        let mut found = keys.next().and_then(|first| claims.get(first));
        for key in keys {
            found = match found {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Object(members)) => members.get(key),
                Some(_) => return Err(NotAnObject),
            };
        }
        Ok(found.filter(|value| !value.is_null()))
    }
}

/// A path leads through a value that has no members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value on the way to it is not an object")]
pub struct NotAnObject;

impl TryFrom<Written> for ClaimPath {
    type Error = String;

    fn try_from(written: Written) -> Result<ClaimPath, String> {
        let keys = match written {
            Written::Text(text) => ClaimPath::of_text(&text),
            Written::Keys(keys) => keys,
        };
        let path = ClaimPath(keys);
        let good = |key: &String| !key.is_empty() && key.len() <= MAX_NAME;
        if path.0.is_empty() || path.0.len() > MAX_KEYS || !path.0.iter().all(good) {
            return Err(format!(
                "`{path}` is not a claim: expected 1 to {MAX_KEYS} keys of 1 to {MAX_NAME} bytes; \
                 if a key has a dot, write a list of keys"
            ));
        }
        Ok(path)
    }
}

impl From<ClaimPath> for Written {
    fn from(path: ClaimPath) -> Written {
        let text = path.0.join(".");
        if ClaimPath::of_text(&text) == path.0 {
            Written::Text(text)
        } else {
            Written::Keys(path.0)
        }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Which claims become `context.claims`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Which", into = "Which")]
#[schemars(with = "Which")]
pub enum ContextClaims {
    /// `false`: none.
    #[default]
    None,
    /// `true`: all.
    All,
    /// A list: those of these names.
    Named(Vec<String>),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected `true`, `false` or a list of claims")]
enum Which {
    All(bool),
    Named(Vec<String>),
}

impl TryFrom<Which> for ContextClaims {
    type Error = String;

    fn try_from(which: Which) -> Result<ContextClaims, String> {
        match which {
            Which::All(true) => Ok(ContextClaims::All),
            Which::All(false) => Ok(ContextClaims::None),
            Which::Named(names) if names.is_empty() => Ok(ContextClaims::None),
            Which::Named(names)
                if names.len() <= MAX_LIST
                    && names.iter().all(|name| !name.is_empty() && name.len() <= MAX_NAME) =>
            {
                Ok(ContextClaims::Named(names))
            }
            Which::Named(_) => {
                Err(format!("`claims` has at most {MAX_LIST} names, each of 1 to {MAX_NAME} bytes"))
            }
        }
    }
}

impl From<ContextClaims> for Which {
    fn from(claims: ContextClaims) -> Which {
        match claims {
            ContextClaims::None => Which::All(false),
            ContextClaims::All => Which::All(true),
            ContextClaims::Named(names) => Which::Named(names),
        }
    }
}

/// What an issuer's claims are used for, besides naming the principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimUses {
    /// Become `context.claims`.
    pub claims: ContextClaims,
    /// Their values are roles that the principal is in, for one request.
    pub roles_from: Vec<ClaimPath>,
    /// Stands before each value; see [`check_prefixes`].
    pub role_prefix: String,
    /// Attributes of the principal for one request, over those that are stored.
    pub attributes_from: BTreeMap<String, ClaimPath>,
    /// Headers for the upstream, by name in lower case.
    pub claim_headers: BTreeMap<String, ClaimPath>,
}

impl ClaimUses {
    /// Whether the claims are used for nothing.
    pub fn is_nothing(&self) -> bool {
        *self == ClaimUses::default()
    }

    /// Checks it on its own; header names are brought to lower case. The error says what to change.
    pub(super) fn checked(mut self) -> Result<ClaimUses, String> {
        if self.roles_from.len() > MAX_LIST {
            return Err(format!("`roles_from` has at most {MAX_LIST} claims"));
        }
        if self.roles_from.is_empty() && !self.role_prefix.is_empty() {
            return Err("`role_prefix` is of no use without `roles_from`".to_owned());
        }
        if self.role_prefix.len() > MAX_PREFIX || self.role_prefix.chars().any(char::is_control) {
            return Err(format!(
                "`role_prefix` has at most {MAX_PREFIX} bytes, and no control characters"
            ));
        }
        if self.attributes_from.len() > MAX_TABLE || self.claim_headers.len() > MAX_TABLE {
            return Err(format!(
                "`attributes_from` and `claim_headers` have at most {MAX_TABLE} entries each"
            ));
        }
        let named = |name: &String| !name.is_empty() && name.len() <= MAX_NAME;
        if let Some(bad) = self.attributes_from.keys().find(|name| !named(name)) {
            return Err(format!(
                "`{bad}` cannot name an attribute: expected 1 to {MAX_NAME} bytes"
            ));
        }
        let headers = std::mem::take(&mut self.claim_headers);
        for (name, path) in headers {
            let lower = name.to_ascii_lowercase();
            if !may_carry_claim(&lower) {
                return Err(format!(
                    "`{name}` cannot carry a claim; use a name of letters, digits and `-` that is \
                     not HTTP's or the gate's own, such as `x-user-email`"
                ));
            }
            if self.claim_headers.insert(lower, path).is_some() {
                return Err(format!("`claim_headers` names `{name}` twice"));
            }
        }
        Ok(self)
    }
}

/// Names that HTTP, proxies or the gate give a meaning.
const TAKEN: [&str; 34] = [
    "accept",
    "accept-encoding",
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
];

fn may_carry_claim(name: &str) -> bool {
    let begins = ["keepgate-", "x-forwarded-", "access-control-", "sec-", "if-", "grpc-"];
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !TAKEN.contains(&name)
        && !OVERRIDE_HEADERS.contains(&name)
        && !begins.iter().any(|begin| name.starts_with(begin))
        // Names of callers' addresses, of which proxies have many.
        && !["-ip", "-addr", "-address", "-for"].iter().any(|end| name.ends_with(end))
}

/// Whether no issuer of a service can give a role that is another's to give. Where there are several
/// issuers, each that gives roles needs a prefix, and none is the beginning of another: then the
/// roles that two of them give are never the same, whatever their tokens say, and none of them is
/// a role without a prefix, such as those that people hold by the directory alone.
///
/// `issuers`: the name of each issuer of the service, and its uses. The error says what to change.
pub fn check_prefixes<'a>(
    issuers: impl IntoIterator<Item = (&'a str, &'a ClaimUses)>,
) -> Result<(), String> {
    let all: Vec<_> = issuers.into_iter().collect();
    if all.len() < 2 {
        return Ok(());
    }
    let mut giving: Vec<(&str, &str)> = Vec::new();
    for (issuer, uses) in all.into_iter().filter(|(_, uses)| !uses.roles_from.is_empty()) {
        if uses.role_prefix.is_empty() {
            return Err(format!(
                "issuer `{issuer}` has `roles_from` and needs a `role_prefix`: the service has \
                 several issuers, and without a prefix this one could give any role, such as \
                 `role::\"admin\"` of another"
            ));
        }
        giving.push((&uses.role_prefix, issuer));
    }
    giving.sort_unstable();
    // In this order what a prefix is the beginning of follows it.
    for pair in giving.windows(2) {
        if let [(prefix, issuer), (next, other)] = pair
            && next.starts_with(prefix)
        {
            return Err(format!(
                "the `role_prefix` `{prefix}` of issuer `{issuer}` is the beginning of `{next}` of \
                 issuer `{other}`, so one could give roles of the other; give them prefixes such \
                 as `a:` and `b:`"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(json: &str) -> Result<ClaimPath, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_are_texts_or_lists_and_are_written_as_they_are_read() {
        for (json, keys) in [
            (r#""groups""#, &["groups"][..]),
            (r#""realm_access.roles""#, &["realm_access", "roles"]),
            (r#""https://shop.example/roles""#, &["https://shop.example/roles"]),
            (r#"["a.b","c"]"#, &["a.b", "c"]),
            (
                r#"["resource_access","my.client","roles"]"#,
                &["resource_access", "my.client", "roles"],
            ),
            (r#""cognito:groups""#, &["cognito:groups"]),
            (r#"["https://a","b"]"#, &["https://a", "b"]),
        ] {
            let read = path(json).unwrap();
            assert_eq!(read.keys(), keys, "{json}");
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
        assert_eq!(serde_json::to_string(&path(r#"["a","b"]"#).unwrap()).unwrap(), r#""a.b""#);
        for bad in [r#""""#, r#""a..b""#, "[]", r#"[""]"#, "7", r#""a.b.c.d.e.f.g.h.i""#] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(path(r#""a.b.c.d.e.f.g.h""#).is_ok());
        let long = |n: usize| path(&format!("\"{}\"", "k".repeat(n)));
        assert!(long(MAX_NAME).is_ok() && long(MAX_NAME + 1).is_err());
    }

    #[test]
    fn a_path_finds_what_is_there() {
        let claims = serde_json::json!({"a": {"b": [1], "n": null}, "x.y": "z"});
        let claims = claims.as_object().unwrap();
        let find = |json: &str| match path(json).unwrap().find(claims) {
            Ok(found) => found.map(ToString::to_string).unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        assert_eq!(find(r#""a.b""#), "[1]");
        assert_eq!(find(r#"["x.y"]"#), "\"z\"");
        for absent in [r#""x.y""#, r#""a.n""#, r#""a.n.c""#, r#""a.q.r""#, r#""q""#] {
            assert_eq!(find(absent), "", "{absent}");
        }
        assert!(find(r#""a.b.c""#).contains("not an object"));
    }

    /// Roles that two issuers give are never the same, whatever the values.
    #[test]
    fn prefixes_keep_issuers_apart() {
        let uses = |prefix: &str| ClaimUses {
            roles_from: vec![path(r#""groups""#).unwrap()],
            role_prefix: prefix.to_owned(),
            ..ClaimUses::default()
        };
        let said = |prefixes: &[&str]| {
            let all: Vec<ClaimUses> = prefixes.iter().map(|prefix| uses(prefix)).collect();
            check_prefixes(all.iter().map(|uses| ("i", uses)))
        };
        assert_eq!(said(&[""]), Ok(()), "one issuer alone may give any role");
        assert_eq!(said(&["a:", "b:"]), Ok(()));
        assert_eq!(said(&["a:", "b:", "ab:"]), Ok(()));
        for bad in [&["a:", ""][..], &["", ""], &["a:", "a:"], &["a", "ab"], &["ab:c", "x", "ab"]] {
            assert!(said(bad).is_err(), "{bad:?}");
        }
        // One that gives none needs none, but the other does.
        let nothing = ClaimUses::default();
        let both = |prefix: &str| check_prefixes([("a", &nothing), ("b", &uses(prefix))]);
        assert_eq!(both("b:"), Ok(()));
        assert!(both("").unwrap_err().contains("issuer `b`"));
    }

    #[test]
    fn headers_that_mean_something_carry_no_claim() {
        for good in ["x-user-email", "x-claims", "email", "x-department"] {
            assert!(may_carry_claim(good), "{good}");
        }
        for bad in [
            "",
            "host",
            "authorization",
            "cookie",
            "x-forwarded-user",
            "keepgate-principal",
            "x-real-ip",
            "true-client-ip",
            "x-original-url",
            "x_user",
            "te",
            "sec-fetch-mode",
            "x-user email",
            "content-length",
            "forwarded-for",
            "remote-addr",
        ] {
            assert!(!may_carry_claim(bad), "{bad}");
        }
    }
}
