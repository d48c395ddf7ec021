//! Loading and matching the routes of GitHub's REST description.
//!
//! `cargo run --release -p keepgate-policy --example route_bench` after `scripts/fetch-fixtures`;
//! prints the lines of the section "routes" in docs/benchmarks.md.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark for the terminal")]

use std::hint::black_box;
use std::time::Instant;

use keepgate_policy::openapi;
use keepgate_policy::router::{Matched, Router};

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/fixtures/documents/github.json");
    let text = std::fs::read_to_string(path).unwrap();

    let mut loads: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(openapi::load(black_box(&text)).unwrap());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let routes = openapi::load(&text).unwrap();
    let routes: Vec<_> = routes.into_iter().map(|placed| placed.route).collect();
    let count = routes.len();
    let mut builds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(Router::new(routes.as_slice()).unwrap());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();

    // One request a route, with a value of ordinary length for each parameter.
    let router = Router::new(routes).unwrap();
    let requests: Vec<(String, String)> = router
        .routes()
        .iter()
        .map(|route| {
            let parts = route.path.split_inclusive(['{', '}']);
            let filled = parts.map(|part| {
                if part.ends_with('}') { "some-value-17" } else { part.trim_end_matches('{') }
            });
            (route.method.clone(), filled.collect())
        })
        .collect();
    let mut rounds: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            for (method, path) in &requests {
                let matched = router.matched(black_box(method), black_box(path));
                assert!(!matches!(black_box(matched), Matched::NotFound));
            }
            start.elapsed().as_secs_f64() * 1e9 / requests.len() as f64
        })
        .collect();
    let mut misses: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            for (method, path) in &requests {
                black_box(router.matched(black_box(method), black_box(&path[..path.len() - 1])));
            }
            start.elapsed().as_secs_f64() * 1e9 / requests.len() as f64
        })
        .collect();

    println!("| what | median |");
    println!("|---|---|");
    println!(
        "| read {count} routes from {:.1} MB of OpenAPI | {:.0} ms |",
        text.len() as f64 / 1e6,
        median(&mut loads)
    );
    println!("| build the router of them | {:.2} ms |", median(&mut builds));
    println!("| match a request (mean over all routes) | {:.0} ns |", median(&mut rounds));
    println!("| match a path cut short by one byte | {:.0} ns |", median(&mut misses));
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
