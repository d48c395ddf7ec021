//! A snapshot and deltas give the world of a fresh snapshot; a delta that fails changes nothing.

use keepgate_policy::limits::Written;
use keepgate_policy::model::{GrantBody, LinkBody, MemberBody, PolicyBody};
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::world::WorldError;
use keepgate_policy::{
    Change, Delta, Digest, Effect, Item, ItemBody, ItemKey, Revision, Snapshot, Uid, World,
};
use proptest::prelude::*;
use serde_json::json;

use crate::random::{Items, Json, Question, Rng, SERVICE, Shape};

fn snapshot(revision: u64, items: Vec<Item>) -> World {
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(revision), digest, items }).unwrap()
}

fn delta(world: &World, changes: Vec<Change>, digest: Option<Digest>) -> Delta {
    let previous = world.revision();
    Delta { previous, revision: Revision(previous.0 + 1), changes, digest }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_and_deltas_are_a_fresh_snapshot(seed: u64) {
        let rng = &mut Rng::new(seed);
        let shape = Shape::random(rng);
        // The first world is empty every third time.
        let mut items =
            if rng.chance(67) { Items::random(&shape, rng) } else { Items::templates(&shape, rng) };
        let mut world = snapshot(1, items.to_vec());
        for _ in 0..8 {
            let before = (world.digest(), items.clone(), world.clone());
            let steps = 1 + rng.below(25);
            let changes = items.edit(&shape, rng, steps);
            let digest = Digest::of_all(items.0.values());
            world = world.apply(&delta(&world, changes, Some(digest))).unwrap();
            let fresh = snapshot(world.revision().0, items.to_vec());
            prop_assert_eq!(world.digest(), fresh.digest());
            prop_assert_eq!(world.digest(), digest);
            for (key, item) in &items.0 {
                prop_assert_eq!(world.held(key), Some((Digest::of(item), item.needs())));
            }
            for key in before.1.0.keys().filter(|key| !items.0.contains_key(key)) {
                prop_assert_eq!(world.held(key), None);
            }
            let old = snapshot(before.2.revision().0, before.1.to_vec());
            for _ in 0..30 {
                let question = Question::random(&shape, rng);
                prop_assert_eq!(question.ask(&world), question.ask(&fresh));
                // The world before is untouched by what was shared with it.
                prop_assert_eq!(question.ask(&before.2), question.ask(&old));
            }
        }
        // Everything taken away again leaves nothing behind.
        let changes = items.0.keys().rev().cloned().map(Change::Delete).collect();
        world = world.apply(&delta(&world, changes, Some(Digest::default()))).unwrap();
        prop_assert_eq!(world.digest(), Digest::default());
        prop_assert_eq!(world.services().count(), 0);
        prop_assert_eq!(world.interned(), 0);
    }
}

fn grant(id: &str, principal: Uid) -> Item {
    let body = GrantBody { principal, actions: vec![], resource: None, until_unix_s: None };
    Item::new(SERVICE, id, ItemBody::Grant(body))
}

fn template(id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new(SERVICE, id, ItemBody::Template(body))
}

fn link(id: &str, template: &str) -> Item {
    let body = LinkBody {
        template: template.to_owned(),
        principal: Some(Uid::new("user", "a")),
        resource: None,
    };
    Item::new(SERVICE, id, ItemBody::Link(body))
}

fn ask(world: &World, principal: &str) -> Effect {
    let question = Question {
        principal: Uid::new("user", principal),
        action: Uid::action("read"),
        resource: Uid::new("doc", "d"),
        context: Json::new(),
        claims: None,
        principal_parents: Vec::new(),
        principal_properties: Json::new(),
        action_properties: Json::new(),
        resource_properties: Json::new(),
        at: 0,
    };
    world.decide(&question.query()).unwrap().effect
}

