//! Hosts of a request, in one form, and the patterns by which a service names its own.
//!
//! The one form: lower case, without port and without the dot at the end; an IPv6 address in
//! brackets, as RFC 5952 writes it. Pure.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest name of a host, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// A text that is not a `host[:port]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or address, with or without a port")]
pub struct HostError;

/// The one form of `host[:port]`, and the port where one is given. An empty port (`name:`) is
/// none.
pub fn normal(text: &str) -> Result<(Cow<'_, str>, Option<u16>), HostError> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(HostError)? + 1;
        text.split_at_checked(end).ok_or(HostError)?
    } else {
        text.split_at_checked(text.find(':').unwrap_or(text.len())).ok_or(HostError)?
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| HostError)?)
        }
        _ => return Err(HostError),
    };
    Ok((name(host)?, port))
}

fn name(host: &str) -> Result<Cow<'_, str>, HostError> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| HostError)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    if host.len() > MAX_NAME {
        return Err(HostError);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !host.split('.').all(|label| !label.is_empty() && label.bytes().all(plain)) {
        return Err(HostError);
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(host.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(host))
}

/// A host that a service answers for: a name, an address, or `*.` before a name for all names
/// below it (at any depth, but not the name itself). Ports do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct HostPattern {
    /// In the one form.
    host: String,
    /// All names below `host`.
    is_wildcard: bool,
}

/// A text that is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host: expected a name such as `shop.example`, `*.shop.example` for all below \
     it, or an address, without a port"
)]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether a host, in the one form, is meant.
    pub fn matches(&self, host: &str) -> bool {
        if !self.is_wildcard {
            return host == self.host;
        }
        host.strip_suffix(self.host.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|below| !below.is_empty())
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<HostPattern, HostPatternError> {
        let (is_wildcard, host) = match text.strip_prefix("*.") {
            Some(below) => (true, below),
            None => (false, text.as_str()),
        };
        match name(host) {
            Ok(host) if !(is_wildcard && host.starts_with('[')) => {
                let host = host.into_owned();
                Ok(HostPattern { host, is_wildcard })
            }
            _ => Err(HostPatternError(text)),
        }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        if pattern.is_wildcard { format!("*.{}", pattern.host) } else { pattern.host }
    }
}

impl std::str::FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<HostPattern, HostPatternError> {
        HostPattern::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (text, form) in [
            ("a.example", Some(("a.example", None))),
            ("A.Example:8080", Some(("a.example", Some(8080)))),
            ("a.example.", Some(("a.example", None))),
            ("a.example.:80", Some(("a.example", Some(80)))),
            ("a.example:", Some(("a.example", None))),
            ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            ("[::1]", Some(("[::1]", None))),
            ("[0:0::1]:80", Some(("[::1]", Some(80)))),
            ("[::1]:", Some(("[::1]", None))),
            ("a_b", Some(("a_b", None))),
            ("", None),
            (":80", None),
            (".", None),
            ("..", None),
            ("a..b", None),
            ("a.example..", None),
            ("a b", None),
            ("a@b", None),
            ("a/b", None),
            ("a,b", None),
            ("a:80:80", None),
            ("a:99999", None),
            ("a:+80", None),
            ("a:000080", None),
            ("a%2eb", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[x]", None),
            ("::1", None),
            ("*.a", None),
        ] {
            let found = normal(text).ok();
            let found = found.as_ref().map(|(name, port)| (name.as_ref(), *port));
            assert_eq!(found, form, "{text:?}");
        }
        let long = format!("{}.example", "a".repeat(247));
        assert!(normal(&long).is_ok() && normal(&format!("a{long}")).is_err());
    }

    #[test]
    fn patterns_match_names_and_all_below_a_name() {
        let matches = |pattern: &str, host: &str| {
            let pattern: HostPattern = pattern.parse().unwrap();
            pattern.matches(&normal(host).unwrap().0)
        };
        assert!(matches("shop.example", "SHOP.example.:8443"));
        assert!(matches("Shop.Example.", "shop.example"));
        assert!(!matches("shop.example", "a.shop.example"));
        assert!(matches("*.shop.example", "a.shop.example"));
        assert!(matches("*.shop.example", "b.a.shop.example:1"));
        for other in ["shop.example", "xshop.example", "shop.example.evil", "ashop.example"] {
            assert!(!matches("*.shop.example", other), "{other}");
        }
        assert!(matches("[::1]", "[0::1]:80") && matches("127.0.0.1", "127.0.0.1:1"));
        for text in ["", "*", "*.", "a:80", "*.*.a", "a.*.b", "*.[::1]", "http://a", "a/b"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?}");
        }
        let text: String = "*.A.example".parse::<HostPattern>().unwrap().into();
        assert_eq!(text, "*.a.example");
    }
}
