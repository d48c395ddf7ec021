//! Envoy's description of a request: what is read of it is what it says, within the bounds.
#![no_main]

use keepgate_gate::Bounds;
use keepgate_gate::check::request_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { header_count: 8, header_bytes: 256, ..Bounds::default() };
    let Ok(parts) = request_of(bytes, &bounds) else { return };
    // The host is one more.
    assert!(parts.headers.len() <= bounds.header_count + 1);
    let host = parts.headers.get("host").map_or(0, |host| 4 + host.len());
    let lines = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let all: usize = lines.sum();
    assert!(all <= bounds.header_bytes + host);
    // Its target stands in the message as it is, and is one that can be forwarded.
    let target = parts.uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
    assert!(target.starts_with('/') || target == "*", "{target}");
    assert!(parts.uri.authority().is_none() && parts.uri.scheme().is_none());
    let target = target.as_bytes();
    assert!(bytes.windows(target.len()).any(|part| part == target));
    assert!(parts.headers.keys().all(|name| !name.as_str().starts_with(':')));
    assert!(!parts.method.as_str().is_empty());
});
