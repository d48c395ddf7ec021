//! The files of a directory to and from items.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use keepgate_policy::bundle::{self, Bundle, is_in_files};
use keepgate_policy::limits::Written;
use keepgate_policy::model::{
    EntityBody, GrantBody, LinkBody, MemberBody, PolicyBody, RoleBody, SchemaBody,
};
use keepgate_policy::route::{ResourceRule, Route};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Item, ItemBody, Kind, Uid, validate};
use proptest::prelude::*;
use serde_json::json;

type Files = BTreeMap<String, String>;

/// The fenced blocks of docs/files.md that name a file.
pub(crate) fn documented() -> Files {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/files.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut files = Files::new();
    let mut blocks = text.split("```").skip(1).step_by(2);
    for block in &mut blocks {
        let (info, body) = block.split_once('\n').unwrap();
        let (_, file) = info.split_once(' ').expect("every block names its file");
        assert!(files.insert(file.to_owned(), body.to_owned()).is_none(), "{file} twice");
    }
    files
}

fn files(list: &[(&str, &str)]) -> Files {
    let mut files: Files = [("service.toml".to_owned(), "name = \"s\"\n".to_owned())].into();
    files.extend(list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    files
}

#[track_caller]
fn parsed(files: &Files) -> Bundle {
    bundle::parse(files).unwrap_or_else(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", lines.join("\n"))
    })
}

#[test]
fn ends_are_times_of_toml_or_texts_and_come_back() {
    let text = "[[role]]\nid = \"a\"\nmembers = [\n'user::\"x\"',\n\
        {member = 'user::\"y\"', until = 2030-01-31T18:00:00Z},\n]\n\
        [[role.grant]]\nactions = \"any\"\nresource = \"any\"\nuntil = \"2030-01-31 19:00+01:00\"\n\
        [[membership]]\nmember = 'user::\"z\"'\nrole = \"b\"\nuntil = 2030-01-31 18:00:00Z\n\
        [[grant]]\nprincipal = \"b\"\nactions = [\"GET\"]\nresource = \"any\"\nuntil = \"1970-01-01T00:00:01Z\"\n";
    let items = parsed(&files(&[("roles.toml", text)])).items;
    let ends: Vec<Option<u64>> = items
        .iter()
        .filter_map(|item| match &item.body {
            ItemBody::Member(body) => Some(body.until_unix_s),
            ItemBody::Grant(body) => Some(body.until_unix_s),
            _ => None,
        })
        .collect();
    let at = Some(1_896_112_800);
    assert_eq!(ends, [None, at, at, at, Some(1)]);
    assert_eq!(parsed(&bundle::render("s", &items)).items, items);
    for (table, message) in [
        (
            "until = 2030-01-31T18:00:00",
            "roles.toml:1: `until`: `2030-01-31T18:00:00` is not a time",
        ),
        ("until = \"soon\"", "roles.toml:1: `until`: `soon` is not a time"),
        ("until = 7", "expected a time such as 2030-01-31T18:00:00Z"),
    ] {
        let text = format!(
            "[[grant]]\nprincipal = \"b\"\nactions = \"any\"\nresource = \"any\"\n{table}\n"
        );
        let errors = bundle::parse(&files(&[("roles.toml", &text)])).unwrap_err();
        let said = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(said.contains(message), "{said}");
    }
    for member in [
        "{member = 'user::\"y\"'}",
        "{member = 'user::\"y\"', until = 2030-01-31T18:00:00Z, x = 1}",
    ] {
        let text = format!("[[role]]\nid = \"a\"\nmembers = [{member}]\n");
        let errors = bundle::parse(&files(&[("roles.toml", &text)])).unwrap_err();
        let said = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(said.contains("expected a uid, or `{ member = UID, until = TIME }`"), "{said}");
    }
}

