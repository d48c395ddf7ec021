//! Certificates of any bytes: no panic; and no name that is empty or beyond its bound.
#![no_main]

use keepgate_gate::identify::certificate::Certificate;
use keepgate_policy::identify::CertificateName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let Ok(read) = Certificate::parse(der) else { return };
    for from in [
        CertificateName::CommonName,
        CertificateName::Dns,
        CertificateName::Uri,
        CertificateName::Email,
        CertificateName::Sha256,
    ] {
        if let Ok(name) = read.name(from) {
            assert!(!name.is_empty() && name.len() <= 2048);
        }
    }
});
