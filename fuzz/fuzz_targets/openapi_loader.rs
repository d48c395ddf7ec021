//! Documents as text: no panic, no endless work, and routes that a router takes.
#![no_main]

use keepgate_policy::openapi;
use keepgate_policy::router::Router;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(routes) = openapi::load(text) {
        assert!(Router::new(routes).is_ok());
    }
    // Most noise has no version; with one, it gets further.
    if let Ok(routes) = openapi::load(&format!("openapi: 3.1.0\n{text}")) {
        assert!(Router::new(routes).is_ok());
    }
});