#[test]
fn a_delta_that_does_not_follow_is_a_gap() {
    let world = snapshot(5, vec![grant("g", Uid::new("user", "a"))]);
    let mut next = delta(&world, vec![], None);
    next.previous = Revision(4);
    let error = world.apply(&next).unwrap_err();
    assert_eq!(error, WorldError::Gap { expected: Revision(4), held: Revision(5) });
}

#[test]
fn another_digest_is_refused() {
    let item = grant("g", Uid::new("user", "a"));
    let snapshot =
        Snapshot { revision: Revision(1), digest: Digest::default(), items: vec![item.clone()] };
    assert_eq!(World::from_snapshot(&snapshot).unwrap_err(), WorldError::Digest(Revision(1)));
    let world = self::snapshot(1, vec![item.clone()]);
    let next = delta(&world, vec![Change::Delete(item.key)], Some(Digest([1, 0, 0, 0])));
    assert_eq!(world.apply(&next).unwrap_err(), WorldError::Digest(Revision(2)));
    assert_eq!(ask(&world, "a"), Effect::Allow);
}

#[test]
fn links_follow_their_template() {
    let permit = template("t", "permit (principal == ?principal, action, resource);");
    let forbid = template("t", "forbid (principal == ?principal, action, resource);");
    // A link may come before its template in the same delta, but not without it.
    let world = snapshot(1, vec![grant("all", Uid::new("user", "b"))]);
    let alone = world.apply(&delta(&world, vec![Change::Put(link("l", "t"))], None)).unwrap_err();
    assert_eq!(alone.to_string(), "link `l` of service `shop`: its template `t` does not exist");
    let changes = vec![Change::Put(link("l", "t")), Change::Put(permit.clone())];
    let world = world.apply(&delta(&world, changes, None)).unwrap();
    assert_eq!(ask(&world, "a"), Effect::Allow);
    let denied = world.apply(&delta(&world, vec![Change::Put(forbid)], None)).unwrap();
    assert!(matches!(ask(&denied, "a"), Effect::Deny(_)));
    assert_eq!(ask(&world, "a"), Effect::Allow);
    let orphan = delta(&denied, vec![Change::Delete(permit.key.clone())], None);
    assert!(denied.apply(&orphan).is_err());
    let both = vec![Change::Delete(permit.key), Change::Delete(link("l", "t").key)];
    let world = denied.apply(&delta(&denied, both, None)).unwrap();
    assert!(matches!(ask(&world, "a"), Effect::Deny(_)));
}

#[test]
fn items_that_cannot_be_decided_on_are_refused_by_name() {
    let world = snapshot(1, vec![grant("g", Uid::new("user", "a"))]);
    let policy = |text: &str| {
        let body = PolicyBody { text: text.to_owned(), file: String::new() };
        Item::new(SERVICE, "p", ItemBody::Policy(body))
    };
    let mut foreign = grant("h", Uid::new("user", "a"));
    foreign.key.id.clear();
    for (item, start) in [
        (policy("permit (principal"), "policy `p` of service `shop`: "),
        (
            policy("permit (principal == ?principal, action, resource);"),
            "policy `p` of service `shop`: it has a slot",
        ),
        (
            template("t", "permit (principal, action, resource);"),
            "template `t` of service `shop`: it has no slot",
        ),
        (grant("h", Uid::new("no type", "a")), "grant `h` of service `shop`: `no type` is not an"),
        (foreign, "grant of service `shop`: "),
    ] {
        let error = world.apply(&delta(&world, vec![Change::Put(item)], None)).unwrap_err();
        assert!(error.to_string().starts_with(start), "{error}");
    }
}

