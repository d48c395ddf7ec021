//! Error messages: every text gets an explanation, and a destination it names is one.
#![no_main]

use keepgate_ports::explain::explain;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let found = explain(text);
    assert!(!found.means.is_empty());
    assert_eq!(found.errno.is_none(), found.checks.is_empty());
    if let Some(address) = found.address {
        let pair = address.rsplit_once(':');
        let fits = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        assert!(pair.is_some_and(fits), "{address}");
    }
});
