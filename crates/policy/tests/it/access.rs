//! Who may do what, asked from the other side: the same as asking for each one.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use keepgate_policy::model::{EntityBody, GrantBody, MemberBody, PolicyBody, SchemaBody};
use keepgate_policy::world::{Access, Cursor, WhoCan, Whom};
use keepgate_policy::{Digest, Item, ItemBody, Query, Revision, Snapshot, Uid, World};
use serde_json::json;

use crate::random::{Items, Json, Rng, SERVICE, Shape, TIMES};

const WORLDS: u64 = 60;
const QUESTIONS: usize = 6;

fn world(items: Vec<Item>) -> World {
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).unwrap()
}

/// All pages of a list.
fn all(world: &World, asked: &WhoCan<'_>, limit: usize) -> Vec<Access> {
    let mut rows = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..10_000 {
        let page = Cursor { after: after.as_deref(), limit };
        let found = world.who_can(asked, &page).unwrap();
        rows.extend(found.rows);
        match found.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
    panic!("the pages do not end");
}

fn everybody(items: &[Item]) -> BTreeSet<Uid> {
    let mut all = BTreeSet::new();
    for item in items {
        match &item.body {
            ItemBody::Entity(body) => {
                all.insert(body.uid.clone());
                all.extend(body.parents.iter().cloned());
            }
            ItemBody::Member(body) => {
                all.insert(body.member.clone());
                all.insert(body.role.clone());
            }
            ItemBody::Grant(body) => drop(all.insert(body.principal.clone())),
            _ => {}
        }
    }
    // Some that nothing names.
    all.extend((0..12).map(|n| Uid::new("user", format!("u{n}"))));
    all
}

/// What a row says of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Allowed,
    Maybe,
}

fn said(row: &Access) -> Said {
    if row.unless.is_empty() && !row.by.is_empty() { Said::Allowed } else { Said::Maybe }
}

#[test]
fn who_can_is_what_each_is_told() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..WORLDS {
        let rng = &mut Rng::new(seed.wrapping_mul(77) + 5);
        let shape = Shape::random(rng);
        let items = Items::random(&shape, rng).to_vec();
        let everybody = everybody(&items);
        let world = world(items);
        for _ in 0..QUESTIONS {
            let (resource, action) = (shape.resource(rng), shape.action(rng));
            let now = rng.below(TIMES) as u64;
            let mut named: BTreeMap<Uid, Said> = BTreeMap::new();
            let mut unnamed: Vec<(Whom, Said)> = Vec::new();
            for kind in [None, Some("role")] {
                let asked = WhoCan {
                    service: SERVICE,
                    resource: &resource,
                    action: Some(&action),
                    kind,
                    now_unix_s: now,
                };
                let limit = 1 + rng.below(5);
                let rows = all(&world, &asked, limit);
                assert_eq!(rows, all(&world, &asked, 1_000), "pages of {limit}");
                // Asked for every action, it says the same of this one.
                let every = all(&world, &WhoCan { action: None, ..asked.clone() }, 1_000);
                let of_this: BTreeSet<Whom> = every
                    .iter()
                    .filter(|row| row.actions.contains(&Some(action.clone())))
                    .map(|row| row.principal.clone())
                    .collect();
                let is_known = every.iter().any(|row| row.actions.contains(&Some(action.clone())));
                if is_known {
                    let alone: BTreeSet<Whom> =
                        rows.iter().map(|row| row.principal.clone()).collect();
                    assert!(alone.is_subset(&of_this));
                    // Who is named for another action is told what everyone may do, too.
                    let is_covered = |whom: &Whom| match whom {
                        _ if alone.contains(&Whom::Anyone) => true,
                        Whom::Entity(uid) => alone.contains(&Whom::Type(uid.kind.clone())),
                        _ => false,
                    };
                    assert!(of_this.difference(&alone).all(is_covered));
                }
                for row in &rows {
                    match &row.principal {
                        Whom::Entity(uid) => drop(named.insert(uid.clone(), said(row))),
                        other => unnamed.push((other.clone(), said(row))),
                    }
                    for given in row.by.iter().chain(&row.when) {
                        if let (Whom::Entity(uid), Some(last)) = (&row.principal, given.path.last())
                        {
                            assert_ne!(&last.entity, uid);
                            counts.entry("paths").and_modify(|n| *n += 1).or_insert(1);
                        }
                    }
                }
            }
            for principal in &everybody {
                let of_all = unnamed.iter().find(|(whom, _)| match whom {
                    Whom::Anyone => true,
                    Whom::Type(kind) => *kind == principal.kind,
                    Whom::Entity(_) => false,
                });
                for round in 0..3 {
                    let context = if round == 0 { Json::new() } else { shape.asked(rng, 90) };
                    let query = Query::new(principal, &action, &resource)
                        .service(SERVICE)
                        .context(&context)
                        .at(now);
                    let allowed = world.decide(&query).unwrap().is_allowed();
                    let place =
                        format!("{seed}: {principal} {action} {resource} {context:?} {now}");
                    let name = match (named.get(principal), of_all) {
                        (Some(Said::Allowed), _) => {
                            assert!(allowed, "{place}");
                            "allowed"
                        }
                        (Some(Said::Maybe), _) => "on a condition",
                        (None, None) => {
                            assert!(!allowed, "{place}");
                            "denied"
                        }
                        // One who is judged one by one is not named where a forbid is about him.
                        (None, Some((_, Said::Allowed))) => {
                            assert!(
                                allowed || !world.decide(&query).unwrap().determining.is_empty()
                            );
                            "not named"
                        }
                        (None, Some((_, Said::Maybe))) => "not named, on a condition",
                    };
                    *counts.entry(name).or_default() += 1;
                }
            }
        }
    }
    for name in ["allowed", "on a condition", "denied", "not named", "not named, on a condition"] {
        assert!(counts.get(name).copied().unwrap_or_default() >= 150, "{name}: {counts:?}");
    }
    assert!(counts["paths"] >= 50, "{counts:?}");
}

