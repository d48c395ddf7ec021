//! `ServiceSettings` in TOML and JSON.

use expect_test::{Expect, expect};
use keepgate_policy::identify::{AddressRange, Algorithm, KeySource};
use keepgate_policy::route::Route;
use keepgate_policy::service::ServiceSettings;

const FULL: &str = r#"
name = "orders"
authzen = false
unmatched = "forward"
paths = "refuse"
max_age = "5s"
help = "https://example.org/api"

[limits]
headers = "x-ratelimit"
default = "off"

[[identify.jwt]]
issuer = "https://id.example.org"
audience = "orders"
jwks_url = "https://id.example.org/jwks.json"

[[identify.jwt]]
issuer = "demo"
audience = ["orders", "billing"]
secret_file = "demo.secret"
algorithms = ["HS256"]
principal_type = "shop::person"
principal_claim = "email"
leeway_s = 5

[identify.api_key]

[identify.trusted_header]
header = "X-Remote-User"
peers = ["10.0.0.0/8", "::1"]

[identify.client_certificate]
principal_from = "uri"

[identify.anonymous]
principal = 'user::"nobody"'
"#;

/// What release 0.1 does not know is written only where it is set, and then asks for format 2.
#[test]
fn waits_and_expiry_are_of_format_2() {
    let named = ServiceSettings::named("orders");
    assert_eq!(named.needs(), 1);
    for (line, json) in [
        ("answer_timeout = \"2m\"", "\"answer_timeout\":\"2m\""),
        ("answer_idle = \"1h\"", "\"answer_idle\":\"1h\""),
        ("on_token_expiry = \"close\"", "\"on_token_expiry\":\"close\""),
    ] {
        let settings: ServiceSettings =
            toml::from_str(&format!("name = \"orders\"\n{line}")).unwrap();
        assert_eq!(settings.needs(), 2, "{line}");
        let text = serde_json::to_string(&settings).unwrap();
        assert!(text.contains(json), "{text}");
        assert_eq!(serde_json::from_str::<ServiceSettings>(&text).unwrap(), settings);
    }
    let kept: ServiceSettings =
        toml::from_str("name = \"orders\"\non_token_expiry = \"keep\"").unwrap();
    assert_eq!(kept, named);
    for bad in ["0s", "2d", "5", "-1s"] {
        let text = format!("name = \"orders\"\nanswer_idle = \"{bad}\"");
        assert!(toml::from_str::<ServiceSettings>(&text).is_err(), "{bad}");
    }
    assert!(toml::from_str::<ServiceSettings>("name = \"orders\"\nanswer_idle = \"1d\"").is_ok());
    let route: Route =
        toml::from_str("method = \"GET\"\npath = \"/\"\nanswer_idle = \"1h\"").unwrap();
    assert_eq!((route.needs(), Route::new("GET", "/").needs()), (2, 1));
}

#[test]
fn a_bound_on_bodies_is_a_size() {
    let settings: ServiceSettings =
        toml::from_str("name = \"orders\"\nbody_bytes = \"200MB\"").unwrap();
    assert_eq!((settings.body_bytes, settings.needs()), (Some(200_000_000), 3));
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<ServiceSettings>(&text).unwrap(), settings);
    let of_route = |size: &str| {
        toml::from_str::<Route>(&format!("method = \"GET\"\npath = \"/\"\nbody_bytes = \"{size}\""))
    };
    let route = of_route("1TiB").unwrap();
    assert_eq!((route.body_bytes, route.needs()), (Some(1 << 40), 3));
    for bad in ["2TiB", "1099511627777", "5s", "-1", ""] {
        let error = of_route(bad).unwrap_err().to_string();
        assert!(error.contains(&format!("got `{bad}`")), "{error}");
    }
}

#[test]
fn the_page_for_callers_at_the_center_is_of_format_3() {
    let read =
        |text: &str| toml::from_str::<ServiceSettings>(&format!("name = \"orders\"\n{text}"));
    let settings = read("[callers_page]\ncenter = true\nurl = \"https://shop.example/\"").unwrap();
    assert_eq!(settings.needs(), 3);
    // A slash at the end would be one too many before a path.
    assert_eq!(settings.callers_page.url.as_deref(), Some("https://shop.example"));
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<ServiceSettings>(&text).unwrap(), settings);
    // What says nothing is not written, and asks for nothing.
    let named = ServiceSettings::named("orders");
    assert_eq!(read("[callers_page]\ncenter = false").unwrap(), named);
    assert!(read("[callers_page]\npublic = true").is_err());
    assert!(read("[callers_page]\nurl = \"shop.example\"").is_err());
}

