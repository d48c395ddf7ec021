//! How an entity came to be in another: the shortest path of memberships, with the item that says
//! each step.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::World;
use super::closure::{Graph, ROUTE, paths_above};
use super::names::Id;
use super::part::Part;
use crate::model::{ItemKey, Uid};

/// Entities that are looked at in search of a path; what is farther away is not found.
const LOOKED_AT: usize = 100_000;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStep {
    /// The entity that the step leads to.
    pub entity: Uid,
    /// The item that says so; none: the path of a route does, or the request.
    pub by: Option<ItemKey>,
    /// When it ends, in seconds since the Unix epoch; none: it does not.
    pub until_unix_s: Option<u64>,
}

/// How far an entity is in another.
pub(super) enum Reached {
    /// By these steps; none: it is the entity itself.
    By(Vec<PathStep>),
    /// It is not in it.
    Not,
}

impl World {
    /// The steps from an entity to one that it is, or is in, at the graph's time.
    pub(super) fn path(&self, graph: Graph<'_>, part: &Part, from: &Uid, to: Id) -> Reached {
        let names = graph.names;
        let start = names.uid(from);
        if start == Some(to) {
            return Reached::By(Vec::new());
        }
        // Where each was reached from; none: from the entity itself, which nothing names.
        let mut came: HashMap<Id, Option<Id>, FixedState> = HashMap::default();
        let mut queue: Vec<Id> = Vec::new();
        match start {
            Some(id) => {
                came.insert(id, None);
                queue.push(id);
            }
            None => {
                let is_route = from.kind == ROUTE;
                let above = is_route.then(|| {
                    paths_above(&from.id).find_map(|path| Some(names.entity(ROUTE, path)?.0))
                });
                let given = graph.given.filter(|given| given.is(&from.kind, &from.id));
                let given = given.into_iter().flat_map(|given| given.parents());
                for id in above.flatten().into_iter().chain(given.filter_map(|uid| names.uid(uid)))
                {
                    came.entry(id).or_insert(None);
                    queue.push(id);
                }
            }
        }
        let mut at = 0;
        while let Some(&id) = queue.get(at) {
            at += 1;
            if id == to || queue.len() > LOOKED_AT {
                break;
            }
            let mut more = |parent: Id| {
                came.entry(parent).or_insert_with(|| {
                    queue.push(parent);
                    Some(id)
                });
            };
            graph.directory.parents_at(id, graph.now).for_each(&mut more);
            graph.service.parents(id).for_each(&mut more);
            if let Some(given) = graph.given
                && given.is(names.text(names.kind(id)), names.text(id))
            {
                given.parents().filter_map(|uid| names.uid(uid)).for_each(&mut more);
            }
            if graph.route == Some(names.kind(id)) {
                let above = paths_above(names.text(id));
                let named = above.filter_map(|path| Some(names.entity(ROUTE, path)?.0)).next();
                named.into_iter().for_each(&mut more);
            }
        }
        if !came.contains_key(&to) {
            return Reached::Not;
        }
        let mut steps = Vec::new();
        let mut id = to;
        while Some(id) != start {
            let below = came.get(&id).copied().flatten();
            let by = below.and_then(|below| self.says(part, below, id));
            let until = below.and_then(|below| graph.directory.until(below, id));
            steps.push(PathStep { entity: names.to_uid(id), by, until_unix_s: until });
            match below {
                Some(below) => id = below,
                None => break,
            }
        }
        steps.reverse();
        Reached::By(steps)
    }

    /// The item that says that `child` is in `parent`, if one does.
    fn says(&self, part: &Part, child: Id, parent: Id) -> Option<ItemKey> {
        let said = |layer: &super::layer::Layer| layer.parents(child).any(|held| held == parent);
        let is_said = said(&self.inner.directory.layer) || said(&part.layer);
        is_said.then(|| self.step_key(part.name(), child, parent))
    }
}
