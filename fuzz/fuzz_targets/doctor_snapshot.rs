//! Recorded snapshots: whatever parses can be judged and printed, and the numbers add up.
#![no_main]

use keepgate_ports::snapshot::HostSnapshot;
use keepgate_ports::{rules, text};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(snapshot) = serde_json::from_slice::<HostSnapshot>(bytes) else { return };
    let report = rules::judge(&snapshot);
    for bucket in &report.buckets {
        assert!(bucket.remaining.min <= bucket.remaining.max);
        assert_eq!(bucket.used + bucket.remaining.max, bucket.usable);
    }
    let style = text::Style { color: true, width: 80 };
    assert!(!text::render(&report, style).is_empty());
    assert!(serde_json::to_vec(&report).is_ok(), "a report is always JSON");
});