#[test]
fn toml_and_json_agree() {
    let settings: ServiceSettings = toml::from_str(FULL).unwrap();
    assert_eq!(settings.max_age_ms, 5_000);
    let [first, second] = settings.identify.jwt.as_slice() else { panic!("two issuers") };
    // All that public keys can do.
    assert_eq!(first.algorithms, Algorithm::ALL[..9]);
    assert_eq!(second.keys, KeySource::SecretFile("demo.secret".to_owned()));
    let json = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<ServiceSettings>(&json).unwrap(), settings);
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<ServiceSettings>(&text).unwrap(), settings);
    expect![[r#"name = "orders"
"#]]
    .assert_eq(&toml::to_string(&ServiceSettings::named("orders")).unwrap());
}

/// What release 0.1 wrote of an issuer is read and written as it was, byte for byte: the digest of a
/// store's item is that of these bytes.
#[test]
fn issuers_of_older_stores_are_written_as_they_were() {
    for jwt in [
        r#"{"issuer":"https://id.example.org","audience":"orders","jwks_url":"https://id.example.org/k","principal_type":"user","principal_claim":"sub","leeway_s":30}"#,
        r#"{"issuer":"i","audience":["a","b"],"jwks_file":"k","algorithms":["RS256"],"principal_type":"user","principal_claim":"email","leeway_s":5}"#,
        r#"{"issuer":"i","audience":"a","jwks_file":"k","algorithms":["EdDSA","RS256","ES256"],"principal_type":"user","principal_claim":"sub","leeway_s":30}"#,
        r#"{"issuer":"i","audience":"a","secret_file":"s","principal_type":"user","principal_claim":"sub","leeway_s":30}"#,
    ] {
        let json = format!(r#"{{"name":"orders","max_age":"1h","identify":{{"jwt":[{jwt}]}}}}"#);
        let settings: ServiceSettings = serde_json::from_str(&json).unwrap();
        let written = serde_json::to_string(&settings).unwrap();
        assert!(written.contains(jwt), "{written}");
        assert_eq!(settings.needs(), 1, "{jwt}");
    }
}

/// What release 0.2 does not know is written only where it is said, and then asks for format 3.
#[test]
fn what_claims_are_used_for_is_of_format_3() {
    let of = |text: &str| -> ServiceSettings {
        toml::from_str(&format!("name = \"orders\"\n{text}")).unwrap()
    };
    let jwt = "[[identify.jwt]]\nissuer = \"https://a.example\"\naudience = \"a\"\n";
    let discovered = of(jwt);
    let [issuer] = discovered.identify.jwt.as_slice() else { panic!("one issuer") };
    assert_eq!(issuer.keys, KeySource::Discovery("https://a.example".to_owned()));
    for text in [
        jwt.to_owned(),
        "[identify]\ntoken_bytes = \"16KiB\"".to_owned(),
        "[identify]\ntoken_bytes = \"1KiB\"".to_owned(),
    ]
    .into_iter()
    .chain(
        [
            "algorithms = [\"PS256\"]",
            "claims = true",
            "claims = [\"email\", \"https://x/y\"]",
            "roles_from = [\"groups\", \"realm_access.roles\", [\"https://x.example/roles\"]]",
            "roles_from = [[\"resource_access\", \"my.app\", \"roles\"]]\nrole_prefix = \"kc:\"",
            "attributes_from = { department = \"dept\" }",
            "claim_headers = { X-User-Email = \"email\" }",
        ]
        .map(|rest| format!("{jwt}jwks_file = \"k\"\n{rest}")),
    ) {
        let settings = of(&text);
        assert_eq!(settings.needs(), 3, "{text}");
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSettings>(&json).unwrap(), settings, "{json}");
        let again = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<ServiceSettings>(&again).unwrap(), settings, "{again}");
    }
    let plain = of(&format!("{jwt}jwks_file = \"k\"\nclaims = false\nroles_from = []"));
    assert_eq!(plain.needs(), 1);
    let two = |a: &str, b: &str| {
        let jwt = |issuer: &str, prefix: &str| {
            format!(
                "[[identify.jwt]]\nissuer = \"{issuer}\"\naudience = \"a\"\n\
                 roles_from = [\"groups\"]\nrole_prefix = \"{prefix}\"\n"
            )
        };
        of(&(jwt("https://a", a) + &jwt("https://b", b)))
    };
    assert_eq!(two("a:", "b:").identify.jwt.len(), 2);
}

