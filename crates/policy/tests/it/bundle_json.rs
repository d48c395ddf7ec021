//! Directories of Cedar files as people have them: JSON schemas and policies, linked templates, other
//! directories, byte order marks; and all that is wrong with them at once.

use std::collections::BTreeMap;

use cedar_policy::{Policy, PolicySet, Schema, SchemaFragment};
use expect_test::expect;
use keepgate_policy::bundle::{self, Bundle, MAX_DIRECTORIES, Packed, Packer, is_entities_file};
use keepgate_policy::{Encoded, Item, ItemBody, Kind, MAX_TOKENS, validate};
use serde_json::{Value, json};

use crate::random::{Items, Rng, Shape};

type Files = BTreeMap<String, String>;

fn files(list: &[(&str, &str)]) -> Files {
    let mut files: Files = [("service.toml".to_owned(), "name = \"s\"\n".to_owned())].into();
    files.extend(list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    files
}

#[track_caller]
fn parsed(list: &[(&str, &str)]) -> Bundle {
    let bundle = bundle::parse(&files(list)).unwrap_or_else(|errors| panic!("{errors:#?}"));
    // What an export writes is the same again.
    let written = bundle::render("s", &bundle.items);
    assert_eq!(bundle::parse(&written).unwrap().items, bundle.items, "{written:#?}");
    bundle
}

#[track_caller]
fn errors(list: &[(&str, &str)]) -> Vec<String> {
    let errors = bundle::parse(&files(list)).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

fn keys(bundle: &Bundle) -> Vec<String> {
    bundle.items.iter().map(|item| format!("{} {}", item.key.kind, item.key.id)).collect()
}

fn body_text(bundle: &Bundle, kind: Kind, id: &str) -> String {
    let item = bundle.items.iter().find(|item| item.key.kind == kind && item.key.id == id).unwrap();
    match &item.body {
        ItemBody::Policy(body) | ItemBody::Template(body) => body.text.clone(),
        ItemBody::Schema(body) => body.text.clone(),
        other => panic!("{other:?}"),
    }
}

const PERMIT: &str = "permit (principal, action, resource);";

const SCHEMA: &str = r#"{"Shop": {
  "commonTypes": {"Name": {"type": "Record", "attributes": {"first": {"type": "String"}, "n": {"type": "Long", "required": false}}}},
  "entityTypes": {
    "User": {"memberOfTypes": ["Group"], "shape": {"type": "Record", "attributes": {
      "name": {"type": "Name"}, "ip": {"type": "Extension", "name": "ipaddr"}, "boss": {"type": "Entity", "name": "User"}}},
      "tags": {"type": "Set", "element": {"type": "String"}}},
    "Group": {}, "Color": {"enum": ["red", "green"]}},
  "actions": {"a b": {"memberOf": [{"id": "all"}], "appliesTo": {"principalTypes": ["User"], "resourceTypes": ["Group"],
      "context": {"type": "Record", "attributes": {"late": {"type": "Boolean"}}}}}, "all": {}}}}"#;

#[test]
fn a_schema_in_json_says_the_same_as_text() {
    for name in ["schema.cedarschema.json", "app.cedarschema", "sub/any.json"] {
        let bundle = parsed(&[(name, SCHEMA)]);
        assert_eq!(validate::world(&bundle.items), []);
        let text = body_text(&bundle, Kind::Schema, "");
        let of_text =
            SchemaFragment::from_cedarschema_str(&text).unwrap().0.to_json_value().unwrap();
        let of_json = SchemaFragment::from_json_str(SCHEMA).unwrap();
        // Both as Cedar text: the one form that has no choices.
        let again = SchemaFragment::from_json_value(of_text).unwrap();
        assert_eq!(again.to_cedarschema().unwrap(), of_json.to_cedarschema().unwrap());
        assert!(text.parse::<Schema>().is_ok());
    }
    let wrong = errors(&[(
        "s.cedarschema.json",
        "{\"\": {\"entityTypes\": {},\n\"actions\": {}, \"actions\": {}}}",
    )]);
    expect!["s.cedarschema.json:2: the member `actions` occurs twice"].assert_eq(&wrong.join("\n"));
    let wrong = errors(&[(
        "s.cedarschema.json",
        "{\"\": {\"actions\": {},\n\"entityTypes\": {\"A\":\n{\"memberOfTypes\": [\"Nope\"]}}}}",
    )]);
    assert!(wrong.len() == 1 && wrong[0].starts_with("s.cedarschema.json:3: "), "{wrong:?}");
    let wrong = errors(&[("a.cedarschema", "entity A;"), ("b/b.cedarschema", "entity B;")]);
    expect!["b/b.cedarschema: `a.cedarschema` has the schema already; keep one of them"]
        .assert_eq(&wrong.join("\n"));
}

