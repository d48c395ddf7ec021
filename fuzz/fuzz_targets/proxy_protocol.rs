//! PROXY protocol headers: any bytes, and any way they arrive in pieces.
#![no_main]

use keepgate_gate::wire::proxy_protocol::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Parsed::Complete { len, source }) = parse(bytes) else { return };
    assert!(len <= bytes.len());
    // What follows the header does not matter, and no shorter piece is a whole header.
    let first = |n: usize| bytes.get(..n).unwrap_or_default();
    assert_eq!(parse(first(len)), Ok(Parsed::Complete { len, source }));
    for n in 0..len {
        assert_eq!(parse(first(n)), Ok(Parsed::Partial), "{n} of {len} bytes");
    }
});
