//! Lines of an access log, as a gate that starts again and `keepgate log` read them; and those of an audit
//! log, as `keepgate audit verify` does.
#![no_main]

use keepgate_record::files::{FileLine, next_line};
use keepgate_record::{AuditWitness, Entry, Filter, Link, Sealed, verify_audit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let filter =
        Filter { principal: Some("alice".to_owned()), since_ms: Some(1), ..Filter::default() };
    let witness = AuditWitness { keys: Some(Vec::new()), ..AuditWitness::default() };
    // Whatever it is, it is judged. No key has signed it.
    if let Ok(report) = verify_audit(&mut &*bytes, &witness) {
        assert_eq!((report.anchors, report.proven), (0, None));
    }
    let mut from = bytes;
    while let Ok(Some(line)) = next_line(&mut from) {
        let (FileLine::Whole(line) | FileLine::Torn(line)) = line else { continue };
        if let Entry::Record(record) = Entry::of(&line) {
            filter.takes(&record);
        }
        if let Some(sealed) = Sealed::of(&line) {
            // A line that is sealed anew with its own number is read as it was.
            let mut link = Link { next: sealed.seq, chain: [7; 32] };
            if sealed.seq == u64::MAX {
                continue;
            }
            let mut again = Vec::new();
            link.seal(&[sealed.open, b"}"].concat(), &mut again);
            let again = again.strip_suffix(b"\n").unwrap_or(&again);
            let read = Sealed::of(again).map(|read| (read.open.to_vec(), read.seq, read.chain));
            assert_eq!(read, Some((sealed.open.to_vec(), sealed.seq, link.chain)));
        }
    }
});
