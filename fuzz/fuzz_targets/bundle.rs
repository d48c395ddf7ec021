//! Files of a directory, divided by lines `=== NAME`: no panic, and what parses comes back after it is
//! written. Names decide what a text is: Cedar's own forms, JSON forms, and ours.
#![no_main]

use std::collections::BTreeMap;

use keepgate_policy::bundle::{self, Packer, is_entities_file};
use keepgate_policy::validate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    files.insert("service.toml".to_owned(), "name = \"s\"\n".to_owned());
    for part in text.split("=== ").skip(1) {
        let (name, body) = part.split_once('\n').unwrap_or((part, ""));
        files.insert(name.to_owned(), body.to_owned());
    }
    match bundle::parse(&files) {
        Ok(read) => {
            let written = bundle::render(&read.service, &read.items);
            let again = bundle::parse(&written).map(|again| again.items);
            assert_eq!(again.as_ref(), Ok(&read.items), "{written:#?}");
            let _ = validate::world(&read.items);
        }
        Err(_) => {
            let mut packer = Packer::new("s");
            for (name, text) in files {
                match is_entities_file(&name) {
                    true => packer.entities(&name, text.as_bytes(), |_| true).unwrap_or_default(),
                    false => packer.file(name, text),
                }
            }
            // The rest is looked at all the same.
            let packed = packer.finish();
            let items: Vec<_> = packed.items().map(|item| &**item).collect();
            let _ = validate::review(items.iter().copied(), !packed.errors().is_empty(), || true);
        }
    }
});
