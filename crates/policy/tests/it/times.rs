//! Grants and memberships that end: to the second, by the time of the question.

use keepgate_policy::model::{EntityBody, GrantBody, MemberBody, PolicyBody};
use keepgate_policy::{
    Change, Delta, Digest, Item, ItemBody, ItemKey, Query, QueryError, Revision, Snapshot, Uid,
    World,
};

const SERVICE: &str = "orders";

fn member(member: &Uid, role: &str, until_unix_s: Option<u64>) -> Item {
    let (member, role) = (member.clone(), Uid::role(role));
    let body = MemberBody { member, role, source: String::new(), until_unix_s };
    Item::new("", "", ItemBody::Member(body))
}

fn grant(id: &str, role: &str, until_unix_s: Option<u64>) -> Item {
    let (principal, actions) = (Uid::role(role), vec![Uid::action("read")]);
    let body = GrantBody { principal, actions, resource: None, until_unix_s };
    Item::new(SERVICE, id, ItemBody::Grant(body))
}

fn policy(service: &str, id: &str, text: &str) -> Item {
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    Item::new(service, id, ItemBody::Policy(body))
}

fn world(items: Vec<Item>) -> World {
    let digest = Digest::of_all(&items);
    World::from_snapshot(&Snapshot { revision: Revision(1), digest, items }).unwrap()
}

fn user() -> Uid {
    Uid::new("user", "alice")
}

fn allowed(world: &World, at: u64) -> bool {
    let (alice, read, order) = (user(), Uid::action("read"), Uid::new("order", "1"));
    let query = Query::new(&alice, &read, &order).service(SERVICE).at(at);
    world.decide(&query).unwrap().is_allowed()
}

#[test]
fn a_membership_and_a_grant_count_until_their_second() {
    let cases = [
        (Some(100), None, 100),
        (None, Some(100), 100),
        (Some(100), Some(200), 100),
        (Some(300), Some(200), 200),
    ];
    for (of_member, of_grant, end) in cases {
        let world = world(vec![member(&user(), "r", of_member), grant("g", "r", of_grant)]);
        for (at, expected) in [(0, true), (end - 1, true), (end, false), (end + 1, false)] {
            assert_eq!(allowed(&world, at), expected, "{of_member:?} {of_grant:?} at {at}");
        }
    }
}

#[test]
fn a_question_without_a_time_is_not_decided_where_something_ends() {
    let (alice, read, order) = (user(), Uid::action("read"), Uid::new("order", "1"));
    let query = Query::new(&alice, &read, &order).service(SERVICE);
    let never = world(vec![member(&user(), "r", None), grant("g", "r", None)]);
    assert!(never.decide(&query).unwrap().is_allowed());
    assert!(!never.depends_on_time(SERVICE));
    for items in [
        vec![member(&user(), "r", Some(9)), grant("g", "r", None)],
        vec![member(&user(), "r", None), grant("g", "r", Some(9))],
        // What has nothing to do with the question ends too: nobody looks.
        vec![member(&user(), "x", Some(9)), grant("g", "r", None)],
    ] {
        let world = world(items);
        assert_eq!(world.decide(&query), Err(QueryError::Time));
        assert!(world.explain(&query).is_err());
        assert!(world.depends_on_time(SERVICE) && world.depends_on_time(""));
    }
}

#[test]
fn an_entity_that_is_known_by_an_ended_membership_alone_is_unknown() {
    let text = "permit (principal, action, resource) when { user::\"alice\".level == 1 };";
    let error = |items: Vec<Item>, at| {
        let (bob, read, order) = (Uid::new("user", "bob"), Uid::action("read"), Uid::new("o", "1"));
        let query = Query::new(&bob, &read, &order).service(SERVICE).at(at);
        world(items).decide(&query).unwrap().errors.remove(0).message
    };
    let policy = policy(SERVICE, "p", text);
    let ends = vec![policy.clone(), member(&user(), "r", Some(9))];
    let stays = vec![policy.clone(), member(&user(), "r", None)];
    assert_eq!(error(ends.clone(), 8), error(stays, 9));
    assert_eq!(error(ends, 9), error(vec![policy], 9));
}

#[test]
fn a_parent_of_the_entity_itself_stays_when_the_membership_ends() {
    let body = EntityBody {
        uid: user(),
        attrs: Default::default(),
        parents: vec![Uid::role("r")],
        tags: Default::default(),
    };
    let entity = Item::new("", "", ItemBody::Entity(body));
    let world = world(vec![entity, member(&user(), "r", Some(9)), grant("g", "r", None)]);
    assert!(allowed(&world, 10));
}

#[test]
fn ends_move_with_their_items() {
    let key = ItemKey::member(&user(), &Uid::role("r"));
    let first = vec![member(&user(), "r", Some(100)), grant("g", "r", Some(200))];
    let mut world = world(first);
    assert_eq!((world.next_end(SERVICE, 0), world.last_end(SERVICE, 99)), (Some(100), None));
    assert_eq!(
        (world.next_end(SERVICE, 100), world.last_end(SERVICE, 100)),
        (Some(200), Some(100))
    );
    assert_eq!((world.next_end(SERVICE, 200), world.last_end(SERVICE, 999)), (None, Some(200)));
    // Another service has no such grant, and the same directory.
    assert_eq!(world.next_end("other", 100), None);
    let steps = [
        (Change::Put(member(&user(), "r", Some(150))), Some(150)),
        (Change::Put(member(&user(), "r", None)), Some(200)),
        (Change::Put(member(&user(), "r", Some(7))), Some(7)),
        (Change::Delete(key), Some(200)),
        (Change::Put(grant("g", "r", None)), None),
    ];
    for (at, (change, next)) in steps.into_iter().enumerate() {
        let revision = world.revision();
        let delta = Delta {
            previous: revision,
            revision: Revision(revision.0 + 1),
            changes: vec![change],
            digest: None,
        };
        world = world.apply(&delta).unwrap();
        assert_eq!(world.next_end(SERVICE, 0), next, "step {at}");
    }
    assert!(!world.depends_on_time(SERVICE));
    assert_eq!(world.digest(), Digest::of_all(&[grant("g", "r", None)]));
}

