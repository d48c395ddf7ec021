//! A `gate.toml`: any text gives sites or faults; what is read finds its own sites.
#![no_main]

use std::path::Path;

use keepgate_client::pool::PoolConfig;
use keepgate_gate::config::file::{FAULTS, read};
use keepgate_gate::config::sites::{SiteMap, generous, searched, stripped};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match read(text, Path::new("/d"), &PoolConfig::default()) {
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= FAULTS);
            let lines = text.lines().count() + 1;
            assert!(faults.iter().all(|fault| fault.line >= 1 && fault.line <= lines));
        }
        Ok(file) => {
            let (map, twice) = SiteMap::new(file.sites.iter().map(|s| (&*s.hosts, &*s.path)));
            assert!(twice.is_empty() && !file.sites.is_empty());
            for (place, site) in file.sites.iter().enumerate() {
                // A name below a wildcard may be another site's by a longer pattern.
                let name =
                    site.hosts.iter().cloned().map(String::from).find(|h| !h.starts_with('*'));
                if let Some(host) = name {
                    assert_eq!(map.find(&host, &site.path), Ok(place));
                }
                assert!(stripped(&site.path, &site.path).starts_with('/'));
            }
        }
    }
    if let Ok(form) = searched(text) {
        let read = generous(&form);
        assert_eq!(generous(&read), read);
    }
});