#[track_caller]
fn refused(text: &str, expected: Expect) {
    let text = format!("name = \"orders\"\n{text}");
    let error = toml::from_str::<ServiceSettings>(&text).unwrap_err();
    expected.assert_eq(error.message());
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let jwt = |rest: &str| format!("[[identify.jwt]]\nissuer = \"i\"\naudience = \"a\"\n{rest}");
    refused(
        "color = 1",
        expect![
            "unknown field `color`, expected one of `name`, `authzen`, `unmatched`, `hosts`, `paths`, `empty_segments`, `path_parameters`, `encoded_slash`, `keep_encoded_slash`, `paths_fold`, `keep_headers`, `max_age`, `help`, `limits`, `identify`, `answer_timeout`, `answer_idle`, `body_bytes`, `on_token_expiry`, `assertion`, `cors`, `callers_page`"
        ],
    );
    refused(
        "max_age = \"5\"",
        expect![
            "`5` is not a duration; write a whole number and a unit: `500ms`, `5s`, `90m`, `1h`, `7d`"
        ],
    );
    refused(
        "max_age = \"99999999999999999d\"",
        expect![
            "`99999999999999999d` is not a duration; write a whole number and a unit: `500ms`, `5s`, `90m`, `1h`, `7d`"
        ],
    );
    refused(
        &jwt(""),
        expect![
            "`i` has no document that names its keys: expected an issuer such as `https://id.example.org`, without `?` and `#`, or one of `jwks_url`, `jwks_file` and `secret_file`"
        ],
    );
    refused(
        &jwt("jwks_file = \"k\"\nsecret_file = \"s\""),
        expect!["give at most one of `jwks_url`, `jwks_file` and `secret_file`"],
    );
    refused(
        &jwt("jwks_file = \"k\"\nalgorithms = [\"RS256\", \"HS256\"]"),
        expect!["`HS256` does not fit the keys: HS256 needs `secret_file`, the others public keys"],
    );
    let issuer = |url: &str, rest: &str| {
        format!("[[identify.jwt]]\nissuer = \"{url}\"\naudience = \"a\"\n{rest}\n")
    };
    let giving = |url: &str, prefix: &str| {
        issuer(url, &format!("roles_from = [\"groups\"]\nrole_prefix = \"{prefix}\""))
    };
    let keyed = |rest: &str| jwt(&format!("jwks_file = \"k\"\n{rest}"));
    for (text, said) in [
        (
            keyed("algorithms = [\"none\"]"),
            "`none` is never accepted: expected one of RS256, RS384,",
        ),
        (
            keyed("algorithms = [\"ES512\"]"),
            "no curve P-521; let the issuer sign with ES256, ES384 or",
        ),
        (keyed("algorithms = [\"ES256K\"]"), "unknown algorithm `ES256K`: expected one of RS256,"),
        (keyed("role_prefix = \"a:\""), "`role_prefix` is of no use without `roles_from`"),
        (keyed("roles_from = [\"a..b\"]"), "`a..b` is not a claim: expected 1 to 8 keys"),
        (keyed("claims = 1"), "expected `true`, `false` or a list of claims"),
        (
            keyed("claim_headers = { Host = \"email\" }"),
            "`Host` cannot carry a claim; use a name of",
        ),
        (
            keyed("claim_headers = { x-a = \"a\", X-A = \"b\" }"),
            "`claim_headers` names `x-a` twice",
        ),
        (
            "[identify]\ntoken_bytes = \"17KiB\"".to_owned(),
            "a size from 1KiB to 16KiB, got `17KiB`",
        ),
        (issuer("https://id.example/?x", ""), "has no document that names its keys"),
        (
            giving("https://a", "") + &giving("https://b", "b:"),
            "issuer `https://a` has `roles_from` and",
        ),
        (
            giving("https://a", "") + &issuer("https://b", ""),
            "issuer `https://a` has `roles_from` and",
        ),
        (
            giving("https://a", "x") + &giving("https://b", "xy"),
            "is the beginning of `xy` of issuer",
        ),
        (
            issuer("https://a", "claim_headers = { x-key = \"email\" }")
                + "[identify.api_key]\nheader = \"x-key\"",
            "`x-key` cannot carry a claim to the upstream: callers are identified by it",
        ),
    ] {
        let text = format!("name = \"orders\"\n{text}");
        let error = toml::from_str::<ServiceSettings>(&text).unwrap_err();
        assert!(error.message().contains(said), "{text}: {}", error.message());
    }
    refused(&jwt("secret_file = \"k\"\nleeway_s = 86400"), expect!["`leeway_s` is at most 300"]);
    refused(
        "[identify.trusted_header]\nheader = \"x-user\"\npeers = []",
        expect!["`peers` is empty; a header that anybody may set identifies nobody"],
    );
    refused(
        "[identify.trusted_header]\nheader = \"x-user\"\npeers = [\"10.0.0.1/8\"]",
        expect![
            "`10.0.0.1/8` is not an address range: bits below the prefix are set; write it as `10.0.0.0/8` or `::1`"
        ],
    );
    refused("[identify.api_key]\nheader = \"x api\"", expect!["`x api` is not a header name"]);
    refused(
        "[identify.anonymous]\nprincipal = \"nobody\"",
        expect!["`nobody` is not a Cedar identifier; write it as `kind::\"id\"`"],
    );
    let error = toml::from_str::<ServiceSettings>("name = \"a b\"").unwrap_err();
    expect!["`a b` cannot name a service; use letters, digits, `-`, `_` and `.`, at most 64 bytes, a letter or digit first"].assert_eq(error.message());
}

