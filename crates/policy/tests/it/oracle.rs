//! The world decides as `cedar_policy::Authorizer` does: the same random requests to both.
//!
//! The stock side is built here from the same items by other means (JSON entities with merged
//! layers, explicit route parents, policies from text), so that the two share no code.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    PolicySet, Request, SlotId, Template,
};
use keepgate_policy::model::{EntityBody, GrantBody};
use keepgate_policy::{
    Delta, DenyReason, Digest, Effect, Item, ItemBody, Revision, Snapshot, Uid, World,
};
use serde_json::{Value, json};

use crate::random::{Items, Json, Question, Rng, Shape, TIMES};

const WORLDS: u64 = 420;
const ROUNDS: u64 = 4;
const QUESTIONS: usize = 64;

/// Entities as JSON by uid, layers merged.
type Truth = BTreeMap<Uid, EntityBody>;

fn cedar_uid(uid: &Uid) -> EntityUid {
    let kind: EntityTypeName = uid.kind.parse().unwrap();
    EntityUid::from_type_name_and_id(kind, EntityId::new(&uid.id))
}

fn truth(items: &[Item]) -> Truth {
    let mut truth = Truth::new();
    let blank = |uid: &Uid| EntityBody {
        uid: uid.clone(),
        attrs: BTreeMap::new(),
        parents: Vec::new(),
        tags: BTreeMap::new(),
    };
    // In key order the directory, whose service is empty, comes first: services override it.
    for item in items {
        match &item.body {
            ItemBody::Entity(body) => {
                let merged = truth.entry(body.uid.clone()).or_insert_with(|| blank(&body.uid));
                merged.attrs.extend(body.attrs.clone());
                merged.tags.extend(body.tags.clone());
                merged.parents.extend(body.parents.clone());
            }
            ItemBody::Member(body) => {
                let merged =
                    truth.entry(body.member.clone()).or_insert_with(|| blank(&body.member));
                merged.parents.push(body.role.clone());
            }
            _ => {}
        }
    }
    for route in Items::routes() {
        let merged = truth.entry(route.clone()).or_insert_with(|| blank(&route));
        let path = &route.id;
        if path.starts_with('/') && path.len() > 1 {
            let cut = path.rfind('/').unwrap().max(1);
            merged.parents.push(Uid::route(&path[..cut]));
        }
    }
    truth
}

/// `/admin/x/y` is in `/admin/x`, which only the stock side needs as an entity of its own.
fn between(truth: &mut Truth) {
    let path = "/admin/x";
    let body = EntityBody {
        uid: Uid::route(path),
        attrs: BTreeMap::new(),
        parents: vec![Uid::route("/admin")],
        tags: BTreeMap::new(),
    };
    truth.entry(body.uid.clone()).or_insert(body);
}

fn entities(truth: &Truth) -> Entities {
    let json: Vec<Value> = truth
        .values()
        .map(|body| {
            json!({"uid": body.uid, "attrs": body.attrs, "parents": body.parents, "tags": body.tags})
        })
        .collect();
    Entities::from_json_value(json.into(), None).unwrap()
}

fn grant_text(grant: &GrantBody) -> String {
    let actions: Vec<String> = grant.actions.iter().map(Uid::to_string).collect();
    let action = match actions.as_slice() {
        [] => "action".to_owned(),
        _ => format!("action in [{}]", actions.join(", ")),
    };
    let resource = match &grant.resource {
        Some(resource) => format!("resource in {resource}"),
        None => "resource".to_owned(),
    };
    format!("permit (principal in {}, {action}, {resource});", grant.principal)
}

fn policies(items: &[Item]) -> PolicySet {
    let mut set = PolicySet::new();
    for item in items {
        let id = PolicyId::new(&item.key.id);
        match &item.body {
            ItemBody::Policy(body) => {
                set.add(Policy::parse(Some(id), &body.text).unwrap()).unwrap();
            }
            ItemBody::Template(body) => {
                set.add_template(Template::parse(Some(id), &body.text).unwrap()).unwrap();
            }
            ItemBody::Grant(body) => {
                set.add(Policy::parse(Some(id), grant_text(body)).unwrap()).unwrap();
            }
            _ => {}
        }
    }
    for item in items {
        if let ItemBody::Link(link) = &item.body {
            let mut slots = std::collections::HashMap::new();
            if let Some(uid) = &link.principal {
                slots.insert(SlotId::principal(), cedar_uid(uid));
            }
            if let Some(uid) = &link.resource {
                slots.insert(SlotId::resource(), cedar_uid(uid));
            }
            let (template, id) = (PolicyId::new(&link.template), PolicyId::new(&item.key.id));
            set.link(template, id, slots).unwrap();
        }
    }
    set
}

/// What plain JSON of a request means: null is absent, a fraction is a decimal.
fn plain(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Null => return None,
        Value::Number(n) if n.is_f64() => {
            json!({"__extn": {"fn": "decimal", "arg": format!("{n}")}})
        }
        Value::Array(items) => items.iter().filter_map(plain).collect(),
        Value::Object(members) => {
            members.iter().filter_map(|(k, v)| Some((k.clone(), plain(v)?))).collect()
        }
        other => other.clone(),
    })
}

