//! The same requests through the gate itself and through every proxy.

use std::fmt::Write as _;

use super::cases::{CASES, Case, Who};
use super::outcome::{Outcome, Told, send};
use super::proxies::{PROXIES, Proxy, Way};
use super::relay::Relay;
use super::stage::{SPOOFED, Scene, Stage, principal};
use super::table::{DIFFERENCES, expected};
use super::upstream::Seen;
use crate::harness::skipped;

/// Connections that a proxy may open to the gate for all of it: one, and another where a request
/// overlaps the end of the one before.
const CONNECTIONS: usize = 3;

#[test]
fn every_proxy_has_the_outcomes_of_the_gate_itself() {
    let all = [&[Way::Gate][..], &PROXIES].concat();
    let stage = Stage::start(&all);
    let scene = &stage.scene;
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let ways: Vec<_> = all.iter().map(|way| scope.spawn(move || run(scene, *way))).collect();
        ways.into_iter().map(|way| way.join().unwrap()).collect()
    });
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "\n{wrong}");
    stage.gate.process.stop_but(SPOOFED);
    stage.center.process.stop();
}

/// Sends every case on one way; what was wrong, a line each.
fn run(scene: &Scene, way: Way) -> String {
    let mut wrong = String::new();
    // The relay lives as long as the proxy.
    let relay = Relay::to(scene.check);
    let proxy = match way {
        Way::Gate => None,
        _ => match Proxy::start(way, relay.address, scene.upstream.address) {
            Ok(proxy) => {
                proxy.ready();
                Some(proxy)
            }
            Err(missing) => {
                skipped(missing);
                return wrong;
            }
        },
    };
    let address = proxy.as_ref().map_or(scene.gate, |proxy| proxy.address);
    let before = relay.opened();
    for case in CASES {
        let id = format!("{}-{}", way.name(), case.name);
        let reader = scene.key(Who::Reader, way).unwrap();
        let request = case.request(&id, scene.key(case.who, way));
        let request = String::from_utf8(request).unwrap().replace("{reader}", reader);
        let told = send(address, way.caller(), request.as_bytes());
        let seen = scene.upstream.saw(&id);
        let found = Outcome::of(told.status, seen.is_some());
        let expected = expected(way, case.name, case.outcome);
        if found != expected {
            let _ = writeln!(wrong, "{id}: {found:?} ({}), not {expected:?}", told.status);
        }
        if let Some(seen) = seen {
            for fault in faults(case, way, &seen, reader) {
                let _ = writeln!(wrong, "{id}: {fault}: {seen:?}");
            }
        }
        for fault in told_faults(case, way, &told) {
            let _ = writeln!(wrong, "{id}: {fault}: {}", told.head);
        }
    }
    let opened = relay.opened() - before;
    if opened > CONNECTIONS {
        let _ = writeln!(wrong, "{}: {opened} connections to the gate", way.name());
    }
    if let Some(proxy) = proxy
        && !wrong.is_empty()
    {
        let _ = writeln!(wrong, "{} logged: {}", way.name(), proxy.log());
    }
    wrong
}

/// What is wrong with a refusal as the caller got it: all have the gate's own, but nginx's pages.
fn told_faults(case: &Case, way: Way, told: &Told) -> Vec<String> {
    // Envoy leaves the type of a body out where there is none.
    if !matches!(told.status, 401 | 403 | 429) || case.method == "HEAD" {
        return Vec::new();
    }
    let is_whole = way != Way::Nginx;
    let is_problem = told.header("content-type") == Some("application/problem+json");
    let mut expected = vec![("a problem as its body", is_problem, is_whole)];
    match told.status {
        401 => expected.push(("WWW-Authenticate", told.header("www-authenticate").is_some(), true)),
        429 => {
            expected.push(("Retry-After", told.header("retry-after").is_some(), true));
            expected.push(("RateLimit", told.header("ratelimit").is_some(), is_whole));
        }
        _ => {}
    }
    expected.retain(|(_, found, expected)| found != expected);
    expected.iter().map(|(what, found, _)| format!("{what}: {found}")).collect()
}

/// What is wrong with a request as the upstream got it.
fn faults(case: &Case, way: Way, seen: &Seen, key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |what: &str, found: &str, expected: &str| {
        if found != expected {
            faults.push(format!("{what}: `{found}`, not `{expected}`"));
        }
    };
    expect("method", &seen.method, case.method);
    let query = |target: &str| target.split_once('?').map(|(_, query)| query.to_owned());
    let (found, sent) = (query(&seen.target), query(case.target));
    expect("query", &found.unwrap_or_default(), &sent.unwrap_or_default());
    let body = if case.body.is_empty() {
        ""
    } else if case.body == "{}" {
        "{}"
    } else {
        "the=body"
    };
    expect("body", &String::from_utf8_lossy(&seen.body), body);
    let who = match case.who {
        Who::Writer => principal("writer", way),
        Who::Nobody if case.name != "key-bearer" => "user::\"anonymous\"".to_owned(),
        _ => principal("reader", way),
    };
    expect("principal", &seen.header("keepgate-principal").unwrap_or_default(), &who);
    let host = case.headers.iter().find_map(|line| line.strip_prefix("Host: "));
    expect("host", &seen.header("host").unwrap_or_default(), host.unwrap_or("shop.example"));
    for (name, value) in &seen.headers {
        let says = value.to_ascii_lowercase();
        let is_spoofed = ["spoofed", "127.0.0.99", "999999", "/public"];
        if is_spoofed.iter().any(|mark| says.contains(mark)) {
            faults.push(format!("the caller's {name} arrived"));
        }
        if says.contains(key) && name != "authorization" {
            faults.push(format!("the API key arrived in {name}"));
        }
    }
    faults
}

/// A row that says nothing would hide what changed.
#[test]
fn the_table_of_differences_names_what_is_there() {
    for row in DIFFERENCES {
        for name in row.cases {
            let case = CASES.iter().find(|case| case.name == *name);
            let case = case.unwrap_or_else(|| panic!("no case `{name}`"));
            assert_ne!(case.outcome, row.outcome, "{name} does not differ: {}", row.why);
        }
    }
    let mut names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CASES.len(), "each case has a name of its own");
}
