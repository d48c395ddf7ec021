//! Heavy hitters against exact counts, and crawls against what is none.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use keepgate_limit::hash::{Fingerprint, Sort};
use keepgate_limit::top::distinct::Distinct;
use keepgate_limit::top::space_saving::SpaceSaving;
use keepgate_limit::top::{
    Dimension, Heard, MAX_TOLD, Malformed, Observation, Outcome, Outcomes, Top, TopReport, merge,
};
use keepgate_limit::{AddressKey, Limits, Nanos};
use proptest::prelude::*;

fn key(number: u64) -> Fingerprint {
    crate::seed().wide(Sort::Text, u128::from(number))
}

/// A stream of many rare keys and few frequent ones; the same for each seed.
fn skewed(seed: u64, length: usize) -> impl Iterator<Item = u64> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length).map(move |_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
        (1.0 / (uniform + 1e-5)) as u64
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The three bounds of the summary, against an exact count.
    #[test]
    fn space_saving_keeps_its_bounds(seed in 1..u64::MAX, entries in 1..60_usize, length in 1..5_000_usize) {
        let mut summary: SpaceSaving<u64> = SpaceSaving::new(entries);
        let mut exact: HashMap<u64, u64> = HashMap::new();
        for number in skewed(seed, length) {
            *summary.record(key(number), || number.to_string()).expect("an entry") += 1;
            *exact.entry(number).or_default() += 1;
        }
        let share = length as u64 / entries as u64;
        prop_assert_eq!(summary.total(), length as u64);
        prop_assert!(summary.entries().len() <= entries);
        prop_assert_eq!(summary.entries().iter().map(|e| e.count).sum::<u64>(), length as u64);
        for entry in summary.entries() {
            let truth = exact[&entry.name.parse::<u64>().expect("a number")];
            prop_assert!(entry.count - entry.error <= truth && truth <= entry.count);
            prop_assert!(entry.error <= share, "{} > {share}", entry.error);
            prop_assert_eq!(entry.value, entry.count - entry.error);
        }
        for (number, truth) in exact {
            match summary.entry(key(number)) {
                Some(_) => {}
                None => prop_assert!(truth <= share && truth <= summary.most_of_the_unseen()),
            }
        }
    }
}

#[test]
fn distinct_values_are_estimated_within_the_stated_error() {
    // Three standard errors, over decades of counts, and merging loses nothing.
    for count in [0, 1, 10, 100, 600, 1_000, 10_000, 1_000_000_u64] {
        let (mut whole, mut even, mut odd) =
            (Distinct::default(), Distinct::default(), Distinct::default());
        for number in 0..count {
            whole.insert(key(number));
            whole.insert(key(number / 2));
            if number % 2 == 0 { even.insert(key(number)) } else { odd.insert(key(number)) }
        }
        let estimate = whole.estimate() as f64;
        let error = (estimate - count as f64).abs();
        assert!(error <= 3.0 * 0.065 * count as f64, "{count}: {estimate}");
        even.merge(&odd);
        assert_eq!(even.estimate(), whole.estimate());
    }
}

fn at(seconds: u64) -> Nanos {
    Nanos::new(seconds * 1_000_000_000)
}

fn top(workers: usize, entries: usize) -> Top {
    Top::new(crate::seed(), workers, entries, Duration::from_secs(60))
}

fn request(address: u32) -> Observation<'static> {
    Observation {
        address: AddressKey::V4(Ipv4Addr::from_bits(address)),
        principal: None,
        user_agent: Some("Mozilla/5.0"),
        method: "GET",
        route: Some("/orders"),
        path: None,
        refused: false,
        outcome: Outcome::Other,
        now: at(10),
    }
}

/// Sixteen workers' summaries merged, in a flood of addresses: bounds hold against exact counts.
#[test]
fn merged_reports_keep_their_bounds() {
    let top = top(16, 64);
    let mut exact: HashMap<String, u64> = HashMap::new();
    let length = 200_000;
    for (turn, number) in skewed(7, length).enumerate() {
        let number = number as u32;
        top.record(turn * 7, &request(number));
        *exact.entry(Ipv4Addr::from_bits(number).to_string()).or_default() += 1;
    }
    let report = top.report(at(20), 1_000, None);
    assert_eq!(report.requests, length as u64);
    let share = length as u64 / 64;
    for hitter in &report.addresses {
        let truth = exact[&hitter.name];
        assert!(hitter.at_least <= truth && truth <= hitter.requests, "{hitter:?}: {truth}");
        assert!(hitter.requests - hitter.at_least <= share + 16, "{hitter:?}");
    }
    let named: BTreeSet<&str> = report.addresses.iter().map(|h| h.name.as_str()).collect();
    for (name, truth) in &exact {
        assert!(*truth <= share || named.contains(name.as_str()), "{name} made {truth}");
    }
    assert!(report.addresses.is_sorted_by_key(|hitter| std::cmp::Reverse(hitter.requests)));
}

