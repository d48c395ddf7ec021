//! Who may do what, and what someone may do: the index asked from the other side.
//!
//! The policies whose scopes fit the known sides say which entities can be concerned at all; each of
//! those is then judged like a request without a context. What depends on the context is not guessed: it
//! is listed as a condition. Conditions on what is stored are evaluated on what is stored.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use super::World;
use super::children::{Bits, Downward};
use super::closure::{Graph, IdSet};
use super::conditions::Failure;
use super::decide::{Case, Scratch, with_scratch};
use super::explain::{PolicyText, action_text, cut, policy_text, scope_text};
use super::index::{ActionScope, Policy, Scope, Side};
use super::names::Id;
use super::part::{Part, Stored};
use super::path::{PathStep, Reached};
use super::prepared::Prepared;
use crate::decision::{PolicyName, Query, QueryError};
use crate::model::{ItemKey, Kind, Uid};

/// The entity type of roles: they are in no list of principals, unless they are asked for.
const ROLE: &str = "role";

/// Actions that are looked at, where none is named; the first of them by name.
pub const MAX_ACTIONS: usize = 256;

/// Policies that are named in a row, of each sort; the first of them by name.
pub const MAX_NAMED: usize = 100;

/// Entities that are judged for one page at most, so that a page of few ends in time.
const JUDGED: usize = 20_000;

/// An action that nothing names: what is granted to it is granted to every action.
const OTHER: &str = "\u{0}any other";

/// What is asked of [`World::who_can`].
#[derive(Clone, Debug)]
pub struct WhoCan<'a> {
    /// The service whose policies decide; empty: the only one.
    pub service: &'a str,
    /// On what.
    pub resource: &'a Uid,
    /// Does what; none: any action that is known.
    pub action: Option<&'a Uid>,
    /// Only principals of this type; none: of all but roles.
    pub kind: Option<&'a str>,
    /// Seconds since the Unix epoch.
    pub now_unix_s: u64,
}

/// A page of a long list.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    /// What comes after this; none: the first page.
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
}

/// A page of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// In order.
    pub rows: Vec<T>,
    /// Where the next page goes on; none: this is the last.
    pub next: Option<String>,
}

/// Whom a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// Everyone.
    Anyone,
    /// All entities of a type.
    Type(String),
    /// One.
    Entity(Uid),
}

/// Access that somebody has; of each list of policies the first [`MAX_NAMED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub principal: Whom,
    /// What may be done; none: whatever nothing names, too.
    pub actions: Vec<Option<Uid>>,
    /// The permits that give it without any condition of the request; empty: each has one.
    pub by: Vec<Given>,
    /// The permits that give it where their conditions hold.
    pub when: Vec<Given>,
    /// The forbids that take it away where their conditions hold.
    pub unless: Vec<Given>,
}

/// A policy, and how it applies to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The policy.
    pub policy: PolicyName,
    /// The item that it is.
    pub item: ItemKey,
    /// From the principal to the entity that the policy names; empty where it names itself or nobody.
    pub path: Vec<PathStep>,
    /// Its condition, in Cedar; none: it has none, or one that holds as things are stored.
    pub condition: Option<String>,
}

/// A policy that applies to a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The policy, with its text.
    pub policy: PolicyText,
    /// How it came to apply.
    pub given: Given,
    /// Whether it forbids; else it permits.
    pub forbid: bool,
    /// Its action scope, in Cedar.
    pub action: String,
    /// Its resource scope, in Cedar.
    pub resource: String,
    /// When it ends, in seconds since the Unix epoch; none: it does not.
    pub until_unix_s: Option<u64>,
}

/// Somebody who is in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InRole {
    /// Who.
    pub member: Uid,
    /// From there to the role.
    pub path: Vec<PathStep>,
}

/// What a request without a context comes to.
#[derive(Clone, Default)]
struct Verdict<'a> {
    by: Vec<&'a Policy>,
    when: Vec<&'a Policy>,
    unless: Vec<&'a Policy>,
}

