//! Decisions: closures, index, conditions, verdict.
//!
//! Every policy whose scope matches is seen, also after a forbid is found: the answer names all
//! that determined it and all that failed, as Cedar's does.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::closure::{Given, Graph, IdSet, ROUTE, paths_above};
use super::conditions::{
    CedarUid, Facts, Failure, Question, Record, Store, Subject, Trust, TypeName, ValueProblem,
    evaluate, texts,
};
use super::index::{Ask, Policy, Side};
use super::names::Id;
use super::part::Part;
use super::prepared::Prepared;
use super::{Inner, World};
use crate::decision::{
    Decision, DenyReason, Effect, EvaluationError, PolicyName, Query, QueryError,
};
use crate::model::Uid;
use crate::service::Authzen;
use crate::uid::is_type_name;

type Json = BTreeMap<String, serde_json::Value>;

impl World {
    /// The service of this name; of the empty one, the only service that there is.
    pub(super) fn part_of(&self, service: &str) -> Result<&Part, QueryError> {
        let services = &self.inner.services;
        let found = match services.get(service) {
            None if service.is_empty() && services.len() == 1 => services.values().next(),
            found => found,
        };
        found.map(|part| &**part).ok_or_else(|| QueryError::UnknownService(service.to_owned()))
    }

    /// Decides, exactly as Cedar's authorizer would on the same policies and entities.
    pub fn decide(&self, query: &Query<'_>) -> Result<Decision, QueryError> {
        self.decide_prepared(query, Prepared::nothing())
    }

    /// The same, of a question part of which was read before: as if its context had the claims as
    /// its member `claims`, and its principal the properties besides its own.
    pub fn decide_prepared(
        &self,
        query: &Query<'_>,
        prepared: &Prepared,
    ) -> Result<Decision, QueryError> {
        let part = self.part_of(query.service)?;
        with_scratch(|scratch| Case::new(&self.inner, part, query, prepared, scratch)?.decide())
    }

    /// Decides by all services whose settings do not say `authzen = false`, whatever service the
    /// query names: each decides for itself, any forbid denies, else any permit allows. The policies named
    /// are those of the services that determined it, as `service/policy`.
    pub fn decide_any(&self, query: &Query<'_>) -> Result<Decision, QueryError> {
        let mut sum = Decision {
            effect: Effect::Deny(DenyReason::NoPermit),
            determining: Vec::new(),
            errors: Vec::new(),
            revision: self.revision(),
        };
        for (service, part) in &self.inner.services {
            if part.settings.authzen == Authzen::No {
                continue;
            }
            let decision = self.decide(&Query { service, ..query.clone() })?;
            let named = |policy: &PolicyName| PolicyName::from(format!("{service}/{policy}"));
            sum.errors.extend(decision.errors.into_iter().map(|error| EvaluationError {
                policy: named(&error.policy),
                message: error.message,
            }));
            let rank = |effect| match effect {
                Effect::Deny(DenyReason::NoPermit) => 0,
                Effect::Allow => 1,
                Effect::Deny(DenyReason::Forbid) => 2,
            };
            if rank(decision.effect) > rank(sum.effect) {
                sum.effect = decision.effect;
                sum.determining.clear();
            }
            if decision.effect == sum.effect {
                sum.determining.extend(decision.determining.iter().map(named));
            }
        }
        sum.determining.sort();
        sum.errors.sort_by(|a, b| a.policy.cmp(&b.policy));
        Ok(sum)
    }
}

/// The three closures of a request, kept between requests to save their allocations.
#[derive(Default)]
pub(super) struct Scratch {
    principal: IdSet,
    action: IdSet,
    resource: IdSet,
}

pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    thread_local! {
        static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    }
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    scratch.principal.clear();
    scratch.action.clear();
    scratch.resource.clear();
    SCRATCH.set(Some(scratch));
    result
}

/// One request, looked up.
pub(super) struct Case<'a> {
    inner: &'a Inner,
    pub(super) part: &'a Part,
    pub(super) graph: Graph<'a>,
    query: &'a Query<'a>,
    pub(super) ask: Ask<'a>,
    /// The request's values, where it has any.
    values: Option<Values>,
}