#[test]
fn an_item_that_ends_needs_this_release_and_one_that_does_not_is_as_before() {
    for (item, plain) in [
        (member(&user(), "r", Some(9)), member(&user(), "r", None)),
        (grant("g", "r", Some(9)), grant("g", "r", None)),
    ] {
        assert_eq!((item.needs(), plain.needs()), (3, 1));
        assert!(!String::from_utf8(plain.encode()).unwrap().contains("until"));
        assert_eq!(Item::decode(item.key.clone(), &item.encode()).unwrap(), item);
    }
}

#[test]
fn an_end_beyond_the_year_9999_is_refused() {
    let last = keepgate_policy::instant::LAST;
    for (until, count) in [(last, 0), (last + 1, 1), (u64::MAX, 1)] {
        for item in [member(&user(), "r", Some(until)), grant("g", "r", Some(until))] {
            let problems = keepgate_policy::validate::world(&[item]);
            let about = problems.iter().filter(|p| p.message.contains("until_unix_s"));
            assert_eq!(about.count(), count, "{until}: {problems:?}");
        }
    }
}

/// What another service's policies name, in each way that a policy has.
#[test]
fn a_role_is_named_elsewhere_by_scope_condition_grant_and_through_other_roles() {
    let role = Uid::role("r");
    let above = member(&role, "above", None);
    let named = |items: Vec<Item>| {
        let naming = world(items).named_elsewhere(SERVICE, std::slice::from_ref(&role));
        naming.map(|naming| format!("{} {}", naming.service, naming.policy))
    };
    let mut foreign = grant("g", "r", None);
    foreign.key.service = "other".to_owned();
    let text = |text: &str| policy("other", "p", text);
    let elsewhere = |id: &str| Some(format!("other {id}"));
    for (items, expected) in [
        (vec![], None),
        (vec![grant("g", "r", None)], None),
        (vec![foreign], elsewhere("g")),
        (vec![text("permit (principal, action, resource);")], None),
        (vec![text("permit (principal in role::\"r\", action, resource);")], elsewhere("p")),
        (vec![text("forbid (principal == role::\"r\", action, resource);")], elsewhere("p")),
        (
            vec![text("permit (principal is user in role::\"r\", action, resource);")],
            elsewhere("p"),
        ),
        (
            vec![text("permit (principal, action, resource) when { principal in role::\"r\" };")],
            elsewhere("p"),
        ),
        (
            vec![text(
                "permit (principal, action, resource) unless { [role::\"r\"].contains(principal) };",
            )],
            elsewhere("p"),
        ),
        (
            vec![above.clone(), text("permit (principal in role::\"above\", action, resource);")],
            elsewhere("p"),
        ),
        (vec![text("permit (principal in role::\"above\", action, resource);")], None),
        (vec![policy(SERVICE, "p", "permit (principal in role::\"r\", action, resource);")], None),
    ] {
        let shown = format!("{items:?}");
        assert_eq!(named(items), expected, "{shown}");
    }
    // As the other service sees the role: an entity of its own may put it into another one.
    let body = EntityBody {
        uid: role.clone(),
        attrs: Default::default(),
        parents: vec![Uid::role("above")],
        tags: Default::default(),
    };
    let entity = Item::new("other", "", ItemBody::Entity(body));
    let by = text("permit (principal in role::\"above\", action, resource);");
    assert_eq!(named(vec![entity, by]), elsewhere("p"));
}

/// A route that only a condition, or an attribute, names: what is below it follows from the paths.
#[test]
fn a_route_that_only_conditions_name_is_above_the_routes_below_it() {
    let decide = |items: Vec<Item>, resource: &Uid| {
        let (alice, get) = (user(), Uid::action("GET"));
        let query = Query::new(&alice, &get, resource).service(SERVICE);
        world(items).decide(&query).unwrap().is_allowed()
    };
    let among = "permit (principal, action, resource) when { resource in route::\"/orders\" };";
    let all = "permit (principal, action, resource) when { resource in principal.routes };";
    let routes = serde_json::json!([{ "__entity": { "type": "route", "id": "/orders" } }]);
    let body = EntityBody {
        uid: user(),
        attrs: [("routes".to_owned(), routes)].into(),
        parents: Vec::new(),
        tags: Default::default(),
    };
    let alice = Item::new("", "", ItemBody::Entity(body));
    let (order, doc) = (Uid::route("/orders/{id}"), Uid::new("doc", "d"));
    let body = EntityBody {
        uid: doc.clone(),
        attrs: Default::default(),
        parents: vec![order.clone()],
        tags: Default::default(),
    };
    let doc_item = Item::new(SERVICE, "", ItemBody::Entity(body));
    for text in [among, all] {
        let items = vec![alice.clone(), doc_item.clone(), policy(SERVICE, "p", text)];
        for (resource, expected) in [
            (&order, true),
            (&doc, true),
            (&Uid::route("/orders/{id}/items"), true),
            (&Uid::route("/ordersx"), false),
            (&Uid::route("/"), false),
        ] {
            assert_eq!(decide(items.clone(), resource), expected, "{text} {resource}");
        }
        // Nothing of the world is a route.
        let alone = vec![alice.clone(), policy(SERVICE, "p", text)];
        assert!(decide(alone, &order), "{text}");
    }
}
