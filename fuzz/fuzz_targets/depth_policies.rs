//! Policies whose dimensions are depth and length: constructs around each other and beside each
//! other. No overflow, and what is accepted can be decided.
#![no_main]

use std::collections::BTreeMap;

use keepgate_policy::model::{PolicyBody, SchemaBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{
    Digest, Item, ItemBody, Query, Revision, Snapshot, Uid, World, bundle, validate,
};
use libfuzzer_sys::fuzz_target;

/// What stands before and behind an expression, as often as wanted.
const AROUND: [(&str, &str); 22] = [
    ("(", ")"),
    ("[", "]"),
    ("{a: ", "}"),
    ("!(", ")"),
    ("-(", ")"),
    ("!", ""),
    ("if true then ", " else false"),
    ("if false then false else ", ""),
    ("if ", " then true else false"),
    ("true && (", ")"),
    ("false || (", ")"),
    ("", ".a"),
    ("", "[\"a\"]"),
    ("", ".contains(1)"),
    ("", ".getTag(\"a\")"),
    ("[true].contains(", ")"),
    ("decimal(", ")"),
    ("", " + 1"),
    ("", " == 1"),
    ("(", " has a.b)"),
    ("(", " like \"*\")"),
    ("(", ""),
];

/// What stands between copies of an expression.
const BETWEEN: [&str; 8] = [" || ", " && ", " + ", " * ", ", ", ".", " in ", " } unless { "];

const LEAVES: [&str; 6] = ["true", "1", "principal", "context.a", "[1, 2]", "user::\"a\""];

/// Three bytes choose a construct and how often it is repeated.
fn expression(bytes: &[u8]) -> String {
    let mut chunks = bytes.chunks_exact(3).take(6);
    let leaf = bytes.first().map_or(0, |byte| usize::from(*byte));
    let mut text = LEAVES.get(leaf % LEAVES.len()).copied().unwrap_or("true").to_owned();
    for chunk in &mut chunks {
        let &[what, low, high] = chunk else { break };
        // Small counts are as likely as large ones.
        let count = usize::from(low) << (high % 8);
        let count = count.min((1 << 20) / (text.len() + 24));
        let what = usize::from(what);
        text = match AROUND.get(what % (AROUND.len() + BETWEEN.len())) {
            Some((before, behind)) => {
                format!("{}{text}{}", before.repeat(count), behind.repeat(count))
            }
            None => {
                let between = BETWEEN.get(what % BETWEEN.len()).copied().unwrap_or(" || ");
                vec![text.as_str(); count.max(1)].join(between)
            }
        };
    }
    text
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let clause = expression(rest);
    let effect = if first & 1 == 0 { "permit" } else { "forbid" };
    let scope = if first & 2 == 0 { "principal" } else { "principal in ?principal" };
    let text = format!("{effect} ({scope}, action, resource) when {{ {clause} }};");

    let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
    let policy = PolicyBody { text: text.clone(), file: String::new() };
    let policy = if first & 2 == 0 { ItemBody::Policy(policy) } else { ItemBody::Template(policy) };
    let mut items = vec![Item::new("s", "", settings), Item::new("s", "p", policy)];
    if first & 4 == 0 {
        let schema = "entity user = { a?: Long } tags Long; \
                      action read appliesTo { principal: user, resource: user, context: {} };";
        items.insert(1, Item::new("s", "", ItemBody::Schema(SchemaBody { text: schema.into() })));
    }
    let files = BTreeMap::from([
        ("service.toml".to_owned(), "name = \"s\"\n".to_owned()),
        ("p.cedar".to_owned(), text),
    ]);
    let parsed = bundle::parse(&files);
    let problems = validate::world(&items);
    if problems.is_empty() {
        assert!(parsed.is_ok(), "{parsed:?}");
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let digest = Digest::of_all(&items);
    let Ok(world) = World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }) else {
        return;
    };
    let none = BTreeMap::new();
    let decided = world.decide(&Query {
        service: "s",
        principal: &Uid::new("user", "a"),
        action: &Uid::action("read"),
        resource: &Uid::new("user", "a"),
        context: &none,
        principal_properties: &none,
        action_properties: &none,
        resource_properties: &none,
    });
    if problems.is_empty() {
        assert!(decided.is_ok(), "{decided:?}");
    }
});
