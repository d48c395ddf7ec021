//! Certificates of rcgen, read by us and by webpki, and bytes that are none.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn name(der: &[u8], from: NameOf) -> Result<String, CertificateError> {
    Certificate::parse(der).unwrap().name(from)
}

#[test]
fn each_name_is_read() {
    let der = made(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "shop");
        params.distinguished_name.push(DnType::CommonName, "wörker");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::DnsName("b.example".try_into().unwrap()),
            uri("spiffe://prod.example/ns/shop/sa/worker"),
            SanType::Rfc822Name("worker@example.com".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
        ];
        params.not_after = rcgen::date_time_ymd(2051, 2, 28);
    });
    let read = Certificate::parse(&der).unwrap();
    for (from, expected) in [
        (NameOf::CommonName, "wörker".to_owned()),
        (NameOf::Dns, "a.example".to_owned()),
        (NameOf::Uri, "spiffe://prod.example/ns/shop/sa/worker".to_owned()),
        (NameOf::Email, "worker@example.com".to_owned()),
        (NameOf::Sha256, hex(&Sha256::digest(&der))),
    ] {
        assert_eq!(read.name(from), Ok(expected), "{from:?}");
    }
    assert_eq!(read.not_after_unix_s, rcgen::date_time_ymd(2051, 2, 28).unix_timestamp() as u64);
    assert!(!read.signs);
}

/// The other reader: webpki, of which rustls is made.
#[test]
fn webpki_reads_the_same_names() {
    for count in [0, 1, 2, 7, 40] {
        let der = made(|params| {
            for place in 0..count {
                let dns = format!("n{place}.example");
                params.subject_alt_names.push(SanType::DnsName(dns.try_into().unwrap()));
                params.subject_alt_names.push(uri(&format!("https://n{place}.example/{place}")));
            }
        });
        let own = Certificate::parse(&der).unwrap();
        let der = rustls::pki_types::CertificateDer::from(der);
        let other = webpki::EndEntityCert::try_from(&der).unwrap();
        assert_eq!(own.dns, other.valid_dns_names().collect::<Vec<_>>());
        assert_eq!(own.uris, other.valid_uri_names().collect::<Vec<_>>());
        assert_eq!(own.dns.len(), count);
    }
}

#[test]
fn a_name_that_is_not_there_or_not_one() {
    let der = made(|_| {});
    for from in [NameOf::CommonName, NameOf::Dns, NameOf::Uri, NameOf::Email] {
        assert!(matches!(name(&der, from), Err(CertificateError::NoName(_))), "{from:?}");
    }
    let two = made(|params| {
        params.distinguished_name.push(DnType::CommonName, "a");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "b");
        params.subject_alt_names = vec![uri("spiffe://a/b"), uri("spiffe://a/c")];
    });
    let several = |from| matches!(name(&two, from), Err(CertificateError::Several(_)));
    assert!(several(NameOf::CommonName) && several(NameOf::Uri));
    for (common_name, fits) in [
        ("x".repeat(MAX_NAME), true),
        ("x".repeat(MAX_NAME + 1), false),
        (String::new(), false),
        ("a\nb".to_owned(), false),
        ("a\0".to_owned(), false),
    ] {
        let der = made(|params| params.distinguished_name.push(DnType::CommonName, &*common_name));
        assert_eq!(name(&der, NameOf::CommonName).is_ok(), fits, "{common_name:?}");
    }
}

#[test]
fn spiffe_ids() {
    let long = format!("spiffe://a/{}", "b".repeat(MAX_URI - 11));
    for good in ["spiffe://a/b", "spiffe://prod.example_1-x/a/B.c/d-_", "https://a/b?c=d#e", &long]
    {
        let der = made(|params| params.subject_alt_names = vec![uri(good)]);
        assert_eq!(name(&der, NameOf::Uri).as_deref(), Ok(good));
    }
    for bad in [
        "spiffe://a",
        "spiffe://a/",
        "spiffe:///b",
        "spiffe://A/b",
        "SPIFFE://a/b",
        "spiffe:a/b",
        "spiffe://a:8443/b",
        "spiffe://u@a/b",
        "spiffe://a/b?c",
        "spiffe://a/b#c",
        "spiffe://a/b/",
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/../b",
        "spiffe://a/%62",
        "spiffe://a/b c",
        &format!("{long}b"),
    ] {
        let der = made(|params| params.subject_alt_names = vec![uri(bad)]);
        assert!(name(&der, NameOf::Uri).is_err(), "{bad}");
    }
}

