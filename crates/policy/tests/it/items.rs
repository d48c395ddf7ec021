//! Items, their canonical bodies, and the digest of sets of them.

use std::collections::BTreeMap;

use expect_test::expect;
use keepgate_policy::model::{EntityBody, GrantBody, MemberBody, PolicyBody};
use keepgate_policy::{Digest, Item, ItemBody, ItemKey, Kind, Uid};
use proptest::prelude::*;
use serde_json::json;

fn entity() -> Item {
    let attrs: BTreeMap<_, _> =
        [("b".to_owned(), json!({"z": 1, "a": [true, 1.5]})), ("a".to_owned(), json!("x"))].into();
    Item::new(
        "",
        "",
        ItemBody::Entity(EntityBody {
            uid: Uid::new("user", "al\"ice"),
            attrs,
            parents: vec![Uid::new("role", "b"), Uid::new("role", "a"), Uid::new("role", "b")],
            tags: BTreeMap::new(),
        }),
    )
}

#[test]
fn bodies_are_canonical() {
    let item = entity();
    expect![[r#"{"attrs":{"a":"x","b":{"a":[true,1.5],"z":1}},"parents":[{"id":"a","type":"role"},{"id":"b","type":"role"}],"uid":{"id":"al\"ice","type":"user"}}"#]]
        .assert_eq(std::str::from_utf8(&item.encode()).unwrap());
    expect![[r#"entity `user::"al\"ice"`"#]].assert_eq(&item.key.to_string());

    // Another order of keys and parents is the same item.
    let other = br#"{"uid":{"type":"user","id":"al\"ice"},
        "parents":[{"type":"role","id":"b"},{"type":"role","id":"a"}],
        "attrs":{"b":{"z":1,"a":[true,1.5]},"a":"x"}}"#;
    let decoded = Item::decode(item.key.clone(), other).unwrap();
    assert_eq!(decoded, item);
    assert_eq!(Digest::of(&decoded), Digest::of(&item));
}

#[test]
fn unsorted_sets_encode_sorted() {
    let body = GrantBody {
        principal: Uid::role("r"),
        actions: vec![Uid::action("b"), Uid::action("a")],
        resource: None,
        until_unix_s: None,
    };
    let raw = Item { key: ItemKey::grant("s", "g"), body: ItemBody::Grant(body) };
    assert_eq!(raw.encode(), raw.clone().canonical().encode());
    assert_ne!(raw, raw.clone().canonical());
}

#[track_caller]
fn refused(key: ItemKey, body: &str, expected: expect_test::Expect) {
    expected.assert_eq(&Item::decode(key, body.as_bytes()).unwrap_err().to_string());
}

#[test]
fn a_body_under_anothers_name_is_refused() {
    let alice = ItemKey::entity("", &Uid::new("user", "alice"));
    refused(
        alice.clone(),
        r#"{"uid":{"type":"user","id":"bob"}}"#,
        expect![[r#"entity `user::"alice"`: the body is that of `user::"bob"`"#]],
    );
    refused(alice, "{", expect![[r#"entity `user::"alice"`: the body does not parse"#]]);
    refused(
        ItemKey::new("s", Kind::Role, "role::\"x\""),
        r#"{"uid":{"type":"role","id":"x"}}"#,
        expect![[r#"role `role::"x"` of service `s`: belongs to the directory"#]],
    );
    refused(
        ItemKey::policy("", "p"),
        r#"{"text":"permit (principal, action, resource);"}"#,
        expect!["policy `p`: belongs to a service"],
    );
    refused(
        ItemKey::policy("s", ""),
        r#"{"text":"permit (principal, action, resource);"}"#,
        expect!["policy of service `s`: needs an id"],
    );
    refused(
        ItemKey::service("s"),
        r#"{"name":"t"}"#,
        expect!["service of service `s`: the body is that of `t`"],
    );
    refused(
        ItemKey::limit("s", "a"),
        r#"{"name":"b","key":"address"}"#,
        expect!["limit `a` of service `s`: the body is that of `b`"],
    );
}

#[test]
fn digests_distinguish_what_only_looks_alike() {
    let policy = |service: &str, id: &str, text: &str| {
        let body = PolicyBody { text: text.to_owned(), file: String::new() };
        Digest::of(&Item::new(service, id, ItemBody::Policy(body)))
    };
    assert_ne!(policy("a", "bc", "x"), policy("ab", "c", "x"));
    assert_ne!(policy("a", "b", "cx"), policy("a", "bc", "x"));
    let bytes = policy("a", "b", "c").to_bytes();
    assert_eq!(Digest::from_bytes(&bytes), Some(policy("a", "b", "c")));
    assert_eq!(Digest::from_bytes(&bytes[1..]), None);
    // The format is shared between versions of the program: it must not move unnoticed.
    expect!["4e"].assert_eq(&policy("a", "b", "c").to_string()[..2]);
}

proptest! {
    #[test]
    fn a_set_of_items_has_one_digest(ids in prop::collection::hash_set("[a-z]{1,4}", 0..20), seed in any::<u64>()) {
        let items: Vec<Item> = ids
            .iter()
            .map(|id| {
                let body = MemberBody {
                    member: Uid::new("user", id),
                    role: Uid::role("r"),
                    source: String::new(), until_unix_s: None,
                };
                Item::new("", "", ItemBody::Member(body))
            })
            .collect();
        let whole = Digest::of_all(&items);
        let mut other = items.clone();
        if !other.is_empty() {
            let by = usize::try_from(seed % other.len() as u64).unwrap();
            other.rotate_left(by);
            prop_assert_eq!(Digest::of_all(&other), whole);
            let last = other.pop().unwrap();
            prop_assert_ne!(Digest::of_all(&other), whole);
            prop_assert_eq!(whole.minus(Digest::of(&last)), Digest::of_all(&other));
        }
    }
}
