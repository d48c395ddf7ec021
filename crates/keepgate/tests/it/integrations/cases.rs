//! The requests that every way to the application gets.

use super::outcome::Outcome::{self, Denied, Limited, Reached, Refused, Unauthenticated};

/// Who asks, by API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// No credential.
    Nobody,
    /// May GET below `/orders`, but not `/orders/secret`.
    Reader,
    /// May do anything below `/orders`, but not `/orders/secret`.
    Writer,
    /// A key that does not exist.
    Unknown,
}

/// One request, and what becomes of it at the gate itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) who: Who,
    pub(super) method: &'static str,
    pub(super) target: &'static str,
    /// Lines without an end. `Host:` and `Connection:` replace those that every request has.
    pub(super) headers: &'static [&'static str],
    pub(super) body: &'static str,
    pub(super) outcome: Outcome,
}

impl Case {
    /// The bytes to send; `key` is the credential of `who`, `id` comes back in what the upstream saw.
    pub(super) fn request(&self, id: &str, key: Option<&str>) -> Vec<u8> {
        // What a target cannot be as a constant.
        let target = match self.target {
            "LONG" => format!("/orders/{}", "a".repeat(100_000)),
            target => target.to_owned(),
        };
        let mut head = format!("{} {target} HTTP/1.1\r\nX-Case: {id}\r\n", self.method);
        for (name, value) in [("Host:", "shop.example"), ("Connection:", "close")] {
            if !self.headers.iter().any(|line| line.starts_with(name)) {
                head += &format!("{name} {value}\r\n");
            }
        }
        if let Some(key) = key {
            head += &format!("X-Api-Key: {key}\r\n");
        }
        for line in self.headers.iter().filter(|line| **line != "Host:") {
            head += &format!("{line}\r\n");
        }
        format!("{head}\r\n{}", self.body).into_bytes()
    }
}

const fn case(
    name: &'static str,
    who: Who,
    method: &'static str,
    target: &'static str,
    outcome: Outcome,
) -> Case {
    Case { name, who, method, target, headers: &[], body: "", outcome }
}

const fn with(
    name: &'static str,
    who: Who,
    method: &'static str,
    target: &'static str,
    headers: &'static [&'static str],
    outcome: Outcome,
) -> Case {
    Case { name, who, method, target, headers, body: "", outcome }
}

const fn body(
    name: &'static str,
    method: &'static str,
    target: &'static str,
    headers: &'static [&'static str],
    body: &'static str,
) -> Case {
    Case { name, who: Writer, method, target, headers, body, outcome: Reached }
}

use Who::{Nobody, Reader, Unknown, Writer};

