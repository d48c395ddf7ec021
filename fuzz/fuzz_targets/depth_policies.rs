//! Policies whose dimensions are depth and length: constructs around each other and beside each
//! other. No overflow, and what is accepted can be decided.
#![no_main]

use std::collections::BTreeMap;

use keepgate_policy::model::{PolicyBody, SchemaBody};
use keepgate_policy::{ItemBody, Uid, bundle};
use libfuzzer_sys::fuzz_target;

mod world;

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

    let policy = PolicyBody { text: text.clone(), file: String::new() };
    let policy = if first & 2 == 0 { ItemBody::Policy(policy) } else { ItemBody::Template(policy) };
    let mut bodies = vec![policy];
    if first & 4 == 0 {
        let schema = "entity user = { a?: Long } tags Long; \
                      action read appliesTo { principal: user, resource: user, context: {} };";
        bodies.insert(0, ItemBody::Schema(SchemaBody { text: schema.into() }));
    }
    let files = BTreeMap::from([
        ("service.toml".to_owned(), "name = \"s\"\n".to_owned()),
        ("p.cedar".to_owned(), text),
    ]);
    let parsed = bundle::parse(&files);
    let user = Uid::new("user", "a");
    if world::holds(bodies, &user, "read", &user) {
        assert!(parsed.is_ok(), "{parsed:?}");
    }
});
