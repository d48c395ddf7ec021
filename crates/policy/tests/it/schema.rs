//! Services with a schema: what it does not know is dropped, plain JSON gets its types, and the
//! rest is as stock Cedar decides with the same schema.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Authorizer, Context, Entities, EntityUid, PolicyId, PolicySet, Request, Schema,
};
use expect_test::{Expect, expect};
use keepgate_policy::decision::QueryError;
use keepgate_policy::model::{EntityBody, PolicyBody, SchemaBody};
use keepgate_policy::{Digest, Effect, Item, ItemBody, Query, Revision, Snapshot, Uid, World};
use serde_json::{Value, json};

use crate::random::{Json, Question, Rng, SERVICE};

const SCHEMA: &str = r#"
    entity user in [role] { level: Long, name?: String, ip?: ipaddr, manager?: user };
    entity role;
    entity doc in [folder] { owner: user, price?: decimal, labels?: Set<String> };
    entity folder;
    entity color enum ["red", "green"];
    action any;
    action read, write in [any] appliesTo {
        principal: [user], resource: [doc, folder],
        context: { hour: Long, ip?: ipaddr, who?: user, action?: { soft?: Bool },
            claims?: { email?: String, level?: Long, groups?: Set<String>, manager?: user } },
    };
    action paint in [any] appliesTo { principal: [user], resource: [color] };
"#;

const POLICIES: [&str; 13] = [
    "permit (principal in role::\"r0\", action in [Action::\"any\"], resource);",
    "permit (principal, action == Action::\"read\", resource is doc) when { resource.owner == principal };",
    "permit (principal, action == Action::\"read\", resource is doc) when { resource.owner.level > 2 };",
    "permit (principal, action in Action::\"any\", resource in folder::\"f1\") when { principal has ip && principal.ip.isInRange(ip(\"10.0.0.0/8\")) };",
    "forbid (principal, action == Action::\"write\", resource) when { context.hour > 3 };",
    "forbid (principal, action == Action::\"write\", resource is doc) when { resource.price.greaterThan(decimal(\"2.0\")) };",
    "permit (principal, action == Action::\"read\", resource) when { context has who && context.who.level == 1 };",
    "forbid (principal, action == Action::\"read\", resource) when { context has action && context.action has soft && context.action.soft };",
    "permit (principal, action == Action::\"paint\", resource == color::\"red\") when { principal.manager.level > 1 };",
    "permit (principal in role::\"given\", action, resource);",
    "permit (principal, action == Action::\"read\", resource) when { principal in role::\"given\" };",
    "permit (principal, action == Action::\"read\", resource) when { context has claims && context.claims has level && context.claims.level > 2 };",
    "forbid (principal, action == Action::\"write\", resource) when { context has claims && context.claims has groups && context.claims.groups.contains(\"bad\") };",
];

fn policy(at: usize) -> Item {
    let body = PolicyBody { text: POLICIES[at].to_owned(), file: String::new() };
    Item::new(SERVICE, &format!("p{at}"), ItemBody::Policy(body))
}

fn entity(service: &str, uid: Uid, parents: Vec<Uid>, attrs: Json) -> Item {
    let tags = Json::new();
    Item::new(service, "", ItemBody::Entity(EntityBody { uid, attrs, parents, tags }))
}

fn user(n: usize) -> Uid {
    Uid::new("user", format!("u{n}"))
}

fn user_attrs(rng: &mut Rng) -> Json {
    let mut attrs = Json::from([("level".to_owned(), json!(rng.below(5)))]);
    if rng.chance(50) {
        let ip = rng.pick(&["10.1.2.3", "192.168.0.1"]);
        attrs.insert("ip".to_owned(), json!(ip));
    }
    if rng.chance(50) {
        attrs.insert(
            "manager".to_owned(),
            json!({"type": "user", "id": format!("u{}", rng.below(5))}),
        );
    }
    attrs
}

fn items(rng: &mut Rng) -> Vec<Item> {
    let schema = SchemaBody { text: SCHEMA.to_owned() };
    let mut items = vec![Item::new(SERVICE, "", ItemBody::Schema(schema))];
    items.extend((0..POLICIES.len()).filter(|_| rng.chance(70)).map(policy).collect::<Vec<_>>());
    for n in 0..4 {
        let service = rng.pick(&["", SERVICE]);
        let parents = if rng.chance(30) { vec![Uid::role("r0")] } else { vec![] };
        let attrs = user_attrs(rng);
        items.push(entity(service, user(n), parents, attrs));
    }
    for n in 0..4 {
        let mut attrs = Json::from([(
            "owner".to_owned(),
            json!({"type": "user", "id": format!("u{}", rng.below(5))}),
        )]);
        if rng.chance(60) {
            attrs.insert("price".to_owned(), json!(rng.pick(&["1.5", "2.5"])));
        }
        let folder = Uid::new("folder", format!("f{}", rng.below(2)));
        items.push(entity(SERVICE, Uid::new("doc", format!("d{n}")), vec![folder], attrs));
    }
    items
}