struct Values {
    context: Record,
    principal: Record,
    resource: Record,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        part: &'a Part,
        query: &'a Query<'a>,
        prepared: &Prepared,
        scratch: &'a mut Scratch,
    ) -> Result<Case<'a>, QueryError> {
        let now = match query.at_unix_s {
            Some(now) => now,
            // Nothing ends, so that any time will do.
            None if !inner.directory.has_ends() && !part.has_ends() => 0,
            None => return Err(QueryError::Time),
        };
        let graph = Graph {
            names: &inner.names,
            directory: &inner.directory.layer,
            service: &part.layer,
            route: inner.names.route(),
            now,
            given: None,
        };
        let graph = graph.giving(query.principal, query.principal_parents);
        let ask = Ask {
            principal: side(graph, query.principal, &mut scratch.principal)?,
            action: side(graph, query.action, &mut scratch.action)?,
            resource: side(graph, query.resource, &mut scratch.resource)?,
        };
        let none = |json: &Json| json.is_empty();
        let values = if none(query.context)
            && none(query.principal_properties)
            && none(query.action_properties)
            && none(query.resource_properties)
            && prepared.is_empty()
        {
            None
        } else {
            Some(Values::read(query, prepared)?)
        };
        Ok(Case { inner, part, graph, query, ask, values })
    }

    pub(super) fn decide(mut self) -> Result<Decision, QueryError> {
        let mut verdict = Tally::default();
        let mut conditional: Vec<&Policy> = Vec::new();
        let question = match &self.part.schema {
            None => None,
            Some(schema) => {
                if let Some(reason) = schema.refused() {
                    return Err(undecided("schema", reason));
                }
                let mut question = self.question()?;
                if question.known_to(schema).is_err() {
                    return Ok(verdict.decision(self.inner));
                }
                question.fit(schema).map_err(value_error)?;
                Some(question)
            }
        };
        let now = self.graph.now;
        self.part.index.visit(&self.ask, |policy| match policy.condition {
            None if policy.until > now => verdict.matched(policy),
            // Only a grant ends, and it has no condition.
            None => {}
            Some(_) => conditional.push(policy),
        });
        if !conditional.is_empty() {
            let question = match question {
                Some(question) => question,
                None => self.question()?,
            };
            for (policy, outcome) in conditional.iter().zip(self.evaluate(&question, &conditional))
            {
                match outcome {
                    Ok(true) => verdict.matched(policy),
                    Ok(false) => {}
                    Err(Failure::Error(message)) => verdict
                        .errors
                        .push(EvaluationError { policy: policy.name.clone(), message }),
                    // It might forbid: to skip it would be to guess.
                    Err(Failure::Undecided(reason)) => {
                        return Err(undecided(&policy.name, &reason));
                    }
                }
            }
        }
        Ok(verdict.decision(self.inner))
    }

    pub(super) fn evaluate(
        &self,
        question: &Question,
        policies: &[&Policy],
    ) -> Vec<Result<bool, Failure>> {
        let conditions = policies.iter().filter_map(|policy| policy.condition.as_deref());
        evaluate(question, self.part.schema.as_deref(), &self.graph, conditions)
    }

    /// The request in the evaluator's terms; takes its values.
    pub(super) fn question(&mut self) -> Result<Question, QueryError> {
        let values = self.values.take();
        let (context, principal, resource) = match values {
            Some(values) => (values.context, values.principal, values.resource),
            None => Default::default(),
        };
        let subject = |side: Side<'_>, uid: &Uid, properties| {
            let known = side.kind.and_then(|kind| self.graph.names.type_name(kind));
            let uid = match known {
                Some(kind) => kind.uid(&uid.id),
                None => TypeName::parse(&uid.kind)
                    .map_err(|_| QueryError::Type(uid.kind.clone()))?
                    .uid(&uid.id),
            };
            Ok(Subject { uid, properties })
        };
        Ok(Question {
            principal: subject(self.ask.principal, self.query.principal, principal)?,
            action: subject(self.ask.action, self.query.action, Record::default())?,
            resource: subject(self.ask.resource, self.query.resource, resource)?,
            context,
        })
    }
}

impl Values {
    fn read(query: &Query<'_>, prepared: &Prepared) -> Result<Values, QueryError> {
        let read = |json, path| Record::of_request(json, Trust::Request, path).map_err(value_error);
        let trust = if query.escapes { Trust::CedarRequest } else { Trust::Request };
        let mut context =
            Record::of_request(query.context, trust, "context").map_err(value_error)?;
        let action = read(query.action_properties, "action.properties")?;
        if !action.is_empty() {
            context.insert("action", action);
        }
        if let Some(claims) = &prepared.claims {
            context.insert_shared("claims", claims);
        }
        let mut principal = prepared.properties.clone();
        principal.append(read(query.principal_properties, "principal.properties")?);
        Ok(Values {
            context,
            principal,
            resource: read(query.resource_properties, "resource.properties")?,
        })
    }
}

pub(super) fn value_error(problem: ValueProblem) -> QueryError {
    QueryError::Value { path: problem.path, reason: problem.reason }
}

fn undecided(policy: &str, reason: &str) -> QueryError {
    QueryError::Undecided { policy: policy.into(), reason: reason.to_owned() }
}

fn side<'a>(graph: Graph<'_>, uid: &Uid, set: &'a mut IdSet) -> Result<Side<'a>, QueryError> {
    let (id, kind) = match graph.names.entity(&uid.kind, &uid.id) {
        Some((id, kind)) => (Some(id), Some(kind)),
        None => (None, graph.names.type_id(&uid.kind)),
    };
    if kind.is_none() && !is_type_name(&uid.kind) {
        return Err(QueryError::Type(uid.kind.clone()));
    }
    let is_given = graph.given.is_some_and(|given| given.is(&uid.kind, &uid.id));
    graph.close(kind, &uid.id, id, is_given, set);
    Ok(Side { id, kind, closure: set.as_slice() })
}

/// What matched so far.
#[derive(Default)]
struct Tally {
    forbids: Vec<PolicyName>,
    permits: Vec<PolicyName>,
    errors: Vec<EvaluationError>,
}

