//! `limits.toml`: what is read, what is refused, and in which words.

use expect_test::{Expect, expect};
use keepgate_limit::rules::{Key, Limits, Phase, Rate, RouteCost, RoutePattern};
use keepgate_limit::{Limiter, ServiceFacts};

/// The whole chain of an error, as a person reads it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const FACTS: ServiceFacts<'static> = ServiceFacts {
    routes: Some(&["/orders", "/orders/{id}", "/orders/export"]),
    principal_types: Some(&["user", "client"]),
    identifies: Some(true),
    api_keys: Some(true),
    identity_headers: &["x-api-key", "x-user"],
    costs: &[],
};

fn check_with(facts: &ServiceFacts<'_>, text: &str, expected: &Expect) {
    let said = match toml::from_str::<Limits>(text) {
        Err(error) => format!("not read: {}", error.message()),
        Ok(limits) => match Limiter::compile(&limits, facts, crate::seed(), None) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => chain(&error),
        },
    };
    expected.assert_eq(&said);
}

fn check(text: &str, expected: &Expect) {
    check_with(&FACTS, text, expected);
}

const FULL: &str = r#"
headers = "x-ratelimit"
help = "https://example.org/api"
defaults = "off"

[[rule]]
name = "orders"
key = "principal"
route = "/orders/*"
methods = ["GET", "HEAD"]
principal_type = "client"
rate = "100/min"
burst = 50
concurrency = 10
cost = 2
costs = [{ route = "/orders/export", methods = ["GET"], cost = 20 }]

[[rule]]
name = "tenant"
key = "header:x-tenant"
rate = "20/10s"
ipv6_prefix = 56
shadow = true
memory_mib = 4

[plan.bulk]
description = "for crawlers that asked"

[[plan.bulk.rule]]
name = "bulk"
key = "api_key"
rate = "1000/min"
"#;

#[test]
fn a_full_file_is_read_accepted_and_written_back() {
    let limits: Limits = toml::from_str(FULL).expect("reads");
    Limiter::compile(&limits, &FACTS, crate::seed(), None).expect("accepted");
    let written = toml::to_string(&limits).expect("writes");
    assert_eq!(toml::from_str::<Limits>(&written).expect("reads back"), limits);
    let json = serde_json::to_string(&limits).expect("writes JSON");
    assert_eq!(serde_json::from_str::<Limits>(&json).expect("reads JSON"), limits);
    let orders = &limits.rules[0];
    assert_eq!((orders.phase(), limits.rules[1].phase()), (Phase::Principal, Phase::Principal));
    assert_eq!(orders.cost_of("GET", Some("/orders/export")), 20);
    assert_eq!(orders.cost_of("HEAD", Some("/orders/export")), 2);
    assert_eq!(orders.cost_of("GET", None), 2);
}