fn plain_all(json: &Json) -> Json {
    json.iter().filter_map(|(name, value)| Some((name.clone(), plain(value)?))).collect()
}

/// The stock answer: allowed, determining policies, policies with errors.
type Answer = (bool, BTreeSet<String>, BTreeSet<String>);

fn stock(truth: &Truth, entities: &Entities, policies: &PolicySet, question: &Question) -> Answer {
    let mut context = plain_all(&question.context);
    let action = plain_all(&question.action_properties);
    if !action.is_empty() {
        context.insert("action".to_owned(), json!(action));
    }
    if let Some(claims) = &question.claims {
        context.insert("claims".to_owned(), json!(plain_all(claims)));
    }
    let context = Context::from_json_value(json!(context), None).unwrap();
    let mut overlaid: BTreeMap<Uid, Json> = BTreeMap::new();
    if !question.principal_parents.is_empty() {
        overlaid.entry(question.principal.clone()).or_default();
    }
    for (uid, properties) in [
        (&question.principal, &question.principal_properties),
        (&question.resource, &question.resource_properties),
    ] {
        let properties = plain_all(properties);
        if !properties.is_empty() {
            overlaid.entry(uid.clone()).or_default().extend(properties);
        }
    }
    let held;
    let entities = if overlaid.is_empty() {
        entities
    } else {
        let changed: Vec<Entity> = overlaid
            .into_iter()
            .map(|(uid, properties)| {
                let mut body = truth.get(&uid).cloned().unwrap_or_else(|| EntityBody {
                    uid: uid.clone(),
                    attrs: BTreeMap::new(),
                    parents: Vec::new(),
                    tags: BTreeMap::new(),
                });
                body.attrs.extend(properties);
                if uid == question.principal {
                    body.parents.extend(question.principal_parents.clone());
                }
                let json = json!({"uid": body.uid, "attrs": body.attrs, "parents": body.parents,
                    "tags": body.tags});
                Entity::from_json_value(json, None).unwrap()
            })
            .collect();
        held = entities.clone().upsert_entities(changed, None).unwrap();
        &held
    };
    let request = Request::new(
        cedar_uid(&question.principal),
        cedar_uid(&question.action),
        cedar_uid(&question.resource),
        context,
        None,
    )
    .unwrap();
    let response = Authorizer::new().is_authorized(&request, policies, entities);
    (
        response.decision() == cedar_policy::Decision::Allow,
        response.diagnostics().reason().map(ToString::to_string).collect(),
        response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| {
                e.policy_id().to_string()
            })
            .collect(),
    )
}

/// How often each thing was exercised.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn count(&mut self, name: &'static str, when: bool) {
        *self.0.entry(name).or_default() += usize::from(when);
    }
}

/// When an item ends.
fn end(item: &Item) -> Option<u64> {
    match &item.body {
        ItemBody::Member(body) => body.until_unix_s,
        ItemBody::Grant(body) => body.until_unix_s,
        _ => None,
    }
}

