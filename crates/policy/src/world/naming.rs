//! Who names an entity in policies: what a role means to services other than the one that brings its
//! members.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::World;
use super::closure::{Graph, IdSet};
use super::conditions::texts;
use super::index::Policy;
use super::names::Id;
use super::part::{Part, Stored};
use crate::decision::PolicyName;
use crate::model::Uid;

/// A policy that names an entity, or one that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The policy's service.
    pub service: String,
    /// The policy, link or grant.
    pub policy: PolicyName,
    /// The entity that was asked for.
    pub entity: Uid,
}

impl World {
    /// The first policy or grant of a service other than `own` that names one of these entities, or an
    /// entity that it is in as that service sees it. Whether something has ended is not asked. A
    /// policy that cannot be evaluated may name anything.
    pub fn named_elsewhere(&self, own: &str, entities: &[Uid]) -> Option<Naming> {
        let inner = &self.inner;
        if entities.is_empty() {
            return None;
        }
        inner.services.iter().filter(|(name, _)| &***name != own).find_map(|(name, part)| {
            let graph = Graph {
                names: &inner.names,
                directory: &inner.directory.layer,
                service: &part.layer,
                route: inner.names.route(),
                now: 0,
                given: None,
            };
            let named = Named::of(part, graph);
            entities.iter().find_map(|entity| {
                let policy = named.policy(graph, entity)?.clone();
                Some(Naming { service: name.to_string(), policy, entity: entity.clone() })
            })
        })
    }
}

/// What the policies of a service name.
struct Named<'a> {
    by: HashMap<Id, &'a PolicyName, FixedState>,
    /// Those that nothing else refers to.
    others: HashMap<Uid, &'a PolicyName, FixedState>,
    anything: Option<&'a PolicyName>,
}

impl<'a> Named<'a> {
    fn of(part: &'a Part, graph: Graph<'_>) -> Named<'a> {
        let (by, others) = Default::default();
        let mut named = Named { by, others, anything: None };
        part.policies.for_each(&mut |stored: &'a Stored| {
            if let Some(policy) = stored.body.policy() {
                named.add(policy, graph);
            }
        });
        named
    }

    fn add(&mut self, policy: &'a Policy, graph: Graph<'_>) {
        for id in policy.ids() {
            self.by.entry(id).or_insert(&policy.name);
        }
        let Some(condition) = &policy.condition else { return };
        match condition.named() {
            Some(entities) => {
                for entity in entities {
                    let (kind, id) = texts(entity);
                    match graph.names.entity(&kind, id) {
                        Some((id, _)) => self.by.entry(id).or_insert(&policy.name),
                        None => self.others.entry(Uid::new(&*kind, id)).or_insert(&policy.name),
                    };
                }
            }
            None => self.anything = self.anything.or(Some(&policy.name)),
        }
    }

    fn policy(&self, graph: Graph<'_>, entity: &Uid) -> Option<&'a PolicyName> {
        let names = graph.names;
        let (id, kind) = match names.entity(&entity.kind, &entity.id) {
            Some((id, kind)) => (Some(id), Some(kind)),
            None => (None, names.type_id(&entity.kind)),
        };
        let mut above = IdSet::default();
        graph.close(kind, &entity.id, id, false, &mut above);
        let by = above.as_slice().iter().find_map(|id| self.by.get(id).copied());
        by.or_else(|| self.others.get(entity).copied()).or(self.anything)
    }
}
