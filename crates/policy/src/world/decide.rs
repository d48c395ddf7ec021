//! Decisions: closures, index, conditions, verdict.
//!
//! Every policy whose scope matches is seen, also after a forbid is found: the answer names all
//! that determined it and all that failed, as Cedar's does.

use std::cell::Cell;
use std::sync::Arc;

use super::closure::{Given, Graph, IdSet, ROUTE, paths_above};
use super::conditions::{
    CedarUid, Facts, Failure, Question, Record, Store, Subject, Trust, TypeName, ValueProblem,
    evaluate, texts,
};
use super::index::{Ask, Policy, Side};
use super::names::{Id, Names};
use super::part::Part;
use super::prepared::Prepared;
use super::resolved::{Handles, Resolved};
use super::shortlist::Hit;
use super::{Inner, World};
use crate::decision::{
    Decision, DenyReason, Effect, EvaluationError, PolicyName, Query, QueryError, Verdict,
};
use crate::model::{Revision, Uid};
use crate::service::Authzen;
use crate::uid::is_type_name;

impl World {
    /// The service of this name; of the empty one, the only service that there is.
    pub(super) fn part_of(&self, service: &str) -> Result<&Part, QueryError> {
        self.shared_part_of(service).map(|part| &**part)
    }

    pub(super) fn shared_part_of(&self, service: &str) -> Result<&Arc<Part>, QueryError> {
        let services = &self.inner.services;
        let found = match services.get(service) {
            None if service.is_empty() && services.len() == 1 => services.values().next(),
            found => found,
        };
        found.ok_or_else(|| QueryError::UnknownService(service.to_owned()))
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
        let told = self.tallied(query, prepared, true)?;
        Ok(told.decision(self.revision()))
    }

    /// The same, for one who does not ask which policies determined it.
    pub fn judge(&self, query: &Query<'_>, prepared: &Prepared) -> Result<Verdict, QueryError> {
        let told = self.tallied(query, prepared, false)?;
        let (effect, errors) = (told.effect(), told.errors());
        Ok(Verdict { effect, errors, revision: self.revision() })
    }

