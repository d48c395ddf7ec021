//! HTTP/2 as the gate reads along: any bytes, in any pieces.
#![no_main]

use bytes::BytesMut;
use keepgate_gate::wire::h2::{FRAGMENT, REFUSED, Watch};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is passed on of `bytes`, that come in pieces of `step`, and what waits.
fn passed(bytes: &[u8], step: usize) -> (BytesMut, BytesMut) {
    let (mut watch, mut from, mut to) = (Watch::default(), BytesMut::new(), BytesMut::new());
    for piece in bytes.chunks(step) {
        from.extend_from_slice(piece);
        watch.pass(&mut from, &mut to);
        // Less than a frame waits.
        assert!(from.len() < 16 * 1024 + 9);
    }
    (to, from)
}

fuzz_target!(|bytes: &[u8]| {
    let all = [PREFACE, bytes].concat();
    let (once, waits) = passed(&all, usize::MAX);
    for step in [1, 3, 10, 64] {
        let (pieces, rest) = passed(&all, step);
        assert!(pieces == once, "in steps of {step}");
        assert!(rest == waits, "in steps of {step}");
    }
    let is_marked = once.windows(FRAGMENT.len()).any(|part| part == FRAGMENT.as_bytes());
    if is_marked {
        return;
    }
    // Nothing else is changed: what came, or its beginning and an end of the connection.
    let whole = [&once[..], &waits[..]].concat();
    let is_refused = once.strip_suffix(&REFUSED[..]).is_some_and(|head| all.starts_with(head));
    assert!(whole == all || is_refused);
});