fn compare(
    (world, before): (&World, &World),
    items: &[Item],
    shape: &Shape,
    rng: &mut Rng,
    tally: &mut Tally,
    place: &str,
) {
    // The stock side never sees what has ended.
    let now = rng.below(TIMES) as u64;
    let ends: Vec<u64> = items.iter().filter_map(end).collect();
    let everything = items.to_vec();
    let items: Vec<Item> =
        items.iter().filter(|item| end(item).is_none_or(|at| now < at)).cloned().collect();
    let items = items.as_slice();
    let mut truth = truth(items);
    between(&mut truth);
    let (entities, policies) = (entities(&truth), policies(items));
    for at in 0..QUESTIONS {
        let question = Question { at: now, ..Question::random(shape, rng) };
        let (allow, reasons, errors) = stock(&truth, &entities, &policies, &question);
        let decision = question.ask(world).unwrap();
        let ours: BTreeSet<String> = decision.determining.iter().map(ToString::to_string).collect();
        let failed: BTreeSet<String> =
            decision.errors.iter().map(|error| error.policy.to_string()).collect();
        let explain = || {
            format!(
                "{place}, question {at}, time {now}: {} in {:?} {} {}, context {:?} {:?}, properties {:?} {:?} {:?}",
                question.principal,
                question.principal_parents,
                question.action,
                question.resource,
                question.context,
                question.claims,
                question.principal_properties,
                question.action_properties,
                question.resource_properties
            )
        };
        if (decision.is_allowed(), &ours, &failed) != (allow, &reasons, &errors) {
            for id in ours.iter().chain(&reasons).chain(&failed).chain(&errors) {
                eprintln!(
                    "{id}: {:?}",
                    policies.policy(&PolicyId::new(id)).map(ToString::to_string)
                );
            }
            for item in &everything {
                eprintln!("{} {}", item.key, String::from_utf8_lossy(&item.encode()));
            }
        }
        assert_eq!(
            (decision.is_allowed(), &ours, &failed),
            (allow, &reasons, &errors),
            "{}",
            explain()
        );
        let forbidden = !allow && !reasons.is_empty();
        let effect = match (allow, forbidden) {
            (true, _) => Effect::Allow,
            (false, true) => Effect::Deny(DenyReason::Forbid),
            (false, false) => Effect::Deny(DenyReason::NoPermit),
        };
        assert_eq!(decision.effect, effect, "{}", explain());
        assert!(decision.determining.is_sorted() && decision.revision == world.revision());
        // What this world looked up before, and what an older one did, changes nothing.
        for (by, which) in [(world, 7), (world, at % 8), (before, 7), (before, at % 8)] {
            let (again, verdict) = question.ask_resolved(world, by, which);
            assert_eq!(again.as_ref(), Ok(&decision), "{which} looked up; {}", explain());
            let verdict = verdict.unwrap();
            assert_eq!(
                (verdict.effect, &verdict.errors, verdict.revision),
                (decision.effect, &decision.errors, decision.revision),
                "{which} looked up; {}",
                explain()
            );
        }
        tally.count(
            "of entities that an older world had looked up",
            before.revision() != world.revision(),
        );

        let text = |id: &String| policies.policy(&PolicyId::new(id)).map(ToString::to_string);
        let any = |test: &dyn Fn(&str) -> bool| reasons.iter().filter_map(text).any(|t| test(&t));
        tally.count("requests", true);
        tally.count("in the second of an end", ends.contains(&now));
        tally.count("in the second before an end", ends.contains(&(now + 1)));
        tally.count("allow", allow);
        tally.count("deny by forbid", forbidden);
        tally.count("deny without permit", !allow && !forbidden);
        tally.count("with erroring policies", !errors.is_empty());
        tally.count(
            "determined by a condition",
            any(&|t| t.contains("when {") || t.contains("unless {")),
        );
        tally.count("determined by a link", reasons.iter().any(|id| id.starts_with('l')));
        tally.count("determined by a grant", reasons.iter().any(|id| id.starts_with('g')));
        tally.count(
            "determined by `is`",
            any(&|t| t.contains("principal is ") || t.contains("resource is ")),
        );
        tally.count(
            "determined by an unscoped side",
            any(&|t| t.contains("principal,") || t.contains("resource)")),
        );
        tally.count("with context", !question.context.is_empty());
        tally.count(
            "with properties",
            !question.principal_properties.is_empty() || !question.resource_properties.is_empty(),
        );
        let has_parents = !question.principal_parents.is_empty();
        tally.count("with parents for the request", has_parents);
        let without = Question { principal_parents: Vec::new(), ..question.clone() };
        let matters = has_parents && without.ask(world).unwrap() != decision;
        tally.count("decided by parents for the request", matters);
        let of_itself = question.resource == question.principal;
        tally.count("decided by parents, about oneself", matters && of_itself);
        tally.count(
            "with parents, principal unknown",
            has_parents && !truth.contains_key(&question.principal),
        );
        tally.count("with claims", question.claims.is_some());
        tally.count(
            "determined by a claim",
            any(&|t| t.contains("context.claims")) && question.claims.is_some(),
        );
        tally.count("with action properties", !question.action_properties.is_empty());
        tally.count("about a route", question.resource.kind == "route");
        tally.count("allowed about a route", allow && question.resource.kind == "route");
        tally.count("principal unknown", !truth.contains_key(&question.principal));
        tally.count("in worlds with deep groups", shape.is_deep());
        tally.count("allowed in worlds with deep groups", allow && shape.is_deep());
        tally.count("in worlds with more than 64 actions", shape.has_many_actions());
        tally.count("determined by an action group", any(&|t| t.contains("Action::\"set")));
    }
}

#[test]
fn the_world_decides_as_cedar_does() {
    let mut tally = Tally::default();
    for seed in 0..WORLDS {
        let rng = &mut Rng::new(seed);
        let shape = Shape::random(rng);
        let mut items = Items::random(&shape, rng);
        let list = items.to_vec();
        let digest = Digest::of_all(&list);
        let mut world =
            World::from_snapshot(&Snapshot { revision: Revision(1), digest, items: list }).unwrap();
        // Numbers that became free are given to others: what had them must not be taken for those.
        let mut before = world.clone();
        for round in 0..ROUNDS {
            let place = format!("world {seed}, round {round}");
            compare((&world, &before), &items.to_vec(), &shape, rng, &mut tally, &place);
            let steps = 1 + rng.below(12);
            let changes = items.edit(&shape, rng, steps);
            let previous = world.revision();
            let delta = Delta {
                previous,
                revision: Revision(previous.0 + 1),
                changes,
                digest: Some(Digest::of_all(items.0.values())),
            };
            let next = world.apply(&delta).unwrap();
            before = std::mem::replace(&mut world, next);
        }
    }
    for (name, count) in &tally.0 {
        println!("{count:>8} {name}");
    }
    assert!(tally.0["requests"] >= 100_000);
    for (name, count) in tally.0 {
        assert!(count >= 1000, "only {count} requests were {name}");
    }
}