const PLANS: &str = r#"
[plan.huge]
[[plan.huge.rule]]
name = "huge"
key = "api_key"
rate = "10000/s"
[plan.bulk]
[[plan.bulk.rule]]
name = "bulk"
key = "api_key"
rate = "1000/s"
[plan.small]
[[plan.small.rule]]
name = "small"
key = "api_key"
rate = "10/min"
"#;

/// The incident: one client walks the ids of one route among people who come back to a few.
#[test]
fn a_crawl_is_named_with_the_plan_that_fits() {
    let top = top(4, 64);
    let ids: Vec<String> = (0..20_000).map(|id| format!("/orders/{id}")).collect();
    for (turn, path) in ids.iter().enumerate() {
        let crawler = Observation {
            principal: Some(("client", "crawler")),
            user_agent: Some("crawler/1.0\u{1b}[2J"),
            route: Some("/orders/{id}"),
            path: Some(path),
            refused: turn % 4 == 0,
            outcome: if turn % 4 == 0 { Outcome::Limited } else { Outcome::Other },
            now: at(10 + turn as u64 / 1_000),
            ..request(0xc000_0201)
        };
        top.record(turn, &crawler);
        // A person asks ten times less, for a handful of ids.
        if turn % 10 == 0 {
            let id = format!("user-{}", turn / 10 % 50);
            let person = Observation {
                principal: Some(("user", &id)),
                path: Some(&ids[turn / 10 % 7]),
                ..crawler
            };
            top.record(turn, &Observation { refused: false, ..person });
        }
    }
    let limits: Limits = toml::from_str(PLANS).expect("reads");
    let report = top.report(at(30), 3, Some(&limits));
    let [crawl] = report.crawls.as_slice() else { panic!("{:?}", report.crawls) };
    assert_eq!((crawl.by, crawl.name.as_str()), (Dimension::Principal, "client::\"crawler\""));
    assert_eq!((crawl.route.as_str(), crawl.requests), ("/orders/{id}", 20_000));
    assert!((16_000..24_000).contains(&crawl.distinct), "{crawl:?}");
    assert_eq!((crawl.refused, crawl.plan.as_deref()), (5_000, Some("bulk")));
    let first = &report.principals[0];
    assert_eq!((first.requests, first.at_least, first.refused), (20_000, 20_000, 5_000));
    assert!((first.share - 20_000.0 / 22_000.0).abs() < 1e-9 && first.per_second == 1_000.0);
    assert_eq!(first.first_seen_age_ms, 20_000);
    assert_eq!(first.methods, ["GET"]);
    assert_eq!(first.routes, [("/orders/{id}".to_owned(), 20_000)]);
    assert_eq!(report.user_agents[0].name, "crawler/1.0?[2J", "nothing reaches a terminal raw");
    assert_eq!(report.principals.len(), 3);
}

#[test]
fn an_anonymous_crawl_is_told_by_address_and_a_poller_is_none() {
    let top = top(1, 64);
    for id in 0..1_000 {
        let path = format!("/orders/{id}");
        let walk = Observation { route: Some("/orders/{id}"), path: Some(&path), ..request(1) };
        top.record(0, &walk);
        // A poller asks one id again and again; a browser looks at many routes.
        let poll =
            Observation { route: Some("/orders/{id}"), path: Some("/orders/7"), ..request(2) };
        top.record(0, &poll);
        top.record(0, &Observation { path: Some(&path), ..request(3) });
        top.record(0, &Observation { route: Some("/a"), ..request(3) });
        top.record(0, &Observation { route: Some("/b"), ..request(3) });
    }
    let report = top.report(at(20), 10, None);
    let told: Vec<_> =
        report.crawls.iter().map(|c| (c.by, c.name.as_str(), c.plan.clone())).collect();
    assert_eq!(told, [(Dimension::Address, "0.0.0.1", None)]);
    assert_eq!(report.anonymous, report.requests);
}

