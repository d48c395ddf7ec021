//! What may not become a revision.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use keepgate_policy::model::{
    EntityBody, GrantBody, KeyBody, LinkBody, MemberBody, PolicyBody, SchemaBody,
};
use keepgate_policy::route::Route;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Item, ItemBody, Uid, bundle, validate};
use serde_json::json;

const SCHEMA: &str = "entity role in [role];\n\
    entity user in [role] { level: Long, friend?: user };\n\
    entity route in [route];\n\
    action read appliesTo { principal: [user], resource: [route], context: { ip?: ipaddr } };";

fn uid(text: &str) -> Uid {
    text.parse().unwrap()
}

fn policy(id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new("s", id, ItemBody::Policy(body))
}

fn template(id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new("s", id, ItemBody::Template(body))
}

fn entity(service: &str, at: &str, attrs: serde_json::Value, parents: &[&str]) -> Item {
    let attrs: BTreeMap<_, _> = serde_json::from_value(attrs).unwrap();
    let parents = parents.iter().map(|text| uid(text)).collect();
    let body = EntityBody { uid: uid(at), attrs, parents, tags: BTreeMap::new() };
    Item::new(service, "", ItemBody::Entity(body))
}

fn member(member: &str, role: &str) -> Item {
    let body = MemberBody {
        member: uid(member),
        role: uid(role),
        source: String::new(),
        until_unix_s: None,
    };
    Item::new("", "", ItemBody::Member(body))
}

fn grant(id: &str, principal: &str, action: &str, resource: &str) -> Item {
    let body = GrantBody {
        principal: uid(principal),
        actions: vec![Uid::action(action)],
        resource: Some(uid(resource)),
        until_unix_s: None,
    };
    Item::new("s", id, ItemBody::Grant(body))
}

fn link(id: &str, template: &str, principal: Option<&str>) -> Item {
    let body =
        LinkBody { template: template.to_owned(), principal: principal.map(uid), resource: None };
    Item::new("s", id, ItemBody::Link(body))
}

fn service() -> Item {
    Item::new("s", "", ItemBody::Service(Box::new(ServiceSettings::named("s"))))
}

fn schema() -> Item {
    Item::new("s", "", ItemBody::Schema(SchemaBody { text: SCHEMA.to_owned() }))
}

