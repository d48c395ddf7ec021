//! Files of a directory, divided by lines `=== NAME`: no panic, and what parses comes back after it is
//! written.
#![no_main]

use std::collections::BTreeMap;

use keepgate_policy::{bundle, validate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    files.insert("service.toml".to_owned(), "name = \"s\"\n".to_owned());
    for part in text.split("=== ").skip(1) {
        let (name, body) = part.split_once('\n').unwrap_or((part, ""));
        files.insert(name.to_owned(), body.to_owned());
    }
    if let Ok(read) = bundle::parse(&files) {
        let written = bundle::render(&read.service, &read.items);
        let again = bundle::parse(&written).map(|again| again.items);
        assert_eq!(again.as_ref(), Ok(&read.items), "{written:#?}");
        let _ = validate::world(&read.items);
    }
});