/// Accounts that take turns behind one address: told by the address.
#[test]
fn a_crawl_spread_over_principals_is_told_by_address() {
    let top = top(1, 64);
    for id in 0..2_000 {
        let (path, who) = (format!("/orders/{id}"), format!("u{}", id % 100));
        let walk = Observation {
            principal: Some(("user", &who)),
            route: Some("/orders/{id}"),
            path: Some(&path),
            ..request(1)
        };
        top.record(0, &walk);
    }
    let report = top.report(at(20), 10, None);
    assert_eq!(report.crawls.iter().map(|c| c.by).collect::<Vec<_>>(), [Dimension::Address]);
}

/// Two crawls of one route, of which the smaller is anonymous: both are told.
#[test]
fn a_smaller_crawl_does_not_hide_behind_a_larger() {
    let top = top(1, 64);
    for id in 0..3_000 {
        let path = format!("/orders/{id}");
        let walk = Observation { route: Some("/orders/{id}"), path: Some(&path), ..request(1) };
        top.record(0, &Observation { principal: Some(("client", "known")), ..walk });
        if id % 10 == 0 {
            top.record(0, &Observation { address: request(2).address, ..walk });
        }
    }
    let report = top.report(at(20), 10, None);
    let told: Vec<_> = report.crawls.iter().map(|c| (c.by, c.requests)).collect();
    assert_eq!(told, [(Dimension::Principal, 3_000), (Dimension::Address, 300)]);
}

#[test]
fn windows_turn_and_old_ones_go() {
    let top = top(1, 8);
    let when =
        |seconds, address| top.record(0, &Observation { now: at(seconds), ..request(address) });
    when(0, 1);
    when(59, 1);
    when(61, 1);
    when(61, 2);
    let report = top.report(at(100), 9, None);
    assert_eq!((report.requests, report.seconds), (4, 100.0));
    assert_eq!(report.addresses[0].first_seen_age_ms, 100_000, "first seen in the window before");
    let later = top.report(at(122), 9, None);
    assert_eq!(later.requests, 2, "the first window is gone");
    assert_eq!(top.report(at(1_000), 9, None).requests, 0);
}

#[test]
fn long_names_are_cut_and_counted_whole() {
    let top = top(1, 8);
    let agents = [format!("{}a", "x".repeat(300)), format!("{}b", "x".repeat(300))];
    for agent in &agents {
        top.record(0, &Observation { user_agent: Some(agent), ..request(1) });
    }
    let report = top.report(at(11), 9, None);
    assert_eq!(report.user_agents.len(), 2, "told apart by the whole");
    assert!(report.user_agents.iter().all(|agent| agent.name.len() == 200));
}

