//! The two phases: which rules apply, whom they count together, and what lives on.

use std::net::IpAddr;
use std::time::Duration;

use keepgate_limit::{AddressKey, Caller, LimitVerdict, Limiter, Limits, Nanos, ServiceFacts};

fn limits(text: &str) -> Limits {
    toml::from_str(text).expect("limits.toml reads")
}

fn compile(text: &str) -> Limiter {
    recompile(text, None)
}

fn recompile(text: &str, previous: Option<&Limiter>) -> Limiter {
    Limiter::compile(&limits(text), &ServiceFacts::default(), crate::seed(), previous)
        .expect("accepted")
}

fn address(text: &str) -> AddressKey {
    text.parse::<IpAddr>().expect("an address").into()
}

fn user(id: &str) -> Caller<'_> {
    Caller { principal: Some(("user", id)), ..Caller::anonymous(address("192.0.2.1")) }
}

const NOW: Nanos = Nanos::new(1_000_000_000);

/// How many of `times` requests pass, dropping their permits at once.
fn passed(times: usize, ask: impl Fn() -> LimitVerdict) -> usize {
    (0..times).filter(|_| ask().is_admitted()).count()
}

#[test]
fn the_defaults_limit_every_method() {
    let limiter = compile("");
    for (host, method) in
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"].iter().enumerate()
    {
        let from = address(&format!("192.0.2.{host}"));
        assert_eq!(passed(1_000, || limiter.check_address(&from, method, None, NOW)), 200);
        let caller = user(method);
        assert_eq!(passed(1_000, || limiter.check_principal(&caller, method, None, NOW)), 100);
    }
}

const ORDERS: &str = r#"
defaults = "off"
[[rule]]
name = "each"
key = "principal"
rate = "5/s"
[[rule]]
name = "addresses"
key = "address"
rate = "3/s"
"#;

#[test]
fn addresses_are_counted_by_prefix_and_mapped_ones_as_ipv4() {
    let limiter = compile(ORDERS);
    let ask = |from: &str| passed(9, || limiter.check_address(&address(from), "GET", None, NOW));
    assert_eq!(ask("2001:db8:1:2::1"), 3);
    assert_eq!(ask("2001:db8:1:2:ffff::2"), 0, "the same /64");
    assert_eq!(ask("2001:db8:1:3::1"), 3, "another /64");
    assert_eq!(ask("198.51.100.7"), 3);
    assert_eq!(ask("::ffff:198.51.100.7"), 0, "the same IPv4 address");
    assert_eq!(ask("198.51.100.8"), 3);
    let local = passed(9, || limiter.check_address(&AddressKey::Local, "GET", None, NOW));
    assert_eq!(local, 9, "callers of a Unix socket are not one caller");
    let wide = compile(
        "defaults = \"off\"\n[[rule]]\nname = \"a\"\nkey = \"address\"\nrate = \"3/s\"\nipv6_prefix = 48",
    );
    let ask = |from: &str| passed(9, || wide.check_address(&address(from), "GET", None, NOW));
    assert_eq!((ask("2001:db8:1:2::1"), ask("2001:db8:1:3::1"), ask("2001:db8:2::")), (3, 0, 3));
}

#[test]
fn a_request_without_the_key_falls_to_its_address() {
    for key in ["principal", "api_key", "header:x-tenant"] {
        let limiter = compile(&format!(
            "defaults = \"off\"\n[[rule]]\nname = \"r\"\nkey = \"{key}\"\nrate = \"3/s\""
        ));
        let with = |from: &str, who: Option<&str>| {
            let owned = who.map(|w| w.as_bytes().to_vec());
            let header = |_: &str| owned.as_deref();
            let caller = Caller {
                principal: who.map(|id| ("user", id)),
                api_key: who,
                header: &header,
                ..Caller::anonymous(address(from))
            };
            passed(9, || limiter.check_principal(&caller, "GET", None, NOW))
        };
        assert_eq!(with("192.0.2.1", Some("a")), 3, "{key}");
        assert_eq!(with("192.0.2.2", Some("a")), 0, "{key}: counted by its key, not by address");
        assert_eq!(with("192.0.2.1", None), 3, "{key}: lacks it, counted by address");
        assert_eq!(with("192.0.2.1", None), 0, "{key}");
        assert_eq!(with("192.0.2.3", None), 3, "{key}: another address");
    }
}

