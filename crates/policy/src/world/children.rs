//! Who is below an entity: memberships read downward, and all entities in order.
//!
//! A world knows the parents of each entity, which is what decisions need. Whoever asks from above needs
//! the other direction. It is made when it is first asked for, and shared by the worlds that follow: pages
//! that a later world has not changed are the same in memory, so what differs is found without looking at
//! entities, and is looked at anew. A gate never asks, and never has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::closure::Graph;
use super::layer::{Layer, Slot};
use super::names::{Id, Names};
use super::paged::Paged;

/// Services of which it is kept; the one that was asked for the longest time ago goes first.
const KEPT: usize = 4;

/// It is made anew when this part of all entities has changed, and these besides.
const CHANGED_PART: usize = 64;
const CHANGED: usize = 2_048;

/// Of more routes that something names, it is made anew whenever a name came or went.
const MANY_ROUTES: usize = 20_000;

/// A set of ids.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn get(&self, id: Id) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, id: Id) {
        let at = id as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        if let Some(word) = self.0.get_mut(at) {
            *word |= 1 << (id % 64);
        }
    }
}

/// What was made of one service; whoever makes it holds up only those who ask for the same.
type One = Arc<Mutex<Option<Arc<Children>>>>;

/// What was made, by service; worlds of one line share it.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<(Arc<str>, One)>>);

/// The direction downward, of a world that was.
pub(super) struct Children {
    names: Names,
    directory: Paged<Slot>,
    service: Paged<Slot>,
    /// Entities by type and id.
    order: Vec<Id>,
    /// Where the children of an id begin in `below`; one more than there are ids.
    begins: Vec<u32>,
    below: Vec<Id>,
    routes: Vec<Id>,
}

/// The same, as it is now.
pub(super) struct Downward<'a> {
    graph: Graph<'a>,
    held: Arc<Children>,
    /// What may have changed since; in `held` it counts for nothing.
    changed: Bits,
    /// Those of them that are entities now, by type and id.
    fresh: Vec<Id>,
    below_fresh: HashMap<Id, Vec<Id>, foldhash::fast::FixedState>,
}

fn name(names: &Names, id: Id) -> (&str, &str) {
    (names.text(names.kind(id)), names.text(id))
}

/// All parents, also those whose memberships have ended.
fn each_parent(graph: &Graph<'_>, id: Id, visit: &mut dyn FnMut(Id)) {
    graph.directory.parents(id).for_each(&mut *visit);
    graph.service.parents(id).for_each(&mut *visit);
    if graph.route == Some(graph.names.kind(id)) {
        graph.route_above(graph.names.text(id)).into_iter().for_each(visit);
    }
}

/// Whether one is directly in the other now.
fn is_in(graph: &Graph<'_>, id: Id, parent: Id) -> bool {
    graph.directory.parents_at(id, graph.now).any(|held| held == parent)
        || graph.service.parents(id).any(|held| held == parent)
        || (graph.route == Some(graph.names.kind(id))
            && graph.route_above(graph.names.text(id)) == Some(parent))
}

impl Children {
    fn of(graph: &Graph<'_>) -> Children {
        let names = graph.names;
        let mut order: Vec<Id> = names.entities().collect();
        order.sort_unstable_by(|a, b| name(names, *a).cmp(&name(names, *b)));
        let mut begins = vec![0_u32; names.ids() as usize + 1];
        let mut count = |parent: Id| {
            if let Some(one) = begins.get_mut(parent as usize + 1) {
                *one += 1;
            }
        };
        for id in names.entities() {
            each_parent(graph, id, &mut count);
        }
        let mut sum = 0;
        for one in &mut begins {
            sum += *one;
            *one = sum;
        }
        let mut below = vec![0; sum as usize];
        let mut at = begins.clone();
        for id in names.entities() {
            each_parent(graph, id, &mut |parent| {
                if let Some(at) = at.get_mut(parent as usize) {
                    if let Some(place) = below.get_mut(*at as usize) {
                        *place = id;
                    }
                    *at += 1;
                }
            });
        }
        let is_route = |id: &Id| graph.route == Some(names.kind(*id));
        Children {
            routes: if graph.route.is_some() {
                names.entities().filter(is_route).collect()
            } else {
                Vec::new()
            },
            names: names.clone(),
            directory: graph.directory.slots.clone(),
            service: graph.service.slots.clone(),
            order,
            begins,
            below,
        }
    }

