//! Paths: one form, found once, that means what the path meant.
#![no_main]

use keepgate_gate::message::path::{Mode, PathRules, normal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    for bits in 0..24_u8 {
        let rules = PathRules {
            mode: match bits / 8 {
                0 => Mode::Normal,
                1 => Mode::Strict,
                _ => Mode::Exact,
            },
            keep_empty: bits & 1 != 0,
            keep_parameters: bits & 2 != 0,
            keep_encoded_slash: bits & 4 != 0,
        };
        let Ok(form) = normal(path, rules) else { continue };
        // What is in its form stays as it is, and strict takes nothing else.
        assert_eq!(normal(&form, rules).as_deref(), Ok(form.as_ref()));
        assert!(rules.mode != Mode::Strict || form == path);
        assert!(form.starts_with('/') && !form.starts_with("//") && !form.contains('\\'));
        assert!(rules.keep_empty || !form.contains("//"));
        assert!(rules.keep_parameters || !form.contains(';'));
        assert!(rules.keep_encoded_slash || !form.contains("%2F"));
        assert!(form.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(form.bytes().all(|b| b.is_ascii_graphic()));
    }
});
