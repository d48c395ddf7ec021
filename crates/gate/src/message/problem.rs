//! What the gate answers itself, as a value: a problem as RFC 9457 has it.
//!
//! It knows no response: `answer` writes one down. What a caller may read is in typed members, and
//! escaped where the document is written.
//!
//! Each kind has one status and one stable `type` (`urn:keepgate:problem:..`), listed in
//! `docs/problems.md`. What a caller may know is in the answer; what an operator must know is in
//! the log and the metrics, which carry the same request id.
//!
//! INVARIANT: 403 is [`Kind::Denied`] and nothing else.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};
use keepgate_record::Outcome;
use serde_json::Value;

/// Declares the kinds once: variant, status, type suffix, title.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident, $status:literal, $suffix:literal, $title:literal;)*) => {
        /// What went wrong, as a caller sees it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind, in the order of the table in `docs/problems.md`.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                const fn code(n: u16) -> StatusCode {
                    match StatusCode::from_u16(n) { Ok(s) => s, Err(_) => StatusCode::BAD_REQUEST }
                }
                match self { $(Kind::$name => const { code($status) },)* }
            }

            /// The last part of the `type` URN; also the metric label.
            pub fn suffix(self) -> &'static str {
                match self { $(Kind::$name => $suffix,)* }
            }

            /// One short line for people, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Kind::$name => $title,)* }
            }
        }
    };
}

kinds! {
    /// The request is not well-formed HTTP, or is ambiguous.
    BadRequest, 400, "bad-request", "The request is malformed or ambiguous";
    /// The path has a form that is refused.
    BadPath, 400, "bad-path", "The path is not in a form that can be decided upon";
    /// The request body broke off or is badly framed.
    BadBody, 400, "bad-body", "The request body could not be read";
    /// No valid credentials.
    Unauthenticated, 401, "unauthenticated", "Valid credentials are needed";
    /// The service's policies deny it.
    Denied, 403, "denied", "The service's policies deny this request";
    /// No route of the service.
    NoRoute, 404, "no-route", "The service has no such route";
    /// The path has routes, but none for this method; with `Allow`.
    MethodNotAllowed, 405, "method-not-allowed", "The path does not have this method";
    /// The caller was too slow.
    TooSlow, 408, "too-slow", "The request arrived too slowly";
    /// The body is over the bound.
    BodyTooLarge, 413, "body-too-large", "The request body is too large";
    /// The request target is over the bound.
    UriTooLong, 414, "uri-too-long", "The request target is too long";
    /// The service does not answer for this host.
    Misdirected, 421, "misdirected", "The service does not answer for this host";
    /// A limit was reached.
    LimitReached, 429, "quota-exceeded", "Too many requests";
    /// The header section is over the bound.
    HeadersTooLarge, 431, "headers-too-large", "The request has too many or too large headers";
    /// A method that the service does not know.
    NotImplemented, 501, "method-not-implemented", "The service does not know this method";
    /// The upstream broke its protocol, refused, or went away.
    BadUpstream, 502, "bad-upstream", "The upstream did not answer properly";
    /// There is no replica yet, it is too old, or lacks the service.
    NoDecision, 503, "no-decision", "The request cannot be decided right now";
    /// The keys that credentials are verified with are not here yet.
    NoIdentity, 503, "no-identity", "Credentials cannot be verified right now";
    /// No connection toward the upstream can be had, for another reason than the next two.
    NoConnection, 503, "no-connection", "No connection to the upstream is free";
    /// All connections that there may be are in use, and others wait already or the wait was too long.
    UpstreamSaturated, 503, "upstream-saturated", "All connections to the upstream are in use";
    /// The host has no port left toward the upstream, although the gate keeps some back.
    PortsExhausted, 503, "ports-exhausted", "The host has no free port toward the upstream";
    /// The gate holds as many connections or requests as it may.
    Overloaded, 503, "overloaded", "The gate is at its bounds";
    /// The upstream did not answer in time.
    UpstreamTimeout, 504, "upstream-timeout", "The upstream did not answer in time";
}