#[test]
fn what_signs_is_no_workload() {
    for (usages, is_ca, fits) in [
        (vec![KeyUsagePurpose::DigitalSignature], IsCa::NoCa, true),
        (vec![KeyUsagePurpose::DigitalSignature], IsCa::ExplicitNoCa, true),
        (vec![KeyUsagePurpose::KeyCertSign], IsCa::NoCa, false),
        (vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign], IsCa::NoCa, false),
        (vec![], IsCa::Ca(BasicConstraints::Unconstrained), false),
    ] {
        let shown = format!("{usages:?} {is_ca:?}");
        let der = made(|params| {
            params.subject_alt_names = vec![uri("spiffe://a/b")];
            (params.key_usages, params.is_ca) = (usages, is_ca);
        });
        assert_eq!(name(&der, NameOf::Uri).is_ok(), fits, "{shown}");
    }
}

#[test]
fn names_of_machines() {
    let der = made(|params| {
        params.distinguished_name.push(DnType::CommonName, "no-machine");
        params.subject_alt_names = vec![
            SanType::DnsName("Gate.Example".try_into().unwrap()),
            uri("spiffe://a/gate"),
            SanType::DnsName("b.example".try_into().unwrap()),
        ];
    });
    let names = Certificate::parse(&der).unwrap().machine_names();
    assert_eq!(names, ["spiffe://a/gate", "gate.example", "b.example"]);
    for good in ["gate.example", "gate-1", "spiffe://a/gate", "https://a.example/gate"] {
        assert_eq!(wrong_machine_name(good), None, "{good}");
    }
    for bad in [
        "",
        "A.example",
        "a..b",
        "*.example",
        "a b",
        "spiffe://a",
        "spiffe://A/b",
        "a:b",
        "://x",
        "https://a b",
    ] {
        assert!(wrong_machine_name(bad).is_some(), "{bad}");
    }
    assert!(wrong_machine_name(&format!("https://{}", "a".repeat(MAX_URI))).is_some());
}

#[test]
fn bounds() {
    let names = |count: usize| {
        made(|params| {
            let dns = |n| SanType::DnsName(format!("n{n}.example").try_into().unwrap());
            params.subject_alt_names = (0..count).map(dns).collect();
        })
    };
    assert!(Certificate::parse(&names(MAX_NAMES)).is_ok());
    assert_eq!(Certificate::parse(&names(MAX_NAMES + 1)), Err(CertificateError::Malformed));
    assert_eq!(
        Certificate::parse(&vec![0x30; MAX_CERTIFICATE + 1]),
        Err(CertificateError::Malformed)
    );
}

#[test]
fn times() {
    for (tag, text, expected) in [
        (UTC_TIME, "700101000000Z", Some(0)),
        (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
        (UTC_TIME, "500101000000Z", Some(0)),
        (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
        (GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000)),
        (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
        (GENERALIZED_TIME, "20241301000000Z", None),
        (GENERALIZED_TIME, "20240101240000Z", None),
        (GENERALIZED_TIME, "2024010100000Z", None),
        (UTC_TIME, "20500101000000Z", None),
        (UTC_TIME, "700101000000", None),
        (UTC_TIME, "70010100000xZ", None),
    ] {
        assert_eq!(time(tag, text.as_bytes()), expected, "{text}");
    }
}

proptest! {
    /// Any bytes, and a certificate with any byte replaced or cut: read or refused, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..600, byte: u8
    ) {
        let _ = Certificate::parse(&bytes);
        let mut der = made(|params| {
            params.distinguished_name.push(DnType::CommonName, "a");
            params.subject_alt_names = vec![uri("spiffe://a/b")];
        });
        let cut = at % der.len();
        prop_assert!(Certificate::parse(&der[..cut]).is_err());
        der[cut] = byte;
        let _ = Certificate::parse(&der);
    }
}