#[test]
fn a_membership_counts_while_it_is_there() {
    let role = Uid::role("editor\" in role::\"x");
    let body = MemberBody {
        member: Uid::new("user", "a\" in user::\"b"),
        role: role.clone(),
        source: "shop".to_owned(),
        until_unix_s: None,
    };
    let member = Item::new("", "", ItemBody::Member(body));
    let world = snapshot(1, vec![grant("g", role), member.clone()]);
    assert_eq!(ask(&world, "a\" in user::\"b"), Effect::Allow);
    let gone = delta(&world, vec![Change::Delete(member.key)], None);
    let world = world.apply(&gone).unwrap();
    assert!(matches!(ask(&world, "a\" in user::\"b"), Effect::Deny(_)));
}

#[test]
fn lists_keep_their_pointer_while_nothing_in_them_changes() {
    let service = |help: &str| {
        let settings =
            ServiceSettings { help: Some(help.to_owned()), ..ServiceSettings::named(SERVICE) };
        Item::new(SERVICE, "", ItemBody::Service(Box::new(settings)))
    };
    let route = |path: &str| {
        let route = serde_json::from_value(json!({"method": "GET", "path": path})).unwrap();
        Item::new(SERVICE, "", ItemBody::Route(Box::new(route)))
    };
    let plan = |about: &str| {
        let plan = Written::read(json!({"name": "gold", "description": about})).unwrap();
        Item::new(SERVICE, "", ItemBody::Plan(Box::new(plan)))
    };
    let world = snapshot(1, vec![service("x"), route("/b"), route("/a"), plan("one")]);
    let view = world.service(SERVICE).unwrap();
    let paths: Vec<_> = view.routes().iter().map(|route| route.path.as_str()).collect();
    assert_eq!(paths, ["/a", "/b"]);
    let changes =
        vec![Change::Put(service("y")), Change::Put(plan("two")), Change::Put(route("/a"))];
    let next = world.apply(&delta(&world, changes, None)).unwrap();
    let after = next.service(SERVICE).unwrap();
    assert_eq!(after.settings().help.as_deref(), Some("y"));
    assert!(std::sync::Arc::ptr_eq(view.routes(), after.routes()));
    assert_eq!(after.plans()[0].description, "two");
    assert_eq!(view.plans()[0].description, "one");
    assert_eq!(after.limits().plans["gold"].description, "two");
    let gone = delta(&next, vec![Change::Delete(ItemKey::route(SERVICE, "GET", "/a"))], None);
    let last = next.apply(&gone).unwrap();
    assert_eq!(last.service(SERVICE).unwrap().routes().len(), 1);
    assert!(last.service("other").is_none());
}

#[test]
fn a_world_decides_as_before_until_something_that_decides_changes() {
    let role = Uid::new("role", "r");
    let member = |id: &str| {
        let (member, role) = (Uid::new("user", id), role.clone());
        Item::new(
            "",
            "",
            ItemBody::Member(MemberBody {
                member,
                role,
                source: String::new(),
                until_unix_s: None,
            }),
        )
    };
    let settings = |name: &str, help: &str| {
        let settings =
            ServiceSettings { help: Some(help.to_owned()), ..ServiceSettings::named(name) };
        Item::new(name, "", ItemBody::Service(Box::new(settings)))
    };
    let first = snapshot(1, vec![grant("g", role.clone()), member("a"), settings("other", "x")]);
    let next = |change: Change| first.apply(&delta(&first, vec![change], None)).unwrap();
    let same = next(Change::Put(settings("other", "y")));
    assert!(same.decides_as(&first, SERVICE) && first.decides_as(&same, SERVICE));
    assert!(!same.decides_as(&first, "other"));
    for change in [
        Change::Delete(member("a").key),
        Change::Put(member("b")),
        Change::Put(grant("h", role.clone())),
        Change::Delete(ItemKey::grant(SERVICE, "g")),
    ] {
        assert!(!next(change).decides_as(&first, SERVICE));
    }
    // The same items, but nothing shared: it cannot be told without a comparison.
    let again = snapshot(1, vec![grant("g", role.clone()), member("a"), settings("other", "x")]);
    assert!(!again.decides_as(&first, SERVICE));
}