/// The policies that apply to a principal are those that a decision can name.
#[test]
fn holdings_are_what_can_decide() {
    let mut determined = 0;
    for seed in 0..WORLDS {
        let rng = &mut Rng::new(seed + 4_000);
        let shape = Shape::random(rng);
        let world = world(Items::random(&shape, rng).to_vec());
        for _ in 0..10 {
            let (user, now) = (shape.user(rng), rng.below(TIMES) as u64);
            let mut held = BTreeSet::new();
            let mut after: Option<String> = None;
            loop {
                let page = Cursor { after: after.as_deref(), limit: 3 };
                let found = world.holdings(SERVICE, &user, None, now, &page).unwrap();
                held.extend(found.rows.iter().map(|row| row.policy.id.clone()));
                match found.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            for _ in 0..20 {
                let (action, resource) = (shape.action(rng), shape.resource(rng));
                let context = shape.asked(rng, 50);
                let query = Query::new(&user, &action, &resource)
                    .service(SERVICE)
                    .context(&context)
                    .at(now);
                let decision = world.decide(&query).unwrap();
                determined += decision.determining.len();
                assert!(decision.determining.iter().all(|policy| held.contains(policy)));
            }
        }
    }
    assert!(determined > 1_000, "{determined}");
}

fn user(id: &str) -> Uid {
    Uid::new("user", id)
}

fn member(member: &Uid, role: &str, until_unix_s: Option<u64>) -> Item {
    let (member, role) = (member.clone(), Uid::role(role));
    let body = MemberBody { member, role, source: String::new(), until_unix_s };
    Item::new("", "", ItemBody::Member(body))
}

fn policy(id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new(SERVICE, id, ItemBody::Policy(body))
}

fn small() -> Vec<Item> {
    let grant = GrantBody {
        principal: Uid::role("admin"),
        actions: vec![Uid::action("read"), Uid::action("write")],
        resource: None,
        until_unix_s: None,
    };
    let alice = EntityBody {
        uid: user("alice"),
        attrs: Json::from([("dept".to_owned(), json!("sales"))]),
        parents: vec![Uid::new("team", "red")],
        tags: Json::new(),
    };
    vec![
        Item::new("", "", ItemBody::Entity(alice)),
        member(&Uid::new("team", "red"), "admin", None),
        member(&user("bob"), "admin", Some(100)),
        Item::new(SERVICE, "g", ItemBody::Grant(grant)),
        policy(
            "office",
            "permit(principal, action == Action::\"read\", resource) \
                when { principal.dept == \"sales\" && context.hour < 18 };",
        ),
        policy(
            "blocked",
            "forbid(principal in role::\"blocked\", action, resource) \
                unless { context has override };",
        ),
        member(&Uid::new("team", "red"), "blocked", None),
    ]
}

fn shown(rows: &[Access]) -> String {
    let mut text = String::new();
    for row in rows {
        let whom = match &row.principal {
            Whom::Anyone => "anyone".to_owned(),
            Whom::Type(kind) => format!("any {kind}"),
            Whom::Entity(uid) => uid.to_string(),
        };
        let actions: Vec<String> = row
            .actions
            .iter()
            .map(|action| action.as_ref().map_or("(any other)".to_owned(), Uid::to_action_text))
            .collect();
        text.push_str(&format!("{whom}: {}\n", actions.join(", ")));
        for (word, list) in [("by", &row.by), ("when", &row.when), ("unless", &row.unless)] {
            for given in list {
                let path: Vec<String> = given
                    .path
                    .iter()
                    .map(|step| {
                        let by = step.by.as_ref().map_or("-".to_owned(), ToString::to_string);
                        format!(" -> {} ({by})", step.entity)
                    })
                    .collect();
                let condition = given.condition.as_deref().unwrap_or_default();
                text.push_str(&format!("  {word} {}{} {condition}\n", given.policy, path.join("")));
            }
        }
    }
    text
}

fn check(asked: &WhoCan<'_>, expected: Expect) {
    expected.assert_eq(&shown(&all(&world(small()), asked, 100)));
}

#[test]
fn a_list_says_by_what_and_how() {
    let (resource, read) = (Uid::new("order", "1"), Uid::action("read"));
    let asked = WhoCan {
        service: SERVICE,
        resource: &resource,
        action: Some(&read),
        kind: None,
        now_unix_s: 50,
    };
    check(
        &asked,
        expect![[r#"
        anyone: read
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked !(context has override)
        team::"red": read
          by g -> role::"admin" (member `team::"red" in role::"admin"`) 
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
        user::"alice": read
          by g -> team::"red" (entity `user::"alice"`) -> role::"admin" (member `team::"red" in role::"admin"`) 
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked -> team::"red" (entity `user::"alice"`) -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
        user::"bob": read
          by g -> role::"admin" (member `user::"bob" in role::"admin"`) 
          when office (principal.dept == "sales") && (context.hour < 18)
    "#]],
    );
    check(
        &WhoCan { action: None, now_unix_s: 100, ..asked },
        expect![[r#"
        anyone: read
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked !(context has override)
        team::"red": read
          by g -> role::"admin" (member `team::"red" in role::"admin"`) 
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
        team::"red": write
          by g -> role::"admin" (member `team::"red" in role::"admin"`) 
          unless blocked -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
        user::"alice": read
          by g -> team::"red" (entity `user::"alice"`) -> role::"admin" (member `team::"red" in role::"admin"`) 
          when office (principal.dept == "sales") && (context.hour < 18)
          unless blocked -> team::"red" (entity `user::"alice"`) -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
        user::"alice": write
          by g -> team::"red" (entity `user::"alice"`) -> role::"admin" (member `team::"red" in role::"admin"`) 
          unless blocked -> team::"red" (entity `user::"alice"`) -> role::"blocked" (member `team::"red" in role::"blocked"`) !(context has override)
    "#]],
    );
}

#[test]
fn an_explanation_says_the_way_and_what_was_seen() {
    let world = world(small());
    let explain = |principal: &Uid, action: &str, context: serde_json::Value, at: u64| {
        let context: Json = serde_json::from_value(context).unwrap();
        let (action, resource) = (Uid::action(action), Uid::new("order", "1"));
        let query = Query::new(principal, &action, &resource).context(&context).at(at);
        let found = world.explain(&query).unwrap();
        let mut text = format!("{:?}\n", found.decision.effect);
        for by in &found.determining {
            let path: Vec<String> =
                by.principal.iter().map(|step| format!(" -> {}", step.entity)).collect();
            text.push_str(&format!("by {}{}\n", by.item, path.join("")));
            by.seen
                .iter()
                .for_each(|seen| text.push_str(&format!("  {} = {}\n", seen.part, seen.value)));
        }
        for (word, list) in [("near", &found.near), ("other", &found.others)] {
            for miss in list {
                text.push_str(&format!("{word} {}: {}\n", miss.policy.id, miss.why));
                miss.seen
                    .iter()
                    .for_each(|seen| text.push_str(&format!("  {} = {}\n", seen.part, seen.value)));
            }
        }
        found.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
        text
    };
    let check = |found: String, expected: Expect| expected.assert_eq(&found);
    check(
        explain(&user("alice"), "read", json!({"hour": 9, "override": true}), 50),
        expect![[r#"
        Allow
        by grant `g` of service `shop` -> team::"red" -> role::"admin"
        by policy `office` of service `shop`
          context.hour = 9
          principal.dept = "sales"
        other blocked: its condition is false
          context has override = true
    "#]],
    );
    check(
        explain(&user("alice"), "read", json!({"hour": 9}), 50),
        expect![[r#"
        Deny(Forbid)
        by policy `blocked` of service `shop` -> team::"red" -> role::"blocked"
          context has override = false
    "#]],
    );
    check(
        explain(&user("bob"), "write", json!({}), 50),
        expect![[r#"
        Allow
        by grant `g` of service `shop` -> role::"admin"
        other blocked: `user::"bob"` is not in `role::"blocked"`
        other office: `Action::"write"` does not match `action == Action::"read"`
    "#]],
    );
    check(
        explain(&user("bob"), "write", json!({}), 100),
        expect![[r#"
        Deny(NoPermit)
        near g: `user::"bob"` is not in `role::"admin"` any more: its place in `role::"admin"` ended at 1970-01-01T00:01:40Z
        near office: `Action::"write"` does not match `action == Action::"read"`
        other blocked: `user::"bob"` is not in `role::"blocked"`
    "#]],
    );
    check(
        explain(&user("alcie"), "raed", json!({}), 50),
        expect![[r#"
        Deny(NoPermit)
        near office: `Action::"raed"` does not match `action == Action::"read"`, did you mean `read`?
        other blocked: `user::"alcie"` is not in `role::"blocked"`
        note: `user::"alcie"` is not stored, and is in nothing
    "#]],
    );
    check(
        explain(&user("alice"), "raed", json!({"override": 1}), 50),
        expect![[r#"
        Deny(NoPermit)
        near g: `Action::"raed"` does not match `action in [Action::"read", Action::"write"]`, did you mean `read`?
        near office: `Action::"raed"` does not match `action == Action::"read"`, did you mean `read`?
        other blocked: its condition is false
          context has override = true
    "#]],
    );
}

#[test]
fn a_schema_says_what_may_be_meant() {
    let text = "entity user; entity order; action read, write appliesTo \
                { principal: user, resource: order };";
    let schema = SchemaBody { text: text.to_owned() };
    let items = vec![
        Item::new(SERVICE, "", ItemBody::Schema(schema)),
        policy("p", "permit(principal, action == Action::\"read\", resource);"),
    ];
    let world = world(items);
    let why = |principal: &Uid, action: &str, kind: &str| {
        let (action, resource) = (Uid::action(action), Uid::new(kind, "1"));
        let found = world.explain(&Query::new(principal, &action, &resource)).unwrap();
        found.near.iter().map(|miss| miss.why.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        why(&user("a"), "raed", "order"),
        "the schema has no action `Action::\"raed\"`, did you mean `read`?"
    );
    assert_eq!(
        why(&user("a"), "read", "ordre"),
        "the schema has no entity type `ordre`, did you mean `order`?"
    );
    assert_eq!(
        why(&user("a"), "destroy", "order"),
        "the schema has no action `Action::\"destroy\"`"
    );
    // Everyone is whoever the schema knows.
    let (resource, other) = (Uid::new("order", "1"), Uid::action("write"));
    let asked =
        WhoCan { service: SERVICE, resource: &resource, action: None, kind: None, now_unix_s: 0 };
    assert_eq!(shown(&all(&world, &asked, 10)), "any user: read\n  by p \n");
    assert_eq!(shown(&all(&world, &WhoCan { action: Some(&other), ..asked }, 10)), "");
}