impl Tally {
    fn matched(&mut self, policy: &Policy) {
        let matched = if policy.forbid { &mut self.forbids } else { &mut self.permits };
        matched.push(policy.name.clone());
    }

    fn decision(mut self, inner: &Inner) -> Decision {
        let (effect, mut determining) = if !self.forbids.is_empty() {
            (Effect::Deny(DenyReason::Forbid), self.forbids)
        } else if !self.permits.is_empty() {
            (Effect::Allow, self.permits)
        } else {
            (Effect::Deny(DenyReason::NoPermit), Vec::new())
        };
        determining.sort();
        self.errors.sort_by(|a, b| a.policy.cmp(&b.policy));
        Decision { effect, determining, errors: self.errors, revision: inner.revision }
    }
}

impl Graph<'_> {
    fn above(&self, kind: &str, id: &str) -> (Option<Id>, IdSet) {
        let is_given = self.given.is_some_and(|given| given.is(kind, id));
        let (found, kind) = match self.names.entity(kind, id) {
            Some((id, kind)) => (Some(id), Some(kind)),
            None => (None, self.names.type_id(kind)),
        };
        let mut set = IdSet::default();
        self.close(kind, id, found, is_given, &mut set);
        (found, set)
    }

    /// The paths above the routes that an entity is, or is in, whether anything names them or not.
    fn routes_above<'s>(
        &'s self,
        kind: &str,
        id: &'s str,
        set: &'s IdSet,
    ) -> impl Iterator<Item = &'s str> {
        let is_route = |id: &&Id| self.route.is_some_and(|route| self.names.kind(**id) == route);
        let named = set.as_slice().iter().filter(is_route).map(|id| self.names.text(*id));
        let given = self.given_above(kind, id, set).filter(|parent| parent.kind == ROUTE);
        let given = given.map(|parent| parent.id.as_str());
        (kind == ROUTE).then_some(id).into_iter().chain(named).chain(given).flat_map(paths_above)
    }

    /// The parents that are given for this request, if an entity is in the one that has them.
    fn given_above<'s>(
        &'s self,
        kind: &str,
        id: &str,
        set: &IdSet,
    ) -> impl Iterator<Item = &'s Uid> {
        let given = self.given.filter(|given| given.is_above(kind, id, set));
        given.into_iter().flat_map(|given: Given<'s>| given.parents())
    }
}

impl Store for Graph<'_> {
    fn facts(&self, kind: &str, id: &str) -> Option<Facts<'_>> {
        // Who has a parent exists.
        let is_given = self.given.is_some_and(|given| given.is(kind, id));
        let layers = match self.names.entity(kind, id) {
            Some((id, _)) => {
                [self.directory, self.service].map(|layer| layer.slot_at(id, self.now))
            }
            None => [None, None],
        };
        if layers.iter().all(Option::is_none) && !is_given {
            return None;
        }
        let attributes = layers.map(|slot| slot?.extra.as_deref().map(|extra| &extra.attributes));
        Some(Facts { layers: attributes })
    }

    fn ancestors(&self, kind: &str, id: &str) -> Vec<CedarUid> {
        let (itself, set) = self.above(kind, id);
        let others = set.as_slice().iter().filter(|id| Some(**id) != itself);
        let named = others.filter_map(|id| {
            let kind = self.names.type_name(self.names.kind(*id))?;
            Some(kind.uid(self.names.text(*id)))
        });
        let mut all: Vec<CedarUid> = named.collect();
        // A parent for this request need not be named by anything that is stored.
        let is_other = |parent: &&Uid| (parent.kind.as_str(), parent.id.as_str()) != (kind, id);
        all.extend(
            self.given_above(kind, id, &set)
                .filter(is_other)
                .filter_map(|parent| Some(TypeName::parse(&parent.kind).ok()?.uid(&parent.id))),
        );
        // An attribute or a condition may hold a route that nothing else names.
        let unnamed = self.routes_above(kind, id, &set);
        let mut unnamed =
            unnamed.filter(|path| self.names.entity(ROUTE, path).is_none()).peekable();
        if unnamed.peek().is_some()
            && let Ok(route) = TypeName::parse(ROUTE)
        {
            all.extend(unnamed.map(|path| route.uid(path)));
        }
        all
    }

    fn ancestors_among(&self, kind: &str, id: &str, groups: &[CedarUid]) -> Vec<CedarUid> {
        let (itself, set) = self.above(kind, id);
        let own = (kind, id);
        let is_above = |group: &&CedarUid| {
            let (kind, id) = texts(group);
            let is_given = |parent: &Uid| parent.id == id && parent.kind == *kind;
            if (&*kind, id) != own && self.given_above(own.0, own.1, &set).any(is_given) {
                return true;
            }
            match self.names.entity(&kind, id) {
                Some((group, _)) => Some(group) != itself && set.contains(group),
                // A route that only conditions name is not in the closure.
                None => {
                    kind == ROUTE && self.routes_above(own.0, own.1, &set).any(|path| path == id)
                }
            }
        };
        groups.iter().filter(is_above).cloned().collect()
    }
}