impl Kind {
    /// The status of a gRPC call (grpc/doc/statuscodes.md). Where gRPC's mapping of HTTP statuses
    /// (grpc/doc/http-grpc-status-mapping.md) differs, what the caller can do about it counts: a
    /// request that is not taken as it is gets INVALID_ARGUMENT, one that is too large
    /// RESOURCE_EXHAUSTED, one that may be sent again UNAVAILABLE.
    pub fn grpc(self) -> u8 {
        match self.status().as_u16() {
            // INVALID_ARGUMENT
            400 => 3,
            // UNAUTHENTICATED
            401 => 16,
            // PERMISSION_DENIED
            403 => 7,
            // UNIMPLEMENTED: not here.
            404 | 405 | 421 | 501 => 12,
            // DEADLINE_EXCEEDED
            408 | 504 => 4,
            // RESOURCE_EXHAUSTED
            413 | 414 | 429 | 431 => 8,
            // UNAVAILABLE
            502 | 503 => 14,
            // UNKNOWN, as gRPC has it; there is none.
            _ => 2,
        }
    }

    /// How a request with this answer ended, as records and metrics say it.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Kind::Denied => Outcome::Denied,
            Kind::Unauthenticated => Outcome::Unauthenticated,
            Kind::LimitReached => Outcome::Limited,
            Kind::NoDecision | Kind::NoIdentity => Outcome::CannotDecide,
            Kind::BadUpstream
            | Kind::NoConnection
            | Kind::UpstreamSaturated
            | Kind::PortsExhausted
            | Kind::UpstreamTimeout => Outcome::UpstreamFailed,
            Kind::BadRequest
            | Kind::BadPath
            | Kind::BadBody
            | Kind::NoRoute
            | Kind::MethodNotAllowed
            | Kind::TooSlow
            | Kind::BodyTooLarge
            | Kind::UriTooLong
            | Kind::Misdirected
            | Kind::HeadersTooLarge
            | Kind::NotImplemented
            | Kind::Overloaded => Outcome::Refused,
        }
    }

    /// Whether how long to wait is known: as long as it takes until a place comes free.
    pub fn has_own_wait(self) -> bool {
        matches!(self, Kind::UpstreamSaturated | Kind::PortsExhausted)
    }

    /// The full `type`.
    pub fn urn(self) -> String {
        format!("urn:keepgate:problem:{}", self.suffix())
    }
}

/// One answer of the gate's own.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// What is wrong with this request in particular; shown to the caller.
    pub detail: Cow<'static, str>,
    /// A word from a fixed list that a program can act upon, such as `forbid` or `stale`.
    pub reason: Option<&'static str>,
    /// Further members of the JSON object, in this order.
    pub members: Vec<(&'static str, Value)>,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// Further response headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the connection can carry no further request.
    pub close: bool,
}

impl Problem {
    /// A problem with its particular.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        let retry = (kind.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Problem {
            kind,
            detail: detail.into(),
            reason: None,
            members: Vec::new(),
            retry_after_s: retry,
            headers: Vec::new(),
            close: false,
        }
    }

    /// With a machine-readable reason.
    #[must_use]
    pub fn reason(mut self, reason: &'static str) -> Problem {
        self.reason = Some(reason);
        self
    }

    /// With the seconds after which the caller should come again.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Problem {
        self.retry_after_s = Some(seconds);
        self
    }

    /// With one more member of the JSON object.
    #[must_use]
    pub fn member(mut self, name: &'static str, value: impl Into<Value>) -> Problem {
        self.members.push((name, value.into()));
        self
    }

    /// With one more response header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// The connection ends after it.
    #[must_use]
    pub fn close(mut self) -> Problem {
        self.close = true;
        self
    }

    /// The JSON object.
    pub fn json(&self, request_id: &str) -> String {
        let mut out = String::with_capacity(256);
        out.push_str("{\"type\":\"urn:keepgate:problem:");
        out.push_str(self.kind.suffix());
        out.push_str("\",\"title\":\"");
        out.push_str(self.kind.title());
        out.push_str("\",\"status\":");
        out.push_str(self.kind.status().as_str());
        if !self.detail.is_empty() {
            out.push_str(",\"detail\":");
            push_json_string(&mut out, &self.detail);
        }
        if let Some(reason) = self.reason {
            out.push_str(",\"reason\":");
            push_json_string(&mut out, reason);
        }
        for (name, value) in &self.members {
            out.push(',');
            push_json_string(&mut out, name);
            out.push(':');
            match value {
                Value::String(text) => push_json_string(&mut out, text),
                value => out.push_str(&value.to_string()),
            }
        }
        out.push_str(",\"request_id\":");
        push_json_string(&mut out, request_id);
        out.push_str("}\n");
        out
    }
}

