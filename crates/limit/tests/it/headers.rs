//! Verdicts as fields and problem members, in full.

use std::fmt::Write;
use std::time::Duration;

use expect_test::{Expect, expect};
use keepgate_limit::headers::{QuotaExceeded, fields, sf_string};
use keepgate_limit::{AddressKey, Caller, Limiter, Limits, Nanos, ServiceFacts};

const NOW: Nanos = Nanos::new(5_000_000_000);

const HERE: AddressKey = AddressKey::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

const PERUSER: &str = r#"
help = "https://example.org/api"
[[rule]]
name = "peruser"
key = "principal"
rate = "100/min"
"#;

fn compile(text: &str) -> Limiter {
    let limits: Limits = toml::from_str(text).expect("reads");
    Limiter::compile(&limits, &ServiceFacts::default(), crate::seed(), None).expect("accepted")
}

/// What the last of `requests` requests of one user is told, `after` the others.
fn check(limiter: &Limiter, requests: usize, after: Duration, expected: &Expect) {
    let caller = Caller { principal: Some(("user", "alice")), ..Caller::anonymous(HERE) };
    for _ in 1..requests {
        let _verdict = limiter.check_principal(&caller, "GET", None, NOW);
    }
    let verdict = limiter.check_principal(&caller, "GET", None, NOW.plus(after));
    let mut text = String::new();
    for (name, value) in fields(limiter, &[&verdict], None) {
        writeln!(text, "{name}: {value}").expect("writes");
    }
    if let Some(problem) = QuotaExceeded::new(limiter, &[&verdict], false, None) {
        text.push_str(&serde_json::to_string_pretty(&problem).expect("JSON"));
        text.push('\n');
    }
    expected.assert_eq(&text);
}

