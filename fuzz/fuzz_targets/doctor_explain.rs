//! Error messages: every text gets an explanation, a destination it names is one, and what stands
//! around the failing line changes nothing.
#![no_main]

use keepgate_ports::explain::explain;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let found = explain(text);
    assert!(!found.means.is_empty());
    assert_eq!(found.errno.is_none(), found.checks.is_empty());
    if let Some(address) = &found.address {
        let pair = address.rsplit_once(':');
        let fits = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        assert!(pair.is_some_and(fits), "{address}");
        // Port 0 is a source's, so no destination has it.
        assert!(found.is_bind() || !address.ends_with(":0"), "{address}");
    }
    // An empty line at the end, as `echo` and logs have, says nothing.
    if !text.ends_with(['\n', '\r']) {
        assert_eq!(explain(&format!("{text}\n")), found);
    }
});
