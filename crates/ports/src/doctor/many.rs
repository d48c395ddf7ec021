//! A look into every namespace that can be seen.

use crate::netns::{self, Namespace};
use crate::read::{self, ReadOptions};
use crate::report::Report;
use crate::rules;
use crate::snapshot::Unknown;

/// How many namespaces are looked into at the same time.
const AT_ONCE: usize = 8;
/// How many namespaces are looked into at all.
pub(super) const MAX_NAMESPACES: usize = 1024;

/// The reports of all namespaces, and what could not be seen.
pub(super) fn look(options: &ReadOptions) -> (Vec<Report>, Vec<Unknown>) {
    let (listed, hidden) = netns::list();
    let mut unknown = Vec::new();
    if hidden > 0 {
        unknown.push(Unknown {
            what: format!("the namespaces of {hidden} processes"),
            why: "they belong to other users; run as root".to_owned(),
        });
    }
    if listed.len() > MAX_NAMESPACES {
        unknown.push(Unknown {
            what: format!("{} namespaces", listed.len() - MAX_NAMESPACES),
            why: format!("only {MAX_NAMESPACES} are looked into"),
        });
    }
    let listed: Vec<Namespace> =
        listed.into_iter().take(MAX_NAMESPACES).map(|l| l.namespace).collect();
    let mut reports = Vec::new();
    for group in listed.chunks(AT_ONCE) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = group
                .iter()
                .map(|namespace| {
                    let options = ReadOptions {
                        namespace: namespace.clone(),
                        skip_empty: true,
                        ..options.clone()
                    };
                    scope.spawn(move || read::host(&options))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for (namespace, result) in group.iter().zip(results) {
            match result {
                Ok(Ok(snapshot)) => reports.push(rules::judge(&snapshot)),
                Ok(Err(error)) => unknown.push(Unknown {
                    what: format!("the namespace of {}", namespace.label()),
                    why: error.to_string(),
                }),
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
    }
    (reports, unknown)
}