fn question(rng: &mut Rng) -> Question {
    let mut context = Json::from([("hour".to_owned(), json!(rng.below(6)))]);
    if rng.chance(30) {
        context
            .insert("who".to_owned(), json!({"type": "user", "id": format!("u{}", rng.below(5))}));
    }
    if rng.chance(30) {
        context.insert("ip".to_owned(), json!("10.0.0.9"));
    }
    if rng.chance(30) {
        context.insert("unknown".to_owned(), json!({"x": [1, 2.5]}));
    }
    let properties = |rng: &mut Rng, known: Json| {
        let mut properties = if rng.chance(30) { known } else { Json::new() };
        if rng.chance(20) {
            properties.insert("unknown".to_owned(), json!("x"));
        }
        properties
    };
    let soft = Json::from([("soft".to_owned(), json!(rng.chance(50)))]);
    let principal = user_attrs(rng);
    let resource = rng.pick(&["doc", "doc", "doc", "folder", "color", "strange"]);
    let price = Json::from([("price".to_owned(), json!(2.25))]);
    Question {
        principal: match rng.below(10) {
            0 => Uid::role("r0"),
            1 => Uid::new("alien", "x"),
            _ => user(rng.below(5)),
        },
        action: Uid::action(rng.pick(&["read", "read", "write", "paint", "any", "fly"])),
        resource: match resource {
            "color" => Uid::new("color", rng.pick(&["red", "green", "blue"])),
            kind => Uid::new(kind, format!("{}{}", kind.chars().next().unwrap(), rng.below(5))),
        },
        context,
        claims: rng.chance(40).then(|| {
            Json::from([
                ("email".to_owned(), json!("a@b")),
                ("level".to_owned(), json!(rng.below(5))),
                ("groups".to_owned(), json!(["x", rng.pick(&["good", "bad"])])),
                ("iss".to_owned(), json!("not in the schema")),
                ("manager".to_owned(), json!({"type": "user", "id": "u1"})),
            ])
        }),
        principal_parents: if rng.chance(30) {
            vec![Uid::role(rng.pick(&["given", "r0", "strange"]))]
        } else {
            Vec::new()
        },
        principal_properties: properties(rng, principal),
        action_properties: properties(rng, soft),
        resource_properties: if resource == "doc" { properties(rng, price) } else { Json::new() },
        at: 0,
    }
}

fn world(items: Vec<Item>) -> World {
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).unwrap()
}

/// None where stock Cedar refuses the request.
type Answer = Option<(bool, BTreeSet<String>, BTreeSet<String>)>;