/// In their order: the limited ones count on what came before.
pub(super) const CASES: &[Case] = &[
    // Allowed.
    case("read", Reader, "GET", "/orders", Reached),
    case("read-one", Reader, "GET", "/orders/7", Reached),
    case("head", Reader, "HEAD", "/orders", Reached),
    case("head-writer", Writer, "HEAD", "/orders", Reached),
    case("delete", Writer, "DELETE", "/orders/7", Reached),
    case("anonymous", Nobody, "GET", "/public", Reached),
    case("query", Reader, "GET", "/orders?a=1&a=2&b=%2F..%2f&c=x+y&d=", Reached),
    case("query-url", Reader, "GET", "/orders?to=http://b.example/../x//y;z&q=1", Reached),
    case("query-empty", Reader, "GET", "/orders?", Reached),
    case("query-question", Reader, "GET", "/orders?a?b", Reached),
    case("escaped-utf8", Reader, "GET", "/orders/%C3%A9", Reached),
    case("escaped-space", Reader, "GET", "/orders/a%20b", Reached),
    case("punctuation", Reader, "GET", "/orders/a@b:c,d!$&'()*+=~-._", Reached),
    case("escaped-reserved", Reader, "GET", "/orders/a%40b%3F", Reached),
    // Bodies.
    body("post", "POST", "/orders", &["Content-Length: 8"], "the=body"),
    body("post-chunked", "POST", "/orders", &["Transfer-Encoding: chunked"], CHUNKED),
    body("put-empty", "PUT", "/orders/7", &["Content-Length: 0"], ""),
    body("patch", "PATCH", "/orders/7", &["Content-Length: 2"], "{}"),
    body("expect", "POST", "/orders", &["Content-Length: 8", "Expect: 100-continue"], "the=body"),
    // Denied.
    case("denied", Reader, "DELETE", "/orders/7", Denied),
    case("denied-post", Reader, "POST", "/orders", Denied),
    case("forbidden", Writer, "GET", "/orders/secret", Denied),
    case("forbidden-head", Writer, "HEAD", "/orders/secret", Denied),
    case("no-grant", Writer, "GET", "/admin/a/b", Denied),
    // Unauthenticated.
    case("no-key", Nobody, "GET", "/orders", Unauthenticated),
    case("unknown-key", Unknown, "GET", "/orders", Unauthenticated),
    case("unknown-key-public", Unknown, "GET", "/public", Unauthenticated),
    with("key-look-alike", Nobody, "GET", "/orders", &["X_Api_Key: {reader}"], Unauthenticated),
    with("key-bearer", Nobody, "GET", "/orders", &["Authorization: Bearer {reader}"], Reached),
    // Limited: one an hour, by principal and by address.
    case("limited-first", Reader, "GET", "/limited", Reached),
    case("limited-second", Reader, "GET", "/limited", Limited),
    case("limited-other", Writer, "GET", "/limited", Reached),
    case("address-first", Nobody, "GET", "/by-address", Reached),
    with("address-spoofed", Nobody, "GET", "/by-address", ADDRESSES, Limited),
    // Context: the caller's address and the host, as the gate itself has them.
    case("ip", Reader, "GET", "/by-ip", Reached),
    case("host", Reader, "GET", "/by-host", Reached),
    with("host-spelled", Reader, "GET", "/by-host", &["Host: SHOP.Example:8443"], Reached),
    with("host-dot", Reader, "GET", "/by-host", &["Host: shop.example."], Reached),
    with("host-other", Reader, "GET", "/by-host", &["Host: other.example"], Denied),
    with("host-spoofed", Reader, "GET", "/by-host", HOSTS, Denied),
    with("host-none", Reader, "GET", "/orders", &["Host:"], Refused),
    with("host-two", Reader, "GET", "/orders", &["Host: a.example", "Host: b.example"], Refused),
    with("host-bad", Reader, "GET", "/orders", &["Host: a b"], Refused),
    // Odd paths.
    case("no-route", Reader, "GET", "/nowhere", Refused),
    case("slash-encoded", Reader, "GET", "/orders%2F7", Refused),
    case("slash-double", Reader, "GET", "/orders//7", Reached),
    case("slash-leading", Reader, "GET", "//orders", Reached),
    case("slash-back", Reader, "GET", "/orders\\7", Refused),
    case("slash-back-encoded", Reader, "GET", "/orders/%5C7", Refused),
    case("dots", Reader, "GET", "/orders/x/../7", Reached),
    case("dots-encoded", Reader, "GET", "/orders/%2e%2e/orders/7", Reached),
    case("dots-single", Reader, "GET", "/./orders", Reached),
    case("dots-above", Reader, "GET", "/../orders", Refused),
    case("dots-to-secret", Writer, "GET", "/orders/7/../secret", Denied),
    case("dots-semicolon", Reader, "GET", "/orders/..;/admin", Refused),
    case("semicolon", Reader, "GET", "/orders;a=b", Refused),
    case("null", Reader, "GET", "/orders/%00", Refused),
    case("half-escape", Reader, "GET", "/orders/%zz", Refused),
    case("not-utf8", Reader, "GET", "/orders/%FF", Refused),
    case("unreserved-escaped", Reader, "GET", "/%6frders", Reached),
    case("unreserved-secret", Writer, "GET", "/orders/s%65cret", Denied),
    case("hex-lower", Reader, "GET", "/orders/%c3%a9", Reached),
    case("pipe", Reader, "GET", "/orders/a|b", Reached),
    case("raw-utf8", Reader, "GET", "/orders/é", Reached),
    case("fragment", Reader, "GET", "/orders#top", Refused),
    case("long", Reader, "GET", "LONG", Refused),
    case("absolute", Reader, "GET", "http://shop.example/orders", Reached),
    // Odd methods.
    case("propfind", Writer, "PROPFIND", "/orders", Refused),
    case("lower-case", Writer, "get", "/orders", Refused),
    case("mixed-case", Writer, "Delete", "/orders/7", Refused),
    case("trace", Writer, "TRACE", "/orders", Refused),
    case("connect", Writer, "CONNECT", "shop.example:443", Refused),
    case("made-up", Writer, "FOO", "/orders/7", Refused),
    case("options", Writer, "OPTIONS", "/orders", Refused),
    case("options-star", Writer, "OPTIONS", "*", Refused),
    with("preflight", Nobody, "OPTIONS", "/orders", PREFLIGHT, Refused),
    // What a caller may not say: each of these values would be found at the upstream.
    with("override", Reader, "GET", "/orders/7", OVERRIDES, Reached),
    with("original", Reader, "GET", "/orders/7", ORIGINALS, Reached),
    with("original-denied", Reader, "DELETE", "/orders/7", ORIGINALS, Denied),
    with("forwarded", Reader, "GET", "/orders", FORWARDED, Reached),
    with("forwarded-denied", Reader, "GET", "/admin/a", FORWARDED, Denied),
    with("addresses", Reader, "GET", "/by-ip", ADDRESSES, Reached),
    with("identity", Reader, "GET", "/orders", IDENTITY, Reached),
    with("identity-anonymous", Nobody, "GET", "/public", IDENTITY, Reached),
    with("identity-nobody", Nobody, "GET", "/orders", IDENTITY, Unauthenticated),
    with("look-alikes", Reader, "GET", "/orders", LOOK_ALIKES, Reached),
    with("hooks", Reader, "GET", "/orders", HOOKS, Reached),
    with(
        "connection",
        Reader,
        "GET",
        "/orders",
        &["Connection: close, Keepgate-Principal"],
        Refused,
    ),
    with(
        "connection-key",
        Reader,
        "GET",
        "/orders",
        &["Connection: close, Authorization"],
        Refused,
    ),
];