fn problems(items: &[Item]) -> String {
    let problems = validate::world(items);
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[track_caller]
fn check(items: &[Item], expected: Expect) {
    let mut all = vec![service(), schema()];
    all.extend_from_slice(items);
    expected.assert_eq(&problems(&all));
}

#[test]
fn a_sound_world_has_no_problem() {
    check(
        &[
            policy("p", "permit (principal, action, resource) when { principal.level > 3 };"),
            template("t", "permit (principal == ?principal, action, resource);"),
            link("l", "t", Some("user::\"a\"")),
            grant("g", "role::\"r\"", "read", "route::\"/\""),
            entity(
                "s",
                "user::\"a\"",
                json!({"level": 1, "friend": {"__entity": {"type": "user", "id": "b"}}}),
                &["role::\"r\""],
            ),
            entity("", "user::\"b\"", json!({"anything": {"goes": [1, true]}}), &["role::\"q\""]),
            member("role::\"r\"", "role::\"q\""),
            Item::new("s", "", ItemBody::Route(Box::new(Route::new("GET", "/a")))),
        ],
        expect![""],
    );
    // Without a schema names are free.
    let free = [
        service(),
        policy("p", "permit (principal == shop::x::\"1\", action == Action::\"y\", resource);"),
        grant("g", "whoever::\"r\"", "anything", "thing::\"/\""),
    ];
    expect![""].assert_eq(&problems(&free));
}

#[test]
fn policies_are_checked_against_the_schema() {
    check(
        &[
            policy("syntax", "// first\npermit (principal, action);"),
            policy(
                "two",
                "permit (principal, action, resource); permit (principal, action, resource);",
            ),
            policy("slot", "permit (principal == ?principal, action, resource);"),
            policy(
                "attribute",
                "permit (principal, action, resource)\nwhen {\n  principal.levle > 3 };",
            ),
            policy("type", "permit (principal is usr, action, resource);"),
            policy("action", "permit (principal, action == Action::\"raed\", resource);"),
            policy("other", "@id(\"another\") permit (principal, action, resource);"),
            policy("marker", "//@ id: \"x\"\npermit (principal, action, resource);"),
            template("no-slot", "permit (principal, action, resource);"),
        ],
        expect![[r#"
            policy `syntax` of service `s`, line 2: this policy is missing the `resource` variable in the scope; policy scopes must contain a `principal`, `action`, and `resource` element in that order
            policy `two` of service `s`, line 1: unexpected token `permit`
            policy `slot` of service `s`, line 1: expected a static policy, got a template containing the slot ?principal; try removing the template slot(s) from this policy
            policy `other` of service `s`: the text says `@id("another")`; make them the same
            policy `marker` of service `s`: a line starts with `//@ id:`, which is for files of policies
            template `no-slot` of service `s`, line 1: expected a template, got a static policy; a template should include slot(s) `?principal` or `?resource`
            policy `action` of service `s`, line 1: unrecognized action `Action::"raed"`; did you mean `Action::"read"`?
            policy `attribute` of service `s`, line 3: attribute `levle` on entity type `user` not found; did you mean `level`?
            policy `type` of service `s`, line 1: unrecognized entity type `usr`; did you mean `user`?
        "#]],
    );
}

#[test]
fn links_and_grants_refer_to_what_is_there() {
    check(
        &[
            template("t", "permit (principal == ?principal, action, resource);"),
            link("missing", "u", Some("user::\"a\"")),
            link("empty", "t", None),
            link("type", "t", Some("usr::\"a\"")),
            policy("same", "permit (principal, action, resource);"),
            grant("same", "role::\"r\"", "read", "route::\"/\""),
            grant("action", "role::\"r\"", "write", "route::\"/\""),
            grant("types", "person::\"r\"", "read", "path::\"/\""),
        ],
        expect![[r#"
            grant `same` of service `s`: there is a policy of this id already
            link `missing` of service `s`: there is no template `u`
            link `empty` of service `s`: the following slots were not provided as arguments: ?principal
            link `type` of service `s`: unrecognized entity type `usr`; did you mean `user`?
            grant `action` of service `s`: the schema has no action `Action::"write"`; it has `Action::"read"`
            grant `types` of service `s`: the schema has no entity type `person`; it has `role`, `route`, `user`
            grant `types` of service `s`: the schema has no entity type `path`; it has `role`, `route`, `user`
        "#]],
    );
}

#[test]
fn entities_conform() {
    check(
        &[
            entity("s", "user::\"no-level\"", json!({}), &[]),
            entity("s", "user::\"extra\"", json!({"level": 1, "nick": "x"}), &[]),
            entity("s", "user::\"parent\"", json!({"level": 1}), &["route::\"/\""]),
            entity("s", "person::\"a\"", json!({}), &[]),
            entity("", "user::\"float\"", json!({"level": 1.5}), &[]),
            entity("", "user::\"null\"", json!({"level": null}), &[]),
        ],
        expect![[r#"
            entity `user::"float"`: `level` is `1.5`, but Cedar has whole numbers only; write {"__extn": {"fn": "decimal", "arg": "1.5"}} for 1.5
            entity `user::"null"`: error during entity deserialization: in attribute `level` on `user::"null"`, found a `null`; JSON `null`s are not allowed in Cedar
            entity `user::"no-level"` of service `s`: entity does not conform to the schema: expected entity `user::"no-level"` to have attribute `level`, but it does not
            entity `user::"extra"` of service `s`: error during entity deserialization: attribute `nick` on `user::"extra"` should not exist according to the schema
            entity `user::"parent"` of service `s`: entity does not conform to the schema: `user::"parent"` is not allowed to have an ancestor of type `route` according to the schema
            entity `person::"a"` of service `s`: error during entity deserialization: entity `person::"a"` has type `person` which is not declared in the schema
        "#]],
    );
}

#[test]
fn membership_leads_in_no_circle() {
    check(
        &[
            member("role::\"a\"", "role::\"b\""),
            member("role::\"b\"", "role::\"c\""),
            member("role::\"c\"", "role::\"a\""),
            member("role::\"d\"", "role::\"a\""),
        ],
        expect![[r#"
            member `role::"c" in role::"a"`: membership forms a cycle: role::"a" in role::"b" in role::"c" in role::"a"; remove one step of it
        "#]],
    );
    check(
        &[
            member("role::\"a\"", "role::\"b\""),
            entity("s", "role::\"b\"", json!({}), &["role::\"a\""]),
        ],
        expect![[r#"
            entity `role::"b"` of service `s`: membership forms a cycle: role::"a" in role::"b" in role::"a"; remove one step of it
        "#]],
    );
    check(
        &[member("role::\"a\"", "role::\"a\"")],
        expect![[r#"
        member `role::"a" in role::"a"`: membership forms a cycle: role::"a" in role::"a"; remove one step of it
    "#]],
    );
    // A diamond is no circle, and a chain as long as this is no reason to overflow.
    let mut items =
        vec![member("role::\"x\"", "role::\"n0\""), member("role::\"x\"", "role::\"n1\"")];
    items.extend(
        (0..50_000).map(|n| member(&format!("role::\"n{n}\""), &format!("role::\"n{}\"", n + 1))),
    );
    check(&items, expect![""]);
}

#[test]
fn what_has_no_name_or_no_service_is_refused() {
    let key = KeyBody {
        prefix: "abc".to_owned(),
        sha256: "secret".to_owned(),
        principal: Uid::new("api client", "x"),
        plan: String::new(),
        expires_unix_s: None,
        note: String::new(),
    };
    let stray = Item::new(
        "t",
        "p",
        ItemBody::Policy(PolicyBody {
            text: "permit (principal, action, resource);".to_owned(),
            file: String::new(),
        }),
    );
    let bad = SchemaBody { text: "entity user;\nentity user;".to_owned() };
    expect![[r#"
        service of service `s`: it occurs twice
        key `abc` of service `s`: `api client` is not an entity type
        key `abc` of service `s`: `sha256` has 64 hexadecimal digits in lower case
        policy `big` of service `s`: it has 1048714 bytes, at most 1048576; divide it
        schema of service `s`, line 1: error parsing schema: `user` is declared twice
        route `GET /{a}` of service `s`: `GET /{a}` and `GET /{b}` match the same requests; remove one of them
        policy `p` of service `t`: there is no service `t`; create it first
    "#]].assert_eq(&problems(&[
        service(),
        service(),
        Item::new("s", "", ItemBody::Key(key)),
        Item::new("s", "", ItemBody::Schema(bad)),
        Item::new("s", "", ItemBody::Route(Box::new(Route::new("GET", "/{a}")))),
        Item::new("s", "", ItemBody::Route(Box::new(Route::new("GET", "/{b}")))),
        policy(
            "big",
            &format!(
                "permit (principal, action, resource) when {{ \"{}\" == \"\" }};",
                "x".repeat(1 << 20)
            ),
        ),
        stray,
    ]));
}

#[test]
fn problems_lead_back_to_file_and_line() {
    let files: BTreeMap<String, String> = [
        ("service.toml", "name = \"s\""),
        ("schema.cedarschema", SCHEMA),
        ("p.cedar", "permit (principal, action, resource);\n\n// the second\npermit (principal, action, resource)\nwhen {\n  principal.levle > 3 };"),
        ("roles.toml", "[[role]]\nid = \"r\"\n\n[[role.grant]]\nactions = [\"write\"]\nresource = \"any\""),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    let bundle = bundle::parse(&files).unwrap();
    let shown: String = validate::world(&bundle.items)
        .iter()
        .map(|problem| {
            let place = problem.place(&bundle.places).unwrap();
            format!("{}:{}: {}\n", place.file, place.line, problem.message)
        })
        .collect();
    expect![[r#"
        p.cedar:6: attribute `levle` on entity type `user` not found; did you mean `level`?
        roles.toml:4: the schema has no action `Action::"write"`; it has `Action::"read"`
    "#]]
    .assert_eq(&shown);
}
