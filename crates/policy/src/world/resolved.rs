//! Entities that one world has looked up, kept for the questions to come.
//!
//! INVARIANT: what is kept is used by the very world and service that looked it up, for the very
//! identifier that the question names. Any other world looks up the texts, so a decision is the same
//! with and without it. It holds its world: no other can come to have the same address meanwhile.

use std::fmt;
use std::sync::Arc;

use super::World;
use super::closure::{Graph, IdSet};
use super::decide::looked_up;
use super::index::Side;
use super::names::Id;
use super::part::Part;
use super::shortlist::Shortlist;
use crate::decision::{Query, QueryError};
use crate::model::Uid;

/// An entity as one service of one world knows it; see [`World::resolve`]. It keeps that world in
/// memory.
#[derive(Clone)]
pub struct Resolved {
    uid: Uid,
    parents: Box<[Uid]>,
    world: World,
    part: Arc<Part>,
    pub(super) id: Option<Id>,
    pub(super) kind: Option<Id>,
    /// The entity and what it is in; none: that depends on the time.
    pub(super) closure: Option<Box<[Id]>>,
    /// The policies for it, should it be the principal; none: nobody asked, or that depends on the
    /// time.
    pub(super) policies: Option<Arc<Shortlist>>,
}

impl Resolved {
    /// What was looked up.
    pub fn uid(&self) -> &Uid {
        &self.uid
    }

    /// The parents that it was given besides those that are stored.
    pub fn parents(&self) -> &[Uid] {
        &self.parents
    }

    /// Whether this world looked it up. Another one may be asked with it too, but has to look it up
    /// again for each question.
    pub fn is_of(&self, world: &World) -> bool {
        Arc::ptr_eq(&self.world.inner, &world.inner)
    }

    /// How many entities it is and is in; zero where that depends on the time.
    pub(super) fn reach(&self) -> usize {
        self.closure.as_deref().map_or(0, <[Id]>::len)
    }

    /// Itself, if this part of this world looked it up, and the question is about it.
    pub(super) fn of<'a>(
        &'a self,
        inner: &super::Inner,
        part: &Part,
        uid: &Uid,
        parents: &[Uid],
    ) -> Option<&'a Resolved> {
        let is_same = std::ptr::eq(&*self.world.inner, inner)
            && std::ptr::eq(&*self.part, part)
            && std::ptr::eq(&raw const self.uid, uid)
            && (std::ptr::eq(&raw const *self.parents, parents)
                || (self.parents.is_empty() && parents.is_empty()));
        is_same.then_some(self)
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("uid", &self.uid)
            .field("parents", &self.parents)
            .field("revision", &self.world.revision())
            .finish_non_exhaustive()
    }
}

impl World {
    /// Looks up an action or a resource for the questions to this service that will be about it; see
    /// [`Query::resolved_action`] and [`Query::resolved_resource`].
    ///
    /// # Errors
    /// There is no such service, or its type is none.
    pub fn resolve(&self, service: &str, uid: &Uid) -> Result<Resolved, QueryError> {
        self.look_up(service, uid, &[], false)
    }

    /// Looks up a principal that has these parents besides those that are stored; see
    /// [`Query::resolved_principal`].
    ///
    /// # Errors
    /// There is no such service, or its type is none.
    pub fn resolve_principal(
        &self,
        service: &str,
        uid: &Uid,
        parents: &[Uid],
    ) -> Result<Resolved, QueryError> {
        self.look_up(service, uid, parents, true)
    }

    fn look_up(
        &self,
        service: &str,
        uid: &Uid,
        parents: &[Uid],
        is_principal: bool,
    ) -> Result<Resolved, QueryError> {
        let part = self.shared_part_of(service)?;
        let inner = &*self.inner;
        let (id, kind) = looked_up(&inner.names, uid)?;
        let (mut closure, mut policies) = (None, None);
        if !inner.directory.has_ends() {
            let graph = Graph {
                names: &inner.names,
                directory: &inner.directory.layer,
                service: &part.layer,
                route: inner.names.route(),
                now: 0,
                given: None,
            };
            let graph = graph.giving(uid, id, parents);
            let mut set = IdSet::default();
            graph.close(kind, &uid.id, id, !parents.is_empty(), &mut set);
            if is_principal {
                let mut behind = Vec::new();
                let side = Side { id, kind, closure: set.as_slice() };
                part.index.doors(side, |bucket| behind.push(Arc::clone(bucket)));
                policies = Some(Arc::new(Shortlist::new(behind)));
            }
            closure = Some(set.as_slice().into());
        }
        Ok(Resolved {
            uid: uid.clone(),
            parents: parents.into(),
            world: self.clone(),
            part: Arc::clone(part),
            id,
            kind,
            closure,
            policies,
        })
    }
}

/// What was looked up of a question before it was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handles<'a> {
    pub(super) principal: Option<&'a Resolved>,
    pub(super) action: Option<&'a Resolved>,
    pub(super) resource: Option<&'a Resolved>,
}

impl<'a> Query<'a> {
    /// It is about this principal and the parents that it was given, which a world has looked up. That
    /// world need not do it again; any other one does.
    #[must_use]
    pub fn resolved_principal(self, principal: &'a Resolved) -> Query<'a> {
        let handles = Handles { principal: Some(principal), ..self.handles };
        Query { principal: &principal.uid, principal_parents: &principal.parents, handles, ..self }
    }

    /// The same of the action.
    #[must_use]
    pub fn resolved_action(self, action: &'a Resolved) -> Query<'a> {
        let handles = Handles { action: Some(action), ..self.handles };
        Query { action: &action.uid, handles, ..self }
    }

    /// The same of the resource.
    #[must_use]
    pub fn resolved_resource(self, resource: &'a Resolved) -> Query<'a> {
        let handles = Handles { resource: Some(resource), ..self.handles };
        Query { resource: &resource.uid, handles, ..self }
    }
}