const CHUNKED: &str = "4\r\nthe=\r\n4\r\nbody\r\n0\r\n\r\n";
const PREFLIGHT: &[&str] =
    &["Origin: https://page.example", "Access-Control-Request-Method: DELETE"];
const HOSTS: &[&str] = &[
    "Host: other.example",
    "X-Forwarded-Host: shop.example",
    "X-Original-Host: shop.example",
    "X-Host: shop.example",
];
const OVERRIDES: &[&str] =
    &["X-HTTP-Method-Override: SPOOFED", "X-HTTP-Method: SPOOFED", "X-Method-Override: SPOOFED"];
const ORIGINALS: &[&str] = &[
    "X-Original-URI: /public?spoofed",
    "X-Original-URL: /public?spoofed",
    "X-Original-Method: GET",
    "X-Rewrite-URL: /public?spoofed",
];
const FORWARDED: &[&str] = &[
    "X-Forwarded-Uri: /public?spoofed",
    "X-Forwarded-Method: GET",
    "X-Forwarded-Host: spoofed.example",
    "X-Forwarded-Prefix: /spoofed",
    "Forwarded: for=127.0.0.99;host=spoofed.example",
];
const ADDRESSES: &[&str] = &[
    "X-Forwarded-For: 127.0.0.99",
    "X-Real-IP: 127.0.0.99",
    "True-Client-IP: 127.0.0.99",
    "X-Client-IP: 127.0.0.99",
    "CF-Connecting-IP: 127.0.0.99",
];
const IDENTITY: &[&str] = &[
    "Keepgate-Principal: user::\"spoofed\"",
    "Keepgate-Assertion: spoofed",
    "Keepgate-Revision: 999999",
    "Keepgate-Age: 999999",
];
const LOOK_ALIKES: &[&str] = &[
    "Keepgate_Principal: user::\"spoofed\"",
    "Keepgate.Principal: user::\"spoofed\"",
    "X_Forwarded_For: 127.0.0.99",
    "X.Real.IP: 127.0.0.99",
    "X_HTTP_Method_Override: SPOOFED",
];
/// What some hooks' answers are made of; a request's mean nothing.
const HOOKS: &[&str] = &[
    "X-Envoy-Auth-Headers-To-Remove: keepgate-principal",
    "X-Envoy-Auth-Partial-Body: true",
    "X-Envoy-Original-Path: /x",
];