#[test]
fn an_empty_file_has_the_defaults_and_off_is_explicit() {
    let names = |text: &str| {
        let limits: Limits = toml::from_str(text).expect("reads");
        let limiter = Limiter::compile(&limits, &ServiceFacts::default(), crate::seed(), None);
        let limiter = limiter.expect("accepted");
        limiter.policies().iter().map(|p| p.rule().name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["default-address", "default-principal"]);
    assert_eq!(names("defaults = \"off\""), Vec::<String>::new());
    let replaced = "[[rule]]\nname = \"default-address\"\nkey = \"address\"\nrate = \"1/s\"";
    assert_eq!(names(replaced), ["default-address", "default-principal"]);
}

#[test]
fn a_key_that_cannot_resolve_is_refused() {
    let nobody = ServiceFacts { identifies: Some(false), api_keys: Some(false), ..FACTS };
    let rule = |key: &str| format!("[[rule]]\nname = \"r\"\nrate = \"1/s\"\nkey = \"{key}\"");
    check_with(
        &nobody,
        &rule("principal"),
        &expect![
            "rule `r` is refused: its key `principal` cannot resolve: the service identifies nobody; configure a source of principals, or key the rule by `address`"
        ],
    );
    check_with(
        &nobody,
        &rule("api_key"),
        &expect![
            "rule `r` is refused: its key `api_key` cannot resolve: the service accepts no API keys; accept them, or key the rule by `principal` or `address`"
        ],
    );
    let typed = format!("{}\nprincipal_type = \"user\"", rule("address"));
    check_with(
        &nobody,
        &typed,
        &expect![
            "rule `r` is refused: its key `principal_type` cannot resolve: the service identifies nobody; configure a source of principals, or key the rule by `address`"
        ],
    );
    check(
        &rule("header:Keepgate-Principal"),
        &expect![
            "rule `r` is refused: its key `header:keepgate-principal` cannot resolve: that header is removed before limits apply; key the rule by `principal`, or choose another header"
        ],
    );
    check(
        &rule("header:connection"),
        &expect![
            "rule `r` is refused: its key `header:connection` cannot resolve: that header is removed before limits apply; key the rule by `principal`, or choose another header"
        ],
    );
    check(
        &rule("header:"),
        &expect![
            "not read: expected one of `address`, `principal`, `api_key`, `header:NAME`, got `header:`"
        ],
    );
    check(
        &rule("cookie"),
        &expect![
            "not read: expected one of `address`, `principal`, `api_key`, `header:NAME`, got `cookie`"
        ],
    );
    check(&rule("header:x-tenant"), &expect!["accepted"]);
}

#[test]
fn a_rule_without_effect_is_refused() {
    let rule = |rest: &str| format!("[[rule]]\nname = \"r\"\nkey = \"address\"\n{rest}");
    check(
        &rule(""),
        &expect![
            "rule `r` is refused: it limits nothing; give it a `rate` or a `concurrency`, or remove it"
        ],
    );
    check(
        &rule("concurrency = 0"),
        &expect![
            "rule `r` is refused: a concurrency of 0 admits nothing; give at least 1, or refuse the route in a policy"
        ],
    );
    check(
        &rule("concurrency = 1\nburst = 3"),
        &expect![
            "rule `r` is refused: a `burst` or a `cost` needs a `rate`; give one or remove them"
        ],
    );
    check(
        &rule("rate = \"0/s\""),
        &expect![
            "not read: expected a rate of at least 1, got `0/s`; to refuse a route, use a policy"
        ],
    );
    check(
        &rule("rate = \"10 per second\""),
        &expect![
            "not read: expected a rate such as `100/min`, `50/s`, `1000/h`, `5000/day` or `20/10s`, got `10 per second`"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nburst = 0"),
        &expect![
            "rule `r` is refused: its rate and burst do not fit together: a burst of 0 admits nothing; give at least 1"
        ],
    );
    check(
        &rule("rate = \"1/s\"\ncost = 0"),
        &expect![
            "rule `r` is refused: a cost of 0 on `every route` would disable the limit; give at least 1"
        ],
    );
    check(
        &rule("rate = \"5/s\"\ncosts = [{ route = \"/orders/export\", cost = 6 }]"),
        &expect![
            "rule `r` is refused: a cost of 6 on `/orders/export` never fits a burst of 5; raise `burst` or lower the cost"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nmethods = [\"get\"]"),
        &expect!["rule `r` is refused: expected a method in upper case such as `GET`, got `get`"],
    );
    check(
        &rule("rate = \"1/s\"\nroute = \"/order\""),
        &expect![
            "rule `r` is refused: no route of the service is `/order`; correct it, or add the route"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nroute = \"/*/x\""),
        &expect![
            "not read: expected a route that starts with `/`, with `*` only at the end as in `/orders/*`, got `/*/x`"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nprincipal_type = \"robot\""),
        &expect![
            "rule `r` is refused: no principal has the type `robot`; correct it, or add it to the schema"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nplan = \"bulk\""),
        &expect![
            "rule `r` is refused: there is no plan `bulk`; add `[plan.bulk]`, or correct the name"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nipv6_prefix = 0"),
        &expect![
            "rule `r` is refused: expected an `ipv6_prefix` from 1 to 128, got 0; 64 is one household or site"
        ],
    );
    check(
        &rule("rate = \"1/s\"\nmemory_mib = 0"),
        &expect!["rule `r` is refused: expected a `memory_mib` from 1 to 4096, got 0"],
    );
    check(
        &rule("rate = \"1/s\"\nshadw = true"),
        &expect![
            "not read: unknown field `shadw`, expected one of `name`, `key`, `route`, `methods`, `principal_type`, `plan`, `rate`, `burst`, `concurrency`, `cost`, `costs`, `ipv6_prefix`, `shadow`, `memory_mib`"
        ],
    );
    check(
        "[[rule]]\nname = \"a b\"\nkey = \"address\"\nrate = \"1/s\"",
        &expect![
            "rule `a b` is refused: expected a name of 1 to 64 letters, digits, `-`, `_` or `.`; rename it"
        ],
    );
    check(
        &format!("{0}\n{0}", rule("rate = \"1/s\"")),
        &expect![
            "rule `r` is refused: another rule has this name, and callers tell limits apart by name; rename one"
        ],
    );
    check(
        "help = \"ask me\"",
        &expect![
            "rule `help` is refused: expected an absolute http or https URL without spaces in `help`, got `ask me`"
        ],
    );
    check(
        "[plan.bulk]",
        &expect![
            "rule `bulk` is refused: the plan has no rule; give it one with a `rate`, or remove the plan"
        ],
    );
    let other =
        "[plan.a]\n[[plan.a.rule]]\nname = \"r\"\nkey = \"api_key\"\nrate = \"1/s\"\nplan = \"b\"";
    check(
        other,
        &expect![
            "rule `r` is refused: it is in the plan `a` and names the plan `b`; remove `plan`"
        ],
    );
    let many: String = (0..63)
        .map(|n| format!("[[rule]]\nname = \"r{n}\"\nkey = \"address\"\nrate = \"1/s\"\n"))
        .collect();
    check(
        &many,
        &expect![
            "rule `r62` is refused: more than 64 rules may apply to one caller; merge rules, e.g. with `costs`"
        ],
    );
}

#[test]
fn rates_are_read_and_written() {
    for (text, written, count, period_s) in [
        ("100/min", "100/min", 100, 60),
        ("50/s", "50/s", 50, 1),
        ("20/10s", "20/10s", 20, 10),
        ("1000/hour", "1000/h", 1000, 3600),
        ("7/2day", "7/2day", 7, 172_800),
        ("1/60s", "1/min", 1, 60),
    ] {
        let rate: Rate = text.parse().expect(text);
        assert_eq!(
            (rate.count(), rate.period_s(), rate.to_string().as_str()),
            (count, period_s, written)
        );
    }
    for text in [
        "",
        "100",
        "/s",
        "x/s",
        "-1/s",
        "+1/s",
        "1/",
        "1/fortnight",
        "1.5/s",
        "1 /s",
        "99999999999999999999/s",
    ] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}

#[test]
fn route_patterns_match_templates() {
    let below: RoutePattern = "/orders/*".parse().expect("a pattern");
    assert!(
        below.matches("/orders") && below.matches("/orders/{id}") && !below.matches("/ordersx")
    );
    let all: RoutePattern = "/*".parse().expect("a pattern");
    assert!(all.matches("/") && all.matches("/x/y"));
    let exact: RoutePattern = "/orders".parse().expect("a pattern");
    assert!(exact.matches("/orders") && !exact.matches("/orders/{id}"));
    assert_eq!("header:X-Tenant".parse::<Key>().expect("a key").to_string(), "header:x-tenant");
}

#[test]
fn a_header_that_identifies_is_no_key() {
    let rule = |key: &str| format!("[[rule]]\nname = \"r\"\nrate = \"1/s\"\nkey = \"{key}\"");
    for header in ["X-Api-Key", "x-user"] {
        let text = rule(&format!("header:{header}"));
        let limits: Limits = toml::from_str(&text).expect("reads");
        let error = Limiter::compile(&limits, &FACTS, crate::seed(), None).expect_err("refused");
        let lower = header.to_lowercase();
        assert!(chain(&error).contains(&format!("its key `header:{lower}` cannot")), "{error}");
    }
    check(&rule("header:x-tenant"), &expect!["accepted"]);
}

/// What is said of a cost on `route` (`GET /a`, or `/a` for every method) under these limits.
fn check_cost(text: &str, route: &str, cost: u32, expected: &Expect) {
    let limits: Limits = toml::from_str(text).expect("reads");
    limits.validate(&ServiceFacts::default()).expect("valid");
    let (methods, route) = match route.split_once(' ') {
        Some((method, route)) => (vec![method.to_owned()], route),
        None => (Vec::new(), route),
    };
    let route = RoutePattern::Exact(route.to_owned());
    let said = match limits.check_costs(&[RouteCost { route, methods, cost }]) {
        Ok(()) => "fits".to_owned(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&said);
}

#[test]
fn a_cost_that_never_fits_is_refused_where_a_rule_applies() {
    // The default rules have bursts of 200 and 100.
    check_cost("", "/a", 100, &expect!["fits"]);
    check_cost(
        "",
        "/a",
        101,
        &expect![
            "a cost of 101 on `/a` never fits the burst of 100 of the rule `default-principal`; lower the cost, or write a rule `default-principal` with a larger `burst`, which replaces the default one"
        ],
    );
    check_cost("defaults = \"off\"", "/a", 5000, &expect!["fits"]);

    let rule = |more: &str| {
        format!(
            "defaults = \"off\"\n[[rule]]\nname = \"r\"\nkey = \"address\"\nrate = \"10/s\"\n{more}"
        )
    };
    check_cost(&rule(""), "GET /a", 10, &expect!["fits"]);
    check_cost(
        &rule(""),
        "GET /a",
        11,
        &expect![
            "a cost of 11 on `GET /a` never fits the burst of 10 of the rule `r`; lower the cost, or raise its `burst`, or give it `costs` of its own for this route"
        ],
    );
    check_cost(&rule("burst = 11"), "GET /a", 11, &expect!["fits"]);
    // It does not apply: another route, another method, or it refuses nothing.
    check_cost(&rule("route = \"/b\""), "GET /a", 11, &expect!["fits"]);
    check_cost(&rule("route = \"/a/*\""), "GET /ab", 11, &expect!["fits"]);
    check_cost(&rule("methods = [\"POST\"]"), "GET /a", 11, &expect!["fits"]);
    check_cost(
        &rule("methods = [\"POST\"]"),
        "/a",
        11,
        &expect![
            "a cost of 11 on `/a` never fits the burst of 10 of the rule `r`; lower the cost, or raise its `burst`, or give it `costs` of its own for this route"
        ],
    );
    check_cost(&rule("shadow = true"), "GET /a", 11, &expect!["fits"]);
    // It says itself what the route costs, for all of its methods or for some.
    let says = "costs = [{ route = \"/a\", cost = 10 }]";
    check_cost(&rule(says), "/a", 11, &expect!["fits"]);
    let says = "costs = [{ route = \"/a\", methods = [\"GET\"], cost = 10 }]";
    check_cost(&rule(says), "GET /a", 11, &expect!["fits"]);
    check_cost(
        &rule(says),
        "/a",
        11,
        &expect![
            "a cost of 11 on `/a` never fits the burst of 10 of the rule `r`; lower the cost, or raise its `burst`, or give it `costs` of its own for this route"
        ],
    );
    // A plan's rule applies to some callers: it counts.
    let plan = "defaults = \"off\"\n[plan.p]\n[[plan.p.rule]]\nname = \"p\"\nkey = \"api_key\"\nrate = \"5/s\"";
    check_cost(
        plan,
        "/a",
        6,
        &expect![
            "a cost of 6 on `/a` never fits the burst of 5 of the rule `p`; lower the cost, or raise its `burst`, or give it `costs` of its own for this route"
        ],
    );
}

#[test]
fn default_rules_count_only_where_they_apply() {
    let own = |more: &str| {
        format!(
            "[[rule]]\nname = \"a\"\nkey = \"address\"\nrate = \"9999/s\"\n{more}\n\
             [[rule]]\nname = \"p\"\nkey = \"principal\"\nrate = \"9999/s\"\n"
        )
    };
    check_cost(&own(""), "/a", 5000, &expect!["fits"]);
    check_cost(&own("route = \"/a/*\""), "/a", 5000, &expect!["fits"]);
    check_cost(&own("methods = [\"GET\"]"), "GET /a", 5000, &expect!["fits"]);
    // On other routes and methods, and for those whom no rule settles, they are in force.
    check_cost(
        &own("route = \"/a/*\""),
        "/b",
        5000,
        &expect![
            "a cost of 5000 on `/b` never fits the burst of 200 of the rule `default-address`; lower the cost, or write a rule `default-address` with a larger `burst`, which replaces the default one"
        ],
    );
    check_cost(
        &own("methods = [\"GET\"]"),
        "/a",
        5000,
        &expect![
            "a cost of 5000 on `/a` never fits the burst of 200 of the rule `default-address`; lower the cost, or write a rule `default-address` with a larger `burst`, which replaces the default one"
        ],
    );
    check_cost(
        &own("shadow = true"),
        "/a",
        5000,
        &expect![
            "a cost of 5000 on `/a` never fits the burst of 200 of the rule `default-address`; lower the cost, or write a rule `default-address` with a larger `burst`, which replaces the default one"
        ],
    );
    let replaced = "[[rule]]\nname = \"default-address\"\nkey = \"address\"\nrate = \"9999/s\"\n\
                    [[rule]]\nname = \"default-principal\"\nkey = \"principal\"\nrate = \"9999/s\"";
    check_cost(replaced, "/a", 5000, &expect!["fits"]);
}