#[test]
fn policies_in_json_are_stored_as_text() {
    let policy = |text: &str| Policy::parse(None, text).unwrap().to_json().unwrap();
    let one = policy(
        "@id(\"named\")\nforbid (principal in G::\"g\", action, resource) unless { context.a like \"*\\*\" };",
    );
    let two = policy(
        "permit (principal, action in [Action::\"a\"], resource is R in P::\"p\") when { [1, 2].contains(3) && {a: decimal(\"1.5\")}.a.lessThan(decimal(\"2.0\")) };",
    );
    let template = json!({"effect": "permit", "principal": {"op": "==", "slot": "?principal"},
        "action": {"op": "All"}, "resource": {"op": "in", "slot": "?resource"}, "conditions": []});
    let set = json!({
        "staticPolicies": {"policy0": one, "second": two},
        "templates": {"t": template},
        "templateLinks": [{"templateId": "t", "newId": "l", "values": {
            "?principal": {"__entity": {"type": "User", "id": "a"}}, "?resource": {"type": "R", "id": "b"}}}],
    });
    let bundle =
        parsed(&[("set.cedar.json", &set.to_string()), ("more/one.json", &two.to_string())]);
    expect![[r#"
        service 
        policy more/one
        policy named
        policy second
        template t
        link l"#]]
    .assert_eq(&keys(&bundle).join("\n"));
    assert_eq!(validate::world(&bundle.items), []);
    for (id, wanted) in [("named", &one), ("second", &two), ("more/one", &two)] {
        let text = body_text(&bundle, Kind::Policy, id);
        assert_eq!(&Policy::parse(None, text).unwrap().to_json().unwrap(), wanted);
    }

    let wrong = errors(&[(
        "set.json",
        "{\"templates\": {}, \"staticPolicies\": {\n\"a\": {\"effect\": \"permit\"},\n\
         \"b\": {\"effect\": \"allow\"}},\n\"templateLinks\": [\n{\"newId\": 1}]}",
    )]);
    let places: Vec<&str> = wrong.iter().map(|said| &said[.."set.json:N:".len()]).collect();
    assert_eq!(places, ["set.json:2:", "set.json:3:", "set.json:5:"], "{wrong:?}");
    let wrong = errors(&[("a.cedar.json", "{\"effect\": \"permit\",\n}")]);
    assert!(wrong.len() == 1 && wrong[0].starts_with("a.cedar.json:2: "), "{wrong:?}");
}

/// Random policies by way of JSON: the text that comes out means the same.
#[test]
fn policies_by_way_of_json_mean_the_same() {
    let mut seen = 0;
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let shape = Shape::random(rng);
        for item in Items::random(&shape, rng).to_vec() {
            let ItemBody::Policy(body) = &item.body else { continue };
            let policy = Policy::parse(None, &body.text).unwrap();
            let json = policy.to_json().unwrap();
            let Ok(bundle) = bundle::parse(&files(&[("p.cedar.json", &json.to_string())])) else {
                // Cedar reads no JSON that nests deeper than 128 levels.
                continue;
            };
            let item = bundle.items.iter().find(|item| item.key.kind == Kind::Policy).unwrap();
            let text = body_text(&bundle, Kind::Policy, &item.key.id);
            assert_eq!(Policy::parse(None, &text).unwrap().to_json().unwrap(), json, "{text}");
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}

#[test]
fn links_of_the_command_line_are_links() {
    let template = "permit (principal == ?principal, action, resource in ?resource);";
    let links = |template: &str| {
        json!([{"template_id": template, "link_id": "l", "args":
            {"?principal": "User::\"a\"", "?resource": "Photo::\"b\""}}])
        .to_string()
    };
    // By its id; by its place where the policies are in one file; whatever the file is called.
    let named = format!("{PERMIT}\n@id(\"t\")\n{template}");
    let unnamed = format!("{PERMIT}\n{template}");
    for (name, text, id) in [
        ("linked", &named, "t"),
        ("x/links.json", &unnamed, "policy1"),
        ("a.cedartemplatelinks.json", &named, "t"),
    ] {
        let bundle = parsed(&[("policies.cedar", text), (name, &links(id))]);
        assert_eq!(validate::world(&bundle.items), [], "{name}");
        assert!(keys(&bundle).contains(&"link l".to_owned()), "{name}");
    }
    let wrong = errors(&[(
        "linked",
        "[\n{\"template_id\": \"t\", \"link_id\": \"l\", \"args\": {\"?who\": \"a\"}},\n\
         {\"template_id\": \"t\", \"link_id\": \"m\", \"args\": {\"?principal\": \"bob\"}},\n\
         {\"template_id\": \"t\"}]",
    )]);
    expect![[r#"
        linked:2: unknown slot `?who`; Cedar has `?principal` and `?resource`
        linked:3: `bob` is not a Cedar identifier; write it as `kind::"id"`
        linked:4: missing field `link_id`"#]]
    .assert_eq(&wrong.join("\n"));
}

#[test]
fn directories_and_byte_order_marks() {
    let mark = |text: &str| format!("\u{feff}{text}");
    let two = format!("{PERMIT}\n{PERMIT}");
    let entities =
        mark("[{\"uid\": {\"type\": \"u\", \"id\": \"a\"}, \"attrs\": {}, \"parents\": []}]");
    let bundle = parsed(&[
        ("service.toml", &mark("name = \"s\"\n")),
        ("a/b/two.cedar", &mark(&two)),
        ("two.cedar", &two),
        ("data/app.cedarentities.json", &entities),
        ("a/app.cedarschema", &mark("entity u;")),
        ("roles.toml", &mark("[[role]]\nid = \"r\"\n")),
        ("a/.hidden/x", "?"),
        ("NOTES", "words"),
        ("doc/README.txt", "words"),
        ("a/LICENSE", "words"),
    ]);
    expect![[r#"
        role role::"r"
        service 
        schema 
        entity u::"a"
        policy a/b/two
        policy a/b/two#2
        policy two
        policy two#2"#]]
    .assert_eq(&keys(&bundle).join("\n"));
    assert_eq!(body_text(&bundle, Kind::Schema, ""), "entity u;");

    let deep = |count: usize| format!("{}x.cedar", "d/".repeat(count));
    assert_eq!(keys(&parsed(&[(&deep(MAX_DIRECTORIES), PERMIT)])).len(), 2);
    for (name, text) in [
        (deep(MAX_DIRECTORIES + 1).as_str(), "expected a path of at most 16 directories"),
        ("../x.cedar", "without `.` and `..`"),
        ("/x.cedar", "expected a path"),
        ("a//x.cedar", "expected a path"),
        ("a\\x.cedar", "expected a path"),
        ("a/roles.toml", "belongs to the top"),
        ("a/service.toml", "belongs to the top"),
        ("a/x.txt", "not a file of a service"),
        ("a/x.json", "not a file of a service"),
        ("word", "not a file of a service"),
    ] {
        let wrong = errors(&[(name, "{\"x\": 1}")]);
        assert!(wrong.len() == 1 && wrong[0].contains(text), "{name}: {wrong:?}");
    }
    for (name, is) in [
        ("entities.json", true),
        ("a/entities.json", true),
        ("x.cedarentities.json", true),
        ("../entities.json", false),
        (".a/entities.json", false),
        ("entities", false),
    ] {
        assert_eq!(is_entities_file(name), is, "{name}");
    }
}

fn packed(list: &[(&str, &str)]) -> Packed {
    let mut packer = Packer::new("s");
    for (name, text) in files(list) {
        if is_entities_file(&name) {
            // A byte at a time: a mark may be cut anywhere.
            let bytes = text.as_bytes().chunks(1);
            let mut text = bytes
                .fold(Box::new(std::io::empty()) as Box<dyn std::io::Read>, |all, more| {
                    Box::new(std::io::Read::chain(all, more))
                });
            packer.entities(&name, &mut text, |_| true).unwrap();
        } else {
            packer.file(name, text);
        }
    }
    packer.finish()
}

/// What is wrong with one file hides nothing of what is wrong with the others.
#[test]
fn all_errors_of_all_files_come_at_once() {
    let packed = packed(&[
        (
            "a.cedar",
            "permit (principal action);\n\npermit (principal, action, resource) when { nope( };\n",
        ),
        ("b.cedar", "permit (principal, action, resource)\nwhen { principal.nope == 1 };"),
        ("roles.toml", "[[role]]\nid = 3\n"),
        ("linked", "[{\"template_id\": \"lost\", \"link_id\": \"l\"}]"),
        (
            "entities.json",
            "\u{feff}[\n{\"uid\": {\"type\": \"Nope\", \"id\": \"a\"}},\n{\"uid\": 1}]",
        ),
        ("s.cedarschema", "entity U;\naction r appliesTo { principal: U, resource: U };"),
        ("ask.json", "{\"principal\": \"U::\\\"a\\\"\", \"action\": \"r\", \"resource\": \"b\"}"),
    ]);
    assert_eq!(packed.ignored(), ["ask.json"]);
    let errors: Vec<String> =
        packed.errors().iter().map(|e| format!("{}:{}", e.file, e.line.unwrap_or(0))).collect();
    for place in ["a.cedar:1", "a.cedar:3", "roles.toml:2", "entities.json:3"] {
        assert!(errors.iter().any(|error| error == place), "{place}: {errors:?}");
    }
    let items: Vec<&Encoded> = packed.items().map(|item| &**item).collect();
    let review = validate::review(items.into_iter(), true, || true);
    let problems: Vec<String> = review.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("entity `Nope::\"a\"`"), "{problems:?}");
    assert!(problems[1].contains("policy `b`") && problems[1].contains("line 2"), "{problems:?}");
}

/// At the bound on values JSON is read; beyond it, it is refused before Cedar sees it.
#[test]
fn json_has_bounds() {
    // 3 members and their list count too.
    let schema = |count: usize| {
        let names: Vec<Value> = (0..count).map(|_| json!("U")).collect();
        json!({"": {"entityTypes": {"U": {"memberOfTypes": names}}, "actions": {}}}).to_string()
    };
    let said = |count: usize| match bundle::parse(&files(&[("s.cedarschema.json", &schema(count))]))
    {
        Ok(_) => String::new(),
        Err(errors) => errors[0].message.clone(),
    };
    assert!(!said(MAX_TOKENS - 6).contains("JSON values"), "{}", said(MAX_TOKENS - 6));
    assert!(said(MAX_TOKENS).contains("more than 250000 JSON values"), "{}", said(MAX_TOKENS));
    let nested = |depth: usize| {
        let (open, close) = ("{\"!\":{\"arg\":".repeat(depth), "}}".repeat(depth));
        format!(
            "{{\"effect\":\"permit\",\"principal\":{{\"op\":\"All\"}},\"action\":{{\"op\":\"All\"}},\"resource\":\
             {{\"op\":\"All\"}},\"conditions\":[{{\"kind\":\"when\",\"body\":{open}{{\"Value\":true}}{close}}}]}}"
        )
    };
    assert!(bundle::parse(&files(&[("p.cedar.json", &nested(20))])).is_ok());
    for depth in [70, 100_000] {
        let wrong = errors(&[("p.cedar.json", &nested(depth))]);
        assert!(wrong.len() == 1 && wrong[0].contains("recursion limit"), "{wrong:?}");
    }
}

/// A policy set of Cedar's own making comes in as it is.
#[test]
fn a_set_that_cedar_writes_is_taken() {
    let text = format!(
        "{PERMIT}\nforbid (principal == ?principal, action, resource) when {{ context.x }};"
    );
    let set: PolicySet = text.parse().unwrap();
    let json = set.to_json().unwrap().to_string();
    let bundle = parsed(&[("policies.json", &json)]);
    assert_eq!(keys(&bundle), ["service ", "policy policy0", "template policy1"]);
    let _: Vec<Item> = bundle.items;
}
