//! Documents as text: no panic, no endless work, and routes that a router takes.
#![no_main]

use keepgate_policy::openapi;
use keepgate_policy::route::Route;
use keepgate_policy::router::Router;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    check(text);
    // Most noise has no version; with one, it gets further.
    check(&format!("openapi: 3.1.0\n{text}"));
    check(&format!("swagger: '2.0'\n{text}"));
});

fn check(text: &str) {
    let lines = text.matches(['\n', '\r']).count() + 1;
    match openapi::load(text) {
        Ok(placed) => {
            assert!(placed.iter().all(|placed| (1..=lines).contains(&placed.line)));
            let routes: Vec<Route> = placed.into_iter().map(|placed| placed.route).collect();
            assert!(Router::new(routes).is_ok());
        }
        Err(problems) => assert!((1..=openapi::MAX_PROBLEMS + 1).contains(&problems.len())),
    }
}