    fn children(&self, id: Id) -> &[Id] {
        let at = |id: usize| self.begins.get(id).map(|at| *at as usize);
        match (at(id as usize), at(id as usize + 1)) {
            (Some(from), Some(to)) => self.below.get(from..to).unwrap_or_default(),
            _ => &[],
        }
    }

    /// What may differ in this graph; none: too much.
    fn changed(&self, graph: &Graph<'_>) -> Option<(Bits, Vec<Id>)> {
        let most = self.order.len() / CHANGED_PART + CHANGED;
        let (mut changed, mut all) = (Bits::default(), Vec::new());
        let mut add = |id: Id| {
            if !changed.get(id) {
                changed.set(id);
                all.push(id);
            }
            all.len() <= most
        };
        let layer = |held: &Paged<Slot>, layer: &Layer, add: &mut dyn FnMut(Id) -> bool| {
            held.differing(&layer.slots, &mut |from, to| (from..to).all(&mut *add))
        };
        let mut are_named = true;
        let whole = self.names.differing(graph.names, &mut |from, to| {
            are_named = false;
            (from..to).all(&mut add)
        }) && layer(&self.directory, graph.directory, &mut add)
            && layer(&self.service, graph.service, &mut add);
        if !whole || (!are_named && self.routes.len() > MANY_ROUTES) {
            return None;
        }
        if !are_named {
            // A path that came or went between two others changes what is above the lower one.
            for id in &self.routes {
                if !changed.get(*id) {
                    changed.set(*id);
                    all.push(*id);
                }
            }
        }
        Some((changed, all))
    }
}

impl Kept {
    fn one(&self, service: &Arc<str>) -> One {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|(name, _)| name == service).map(|at| kept.remove(at).1);
        let one = found.unwrap_or_default();
        kept.truncate(KEPT - 1);
        kept.insert(0, (Arc::clone(service), Arc::clone(&one)));
        one
    }

    /// As it is in this graph. Waits while another one makes it.
    pub(super) fn downward<'a>(&self, service: &Arc<str>, graph: Graph<'a>) -> Downward<'a> {
        let one = self.one(service);
        let mut one = one.lock().unwrap_or_else(PoisonError::into_inner);
        let held = one.as_ref().and_then(|held| Some((Arc::clone(held), held.changed(&graph)?)));
        let (held, (changed, all)) = match held {
            Some(held) => held,
            None => {
                // What is there goes first: both take much memory.
                *one = None;
                (Arc::new(Children::of(&graph)), <(Bits, Vec<Id>)>::default())
            }
        };
        *one = Some(Arc::clone(&held));
        drop(one);
        Downward::of(graph, held, changed, all)
    }
}

