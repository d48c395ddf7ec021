//! Decisions, publishing and memory, measured: `cargo run --release -p keepgate-policy --example
//! decide_bench`. Prints what `docs/benchmarks.md` quotes.
//!
//! Three deciders answer the same questions in the same run and must agree: this crate's world,
//! stock `cedar_policy::Authorizer` on linked templates, and, as the floor, a hand-written table
//! of (role, action, group) in hash maps, which knows nothing but this one shape of grants.
//!
//! World and table are asked in the same three ways: from texts; as a gate asks, which has what its
//! routes are about at hand and hashes the principal's text; and with all three looked up before. From
//! texts, the world also names the policies that determined the decision, as stock Cedar does; in the
//! other ways it does not, as nobody there asks for them. The table never does.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark may fail by panicking"
)]

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use cedar_policy::{
    Authorizer, Context, Entities, EntityUid, PolicyId, PolicySet, SlotId, Template,
};
use foldhash::fast::FixedState;
use keepgate_policy::model::{EntityBody, GrantBody, MemberBody, PolicyBody};
use keepgate_policy::world::{Prepared, Principals};
use keepgate_policy::{
    Change, Delta, Digest, Effect, Item, ItemBody, ItemKey, Query, Resolved, Revision, Uid, World,
};
use serde_json::json;

const SERVICE: &str = "shop";
const ACTIONS: [&str; 5] = ["view", "edit", "share", "delete", "print"];
const USERS: usize = 1_000;
const FOLDERS: usize = 500;
const DOCS: usize = 5_000;

