//! A gate's report as a center takes it: no panic, and what is taken merges with itself into bounds
//! that hold together and a report that is taken again.
#![no_main]

use keepgate_limit::top::{Heard, MAX_TOLD, TopReport, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = serde_json::from_slice::<TopReport>(bytes) else { return };
    if report.check().is_err() {
        return;
    }
    let heard = Heard { report, age_ms: 1_000 };
    let merged = merge(&[heard.clone(), heard], MAX_TOLD, None);
    for one in merged.addresses.iter().chain(&merged.principals).chain(&merged.routes) {
        assert!(one.at_least <= one.requests && one.refused <= one.requests);
    }
    let again = serde_json::to_vec(&merged).unwrap_or_default();
    assert!(serde_json::from_slice::<TopReport>(&again).is_ok());
});