impl Verdict<'_> {
    fn is_nothing(&self) -> bool {
        self.by.is_empty() && self.when.is_empty()
    }

    fn same(&self, other: &Verdict<'_>) -> bool {
        let same = |a: &[&Policy], b: &[&Policy]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| std::ptr::eq(*a, *b))
        };
        same(&self.by, &other.by)
            && same(&self.when, &other.when)
            && same(&self.unless, &other.unless)
    }
}

/// A service at a time.
struct View<'a> {
    world: &'a World,
    part: &'a Part,
    graph: Graph<'a>,
    /// Made when it is asked for.
    downward: OnceCell<Downward<'a>>,
    now: u64,
}

impl World {
    fn view<'a>(&'a self, service: &str, now: u64) -> Result<View<'a>, QueryError> {
        let part = self.part_of(service)?;
        let graph = Graph {
            names: &self.inner.names,
            directory: &self.inner.directory.layer,
            service: &part.layer,
            route: self.inner.names.route(),
            now,
            given: None,
        };
        Ok(View { world: self, part, graph, downward: OnceCell::new(), now })
    }

    /// The principals that may do something on a resource: first those who are not named one by one
    /// (`anyone`, all of a type), then by type and id. Forbids are taken into account. A page may have
    /// fewer rows than its limit, even none, and still be followed by another.
    pub fn who_can(
        &self,
        asked: &WhoCan<'_>,
        page: &Cursor<'_>,
    ) -> Result<Found<Access>, QueryError> {
        let view = self.view(asked.service, asked.now_unix_s)?;
        let actions = match asked.action {
            Some(action) => vec![Some(action.clone())],
            None => view.actions(),
        };
        let reach = view.reach(asked);
        let mut rows = Vec::new();
        let after = page.after.map(str::parse::<Uid>).transpose();
        let after = after
            .map_err(|e| QueryError::Value { path: "after".to_owned(), reason: e.to_string() })?;
        if after.is_none() {
            rows = view.unnamed(asked, &actions, &reach)?;
        }
        // Those who are not named come with the first page, whatever its limit.
        let wanted = rows.len().saturating_add(page.limit.clamp(1, JUDGED));
        let mut at = after;
        let mut judged = 0;
        while rows.len() < wanted && judged < JUDGED {
            let stride = (wanted - rows.len()).max(64);
            let candidates = view.first_after(asked, &reach, at.as_ref(), stride);
            let is_last = candidates.len() < stride;
            for id in candidates {
                let uid = view.graph.names.to_uid(id);
                judged += actions.len();
                if let Some(found) = view.of_principal(&uid, asked, &actions)? {
                    rows.extend(found);
                }
                at = Some(uid);
                if rows.len() >= wanted || judged >= JUDGED {
                    break;
                }
            }
            if is_last && rows.len() < wanted && judged < JUDGED {
                return Ok(Found { rows, next: None });
            }
        }
        // Whether anybody is left is seen by looking.
        let more = !view.first_after(asked, &reach, at.as_ref(), 1).is_empty();
        let next = more.then(|| at.map(|uid| uid.to_string()).unwrap_or_default());
        Ok(Found { rows, next })
    }

    /// The policies of a service that apply to a principal, by name.
    pub fn holdings(
        &self,
        service: &str,
        principal: &Uid,
        action: Option<&Uid>,
        now_unix_s: u64,
        page: &Cursor<'_>,
    ) -> Result<Found<Holding>, QueryError> {
        let view = self.view(service, now_unix_s)?;
        let nobody = Uid::action(OTHER);
        let query = Query::new(principal, action.unwrap_or(&nobody), principal)
            .service(service)
            .at(now_unix_s);
        with_scratch(|scratch| {
            let case = Case::new(&self.inner, view.part, &query, Prepared::nothing(), scratch)?;
            let mut held: Vec<(&Stored, &Policy)> = Vec::new();
            view.part.policies.for_each(&mut |stored: &Stored| {
                let Some(policy) = stored.body.policy() else { return };
                let is_after = page.after.is_none_or(|after| &*policy.name > after);
                if is_after
                    && policy.until > now_unix_s
                    && case.ask.principal.matches(policy.principal)
                    && (action.is_none() || case.ask.matches_action(&policy.action))
                {
                    held.push((stored, policy));
                }
            });
            held.sort_by(|a, b| a.1.name.cmp(&b.1.name));
            let is_more = held.len() > page.limit;
            held.truncate(page.limit);
            let names = view.graph.names;
            let rows: Vec<Holding> = held
                .iter()
                .map(|(stored, policy)| Holding {
                    policy: policy_text(names, view.part, stored, policy),
                    given: view.given(principal, policy, policy.condition.is_some()),
                    forbid: policy.forbid,
                    action: action_text(names, &policy.action),
                    resource: scope_text(names, "resource", policy.resource),
                    until_unix_s: (policy.until != super::ends::NEVER).then_some(policy.until),
                })
                .collect();
            let next = is_more.then(|| held.last().map(|(_, policy)| policy.name.to_string()));
            Ok(Found { rows, next: next.flatten() })
        })
    }

    /// Who is in a role, directly or through others, by type and id. Roles are among them.
    pub fn in_role(
        &self,
        service: &str,
        role: &Uid,
        now_unix_s: u64,
        page: &Cursor<'_>,
    ) -> Result<Found<InRole>, QueryError> {
        let view = self.view(service, now_unix_s)?;
        let after = page.after.map(str::parse::<Uid>).transpose();
        let after = after
            .map_err(|e| QueryError::Value { path: "after".to_owned(), reason: e.to_string() })?;
        let Some(target) = view.graph.names.uid(role) else {
            return Ok(Found { rows: Vec::new(), next: None });
        };
        let below = view.downward().below([target]);
        let is_member = |id: Id| id != target && below.get(id);
        let from = after.as_ref().map(|uid| (uid.kind.as_str(), uid.id.as_str()));
        let mut members = view.downward().first(from, page.limit.saturating_add(1), is_member);
        let is_more = members.len() > page.limit;
        members.truncate(page.limit);
        let rows: Vec<InRole> = members
            .into_iter()
            .map(|id| {
                let member = view.graph.names.to_uid(id);
                let path = match self.path(view.graph, view.part, &member, target) {
                    Reached::By(steps) => steps,
                    Reached::Not => Vec::new(),
                };
                InRole { member, path }
            })
            .collect();
        let next = is_more.then(|| rows.last().map(|row| row.member.to_string())).flatten();
        Ok(Found { rows, next })
    }
}