fn stock(schema: &Schema, items: &[Item], question: &Question) -> Answer {
    let uid = |uid: &Uid| -> EntityUid { uid.to_string().parse().unwrap() };
    let known = |of: &Json, names: &[&str]| -> Json {
        of.iter()
            .filter(|(n, _)| names.contains(&n.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    };
    let mut bodies: BTreeMap<Uid, EntityBody> = BTreeMap::new();
    let mut policies = PolicySet::new();
    for item in items {
        match &item.body {
            ItemBody::Entity(body) => {
                bodies.insert(body.uid.clone(), body.clone());
            }
            ItemBody::Policy(body) => policies
                .add(
                    cedar_policy::Policy::parse(Some(PolicyId::new(&item.key.id)), &body.text)
                        .unwrap(),
                )
                .unwrap(),
            _ => {}
        }
    }
    for (uid, properties, names) in [
        (&question.principal, &question.principal_properties, &["level", "ip", "manager"][..]),
        (&question.resource, &question.resource_properties, &["price"][..]),
    ] {
        let mut properties = known(properties, names);
        // Stock Cedar wants a decimal as text.
        if let Some(price) = properties.get_mut("price") {
            *price = json!(price.to_string());
        }
        if !properties.is_empty() && ["user", "doc"].contains(&uid.kind.as_str()) {
            let (attrs, parents, tags) = Default::default();
            let blank = EntityBody { uid: uid.clone(), attrs, parents, tags };
            bodies.entry(uid.clone()).or_insert(blank).attrs.extend(properties);
        }
    }
    if !question.principal_parents.is_empty() && question.principal.kind == "user" {
        let (attrs, parents, tags) = Default::default();
        let blank = EntityBody { uid: question.principal.clone(), attrs, parents, tags };
        let body = bodies.entry(question.principal.clone()).or_insert(blank);
        body.parents.extend(question.principal_parents.clone());
    }
    // An entity that only properties make lacks required attributes, which stock Cedar refuses
    // to load; without a schema it loads, if values are written in full.
    let typed: Vec<Value> = bodies
        .values()
        .map(|body| json!({"uid": body.uid, "attrs": body.attrs.iter().map(|(n, v)| (n.clone(), full(n, v))).collect::<Json>(), "parents": body.parents}))
        .collect();
    let mut entities = Entities::from_json_value(typed.into(), None).unwrap();
    entities = entities.add_entities(schema.action_entities().unwrap(), None).unwrap();
    let action = uid(&question.action);
    let context = if question.action.id == "paint"
        || !["read", "write"].contains(&question.action.id.as_str())
    {
        Context::empty()
    } else {
        let mut context = known(&question.context, &["hour", "ip", "who"]);
        if !question.action_properties.is_empty() {
            context
                .insert("action".to_owned(), json!(known(&question.action_properties, &["soft"])));
        }
        if let Some(claims) = &question.claims {
            let claims = known(claims, &["email", "level", "groups", "manager"]);
            context.insert("claims".to_owned(), json!(claims));
        }
        Context::from_json_value(json!(context), Some((schema, &action))).unwrap()
    };
    let request = Request::new(
        uid(&question.principal),
        action,
        uid(&question.resource),
        context,
        Some(schema),
    );
    let response = Authorizer::new().is_authorized(&request.ok()?, &policies, &entities);
    Some((
        response.decision() == cedar_policy::Decision::Allow,
        response.diagnostics().reason().map(ToString::to_string).collect(),
        response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| {
                e.policy_id().to_string()
            })
            .collect(),
    ))
}

/// An attribute with Cedar's escapes.
fn full(name: &str, value: &Value) -> Value {
    match name {
        "ip" => json!({"__extn": {"fn": "ip", "arg": value}}),
        "price" => json!({"__extn": {"fn": "decimal", "arg": value}}),
        "owner" | "manager" => json!({"__entity": value}),
        _ => value.clone(),
    }
}

#[test]
fn with_a_schema_the_world_decides_as_cedar_does() {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
    let [mut refused, mut allowed, mut forbidden, mut failed] = [0; 4];
    for seed in 0..120 {
        let rng = &mut Rng::new(seed);
        let items = items(rng);
        let world = world(items.clone());
        for at in 0..50 {
            let question = question(rng);
            let decision = question.ask(&world).unwrap();
            let place = format!(
                "world {seed}, question {at}: {} {} {} {:?} {:?} {:?}",
                question.principal,
                question.action,
                question.resource,
                question.context,
                question.principal_properties,
                question.resource_properties
            );
            match stock(&schema, &items, &question) {
                None => {
                    refused += 1;
                    assert!(!decision.is_allowed() && decision.determining.is_empty(), "{place}");
                }
                Some((allow, reasons, errors)) => {
                    let ours = decision.determining.iter().map(ToString::to_string).collect();
                    let ours_failed =
                        decision.errors.iter().map(|error| error.policy.to_string()).collect();
                    assert_eq!(
                        (decision.is_allowed(), ours, ours_failed),
                        (allow, reasons.clone(), errors.clone()),
                        "{place}"
                    );
                    allowed += usize::from(allow);
                    forbidden += usize::from(!allow && !reasons.is_empty());
                    failed += usize::from(!errors.is_empty());
                }
            }
        }
    }
    println!("refused {refused}, allowed {allowed}, forbidden {forbidden}, with errors {failed}");
    assert!(refused > 300 && allowed > 300 && forbidden > 300 && failed > 100);
}

#[track_caller]
fn check(context: Value, resource_properties: Value, expected: Expect) {
    let rng = &mut Rng::new(1);
    let items: Vec<Item> = items(rng)
        .into_iter()
        .filter(|item| !matches!(item.body, ItemBody::Policy(_)))
        .chain([policy(6), policy(5)])
        .collect();
    let world = world(items);
    let json = |value: Value| -> Json { serde_json::from_value(value).unwrap() };
    let (context, resource_properties) = (json(context), json(resource_properties));
    let result = world.decide(
        &Query::new(&user(1), &Uid::action("read"), &Uid::new("doc", "d1"))
            .service(SERVICE)
            .context(&context)
            .resource_properties(&resource_properties),
    );
    expected.assert_eq(&match result {
        Ok(decision) => format!("{:?} {:?}", decision.effect, decision.errors),
        Err(error) => error.to_string(),
    });
}

#[test]
fn values_that_do_not_fit_the_schema_are_refused_by_name() {
    check(json!({"hour": 1, "whatever": {"a": 1}}), json!({}), expect!["Deny(NoPermit) []"]);
    check(json!({}), json!({}), expect!["`context.hour`: the schema requires it"]);
    check(json!({"hour": "x"}), json!({}), expect!["`context.hour`: the schema says Long"]);
    check(json!({"hour": null}), json!({}), expect!["`context.hour`: the schema requires it"]);
    check(
        json!({"hour": 1, "ip": "nowhere"}),
        json!({}),
        expect![[
            r#"`context.ip`: the schema says ipaddr: send a text such as "10.0.0.1" or "10.0.0.0/8"; error while evaluating `ipaddr` extension function: invalid IP address: nowhere"#
        ]],
    );
    check(
        json!({"hour": 1, "who": {"type": "doc", "id": "d1"}}),
        json!({}),
        expect![[r#"`context.who`: the schema says user: send {"type": "..", "id": ".."}"#]],
    );
    check(
        json!({"hour": 1, "who": {"__entity": {"type": "user", "id": "u1"}}}),
        json!({}),
        expect![[
            r#"`context.who`: `__entity` is not allowed in a request; send {"type": "..", "id": ".."}, and declare the entity type in the service's schema"#
        ]],
    );
    check(json!({"hour": 1}), json!({"price": 3}), expect!["Deny(NoPermit) []"]);
    check(
        json!({"hour": 1}),
        json!({"price": true}),
        expect![[
            r#"`resource.properties.price`: the schema says decimal: send a text such as "1.50""#
        ]],
    );
    check(
        json!({"hour": 1}),
        json!({"labels": ["a", 1]}),
        expect!["`resource.properties.labels[]`: the schema says String"],
    );
}

#[test]
fn questions_that_cannot_be_put() {
    let world = world(vec![policy(0)]);
    let ask = |service: &str, kind: &str, context: Value| {
        let context: Json = serde_json::from_value(context).unwrap();
        world.decide(
            &Query::new(&Uid::new(kind, "u"), &Uid::action("read"), &Uid::new("doc", "d"))
                .service(service)
                .context(&context),
        )
    };
    assert_eq!(ask("x", "user", json!({})), Err(QueryError::UnknownService("x".to_owned())));
    for kind in ["", "a b", "if", "user::", "9", "__cedar::x"] {
        assert_eq!(ask(SERVICE, kind, json!({})), Err(QueryError::Type(kind.to_owned())));
    }
    let error = ask(SERVICE, "user", json!({"a": [{"__extn": 1}]})).unwrap_err();
    assert!(matches!(&error, QueryError::Value { path, .. } if path == "context.a[0]"), "{error}");
    let denied = ask(SERVICE, "stranger", json!({})).unwrap();
    assert_eq!(denied.effect, Effect::Deny(keepgate_policy::DenyReason::NoPermit));
}

#[test]
fn an_explanation_names_what_decided_and_what_came_near() {
    let rng = &mut Rng::new(3);
    let mut items: Vec<Item> =
        items(rng).into_iter().filter(|item| !matches!(item.body, ItemBody::Policy(_))).collect();
    items.extend([policy(0), policy(1), policy(4)]);
    let world = world(items);
    let explain = |action: &str, principal: Uid, hour: u32| {
        let context = Json::from([("hour".to_owned(), json!(hour))]);
        let explanation = world
            .explain(
                &Query::new(&principal, &Uid::action(action), &Uid::new("doc", "d1"))
                    .service(SERVICE)
                    .context(&context),
            )
            .unwrap();
        let mut lines = vec![format!("{:?}", explanation.decision.effect)];
        lines.extend(
            explanation
                .determining
                .iter()
                .map(|by| format!("by {}: {}", by.policy.id, by.policy.text)),
        );
        lines.extend(
            explanation.near.iter().map(|near| format!("near {}: {}", near.policy.id, near.why)),
        );
        lines.join("\n")
    };
    expect![[r#"
        Deny(Forbid)
        by p4: forbid (principal, action == Action::"write", resource) when { context.hour > 3 };
        near p0: `user::"u9"` is not in `role::"r0"`
        near p1: `Action::"write"` does not match `action == Action::"read"`"#]]
    .assert_eq(&explain("write", user(9), 5));
    expect![[r#"
        Deny(NoPermit)
        near p1: its condition is false
        near p0: `user::"u9"` is not in `role::"r0"`"#]]
    .assert_eq(&explain("read", user(9), 1));
    expect![[r#"
        Deny(NoPermit)
        near schema: the schema has no entity type `alien`"#]]
    .assert_eq(&explain("read", Uid::new("alien", "x"), 1));
}