#[test]
fn ranges_hold_what_they_say() {
    let holds = |range: &str, address: &str| {
        range.parse::<AddressRange>().unwrap().contains(address.parse().unwrap())
    };
    assert!(holds("10.0.0.0/8", "10.255.0.1"));
    assert!(!holds("10.0.0.0/8", "11.0.0.1"));
    assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
    assert!(holds("0.0.0.0/0", "1.2.3.4"));
    assert!(!holds("0.0.0.0/0", "::1"));
    assert!(holds("192.0.2.7", "192.0.2.7"));
    assert!(!holds("192.0.2.7", "192.0.2.6"));
    assert!(holds("2001:db8::/32", "2001:db8:1::5"));
    assert!(!holds("2001:db8::/32", "2001:db9::5"));
    for bad in ["10.0.0.0/33", "10.0.0.0/", "x", "10.0.0.0/-1", "::/129", ""] {
        assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
    }
}

const CORS: &str = r#"
name = "orders"
[cors]
origins = ["HTTPS://App.example:443", "https://*.app.example", "http://localhost:3000", "app://local"]
headers = ["X-User", "content-type", "x-user"]
expose = ["Location"]
credentials = true
max_age = "1h"
preflight = "forward"
"#;

/// A gate of release 0.2 refuses what it does not know, so it is not sent to it.
#[test]
fn origins_are_of_format_3_and_have_one_form() {
    let settings: ServiceSettings = toml::from_str(CORS).unwrap();
    assert_eq!(settings.needs(), 3);
    let json = serde_json::to_string(&settings.cors).unwrap();
    expect![[r#"{"origins":["https://app.example","https://*.app.example","http://localhost:3000","app://local"],"headers":["content-type","x-user"],"expose":["location"],"credentials":true,"max_age":"1h","preflight":"forward"}"#]].assert_eq(&json);
    let again: ServiceSettings =
        serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
    assert_eq!(again, settings);
    let written = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<ServiceSettings>(&written).unwrap(), settings, "{written}");
    let least: ServiceSettings =
        toml::from_str("name = \"orders\"\ncors = { origins = [\"*\"] }").unwrap();
    assert_eq!(serde_json::to_string(&least.cors).unwrap(), r#"{"origins":["*"]}"#);
    let without = ServiceSettings::named("orders");
    assert!(!serde_json::to_string(&without).unwrap().contains("cors"));
}

#[test]
fn origins_match_whole_origins() {
    let settings: ServiceSettings = toml::from_str(CORS).unwrap();
    let origins = settings.cors.unwrap().origins;
    let matched = |origin: &str| origins.iter().any(|pattern| pattern.matches(origin));
    for origin in [
        "https://app.example",
        "https://a.app.example",
        "https://b.a.app.example",
        "http://localhost:3000",
        "app://local",
    ] {
        assert!(matched(origin), "{origin}");
    }
    for origin in [
        "",
        "null",
        "*",
        "https://app.example/",
        "https://app.example.",
        "https://app.example:443",
        "https://app.example:8443",
        "http://app.example",
        "https://.app.example",
        "https://xapp.example",
        "https://app.example.evil",
        "https://evil.example#.app.example",
        "https://evil@a.app.example",
        "https://A.app.example",
        "https://a.app.example.",
        "https://a.app.example:8443",
        "https://a.app.example/",
        "http://localhost",
        "http://localhost:30000",
        "app://local.evil",
    ] {
        assert!(!matched(origin), "{origin}");
    }
}

#[test]
fn origins_that_cannot_be_meant_are_refused() {
    let error = |cors: &str| {
        let text = format!("name = \"orders\"\ncors = {{ {cors} }}");
        let error = toml::from_str::<ServiceSettings>(&text).unwrap_err();
        error.message().to_owned()
    };
    let list = |count: usize, before: &str, after: &str| {
        (0..count).map(|n| format!("\"{before}{n}{after}\"")).collect::<Vec<_>>().join(",")
    };
    let origins = |count| format!("origins = [{}]", list(count, "https://a", ".example"));
    let headers = |count| format!("origins = [\"*\"], headers = [{}]", list(count, "x", ""));
    let mut told = String::new();
    for cors in [
        "",
        "origins = []",
        "origins = [\"*\"], credentials = true",
        "origins = [\"https://a.example\", \"*\"], credentials = true",
        "origins = [\"https://a.example\"], headers = [\"*\"], credentials = true",
        "origins = [\"null\"]",
        "origins = [\"app.example\"]",
        "origins = [\"https://app.example/\"]",
        "origins = [\"https://app.example/x\"]",
        "origins = [\"https://a.*.example\"]",
        "origins = [\"https://u@app.example\"]",
        "origins = [\"https://*\"]",
        "origins = [\"https://caf\u{e9}.example\"]",
        "origins = [\"*\"], headers = [\"a b\"]",
        "origins = [\"*\"], expose = [\"*\"]",
        "origins = [\"*\"], max_age = \"2d\"",
        "origins = [\"*\"], preflight = \"never\"",
        "origins = [\"*\"], methods = [\"GET\"]",
        &origins(101),
        &headers(101),
    ] {
        let shown: String = cors.chars().take(60).collect();
        told.push_str(&format!("{shown}\n    {}\n", error(cors).replace('\n', " ")));
    }
    expect![[r#"

            missing field `origins`
        origins = []
            `cors`: expected at least one origin in `origins`, found none
        origins = ["*"], credentials = true
            `cors`: `*` in `origins` with `credentials = true` would let every page act as its visitor; list the origins
        origins = ["https://a.example", "*"], credentials = true
            `cors`: `*` in `origins` with `credentials = true` would let every page act as its visitor; list the origins
        origins = ["https://a.example"], headers = ["*"], credential
            `cors`: `*` in `headers` cannot be used with `credentials = true`; list the headers
        origins = ["null"]
            `null` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["app.example"]
            `app.example` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://app.example/"]
            `https://app.example/` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://app.example/x"]
            `https://app.example/x` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://a.*.example"]
            `https://a.*.example` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://u@app.example"]
            `https://u@app.example` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://*"]
            `https://*` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["https://café.example"]
            `https://café.example` is not an origin: expected `https://app.example`, with a port where it is not the usual one and without a path, `https://*.app.example` for all names below, or `*`
        origins = ["*"], headers = ["a b"]
            `cors`: expected names of headers in `headers`, got `a b`
        origins = ["*"], expose = ["*"]
            `cors`: expected names of headers in `expose`, got `*`
        origins = ["*"], max_age = "2d"
            `cors`: expected a `max_age` of at most 1d, got `2d`
        origins = ["*"], preflight = "never"
            unknown variant `never`, expected `answer` or `forward`
        origins = ["*"], methods = ["GET"]
            unknown field `methods`, expected one of `origins`, `headers`, `expose`, `credentials`, `max_age`, `preflight`
        origins = ["https://a0.example","https://a1.example","https:
            `cors`: expected at most 100 entries in `origins`, found 101
        origins = ["*"], headers = ["x0","x1","x2","x3","x4","x5","x
            `cors`: expected at most 100 entries in `headers`, found 101
    "#]].assert_eq(&told);
    for cors in [origins(100), headers(100), "origins = [\"*\"], max_age = \"1d\"".to_owned()] {
        let text = format!("name = \"orders\"\ncors = {{ {cors} }}");
        toml::from_str::<ServiceSettings>(&text).unwrap();
    }
}