    fn tallied(
        &self,
        query: &Query<'_>,
        prepared: &Prepared,
        named: bool,
    ) -> Result<Tally, QueryError> {
        let part = self.part_of(query.service)?;
        with_scratch(|scratch| {
            Case::new(&self.inner, part, query, prepared, scratch)?.decide(named)
        })
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
    pub(super) part: &'a Part,
    pub(super) graph: Graph<'a>,
    query: &'a Query<'a>,
    prepared: &'a Prepared,
    pub(super) ask: Ask<'a>,
    /// The principal, where it was looked up before.
    principal: Option<&'a Resolved>,
    values: Pending,
}

/// The request's values.
enum Pending {
    /// It has none.
    None,
    /// They can certainly be read, and only conditions and schemas need them.
    Unread,
    Read(Values),
}

#[derive(Default)]
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
        prepared: &'a Prepared,
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
        let Handles { principal, action, resource } = query.handles;
        let principal = principal
            .and_then(|known| known.of(inner, part, query.principal, query.principal_parents));
        let action = action.and_then(|known| known.of(inner, part, query.action, &[]));
        let resource = resource.and_then(|known| known.of(inner, part, query.resource, &[]));
        let named = Named::find(graph.names, query.principal, principal)?;
        let graph = graph.giving(query.principal, named.id, query.principal_parents);
        let closure = principal.and_then(|known| known.closure.as_deref());
        let ask = Ask {
            principal: named.side(graph, closure, &mut scratch.principal),
            action: side(graph, query.action, action, &mut scratch.action)?,
            resource: side(graph, query.resource, resource, &mut scratch.resource)?,
        };
        let given = [
            query.context,
            query.principal_properties,
            query.action_properties,
            query.resource_properties,
        ];
        let values = if given.iter().all(|json| json.is_empty()) && prepared.is_empty() {
            Pending::None
        } else if given.iter().all(|json| json.values().all(is_surely_read)) {
            Pending::Unread
        } else {
            Pending::Read(Values::read(query, prepared)?)
        };
        Ok(Case { part, graph, query, prepared, ask, principal, values })
    }

    /// `named`: with the names of the policies that determine it.
    fn decide(mut self, named: bool) -> Result<Tally, QueryError> {
        let mut verdict = Tally { named, ..Tally::default() };
        let mut conditional: Vec<&Policy> = Vec::new();
        let question = match &self.part.schema {
            None => None,
            Some(schema) => {
                if let Some(reason) = schema.refused() {
                    return Err(undecided("schema", reason));
                }
                let mut question = self.question()?;
                if question.known_to(schema).is_err() {
                    return Ok(verdict);
                }
                question.fit(schema).map_err(value_error)?;
                Some(question)
            }
        };
        let now = self.graph.now;
        let mut found = |hit: Hit<'a>| {
            let holds = match hit {
                Hit::Entry(..) => Some(true),
                Hit::Leaf(leaf) => leaf.holds(now),
            };
            match holds {
                Some(true) => verdict.matched(hit.forbids(), || hit.policy()),
                Some(false) => {}
                None => conditional.extend(hit.policy()),
            }
        };
        match self.principal.and_then(|known| known.policies.as_deref()) {
            Some(policies) => policies.visit(&self.ask, found),
            None => self.part.index.visit(&self.ask, |leaf| found(Hit::Leaf(leaf))),
        }
        if !conditional.is_empty() {
            let question = match question {
                Some(question) => question,
                None => self.question()?,
            };
            for (policy, outcome) in conditional.iter().zip(self.evaluate(&question, &conditional))
            {
                match outcome {
                    Ok(true) => verdict.matched(policy.forbid, || Some(policy)),
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
        Ok(verdict)
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
        let values = match std::mem::replace(&mut self.values, Pending::None) {
            Pending::None => Values::default(),
            Pending::Unread => Values::read(self.query, self.prepared)?,
            Pending::Read(values) => values,
        };
        let Values { context, principal, resource } = values;
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

/// Whether reading it finds nothing to refuse, whoever sent it.
fn is_surely_read(json: &serde_json::Value) -> bool {
    use serde_json::Value;
    match json {
        Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.as_i64().is_some(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The numbers of an entity and of its type.
pub(super) fn looked_up(names: &Names, uid: &Uid) -> Result<(Option<Id>, Option<Id>), QueryError> {
    if let Some((id, kind)) = names.entity(&uid.kind, &uid.id) {
        return Ok((Some(id), Some(kind)));
    }
    let kind = names.type_id(&uid.kind);
    if kind.is_none() && !is_type_name(&uid.kind) {
        return Err(QueryError::Type(uid.kind.clone()));
    }
    Ok((None, kind))
}

/// An entity that a question names.
struct Named<'q> {
    uid: &'q Uid,
    id: Option<Id>,
    kind: Option<Id>,
}

impl<'q> Named<'q> {
    fn find(
        names: &Names,
        uid: &'q Uid,
        known: Option<&Resolved>,
    ) -> Result<Named<'q>, QueryError> {
        let (id, kind) = match known {
            Some(known) => (known.id, known.kind),
            None => looked_up(names, uid)?,
        };
        Ok(Named { uid, id, kind })
    }

    /// `closure`: if it is known, as it is in this graph.
    fn side<'a>(
        &self,
        graph: Graph<'_>,
        closure: Option<&'a [Id]>,
        set: &'a mut IdSet,
    ) -> Side<'a> {
        let closure = closure.unwrap_or_else(|| {
            let is_given = graph.given.is_some_and(|given| given.is(&self.uid.kind, &self.uid.id));
            graph.close(self.kind, &self.uid.id, self.id, is_given, set);
            set.as_slice()
        });
        Side { id: self.id, kind: self.kind, closure }
    }
}

/// An action or a resource.
fn side<'a>(
    graph: Graph<'_>,
    uid: &Uid,
    known: Option<&'a Resolved>,
    set: &'a mut IdSet,
) -> Result<Side<'a>, QueryError> {
    let named = Named::find(graph.names, uid, known)?;
    let closure = known.and_then(|known| known.closure.as_deref());
    let closure =
        closure.filter(|closure| graph.given.is_none_or(|given| given.is_apart(uid, closure)));
    Ok(named.side(graph, closure, set))
}

/// What matched so far.
#[derive(Default)]
struct Tally {
    /// Whether names are asked for.
    named: bool,
    is_forbidden: bool,
    is_permitted: bool,
    forbids: Vec<PolicyName>,
    permits: Vec<PolicyName>,
    errors: Vec<EvaluationError>,
}

impl Tally {
    fn matched<'p>(&mut self, forbid: bool, policy: impl FnOnce() -> Option<&'p Policy>) {
        let (seen, names) = if forbid {
            (&mut self.is_forbidden, &mut self.forbids)
        } else {
            (&mut self.is_permitted, &mut self.permits)
        };
        *seen = true;
        if self.named {
            names.extend(policy().map(|policy| policy.name.clone()));
        }
    }

    fn effect(&self) -> Effect {
        match (self.is_forbidden, self.is_permitted) {
            (true, _) => Effect::Deny(DenyReason::Forbid),
            (false, true) => Effect::Allow,
            (false, false) => Effect::Deny(DenyReason::NoPermit),
        }
    }

    fn errors(mut self) -> Vec<EvaluationError> {
        self.errors.sort_by(|a, b| a.policy.cmp(&b.policy));
        self.errors
    }

    fn decision(mut self, revision: Revision) -> Decision {
        let effect = self.effect();
        let mut determining = match effect {
            Effect::Deny(DenyReason::Forbid) => std::mem::take(&mut self.forbids),
            Effect::Allow => std::mem::take(&mut self.permits),
            Effect::Deny(DenyReason::NoPermit) => Vec::new(),
        };
        determining.sort();
        Decision { effect, determining, errors: self.errors(), revision }
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