impl<'a> Downward<'a> {
    fn of(graph: Graph<'a>, held: Arc<Children>, changed: Bits, all: Vec<Id>) -> Downward<'a> {
        let names = graph.names;
        let mut fresh: Vec<Id> = all.into_iter().filter(|id| names.is_entity(*id)).collect();
        fresh.sort_unstable_by(|a, b| name(names, *a).cmp(&name(names, *b)));
        let mut below_fresh: HashMap<Id, Vec<Id>, foldhash::fast::FixedState> = HashMap::default();
        for id in &fresh {
            each_parent(&graph, *id, &mut |parent| {
                below_fresh.entry(parent).or_default().push(*id)
            });
        }
        Downward { graph, held, changed, fresh, below_fresh }
    }

    /// All entities that are one of these, or in one.
    pub(super) fn below(&self, targets: impl IntoIterator<Item = Id>) -> Bits {
        let mut yes = Bits::default();
        let mut stack: Vec<Id> = Vec::new();
        for id in targets {
            if !yes.get(id) {
                yes.set(id);
                stack.push(id);
            }
        }
        let ends = self.graph.directory.has_ends();
        while let Some(parent) = stack.pop() {
            let held = self.held.children(parent).iter().filter(|id| !self.changed.get(**id));
            let fresh = self.below_fresh.get(&parent).into_iter().flatten();
            for id in held.chain(fresh) {
                if yes.get(*id) {
                    continue;
                }
                // Most memberships do not end.
                let may_have_ended = ends
                    && self
                        .graph
                        .directory
                        .until(*id, parent)
                        .is_some_and(|at| at <= self.graph.now);
                if may_have_ended && !is_in(&self.graph, *id, parent) {
                    continue;
                }
                yes.set(*id);
                stack.push(*id);
            }
        }
        yes
    }

    /// The first entities after this one that pass, by type and id.
    pub(super) fn first(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
        passes: impl Fn(Id) -> bool,
    ) -> Vec<Id> {
        let (then, now) = (&self.held.names, self.graph.names);
        let from = |list: &[Id], names: &Names| {
            after.map_or(0, |after| list.partition_point(|id| name(names, *id) <= after))
        };
        let held = self.held.order.get(from(&self.held.order, then)..).unwrap_or_default();
        let fresh = self.fresh.get(from(&self.fresh, now)..).unwrap_or_default();
        let passing = |id: &&Id| passes(**id);
        let mut held =
            held.iter().filter(|id| !self.changed.get(**id)).filter(passing).copied().peekable();
        let mut fresh = fresh.iter().filter(passing).copied().peekable();
        let mut first = Vec::new();
        while first.len() < limit {
            let next = match (held.peek(), fresh.peek()) {
                (Some(a), Some(b)) if name(now, *b) < name(now, *a) => fresh.next(),
                (Some(_), _) => held.next(),
                (None, _) => fresh.next(),
            };
            let Some(next) = next else { break };
            first.push(next);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::closure::{Graph, IdSet};
    use super::super::{Cursor, World, WorldError};
    use crate::digest::Digest;
    use crate::model::{
        Change, EntityBody, Item, ItemBody, ItemKey, Kind, MemberBody, Revision, Uid,
    };

    const SERVICE: &str = "s";

    /// One of few names, so that they come, go, and come again as something else.
    fn uid(n: u8) -> Uid {
        match n % 24 {
            n @ 0..12 => Uid::new("user", format!("u{n}")),
            n @ 12..20 => Uid::new("role", format!("r{n}")),
            20 => Uid::new("route", "/"),
            21 => Uid::new("route", "/a"),
            22 => Uid::new("route", "/a/b"),
            _ => Uid::new("route", "/a/b/c"),
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Entity(bool, u8, Vec<u8>),
        Member(u8, u8, Option<u64>),
        NoEntity(bool, u8),
        NoMember(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = || any::<u8>();
        prop_oneof![
            (any::<bool>(), n(), prop::collection::vec(n(), 0..4))
                .prop_map(|(of, uid, parents)| Step::Entity(of, uid, parents)),
            (n(), n(), prop::option::of(1..20_u64))
                .prop_map(|(member, role, until)| Step::Member(member, role, until)),
            (any::<bool>(), n()).prop_map(|(of, uid)| Step::NoEntity(of, uid)),
            (n(), n()).prop_map(|(member, role)| Step::NoMember(member, role)),
        ]
    }

    fn put(key: ItemKey, body: ItemBody) -> Change {
        Change::Put(Item { key, body })
    }

    fn service() -> Change {
        let settings = crate::service::ServiceSettings::named(SERVICE);
        put(ItemKey::new(SERVICE, Kind::Service, ""), ItemBody::Service(Box::new(settings)))
    }

    fn entity(of_service: bool, uid: &Uid) -> ItemKey {
        ItemKey::new(if of_service { SERVICE } else { "" }, Kind::Entity, uid.to_string())
    }

    fn change(step: &Step) -> Change {
        match step {
            Step::Entity(of, n, parents) => {
                let parents: BTreeSet<Uid> = parents.iter().map(|n| uid(*n)).collect();
                let (attrs, tags) = Default::default();
                let parents = parents.into_iter().collect();
                let body = EntityBody { uid: uid(*n), attrs, parents, tags };
                put(entity(*of, &uid(*n)), ItemBody::Entity(body))
            }
            Step::Member(member, role, until_unix_s) => {
                let (member, role) = (uid(*member), uid(*role));
                let key = ItemKey::member(&member, &role);
                let (source, until_unix_s) = (String::new(), *until_unix_s);
                put(key, ItemBody::Member(MemberBody { member, role, source, until_unix_s }))
            }
            Step::NoEntity(of, n) => Change::Delete(entity(*of, &uid(*n))),
            Step::NoMember(member, role) => {
                Change::Delete(ItemKey::member(&uid(*member), &uid(*role)))
            }
        }
    }

    fn after(world: &World, changes: impl IntoIterator<Item = Change>) -> World {
        let revision = Revision(world.revision().0 + 1);
        let with_digest = |change| {
            let digest = match &change {
                Change::Put(item) => Digest::of(item),
                Change::Delete(_) => Digest::default(),
            };
            Ok::<_, WorldError>((change, digest))
        };
        world.changed(revision, changes.into_iter().map(with_digest)).unwrap()
    }

    /// Who is in it, worked out upward from each that anything names: another way to the same.
    fn upward(world: &World, role: &Uid, now: u64) -> Vec<Uid> {
        let names = &world.inner.names;
        let graph = Graph {
            names,
            directory: &world.inner.directory.layer,
            service: &world.part_of(SERVICE).unwrap().layer,
            route: names.route(),
            now,
            given: None,
        };
        let is_in = |one: &Uid| {
            let Some((id, kind)) = names.entity(&one.kind, &one.id) else { return false };
            let mut set = IdSet::default();
            graph.close(Some(kind), &one.id, Some(id), false, &mut set);
            one != role && names.uid(role).is_some_and(|role| set.contains(role))
        };
        let all: BTreeSet<Uid> = (0..24).map(uid).collect();
        all.into_iter().filter(is_in).collect()
    }

    fn downward(world: &World, role: &Uid, now: u64, limit: usize) -> Vec<Uid> {
        let (mut found, mut after): (_, Option<String>) = (Vec::new(), None);
        loop {
            let page = Cursor { after: after.as_deref(), limit };
            let one = world.in_role(SERVICE, role, now, &page).unwrap();
            found.extend(one.rows.into_iter().map(|row| row.member));
            match one.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
        /// However worlds follow each other, and whenever it is asked.
        #[test]
        fn who_is_below_is_what_is_found_upward(
            steps in prop::collection::vec((prop::collection::vec(step(), 1..6), any::<bool>()), 1..12),
            limit in 1..4_usize,
        ) {
            // Each of the names is on a page of its own, so that some change and others do not.
            let named = |uid: Uid| {
                let (attrs, parents, tags) = Default::default();
                let key = entity(false, &uid);
                put(key, ItemBody::Entity(EntityBody { uid, attrs, parents, tags }))
            };
            let filler = |n: u8| (0..64).map(move |m| Uid::new("other", format!("{n}-{m}")));
            let all = (0..24).flat_map(|n| std::iter::once(uid(n)).chain(filler(n)));
            let mut world = after(&World::default(), [service()].into_iter().chain(all.map(named)));
            for (changes, is_asked) in steps {
                world = after(&world, changes.iter().map(change));
                if is_asked {
                    for (n, now) in [(12, 5), (13, 15), (14, 5), (0, 10), (20, 5), (21, 5)] {
                        let role = uid(n);
                        prop_assert_eq!(downward(&world, &role, now, limit), upward(&world, &role, now));
                    }
                }
            }
        }
    }

    /// What few changes leave is looked at, and nothing else; after many it is made anew.
    #[test]
    fn what_follows_shares_what_was_made() {
        let user = |n: u32| Uid::new("user", format!("u{n:06}"));
        let member = |n: u32, role: &Uid| {
            let (member, role) = (user(n), role.clone());
            let key = ItemKey::member(&member, &role);
            let (source, until_unix_s) = (String::new(), None);
            put(key, ItemBody::Member(MemberBody { member, role, source, until_unix_s }))
        };
        let (one, other) = (Uid::new("role", "one"), Uid::new("role", "other"));
        let all = (0..20_000).map(|n| member(n, &one));
        let first = after(&World::default(), std::iter::once(service()).chain(all));
        let made = |world: &World| {
            downward(world, &one, 0, 20_001);
            let kept = world.inner.children.0.lock().unwrap();
            kept[0].1.lock().unwrap().clone().unwrap()
        };
        let kept = made(&first);
        let few = after(&first, [member(7, &other), member(20_000, &one)]);
        assert!(Arc::ptr_eq(&made(&few), &kept));
        assert_eq!(downward(&few, &other, 0, 10), [user(7)]);
        assert_eq!(downward(&few, &one, 0, 30_000).len(), 20_001);
        let many = after(&few, (0..10_000).map(|n| member(n, &other)));
        assert!(!Arc::ptr_eq(&made(&many), &kept));
        assert_eq!(downward(&many, &other, 0, 30_000).len(), 10_000);
        // The earlier one is asked again: what was made is of a later one, and the answer is its own.
        assert_eq!(downward(&first, &other, 0, 10), []);
    }
}