const LAYERS: &str = r#"
[[rule]]
name = "everybody"
key = "principal"
rate = "10/s"
[[rule]]
name = "writes"
key = "principal"
methods = ["POST"]
rate = "2/s"
[[rule]]
name = "export"
key = "principal"
route = "/export"
plan = "*"
concurrency = 1
[plan.bulk]
[[plan.bulk.rule]]
name = "bulk-reads"
key = "api_key"
methods = ["GET"]
rate = "500/s"
[plan.watch]
[[plan.watch.rule]]
name = "watched"
key = "api_key"
rate = "1/s"
shadow = true
"#;

#[test]
fn plans_replace_what_they_settle_and_no_more() {
    let limiter = compile(LAYERS);
    let planned = |plan: &'static str, id: &'static str| Caller {
        api_key: Some(id),
        plan: Some(plan),
        ..user(id)
    };
    let ask = |caller: Caller<'_>, method: &str| {
        passed(600, || limiter.check_principal(&caller, method, None, NOW))
    };
    assert_eq!(ask(user("a"), "GET"), 10);
    assert_eq!(ask(user("b"), "POST"), 2, "both service rules apply");
    assert_eq!(ask(planned("bulk", "c"), "GET"), 500, "the plan settles reads");
    assert_eq!(ask(planned("bulk", "d"), "DELETE"), 10, "it says nothing of deletes");
    assert_eq!(ask(planned("watch", "e"), "GET"), 10, "a shadow settles nothing");
    assert_eq!(ask(planned("unheard-of", "f"), "GET"), 10, "an unknown plan is none");
    let bulk = planned("bulk", "g");
    let held = limiter.check_principal(&bulk, "GET", Some("/export"), NOW);
    assert!(held.is_admitted());
    assert!(!limiter.check_principal(&bulk, "GET", Some("/export"), NOW).is_admitted());
    drop(held);
    assert!(limiter.check_principal(&bulk, "GET", Some("/export"), NOW).is_admitted());
}

#[test]
fn a_rule_keyed_by_a_header_never_lifts_the_limit_below() {
    let limiter = compile("[[rule]]\nname = \"t\"\nkey = \"header:x-tenant\"\nrate = \"1000/s\"");
    let passes = (0..500)
        .filter(|turn| {
            let value = format!("tenant {turn}");
            let header = |_: &str| Some(value.as_bytes());
            let caller = Caller {
                header: &header,
                principal: Some(("user", "a")),
                ..Caller::anonymous(address("192.0.2.1"))
            };
            limiter.check_principal(&caller, "GET", None, NOW).is_admitted()
        })
        .count();
    assert_eq!(passes, 100, "the default rule by principal still counts");
}

#[test]
fn a_refused_request_is_charged_to_no_rule() {
    let limiter = compile(
        "defaults = \"off\"\n[[rule]]\nname = \"wide\"\nkey = \"principal\"\nrate = \"10/min\"\n[[rule]]\nname = \"narrow\"\nkey = \"principal\"\nmethods = [\"POST\"]\nrate = \"2/min\"\n[[rule]]\nname = \"shadow\"\nkey = \"principal\"\nrate = \"3/min\"\nshadow = true",
    );
    let caller = user("a");
    assert_eq!(passed(50, || limiter.check_principal(&caller, "POST", None, NOW)), 2);
    assert_eq!(passed(50, || limiter.check_principal(&caller, "GET", None, NOW)), 8);
    let other = user("b");
    let shadowed: usize = (0..5)
        .map(|_| limiter.check_principal(&other, "GET", None, NOW).shadow_refusals().count())
        .sum();
    assert_eq!(shadowed, 2, "three within, two above, none refused");
}