/// Whom the policies that fit a resource can concern.
#[derive(Default)]
struct Reach {
    anyone: bool,
    /// Types of which all entities are.
    types: BTreeSet<Id>,
    /// Those that are named themselves.
    exactly: BTreeSet<Id>,
    /// Those in which one must be.
    below: Bits,
}

impl<'a> View<'a> {
    fn downward(&self) -> &Downward<'a> {
        let children = &self.world.inner.children;
        self.downward.get_or_init(|| children.downward(self.part.name(), self.graph))
    }

    /// The actions that anything knows, and at last the one that nothing names.
    fn actions(&self) -> Vec<Option<Uid>> {
        let mut known: BTreeSet<Uid> = BTreeSet::new();
        let is_action = |kind: &str| kind == "Action" || kind.ends_with("::Action");
        match &self.part.schema {
            Some(schema) => known.extend(schema.actions()),
            None => {
                let names = self.graph.names;
                let of_type = names.entities().filter(|id| is_action(names.text(names.kind(*id))));
                known.extend(of_type.map(|id| names.to_uid(id)));
                for route in self.part.routes.iter() {
                    if route.action.is_some() || route.method != "*" {
                        known.insert(route.action(""));
                    }
                }
            }
        }
        let mut all: Vec<Option<Uid>> = known.into_iter().take(MAX_ACTIONS).map(Some).collect();
        if self.part.schema.is_none() {
            all.push(None);
        }
        all
    }

    fn closure(&self, uid: &Uid, set: &mut IdSet) -> (Option<Id>, Option<Id>) {
        let (id, kind) = match self.graph.names.entity(&uid.kind, &uid.id) {
            Some((id, kind)) => (Some(id), Some(kind)),
            None => (None, self.graph.names.type_id(&uid.kind)),
        };
        self.graph.close(kind, &uid.id, id, false, set);
        (id, kind)
    }

    /// Whom the permits that fit can concern.
    fn reach(&self, asked: &WhoCan<'_>) -> Reach {
        let (mut of_resource, mut of_action) = (IdSet::default(), IdSet::default());
        let (id, kind) = self.closure(asked.resource, &mut of_resource);
        let resource = Side { id, kind, closure: of_resource.as_slice() };
        let action = asked.action.map(|action| {
            let (id, _) = self.closure(action, &mut of_action);
            (id, of_action.as_slice())
        });
        let fits = |scope: &ActionScope| match (&action, scope) {
            (None, _) | (_, ActionScope::Any) => true,
            (Some((id, _)), ActionScope::Eq(named)) => *id == Some(*named),
            (Some((_, closure)), ActionScope::In(named)) => {
                named.iter().any(|id| closure.contains(id))
            }
        };
        let mut reach = Reach::default();
        let mut targets = BTreeSet::new();
        self.part.policies.for_each(&mut |stored: &Stored| {
            let Some(policy) = stored.body.policy() else { return };
            if policy.forbid
                || policy.until <= self.now
                || !resource.matches(policy.resource)
                || !fits(&policy.action)
            {
                return;
            }
            match policy.principal {
                Scope::Any => reach.anyone = true,
                Scope::Is(kind) => {
                    reach.types.insert(kind);
                }
                Scope::Eq(id) => {
                    reach.exactly.insert(id);
                }
                Scope::In(id) | Scope::IsIn(_, id) => {
                    targets.insert(id);
                }
            }
        });
        reach.below = self.downward().below(targets);
        reach
    }

    /// The entities after this one that may be concerned one by one.
    fn first_after(
        &self,
        asked: &WhoCan<'_>,
        reach: &Reach,
        after: Option<&Uid>,
        limit: usize,
    ) -> Vec<Id> {
        let names = self.graph.names;
        let is_asked = |id: Id| match asked.kind {
            Some(kind) => names.text(names.kind(id)) == kind,
            None => names.text(names.kind(id)) != ROLE,
        };
        let after = after.map(|uid| (uid.kind.as_str(), uid.id.as_str()));
        self.downward().first(after, limit, |id| {
            (reach.below.get(id) || reach.exactly.contains(&id)) && is_asked(id)
        })
    }

    /// What one principal may do, grouped by how; none: nothing.
    fn of_principal(
        &self,
        principal: &Uid,
        asked: &WhoCan<'_>,
        actions: &[Option<Uid>],
    ) -> Result<Option<Vec<Access>>, QueryError> {
        let mut groups: Vec<(Verdict<'a>, Vec<Option<Uid>>)> = Vec::new();
        for action in actions {
            let verdict = self.judge(principal, action.as_ref(), asked.resource)?;
            if verdict.is_nothing() {
                continue;
            }
            match groups.iter_mut().find(|(held, _)| held.same(&verdict)) {
                Some((_, of)) => of.push(action.clone()),
                None => groups.push((verdict, vec![action.clone()])),
            }
        }
        let rows = groups.into_iter().map(|(verdict, actions)| {
            let given = |policies: &[&Policy], depends: bool| {
                let first = policies.iter().take(MAX_NAMED);
                first.map(|policy| self.given(principal, policy, depends)).collect()
            };
            Access {
                principal: Whom::Entity(principal.clone()),
                actions,
                by: given(&verdict.by, false),
                when: given(&verdict.when, true),
                unless: given(&verdict.unless, true),
            }
        });
        let rows: Vec<Access> = rows.collect();
        Ok((!rows.is_empty()).then_some(rows))
    }

    /// Those who may do something without being named one by one. Their conditions are not evaluated:
    /// they are about each of them.
    fn unnamed(
        &self,
        asked: &WhoCan<'_>,
        actions: &[Option<Uid>],
        reach: &Reach,
    ) -> Result<Vec<Access>, QueryError> {
        let names = self.graph.names;
        let mut rows = Vec::new();
        let mut whom: Vec<(Whom, Scope)> = Vec::new();
        let mut types = reach.types.clone();
        match &self.part.schema {
            // Then anyone is of one of its types.
            Some(schema) if reach.anyone => {
                for kind in schema.types() {
                    match names.type_id(&kind) {
                        Some(kind) => drop(types.insert(kind)),
                        // No entity of it is named, and no policy names it.
                        None if asked.kind.map_or(kind != ROLE, |asked| asked == kind) => {
                            whom.push((Whom::Type(kind), Scope::Any));
                        }
                        None => {}
                    }
                }
            }
            None if reach.anyone => whom.push((Whom::Anyone, Scope::Any)),
            _ => {}
        }
        for kind in types {
            let text = names.text(kind);
            let is_asked = match asked.kind {
                Some(asked) => asked == text,
                None => text != ROLE,
            };
            if is_asked {
                whom.push((Whom::Type(text.to_owned()), Scope::Is(kind)));
            }
        }
        for (whom, scope) in whom {
            let mut groups: Vec<(Verdict<'a>, Vec<Option<Uid>>)> = Vec::new();
            for action in actions {
                let verdict =
                    self.judge_unnamed((&whom, scope), action.as_ref(), asked.resource)?;
                if verdict.is_nothing() {
                    continue;
                }
                match groups.iter_mut().find(|(held, _)| held.same(&verdict)) {
                    Some((_, of)) => of.push(action.clone()),
                    None => groups.push((verdict, vec![action.clone()])),
                }
            }
            rows.extend(groups.into_iter().map(|(verdict, actions)| {
                let given = |policies: &[&Policy]| {
                    let of = |policy: &&Policy| self.plain(policy, policy.condition.is_some());
                    policies.iter().take(MAX_NAMED).map(of).collect()
                };
                Access {
                    principal: whom.clone(),
                    actions,
                    by: given(&verdict.by),
                    when: given(&verdict.when),
                    unless: given(&verdict.unless),
                }
            }));
        }
        Ok(rows)
    }

    fn judge(
        &self,
        principal: &Uid,
        action: Option<&Uid>,
        resource: &Uid,
    ) -> Result<Verdict<'a>, QueryError> {
        let other = Uid::action(OTHER);
        let query = Query::new(principal, action.unwrap_or(&other), resource)
            .service(self.part.name())
            .at(self.now);
        with_scratch(|scratch| self.judged(&query, scratch))
    }

    fn judged(&self, query: &Query<'_>, scratch: &mut Scratch) -> Result<Verdict<'a>, QueryError> {
        let inner = &self.world.inner;
        let mut case = Case::new(inner, self.part, query, Prepared::nothing(), scratch)?;
        let mut question = case.question()?;
        if let Some(schema) = &self.part.schema {
            if schema.refused().is_some() || question.known_to(schema).is_err() {
                return Ok(Verdict::default());
            }
            // A context that is required is not there: conditions that read it are not evaluated.
            let _ = question.fit(schema);
        }
        let mut verdict = Verdict::default();
        let (mut forbidden, mut conditional) = (false, Vec::new());
        self.part.index.visit(&case.ask, |leaf| {
            let policy = leaf.policy();
            match &policy.condition {
                None if policy.until <= self.now => {}
                None if policy.forbid => forbidden = true,
                None => verdict.by.push(policy),
                Some(condition) => conditional.push((policy, condition.depends_on_request())),
            }
        });
        if forbidden {
            return Ok(Verdict::default());
        }
        let stored: Vec<&Policy> =
            conditional.iter().filter(|(_, depends)| !depends).map(|(policy, _)| *policy).collect();
        for (policy, outcome) in stored.iter().zip(case.evaluate(&question, &stored)) {
            match outcome {
                Ok(true) if policy.forbid => return Ok(Verdict::default()),
                Ok(true) => verdict.by.push(policy),
                // Cedar skips a policy that fails.
                Ok(false) | Err(Failure::Error(_)) => {}
                Err(Failure::Undecided(_)) => conditional.push((policy, true)),
            }
        }
        for (policy, depends) in conditional {
            match (depends, policy.forbid) {
                (false, _) => {}
                (true, true) => verdict.unless.push(policy),
                (true, false) => verdict.when.push(policy),
            }
        }
        sorted(&mut verdict);
        Ok(verdict)
    }

    /// What a request of one who is nobody in particular comes to: only policies about everyone, or about
    /// all of the type, are looked at. Forbids that are about some of them do not count: those are found
    /// one by one by asking for them.
    fn judge_unnamed(
        &self,
        (whom, scope): (&Whom, Scope),
        action: Option<&Uid>,
        asked_resource: &Uid,
    ) -> Result<Verdict<'a>, QueryError> {
        let (mut of_resource, mut of_action) = (IdSet::default(), IdSet::default());
        let (id, kind) = self.closure(asked_resource, &mut of_resource);
        let resource = Side { id, kind, closure: of_resource.as_slice() };
        let other = Uid::action(OTHER);
        let (action_id, _) = self.closure(action.unwrap_or(&other), &mut of_action);
        let actions = of_action.as_slice();
        let mut verdict = Verdict::default();
        if let (Some(schema), Whom::Type(kind)) = (&self.part.schema, whom)
            && (schema.refused().is_some()
                || !schema.applies(kind, action.unwrap_or(&other), asked_resource))
        {
            return Ok(verdict);
        }
        let mut forbidden = false;
        self.part.policies.for_each(&mut |stored: &'a Stored| {
            let Some(policy) = stored.body.policy() else { return };
            let fits_action = match &policy.action {
                ActionScope::Any => true,
                ActionScope::Eq(id) => action_id == Some(*id),
                ActionScope::In(ids) => ids.iter().any(|id| actions.contains(id)),
            };
            // Who is anyone is of no type that is known.
            let about_all = policy.principal == Scope::Any || policy.principal == scope;
            if policy.until <= self.now || !fits_action || !resource.matches(policy.resource) {
                return;
            }
            match (policy.forbid, policy.condition.is_some()) {
                (true, false) if about_all => forbidden = true,
                (true, _) => verdict.unless.push(policy),
                (false, false) if about_all => verdict.by.push(policy),
                (false, true) if about_all => verdict.when.push(policy),
                (false, _) => {}
            }
        });
        if forbidden {
            return Ok(Verdict::default());
        }
        sorted(&mut verdict);
        Ok(verdict)
    }

    fn given(&self, principal: &Uid, policy: &Policy, depends: bool) -> Given {
        let path = match policy.principal {
            Scope::In(id) | Scope::IsIn(_, id) => {
                match self.world.path(self.graph, self.part, principal, id) {
                    Reached::By(steps) => steps,
                    Reached::Not => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        Given { path, ..self.plain(policy, depends) }
    }

    /// Without a path.
    fn plain(&self, policy: &Policy, depends: bool) -> Given {
        let kind = self.part.named(&policy.name).map_or(Kind::Policy, |stored| stored.kind);
        let condition = policy.condition.as_ref().filter(|_| depends);
        Given {
            policy: policy.name.clone(),
            item: ItemKey::new(&**self.part.name(), kind, &*policy.name),
            path: Vec::new(),
            condition: condition.map(|condition| cut(condition.text())),
        }
    }
}

fn sorted(verdict: &mut Verdict<'_>) {
    for list in [&mut verdict.by, &mut verdict.when, &mut verdict.unless] {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
