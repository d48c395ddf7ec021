//! AuthZEN bodies whose dimensions are depth and length: values within values in each member that
//! may have any form. No overflow, and every evaluation is decided or refused.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use keepgate_policy::authzen::{Batch, Evaluation, Response};
use keepgate_policy::decision::QueryError;
use keepgate_policy::{Digest, Item, Revision, Snapshot, World, bundle};
use libfuzzer_sys::fuzz_target;

const AROUND: [(&str, &str); 5] =
    [("[", "]"), ("{\"a\":", "}"), ("[1.5,", "]"), ("[", ",[]]"), ("{\"a\":1,\"b\":", "}")];

static WORLD: LazyLock<Option<World>> = LazyLock::new(|| {
    let files = BTreeMap::from([
        ("service.toml".to_owned(), "name = \"s\"\n".to_owned()),
        (
            "p.cedar".to_owned(),
            "permit (principal, action, resource) when { context has a && context.a == \
             resource.a };\nforbid (principal, action, resource) when { context == {b: [context]} \
             || [context.b].contains(principal) };"
                .to_owned(),
        ),
    ]);
    let items: Vec<Item> = bundle::parse(&files).ok()?.items;
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).ok()
});

fn value(bytes: &[u8]) -> String {
    let mut text = "1".to_owned();
    for chunk in bytes.chunks_exact(3).take(4) {
        let &[what, low, high] = chunk else { break };
        let count = (usize::from(low) << (high % 8)).min((1 << 17) / (text.len() + 16));
        text = match AROUND.get(usize::from(what) % (AROUND.len() + 1)) {
            Some((open, close)) => {
                format!("{}{text}{}", open.repeat(count), close.repeat(count))
            }
            None => format!("[{}]", vec![text.as_str(); count.max(1)].join(",")),
        };
    }
    text
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let value = value(rest);
    let part = |bit: u8, name: &str| match first & bit {
        0 => String::new(),
        _ => format!(",\"{name}\":{{\"a\":{value},\"b\":{value}}}"),
    };
    let single = format!(
        "\"subject\":{{\"type\":\"user\",\"id\":\"a\"{}}},\
         \"action\":{{\"name\":\"read\"{}}},\
         \"resource\":{{\"type\":\"doc\",\"id\":\"b\"{}}}{}",
        part(1, "properties"),
        part(2, "properties"),
        part(4, "properties"),
        part(8, "context"),
    );
    let items = vec!["{}"; usize::from(*first)].join(",");
    let body = format!("{{{single},\"evaluations\":[{items}],\"x\":{value}}}");
    let Some(world) = &*WORLD else { return };
    let decide = |evaluation: &Evaluation| -> Result<Response, QueryError> {
        match world.decide(&evaluation.query("s")) {
            Ok(decision) => Ok(Response::decided(&decision)),
            Err(error) if error.is_undecided() => Err(error),
            Err(error) => Ok(Response::refused(&error)),
        }
    };
    if let Ok(batch) = Batch::parse(body.as_bytes()) {
        assert!(batch.answer(decide).is_ok());
    }
    if let Ok(evaluation) = Evaluation::parse(format!("{{{single}}}").as_bytes()) {
        assert!(decide(&evaluation).is_ok());
    }
});