#[test]
fn costs_by_route_and_exact_waits() {
    let limiter = compile(
        "defaults = \"off\"\n[[rule]]\nname = \"r\"\nkey = \"principal\"\nrate = \"60/min\"\nburst = 30\ncosts = [{ route = \"/export\", cost = 20 }]",
    );
    let caller = user("a");
    assert!(limiter.check_principal(&caller, "GET", Some("/export"), NOW).is_admitted());
    let refused = limiter.check_principal(&caller, "GET", Some("/export"), NOW);
    let report = refused.refusals().next().copied().expect("a refusal");
    assert_eq!((report.remaining, report.retry_after_ns), (10, 10_000_000_000));
    let due = NOW.plus(Duration::from_nanos(report.retry_after_ns));
    let early = NOW.plus(Duration::from_nanos(report.retry_after_ns - 1));
    assert!(!limiter.check_principal(&caller, "GET", Some("/export"), early).is_admitted());
    assert!(limiter.check_principal(&caller, "GET", Some("/export"), due).is_admitted());
}

#[test]
fn permits_come_back_however_the_request_ends() {
    let limiter = compile(
        "defaults = \"off\"\n[[rule]]\nname = \"c\"\nkey = \"principal\"\nconcurrency = 2\n[[rule]]\nname = \"r\"\nkey = \"principal\"\nrate = \"5/min\"",
    );
    let caller = user("a");
    let ask = || limiter.check_principal(&caller, "GET", None, NOW);
    let (first, mut second) = (ask(), ask());
    assert!(first.is_admitted() && second.is_admitted());
    assert!(!ask().is_admitted(), "two under way");
    let body = second.take_permits();
    drop(second);
    assert!(!ask().is_admitted(), "its body is still on the way");
    drop(body);
    assert!(ask().is_admitted());
    drop(first);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = ask();
        panic!("a handler dies")
    }));
    assert!(panicked.is_err());
    // Two refusals above charged no tokens: four of five are spent.
    assert!(ask().is_admitted());
    let refused = ask();
    assert!(!refused.is_admitted() && refused.refusals().count() == 1);
    assert!(!ask().is_admitted(), "refused by rate, and holding no place");
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!(passed(9, || limiter.check_principal(&caller, "GET", None, later)), 5);
}

#[test]
fn a_new_revision_keeps_the_states_of_unchanged_rules() {
    let before = "defaults = \"off\"\n[[rule]]\nname = \"a\"\nkey = \"principal\"\nrate = \"3/h\"\n[[rule]]\nname = \"b\"\nkey = \"address\"\nrate = \"3/h\"\nconcurrency = 1";
    let first = compile(before);
    let caller = user("a");
    let from = address("192.0.2.9");
    assert_eq!(passed(9, || first.check_principal(&caller, "GET", None, NOW)), 3);
    let held = first.check_address(&from, "GET", None, NOW);
    assert!(held.is_admitted());

    // `a` gets a shadow sister and a route cost, `b` another rate.
    let after = format!(
        "{}\n[[rule]]\nname = \"c\"\nkey = \"principal\"\nrate = \"1/h\"\nshadow = true",
        before.replace("key = \"address\"\nrate = \"3/h\"", "key = \"address\"\nrate = \"9/h\"")
    );
    let second = recompile(&after, Some(&first));
    drop(first);
    assert_eq!(passed(9, || second.check_principal(&caller, "GET", None, NOW)), 0, "still blocked");
    assert!(!second.check_address(&from, "GET", None, NOW).is_admitted(), "still one under way");
    drop(held);
    assert_eq!(
        passed(20, || second.check_address(&from, "GET", None, NOW)),
        9,
        "a new rate, a new bucket"
    );
}

#[test]
fn a_report_of_another_limiter_has_no_policy() {
    let (one, two) = (compile(ORDERS), compile(ORDERS));
    let verdict = one.check_address(&address("192.0.2.1"), "GET", None, NOW);
    let report = &verdict.reports()[0];
    assert!(one.policy(&verdict, report).is_some() && two.policy(&verdict, report).is_none());
}

