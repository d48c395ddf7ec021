//! Entities whose dimensions are depth and length: values within values, parents of parents, in
//! files and as stored. No overflow, and what is accepted is read back and held by a world.
#![no_main]

use std::collections::BTreeMap;

use keepgate_policy::{Digest, Item, Query, Revision, Snapshot, Uid, World, bundle, validate};
use libfuzzer_sys::fuzz_target;

const AROUND: [(&str, &str); 6] = [
    ("[", "]"),
    ("{\"a\":", "}"),
    ("{\"__extn\":{\"fn\":\"decimal\",\"arg\":", "}}"),
    ("{\"__entity\":", "}"),
    ("{\"type\":", ",\"id\":\"x\"}"),
    ("[1,", ",2]"),
];

const LEAVES: [&str; 5] =
    ["1", "\"x\"", "true", "{\"__entity\":{\"type\":\"user\",\"id\":\"a\"}}", "null"];

fuzz_target!(|bytes: &[u8]| {
    let mut value = LEAVES.get(bytes.len() % LEAVES.len()).copied().unwrap_or("1").to_owned();
    let mut entities: Vec<String> = Vec::new();
    for chunk in bytes.chunks_exact(4).take(6) {
        let &[what, low, high, how] = chunk else { break };
        let count = usize::from(low) << (high % 8);
        match how % 4 {
            0 | 1 => {
                let count = count.min((1 << 20) / (value.len() + 48));
                let (open, close) =
                    AROUND.get(usize::from(what) % AROUND.len()).copied().unwrap_or(("[", "]"));
                value = format!("{}{value}{}", open.repeat(count), close.repeat(count));
            }
            2 => {
                let count = count.min((1 << 20) / (value.len() + 8));
                value = format!("[{}]", vec![value.as_str(); count.max(1)].join(","));
            }
            // A chain of parents, or a circle of them.
            _ => {
                let count = count.min(5_000);
                for at in 0..count {
                    let next = if what % 2 == 0 { at + 1 } else { (at + 1) % count };
                    entities.push(format!(
                        "{{\"uid\":{{\"type\":\"user\",\"id\":\"{what}-{at}\"}},\"parents\":\
                         [{{\"type\":\"user\",\"id\":\"{what}-{next}\"}}]}}"
                    ));
                }
            }
        }
    }
    entities.push(format!(
        "{{\"uid\":{{\"type\":\"user\",\"id\":\"v\"}},\"attrs\":{{\"a\":{value}}},\
         \"tags\":{{\"t\":{value}}}}}"
    ));
    let files = BTreeMap::from([
        ("service.toml".to_owned(), "name = \"s\"\n".to_owned()),
        ("p.cedar".to_owned(), "permit (principal, action, resource);".to_owned()),
        (
            "q.cedar".to_owned(),
            "forbid (principal, action, resource) when { resource has a && resource.a == \
             principal };"
                .to_owned(),
        ),
        ("entities.json".to_owned(), format!("[{}]", entities.join(","))),
    ]);
    let Ok(bundle) = bundle::parse(&files) else { return };
    let written = bundle::render(&bundle.service, &bundle.items);
    let again = bundle::parse(&written).map(|again| again.items);
    assert_eq!(again.as_ref(), Ok(&bundle.items));
    if !validate::world(&bundle.items).is_empty() {
        return;
    }
    let items: Vec<Item> = bundle
        .items
        .iter()
        .map(|item| {
            let read = Item::decode(item.key.clone(), &item.encode());
            assert!(read.is_ok(), "{read:?}");
            read.unwrap_or_else(|_| item.clone())
        })
        .collect();
    let digest = Digest::of_all(&items);
    let world = World::from_snapshot(&Snapshot { revision: Revision(1), digest, items });
    assert!(world.is_ok(), "{world:?}");
    for id in ["v", "0-0", "1-0"] {
        let decided = world.as_ref().map(|world| {
            world.decide(
                &Query::new(&Uid::new("user", id), &Uid::action("read"), &Uid::new("user", "v"))
                    .service("s"),
            )
        });
        assert!(matches!(decided, Ok(Ok(_))), "{decided:?}");
    }
});