fn main() {
    println!("machine: {} cores, {}", cores(), model_name());
    // `decisions` or `memory` alone, where named.
    let only = std::env::args().nth(1);
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("memory") {
        memory_and_publishing();
    }
    if wanted("decisions") {
        [1_000, 10_000, 100_000].into_iter().for_each(decisions);
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn user(n: usize) -> Uid {
    Uid::new("user", format!("user-{n:07}"))
}

fn role(n: usize) -> Uid {
    Uid::new("role", format!("role-{n:05}"))
}

fn folder(n: usize) -> Uid {
    Uid::new("folder", format!("folder-{n:04}"))
}

fn doc(n: usize) -> Uid {
    Uid::new("doc", format!("document-{n:06}"))
}

fn entity(uid: Uid, parents: Vec<Uid>) -> Item {
    let (attrs, tags) = Default::default();
    Item::new("", "", ItemBody::Entity(EntityBody { uid, attrs, parents, tags }))
}

fn world(items: &[Item]) -> World {
    World::from_items(Revision(1), Digest::of_all(items), items).unwrap()
}

struct Question {
    principal: Uid,
    action: Uid,
    resource: Uid,
    /// Places of the three among the users, actions and documents.
    places: [usize; 3],
}

fn query(question: &Question) -> Query<'_> {
    Query::new(&question.principal, &question.action, &question.resource).service(SERVICE)
}

/// The floor: one shape of grants, in hash maps.
#[derive(Default)]
struct Table {
    roles: HashMap<String, Vec<u32>, FixedState>,
    groups: HashMap<String, Vec<u32>, FixedState>,
    actions: HashMap<String, u32, FixedState>,
    grants: HashSet<(u32, u32, u32), FixedState>,
}

impl Table {
    fn holds(&self, roles: &[u32], action: u32, groups: &[u32]) -> bool {
        roles
            .iter()
            .any(|role| groups.iter().any(|group| self.grants.contains(&(*role, action, *group))))
    }

    fn allows(&self, question: &Question) -> bool {
        let (Some(roles), Some(action), Some(groups)) = (
            self.roles.get(question.principal.id.as_str()),
            self.actions.get(question.action.id.as_str()),
            self.groups.get(question.resource.id.as_str()),
        ) else {
            return false;
        };
        self.holds(roles, *action, groups)
    }
}

/// Time of one call: the median and the mean over batches.
fn per_call(calls: usize, batch: usize, mut call: impl FnMut(usize)) -> (Duration, Duration) {
    for at in 0..calls.min(20_000) {
        call(at);
    }
    let mut times: Vec<Duration> = (0..calls / batch)
        .map(|n| {
            let start = Instant::now();
            (0..batch).for_each(|at| call(n * batch + at));
            start.elapsed() / batch as u32
        })
        .collect();
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    times.sort();
    (times[times.len() / 2], mean)
}

fn decisions(grants: usize) {
    let rng = &mut Rng(grants as u64);
    let roles = grants / 10;
    let mut items = Vec::new();
    let mut table = Table::default();
    for (at, action) in ACTIONS.iter().enumerate() {
        table.actions.insert((*action).to_owned(), at as u32);
    }
    let mut held = Vec::new();
    for n in 0..USERS {
        let mut mine: Vec<usize> = (0..3).map(|_| rng.below(roles)).collect();
        mine.sort_unstable();
        mine.dedup();
        items.push(entity(user(n), mine.iter().map(|n| role(*n)).collect()));
        table.roles.insert(user(n).id, mine.iter().map(|n| *n as u32).collect());
        held.push(mine);
    }
    // Folders 0..50 are on top, each other one is in one of them, each document in some folder.
    for n in 0..FOLDERS {
        items.push(entity(folder(n), if n < 50 { vec![] } else { vec![folder(n % 50)] }));
    }
    for n in 0..DOCS {
        let at = n % FOLDERS;
        items.push(entity(doc(n), vec![folder(at)]));
        let groups = if at < 50 { vec![at as u32] } else { vec![at as u32, at as u32 % 50] };
        table.groups.insert(doc(n).id, groups);
    }
    let mut granted: Vec<Vec<(usize, usize)>> = vec![Vec::new(); roles];
    for n in 0..grants {
        let (role_n, action, folder_n) = (n % roles, rng.below(ACTIONS.len()), rng.below(FOLDERS));
        let body = GrantBody {
            principal: role(role_n),
            actions: vec![Uid::action(ACTIONS[action])],
            resource: Some(folder(folder_n)),
            until_unix_s: None,
        };
        items.push(Item::new(SERVICE, &format!("grant-{n:06}"), ItemBody::Grant(body)));
        table.grants.insert((role_n as u32, action as u32, folder_n as u32));
        granted[role_n].push((action, folder_n));
    }
    let world = world(&items);

    // Half of the questions ask for something granted.
    let questions: Vec<Question> = (0..50_000)
        .map(|at| {
            let who = rng.below(USERS);
            let (action, at_folder) = if at % 2 == 0 {
                let of = &granted[held[who][rng.below(held[who].len())]];
                of[rng.below(of.len())]
            } else {
                (rng.below(ACTIONS.len()), rng.below(FOLDERS))
            };
            let doc_n = at_folder + FOLDERS * rng.below(DOCS / FOLDERS);
            Question {
                principal: user(who),
                action: Uid::action(ACTIONS[action]),
                resource: doc(doc_n),
                places: [who, action, doc_n],
            }
        })
        .collect();
    let ask = |at: usize| &questions[at % questions.len()];

    let (floor, _) = per_call(2_000_000, 100, |at| {
        black_box(table.allows(ask(at)));
    });
    let (ours, mean) = per_call(2_000_000, 100, |at| {
        black_box(world.decide(&query(ask(at))).unwrap());
    });

    // As a gate asks, and with all looked up before.
    let known = |uids: Vec<Uid>| -> Vec<Resolved> {
        uids.iter().map(|uid| world.resolve(SERVICE, uid).unwrap()).collect()
    };
    let docs = known((0..DOCS).map(doc).collect());
    let actions = known(ACTIONS.iter().map(|action| Uid::action(action)).collect());
    let users: Vec<Resolved> =
        (0..USERS).map(|n| world.resolve_principal(SERVICE, &user(n), &[]).unwrap()).collect();
    let roles_of: Vec<&[u32]> = (0..USERS).map(|n| table.roles[&user(n).id].as_slice()).collect();
    let groups_of: Vec<&[u32]> = (0..DOCS).map(|n| table.groups[&doc(n).id].as_slice()).collect();
    let nothing = Prepared::nothing();
    let mut principals = Principals::new(&world, SERVICE);
    let mut gate_allows = |question: &Question| {
        let [_, action, resource] = question.places;
        let (action, resource) = (&actions[action], &docs[resource]);
        let query = Query::new(&question.principal, action.uid(), resource.uid()).service(SERVICE);
        let query = query.resolved_action(action).resolved_resource(resource);
        let verdict = match principals.of(&question.principal, &[]) {
            Some(principal) => world.judge(&query.resolved_principal(&principal), nothing),
            None => world.judge(&query, nothing),
        };
        verdict.unwrap().effect == Effect::Allow
    };
    let known_allows = |question: &Question| {
        let [who, action, resource] = question.places;
        let query = query(question)
            .resolved_principal(&users[who])
            .resolved_action(&actions[action])
            .resolved_resource(&docs[resource]);
        world.judge(&query, nothing).unwrap().effect == Effect::Allow
    };
    let table_as_gate = |question: &Question| {
        let [_, action, resource] = question.places;
        let roles = table.roles.get(question.principal.id.as_str());
        roles.is_some_and(|roles| table.holds(roles, action as u32, groups_of[resource]))
    };
    let table_known = |question: &Question| {
        let [who, action, resource] = question.places;
        table.holds(roles_of[who], action as u32, groups_of[resource])
    };
    for question in &questions {
        let allow = world.decide(&query(question)).unwrap().effect == Effect::Allow;
        assert_eq!(gate_allows(question), allow, "as a gate asks");
        assert_eq!(known_allows(question), allow, "with all looked up");
        assert_eq!(table_as_gate(question), allow, "the table, as a gate asks");
        assert_eq!(table_known(question), allow, "the table, with all looked up");
    }
    let time = |allows: &mut dyn FnMut(&Question) -> bool| {
        per_call(2_000_000, 100, |at| {
            black_box(allows(black_box(ask(at))));
        })
        .0
    };
    let (floor_gate, ours_gate) =
        (time(&mut |question| table_as_gate(question)), time(&mut gate_allows));
    let (floor_known, ours_known) =
        (time(&mut |question| table_known(question)), time(&mut |question| known_allows(question)));

    // The same world with a policy whose condition is looked at in every decision.
    let text =
        "forbid (principal is user, action, resource) when { principal in role::\"banned\" };";
    let body = PolicyBody { text: text.to_owned(), file: String::new() };
    let conditional = world
        .apply(&Delta {
            previous: world.revision(),
            revision: Revision(2),
            changes: vec![Change::Put(Item::new(SERVICE, "banned", ItemBody::Policy(body)))],
            digest: None,
        })
        .unwrap();
    let (with_condition, _) = per_call(400_000, 100, |at| {
        black_box(conditional.decide(&query(ask(at))).unwrap());
    });

    let (policies, entities) = stock(&items);
    let authorizer = Authorizer::new();
    let uid = |uid: &Uid| -> EntityUid { uid.to_string().parse().unwrap() };
    let samples = (1_000_000 / grants).clamp(15, 500);
    let mut allowed = 0;
    let mut times: Vec<Duration> = (0..samples)
        .map(|at| {
            let question = ask(at);
            let request = cedar_policy::Request::new(
                uid(&question.principal),
                uid(&question.action),
                uid(&question.resource),
                Context::empty(),
                None,
            )
            .unwrap();
            let start = Instant::now();
            let response = authorizer.is_authorized(&request, &policies, &entities);
            let time = start.elapsed();
            let allow = response.decision() == cedar_policy::Decision::Allow;
            allowed += usize::from(allow);
            let decision = world.decide(&query(question)).unwrap();
            assert_eq!(decision.effect == Effect::Allow, allow, "world and stock differ");
            assert_eq!(table.allows(question), allow, "table and stock differ");
            time
        })
        .collect();
    assert!(allowed > 0 && allowed < samples, "the questions are all alike");
    times.sort();
    let stock = times[times.len() / 2];
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    println!(
        "decision, {grants:>6} grants: keepgate p50 {ours:>9.3?} mean {mean:>9.3?} | with one \
         condition {with_condition:>9.3?} | hash map {floor:>9.3?} (keepgate {:.2}x) | stock \
         {stock:>9.3?} ({:.0}x keepgate)",
        ratio(ours, floor),
        ratio(stock, ours),
    );
    for (way, ours, floor) in [
        ("as a gate asks", ours_gate, floor_gate),
        ("all looked up before", ours_known, floor_known),
    ] {
        println!(
            "decision, {grants:>6} grants, {way}: keepgate p50 {ours:>9.3?} | hash map {floor:>9.3?} \
             (keepgate {:.2}x)",
            ratio(ours, floor),
        );
    }
}

/// The same world for the stock authorizer: one template, linked.
fn stock(items: &[Item]) -> (PolicySet, Entities) {
    let mut policies = PolicySet::new();
    for action in ACTIONS {
        let text = format!(
            "permit (principal in ?principal, action in [Action::\"{action}\"], resource in ?resource);"
        );
        let template = Template::parse(Some(PolicyId::new(action)), text).unwrap();
        policies.add_template(template).unwrap();
    }
    let mut entities = Vec::new();
    for item in items {
        match &item.body {
            ItemBody::Grant(grant) => {
                let slots = HashMap::from([
                    (SlotId::principal(), grant.principal.to_string().parse().unwrap()),
                    (
                        SlotId::resource(),
                        grant.resource.clone().unwrap().to_string().parse().unwrap(),
                    ),
                ]);
                let template = PolicyId::new(&grant.actions[0].id);
                policies.link(template, PolicyId::new(&item.key.id), slots).unwrap();
            }
            ItemBody::Entity(body) => {
                entities.push(json!({"uid": body.uid, "attrs": {}, "parents": body.parents}));
            }
            _ => {}
        }
    }
    (policies, Entities::from_json_value(entities.into(), None).unwrap())
}

/// A million entities with three parents each.
fn memory_and_publishing() {
    const MANY: usize = 1_000_000;
    const ROLES: usize = 20_000;
    const GRANTS: usize = 10_000;
    let items = || {
        let rng = &mut Rng(7);
        let entities: Vec<[usize; 3]> =
            (0..MANY).map(|_| std::array::from_fn(|_| rng.below(ROLES))).collect();
        let entities = entities.into_iter().enumerate().map(|(n, mut roles)| {
            // Three different ones.
            roles.sort_unstable();
            let roles = [roles[0], roles[1] + ROLES, roles[2] + 2 * ROLES];
            entity(user(n), roles.map(role).to_vec())
        });
        let grants = (0..GRANTS).map(|n| {
            let body = GrantBody {
                principal: role(n),
                actions: vec![Uid::action(ACTIONS[n % 5])],
                resource: Some(folder(n % FOLDERS)),
                until_unix_s: None,
            };
            Item::new(SERVICE, &format!("grant-{n:06}"), ItemBody::Grant(body))
        });
        entities.chain(grants)
    };
    let digest = items().fold(Digest::default(), |sum, item| sum.plus(Digest::of(&item)));
    let before = resident();
    let start = Instant::now();
    let mut world = World::from_items(Revision(1), digest, items()).unwrap();
    let built = start.elapsed();
    let after = resident();
    println!(
        "memory, 1,000,000 entities with 3 parents each: {} MB ({} B an entity), {} MB resident in \
         all; built in {built:.2?}",
        (after - before) / 1_000_000,
        (after - before) / MANY as u64,
        after / 1_000_000,
    );
    // Steps jump about, so that each touches other pages.
    let nth = |at: usize| at * 611_953 % MANY;
    let mut publish = |name: &str, mut change: Box<dyn FnMut(usize) -> Change>| {
        let mut times: Vec<Duration> = (0..401)
            .map(|at| {
                let delta = Delta {
                    previous: world.revision(),
                    revision: Revision(world.revision().0 + 1),
                    changes: vec![change(at)],
                    digest: None,
                };
                let start = Instant::now();
                let next = world.apply(&delta).unwrap();
                let time = start.elapsed();
                // The old world goes after the swap, off the measured path as in a replica.
                world = next;
                time
            })
            .collect();
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("publish at 1,000,000 entities, {name}: p50 {p50:.1?}, p99 {p99:.1?}");
    };
    let member = |n| MemberBody {
        member: user(n),
        role: role(n % ROLES),
        source: String::new(),
        until_unix_s: None,
    };
    publish(
        "a role assigned",
        Box::new(move |at| Change::Put(Item::new("", "", ItemBody::Member(member(nth(at)))))),
    );
    publish(
        "a role revoked",
        Box::new(move |at| Change::Delete(ItemKey::member(&user(nth(at)), &role(nth(at) % ROLES)))),
    );
    publish(
        "an entity replaced",
        Box::new(move |at| Change::Put(entity(user(nth(at)), vec![role(at % 7)]))),
    );
    publish("an entity added", Box::new(|n| Change::Put(entity(user(MANY + n), vec![role(1)]))));
    publish(
        "a grant added",
        Box::new(move |at| {
            let n = nth(at);
            let body = GrantBody {
                principal: role(n % ROLES),
                actions: vec![],
                resource: Some(folder(n % FOLDERS)),
                until_unix_s: None,
            };
            Change::Put(Item::new(SERVICE, &format!("new-{n}"), ItemBody::Grant(body)))
        }),
    );
    let rng = &mut Rng(8);
    let questions: Vec<Question> = (0..200_000)
        .map(|_| Question {
            principal: user(rng.below(MANY)),
            action: Uid::action(ACTIONS[rng.below(5)]),
            resource: folder(rng.below(FOLDERS)),
            places: [0; 3],
        })
        .collect();
    let (p50, _) = per_call(400_000, 100, |at| {
        black_box(world.decide(&query(&questions[at % questions.len()])).unwrap());
    });
    println!("decision at 1,000,000 entities, each user asked for anew: p50 {p50:.3?}");
}

/// Bytes of memory that are resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn model_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown".to_owned(), |line| line.trim_matches([' ', '\t', ':']).to_owned())
}
