//! Certificates of any bytes: no panic; and no name that is empty or beyond its bound.
#![no_main]

use keepgate_serve::certificate::{Certificate, NameOf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let Ok(read) = Certificate::parse(der) else { return };
    for from in [NameOf::CommonName, NameOf::Dns, NameOf::Uri, NameOf::Email, NameOf::Sha256] {
        if let Ok(name) = read.name(from) {
            assert!(!name.is_empty() && name.len() <= 2048);
        }
    }
});