/// What a gate would send, read back.
fn sent(report: &TopReport) -> Heard {
    let text = serde_json::to_string(report).expect("writes");
    let read: TopReport = serde_json::from_str(&text).expect("reads back");
    assert_eq!(&read, report);
    read.check().expect("a gate's own report is good");
    Heard { report: read, age_ms: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However callers are spread over gates, the merged bounds hold for each, listed or not.
    #[test]
    fn reports_of_gates_merged_keep_their_bounds(
        seed in 1..u64::MAX,
        gates in 1..5_usize,
        workers in 1..3_usize,
        entries in 1..40_usize,
        told in 1..MAX_TOLD,
        length in 1..4_000_usize,
    ) {
        let tops: Vec<Top> = (0..gates).map(|_| top(workers, entries)).collect();
        let mut exact: HashMap<String, u64> = HashMap::new();
        for (turn, number) in skewed(seed, length).enumerate() {
            let address = number as u32 % 100_000;
            // Some callers are at one gate, some at all.
            let at = if number % 3 == 0 { number as usize } else { turn } % gates;
            tops[at].record(turn / gates, &request(address));
            *exact.entry(Ipv4Addr::from_bits(address).to_string()).or_default() += 1;
        }
        let heard: Vec<Heard> = tops.iter().map(|top| sent(&top.report(at(30), told, None))).collect();
        let merged = merge(&heard, told, None);
        prop_assert_eq!(merged.requests, length as u64);
        prop_assert!(merged.addresses.len() <= told);
        let listed: HashMap<&str, _> =
            merged.addresses.iter().map(|one| (one.name.as_str(), one)).collect();
        for (name, truth) in &exact {
            match listed.get(name.as_str()) {
                Some(one) => prop_assert!(one.at_least <= *truth && *truth <= one.requests,
                    "{truth} of {one:?}"),
                None => prop_assert!(*truth <= merged.unlisted.addresses,
                    "{name}: {truth} > {}", merged.unlisted.addresses),
            }
        }
    }
}

#[test]
fn a_crawl_through_two_gates_is_one_with_the_plan_for_all_of_it() {
    let limits: Limits = toml::from_str(PLANS).expect("reads");
    let tops = [top(1, 64), top(1, 64)];
    for id in 0..24_000 {
        let path = format!("/orders/{id}");
        let crawler = Observation {
            principal: Some(("client", "crawler")),
            route: Some("/orders/{id}"),
            path: Some(&path),
            method: if id % 2 == 0 { "GET" } else { "HEAD" },
            now: at(10 + id % 2),
            ..request(1)
        };
        tops[id as usize % 2].record(0, &crawler);
    }
    let mut heard: Vec<Heard> =
        tops.iter().map(|top| sent(&top.report(at(30), 20, Some(&limits)))).collect();
    heard[1].age_ms = 4_000;
    let merged = merge(&heard, 20, Some(&limits));
    let [crawl] = merged.crawls.as_slice() else { panic!("{:?}", merged.crawls) };
    assert_eq!((crawl.requests, crawl.by), (24_000, Dimension::Principal));
    assert!((20_000..=24_000).contains(&crawl.distinct), "{crawl:?}");
    assert!((10_000..=12_000).contains(&crawl.distinct_at_least), "{crawl:?}");
    let alone = &heard[0].report.crawls[0];
    assert!(crawl.per_second > 1.9 * alone.per_second);
    assert_eq!(crawl.plan, limits.plan_that_fits(crawl.per_second).map(str::to_owned));
    let who = &merged.principals[0];
    assert_eq!((who.requests, who.at_least, who.share), (24_000, 24_000, 1.0));
    assert_eq!(who.methods, ["GET", "HEAD"]);
    assert_eq!(who.routes, [("/orders/{id}".to_owned(), 24_000)]);
    // The second gate saw it first at 11 of its 30 seconds, and said so 4 seconds ago.
    assert_eq!(who.first_seen_age_ms, 23_000);
    assert_eq!(merge(&[], 20, None).requests, 0);
}

#[test]
fn reports_that_no_gate_makes_are_refused() {
    let top = top(1, 64);
    for address in 0..30 {
        let route = Some("/orders/{id}");
        let asked = Observation { principal: Some(("user", "a")), route, ..request(address) };
        top.record(0, &asked);
    }
    let good = top.report(at(30), MAX_TOLD, None);
    good.check().expect("good");
    type Spoil = fn(&mut TopReport);
    let cases: [(Spoil, Malformed); 9] = [
        (
            |r| r.addresses.push(r.addresses[0].clone()),
            Malformed::TooMany { kind: "addresses", count: 21 },
        ),
        (|r| r.principals[0].name = "x".repeat(201), Malformed::Name),
        (|r| r.principals[0].name = "a\u{1b}[2J".to_owned(), Malformed::Name),
        (|r| r.principals[0].at_least = 31, Malformed::Numbers),
        (|r| r.seconds = -1.0, Malformed::Numbers),
        (|r| r.refused = 31, Malformed::Numbers),
        (
            |r| r.outcomes = Some(Outcomes { limited: 31, ..Outcomes::default() }),
            Malformed::Numbers,
        ),
        (|r| r.unlisted.routes = u64::MAX, Malformed::Numbers),
        (|r| r.principals[0].methods = vec!["BREW".to_owned()], Malformed::Method),
    ];
    for (spoil, expected) in cases {
        let mut report = good.clone();
        spoil(&mut report);
        assert_eq!(report.check(), Err(expected));
    }
}

/// A crawler whose address is refused before anybody looks who it is: told once, by the address, with the
/// principal that it was when it was let in.
#[test]
fn a_crawl_refused_before_it_was_identified_is_told_once_with_its_principal() {
    let limits: Limits = toml::from_str(PLANS).expect("reads");
    let top = top(1, 64);
    for id in 0..4_000 {
        let path = format!("/orders/{id}");
        let walk = Observation { route: Some("/orders/{id}"), path: Some(&path), ..request(1) };
        let walk = Observation { now: at(70), ..walk };
        if id % 10 == 0 {
            top.record(0, &Observation { principal: Some(("client", "crawler")), ..walk });
        } else {
            top.record(0, &Observation { refused: true, ..walk });
        }
    }
    let report = top.report(at(80), 10, Some(&limits));
    let [crawl] = report.crawls.as_slice() else { panic!("{:?}", report.crawls) };
    assert_eq!((crawl.by, crawl.requests), (Dimension::Address, 4_000));
    assert_eq!(crawl.principal.as_deref(), Some("client::\"crawler\""));
    // Ten seconds of it, not more: whoever has just come is not averaged over the time before.
    assert_eq!(crawl.per_second, 400.0);
    assert_eq!(report.addresses[0].per_second, 400.0);
}
