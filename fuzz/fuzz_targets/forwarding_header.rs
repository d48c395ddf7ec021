//! The forwarding header: the address is the last that no trusted proxy has, whatever stands before.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use keepgate_gate::message::forwarding::{Syntax, caller};
use libfuzzer_sys::fuzz_target;

/// 10.0.0.0/8.
fn is_trusted(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)
}

fuzz_target!(|bytes: &[u8]| {
    for (syntax, hops) in [
        (Syntax::List, [&b"192.0.2.1"[..], b"10.0.0.1"]),
        (Syntax::Forwarded, [&b"for=192.0.2.1;proto=https"[..], b"for=10.0.0.1"]),
    ] {
        // Alone: an address, or a reason; what is found is the leftmost or not trusted.
        let alone = caller([bytes].into_iter(), syntax, is_trusted);
        if let Ok(Some(ip)) = alone
            && is_trusted(ip)
        {
            let first = bytes.split(|b| *b == b',').next().unwrap_or_default();
            assert_eq!(caller([first].into_iter(), syntax, is_trusted), Ok(Some(ip)));
        }
        // Behind a caller and a proxy, on one line and on two.
        let [client, proxy] = hops;
        let one = [bytes, client, proxy].join(&b", "[..]);
        let expected = Ok(Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
        assert_eq!(caller([&one[..]].into_iter(), syntax, is_trusted), expected);
        let two = [client, proxy].join(&b", "[..]);
        assert_eq!(caller([bytes, &two[..]].into_iter(), syntax, is_trusted), expected);
    }
});
