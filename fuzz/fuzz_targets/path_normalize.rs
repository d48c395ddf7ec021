//! Paths: one normal form, found once, that means what the path meant.
#![no_main]

use keepgate_gate::path::{PathPolicy, decode_parameter, normalise};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    for keep in [false, true] {
        let Ok(normal) = normalise(path, PathPolicy::Normalise, keep) else { continue };
        // What is normal stays as it is, and is taken where only normal paths are.
        let again = normalise(&normal, PathPolicy::Refuse, keep);
        assert_eq!(again.as_deref(), Ok(normal.as_ref()));
        assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains('\\'));
        assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(normal.bytes().all(|b| b.is_ascii_graphic()));
        let _ = decode_parameter(&normal);
    }
});
