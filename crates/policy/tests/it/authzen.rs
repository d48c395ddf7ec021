//! AuthZEN 1.0: bodies, and the certification scenario's fixture through the engine.

use std::collections::BTreeMap;
use std::convert::Infallible;

use expect_test::{Expect, expect};
use keepgate_policy::authzen::{
    Batch, BatchResponse, Evaluation, MAX_EVALUATIONS, Response, authzen_type, cedar_type,
};
use keepgate_policy::uid::is_type_name;
use keepgate_policy::{Digest, Revision, Snapshot, World, bundle, validate};
use proptest::prelude::*;
use serde_json::{Value, json};

fn single(body: &str) -> Result<Evaluation, String> {
    Evaluation::parse(body.as_bytes()).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(body: &str, expected: Expect) {
    expected.assert_eq(&single(body).unwrap_err());
    // The batch endpoint takes the same body, and refuses the same.
    assert_eq!(Batch::parse(body.as_bytes()).unwrap_err().to_string(), single(body).unwrap_err());
}

const SUBJECT: &str = r#""subject":{"type":"user","id":"a"}"#;
const ACTION: &str = r#""action":{"name":"read"}"#;
const RESOURCE: &str = r#""resource":{"type":"record","id":"r"}"#;

#[test]
fn bad_bodies_are_refused_by_name() {
    let with = |members: &[&str]| format!("{{{}}}", members.join(","));
    refused("", expect!["the body is not JSON: EOF while parsing a value at line 1 column 0"]);
    refused("{", expect!["the body is not JSON: EOF while parsing an object at line 1 column 1"]);
    refused("[]", expect!["the body is not a JSON object"]);
    refused(&with(&[ACTION, RESOURCE]), expect!["`subject` is missing"]);
    refused(&with(&[SUBJECT, RESOURCE]), expect!["`action` is missing"]);
    refused(&with(&[SUBJECT, ACTION]), expect!["`resource` is missing"]);
    refused(
        &with(&[r#""subject":{"id":"a"}"#, ACTION, RESOURCE]),
        expect!["`subject.type` is missing"],
    );
    refused(
        &with(&[r#""subject":{"type":"user"}"#, ACTION, RESOURCE]),
        expect!["`subject.id` is missing"],
    );
    refused(
        &with(&[r#""subject":{"type":"user","id":""}"#, ACTION, RESOURCE]),
        expect!["`subject.id` is not a string that is not empty"],
    );
    refused(&with(&[r#""subject":"a""#, ACTION, RESOURCE]), expect!["`subject` is not an object"]);
    refused(&with(&[SUBJECT, r#""action":{}"#, RESOURCE]), expect!["`action.name` is missing"]);
    refused(
        &with(&[SUBJECT, r#""action":{"name":123}"#, RESOURCE]),
        expect!["`action.name` is not a string that is not empty"],
    );
    refused(
        &with(&[SUBJECT, ACTION, r#""resource":{"id":"r"}"#]),
        expect!["`resource.type` is missing"],
    );
    refused(
        &with(&[SUBJECT, ACTION, r#""resource":{"type":"record","id":7}"#]),
        expect!["`resource.id` is not a string that is not empty"],
    );
    refused(
        &with(&[SUBJECT, ACTION, r#""resource":{"type":"record","id":"r","properties":[]}"#]),
        expect!["`resource.properties` is not an object"],
    );
    refused(
        &with(&[SUBJECT, ACTION, RESOURCE, r#""context":null"#]),
        expect!["`context` is not an object"],
    );
    refused(
        &with(&[SUBJECT, ACTION, RESOURCE, SUBJECT]),
        expect!["the body is not JSON: the member `subject` occurs twice at line 1 column 134"],
    );
    refused(
        &with(&[SUBJECT, ACTION, RESOURCE, r#""context":{"a":{"b":1,"\u0062":2}}"#]),
        expect!["the body is not JSON: the member `b` occurs twice at line 1 column 132"],
    );
    refused(
        &with(&[SUBJECT, ACTION, RESOURCE, r#""x":"\ud800""#]),
        expect!["the body is not JSON: unexpected end of hex escape at line 1 column 111"],
    );
    assert!(single(&format!("{{\"a\":{}}}", "[".repeat(100_000))).is_err());

    let batch = |body: &str| Batch::parse(body.as_bytes()).unwrap_err().to_string();
    let many = |more: &str| format!("{{{SUBJECT},{ACTION},{RESOURCE},{more}}}");
    expect!["`evaluations` is not an array"].assert_eq(&batch(&many(r#""evaluations":{}"#)));
    expect!["`evaluations` is not an array"].assert_eq(&batch(&many(r#""evaluations":null"#)));
    expect!["`options` is not an object"]
        .assert_eq(&batch(&many(r#""evaluations":[{}],"options":7"#)));
    expect!["expected `execute_all`, `deny_on_first_deny` or `permit_on_first_permit` in `options.evaluations_semantic`, got `all`"]
        .assert_eq(&batch(&many(r#""evaluations":[{}],"options":{"evaluations_semantic":"all"}"#)));
    expect!["`subject` is not an object"].assert_eq(&batch(r#"{"subject":7,"evaluations":[{}]}"#));
    let items = vec!["{}"; MAX_EVALUATIONS + 1].join(",");
    expect!["`evaluations` has 5001 items, at most 5000 are answered"]
        .assert_eq(&batch(&many(&format!("\"evaluations\":[{items}]"))));
}

#[test]
fn what_is_not_known_is_ignored() {
    let body = format!(
        "{{{SUBJECT},{ACTION},{RESOURCE},\"foo\":\"bar\",\"future\":{{\"nested\":[null]}},\
         \"evaluations\":[],\"options\":{{\"other\":1}}}}"
    );
    let read = single(&body).unwrap();
    assert_eq!(Batch::parse(body.as_bytes()).unwrap(), Batch::One(Box::new(read.clone())));
    expect![[r#"user::"a" Action::"read" record::"r""#]]
        .assert_eq(&format!("{} {} {}", read.principal, read.action, read.resource));
}

#[test]
fn actions_may_be_whole_identifiers_of_actions_only() {
    let name = |text: &str| {
        let body = json!({"subject": {"type": "user-account", "id": "a"},
            "action": {"name": text}, "resource": {"type": "if", "id": "r"}});
        let read = single(&body.to_string()).unwrap();
        format!("{} {} {}", read.principal, read.action, read.resource)
    };
    expect![[r#"x__user_2Daccount::"a" Action::"read" x__if::"r""#]].assert_eq(&name("read"));
    expect![[r#"x__user_2Daccount::"a" shop::Action::"read" x__if::"r""#]]
        .assert_eq(&name("shop::Action::\"read\""));
    expect![[r#"x__user_2Daccount::"a" Action::"user::\"root\"" x__if::"r""#]]
        .assert_eq(&name("user::\"root\""));
}

proptest! {
    #[test]
    fn escaped_types_are_types_and_come_back(kind in prop_oneof![
        any::<String>(), "[a-z_:-]{0,8}", "x__[A-F0-9_a-z]{0,6}",
    ]) {
        let cedar = cedar_type(&kind).into_owned();
        prop_assert!(is_type_name(&cedar), "{}", cedar);
        prop_assert_eq!(authzen_type(&cedar), kind.as_str());
        if is_type_name(&kind) && !kind.starts_with("x__") {
            prop_assert_eq!(cedar, kind);
        }
    }

    #[test]
    fn noise_never_panics(noise in "[\\[\\]{}\",:a-z0-9 ]{0,80}") {
        let _ = Evaluation::parse(noise.as_bytes());
        let _ = Batch::parse(noise.as_bytes());
    }
}

const POLICIES: &str = r#"
permit (principal in role::"reader", action == Action::"read", resource is record);
permit (principal in role::"writer", action == Action::"write", resource is record)
unless { resource has status && resource.status == "archived" };
permit (principal is user, action == Action::"write", resource is record)
when { principal has role && principal.role == "admin" && resource has status && resource.status == "archived" };
permit (principal in role::"writer", action == Action::"delete", resource is record)
when { context has action && context.action has soft && context.action.soft };
"#;

const ROLES: &str = r#"
[[role]]
id = "reader"
members = ['user::"alice"', 'user::"bob"']
[[role]]
id = "writer"
members = ['user::"alice"']
"#;

const ENTITIES: &str = r#"[
  {"uid": {"type": "user", "id": "bob"}, "attrs": {"role": "admin"}},
  {"uid": {"type": "record", "id": "record-1"}, "attrs": {"status": "active"}},
  {"uid": {"type": "record", "id": "record-2"}, "attrs": {"status": "archived"}}
]"#;

const SCHEMA: &str = r#"
entity role;
entity user in [role] { role?: String };
entity record { status?: String };
action read, write appliesTo { principal: [user], resource: [record] };
action delete appliesTo { principal: [user], resource: [record], context: { action?: { soft?: Bool } } };
"#;

/// The fixture of the certification scenario (section 5), as an operator would apply it.
fn fixture(with_schema: bool) -> World {
    let mut files: BTreeMap<String, String> = [
        ("service.toml", "name = \"records\""),
        ("records.cedar", POLICIES),
        ("roles.toml", ROLES),
        ("entities.json", ENTITIES),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    if with_schema {
        files.insert("schema.cedarschema".to_owned(), SCHEMA.to_owned());
    }
    let bundle = bundle::parse(&files).unwrap();
    assert_eq!(validate::world(&bundle.items), []);
    World::from_snapshot(&Snapshot {
        revision: Revision(1),
        digest: Digest::of_all(&bundle.items),
        items: bundle.items,
    })
    .unwrap()
}

fn decide(world: &World, evaluation: &Evaluation) -> Response {
    match world.decide(&evaluation.query("records")) {
        Ok(decision) => Response::decided(&decision),
        Err(error) => Response::refused(&error),
    }
}

fn answer(world: &World, body: &Value) -> Value {
    let batch = Batch::parse(body.to_string().as_bytes()).unwrap();
    let Ok(answer) = batch.answer(|item| Ok::<_, Infallible>(decide(world, item)));
    serde_json::to_value(answer).unwrap()
}

fn question(subject: Value, action: Value, resource: Value) -> Value {
    json!({"subject": subject, "action": action, "resource": resource})
}

fn user(id: &str) -> Value {
    json!({"type": "user", "id": id})
}

fn act(name: &str) -> Value {
    json!({"name": name})
}

fn record(id: &str) -> Value {
    json!({"type": "record", "id": id})
}

fn with(mut entity: Value, properties: Value) -> Value {
    entity["properties"] = properties;
    entity
}

fn decisions(answer: &Value) -> Vec<bool> {
    let list = answer["evaluations"].as_array().unwrap();
    list.iter().map(|item| item["decision"].as_bool().unwrap()).collect()
}

#[test]
fn the_certification_fixture_decides_as_it_must() {
    for with_schema in [false, true] {
        let world = fixture(with_schema);
        let archived = || with(record("record-2"), json!({"status": "archived"}));
        let active = || with(record("record-1"), json!({"status": "active"}));
        let admin = || with(user("bob"), json!({"role": "admin"}));
        let soft = |soft: bool| with(act("delete"), json!({"soft": soft}));
        let table = [
            (question(user("alice"), act("read"), record("record-1")), true),
            (question(user("alice"), act("write"), record("record-1")), true),
            (question(user("bob"), act("read"), record("record-1")), true),
            (question(user("bob"), act("write"), record("record-1")), false),
            (question(user("alice"), act("write"), archived()), false),
            (question(admin(), act("write"), archived()), true),
            (question(user("alice"), soft(true), record("record-1")), true),
            (question(user("alice"), soft(false), record("record-1")), false),
            // Unknown things are denied, they are no errors.
            (question(json!({"type": "space ship", "id": "x"}), act("read"), record("r")), false),
            (question(user("nobody"), act("fly"), json!({"type": "if", "id": "r"})), false),
        ];
        for (body, expected) in &table {
            let said = answer(&world, body);
            assert_eq!(said["decision"], json!(expected), "{body} => {said}");
        }

        // Properties and context beyond what policies read change nothing.
        let mut more = question(
            with(user("alice"), json!({"department": "Sales", "role": "manager"})),
            with(act("read"), json!({"method": "GET"})),
            with(record("record-1"), json!({"status": "active", "owner": "bob"})),
        );
        more["context"] = json!({"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"});
        assert_eq!(answer(&world, &more)["decision"], json!(true), "{}", answer(&world, &more));

        let batch = |body: Value| decisions(&answer(&world, &body));
        let defaults = json!({"subject": user("bob"), "resource": record("record-1"),
            "evaluations": [{"action": act("read")}, {"action": act("write")}]});
        assert_eq!(batch(defaults), [true, false]);
        let resources = json!({"subject": user("alice"), "action": act("write"),
            "evaluations": [{"resource": active()}, {"resource": archived()}]});
        assert_eq!(batch(resources), [true, false]);
        let subjects = json!({"action": act("write"), "resource": archived(),
            "evaluations": [{"subject": user("alice")}, {"subject": admin()}]});
        assert_eq!(batch(subjects), [false, true]);
        let inherited = json!({"subject": user("alice"), "action": act("write"),
            "resource": active(), "evaluations": [{}, {"resource": archived()}]});
        assert_eq!(batch(inherited), [true, false]);
    }
}

#[test]
fn items_share_nothing_but_the_defaults() {
    let world = fixture(true);
    // The same record with other properties, there and back: no item sees its neighbor's.
    let at =
        |status: &str| json!({"resource": with(record("record-1"), json!({"status": status}))});
    let plain = json!({"resource": record("record-1")});
    let body = json!({"subject": user("alice"), "action": act("write"),
        "evaluations": [at("archived"), plain, at("active"), at("archived"), plain]});
    assert_eq!(decisions(&answer(&world, &body)), [false, true, true, false, true]);
    // An item's entity replaces the default whole: the default's properties do not shine through.
    let body = json!({"subject": user("alice"), "action": act("write"),
        "resource": with(record("record-1"), json!({"status": "archived"})),
        "evaluations": [{}, plain]});
    assert_eq!(decisions(&answer(&world, &body)), [false, true]);
}

#[test]
fn semantics_stop_where_they_should() {
    let world = fixture(false);
    let mut body = json!({"subject": user("alice"), "action": act("write"), "evaluations": [
        {"resource": record("record-1")}, {"resource": record("record-2")},
        {}, {"resource": 7}, 7, {"resource": record("record-1")},
    ]});
    expect![[r#"
        {
          "evaluations": [
            {
              "decision": true
            },
            {
              "decision": false,
              "context": {
                "reason": "no_permit"
              }
            },
            {
              "decision": false,
              "context": {
                "error": {
                  "status": 400,
                  "message": "`resource` is missing"
                }
              }
            },
            {
              "decision": false,
              "context": {
                "error": {
                  "status": 400,
                  "message": "`resource` is not an object"
                }
              }
            },
            {
              "decision": false,
              "context": {
                "error": {
                  "status": 400,
                  "message": "`evaluations[]` is not an object"
                }
              }
            },
            {
              "decision": true
            }
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&answer(&world, &body)).unwrap());
    let of = |body: &Value| decisions(&answer(&world, body));
    body["options"] = json!({"evaluations_semantic": "execute_all"});
    assert_eq!(of(&body), [true, false, false, false, false, true]);
    body["options"] = json!({"evaluations_semantic": "deny_on_first_deny"});
    assert_eq!(of(&body), [true, false]);
    body["options"] = json!({"evaluations_semantic": "permit_on_first_permit"});
    assert_eq!(of(&body), [true]);
    body["evaluations"] =
        json!([{}, {"resource": record("record-2")}, {"resource": record("record-1")}, {}]);
    assert_eq!(of(&body), [false, false, true]);
    // A failure is a denial for the first semantic too.
    body["options"] = json!({"evaluations_semantic": "deny_on_first_deny"});
    assert_eq!(of(&body), [false]);
}

#[test]
fn a_batch_is_never_answered_in_part() {
    let body = json!({"subject": user("a"), "action": act("b"), "resource": record("c"),
        "evaluations": [{}, {}, {}]});
    let batch = Batch::parse(body.to_string().as_bytes()).unwrap();
    let mut asked = 0;
    let answer: Result<BatchResponse, &str> = batch.answer(|_| {
        asked += 1;
        if asked == 2 { Err("no replica") } else { Ok(Response::error(200, "fine")) }
    });
    assert_eq!(answer, Err("no replica"));
    assert_eq!(asked, 2);
}

#[test]
fn escapes_of_cedar_in_a_request_are_refused() {
    let world = fixture(false);
    let body = question(
        with(user("bob"), json!({"role": {"__extn": {"fn": "ip", "arg": "::1"}}})),
        act("write"),
        record("record-2"),
    );
    expect![[r#"{"decision":false,"context":{"error":{"status":400,"message":"`principal.properties.role`: `__extn` is not allowed in a request; send the value as a text, such as \"10.0.0.1\", \"1.50\", \"2030-01-31T12:00:00Z\" or \"1h30m\", and declare the type `ipaddr`, `decimal`, `datetime` or `duration` in the service's schema; without a schema, a policy converts it: `ip(context.address)`"}}}"#]].assert_eq(&answer(&world, &body).to_string());
}