/// A look is no request: it takes nothing, and says what both phases would have left.
#[test]
fn a_look_charges_nobody() {
    let limiter = compile(
        r#"
        defaults = "off"
        [[rule]]
        name = "address"
        key = "address"
        rate = "5/min"
        [[rule]]
        name = "user"
        key = "principal"
        rate = "3/min"
        concurrency = 2
        "#,
    );
    let here = address("192.0.2.1");
    let caller = Caller { principal: Some(("user", "alice")), ..Caller::anonymous(here) };
    let left = || -> Vec<u32> {
        let verdicts = limiter.peek(&caller, "GET", None, NOW);
        assert!(verdicts.iter().all(|verdict| verdict.reports().iter().all(|r| !r.shadow)));
        verdicts.iter().flat_map(|v| v.reports().iter().map(|r| r.remaining)).collect()
    };
    for _ in 0..10 {
        assert_eq!(left(), [5, 3, 2]);
    }
    let held = limiter.check_principal(&caller, "GET", None, NOW);
    assert_eq!(left(), [5, 2, 1]);
    let more = limiter.check_principal(&caller, "GET", None, NOW);
    assert_eq!(left(), [5, 1, 0]);
    drop((held, more));
    let _address = limiter.check_address(&here, "GET", None, NOW);
    assert_eq!(left(), [4, 1, 2]);
    // Beyond the end it says so, and still takes nothing.
    let _last = limiter.check_principal(&caller, "GET", None, NOW);
    assert_eq!(left(), [4, 0, 1]);
}

const COUNTED: &str = r#"
defaults = "off"
[[rule]]
name = "each"
key = "principal"
rate = "5/s"
[[rule]]
name = "quiet"
key = "principal"
plan = "*"
rate = "2/s"
shadow = true
[[rule]]
name = "addresses"
key = "address"
rate = "8/s"
[[rule]]
name = "never"
key = "address"
methods = ["PUT"]
rate = "1/s"
"#;

/// What each policy did, by name.
fn done(limiter: &Limiter) -> Vec<(&str, (u64, u64))> {
    let mut all: Vec<_> =
        limiter.policies().iter().map(|p| (p.rule().name.as_str(), p.done())).collect();
    all.sort_unstable();
    all
}

/// A limit has passed what was admitted and refused what it refused itself; a peek does nothing; and it
/// goes on counting in the next version of the limits.
#[test]
fn limits_count_what_they_let_through_and_what_they_refuse() {
    let limiter = compile(COUNTED);
    let from = address("192.0.2.1");
    let mut both = 0;
    for _ in 0..12 {
        if limiter.check_address(&from, "GET", None, NOW).is_admitted() {
            both += u64::from(limiter.check_principal(&user("a"), "GET", None, NOW).is_admitted());
        }
        let _ = limiter.peek(&user("a"), "GET", None, NOW);
    }
    assert_eq!(both, 5);
    // Of 12, 8 are within the address's limit, and 5 of these within each principal's. What another
    // limit refuses the quiet one is not asked about.
    let expected = [("addresses", (8, 4)), ("each", (5, 3)), ("never", (0, 0)), ("quiet", (2, 3))];
    assert_eq!(done(&limiter), expected);
    let next = recompile(&COUNTED.replace("5/s", "50/s"), Some(&limiter));
    assert_eq!(done(&next), expected);
    drop(limiter.check_principal_for(&user("b"), "GET", None, 3, NOW));
    assert_eq!(done(&next).get(1), Some(&("each", (8, 3))));
}

/// Threads count beside each other, and nothing is lost.
#[test]
fn threads_lose_no_count() {
    let limiter = compile(COUNTED);
    let admitted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|n| {
                let limiter = &limiter;
                scope.spawn(move || {
                    let from = address(&format!("192.0.2.{}", n % 3));
                    passed(1_000, || limiter.check_address(&from, "GET", None, NOW)) as u64
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let all = done(&limiter);
    assert_eq!(all.first(), Some(&("addresses", (admitted, 12_000 - admitted))));
}