#[test]
fn the_documented_directory_is_accepted() {
    let files = documented();
    let bundle = parsed(&files);
    let problems: Vec<String> =
        validate::world(&bundle.items).iter().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0]);
    let keys: Vec<String> = bundle.items.iter().map(|item| item.key.to_string()).collect();
    expect![[r#"
        role `role::"orders-admin"`
        role `role::"orders-viewer"`
        member `role::"orders-admin" in role::"orders-viewer"`
        member `role::"owners" in role::"orders-admin"`
        member `user::"alice" in role::"orders-admin"`
        member `user::"bob" in role::"orders-viewer"`
        member `user::"carl" in role::"intern"`
        service of service `orders`
        schema of service `orders`
        entity `order::"17"` of service `orders`
        entity `user::"bob"` of service `orders`
        policy `no-deletes-for-interns` of service `orders`
        policy `owners` of service `orders`
        template `viewer-of` of service `orders`
        link `dora-sees-reports` of service `orders`
        grant `orders-admin: any on route::"/orders"` of service `orders`
        grant `user::"carl": GET on route::"/health"` of service `orders`
        grant `viewers-get-orders` of service `orders`
        route `* /admin{/*rest}` of service `orders`
        route `* /reports/{*rest}` of service `orders`
        route `DELETE /orders/{id}` of service `orders`
        route `GET /health` of service `orders`
        route `GET /orders` of service `orders`
        limit `orders` of service `orders`
        plan `bulk` of service `orders`"#]]
    .assert_eq(&keys.join("\n"));
    for kind in Kind::ALL {
        assert_eq!(bundle.items.iter().any(|item| item.key.kind == kind), is_in_files(kind));
    }

    // Every file that can be written is documented, and every documented one is written.
    let rendered = bundle::render("orders", &bundle.items);
    assert_eq!(rendered.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    assert_eq!(parsed(&rendered).items, bundle.items);
    expect![[r#"
        [[role]]
        id = "orders-admin"
        description = "May do anything to orders"
        members = ['role::"owners"', 'user::"alice"']

        [[role.grant]]
        actions = "any"
        resource = 'route::"/orders"'

        [[role]]
        id = "orders-viewer"
        members = ['role::"orders-admin"', 'user::"bob"']

        [[role.grant]]
        id = "viewers-get-orders"
        actions = ["GET"]
        resource = 'route::"/orders"'

        [[membership]]
        member = 'user::"carl"'
        role = "intern"

        [[grant]]
        principal = 'user::"carl"'
        actions = ["GET"]
        resource = 'route::"/health"'
    "#]]
    .assert_eq(&rendered["roles.toml"]);
    expect![[r#"
        [[rule]]
        burst = 50
        key = "principal"
        methods = ["GET"]
        name = "orders"
        rate = "100/min"
        route = "/orders/*"

        [plan.bulk]
        description = "for crawlers that asked"

        [[plan.bulk.rule]]
        key = "api_key"
        name = "bulk"
        rate = "1000/min"
    "#]]
    .assert_eq(&rendered["limits.toml"]);
    expect![[r#"
        // Owners see and delete their own orders.
        permit (principal is user, action in [Action::"GET", Action::"DELETE"], resource is order)
        when { resource.owner == principal };

        @id("no-deletes-for-interns")
        forbid (principal in role::"intern", action == Action::"DELETE", resource);
    "#]]
    .assert_eq(&rendered["owners.cedar"]);
}

#[test]
fn openapi_becomes_routes() {
    let openapi = "openapi: 3.1.0\npaths:\n  /a/{id}: { get: { x-keepgate-cost: 2 } }\n";
    let bundle = parsed(&files(&[("openapi.yaml", openapi)]));
    let rendered = bundle::render("s", &bundle.items);
    assert_eq!(rendered.keys().collect::<Vec<_>>(), ["routes.toml", "service.toml"]);
    assert_eq!(parsed(&rendered).items, bundle.items);
}

/// `routes.toml` beside a document: what it adds, what it takes the place of, and where each route
/// stands.
#[test]
fn routes_beside_a_document_add_and_override() {
    let openapi = "openapi: 3.1.0\nservers: [{ url: /v2 }]\npaths:\n  /a/{id}:\n    get: { x-keepgate-cost: 2 }\n    put: {}\n  /b:\n    get: {}\n";
    let own = r#"
[[route]]
method = "GET"
path = "/v2/a/{name}"
max_age = "5s"

[[route]]
method = "*"
path = "/v2/b"

[[route]]
method = "GET"
path = "/health"
anonymous = true
"#;
    let both = parsed(&files(&[("openapi.yaml", openapi), ("routes.toml", own)]));
    let mut lines = String::new();
    for (key, place) in &both.places {
        if key.kind == Kind::Route {
            lines.push_str(&format!("{}:{} {}\n", place.file, place.line, key.id));
        }
    }
    expect![[r#"
        routes.toml:7 * /v2/b
        routes.toml:11 GET /health
        routes.toml:2 GET /v2/a/{name}
        openapi.yaml:8 GET /v2/b
        openapi.yaml:6 PUT /v2/a/{id}
    "#]]
    .assert_eq(&lines);
    // The whole route is another.
    let body = |id: &str| {
        let item = both.items.iter().find(|item| item.key.id == id).unwrap();
        String::from_utf8(item.encode()).unwrap()
    };
    expect![[r#"{"max_age":"5s","method":"GET","path":"/v2/a/{name}"}"#]]
        .assert_eq(&body("GET /v2/a/{name}"));
    // An export of it says the same alone, and beside the document.
    let rendered = bundle::render("s", &both.items);
    assert_eq!(parsed(&rendered).items, both.items);
    let mut beside = rendered.clone();
    beside.insert("openapi.yaml".to_owned(), openapi.to_owned());
    assert_eq!(parsed(&beside).items, both.items);
    // What is wrong in either is told of both.
    refused(
        &[
            ("openapi.yaml", &openapi.replace("get: {}", "get: 7").replace("/a/", "/a/*/")),
            ("routes.toml", &own.replace("/v2/a/{name}", "/v2/{proxy+}").replace("/v2/b", "b")),
        ],
        expect![[r#"
            routes.toml:2: expected a path such as `/v2/{*proxy}`, found `/v2/{proxy+}`
            routes.toml:7: `b` is not a path template: it must start with `/`
            openapi.yaml:5: `/v2/a/*/{id}`: `*` takes several segments, so it must be the last one; write a parameter such as `{name}` for each segment
            openapi.yaml:6: `/v2/a/*/{id}`: `*` takes several segments, so it must be the last one; write a parameter such as `{name}` for each segment
            openapi.yaml:8: expected an operation, found a number"#]],
    );
}

#[track_caller]
fn refused(list: &[(&str, &str)], expected: Expect) {
    let errors = bundle::parse(&files(list)).unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn errors_name_file_and_line() {
    expect!["service.toml: the file is missing; it needs at least `name = \"..\"`"]
        .assert_eq(&bundle::parse(&Files::new()).unwrap_err()[0].to_string());
    refused(
        &[("service.toml", "name = \"s\"\n\ncolor = 1")],
        expect![
            "service.toml:3: unknown field `color`, expected one of `name`, `authzen`, `unmatched`, `hosts`, `paths`, `empty_segments`, `path_parameters`, `encoded_slash`, `keep_encoded_slash`, `paths_fold`, `keep_headers`, `max_age`, `help`, `limits`, `identify`, `answer_timeout`, `answer_idle`, `body_bytes`, `on_token_expiry`, `assertion`, `cors`, `callers_page`"
        ],
    );
    refused(
        &[("notes.txt", ""), ("sub/roles.toml", "")],
        expect![[r#"
        notes.txt: not a file of a service; known are service.toml, *.cedarschema, *.cedarschema.json, *.cedar, *.cedar.json, *entities.json, roles.toml, links.toml, routes.toml, openapi.json, openapi.yaml, limits.toml, and JSON that is a schema, policies, entities or linked templates in Cedar's format
        sub/roles.toml: this file belongs to the top of the directory; move it there"#]],
    );
    refused(
        &[(
            "p.cedar",
            "permit (principal, action, resource);\n\n// second\npermit (principal action);",
        )],
        expect!["p.cedar:4: unexpected token `action`"],
    );
    refused(
        &[("p.cedar", "permit (principal, action, resource)")],
        expect!["p.cedar:1: unexpected end of input"],
    );
    refused(
        &[
            ("a.cedar", "@id(\"x\")\npermit (principal, action, resource);"),
            ("x.cedar", "forbid (principal, action, resource);"),
        ],
        expect!["x.cedar:1: policy `x` is in a.cedar:1 already"],
    );
    refused(
        &[("p.cedar", "@id(\"\")\npermit (principal, action, resource);")],
        expect![[r#"p.cedar:1: `@id` is empty; write `@id("..")`"#]],
    );
    refused(
        &[("roles.toml", "[[role]]\nid = \"a\"\nmembers = [\n  'user::\"x\"',\n  'bob',\n]")],
        expect![[r#"roles.toml:5: `bob` is not a Cedar identifier; write it as `kind::"id"`"#]],
    );
    refused(
        &[("roles.toml", "[[role]]\nid = \"a\"\n[[role.grant]]\nresource = \"any\"\n")],
        expect!["roles.toml:3: missing field `actions`"],
    );
    refused(
        &[(
            "roles.toml",
            "[[role]]\nid = \"a\"\n[[role.grant]]\nactions = []\nresource = \"any\"\n",
        )],
        expect![[r#"roles.toml:3: `actions` is a list of at least one, or "any""#]],
    );
    refused(
        &[(
            "roles.toml",
            "[[grant]]\nprincipal = \"a\"\nactions = \"all\"\nresource = \"/orders\"\n",
        )],
        expect![[r#"roles.toml:1: `actions` is a list of at least one, or "any""#]],
    );
    refused(
        &[("roles.toml", "[[role]]\nid = \"a\"\n[[role]]\nid = 'role::\"a\"'\n")],
        expect![[r#"roles.toml:4: role `role::"a"` is in roles.toml:2 already"#]],
    );
    refused(
        &[("links.toml", "[[link]]\nid = \"a\"\ntemplate = \"t\"\nprincipal = \"bob\"\n")],
        expect![[r#"links.toml:1: `bob` is not a Cedar identifier; write it as `kind::"id"`"#]],
    );
    refused(
        &[(
            "routes.toml",
            "[[route]]\nmethod = \"get\"\npath = \"/a\"\n\n[[route]]\nmethod = \"GET\"\npath = \"b\"\n",
        )],
        expect![[r#"
            routes.toml:1: `get` is not a method; write it in capitals, or `*` for any
            routes.toml:5: `b` is not a path template: it must start with `/`"#]],
    );
    refused(
        &[(
            "routes.toml",
            "[[route]]\nmethod = \"GET\"\npath = \"/{a}\"\n\n[[route]]\nmethod = \"GET\"\npath = \"/{b}\"\n",
        )],
        expect![
            "routes.toml:5: `GET /{b}` and `GET /{a}` (line 1) match the same requests; remove one of them"
        ],
    );
    refused(
        &[("routes.toml", ""), ("openapi.json", "{}"), ("openapi.yaml", "")],
        expect![[r#"
            openapi.yaml: `openapi.json` has the routes already; keep one of them
            openapi.json:1: the document has no `openapi` or `swagger` version; OpenAPI 3.0 and 3.1 and Swagger 2.0 are read"#]],
    );
    refused(
        &[("openapi.yaml", "openapi: 3.1.0\npaths:\n  /a: { get: { x-keepgate-cots: 2 } }")],
        expect!["openapi.yaml:3: `x-keepgate-cots` has no meaning in an operation"],
    );
    refused(
        &[(
            "entities.json",
            "[\n  {\"uid\": {\"type\": \"user\", \"id\": \"a\"}},\n  {\"uid\": \"user::a\"},\n  {\"uid\": {\"type\": \"user\", \"id\": \"a\"}}\n]",
        )],
        expect![[r#"
            entities.json:3: an entity is written `{"type": "..", "id": ".."}`
            entities.json:4: entity `user::"a"` is in entities.json:2 already"#]],
    );
    refused(
        &[("entities.json", "[\n  {\"uid\":\n }]")],
        expect!["entities.json:3: expected value"],
    );
    refused(&[("entities.json", "{}")], expect!["entities.json:1: not a JSON list of entities"]);
    refused(&[("entities.json", "[] 1")], expect!["entities.json:1: nothing may follow the list"]);
    refused(
        &[(
            "limits.toml",
            "[[rule]]\nkey = \"address\"\n\n[[rule]]\nname = \"a\"\nsince = 2020-01-01\n",
        )],
        expect![[r#"
            limits.toml:1: expected a `name` (a string) in the rule
            limits.toml:4: expected a string, got `2020-01-01`; put it in quotes"#]],
    );
    refused(
        &[("limits.toml", "headers = \"off\"\n")],
        expect!["limits.toml:1: unknown field `headers`, expected one of `limit`, `rule`, `plan`"],
    );
}

#[test]
fn policies_keep_their_comments_and_ids() {
    let text = "// of the first\npermit (principal, action, resource); // still first\n\n\
                /* no comment in Cedar */";
    assert!(bundle::parse(&files(&[("p.cedar", text)])).is_err());

    let text = "// one; \"two\" ?\npermit (principal, action, resource) // three\n\
                when { context.a == \"; // \\\" ?\" }; // four\n// five\n\n\
                @id(\"named\") permit (principal == ?principal, action, resource);\n\
                forbid (principal, action, resource);\n// six\n";
    let bundle = parsed(&files(&[("p q.cedar", text), (".hidden", "?"), ("README", "?")]));
    let shown: Vec<String> = bundle
        .items
        .iter()
        .filter_map(|item| match &item.body {
            ItemBody::Policy(body) | ItemBody::Template(body) => {
                Some(format!("{} [{}]\n{}\n", item.key, body.file, body.text))
            }
            _ => None,
        })
        .collect();
    expect![[r#"
        policy `p q` of service `s` []
        // one; "two" ?
        permit (principal, action, resource) // three
        when { context.a == "; // \" ?" }; // four
        ---
        policy `p q#3` of service `s` [p q.cedar]
        forbid (principal, action, resource);
        // six
        ---
        template `named` of service `s` [p q.cedar]
        // five

        @id("named") permit (principal == ?principal, action, resource);
    "#]]
    .assert_eq(&shown.join("---\n"));
    let rendered = bundle::render("s", &bundle.items);
    assert_eq!(parsed(&rendered).items, bundle.items);

    // The first policy is removed by hand: the others keep their ids.
    let fewer: Vec<Item> =
        bundle.items.iter().filter(|item| item.key.id != "p q").cloned().collect();
    let rendered = bundle::render("s", &fewer);
    expect![[r#"
        //@ id: "named"
        // five

        @id("named") permit (principal == ?principal, action, resource);

        //@ id: "p q#3"
        forbid (principal, action, resource);
        // six
    "#]]
    .assert_eq(&rendered["p q.cedar"]);
    assert_eq!(parsed(&rendered).items, fewer);
}

/// A rate-limit rule as people write one: defaults spelled out, nulls, any case.
fn rule() -> impl Strategy<Value = serde_json::Value> {
    let key = prop::sample::select(&["address", "principal", "api_key", "header:X-Who"][..]);
    let rate = prop::option::of(prop::sample::select(&["5/min", "1000/s", "1/h"][..]));
    (word(), key, rate, prop::option::of(any::<u32>()), any::<bool>()).prop_map(
        |(name, key, rate, burst, shadow)| {
            let mut rule = json!({"name": name, "key": key, "rate": rate, "burst": burst});
            if shadow {
                rule["shadow"] = json!(true);
                rule["cost"] = json!(1);
                rule["costs"] = json!([{"route": "/a/*", "methods": ["GET"], "cost": 2}]);
            }
            rule
        },
    )
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        "[ -~]{1,6}",
        "\\PC{1,4}",
        Just("any".to_owned()),
        Just("README".to_owned())
    ]
}

fn uid() -> impl Strategy<Value = Uid> {
    let kind = prop::sample::select(vec!["user", "role", "Action", "shop::x", "route"]);
    prop_oneof![
        (kind, word()).prop_map(|(kind, id)| Uid::new(kind, id)),
        word().prop_map(|id| Uid::role(&id)),
    ]
}

fn policy_text() -> impl Strategy<Value = String> {
    let before = prop::sample::select(vec!["", "// a; comment\n", "  \n// b\n\n"]);
    let after = prop::sample::select(vec!["", " // behind", "\n// below", "\n"]);
    (before, uid(), after).prop_map(|(before, uid, after)| {
        let uid = Uid::new("user", uid.id);
        format!("{before}permit (principal == {uid}, action, resource);{after}")
    })
}

fn until() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(prop_oneof![0..100_u64, 0..=keepgate_policy::instant::LAST])
}

fn body() -> impl Strategy<Value = (String, ItemBody)> {
    let file = prop::sample::select(vec!["", "p.cedar", "a.cedar", "a b.cedar"]);
    let id = prop_oneof![4 => word(), 1 => Just("p".to_owned()), 2 => (0..5).prop_map(|n| format!("p#{n}"))];
    let actions = prop::collection::vec(word().prop_map(|name| Uid::action(&name)), 0..3);
    let value = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<bool>().prop_map(|b| json!([b, {"x": b}])),
        word().prop_map(|text| json!({"__entity": {"type": "user", "id": text}})),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| json!(n)),
    ];
    let attrs = prop::collection::btree_map(word(), value, 0..3).boxed();
    let source = "s".to_owned();
    let body = prop_oneof![
        (policy_text(), file).prop_map(|(text, file)| {
            ItemBody::Policy(PolicyBody { text, file: file.to_owned() })
        }),
        word().prop_map(|note| ItemBody::Template(PolicyBody {
            text: format!(
                "// {}\npermit (principal in ?principal, action, resource);",
                note.replace(['\r', '\n'], "")
            ),
            file: String::new(),
        })),
        (uid(), word()).prop_map({
            let source = source.clone();
            move |(uid, description)| {
                ItemBody::Role(RoleBody { uid, description, source: source.clone() })
            }
        }),
        (uid(), uid(), until()).prop_map(move |(member, role, until_unix_s)| {
            ItemBody::Member(MemberBody { member, role, source: source.clone(), until_unix_s })
        }),
        (uid(), actions, prop::option::of(uid()), until()).prop_map(
            |(principal, actions, resource, until_unix_s)| {
                ItemBody::Grant(GrantBody { principal, actions, resource, until_unix_s })
            }
        ),
        (word(), prop::option::of(uid()), prop::option::of(uid())).prop_map(
            |(template, principal, resource)| {
                ItemBody::Link(LinkBody { template, principal, resource })
            }
        ),
        (uid(), attrs.clone(), prop::collection::vec(uid(), 0..3)).prop_map(
            |(uid, attrs, parents)| {
                ItemBody::Entity(EntityBody { uid, attrs, parents, tags: BTreeMap::new() })
            }
        ),
        ("[a-z]{1,2}", any::<bool>(), prop::option::of(any::<u32>())).prop_map(
            |(path, anonymous, ms)| {
                ItemBody::Route(Box::new(Route {
                    anonymous,
                    max_age_ms: ms.map(u64::from),
                    resource: anonymous
                        .then(|| ResourceRule { kind: "order".to_owned(), param: "id".to_owned() }),
                    action: (!anonymous).then(|| "read".to_owned()),
                    ..Route::new("GET", format!("/{path}/{{id}}"))
                }))
            }
        ),
        rule().prop_map(|rule| ItemBody::Limit(Box::new(Written::read(rule).unwrap()))),
        (word(), word(), prop::collection::vec(rule(), 0..3)).prop_map(|(name, about, rules)| {
            let plan = json!({"name": name, "description": about, "rule": rules});
            ItemBody::Plan(Box::new(Written::read(plan).unwrap()))
        }),
        word().prop_map(|text| ItemBody::Schema(SchemaBody { text })),
    ];
    (id, body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn applying_an_export_changes_nothing(bodies in prop::collection::vec(body(), 0..12)) {
        let mut items: BTreeMap<_, _> = BTreeMap::new();
        let settings = ItemBody::Service(Box::new(ServiceSettings::named("s")));
        let all = [(String::new(), settings)].into_iter().chain(bodies);
        for (id, body) in all {
            let service = match body.kind() { Kind::Role | Kind::Member => "", _ => "s" };
            let item = Item::new(service, &id, body);
            items.insert(item.key.clone(), item);
        }
        let items: Vec<Item> = items.into_values().collect();
        let canonical: Vec<Item> = match bundle::parse(&bundle::render("s", &items)) {
            Ok(bundle) => bundle.items,
            Err(errors) => return Err(TestCaseError::fail(format!("{errors:?}"))),
        };
        prop_assert_eq!(&canonical, &items);
        let again = bundle::parse(&bundle::render("s", &canonical)).unwrap();
        prop_assert_eq!(again.items, canonical);
    }

    #[test]
    fn noise_never_panics(name in prop::sample::select(vec![
        "service.toml", "p.cedar", "roles.toml", "links.toml", "entities.json", "routes.toml",
        "openapi.yaml", "limits.toml", "schema.cedarschema",
    ]), text in "[\\[\\]{}\"'=:;/@?#\\n a-z0-9]{0,60}") {
        let _ = bundle::parse(&files(&[(name, &text)]));
    }
}