/// Appends a JSON string literal.
fn push_json_string(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_denied_is_403() {
        for kind in Kind::ALL {
            assert_eq!(*kind == Kind::Denied, kind.status() == StatusCode::FORBIDDEN, "{kind:?}");
        }
    }

    #[test]
    fn suffixes_are_unique_and_documented() {
        let docs = include_str!("../../../../docs/problems.md");
        let mut seen = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            assert!(seen.insert(kind.suffix()), "{kind:?} shares its type");
            let row = format!("| `{}` | {} |", kind.urn(), kind.status().as_str());
            assert!(docs.contains(&row), "docs/problems.md lacks `{row}`");
        }
    }

    /// Every kind has a status that is meant for it, and the documents say which.
    #[test]
    fn every_kind_has_its_grpc_status() {
        let names = [
            (3, "INVALID_ARGUMENT"),
            (4, "DEADLINE_EXCEEDED"),
            (7, "PERMISSION_DENIED"),
            (8, "RESOURCE_EXHAUSTED"),
            (12, "UNIMPLEMENTED"),
            (14, "UNAVAILABLE"),
            (16, "UNAUTHENTICATED"),
        ];
        let docs = include_str!("../../../../docs/problems.md");
        for kind in Kind::ALL {
            let (status, code) = (kind.status().as_u16(), kind.grpc());
            let name = names.iter().find(|(known, _)| *known == code).map(|(_, name)| *name);
            let Some(name) = name else { panic!("{kind:?}: gRPC status {code}") };
            let row = docs
                .lines()
                .find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")))
                .unwrap_or_else(|| panic!("docs/problems.md: no row for {name}"));
            assert!(row.contains(&status.to_string()), "{kind:?}: {status} is not in `{row}`");
        }
    }

    #[test]
    fn text_is_escaped() {
        let json = Problem::new(Kind::BadPath, "a \"b\" \\ \u{1}").json("id\"1");
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["detail"], "a \"b\" \\ \u{1}");
        assert_eq!(value["request_id"], "id\"1");
    }

    /// Whatever a member's text is, it stays in its string, and members keep their order.
    #[test]
    fn members_are_values() {
        let text = "\"],\"status\":200,\"x\":[\"\u{1}\n\\";
        let value = serde_json::json!({"a": [1, null, true], "b": {text: text}});
        let problem = Problem::new(Kind::LimitReached, "")
            .member("violated-policies", vec![text, "second"])
            .member("help", text)
            .member("deep", value.clone());
        let json = problem.json("id");
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["violated-policies"], serde_json::json!([text, "second"]));
        assert_eq!(read["help"], text);
        assert_eq!(read["deep"], value);
        assert_eq!(read["status"], 429);
        let plain = Problem::new(Kind::LimitReached, "d").member("p", vec!["a"]).member("b", "c");
        let expected = "{\"type\":\"urn:keepgate:problem:quota-exceeded\",\"title\":\"Too many \
                        requests\",\"status\":429,\"detail\":\"d\",\"p\":[\"a\"],\"b\":\"c\",\
                        \"request_id\":\"id\"}\n";
        assert_eq!(plain.json("id"), expected);
    }
}