#[test]
fn draft_11() {
    let at_once = Duration::ZERO;
    check(
        &compile(PERUSER),
        1,
        at_once,
        &expect![[r#"
        ratelimit-policy: "peruser";q=100;w=60
        ratelimit: "peruser";r=99;t=1
    "#]],
    );
    check(
        &compile(PERUSER),
        63,
        at_once,
        &expect![[r#"
        ratelimit-policy: "peruser";q=100;w=60
        ratelimit: "peruser";r=37;t=38
    "#]],
    );
    check(
        &compile(PERUSER),
        100,
        at_once,
        &expect![[r#"
        ratelimit-policy: "peruser";q=100;w=60
        ratelimit: "peruser";r=0;t=1
    "#]],
    );
    check(
        &compile(PERUSER),
        101,
        at_once,
        &expect![[r#"
        ratelimit-policy: "peruser";q=100;w=60
        ratelimit: "peruser";r=0;t=1
        retry-after: 1
        link: <https://example.org/api>; rel="help"
        {
          "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
          "title": "Request cannot be satisfied as assigned quota has been exceeded",
          "status": 429,
          "detail": "the limit `peruser` of 100 requests in 60 s is used up; retry in 1 s; https://example.org/api describes the API and how to get a key",
          "violated-policies": [
            "peruser"
          ],
          "help": "https://example.org/api"
        }
    "#]],
    );
}

#[test]
fn the_other_dialects() {
    let dialect = |name: &str| compile(&format!("headers = \"{name}\"\n{PERUSER}"));
    check(
        &dialect("x-ratelimit"),
        63,
        Duration::ZERO,
        &expect![[r#"
        x-ratelimit-limit: 100
        x-ratelimit-remaining: 37
        x-ratelimit-reset: 38
    "#]],
    );
    check(
        &dialect("x-ratelimit"),
        101,
        Duration::ZERO,
        &expect![[r#"
        x-ratelimit-limit: 100
        x-ratelimit-remaining: 0
        x-ratelimit-reset: 1
        retry-after: 1
        link: <https://example.org/api>; rel="help"
        {
          "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
          "title": "Request cannot be satisfied as assigned quota has been exceeded",
          "status": 429,
          "detail": "the limit `peruser` of 100 requests in 60 s is used up; retry in 1 s; https://example.org/api describes the API and how to get a key",
          "violated-policies": [
            "peruser"
          ],
          "help": "https://example.org/api"
        }
    "#]],
    );
    check(&dialect("off"), 63, Duration::ZERO, &expect![[r#""#]]);
    check(
        &dialect("off"),
        101,
        Duration::ZERO,
        &expect![[r#"
        retry-after: 1
        link: <https://example.org/api>; rel="help"
        {
          "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
          "title": "Request cannot be satisfied as assigned quota has been exceeded",
          "status": 429,
          "detail": "the limit `peruser` of 100 requests in 60 s is used up; retry in 1 s; https://example.org/api describes the API and how to get a key",
          "violated-policies": [
            "peruser"
          ],
          "help": "https://example.org/api"
        }
    "#]],
    );
}

#[test]
fn rate_and_concurrency_are_two_policies_and_shadows_are_not_told() {
    let text = "defaults = \"off\"\n[[rule]]\nname = \"r\"\nkey = \"principal\"\nrate = \"20/10s\"\nconcurrency = 4\n[[rule]]\nname = \"quiet\"\nkey = \"principal\"\nrate = \"1/s\"\nshadow = true";
    check(
        &compile(text),
        3,
        Duration::from_secs(3),
        &expect![[r#"
        ratelimit-policy: "r/concurrency";q=4;qu="concurrent-requests", "r";q=20;w=10
        ratelimit: "r/concurrency";r=3, "r";r=19;t=1
    "#]],
    );
    let one = "defaults = \"off\"\n[[rule]]\nname = \"r\"\nkey = \"principal\"\nconcurrency = 1";
    let limiter = compile(one);
    let caller = Caller::anonymous(HERE);
    let _held = limiter.check_principal(&caller, "GET", None, NOW);
    let refused = limiter.check_principal(&caller, "GET", None, NOW);
    expect![[r#"
        [
            (
                "ratelimit-policy",
                "\"r\";q=1;qu=\"concurrent-requests\"",
            ),
            (
                "ratelimit",
                "\"r\";r=0",
            ),
            (
                "retry-after",
                "1",
            ),
        ]
    "#]]
    .assert_debug_eq(&fields(&limiter, &[&refused], None));
    expect![[r#"
        Some(
            QuotaExceeded {
                problem_type: "https://iana.org/assignments/http-problem-types#quota-exceeded",
                title: "Request cannot be satisfied as assigned quota has been exceeded",
                status: 429,
                detail: "the limit `r` of 1 requests at once is used up; retry in 1 s",
                violated_policies: [
                    "r",
                ],
                help: None,
            },
        )
    "#]]
    .assert_debug_eq(&QuotaExceeded::new(&limiter, &[&refused], true, None));
}

#[test]
fn a_caller_with_a_key_is_not_told_how_to_get_one() {
    let limiter = compile(&PERUSER.replace("100/min", "1/min"));
    let caller = Caller::anonymous(HERE);
    let _first = limiter.check_principal(&caller, "GET", None, NOW);
    let refused = limiter.check_principal(&caller, "GET", None, NOW);
    let detail =
        |has_key| QuotaExceeded::new(&limiter, &[&refused], has_key, None).expect("refused").detail;
    assert!(detail(false).contains("how to get a key") && !detail(true).contains("key"));
}

#[test]
fn no_rules_no_fields() {
    let limiter = compile("defaults = \"off\"");
    let verdict = limiter.check_principal(&Caller::anonymous(HERE), "GET", None, NOW);
    assert!(verdict.is_admitted());
    assert!(fields(&limiter, &[&verdict], None).is_empty());
}

#[test]
fn both_phases_are_told_together() {
    let limiter = compile("");
    let by_address = limiter.check_address(&HERE, "GET", None, NOW);
    let by_principal = limiter.check_principal(&Caller::anonymous(HERE), "GET", None, NOW);
    expect![[r#"
        [
            (
                "ratelimit-policy",
                "\"default-address\";q=100;w=1, \"default-principal/concurrency\";q=64;qu=\"concurrent-requests\", \"default-principal\";q=20;w=1",
            ),
            (
                "ratelimit",
                "\"default-address\";r=199;t=1, \"default-principal/concurrency\";r=63, \"default-principal\";r=99;t=1",
            ),
        ]
    "#]].assert_debug_eq(&fields(&limiter, &[&by_address, &by_principal], None));
}

#[test]
fn strings_are_those_of_rfc_9651() {
    assert_eq!(sf_string("peruser"), r#""peruser""#);
    assert_eq!(sf_string(r#"a"b\c"#), r#""a\"b\\c""#);
    assert_eq!(sf_string("ü\n\u{7f}~ "), r#""???~ ""#);
}

/// The operator's own help wins over the page that the gate offers.
#[test]
fn a_page_is_the_help_where_the_operator_names_none() {
    for (help, told) in [("", "/page"), ("help = \"https://own.example\"", "https://own.example")] {
        let text = format!("{help}\n[[rule]]\nname = \"r\"\nkey = \"address\"\nrate = \"1/h\"\n");
        let limiter = compile(&text);
        let _first = limiter.check_address(&HERE, "GET", None, NOW);
        let refused = limiter.check_address(&HERE, "GET", None, NOW);
        let link = ("link", format!("<{told}>; rel=\"help\""));
        assert!(fields(&limiter, &[&refused], Some("/page")).contains(&link));
        let problem = QuotaExceeded::new(&limiter, &[&refused], false, Some("/page"));
        let problem = problem.expect("refused");
        assert_eq!(problem.help.as_deref(), Some(told));
        assert!(problem.detail.contains(told), "{}", problem.detail);
    }
}
