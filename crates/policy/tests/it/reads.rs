//! What policies read of a request: never less than what a decision depends on.

use std::collections::BTreeMap;

use keepgate_policy::model::PolicyBody;
use keepgate_policy::world::{Named, Prepared, Reads};
use keepgate_policy::{Digest, Item, ItemBody, Query, Revision, Snapshot, Uid, World};
use proptest::prelude::*;
use serde_json::{Value, json};

const SERVICE: &str = "orders";

fn world(policies: &[&str]) -> World {
    let items: Vec<Item> = policies
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let body = PolicyBody { text: (*text).to_owned(), file: String::new() };
            Item::new(SERVICE, &format!("p{n}"), ItemBody::Policy(body))
        })
        .collect();
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).unwrap()
}

fn only(names: &[&str]) -> Named {
    Named::Only(names.iter().map(|name| (*name).to_owned()).collect())
}

fn reads(policies: &[&str]) -> Reads {
    world(policies).reads(SERVICE)
}

#[test]
fn members_are_named_where_they_are_read() {
    let found = reads(&["permit (principal, action, resource);"]);
    assert_eq!(found, Reads::default());
    let found = reads(&[
        "permit (principal, action, resource) when { context.method == \"GET\" };",
        "forbid (principal, action, resource) unless { context has claims && \
         context.claims has level && context.claims.level > 3 && principal.team == \"a\" };",
    ]);
    assert_eq!(found.context, only(&["claims", "method"]));
    assert_eq!(found.claims, only(&["level"]));
    assert!(found.attributes.has("team") && !found.attributes.has("other"));
    // As a whole: nobody knows which members count.
    let found = reads(&["permit (principal, action, resource) when { context == {a: 1} };"]);
    assert_eq!((found.context, found.claims), (Named::All, Named::All));
    let found = reads(&[
        "permit (principal, action, resource) when { [context.claims].contains({a: 1}) };",
    ]);
    assert_eq!((found.context, found.claims), (only(&["claims"]), Named::All));
    let found = reads(&[
        "permit (principal, action, resource) when { (if 1 == 1 then context else {a: 1}).a == 1 };",
    ]);
    assert_eq!(found.context, Named::All);
    // Another service's do not count.
    assert_eq!(world(&["permit (principal, action, resource);"]).reads("x"), Reads::default());
}

#[test]
fn claims_are_shown_as_they_came() {
    let claims: BTreeMap<String, Value> =
        serde_json::from_value(json!({"level": 4, "tags": ["a", "b"], "rate": 1.5, "secret": "x",
                                      "deep": {"on": true}}))
        .unwrap();
    let properties =
        BTreeMap::from([("team".to_owned(), json!("a")), ("age".to_owned(), json!(3))]);
    let prepared = Prepared::new(Some(&claims), &properties).unwrap();
    let found =
        reads(&["permit (principal, action, resource) when { context.claims.level == 4 && \
         context.claims.tags.contains(\"a\") && context.claims.rate == decimal(\"1.5\") && \
         context.claims.deep.on && principal.team == \"a\" };"]);
    let (shown, attributes) = prepared.read_by(&found);
    let expected = json!({"level": 4, "tags": ["a", "b"], "rate": 1.5, "deep": {"on": true}});
    assert_eq!(Value::Object(shown), expected);
    assert_eq!(Value::Object(attributes), json!({"team": "a"}));
}

const CONDITIONS: [&str; 6] = [
    "context has a && context.a == 1",
    "context has b && context.b == context.a",
    "context == {a: 1, b: 1, c: 1}",
    "context has d && context.d.a == 1",
    "if context has c then context.c == 1 else true",
    "[context].contains({a: 1})",
];

proptest! {
    /// An oracle: a decision is the same without the members that no policy reads.
    #[test]
    fn what_is_not_read_does_not_matter(
        conditions in prop::collection::vec(0..CONDITIONS.len(), 1..3),
        members in prop::collection::btree_map("[abcd]", 0_i64..3, 0..4),
    ) {
        let policies: Vec<String> = conditions
            .iter()
            .map(|n| format!("permit (principal, action, resource) when {{ {} }};", CONDITIONS[*n]))
            .collect();
        let world = world(&policies.iter().map(String::as_str).collect::<Vec<_>>());
        let reads = world.reads(SERVICE);
        let all: BTreeMap<String, Value> =
            members.into_iter().map(|(name, n)| (name, json!(n))).collect();
        let read: BTreeMap<String, Value> =
            all.clone().into_iter().filter(|(name, _)| reads.context.has(name)).collect();
        let (alice, get, order) = (Uid::new("user", "a"), Uid::action("get"), Uid::new("o", "1"));
        let decide = |context: &BTreeMap<String, Value>| {
            let query = Query::new(&alice, &get, &order).service(SERVICE).context(context);
            let decision = world.decide(&query).unwrap();
            (decision.effect, decision.determining, decision.errors.len())
        };
        prop_assert_eq!(decide(&all), decide(&read));
    }
}
